"""Files and folders that are written whole or not at all.

The new content is written under a temporary name beside its destination, is flushed to the disk, and
gets its final name by a rename. A reader sees the old content or the new, never a part.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from farvox.errors import FarvoxError

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # no room at all, none for this user
_FULL_WORDS = (os.strerror(errno.ENOSPC), " requested and ")  # of polars and numpy, which give no number
# Files of folders that farvox made and may replace.
OWN_FILES = ("config.json", "meta.json", "wav.scp")
PLAIN_NAME = r"^[A-Za-z0-9_~-](?:[A-Za-z0-9_.~-]{0,198}[A-Za-z0-9_~-])?$"
"""Pattern of the ids that `file_name` leaves as they are; for Python and polars."""

_HEAD = 65536  # bytes of a file that tell its kind
_OF_DATA_DIRS = re.compile(r"segments|text|(utt|spk|reco)2.*|.*\.scp|.*_map")  # never a verb's OUT


@dataclass(frozen=True)
class FileKind:
    """Files of one kind: a verb that writes such a file replaces no other.

    Attributes:
        name: of one, for messages.
        pattern: of the file's beginning; with ``lines`` of each of its lines, without the line end.
        lines: the file is text of such lines.
    """

    name: str
    pattern: bytes
    lines: bool = False

    def matches(self, path: str | Path) -> bool:
        """True for a file of this kind, told by its first 64 KB, and for an empty one."""
        with open(path, "rb") as file:
            head = file.read(_HEAD)
        if not self.lines:
            return not head or re.match(self.pattern, head, re.DOTALL) is not None
        lines = head.split(b"\n")
        if len(head) == _HEAD or not lines[-1]:  # the last line may be cut, or there is none
            lines.pop()
        fits = re.compile(self.pattern).fullmatch
        return not head or (bool(lines) and all(fits(line.removesuffix(b"\r")) for line in lines))


def refuse_to_replace(
    path: str | Path, kind: FileKind | None = None, inputs: Iterable[str | Path | None] = ()
) -> None:
    """Refuse to write the file ``path`` where that would destroy something else; verbs ask before any work.

    Args:
        path: the file to write; if it is a symbolic link, the file it points to is meant.
        kind: what is to be written, and may be replaced; None: any file may be.
        inputs: what it is made from, which is never replaced.

    Raises:
        FarvoxError: it is one of ``inputs``, of another kind, write-protected, a folder or a device; or part
            of what farvox keeps as a whole: the graph of a model folder, or in a folder of embeddings.
    """
    folder, name = os.path.split(os.path.realpath(path))
    if kind and os.path.exists(os.path.join(folder, "embeddings.npy")):
        raise FarvoxError(
            f"{path}: a folder of embeddings is replaced as a whole, with it; give another name"
        )
    if kind and name == "graph.onnx" and os.path.exists(os.path.join(folder, "config.json")):
        raise FarvoxError(f"{path}: is the graph that the model of its folder computes by; give another name")
    with naming(path):
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        where = f"{path} (a link to {os.path.realpath(path)})" if os.path.islink(path) else f"{path}"
        if stat.S_ISDIR(mode):
            raise FarvoxError(f"{where}: is a folder, and a file is to be written there; choose another name")
        if not stat.S_ISREG(mode):
            raise FarvoxError(
                f"{where}: is a device or a pipe, which is not replaced; give the name of a file"
            )
        if any(each and os.path.exists(each) and os.path.samefile(each, path) for each in inputs):
            raise FarvoxError(f"{where}: is an input of this command, and is not replaced; give another name")
        if kind and (_OF_DATA_DIRS.fullmatch(os.path.basename(path)) or not kind.matches(path)):
            raise FarvoxError(
                f"{where}: is no {kind.name}, and is not replaced by one; remove it, or give another name"
            )
        if not mode & 0o222:
            raise FarvoxError(
                f"{where}: is write-protected, and is not replaced; remove it, or give another name"
            )


@contextmanager
def atomic_file(path: str | Path, kind: FileKind | None = None) -> Iterator[Path]:
    """Yield a temporary path; it becomes ``path`` when the block ends, and is removed if it raises.

    The temporary name keeps the suffix of ``path`` (writers choose a format by it). Parent folders
    are made. If ``path`` is a symbolic link, the file it points to is replaced and the link stays. A file
    that is replaced leaves its permissions to the new one.

    Args:
        path: the file to write.
        kind: see `refuse_to_replace`.

    Raises:
        FarvoxError: the system refuses to write there, or `refuse_to_replace` does.
    """
    refuse_to_replace(path, kind)
    with naming(path):
        final = _destination(path)
        temporary = _beside(final)
        try:
            yield temporary
            _flush(temporary)
            if final.exists():
                shutil.copymode(final, temporary)
            os.replace(temporary, final)
            _flush(final.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


@contextmanager
def atomic_dir(path: str | Path, *, own_files: Sequence[str] = OWN_FILES) -> Iterator[Path]:
    """Yield a temporary folder; it becomes ``path`` when the block ends, and is removed if it raises.

    Args:
        path: the folder to make. An existing one is replaced as a whole.
        own_files: an existing folder that is not empty is replaced only if it holds one of these, so
            that a mistyped destination never deletes other work.

    Raises:
        FarvoxError: ``path`` is a file, or a folder with other things in it, or the system refuses.
    """
    with naming(path):
        refuse_to_replace_foreign(path, own_files)
        final = _destination(path)
        temporary = _beside(final)
        temporary.mkdir()
        try:
            yield temporary
            for file in temporary.rglob("*"):
                _flush(file)
            _flush(temporary)
            if final.exists():
                retired = _beside(final)
                os.rename(final, retired)
                try:
                    os.rename(temporary, final)
                except OSError:
                    os.rename(retired, final)
                    raise
                shutil.rmtree(retired, ignore_errors=True)
            else:
                os.rename(temporary, final)
            _flush(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str, kind: FileKind | None = None) -> None:
    """Write ``text`` as UTF-8 with its line ends as they are, whole or not at all; as `atomic_file`."""
    with atomic_file(path, kind) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: str | Path, obj: object, kind: FileKind | None = None) -> None:
    """Write ``obj`` as `json_text`, as `atomic_file`; what is not UTF-8 in a path is escaped."""
    write_text(path, json_text(obj).encode(errors="backslashreplace").decode() + "\n", kind)


def json_text(obj: object) -> str:
    """Indented JSON as its standard has it: a number that is not finite becomes ``null``."""
    try:
        return json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(obj), parse_constant=lambda name: None)
        return json.dumps(finite, indent=2, ensure_ascii=False)


def file_name(name: str) -> str:
    """Turn an id of any characters into the name of one file or folder, without its suffix.

    It is ASCII, at most 200 characters, never hidden, and no path; two ids never share one. Ids of letters,
    digits and ``_ . - ~`` keep their name, unless they begin or end with a dot; others are percent-encoded.
    """
    if re.fullmatch(PLAIN_NAME, name):
        return name
    quoted = quote(name, safe="", errors="surrogatepass")
    quoted = re.sub(r"^\.|\.$", "%2E", quoted) or "%"
    if len(quoted) <= 200:
        return quoted
    return f"{quoted[:135]}%-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:60]}"


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn errors of the system (a full disk, no permission, ...) into one that names ``path``."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in _FULL or any(words in str(error) for words in _FULL_WORDS)
        why = "the disk is full: free some space on it" if is_full else error
        final = re.sub(r"\.tmp-[0-9a-f]{12}-", "", str(path))  # of a file in an unfinished folder
        raise FarvoxError(f"{final}: cannot be written: {why}") from error


def _destination(path: str | Path) -> Path:
    final = Path(os.path.realpath(path))
    final.parent.mkdir(parents=True, exist_ok=True)
    return final


def _beside(final: Path) -> Path:
    return final.with_name(f".tmp-{uuid.uuid4().hex[:12]}-{final.name[-64:]}")


def refuse_to_replace_foreign(path: str | Path, own_files: Sequence[str] = OWN_FILES) -> None:
    """Refuse a folder that `atomic_dir` would refuse, before hours of work.

    Raises:
        FarvoxError: ``path`` is a file, or a folder that is not empty and holds none of ``own_files``, or it
            is not UTF-8, as text files that name files in it must be.
    """
    final = Path(os.path.realpath(path))
    refuse_other_encoding(final)
    if not final.exists():
        return
    if not final.is_dir():
        raise FarvoxError(f"{final}: is a file, and a folder is to be written there; choose another name")
    if any(final.iterdir()) and not any((final / name).exists() for name in own_files):
        raise FarvoxError(
            f"{final}: holds other things (none of {', '.join(own_files)}); it is not replaced: "
            "choose another name, or empty it first"
        )


def refuse_other_encoding(path: Path) -> None:
    """Refuse a path that is not UTF-8, and could not be written into a text file.

    Raises:
        FarvoxError: it is none.
    """
    try:
        os.path.realpath(path).encode()
    except UnicodeEncodeError:
        raise FarvoxError(f"{path}: its path is not UTF-8; choose another name or folder") from None


def _flush(path: Path) -> None:
    """Make the system write a file, or the entries of a folder, to the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
