"""Faulty steps: the examples of their batch are drawn again, looked at one by one, and kept for a replay.

Shape suffixes: B utterance, T sample, F frame, M mel, K mask, E embedding, C class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tomli_w
import torch
from torch.nn import functional as F

from farvox.atomic import discard, visible, write_json
from farvox.errors import FarvoxError, NonFiniteLossError
from farvox.features.specaugment import apply_masks
from farvox.models.pooling import widen
from farvox.options import to_table
from farvox.training import checkpoint
from farvox.training.loader import Example, collate
from farvox.training.table import Draw

if TYPE_CHECKING:
    from farvox.training.trainer import Run

RECORD = "replay.json"
"""File of a replay folder: the step, and what was found in its batch."""
AT_ONCE = 32
SHOWN = 8
"""Examples that a message names."""
LOUD = 1000.0
"""Sample, in full scales, that no recording reaches."""


@dataclass(frozen=True)
class Finding:
    """An example of a batch that was drawn again, by itself.

    Attributes:
        position: in the epoch; with the run's seed and the epoch all that is drawn follows from it.
        utt_id: its utterance.
        path: the file of the utterance.
        start: the first sample that is taken, at the rate of the model.
        speed: factor of its speed.
        peak: largest sample as it was read; full scale is 1.
        augmented_peak: after the augmentation.
        fault: the first that is not finite: ``features``, ``embedding`` or ``loss``; or empty.
        loss: cross-entropy in evaluation mode; NaN where there is no whole head on this process.
    """

    position: int
    utt_id: str
    path: str
    start: int
    speed: float
    peak: float
    augmented_peak: float
    fault: str
    loss: float

    def __str__(self) -> str:
        state = f"{self.fault} not finite" if self.fault else f"loss {self.loss:.4g}"
        speed = f" at speed {self.speed:g}" if self.speed != 1 else ""
        return (
            f"position {self.position}, utterance '{self.utt_id}' ({self.path}, from sample {self.start}"
            f"{speed}): {state}; samples up to {self.peak:.3g}, {self.augmented_peak:.3g} after augmentation"
        )


def examine(run: Run, draws: Sequence[Draw]) -> Iterator[tuple[Finding, Example]]:
    """Draw examples again, and put each through front-end, network and head by itself; nothing changes.

    Raises:
        AudioError: an utterance cannot be read any more.
    """
    data, device = run.dataset, run.world.device
    for first in range(0, len(draws), AT_ONCE):
        chunks = [data.read(draw) for draw in draws[first : first + AT_ONCE]]
        peaks = [float(np.abs(chunk.wav_T).max()) for chunk in chunks]
        examples = [data.example(chunk) for chunk in chunks]
        batch = collate(examples)
        assert not isinstance(batch, FarvoxError)
        here = batch.to(device)
        with torch.no_grad(), run.stepper.autocast(), ExitStack() as stack:
            for module in (*run.network.modules(), *run.head.modules()):
                stack.callback(setattr, module, "training", module.training)
                module.training = False
            feats_BFM = apply_masks(run.frontend(here.wav_BT), here.masks_BK4)
            emb_BE = widen(run.network(feats_BFM))
            loss_B = torch.full((len(chunks),), math.nan)
            if has_loss := run.shard is None and run.options.distill.classify > 0:
                logits_BC = widen(run.head(emb_BE, here.labels_B))
                loss_B = F.cross_entropy(logits_BC, here.labels_B, reduction="none").cpu()
        looks = {
            "features": feats_BFM.isfinite().flatten(1).all(dim=1).cpu(),
            "embedding": emb_BE.isfinite().all(dim=1).cpu(),
            "loss": loss_B.isfinite() | (not has_loss),
        }
        for n, (chunk, example) in enumerate(zip(chunks, examples, strict=True)):
            finding = Finding(
                position=chunk.position,
                utt_id=data.table.utt_ids[chunk.row],
                path=data.table.wav_paths[chunk.row],
                start=chunk.start,
                speed=data.speeds[chunk.variant],
                peak=peaks[n],
                augmented_peak=float(np.abs(example.wav_T).max()),
                fault=next((name for name, is_finite_B in looks.items() if not is_finite_B[n]), ""),
                loss=float(loss_B[n]),
            )
            yield finding, example


@dataclass(frozen=True)
class FaultyStep:
    """A step that was not taken: its figures, and what was found in its batch.

    Attributes:
        error: of the step.
        place: epoch, step and positions, for a message.
        findings: in lines.
        remedy: for the user.
    """

    error: str
    place: str
    findings: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.error}\n{self.findings}"


def explain(run: Run, error: NonFiniteLossError, epoch: int, step: int, run_dir: Path) -> FaultyStep:
    """Find the examples that made step ``step`` (from 0) faulty, and keep it for ``farvox replay``.

    All ranks call this together; rank 0 looks and writes. The weights are those of before the step.
    """
    draws = run.plan.batch(epoch, step)
    place = f"epoch {epoch}, step {step + 1} (positions {draws[0][1]} to {draws[-1][1]})"
    run.head.margin = run.schedule.margin_at(epoch, step)
    packed = run.pack()
    lines, remedy = [], ""
    if run.world.is_main:
        try:
            found = [finding for finding, _ in examine(run, draws)]
            bad = [finding for finding in found if finding.fault]
            lines = [str(finding) for finding in bad[:SHOWN]]
            counted = f"{len(bad)} of {len(found)} examples are not finite by themselves"
            lines.append(f"and {len(bad) - SHOWN} more; {counted}" if len(bad) > SHOWN else counted)
            remedy = _remedy(run, bad, len(found))
            done = (epoch - run.options.schedule.first_epoch) * run.plan.steps_per_epoch + step
            folder = run_dir / "replay" / f"epoch_{epoch:03d}_step_{step + 1:06d}"
            record = {
                "epoch": epoch,
                "step": step,
                "processes": run.world.size,
                "error": str(error),
                "examples": [asdict(finding) for finding in found],
            }

            def write(temporary: Path) -> None:
                run.write_model(epoch, temporary)
                write_json(temporary / RECORD, record)

            recipe = tomli_w.dumps(to_table(run.options))
            checkpoint.save_checkpoint(folder, run.state(epoch, done), write, *packed, recipe)
            others = sorted({*visible(folder.parent, "epoch_*")} - {folder}, key=checkpoint.place_of)
            for outdated in {*others}.difference([*others, folder][-run.options.log.keep :]):
                discard(outdated)
            lines.append(f"'farvox replay {folder}' runs this batch again, with the weights of before it")
        except (FarvoxError, OSError) as why:  # the fault itself is what matters
            lines.append(f"no more is known: {why}")
    run.world.barrier()
    return FaultyStep(str(error), place, "\n".join(f"  {line}" for line in lines), remedy)


def _remedy(run: Run, bad: Sequence[Finding], total: int) -> str:
    optim, weights = run.options.optim, (*run.network.parameters(), *run.head.parameters())
    wider = "" if optim.precision == "fp32" else ", or optim.precision = 'fp32'"
    slower = f"Lower optim.lr or set optim.clip_norm{wider}, with another --run-dir"
    if not all(bool(weight.isfinite().all()) for weight in weights):
        return f"The weights were not finite before this step: one before it was too large. {slower}"
    unfit = [each for each in bad if each.fault == "features"]
    if unfit or 0 < len(bad) < total / 2:
        where = "of these"
        if unfit and max(each.peak for each in unfit) < LOUD:
            where = "of noise and impulse responses in the data dirs of [augment], for these are sound"
        return (
            f"Put sound files in the place {where}, or leave such batches out: --optim.skip_nonfinite "
            f"{optim.skip_nonfinite + 1}"
        )
    return slower
