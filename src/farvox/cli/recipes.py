"""Finding recipes by name, and applying what the command line changes in them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import farvox
from farvox.errors import RecipeError, UsageError
from farvox.recipe import Recipe, expand_paths, load_table, merge, parse_overrides, parse_recipe


def recipe_root() -> Path:
    """The folder of the recipes that come with farvox: inside the wheel, or beside ``src`` in a checkout."""
    inside = Path(farvox.__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(farvox.__file__).parents[2] / "recipes"


def recipe_names() -> list[str]:
    """Names of all recipes: path below ``recipes/`` without ``.toml``; ``x/recipe.toml`` is just ``x``."""
    root = recipe_root()
    names = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml"))
    return sorted(name.removesuffix("/recipe") for name in names)


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by name.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    root = recipe_root()
    for path in (Path(name), root / f"{name}.toml", root / name / "recipe.toml"):
        if path.is_file():
            return path
    near = difflib.get_close_matches(name, recipe_names(), n=1)
    hint = f"did you mean '{near[0]}'?" if near else "'farvox recipes' lists those that come with farvox"
    raise RecipeError(f"no recipe '{name}': neither a file nor a name; {hint}")


def default_run_dir(name: str) -> Path:
    """``exp/<name>``: where a recipe's results go unless told otherwise."""
    path = Path(name)
    return Path("exp") / (path.stem if path.suffix == ".toml" else path)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply ``--field.name VALUE`` words, expand ``$name`` in its paths.

    Raises:
        UsageError: the words name no field, or give it a value of the wrong kind.
        RecipeError: the recipe is not there, or anything in it is wrong.
    """
    path = find_recipe(name)
    try:
        changes = parse_overrides(overrides)
        parse_recipe(changes, "command line")
    except RecipeError as error:
        raise UsageError(str(error)) from None
    table = merge(load_table(path), changes)
    parse_recipe(table, str(path))  # names a fault as it is written, before paths are expanded
    return parse_recipe(expand_paths(table), str(path))
