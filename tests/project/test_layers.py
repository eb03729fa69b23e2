"""Imports go down only, and torch stays where it is needed."""

import ast

# From the top layer to the lowest; a package may import from its own layer and from those below.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("service",),
    ("pipelines",),
    ("verifier", "training", "report"),
    ("zoo", "clustering", "score"),
    ("corpora", "synthetic", "features", "models", "metrics"),
    ("augment",),
    ("farfield",),
    ("datadir",),
    ("audio",),
    ("ray_engine",),
    ("jobs", "options", "sharding"),
    (
        "errors", "rng", "machine", "manifest", "cache", "children", "progress", "reprs", "writers", "atomic",
        "parsing", "__init__",
    ),
)  # fmt: skip
APART = {"corpora", "synthetic", "features", "augment", "models", "metrics"}
WITHOUT_TORCH = {
    "__init__", "__main__", "errors", "rng", "cache", "progress", "reprs", "writers", "atomic", "jobs",
    "options", "parsing", "children", "sharding", "ray_engine", "audio", "datadir", "corpora", "synthetic",
    "farfield", "augment", "score", "metrics", "clustering", "report", "pipelines.extract", "pipelines.score",
    "pipelines.evaluate", "pipelines.recipe", "training.options", "verifier",
}  # fmt: skip
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def package_of(name: str) -> str | None:
    """The package that an imported name lies in; None when it is none of ours."""
    package, *parts = name.split(".")
    if package != "farvox":
        return None
    return parts[0] if parts and parts[0] in LAYER else "__init__"


def test_every_package_has_a_layer(sources):
    assert {source.package for source in sources} <= LAYER.keys()


def test_imports_go_down_only(sources):
    wrong = [
        f"{source.name}:{line}: {source.package} may not import {name}"
        for source in sources
        if source.name != "__init__"  # names what others may use
        for line, name in source.imports()
        if (package := package_of(name)) is not None
        and (
            LAYER[package] < LAYER[source.package]
            or (package != source.package and {package, source.package} <= APART)
        )
    ]
    assert wrong == []


def test_torch_is_not_imported_where_numpy_is_enough(sources):
    wrong = [
        f"{source.name}:{line}: {name}"
        for source in sources
        if {source.package, source.name} & WITHOUT_TORCH
        for line, name in source.imports()
        if name == "torch" or name.startswith(("torch.", "safetensors.torch"))
    ]
    assert wrong == []


def test_the_command_line_imports_torch_only_inside_its_verbs(sources):
    wrong = [
        f"{source.name}:{node.lineno}"
        for source in sources
        if source.package == "cli"
        for node in source.tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "torch" in ast.unparse(node)
    ]
    assert wrong == []


READ_OPTIONS = (
    "training.options", "training.trainer", "training.checkpoint", "training.objective", "training.step",
    "training.replay",
)  # fmt: skip


def test_only_the_trainer_sees_the_options_of_a_whole_training(sources):
    wrong = [
        f"{source.name}:{line}"
        for source in sources
        if source.package not in ("cli", "pipelines") and source.name not in READ_OPTIONS
        for line, name in source.imports()
        if name.startswith("farvox.training.options")
    ]
    assert wrong == []
