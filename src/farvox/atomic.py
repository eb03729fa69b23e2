"""Files and folders that are written whole or not at all.

The new content is written under a temporary name beside its destination, is flushed to the disk, and takes
the place of the old at one moment. A reader, and whoever comes after a kill, finds the old or the new, never
a part. Names of what is not finished begin with a dot; nothing that does is ever read as data (`visible`).

The name of a temporary file or folder holds the machine and the process, which keeps it locked while it
lives: what dead processes have left is known for certain, and removed by the next writer (`remove_stale`).
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

from farvox.errors import FarvoxError

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # no room at all, none for this user
_FULL_WORDS = (os.strerror(errno.ENOSPC), " requested and ")  # of polars and numpy, which give no number
# Files of folders that farvox made and may replace.
OWN_FILES = ("config.json", "meta.json", "wav.scp")
PLAIN_NAME = r"^[A-Za-z0-9_~-](?:[A-Za-z0-9_.~-]{0,198}[A-Za-z0-9_~-])?$"
"""Pattern of the ids that `file_name` leaves as they are; for Python and polars."""

INCOMING = ".incoming"
"""Folder, in one of which some files are replaced together, of the new ones."""
_OUTDATED = ".outdated"  # a file in there: the names of the files that go
_ASIDE = re.compile(r"\.(?P<kind>tmp|old|mix)-(?P<tag>[0-9a-f]{12})-(?P<pid>\d+)-[0-9a-f]{8}-")  # and a name
_BOOT = "/proc/sys/kernel/random/boot_id"  # of Linux
_CERTAIN = 60.0  # seconds after which a process that is there is no longer that of an unlocked file
_NO_SWAP = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # of a system or file system that cannot

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
def atomic_file(path: str | Path, kind: FileKind | None = None, *, first: bool = False) -> Iterator[Path]:
    """Yield a temporary path; it becomes ``path`` when the block ends, and is removed if it raises.

    The temporary name keeps the suffix of ``path`` (writers choose a format by it). Parent folders
    are made. If ``path`` is a symbolic link, the file it points to is replaced and the link stays. A file
    that is replaced leaves its permissions to the new one.

    Args:
        path: the file to write.
        kind: see `refuse_to_replace`.
        first: a file that another process puts there meanwhile stays, where the file system has links.

    Raises:
        FarvoxError: the system refuses to write there, or `refuse_to_replace` does.
    """
    refuse_to_replace(path, kind)
    with naming(path):
        final = _destination(path)
        with temporary_beside(final, is_folder=False) as temporary:
            yield temporary
            _flush(temporary)
            if final.exists():
                shutil.copymode(final, temporary)
            if not (first and _link_first(temporary, final)):
                os.replace(temporary, final)
            _flush(final.parent)


def _link_first(temporary: Path, final: Path) -> bool:
    """Give a file its name unless another has it; False where the file system has no links."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def atomic_dir(path: str | Path, *, own_files: Sequence[str] = OWN_FILES) -> Iterator[Path]:
    """Yield a temporary folder; it becomes ``path`` when the block ends, and is removed if it raises.

    An existing folder and the new one change places at one moment, where the system can do that.

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
        with temporary_beside(final) as temporary:
            yield temporary
            put_in_place(temporary, final)


@contextmanager
def atomic_update(path: str | Path, is_outdated: Callable[[str], bool]) -> Iterator[Path]:
    """Yield a temporary folder; its files become files of ``path`` together when the block ends.

    All else that is in ``path`` stays, but for files that ``is_outdated`` is true of. As a rule the folder is
    swapped for one that has both; folders in it, which cannot be in two places, are links at first, and then
    change places with them (`_take_folders`). Where the system cannot swap, or the folder or one in it cannot
    be moved, the new files come into it one by one, from the folder `INCOMING`; `complete_update` ends what a
    kill interrupts. Callers hold `farvox.writers.one_writer`.

    Raises:
        FarvoxError: ``path`` is a file, or the system refuses.
    """
    with naming(path):
        final = _destination(path)
        if final.exists() and not final.is_dir():
            raise FarvoxError(f"{path}: is a file, and a folder is to be written there; choose another name")
        complete_update(final)
        inside = [each for each in final.iterdir() if _is_folder(each)] if final.exists() else []
        is_fixed = final.exists() and (os.path.ismount(final) or not os.access(final.parent, os.W_OK))
        is_fixed = is_fixed or any(os.path.ismount(each) or not os.access(each, os.W_OK) for each in inside)
        beside, kind = (final / INCOMING, "tmp") if is_fixed else (final, "mix" if final.exists() else "tmp")
        with temporary_beside(beside, kind=kind) as temporary:
            yield temporary
            new, there = set(os.listdir(temporary)), sorted(final.iterdir()) if final.exists() else []
            old = {each.name: each for each in there if each.is_file() and is_outdated(each.name)}
            folders = list(filter(_is_folder, there))
            for each in () if is_fixed else there:
                if each in folders:
                    (temporary / each.name).symlink_to(Path("..", temporary.name, each.name))
                elif each.name not in new and each.name not in old:
                    _link(each, temporary / each.name)
            if not is_fixed and put_in_place(temporary, final, must_swap=bool(folders)):
                return
            for name in set(os.listdir(temporary)) - new:
                (temporary / name).unlink()
            (temporary / _OUTDATED).write_bytes(b"\0".join(map(os.fsencode, sorted(old.keys() - new))))
            put_in_place(temporary, final / INCOMING)
            complete_update(final)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _take_folders(old: Path, final: Path) -> None:
    """Put the folders of ``old``, which has changed places with ``final``, in the places of links to them."""
    for link in list(final.iterdir()) if final.is_dir() else ():
        is_link = link.is_symlink() and link.readlink() == Path("..", old.name, link.name)
        if is_link and not _exchange(old / link.name, link):
            link.unlink()
            (old / link.name).rename(link)


def complete_update(folder: Path) -> None:
    """Put the files of ``folder/.incoming``, if it is there, in their places: it appears when it is whole."""
    incoming = folder / INCOMING
    if not incoming.is_dir():
        return
    for source in sorted(each for each in incoming.iterdir() if each.name != _OUTDATED):
        place = folder / source.name
        if not place.is_file() or not filecmp.cmp(source, place, shallow=False):
            with temporary_beside(place, is_folder=False) as temporary:
                shutil.copyfile(source, temporary)
                _flush(temporary)
                os.replace(temporary, place)
    for name in filter(None, (incoming / _OUTDATED).read_bytes().split(b"\0")):
        (folder / os.fsdecode(name)).unlink(missing_ok=True)
    _flush(folder)
    discard(incoming)


@contextmanager
def temporary_beside(final: Path, *, is_folder: bool = True, kind: str = "tmp") -> Iterator[Path]:
    """Yield a new file or folder with a temporary name beside ``final``; what is left of it is removed."""
    temporary = _named_aside(final, kind)
    if is_folder:
        temporary.mkdir()
    else:
        temporary.touch(exist_ok=False)
    handle = os.open(temporary, os.O_RDONLY)
    try:
        try_lock(handle)
        yield temporary
    finally:
        if kind == "mix":
            _take_folders(temporary, final)
        discard(temporary)
        os.close(handle)


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there; a folder goes at one moment, whatever is in it."""
    if path.is_dir() and not path.is_symlink():
        aside = path if path.name.startswith(".tmp-") else _named_aside(path, "tmp")
        if aside != path:
            path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_stale(folder: Path, *, deep: bool = False, anywhere: bool = False) -> None:
    """Remove what dead processes of this machine have left unfinished in a folder, or at any depth below it.

    A folder that one of them had moved away, to put another in its place, is put back.

    Args:
        anywhere: also what processes of other machines have left, all of which are known to be dead.
    """
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            match = _ASIDE.match(name)
            is_foreign = match and not is_of_this_machine(match["tag"])
            if match and (anywhere if is_foreign else _is_stale(Path(path, name), match)):
                with suppress(OSError):  # another process has just done so
                    final = os.path.join(path, name[match.end() :])
                    if match["kind"] == "old" and not os.path.lexists(final):
                        os.rename(os.path.join(path, name), final)
                        continue
                    if match["kind"] == "mix":
                        _take_folders(Path(path, name), Path(final))
                    discard(Path(path, name))
        folders[:] = [name for name in folders if deep and not name.startswith(".")]


