"""One writer at a time of whatever is written: data dirs, run dirs, embeddings, models, scores, the cache.

A writer holds a lock on the file ``.lock-NAME`` beside its output. The system gives the lock up when the
process ends, however that ends, so that the lock of a dead process never stands in the way; the file names
its holder for the others. The library filelock has such locks, too, but its files stay for ever and do not
say who holds them.

`writes` declares the argument of a function that is its output, once for the command line and for Python.
"""

from __future__ import annotations

import inspect
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from farvox.atomic import (
    INCOMING,
    complete_update,
    file_name,
    is_alive,
    is_of_this_machine,
    machine_tag,
    naming,
    remove_stale,
    try_lock,
)
from farvox.errors import BusyError
from farvox.progress import to_stderr

P = ParamSpec("P")
R = TypeVar("R")

JOBS = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID")
"""Variables that name a job, which may go on on another machine: of Slurm, and torchrun's ``--rdzv-id``."""
_LONGEST = 200  # characters of a command line that are kept
PATIENCE = 5.0
"""Seconds that a second writer waits, as children of a process that was killed may need them to end."""
_SECONDS = 0.05  # between two looks at a lock
_held: dict[Path, tuple[int, int, Path]] = {}  # output -> the thread that writes it; its lock: file, path
_shared: dict[Path, int] = {}  # output -> the thread that writes a part of it


@contextmanager
def one_writer(path: str | Path, *, wait: bool = False, anywhere: bool = False) -> Iterator[None]:
    """Be the only one who writes the file or folder ``path``, among all processes that ask here.

    What a dead process has left unfinished there is removed first, and once more in the end: its children may
    have lived longer. A block may ask again for what it has. The lock is beside ``path``, whatever links lead
    there; in it, where a folder is a mount point or its parent cannot be written. Folders that are made for
    it go again if nothing came into them. A line on stderr tells if another process has written the output
    while this one waited `PATIENCE` for it.

    A lock that a process of another machine has left, and that nobody holds, is free for one of the same job
    (`JOBS`), which was ended there before it went on elsewhere.

    Where the file system has no locks, the file of the lock tells who writes; two processes that begin at the
    same moment are not kept apart there.

    Args:
        wait: as long as another process is writing there, and not only `PATIENCE` seconds.
        anywhere: a lock that a process of another machine has left is taken over; harmless only where two
            that write at a time write the same, and the second may go on.

    Raises:
        BusyError: another process is writing there; or one of another machine was, and may be still.
        FarvoxError: the lock cannot be written.
    """
    final = Path(os.path.realpath(path))
    is_mine = threading.get_ident() in (_held.get(final, (0,))[0], _shared.get(final))
    is_device = final.exists() and not final.is_file() and not final.is_dir()
    if is_mine or is_device:  # which verbs refuse
        yield
        return
    with naming(path):
        inside = final.is_dir() and (os.path.ismount(final) or not os.access(final.parent, os.W_OK))
        lock = (final if inside else final.parent) / f".lock-{file_name(final.name)}"
        made = [folder for folder in lock.parents if not folder.exists()]
        before = _state(final)
        handle, is_stale, other = _lock(lock, path, wait=wait, anywhere=anywhere)
        if other and not wait and not anywhere and _state(final) not in (None, before):
            to_stderr(
                f"note: {path}: was written by {other} while this command waited for it; what this one writes"
                " there takes the place of that. To keep both, choose another name for one of them"
            )
    _held[final] = threading.get_ident(), handle, lock

    def tidy() -> None:
        remove_stale(final.parent)
        if is_stale:
            remove_stale(final, deep=True)

    try:
        with naming(path):
            tidy()
        yield
        if is_stale:
            tidy()
    finally:
        if _held.get(final, (0, None))[1] == handle:  # not in a process that was forked meanwhile
            with suppress(OSError):  # its folder was removed
                if os.path.samestat(os.stat(lock), os.fstat(handle)):
                    lock.unlink()
            del _held[final]
            os.close(handle)
            with suppress(OSError):  # something came into it
                for folder in made:
                    folder.rmdir()


@contextmanager
def one_part(path: str | Path, part: Path) -> Iterator[None]:
    """Be the only one who writes a part of ``path``, whose lock is that of the file ``part``.

    Others may write other parts meanwhile. A part that died on another machine does not stand in the way.
    """
    final = Path(os.path.realpath(path))
    with one_writer(part, anywhere=True):
        _shared[final] = threading.get_ident()
        try:
            yield
        finally:
            del _shared[final]


