"""Recipes on the command line: ``farvox recipes``, and words that change a recipe."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from farvox.errors import RecipeError, UsageError
from farvox.options import Table, from_table, merge
from farvox.pipelines.recipe import Recipe, find_recipe, read_recipe, read_toml, recipe_names


def recipes() -> int:
    """List the recipes that come with farvox."""
    names = recipe_names()
    width = max(map(len, names), default=0)
    for name in names:
        print(f"{name:<{width}}  {read_toml(find_recipe(name)).get('title', '')}")
    return 0


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, changed by words ``--field.name VALUE``.

    Raises:
        UsageError: the words name no field, or give it a value of the wrong kind.
        RecipeError: the recipe is not there, or anything in it is wrong.
    """
    try:
        changes = parse_overrides(overrides)
        from_table(Recipe, changes, "command line")
    except RecipeError as error:
        raise UsageError(str(error)) from None
    return read_recipe(name, changes)


def parse_overrides(words: Sequence[str]) -> Table:
    """Turn ``--optim.lr 0.1 --data.train=[...]`` into nested tables.

    A value is read as a TOML value; text that is not one is taken as a string.

    Raises:
        RecipeError: a word is not of the form ``--field.name VALUE``.
    """
    table: Table = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise RecipeError(f"'{word}' is not of the form --field.name VALUE")
        name, equals, text = word[2:].partition("=")
        if not equals:
            if not words:
                raise RecipeError(f"--{name} needs a value")
            text = words.pop(0)
        leaf: Any
        try:
            leaf = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            leaf = text
        for key in reversed(name.replace("-", "_").split(".")):
            leaf = {key: leaf}
        table = merge(table, leaf)
    return table