def _is_stale(path: Path, match: re.Match[str]) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:  # the lock tells, but for the moment after a file is made
        is_old = time.time() - os.fstat(handle).st_mtime > _CERTAIN
        return try_lock(handle) is True and (is_old or not is_alive(int(match["pid"])))
    finally:
        os.close(handle)


def try_lock(handle: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder until it is closed or this process ends, however that ends.

    Returns:
        False where another process has it; None where the file system has no locks.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def is_alive(pid: int) -> bool:
    """A process of this machine has this number, and has not ended.

    One that was killed keeps its number until its parent, or the one that took it over, asks for its status.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    with suppress(OSError, IndexError):  # of Linux
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    return True


@cache
def machine_tag() -> str:
    """Twelve hexadecimal digits: six for the name of this machine, six for the time since it was started."""
    host = os.uname().nodename
    boot = host
    with suppress(OSError):
        boot = Path(_BOOT).read_text("utf-8")
    return "".join(hashlib.blake2b(text.encode(), digest_size=3).hexdigest() for text in (host, boot))


def is_of_this_machine(tag: str) -> bool:
    """A process of that tag runs, or ran, on this machine: by its name, or by its start (containers)."""
    mine = machine_tag()
    return tag[:6] == mine[:6] or tag[6:] == mine[6:]


def visible(folder: str | Path, pattern: str = "*") -> list[Path]:
    """Files and folders of a folder by a pattern, as `Path.glob`, in order; without hidden ones.

    Every search for data goes through it, or through `farvox.corpora.parts.walk`.
    """
    found = sorted(Path(folder).glob(pattern))
    return [
        path for path in found if not any(name.startswith(".") for name in path.relative_to(folder).parts)
    ]


def write_text(path: str | Path, text: str, kind: FileKind | None = None) -> None:
    """Write ``text`` as UTF-8 with its line ends as they are, whole or not at all; as `atomic_file`."""
    with atomic_file(path, kind) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: str | Path, obj: object, kind: FileKind | None = None, *, first: bool = False) -> None:
    """Write ``obj`` as `json_text`, as `atomic_file`; what is not UTF-8 in a path is escaped."""
    with atomic_file(path, kind, first=first) as temporary:
        temporary.write_bytes(f"{json_text(obj)}\n".encode(errors="backslashreplace"))


def json_text(obj: object, indent: int | None = 2) -> str:
    """JSON as its standard has it, in one line without ``indent``: numbers not finite become ``null``."""
    try:
        return json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(obj), parse_constant=lambda name: None)
        return json.dumps(finite, indent=indent, ensure_ascii=False)


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


def url_of(path: str | Path) -> str:
    """The URL that a path was made from, of which `Path` keeps one slash; empty for any other path."""
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+?)/*", str(path))
    return f"{found[1]}://{found[2]}" if found else ""


def refuse_url(path: str | Path) -> None:
    """Refuse a URL where a path is needed, before a folder ``s3:`` is made.

    Raises:
        FarvoxError: it is one.
    """
    if url := url_of(path):
        raise FarvoxError(f"{url}: is a URL, and a path of this machine is needed here; name that of a copy")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn errors of the system (a full disk, no permission, ...) into one that names ``path``.

    Raises:
        FarvoxError: the system refuses, or it is a URL.
    """
    refuse_url(path)
    try:
        yield
    except OSError as error:
        is_full = error.errno in _FULL or any(words in str(error) for words in _FULL_WORDS)
        why = "the disk is full: free some space on it" if is_full else error
        final = _ASIDE.sub("", str(path))  # of a file in an unfinished folder
        raise FarvoxError(f"{final}: cannot be written: {why}") from error


def _destination(path: str | Path) -> Path:
    final = Path(os.path.realpath(path))
    final.parent.mkdir(parents=True, exist_ok=True)
    return final


def _named_aside(final: Path, kind: str) -> Path:
    """A name for what is to be, or was, ``final``."""
    name = final.name[-48:] if kind == "tmp" else final.name  # which is needed to put it back
    return final.with_name(f".{kind}-{machine_tag()}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{name}")


def put_in_place(temporary: Path, final: Path, *, must_swap: bool = False) -> bool:
    """Give a folder its final name at one moment; an earlier one there goes.

    Returns:
        False where the two must change places for that, and the system cannot do it: nothing was done.
    """
    for file in temporary.rglob("*"):
        if not file.is_symlink():
            _flush(file)
    if not final.exists():
        _flush(temporary)
        os.rename(temporary, final)
    else:
        shutil.copymode(final, temporary)
        _flush(temporary)
        before = os.open(final, os.O_RDONLY)
        try:
            try_lock(before)
            if not _exchange(temporary, final):
                if must_swap:
                    return False
                retired = _named_aside(final, "old")  # `remove_stale` puts it back after a kill
                os.rename(final, retired)
                try:
                    os.rename(temporary, final)
                except OSError:
                    os.rename(retired, final)
                    raise
                os.rename(retired, temporary)
            elif must_swap:
                _take_folders(temporary, final)
        finally:
            os.close(before)
    _flush(final.parent)
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names; False where the system or the file system cannot do that at once."""
    import ctypes

    library, names = ctypes.CDLL(None, use_errno=True), (os.fsencode(one), os.fsencode(other))
    try:
        if sys.platform == "darwin":
            status = library.renamex_np(*names, 2)  # RENAME_SWAP
        else:
            status = library.renameat2(-100, names[0], -100, names[1], 2)  # AT_FDCWD, RENAME_EXCHANGE
    except AttributeError:
        return False
    if status and ctypes.get_errno() not in _NO_SWAP:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))
    return not status


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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
    others = (each for each in final.iterdir() if not each.name.startswith((".tmp-", ".lock-")))
    if any(others) and not any((final / name).exists() for name in own_files):
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
