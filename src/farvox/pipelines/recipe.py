"""Recipes: TOML files that say what is trained on what, and what it is evaluated on.

A recipe is a combination of named parts, never code. Its tables are the options of training and of the other
stages; an unknown key is refused with the nearest name there is.
"""

from __future__ import annotations

import os
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w

import farvox
from farvox.clustering import ClusterOptions
from farvox.errors import RecipeError
from farvox.options import (
    Above,
    AtLeast,
    Below,
    Metavar,
    Options,
    Table,
    from_table,
    merge,
    nearest,
    to_table,
)
from farvox.pipelines.score import ScoreOptions
from farvox.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class SelftrainTable(ClusterOptions):
    """``[selftrain]``: unlabelled speech, how it is clustered, and how often."""

    data: Path | None = None
    """Data dir without speakers, whose clusters are trained on."""
    truth: Path | None = None
    """Its true utt2spk, for NMI and purity alone; empty: unknown."""
    rounds: Annotated[int, AtLeast(1)] = 3
    """Rounds at most."""
    stable: Annotated[float, Above(0)] = 0.98
    """Stop when the labels of two rounds agree with at least this NMI."""
    start: Literal["first", "last"] = "first"
    """Each round's training starts from the "first" model (init.model) or from the "last" round's."""
    share: Annotated[float, AtLeast(0), Below(1)] = 0.0
    """Share of the pseudo-labelled data dir in every batch; 0: as large as it is."""
    min_size: Annotated[int, AtLeast(1)] = 2
    """Least utterances of a cluster, counted after the other conditions; smaller clusters are dropped."""
    agreement: bool = False
    """From round 2 on, keep only utterances whose clusters of both rounds are each other's partner."""


@dataclass(frozen=True, kw_only=True)
class AdaptTable(Options):
    """``[[adapt]]``: one further training that starts from the pre-trained model."""

    name: str
    """Its name: a folder of the run dir and a row of the results."""
    set: Table = field(default_factory=dict)
    """The part of the recipe that differs, as nested tables."""


@dataclass(frozen=True, kw_only=True)
class EvaluateTable(ScoreOptions):
    """``[[evaluate]]``: a trial list on a data dir and how it is scored; a column of the results."""

    name: str
    """Its name: that of the column and of the score file."""
    data: Path
    """Data dir that holds the utterances of the trials."""
    trials: Path
    """Trial list with labels."""
    centre: Annotated[Path | None, Metavar("DIR")] = None
    """Data dir whose mean embedding is subtracted from all others first."""
    cohort: Annotated[Path | None, Metavar("DIR")] = None
    """Data dir of the cohort: speakers who are in no trial."""
    by: tuple[str, ...] = ()
    """Conditions by which the figures are also shown, of the test side or, after "enrol.", of the other."""
    conditions: tuple[Path, ...] = ()
    """Data dirs that have them; empty: data."""

    @property
    def dirs(self) -> tuple[Path, ...]:
        """The data dirs that are extracted for it."""
        return tuple(each for each in (self.data, self.centre, self.cohort) if each is not None)


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainOptions):
    """A training, the data it needs, what follows it, and the trial lists at the end."""

    title: str = ""
    """Heading of the results."""
    notes: tuple[str, ...] = ()
    """Remarks that a reader of the results needs; printed below the table and in the report."""
    run_dir: Path | None = None
    """Folder of the results; empty: exp/NAME of the recipe."""
    paths: Table = field(default_factory=dict)
    """Names for $name in any path of the recipe; values may name environment variables."""
    prepare: tuple[str, ...] = ()
    """Lines of farvox's data verbs that make the data dirs."""
    selftrain: SelftrainTable = SelftrainTable()
    """Rounds of clustering unlabelled speech and training on the clusters."""
    adapt: tuple[AdaptTable, ...] = ()
    """Further trainings that start from the first."""
    evaluate: tuple[EvaluateTable, ...] = ()
    """Trial lists that every trained model is evaluated on."""


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
    hint = nearest(name, recipe_names()) or "; 'farvox recipes' lists those that come with farvox"
    raise RecipeError(f"no recipe '{name}': neither a file nor a name{hint}")