def writes(argument: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function be the only writer, see `one_writer`, of what an argument of it names, unless None."""

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def alone(*args: P.args, **kwargs: P.kwargs) -> R:
            path = inspect.signature(function).bind(*args, **kwargs).arguments.get(argument)
            with nullcontext() if path is None else one_writer(path):
                return function(*args, **kwargs)

        return alone

    return declare


def finish_update(folder: Path) -> None:
    """Finish a `farvox.atomic.atomic_update` that a kill interrupted, or wait for one that is under way."""
    if (folder / INCOMING).is_dir():
        with one_writer(folder, wait=True), naming(folder):
            complete_update(folder)


def _state(path: Path) -> tuple[int, int] | None:
    """The number and the time of change of a file or folder, which differ when it has been written."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


def _lock(lock: Path, path: str | Path, *, wait: bool, anywhere: bool) -> tuple[int, bool, str]:
    """Open and lock a file; also True where a process that died had it, and the one that was waited for."""
    other = ""
    deadline = time.monotonic() + (float("inf") if wait else PATIENCE)
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        was_there = lock.exists()
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            if lock.parent.exists():
                raise
            continue  # the process that had made the folder has just removed it
        try:
            is_mine, holder = try_lock(handle), _read(handle)
            is_foreign = bool(holder) and not is_of_this_machine(str(holder.get("machine")))
            is_same_job = bool(job := _job()) and holder.get("job") == job
            is_foreign = is_foreign and not ((anywhere or is_same_job) and is_mine)
            if is_mine is None:  # no locks here: the file alone tells
                pid = holder.get("pid", 0)
                is_own = pid == os.getpid() and lock not in (each[2] for each in _held.values())
                is_mine = not holder or is_own or not is_alive(pid)
            is_there = lock.exists() and os.path.samestat(os.stat(lock), os.fstat(handle))
            if is_mine and is_there and not is_foreign:
                with suppress(OSError):  # of another user's; or the disk is full, and the lock says nothing
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, json.dumps(_myself()).encode(), 0)
                    os.fchmod(handle, 0o666)
                kept, handle = handle, -1
                return kept, was_there, other
            if is_there and (is_foreign or time.monotonic() >= deadline):
                raise BusyError(_refusal(path, lock, holder, is_foreign=is_foreign, anywhere=anywhere))
        finally:
            if handle >= 0:
                os.close(handle)
        if is_there:  # else who had it has removed it
            other = _name_of(holder)
            time.sleep(_SECONDS)


def _read(handle: int) -> dict[str, Any]:
    """The words of a lock's file on who has it, or had it; empty where it says nothing."""
    from farvox.parsing import parse_json  # with numpy

    with suppress(ValueError, TypeError):
        found = dict(parse_json(os.pread(handle, 4096, 0)))
        if isinstance(found.get("pid"), int):
            return found
    return {}


def _myself() -> dict[str, Any]:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:_LONGEST]
    since, host = time.strftime("%Y-%m-%d %H:%M:%S"), os.uname().nodename
    me = {"host": host, "machine": machine_tag(), "pid": os.getpid(), "since": since, "command": command}
    return me | {"job": _job()}


def _job() -> str:
    """The job of a batch system or of torchrun that this process is a part of; or empty."""
    jobs = {name: os.environ.get(name, "") for name in JOBS}
    return next((f"{name} {job}" for name, job in jobs.items() if job not in ("", "none")), "")


def _name_of(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    pid, host, since, command = (holder.get(key) for key in ("pid", "host", "since", "command"))
    return f"process {pid} on {host}, since {since}: {command}"


def _refusal(
    path: str | Path, lock: Path, holder: dict[str, Any], *, is_foreign: bool, anywhere: bool
) -> str:
    who, or_other = _name_of(holder), "" if anywhere else ", or choose another name"
    if is_foreign:
        return (
            f"{path}: is being written by a process of another machine, as far as is known here ({who}); if "
            f"it runs no more, remove {lock}, else wait until it ends{or_other}"
        )
    return f"{path}: is being written ({who}); wait until that ends{or_other}"


def _forget_locks() -> None:
    """In a process that was forked: leave the locks to the one that has them."""
    for _, handle, _ in _held.values():
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget_locks)
