"""Checkpoints, and the run dir that belongs to the options it was begun with.

``checkpoints/epoch_037/`` is itself a MODEL (config.json + model.safetensors) and carries besides
what resuming needs: ``classifier.safetensors``, ``optimizer.safetensors``, ``state.json``.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import Tensor

from farvox.atomic import atomic_dir, atomic_file, sha256_of, write_json, write_text
from farvox.audio.remote import is_asked, is_remote, version_of
from farvox.audio.shards import fingerprint
from farvox.audio.stretches import file_of
from farvox.cache import FINGERPRINT
from farvox.errors import AudioError, CheckpointError, ModelError, RecipeError
from farvox.jobs import Job, cut, threads
from farvox.manifest import renew_manifest, verify_file
from farvox.options import to_table
from farvox.parsing import parse_json, read_array, read_record
from farvox.progress import Note
from farvox.training.distributed import World
from farvox.training.options import TrainOptions, refuse_changes
from farvox.training.table import StringTable, TrainingTable
from farvox.zoo import find_model, write_weights
from farvox.zoo.model import WEIGHTS

Tensors = dict[str, Tensor]
Packed = tuple[Tensors, dict[str, Any]]
"""The state of an optimiser: tensors by name, and plain numbers."""
START = "start.json"
"""File of a run dir: the folder of the model that the run began with, and the SHA-256 of its weights."""
_AT_ONCE = 1024  # files that a thread looks at
EPOCH_FOLDER = re.compile(r"epoch_(\d+)$")


@dataclass(frozen=True)
class TrainingState:
    """The state of a run: the epoch just finished, its classes and data, the optimiser's plain numbers.

    Attributes:
        step: optimiser steps so far.
        classes: names of the classifier's rows.
        data: fingerprint of the training table.
        optimizer: its numbers; its tensors are in ``optimizer.safetensors``.
        scaler: the loss scaler of fp16.
        skipped: steps that were left out because they were not finite.
    """

    epoch: int
    step: int
    classes: list[str]
    data: str = ""
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    skipped: int = 0


def checkpoint_folder(run_dir: Path, epoch: int) -> Path:
    """The folder of the checkpoint of ``epoch``."""
    return run_dir / "checkpoints" / f"epoch_{epoch:03d}"


def finished_epochs(run_dir: Path) -> list[int]:
    """Numbers of the epochs that have a whole checkpoint, in order."""
    states = (run_dir / "checkpoints").glob("epoch_*/state.json")
    return sorted(int(match[1]) for file in states if (match := EPOCH_FOLDER.search(file.parent.name)))


def save_checkpoint(
    folder: Path, state: TrainingState, write_model: Callable[[Path], None], head: Tensors, optimizer: Packed
) -> None:
    """Write one checkpoint folder, whole or not at all.

    Args:
        folder: of the epoch.
        state: of the run; it gets the optimiser's numbers.
        write_model: called with a folder; writes config.json and model.safetensors there.
        head: state of the classifier.
        optimizer: as `pack_optimizer` gives it.
    """
    tensors, numbers = optimizer
    with atomic_dir(folder) as temporary:
        write_model(temporary)
        write_weights(temporary / "classifier.safetensors", head)
        write_weights(temporary / "optimizer.safetensors", tensors)
        write_json(temporary / "state.json", {**asdict(state), "optimizer": numbers})
        renew_manifest(temporary, "classifier.safetensors", "optimizer.safetensors", "state.json")


def load_state(folder: Path) -> TrainingState:
    """Read ``state.json``.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    verify_file(folder / "state.json")
    try:
        return TrainingState(**parse_json((folder / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: not a training checkpoint: {error}") from None


def refuse_other_data(
    folder: Path, state: TrainingState, table: TrainingTable, classes: Sequence[str]
) -> None:
    """Refuse to take the checkpoint ``folder`` for one of these utterances, speakers and classes.

    Raises:
        CheckpointError: the data dirs were changed.
    """
    if (state.classes, state.data) != (classes, table.fingerprint()):
        raise CheckpointError(
            f"{folder}: trained on other data ({len(state.classes)} classes there, {len(classes)} now): "
            "the data dirs were changed since the run began; put them back, or start another --run-dir"
        )


def pack_optimizer(optimizer: torch.optim.Optimizer) -> Packed:
    """Split an optimiser's state into tensors (``<parameter>.<name>``) and JSON-able numbers."""
    state = optimizer.state_dict()
    states = state["state"].items()
    flat = {f"{number}.{name}": value for number, entries in states for name, value in entries.items()}
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in flat.items() if name not in tensors}
    return tensors, {"numbers": numbers, "groups": state["param_groups"]}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], packed: Mapping[str, Any]
) -> None:
    """Put the state that `pack_optimizer` took apart back into ``optimizer``."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *packed["numbers"].items()]:
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = value
    is_fused = optimizer.defaults.get("fused")  # runs of before had none
    groups = [{**group, "foreach": None, "fused": is_fused} for group in packed["groups"]]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise CheckpointError(f"the optimiser state does not fit this model: {error}") from None
    for weight, entries in optimizer.state.items():  # in the weight's memory order, as if never saved
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                entries[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value).detach()


def prune_checkpoints(run_dir: Path, keep: int) -> None:
    """Delete all but the last ``keep`` checkpoints; 0 keeps all."""
    for epoch in finished_epochs(run_dir)[:-keep] if keep else []:
        shutil.rmtree(checkpoint_folder(run_dir, epoch))


FREE = (
    "device", "threads", "data.workers", "data.features", "data.remote", "augment.pack",
    "optim.checkpointing", "optim.channels_last", "optim.shard_head", "optim.skip_nonfinite",
    "log.", "validate.", "schedule.epochs", "schedule.extend",
)  # fmt: skip
"""Options that may change when a run is continued: its length, and those that leave the weights alone."""


def begin_run_dir(options: TrainOptions, run_dir: Path, world: World, *, resume: bool) -> list[int]:
    """Begin a run dir, or make sure that it can be gone on with; returns the epochs already finished there.

    A new run dir gets ``recipe.toml``: the options, with all else that a recipe has.

    Raises:
        RecipeError: it holds checkpoints, and was begun with other options or must not be continued.
    """
    finished = finished_epochs(run_dir)
    saved = run_dir / "recipe.toml"
    if finished and not resume:
        raise RecipeError(f"{run_dir} already holds {len(finished)} checkpoint(s): choose another --run-dir")
    if finished and saved.exists():
        refuse_changes(saved, options, TrainOptions, FREE)
    elif world.is_main:
        write_text(saved, tomli_w.dumps(to_table(options)))
    world.barrier()
    return finished


def starting_folder(model: str, run_dir: Path, note: Note, *, has_begun: bool) -> Path | None:
    """The folder of the MODEL that a run starts from; of one that has begun, the folder that it began with.

    Raises:
        CheckpointError: its weights are not those that the run began with.
        ModelError: there is no such model.
    """
    if not model:
        return None
    record = run_dir / START
    if not has_begun or not record.exists():
        if has_begun:
            note(f"{run_dir}: has no {START}, so whether init.model has changed since it began is not known")
        return find_model(model)
    begun, now = read_record(record), None
    with suppress(ModelError):
        now = Path(os.path.abspath(find_model(model)))
    for folder in (Path(begun["folder"]), now or run_dir):  # it may have been moved
        if (folder / WEIGHTS).is_file() and sha256_of(folder / WEIGHTS) == begun["sha256"]:
            if now not in (folder, None):
                note(
                    f"init.model = '{model}' is {now} by now; {run_dir} keeps to {folder}, which it began"
                    " with (start another --run-dir for the other)"
                )
            return folder
    raise CheckpointError(
        f"init.model = '{model}': {run_dir} began with {begun['folder']}, whose {WEIGHTS} (SHA-256"
        f" {begun['sha256']}) was changed or removed since: put it back, or start another --run-dir"
    )


def record_start(folder: Path, run_dir: Path, data: str = "") -> None:
    """Record the model that a run begins with, and a fingerprint of its data."""
    begun = {"folder": os.path.abspath(folder), "sha256": sha256_of(folder / WEIGHTS)}
    write_json(run_dir / START, begun | ({"data": data} if data else {}))


def compare_audio(
    table: TrainingTable, noise: Sequence[str], run_dir: Path, note: Note, *, has_begun: bool
) -> None:
    """Make sure that the audio of a run is what it was when the run began, or record it.

    Args:
        table: the utterances that are trained on.
        noise: the files of the augmentation, in order; in a file of their own.
        run_dir: keeps the record.
        note: called where it cannot be known.
        has_begun: it is compared, where there is a record.

    Raises:
        CheckpointError: another file lies in the place of one, or there are more or fewer; names the first.
    """
    kind = "digest" if os.environ.get(FINGERPRINT) == "digest" else "time"
    for name, what, paths in (
        ("audio", "utterances", table.wav_paths),
        ("augment", "files of the augmentation", noise),
    ):
        if not len(paths):
            continue
        path = run_dir / f"{name}-{kind}.npy"
        job = Job(what=f"files of {name} looked at", note=note, executor=threads)
        parts = job.run(partial(_fingerprints, paths), cut(range(len(paths)), _AT_ONCE))
        now_N = np.frombuffer(b"".join(parts), "<u8")
        remote = filter(is_remote, map(file_of, (paths[row] for row in range(len(paths) * is_asked()))))
        with suppress(AudioError):
            if (url := next(remote, "")) and version_of(url).endswith("\t"):
                note(
                    f"note: {url}: its host tells only sizes, so whether a file there was replaced by one as "
                    "long is not known"
                )
        if not has_begun or not path.exists():
            if has_begun:
                note(f"{run_dir}: has no {path.name}, so whether {name} was replaced since is not known")
            with atomic_file(path) as temporary:
                np.save(temporary, now_N)
            continue
        try:
            before_N = read_array(path)
        except ValueError as error:
            raise CheckpointError(
                f"{path}: damaged ({error}), so whether {name} was replaced since is not known; "
                "where you know that it was not, remove the file and resume"
            ) from None
        least = min(len(before_N), len(now_N))
        changed = np.flatnonzero(before_N[:least] != now_N[:least])
        num_changed = len(changed) + abs(len(before_N) - len(now_N))
        if num_changed:
            first = int(changed[0]) if len(changed) else least
            shown = "the end of the list"
            if first < len(paths):
                shown = f"{paths[first]}" if name != "audio" else f"'{table.utt_ids[first]}' ({paths[first]})"
            raise CheckpointError(
                f"{run_dir}: the audio of {num_changed:,} of {len(before_N):,} {what} was replaced, added or "
                f"removed since the run began, or cannot be reached; the first is {shown}: put it back, or "
                "start another --run-dir. If only the times of the files have changed, remove "
                f"{path} and resume"
            )


def _fingerprints(paths: StringTable | Sequence[str], rows: Sequence[int]) -> bytes:
    """Eight bytes for each audio file."""
    return b"".join(bytes.fromhex(fingerprint([paths[row]])[:16]) for row in rows)
