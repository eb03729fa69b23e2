"""Imports go down only, and torch stays where it is needed."""

import ast

# From the top of the house to its foundations; a room may import from its own floor and from those below.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("verifier", "export", "adapt"),
    ("train", "extract", "score", "report"),
    ("zoo", "data"),
    ("corpora", "features", "augment", "models", "metrics"),
    ("acoustics",),
    ("io",),
    (
        "recipe", "recipe_evaluate", "recipe_selftrain", "types", "errors", "rng", "memory", "precision",
        "progress", "__init__",
    ),
)  # fmt: skip
APART = {"corpora", "features", "augment", "models", "metrics"}
WITHOUT_TORCH = {
    "__init__", "__main__", "types", "errors", "rng", "memory", "progress", "recipe", "recipe_evaluate",
    "recipe_selftrain",
    "io", "acoustics", "corpora", "augment", "score", "metrics", "report", "extract", "verifier",
}  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(name: str) -> str | None:
    """The room that an imported name lies in; None when it is none of ours."""
    package, *parts = name.split(".")
    if package != "farvox":
        return None
    return parts[0] if parts and parts[0] in FLOOR else "__init__"


def test_every_room_is_on_a_floor(sources):
    assert {source.room for source in sources} <= FLOOR.keys()


def test_imports_go_down_only(sources):
    wrong = [
        f"{source.name}:{line}: {source.room} may not import {name}"
        for source in sources
        if source.name != "__init__"  # the front door names what others may use
        for line, name in source.imports()
        if (room := room_of(name)) is not None
        and (FLOOR[room] < FLOOR[source.room] or (room != source.room and {room, source.room} <= APART))
    ]
    assert wrong == []


def test_torch_is_not_imported_where_numpy_is_enough(sources):
    wrong = [
        f"{source.name}:{line}: {name}"
        for source in sources
        if source.room in WITHOUT_TORCH
        for line, name in source.imports()
        if name == "torch" or name.startswith(("torch.", "safetensors.torch"))
    ]
    assert wrong == []


def test_the_command_line_imports_torch_only_inside_its_verbs(sources):
    wrong = [
        f"{source.name}:{node.lineno}"
        for source in sources
        if source.room == "cli"
        for node in source.tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "torch" in ast.unparse(node)
    ]
    assert wrong == []


READ_RECIPES = ("train.trainer", "train.claim", "train.contradictions")


def test_only_the_command_line_and_the_trainer_see_a_recipe(sources):
    wrong = [
        f"{source.name}:{line}"
        for source in sources
        if source.room not in ("cli", "recipe") and source.name not in READ_RECIPES
        for line, name in source.imports()
        if name.startswith("farvox.recipe")
    ]
    assert wrong == []
