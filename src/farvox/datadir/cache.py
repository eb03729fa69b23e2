"""What can be made again is kept in one folder of the user's; several processes may ask for it at once."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_path

from farvox.atomic import atomic_dir
from farvox.datadir.shards import state_of
from farvox.errors import CacheError, FarvoxError

DONE = "files.txt"
"""The file of a kept folder that says what it was made of; it is written last."""


def cache_path() -> Path:
    """The folder for what can be fetched or made again: ``FARVOX_CACHE``, or the user's cache folder."""
    return Path(os.environ.get("FARVOX_CACHE") or user_cache_path("farvox")).expanduser()


def kept_folder(room: str, name: str, files: Iterable[str | Path], build: Callable[[Path], None]) -> Path:
    """A folder below `cache_path` made of some files; it is made again when one of them has changed.

    A file is known by its path, size and time of change, a packed one by its entry. One process makes the
    folder while others wait.

    Args:
        room: the folder of its kind.
        name: what is made of the files, with what settings; folders of one name and other states of the same
            files are removed.
        files: what it is made of.
        build: writes into the folder it is given.

    Raises:
        CacheError: the cache cannot be written to, or has no room.
        OSError: one of the files is not there.
    """
    paths = [os.fspath(path) for path in files]
    states = [f"{path}\t{state_of(path)}\n" for path in paths]
    which = _digest([name, *paths])
    folder = cache_path() / room / f"{which}-{_digest(states)}"
    if (folder / DONE).is_file():
        return folder
    try:
        with alone(folder.with_name(f".lock-{which}")):
            if not (folder / DONE).is_file():
                for stale in folder.parent.glob(f"{which}-*"):
                    shutil.rmtree(stale, ignore_errors=True)
                with atomic_dir(folder, own_files=(DONE,)) as temporary:
                    build(temporary)
                    said = f"{name}\n{''.join(states[:100])}"
                    (temporary / DONE).write_bytes(said.encode(errors="surrogateescape"))
    except OSError as error:
        raise CacheError(f"{folder.parent}: cannot be written: {error}") from error
    except FarvoxError as error:
        if type(error) is FarvoxError:  # of `atomic_dir`; what the builder says of its files has a kind
            raise CacheError(str(error)) from error
        raise
    return folder


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=10)
    for part in parts:
        digest.update(part.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is in a block of the same file ``lock``, where the system can tell.

    Where it cannot (Windows, some network disks) both do the work, and the folder of the second stays.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
