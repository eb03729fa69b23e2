"""Checkpoints, and the run dir that belongs to the options it was begun with.

``checkpoints/epoch_037/`` is itself a MODEL (config.json + model.safetensors) and carries besides
what resuming needs: ``classifier.safetensors``, ``optimizer.safetensors``, ``state.json``.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from farvox.atomic import atomic_dir, write_json, write_text
from farvox.errors import CheckpointError, RecipeError
from farvox.manifest import renew_manifest, verify_file
from farvox.options import to_table
from farvox.training.distributed import World
from farvox.training.options import TrainOptions, refuse_changes
from farvox.zoo import write_weights

Tensors = dict[str, Tensor]
Packed = tuple[Tensors, dict[str, Any]]
"""The state of an optimiser: tensors by name, and plain numbers."""
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
    """

    epoch: int
    step: int
    classes: list[str]
    data: str = ""
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


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
        return TrainingState(**json.loads((folder / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: not a training checkpoint: {error}") from None


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
    "optim.checkpointing", "optim.channels_last", "optim.shard_head", "log.", "validate.", "schedule.epochs",
    "schedule.extend",
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
