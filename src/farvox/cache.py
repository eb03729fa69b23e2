"""The cache: folders that can be computed again; several processes may ask for one at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from platformdirs import user_cache_path

from farvox.atomic import atomic_dir, discard, sha256_of, visible
from farvox.errors import BusyError, CacheError, FarvoxError
from farvox.writers import one_writer

DONE = "files.txt"
"""The file of a cached folder that lists what it was made of; it is written last."""

FINGERPRINT = "FARVOX_FINGERPRINT"
"""Environment variable: ``digest`` makes `file_state` look at contents."""


def cache_path() -> Path:
    """The folder of the cache: ``FARVOX_CACHE``, or the user's cache folder."""
    return Path(os.environ.get("FARVOX_CACHE") or user_cache_path("farvox")).expanduser()


def file_state(path: str | Path) -> str:
    """Size and time of change of a file, which differ when another file replaces it.

    Where ``FARVOX_FINGERPRINT`` is ``digest`` the SHA-256 of its content takes the place of the time, for
    files that are copied without their times; each is then read whole.

    Raises:
        OSError: there is no such file.
    """
    found = os.stat(path)
    by_content = os.environ.get(FINGERPRINT) == "digest"
    return f"{found.st_size}\t{sha256_of(path) if by_content else found.st_mtime_ns}"


def cached_folder(
    kind: str,
    name: str,
    files: Iterable[str | Path],
    build: Callable[[Path], None],
    *,
    state_of: Callable[[str], str] = file_state,
) -> Path:
    """A folder below `cache_path` computed from some files, and again when one of them has changed.

    One process computes it while others wait.

    Args:
        kind: parent folder, of all entries of this kind.
        name: of the content and its settings; entries of this name for other states of the same files are
            removed.
        files: the content is computed from them.
        build: writes the content into the folder that it is called with.
        state_of: path -> a text that differs when the file has changed.

    Raises:
        CacheError: the cache cannot be written, or the disk is full.
        OSError: one of the files is not there.
    """
    paths = [os.fspath(path) for path in files]
    states = [f"{path}\t{state_of(path)}\n" for path in paths]
    which = _digest([name, *paths])
    folder = cache_path() / kind / f"{which}-{_digest(states)}"
    if (folder / DONE).is_file():
        return folder
    try:
        with one_writer(folder.with_name(which), wait=True):
            if not (folder / DONE).is_file():
                for stale in visible(folder.parent, f"{which}-*"):
                    discard(stale)
                with atomic_dir(folder, own_files=(DONE,)) as temporary:
                    build(temporary)
                    text = f"{name}\n{''.join(states[:100])}"
                    (temporary / DONE).write_bytes(text.encode(errors="surrogateescape"))
    except OSError as error:
        raise CacheError(f"{folder.parent}: cannot be written: {error}") from error
    except FarvoxError as error:
        if type(error) in (FarvoxError, BusyError):  # of the cache; those of ``build`` have other classes
            raise CacheError(str(error)) from error
        raise
    return folder


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=10)
    for part in parts:
        digest.update(part.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()