def default_run_dir(name: str) -> Path:
    """``exp/<name>``: the folder of a recipe's results by default."""
    path = Path(name)
    return Path("exp") / (path.stem if path.suffix == ".toml" else path)


def read_recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by path or name, with ``changes`` (nested tables) and with every ``$name`` in it expanded.

    Raises:
        RecipeError: the recipe is not there, or anything in it is wrong.
    """
    path = find_recipe(name)
    table = merge(read_toml(path), changes or {})
    from_table(Recipe, table, str(path))  # names a fault as it is written, before paths are expanded
    return from_table(Recipe, expand_paths(table), str(path))


def read_toml(path: Path) -> Table:
    """The content of a recipe file.

    Raises:
        RecipeError: the file is missing or is not TOML; names the file and line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from None


def adapted(recipe: Recipe, adapt: AdaptTable, model: str | Path) -> Recipe:
    """The recipe of a further training that starts from ``model``, the one that the recipe trains first.

    Raises:
        RecipeError: it changes fields that there are not, or to values that do not fit.
    """
    table = merge(to_table(recipe), {"init": {"model": str(model)}})
    table = merge({**table, "adapt": [], "features": {}}, adapt.set)
    return from_table(Recipe, table, f"[[adapt]] {adapt.name}")


def with_labels(recipe: Recipe, labels: str | Path, model: str | Path | None = None) -> Recipe:
    """The recipe by which a round of self-training trains, with the pseudo-labelled data dir added.

    Args:
        recipe: of the self-training.
        labels: the pseudo-labelled data dir.
        model: starts the training instead of ``init.model``.
    """
    data, share = recipe.data, recipe.selftrain.share
    change: Table = {"data": {"train": [*map(str, data.train), str(labels)]}}
    if share and data.train:
        known = data.domain_weights or (1.0,)
        rest = [weight * (1 - share) / sum(known) for weight in known]
        change["data"]["domain_weights"] = [*rest, share]
    if model is not None:
        change["init"] = {"model": str(model)}
    table = {**merge(to_table(recipe), change), "adapt": [], "selftrain": {}}
    return from_table(Recipe, table, f"training on {labels}")


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe as TOML text that is read back to an equal recipe."""
    return tomli_w.dumps(to_table(recipe))


def expand_paths(table: Mapping[str, Any]) -> Table:
    """Replace ``$name`` in every string by the entry of ``[paths]`` of that name.

    Values of ``[paths]`` may themselves name environment variables and earlier entries.

    Raises:
        RecipeError: a name is neither in ``[paths]`` nor, for the values of ``[paths]``, in the environment.
    """

    def substitute(text: str, known: Mapping[str, str], where: str) -> str:
        try:
            return string.Template(text).substitute(known)
        except KeyError as error:
            name = error.args[0]
            remedy = (
                f"set the environment variable {name}, or give --{where} DIR"
                if where.startswith("paths.")
                else f"give --paths.{name} DIR"
            )
            raise RecipeError(f"{where} = '{text}': ${name} is not known; {remedy}") from None
        except ValueError as error:
            raise RecipeError(f"{where} = '{text}': {error}; write $$ for a dollar sign") from None

    known: dict[str, str] = {}
    for name, value in dict(table.get("paths", {})).items():
        known[name] = substitute(str(value), {**os.environ, **known}, f"paths.{name}")

    def expanded(value: Any, where: str) -> Any:
        if isinstance(value, str):
            return substitute(value, known, where)
        if isinstance(value, Mapping):
            return {key: expanded(item, f"{where}.{key}" if where else key) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [expanded(item, where) for item in value]
        return value

    return {
        key: known if key == "paths" else value if key in ("title", "notes") else expanded(value, key)
        for key, value in table.items()
    }
