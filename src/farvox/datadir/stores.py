"""Data dirs and embeddings in an object store: brought into the cache as a whole, and put up as a whole.

A file that marks a set as whole (`MARKS`) is put up last, and goes first when others take the place of its
set: so a reader that finds it, and nothing changed when all is fetched, has a whole set. Audio stays where it
is, and is read by ranges (`farvox.audio.remote`).
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from farvox.atomic import atomic_dir, discard, file_name, sha256_of, visible, write_json
from farvox.audio.remote import ORIGIN, get_file, list_files, put_file, remove_file
from farvox.cache import cache_path
from farvox.datadir.embeddings import OWN_FILES
from farvox.errors import AudioError, DataDirError, FarvoxError
from farvox.parsing import read_record
from farvox.writers import one_writer

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "az")
MARKS = ("wav.scp", "meta.json")
"""The file of a data dir, and of embeddings, without which it is not whole."""

_BEGUN = ".unfinished"  # in a store, where an output is being made
_OF_SETS = re.compile(r"(meta|parts)\.json|[^./]+(\.scp|\.txt|\.tsv|\.npy)?")  # no audio, no tables of shards
_RELATIVE = re.compile(rb"^(\S+[ \t]+)(?!/|[A-Za-z][A-Za-z0-9+.-]+:/)([^\r\n]*[^\s|])[ \t\r]*$", re.MULTILINE)
_TRIES = 5  # to fetch a set that changes meanwhile


def address_of(path: str | Path) -> str:
    """The URL that a folder of `fetched` or `staged` stands for; any other path as it is."""
    is_ours = Path(path).parent.parent == cache_path() / "stores"
    return str(read_record(_record_of(Path(path))).get("url", path)) if is_ours else str(path)


def fetched(url: str) -> Path:
    """A copy in the cache of a data dir, without its audio, or of embeddings; one folder for one URL.

    What has changed in the store is fetched again. Relative audio paths in it become URLs below ``url``.

    Raises:
        AudioError: the store does not answer, or denies access.
        DataDirError: there is neither, or it is not whole.
    """
    folder = _place(url, "read")
    with one_writer(folder, wait=True):
        _fetch(url, folder)
    return folder


def staged(url: str) -> Path:
    """A folder in the cache that stands for embeddings in a store, which a verb is to write.

    It holds the embeddings that are there, if they are whole.

    Raises:
        AudioError: the store does not answer, or denies access, also for writing; or there is no such bucket.
        FarvoxError: the folder in the store holds other things.
    """
    folder = _place(url, "write")
    there = list_files(url)
    if any(not name.startswith(".") for name in there) and not there.keys() & set(OWN_FILES):
        raise FarvoxError(
            f"{url}: holds other things (none of {', '.join(OWN_FILES)}); it is not replaced: choose another "
            "name, or empty it first"
        )
    with one_writer(folder):
        record = _record_of(folder)
        write_json(record, {"put": read_record(record).get("put", {}), "url": url})
        try:
            put_file(str(record), f"{url}/{_BEGUN}")  # now, not after hours, it shows whether that is allowed
        except AudioError as error:
            raise type(error)(str(error).replace(f"{url}/{_BEGUN}", url)) from None
        if there.keys() & set(MARKS):
            _fetch(url, folder)
        else:
            discard(folder)
    return folder


def put_up(folder: str | Path) -> None:
    """Put the files of a folder of `staged` into its store, and remove it; nothing for any other folder.

    If it is interrupted, the next time puts up what is not there yet. Errors of the store as `staged`.
    """
    folder, url = Path(folder), address_of(folder)
    if url == str(folder):
        return
    record = _record_of(folder)
    put = read_record(record).get("put", {})  # name -> SHA-256 here, version there
    there = list_files(url)
    sums = {each.name: sha256_of(each) for each in visible(folder) if each.is_file()}
    marks = [name for name in MARKS if name in sums]
    todo = [name for name in sorted(sums) if put.get(name) != [sums[name], there.get(name, "")]]
    outdated = [name for name in there if name not in sums and not name.startswith(".") and name[-1] != "/"]
    for name in there.keys() & set(MARKS):
        remove_file(f"{url}/{name}")
    for name in [name for name in todo if name not in marks]:
        put_file(str(folder / name), f"{url}/{name}")
        put[name] = [sums[name], list_files(url).get(name, "")]
        write_json(record, {"put": put, "url": url})
    for name in outdated:
        remove_file(f"{url}/{name}")
    for name in marks:
        put_file(str(folder / name), f"{url}/{name}")
    remove_file(f"{url}/{_BEGUN}")
    discard(folder)
    record.unlink(missing_ok=True)


def _place(url: str, why: str) -> Path:
    if url.partition("://")[0] not in SCHEMES:
        raise DataDirError(f"{url}: is in no object store ({', '.join(SCHEMES)}); copy it, and name the copy")
    return cache_path() / "stores" / why / file_name(url)


def _record_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _fetch(url: str, folder: Path) -> None:
    """Bring the files of a set into a folder, unless they are there as they are in the store."""
    there = _files_of(url)
    record = _record_of(folder)
    known = read_record(record)
    if known.get("files") == there and folder.is_dir():
        return
    write_json(record, {**known, "files": {}, "url": url})
    with atomic_dir(folder, own_files=MARKS) as temporary:
        for _ in range(_TRIES):
            for name in there:
                get_file(f"{url}/{name}", str(temporary / name))
            before, there = there, _files_of(url)
            if there == before:
                break
            for each in visible(temporary):
                each.unlink()
        else:
            raise DataDirError(f"{url}: changes while it is read; start again when it is written")
        if (listing := temporary / "wav.scp").is_file():
            listing.write_bytes(_RELATIVE.sub(lambda line: _absolute(url, line), listing.read_bytes()))
    write_json(record, {**known, "files": there, "url": url})


def _files_of(url: str) -> dict[str, str]:
    """The files of a set in a store, with their versions."""
    found = {name: version for name, version in list_files(url).items() if _OF_SETS.fullmatch(name)}
    if not found.keys() & set(MARKS):
        raise DataDirError(
            f"{url}: no data dir and no embeddings (no {' and no '.join(MARKS)}), or no such bucket; correct "
            "the address, or wait until it is whole: these files come last"
        )
    return found


def _absolute(url: str, line: re.Match[bytes]) -> bytes:
    """A line of wav.scp with the URL of its audio."""
    found = re.match(ORIGIN, url)
    assert found is not None
    path = posixpath.normpath(f"{url[found.end() :]}/".encode() + line[2])
    return line[1] + found[1].encode() + b"/" + path.lstrip(b"/")
