"""The log of a run: one line an epoch, a progress bar, JSONL for machines, TensorBoard on request."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from farvox.atomic import naming, write_text
from farvox.errors import CheckpointError, MissingExtraError
from farvox.parsing import parse_json
from farvox.progress import Note, Progress, duration
from farvox.training.checkpoint import TrainingState, checkpoint_folder, finished_epochs, load_state


class RunLog:
    """Writes ``train.log`` and ``log.jsonl`` of a run dir and shows progress; silent on other ranks.

    On a terminal progress is a bar; elsewhere it is a line every ten seconds. See `mend_log` for a run that
    goes on.
    """

    def __init__(
        self,
        run_dir: Path,
        total_steps: int,
        note: Note,
        *,
        done: int = 0,
        active: bool,
        tensorboard: bool = False,
    ) -> None:
        self.active = active
        self._note = note
        self._writer: Any = None
        if not active:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        self._text = (run_dir / "train.log").open("a", encoding="utf-8")
        self._jsonl = (run_dir / "log.jsonl").open("a", encoding="utf-8")
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MissingExtraError(
                    "log.tensorboard needs TensorBoard: pip install 'farvox[train]'"
                ) from None
            self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=done + 1)
        self._progress = Progress("train", total_steps, done=done)
        self._epoch_began = time.monotonic()

    def __enter__(self) -> RunLog:
        if self.active:
            self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer:
            self._writer.close()
        if self.active:
            self._progress.__exit__(kind, error, trace)
            for file in (self._text, self._jsonl):
                with suppress(OSError):  # of a line that could not be written, which has been reported
                    file.close()

    def say(self, line: str) -> None:
        """A line for people, also in ``train.log``."""
        if self.active:
            self._note(line)
            self._append(line, self._text)

    def step(self, done: int, *, epoch: int, **figures: float) -> None:
        """Figures of a step: shown as progress and written to JSONL and TensorBoard."""
        if not self.active:
            return
        self._record("step", done, epoch, figures)
        text = f"epoch {epoch}  " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._progress.show(done, text)

    def epoch(self, done: int, *, epoch: int, lr: float, **figures: float) -> None:
        """The line of an epoch, with the EER in per cent, the time it took, and the time for all that follow.

        ``Epoch 0  lr 0.005000  EER 5.4239  cost 0.4968  loss 2.346  95 s, 12 min left``
        """
        if not self.active:
            return
        self._record("epoch", done, epoch, {"lr": lr, **figures})
        line = f"Epoch {epoch}  lr {lr:f}"
        if "eer" in figures:
            line += f"  EER {100 * figures['eer']:.4f}  cost {figures['min_dcf']:.4f}"
        took, self._epoch_began = time.monotonic() - self._epoch_began, time.monotonic()
        line += f"  loss {figures['loss']:.4g}  {duration(took)}, {self._progress.left(done)}"
        self.say(line)

    @staticmethod
    def _append(line: str, file: TextIO) -> None:
        with naming(file.name):
            print(line, file=file, flush=True)

    def _record(self, kind: str, done: int, epoch: int, figures: dict[str, float]) -> None:
        self._append(_line(kind, done, epoch, figures), self._jsonl)
        for name, value in figures.items() if self._writer else ():
            self._writer.add_scalar(f"{kind}/{name}", value, done)


def mend_log(run_dir: Path, state: TrainingState, note: Note) -> None:
    """Make ``log.jsonl`` of a run that goes on after ``state`` one of what was trained until then.

    What is trained again goes. A line that cannot be read, but for one of a step that is taken again, goes
    with a note. The record of an epoch that is not there is put back, if its checkpoint is.
    """
    path, again = run_dir / "log.jsonl", state.epoch + (not state.within)
    before = path.read_bytes() if path.exists() else b""
    kept: dict[tuple[int, bool, int], bytes] = {}
    for number, line in enumerate(before.splitlines(), 1):
        try:
            record = parse_json(line)
            step, of_epoch = int(record["step"]), record.get("kind") == "epoch"
            if step <= state.step and not (of_epoch and record["epoch"] >= again):
                kept[step, of_epoch, number] = line
        except (ValueError, TypeError, LookupError, AttributeError):
            known = re.search(rb'"step": (\d{1,15}),', line)
            if state.step and not (known and int(known[1]) > state.step):
                note(f"note: {path}:{number}: damaged, and left out: {line.decode(errors='replace')[:60]}")
    recorded = {parse_json(line)["epoch"] for (_, of_epoch, _), line in kept.items() if of_epoch}
    for epoch in finished_epochs(run_dir):
        with suppress(CheckpointError, LookupError, TypeError):
            if epoch < again and epoch not in recorded:
                saved = load_state(checkpoint_folder(run_dir, epoch))
                figures = {"lr": saved.optimizer["groups"][0]["lr"], **saved.figures}
                kept[saved.step, True, 0] = _line("epoch", saved.step, epoch, figures).encode()
                note(f"note: {path}: had no record of epoch {epoch}, which is put back from its checkpoint")
    if (after := b"".join(kept[key] + b"\n" for key in sorted(kept))) != before:
        write_text(path, after.decode())


def _line(kind: str, step: int, epoch: int, figures: Mapping[str, float | None]) -> str:
    known = {name: value if math.isfinite(value or 0) else None for name, value in figures.items()}
    return json.dumps({"kind": kind, "step": step, "epoch": epoch, **known})
