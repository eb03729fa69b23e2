"""``farvox train``."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farvox.cli.recipes import load_recipe
from farvox.pipelines.recipe import Recipe, default_run_dir
from farvox.training.launch import launch_ranks


def train(words: Sequence[str]) -> int:
    """``farvox train RECIPE [--run-dir DIR] [--gpus N] [--no-resume] [--field.name VALUE ...]``."""
    options, overrides = _parser().parse_known_args(list(words))
    recipe = load_recipe(options.recipe, overrides)
    rank = os.environ.get("RANK")
    if options.gpus > 1 and rank is None:
        if recipe.init.model:
            from farvox.zoo import find_model

            find_model(recipe.init.model)  # fetched once, if need be, and not by every rank
        return launch_ranks([sys.executable, "-m", "farvox", "train", *words], options.gpus)
    run_dir = Path(options.run_dir or recipe.run_dir or default_run_dir(options.recipe))
    folder = train_recipe(recipe, run_dir, resume=not options.no_resume)
    if rank in (None, "0"):
        print(f"model: {folder}")
    return 0


train.parses_its_own_words = True  # type: ignore[attr-defined]


def train_recipe(recipe: Recipe, run_dir: Path, *, resume: bool = True) -> Path:
    """Join the other ranks, if there are any, and train; returns the last checkpoint's folder."""
    from farvox.training.distributed import join_world
    from farvox.training.trainer import train as run_training

    with join_world(recipe.device) as world:
        return run_training(recipe, run_dir, world, resume=resume)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="farvox train",
        description="Train or fine-tune a model from a recipe. A run dir that holds checkpoints of the same "
        "recipe is continued after the last one. For many nodes: torchrun ... -m farvox train RECIPE.",
        epilog="fields of a recipe, each set with --field.name VALUE (TOML values):\n\n" + _field_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or a name that 'farvox recipes' lists")
    parser.add_argument("--run-dir", metavar="DIR", help="where results go (default: exp/<recipe>)")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="start N processes on this machine")
    parser.add_argument(
        "--no-resume", action="store_true", help="refuse a run dir that already holds checkpoints"
    )
    return parser


def _field_list() -> str:
    lines: list[str] = []

    def walk(value: Any, prefix: str) -> None:
        for field in dataclasses.fields(value):
            default = getattr(value, field.name)
            name = f"{prefix}{field.name}"
            if dataclasses.is_dataclass(default):
                walk(default, f"{name}.")
            elif field.name not in ("adapt", "evaluate", "prepare"):
                lines.append(f"  --{name:<26} {default!r}" if default != {} else f"  --{name}.KEY")

    walk(Recipe(), "")
    return "\n".join(lines)
