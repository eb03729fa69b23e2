"""The batch of a step that was not finite, once more: with the weights of before it, in one process."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import soundfile
import torch

from farvox.atomic import atomic_dir, write_json
from farvox.audio.remote import remote_audio
from farvox.errors import CheckpointError, FarvoxError
from farvox.options import from_table, kinds
from farvox.parsing import parse_json, parse_toml
from farvox.training.distributed import World
from farvox.training.faults import RECORD, Finding, examine
from farvox.training.loader import Batch, collate
from farvox.training.options import TrainOptions, ValidateOptions
from farvox.training.trainer import Run, passes_each, restore
from farvox.writers import writes

EXAMPLES = "examples.json"
"""File beside the chunks: what they are."""


@dataclass(frozen=True)
class Replay:
    """The figures of a step that was computed again, and its examples one by one."""

    epoch: int
    step: int
    loss: float
    grad_norm: float
    findings: tuple[Finding, ...]

    @property
    def is_finite(self) -> bool:
        """Loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@writes("save_audio")
def replay(folder: Path, device: torch.device, save_audio: Path | None = None) -> Replay:
    """Compute loss and gradient of a step that was kept, as it was; nothing is updated.

    The micro-batches of all ranks follow each other. A head in shards is whole here, and sees all classes.

    Args:
        folder: of the step, in ``RUN_DIR/replay``.
        device: to compute on.
        save_audio: folder for the chunks as the network gets them, ``POSITION.wav``, and `EXAMPLES`.

    Raises:
        CheckpointError: the folder is damaged, or the data dirs were changed.
        AudioError: an utterance cannot be read any more.
    """
    try:
        record = parse_json((folder / RECORD).read_text("utf-8"))
        epoch, step, processes = (int(record[key]) for key in ("epoch", "step", "processes"))
        table = parse_toml((folder / "recipe.toml").read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"no {Path(error.filename).name}" if isinstance(error, FileNotFoundError) else error
        raise CheckpointError(
            f"{folder}: not the folder of a step ({what}): give one of RUN_DIR/replay"
        ) from None
    table = {key: value for key, value in table.items() if key in kinds(TrainOptions)}  # not other stages'
    options = from_table(TrainOptions, table, f"{folder}/recipe.toml")
    optim = replace(options.optim, shard_head=False, sample_classes=1.0, compile=False)
    data = replace(options.data, features="device")
    with remote_audio(data.remote):
        run = Run(replace(options, optim=optim, data=data, validate=ValidateOptions()), World(0, 1, device))
        each = passes_each(optim, processes, restore(run, folder).passes, options.agree.copies)
        run.begin_epoch(epoch)
        run.head.margin = run.schedule.margin_at(epoch, step)

        # The ranks one after the other; with statistics over all of them, all as one.
        ranks = 1 if optim.sync_batchnorm else processes

        def batches() -> Iterator[Batch]:
            for rank in range(ranks):
                run.seed_step(epoch, step, rank)
                share = run.plan.batch(epoch, step, rank, ranks)
                size = len(share) // each
                for first in range(0, len(share), size):
                    batch = collate([run.dataset[draw] for draw in share[first : first + size]])
                    assert not isinstance(batch, FarvoxError)
                    yield batch

        found = list(
            examine(run, run.plan.batch(epoch, step))
        )  # first: a pass changes BatchNorm's statistics
        findings = tuple(finding for finding, _ in found)
        if save_audio:
            with atomic_dir(save_audio, own_files=(EXAMPLES,)) as temporary:
                for finding, example in found:
                    encoded, rate = io.BytesIO(), run.dataset.sample_rate
                    soundfile.write(encoded, example.wav_T, rate, format="WAV", subtype="FLOAT")
                    (temporary / f"{finding.position}.wav").write_bytes(encoded.getbuffer())
                write_json(temporary / EXAMPLES, [asdict(finding) for finding in findings])
        result = run.stepper.gradient(batches(), each * ranks)
        return Replay(epoch, step, float(result.loss), float(result.grad_norm), findings)
