"""Saving a run and going on with it: after each epoch, within one, and when a signal ends the run."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from farvox.children import take_signals
from farvox.errors import CheckpointError, StoppedError
from farvox.training import checkpoint
from farvox.training.checkpoint import Packed, Tensors, TrainingState
from farvox.training.distributed import World
from farvox.training.launch import LOST_STATUS

if TYPE_CHECKING:
    from farvox.training.trainer import Run

SAVE = 0.5
"""The wish for a checkpoint; the wish of a signal is its number."""


class Saver:
    """Saves a run. Inside its block, signals do not end the process, but the run, which is saved first.

    All ranks call its methods together. Only the main thread of a process can take signals.

    Args:
        run: the run.
        run_dir: where its checkpoints go.
        recipe: as it was given, in TOML.
    """

    def __init__(self, run: Run, run_dir: Path, recipe: str) -> None:
        self.run, self.run_dir, self.recipe = run, run_dir, recipe
        self._saved_at = time.monotonic()
        self._wish = 0.0
        self._place = ""  # up to which all is saved, while nothing else is to be
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Saver:
        self._before = take_signals(self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._wish and error is None:  # it came after the last step
            signal.raise_signal(int(self._wish))

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == self._wish == signal.SIGINT:
            raise KeyboardInterrupt
        self._wish = self._wish or float(number)
        self._end_at_once()

    def ask(self, epoch: int, done: int, *, is_last: bool, look: bool) -> float:
        """The wish, of any rank, that the run is saved within ``epoch`` when ``done`` steps of it are taken.

        After its last step it is saved where a validation follows, which may take long; else the epoch is.

        Args:
            epoch: the epoch.
            done: its steps with the one that comes next.
            is_last: they are all.
            look: the device is waited for at this step anyway, so that asking the other ranks is cheap.

        Returns:
            0, `SAVE`, or the number of a signal.
        """
        options, world = self.run.options.log, self.run.world
        is_due = options.save_steps and done % options.save_steps == 0
        if is_last:
            is_due = self.run.is_validated(epoch)
        wish = self._wish_of_all() if world.size == 1 or world.device.type == "cpu" or look else 0.0
        return max(wish, SAVE) if is_due else 0.0 if is_last else wish

    def save_within(self, epoch: int, done: int, totals: Tensor, wish: float) -> None:
        """Save the run after ``done`` steps of an epoch, with this rank's sums; end it if a signal came."""
        run = self.run
        parts = run.world.concat(totals).tolist()
        before = (epoch - run.options.schedule.first_epoch) * run.plan.steps_per_epoch
        state = replace(run.state(epoch, before + done), within=done, totals=tuple(parts))
        self.write(state, run.pack())
        run.world.barrier()
        self._end(wish, f"epoch {epoch}, step {done}")

    def after_epoch(self, epoch: int) -> None:
        """Wait until an epoch is saved; end the run if a signal came."""
        self.run.world.barrier()
        self._end(self._wish_of_all(), f"the end of epoch {epoch}")

    @contextmanager
    def before_validation(self, epoch: int) -> Iterator[None]:
        """Within the block, the steps of ``epoch`` are all saved: a signal ends the run there at once.

        So does one that came since they are. The first process leaves; the others lose it.
        """
        self._place = f"the end of epoch {epoch}, before its validation"
        try:
            self._end_at_once()
            yield
        finally:
            self._place = ""

    def _end_at_once(self) -> None:
        if self._place and self.run.world.is_main:
            self._end(self._wish, self._place)

    def _wish_of_all(self) -> float:
        world, minutes = self.run.world, self.run.options.log.save_minutes
        is_due = world.is_main and minutes and time.monotonic() - self._saved_at >= 60 * minutes
        wish = self._wish or SAVE * bool(is_due)
        if world.size == 1:
            return wish  # asked at every step, for which no device is waited
        return float(world.max(torch.tensor(wish, dtype=torch.float32, device=world.device)))

    def _end(self, wish: float, place: str) -> None:
        if wish > SAVE:
            if not self.run.world.is_main:
                raise SystemExit(LOST_STATUS)  # the message is the first rank's
            raise StoppedError(int(wish), f"saved at {place}; the same command goes on from there")

    def write(self, state: TrainingState, packed: tuple[Tensors, Packed]) -> None:
        """Write the checkpoint of a state, and remove those that it makes superfluous; rank 0 does."""
        run, keep = self.run, self.run.options.log.keep
        run.world.enter(
            f"saving the checkpoint of epoch {state.epoch}" + f", step {state.within}" * (state.within > 0)
        )
        if run.world.is_main:
            folder = checkpoint.checkpoint_folder(self.run_dir, state.epoch, state.within)
            model_bytes = sum(each.nbytes for each in run.network.state_dict().values())
            model = partial(run.write_model, state.epoch)
            checkpoint.save_checkpoint(folder, state, model, *packed, self.recipe, model_bytes)
            checkpoint.prune_checkpoints(self.run_dir, keep, folder)
        self._saved_at = time.monotonic()


def own_totals(state: TrainingState, world: World) -> Tensor:
    """This rank's sums over a part of an epoch; where there were other ranks, the mean of theirs.

    Raises:
        CheckpointError: they are no such sums.
    """
    if len(state.totals) % 4:
        raise CheckpointError(f"the sums of epoch {state.epoch}, step {state.within}, are not four a process")
    sums = torch.tensor(state.totals or [0.0] * 4).view(-1, 4)
    own = sums[world.rank] if len(sums) == world.size else sums.mean(0)
    return own.to(world.device)
