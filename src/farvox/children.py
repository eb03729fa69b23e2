"""Child processes that end with their parent, however it ends; and the signals that ask a process to end.

A child has one end of a pipe into which nothing is ever written. The other end is open in the parent alone,
and the system closes it when the parent is gone: that sends the child a signal, and wakes a thread in it,
which ends it, too. No process number is compared, which may be another's by then, and it does not matter
which thread of the parent started it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from multiprocessing.connection import wait as wait_for
from types import FrameType
from typing import Any

SECONDS_TO_LEAVE = 5.0
OF_ANY_PROGRAM = (sys.executable, "-m", __name__)
"""Words before a command that is none of farvox's, and knows nothing of `end_with_parent`."""
END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that ask to end: Ctrl-C, ``kill``, a terminal that is closed, Slurm as it may be told."""
ending: list[int] = []
"""The signals that asked this process to end at once: from then on no thread of it waits for a network."""
Handler = Callable[[int, FrameType | None], Any] | int | None
_LIFELINE = "FARVOX_LIFELINE"  # variable of a child's environment: the file number of its pipe


@contextmanager
def child(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    **options: Any,
) -> Iterator[subprocess.Popen[Any]]:
    """Start a program, which ends with this process or with the block, whichever ends first.

    It must call `end_with_parent`, as the ``farvox`` command does, or have `OF_ANY_PROGRAM` before it.

    Args:
        command: its words.
        env: its environment; None: that of this process.
        pass_fds: open files that it gets besides.
        options: further ones of `subprocess.Popen`.
    """
    read, write = os.pipe()
    with open(write, "wb", buffering=0) as lifeline:
        try:
            environment = {**(os.environ if env is None else env), _LIFELINE: str(read)}
            process = subprocess.Popen(command, env=environment, pass_fds=(read, *pass_fds), **options)
        finally:
            os.close(read)
        with process:
            try:
                yield process
            finally:
                lifeline.close()
                try:
                    process.wait(SECONDS_TO_LEAVE)
                except subprocess.TimeoutExpired:
                    process.kill()


def take_signals(handler: Handler) -> dict[int, Handler]:
    """Let ``handler`` take the signals `END`, but for those that are ignored, as by ``nohup``.

    Returns:
        What took them before. Only the main thread takes signals; in another, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before: dict[int, Handler] = {
        number: known for number in END if (known := signal.getsignal(number)) != signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, handler)
    return before


@contextmanager
def on_signals(handler: Handler) -> Iterator[None]:
    """Do as `take_signals` within the block."""
    before = take_signals(handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let signals be taken at the end of the block: what is called in it would swallow their exception."""
    held: list[int] = []
    try:
        with on_signals(lambda number, frame: held.append(number)):
            yield
    finally:
        for number in held[:1]:
            os.kill(os.getpid(), number)


def end_with_parent(before: Callable[[], object] | None = None) -> None:
    """Let this process end as soon as the one that started it is gone; it calls ``before`` then.

    That is a process that used `child` or `multiprocessing`; of any other, this does nothing.
    """
    lifeline, parent = os.environ.pop(_LIFELINE, None), parent_process()
    if parent is None and lifeline is None:
        return
    pipe = parent.sentinel if parent else int(lifeline or 0)

    def end(timeout: float | None = None) -> None:
        if wait_for([pipe], timeout):
            if before:
                before()
            os._exit(1)  # the main thread may be busy; what it leaves half-written is cleared away later

    if before is None:  # SIGIO ends this process, even where a call of the main thread lets no other run
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    end(0)
    threading.Thread(target=end, name="end-with-parent", daemon=True).start()


def _run_any_program() -> int:
    program = subprocess.Popen(sys.argv[1:])
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal interrupts the program, too
    end_with_parent(program.kill)
    return program.wait()


if __name__ == "__main__":
    raise SystemExit(_run_any_program())
