"""A run dir belongs to the recipe it was begun with."""

from __future__ import annotations

import tomllib
from pathlib import Path

import tomli_w

from farvox.atomic import write_text
from farvox.errors import RecipeError
from farvox.recipe import Table, parse_recipe, recipe_to_table
from farvox.training.checkpoint import finished_epochs
from farvox.training.distributed import World

FREE = (
    "run_dir", "device", "threads", "title", "notes", "prepare", "paths", "evaluate", "adapt",
    "data.workers", "data.features", "augment.pack",
    "optim.checkpointing", "optim.channels_last", "optim.shard_head",
    "log.", "validate.", "selftrain.", "schedule.epochs",
)  # fmt: skip
"""What may change when a run is continued: its place and length, and what leaves the weights alone."""


def claim_run_dir(recipe: Table, run_dir: Path, world: World, *, resume: bool) -> list[int]:
    """Make the run dir ours; returns the epochs already finished there.

    Args:
        recipe: the resolved recipe as nested tables; written to ``recipe.toml`` of a new run dir.
        run_dir: made if need be.
        world: rank 0 writes.
        resume: whether a run dir with checkpoints may be continued.

    Raises:
        RecipeError: it holds checkpoints, and was begun with another recipe or must not be continued.
    """
    finished = finished_epochs(run_dir)
    saved = run_dir / "recipe.toml"
    if finished and not resume:
        raise RecipeError(f"{run_dir} already holds {len(finished)} checkpoint(s): choose another --run-dir")
    if finished and saved.exists():
        _refuse_other_recipe(recipe, saved)
    elif world.is_main:
        write_text(saved, tomli_w.dumps(recipe))
    world.barrier()
    return finished


def _refuse_other_recipe(recipe: Table, saved: Path) -> None:
    text = saved.read_text(encoding="utf-8")
    before = _flat(recipe_to_table(parse_recipe(tomllib.loads(text), str(saved))))
    now = _flat(recipe)
    changed = [
        f"  {key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE)
    ]
    if changed:
        raise RecipeError(
            f"{saved.parent} was begun with another recipe; choose another --run-dir or undo this:\n"
            + "\n".join(changed)
        )


def _flat(table: Table, prefix: str = "") -> Table:
    flat: Table = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
