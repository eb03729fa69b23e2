"""Progress of a long task: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

SECONDS_BETWEEN_LINES = 10.0

Note = Callable[[str], None]
"""A function that is called with one line on something that was read, decided or done."""


# Control characters and those that reverse the direction of text; a terminal would act on them.
_UNPRINTABLE = {
    n: f"\\u{n:04x}"
    for n in (
        *range(32),
        *range(127, 160),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    )
    if chr(n) not in "\n\t"
}


def printable(text: str) -> str:
    r"""Write what a terminal would act on (escape sequences in an id, say) as ``\u`` and four digits.

    JSON has the same escapes, so that what was valid JSON still is.
    """
    return text.translate(_UNPRINTABLE)


def silent(line: str) -> None:
    """Take a line and show nothing."""


def to_stderr(line: str) -> None:
    """Print a line on stderr at once."""
    if sys.stderr is not None:  # a service may have none, and print would take stdout
        print(printable(line), file=sys.stderr, flush=True)


def to_stdout(line: str) -> None:
    """Print a line on stdout at once."""
    print(printable(line), flush=True)


class Progress:
    """The progress of one task.

    A bar is shown on stderr where that is a terminal and ``note`` prints. Otherwise ``note`` takes a line
    every few seconds, such as ``copies made: 1,200 of 5,000, 40 a second, 2 min left``.

    Args:
        task: names what is counted.
        total: how many there are.
        note: takes the lines.
        done: how many an earlier run finished; they say nothing about the rate of this one.
    """

    def __init__(self, task: str, total: int, note: Note = to_stderr, *, done: int = 0) -> None:
        self.task: str = task
        self.total: int = total
        self.note: Note = note
        self.done: int = done
        self.before: int = done
        self.start: float = time.monotonic()
        self.last: float = self.start
        self._bar: Any = None
        if note in (to_stdout, to_stderr) and sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(task), BarColumn(), TextColumn("{task.completed}/{task.total} {task.description}"),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._id = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, count: int = 1, text: str = "") -> None:
        """Count further items as done; ``text`` stands beside the count."""
        self.show(self.done + count, text)

    def show(self, done: int, text: str = "") -> None:
        """Set how many are done, those of an earlier run included."""
        self.done, now = done, time.monotonic()
        if self._bar:
            self._bar.update(self._id, completed=done, description=text)
        elif now - self.last >= SECONDS_BETWEEN_LINES and done > self.before:
            self.last = now
            rate = (done - self.before) / (now - self.start)
            speed = f"{rate:,.0f} a second" if rate >= 1 else f"{duration(1 / rate)} each"
            line = f"{self.task}: {done:,} of {self.total:,}, {speed}, {self.left(done)}"
            self.note(line + f", {text}" * bool(text))

    def left(self, done: int) -> str:
        """The time that the rest takes at the rate so far: ``2 min left``."""
        seconds = time.monotonic() - self.start
        return f"{duration((self.total - done) * seconds / max(1, done - self.before))} left"


def duration(seconds: float) -> str:
    """A time for people: ``42 s``, ``12 min`` or ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
