"""A run dir belongs to the options it was begun with."""

from __future__ import annotations

import tomllib
from pathlib import Path

import tomli_w

from farvox.atomic import write_text
from farvox.errors import RecipeError
from farvox.options import Table, from_table, kinds, to_table
from farvox.training.checkpoint import finished_epochs
from farvox.training.distributed import World
from farvox.training.options import TrainOptions

FREE = (
    "device", "threads", "data.workers", "data.features", "augment.pack", "optim.checkpointing",
    "optim.channels_last", "optim.shard_head", "log.", "validate.", "schedule.epochs",
)  # fmt: skip
"""Options that may change when a run is continued: its length, and those that leave the weights alone."""


def claim_run_dir(options: TrainOptions, run_dir: Path, world: World, *, resume: bool) -> list[int]:
    """Make the run dir ours; returns the epochs already finished there.

    Args:
        options: of the training; a new run dir gets them as ``recipe.toml``, with all else that a recipe has.
        run_dir: made if need be.
        world: rank 0 writes.
        resume: whether a run dir with checkpoints may be continued.

    Raises:
        RecipeError: it holds checkpoints, and was begun with other options or must not be continued.
    """
    finished = finished_epochs(run_dir)
    saved = run_dir / "recipe.toml"
    if finished and not resume:
        raise RecipeError(f"{run_dir} already holds {len(finished)} checkpoint(s): choose another --run-dir")
    if finished and saved.exists():
        known = kinds(TrainOptions)
        table = {key: value for key, value in tomllib.loads(saved.read_text("utf-8")).items() if key in known}
        before, now = _flat(to_table(from_table(TrainOptions, table, str(saved)))), _flat(to_table(options))
        changed = [
            f"  {key}: {before.get(key)!r} there, {now.get(key)!r} now"
            for key in sorted(before.keys() | now.keys())
            if key.split(".")[0] in known and before.get(key) != now.get(key) and not key.startswith(FREE)
        ]
        if changed:
            raise RecipeError(
                f"{run_dir} was begun with another recipe; choose another --run-dir or undo this:\n"
                + "\n".join(changed)
            )
    elif world.is_main:
        write_text(saved, tomli_w.dumps(to_table(options)))
    world.barrier()
    return finished


def _flat(table: Table, prefix: str = "") -> Table:
    flat: Table = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
