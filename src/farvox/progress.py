"""Progress on the terminal: a bar for people, a line every ten seconds for logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0

Note = Callable[[str], None]
"""A function that is called with one line on something that was read, decided or done."""


def silent(line: str) -> None:
    """Take a line and show nothing."""


def to_stderr(line: str) -> None:
    """Print a line on stderr at once."""
    print(line, file=sys.stderr, flush=True)


class ProgressLine:
    """The progress of one task, on stderr."""

    def __init__(self, task: str, total: int) -> None:
        self._task, self._total = task, total
        self._last = time.monotonic()
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = Progress(
                TextColumn(task), BarColumn(), TextColumn("{task.completed}/{task.total} {task.description}"),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._id = self._progress.add_task("", total=total)

    def __enter__(self) -> ProgressLine:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, done: int, text: str = "") -> None:
        """Show that ``done`` of the total is finished, with ``text`` beside the bar."""
        if self._progress:
            self._progress.update(self._id, completed=done, description=text)
        elif time.monotonic() - self._last > SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(f"  {self._task} {done}/{self._total}  {text}", file=sys.stderr, flush=True)
