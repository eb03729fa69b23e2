"""Recipes: what to train on what, as frozen dataclasses that read and write TOML.

A recipe is a combination of named parts, never code. Tables whose keys belong to a part
(``[features]``, ``[model]``, ``[head]``, ``[augment]``, ``[specaugment]``) are open here and checked by
that part's own constructor; every other key is checked here, and an unknown one is refused with
the nearest name there is.
"""

from __future__ import annotations

import dataclasses
import difflib
import operator
import os
import string
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from farvox.errors import RecipeError
from farvox.recipe_evaluate import CHOICES, EvaluateRecipe
from farvox.recipe_selftrain import SelftrainRecipe

Table = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """What is drawn for training, and how."""

    train: tuple[str, ...] = ()
    """Data dirs to train on; each is a domain of its own."""
    num_frames: int = 200
    """Length of a training chunk in frames of the front-end."""
    sampling: str = "utterance"
    """``utterance``: every utterance once an epoch; ``speaker``: every speaker equally often."""
    reserve: tuple[str, ...] = ()
    """Data dirs whose speakers get classifier rows, but are not trained on yet."""
    domain_weights: tuple[float, ...] = ()
    """Share of each data dir in every batch; empty: as large as each is."""
    epoch_size: int = 0
    """Examples in an epoch; 0: as many as there are utterances."""
    speeds: tuple[float, ...] = (1.0,)
    """Speed factors; each factor other than 1 makes a new speaker of every speaker."""
    workers: int = 2
    """Processes that read and augment."""
    features: str = "device"
    """Where features are computed: ``device`` (where the network is) or ``workers``."""


@dataclass(frozen=True, kw_only=True)
class InitRecipe:
    """Where training starts from."""

    model: str = ""
    """A MODEL (model folder, run dir, RUN_DIR@37, a name of the zoo); empty: new weights."""
    classifier: str = "new"
    """``new``: a fresh one; ``means``: the speakers' mean embeddings by the model; ``keep``: the model's own,
    same speakers; ``extend``: its rows, then new ones."""
    mean_utterances: int = 10
    """Utterances of each speaker in the means of ``means``."""


@dataclass(frozen=True, kw_only=True)
class DistillRecipe:
    """The frozen starting model as a teacher that hears every chunk before it is augmented."""

    weight: float = 0.0
    """Weight of 1 - cosine between an embedding and the teacher's; 0: no teacher."""
    classify: float = 1.0
    """Weight of the classification loss; 0: the head is left alone and no speaker labels are needed."""


@dataclass(frozen=True, kw_only=True)
class OptimRecipe:
    """The optimiser and its step."""

    name: str = "sgd"
    """``sgd``, ``adam`` or ``adamw``."""
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-3
    batch_size: int = 128
    """Examples of one optimiser step, over all ranks and accumulation steps."""
    accumulate: int = 1
    """Forward-backward passes per optimiser step."""
    l2_sp: float = 0.0
    """Strength of the pull back to the network's starting weights (L2-SP); for the network it takes the place
    of ``weight_decay``."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0: not clipped."""
    precision: str = "fp32"
    """``fp32``, or autocast to ``bf16`` or ``fp16``; ``auto``: bf16 where the device has it, else fp32."""
    sync_batchnorm: bool = False
    """BatchNorm statistics over all ranks; default: per rank, as in the baseline."""
    freeze_batchnorm: bool = False
    """BatchNorm keeps its running statistics (evaluation mode) while training."""
    freeze: tuple[str, ...] = ()
    """Parts of the network that are not trained, by the beginning of their names; ``network``: all of it."""
    release_epoch: int = 0
    """The first epoch in which the frozen parts are trained too; 0: none."""
    channels_last: str = "auto"
    """Memory order of the convolutions: ``on``, ``off``, or ``auto``, the faster one on this device."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    compile: bool = False
    """Run the network through torch.compile; the first step then takes a minute or more."""
    shard_head: bool = False
    """Each rank holds the classifier's rows of a part of the classes: the same training, less memory."""
    sample_classes: float = 1.0
    """Share of a shard's classes that a step sees, besides those of its batch; needs ``shard_head``."""


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """How long, and at which learning rate and margin."""

    epochs: int = 40
    """Training ends before this epoch number."""
    first_epoch: int = 0
    """Number of the first epoch (the homework continues at 44); milestones count from it, warm-up from 0."""
    kind: str = "multistep"
    """``multistep``, ``linear``, ``cosine``, ``exponential`` or ``constant``."""
    milestones: tuple[int, ...] = (10, 20, 30)
    gamma: float = 0.1
    final_lr: float = 0.0
    """Learning rate at the end of ``linear``, ``cosine`` and ``exponential``."""
    warmup_epochs: float = 2.0
    """Epochs of linear warm-up; a fraction of one is possible."""
    margin_epochs: tuple[float, ...] = ()
    """(start, end): the margin is 0 until epoch start and grows to its full value until epoch end."""


@dataclass(frozen=True, kw_only=True)
class ValidateRecipe:
    """The trial list scored after each epoch."""

    data: str = ""
    trials: str = ""
    every: int = 1
    """Epochs between validations; the last epoch is always validated."""


@dataclass(frozen=True, kw_only=True)
class LogRecipe:
    """What is written while training."""

    every: int = 20
    """Steps between two progress figures."""
    tensorboard: bool = False
    keep: int = 0
    """Checkpoints kept; 0: all."""


@dataclass(frozen=True, kw_only=True)
class AdaptRecipe:
    """One further training that starts from the pre-trained model."""

    name: str = ""
    set: Table = field(default_factory=dict)
    """The part of the recipe that differs, as nested tables."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything one run needs."""

    title: str = ""
    notes: tuple[str, ...] = ()
    """What a reader of the results must know; printed below the table and in the report."""
    seed: int = 3007
    run_dir: str = ""
    """Where results go; empty: ``exp/<name of the recipe>``."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps``."""
    threads: int = 0
    """CPU threads of a training process; 0: torch's own choice."""
    paths: Table = field(default_factory=dict)
    """Names for ``$name`` in any path of the recipe; values may name environment variables."""
    prepare: tuple[str, ...] = ()
    """Lines of farvox's data verbs that make the data dirs (the ``prepare`` stage of ``farvox run``)."""
    data: DataRecipe = field(default_factory=DataRecipe)
    features: Table = field(default_factory=dict)
    augment: Table = field(default_factory=dict)
    specaugment: Table = field(default_factory=dict)
    model: Table = field(default_factory=dict)
    head: Table = field(default_factory=dict)
    init: InitRecipe = field(default_factory=InitRecipe)
    distill: DistillRecipe = field(default_factory=DistillRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    validate: ValidateRecipe = field(default_factory=ValidateRecipe)
    log: LogRecipe = field(default_factory=LogRecipe)
    selftrain: SelftrainRecipe = field(default_factory=SelftrainRecipe)
    adapt: tuple[AdaptRecipe, ...] = ()
    evaluate: tuple[EvaluateRecipe, ...] = ()


_LEAST = {
    "seed": 0, "threads": 0, "data.num_frames": 1, "data.epoch_size": 0, "data.workers": 0,
    "optim.lr": 0, "optim.momentum": 0, "optim.weight_decay": 0, "optim.batch_size": 1, "optim.accumulate": 1,
    "optim.clip_norm": 0, "optim.l2_sp": 0, "optim.release_epoch": 0,
    "distill.weight": 0, "distill.classify": 0, "init.mean_utterances": 1,
    "schedule.first_epoch": 0, "schedule.warmup_epochs": 0, "schedule.final_lr": 0,
    "log.every": 1, "log.keep": 0,
}  # fmt: skip
"""The least value that a number of a recipe may have."""


def load_table(path: Path) -> Table:
    """Read a TOML file.

    Raises:
        RecipeError: the file is missing or is not TOML; names the file and line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from None


def parse_recipe(table: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Build a `Recipe` from nested tables.

    Raises:
        RecipeError: an unknown key (with the nearest name), or a value of the wrong kind or out of range.
    """
    optim = table.get("optim")
    if isinstance(optim, Mapping) and isinstance(optim.get("channels_last"), bool):
        # Older recipes say true or false.
        table = merge(table, {"optim": {"channels_last": "on" if optim["channels_last"] else "off"}})
    recipe: Recipe = _build(Recipe, table, source)
    for name, value, allowed in (
        ("data.sampling", recipe.data.sampling, ("utterance", "speaker")),
        ("data.features", recipe.data.features, ("device", "workers")),
        ("init.classifier", recipe.init.classifier, ("new", "means", "keep", "extend")),
        ("optim.name", recipe.optim.name, ("sgd", "adam", "adamw")),
        ("optim.precision", recipe.optim.precision, ("auto", "fp32", "bf16", "fp16")),
        ("optim.channels_last", recipe.optim.channels_last, ("auto", "on", "off")),
        ("schedule.kind", recipe.schedule.kind, ("multistep", "linear", "cosine", "exponential", "constant")),
        ("device", recipe.device, ("auto", "cpu", "cuda", "mps")),
        *(
            (f"[[evaluate]] '{each.name}': {name}", getattr(each, name), allowed)
            for each in recipe.evaluate
            for name, allowed in CHOICES.items()
        ),
    ):
        if value not in allowed:
            choices = ", ".join(filter(None, allowed))
            raise RecipeError(f"{source}: {name} = '{value}'; it must be one of {choices}")
    for name, least in _LEAST.items():
        if not (number := operator.attrgetter(name)(recipe)) >= least:
            raise RecipeError(f"{source}: {name} = {number}; it must be at least {least}")
    return recipe


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe as TOML text that `parse_recipe` reads back to an equal recipe."""
    return tomli_w.dumps(recipe_to_table(recipe))


def recipe_to_table(recipe: Recipe) -> Table:
    """The recipe as nested tables."""
    table: Table = _plain(dataclasses.asdict(recipe))
    return table


def merge(table: Mapping[str, Any], change: Mapping[str, Any]) -> Table:
    """A copy of ``table`` in which the leaves of ``change`` have taken the place of its own."""
    merged = dict(table)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged


def parse_overrides(words: Sequence[str]) -> Table:
    """Turn ``--optim.lr 0.1 --data.train=[...]`` into nested tables.

    A value is read as a TOML value; what is not one is taken as a string.

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
        leaf: Any = _toml_value(text)
        for key in reversed(name.replace("-", "_").split(".")):
            leaf = {key: leaf}
        table = merge(table, leaf)
    return table


def expand_paths(table: Mapping[str, Any]) -> Table:
    """Replace ``$name`` in every string by the entry of ``[paths]`` of that name.

    Values of ``[paths]`` may themselves name environment variables and earlier entries.

    Raises:
        RecipeError: a name is neither in ``[paths]`` nor, for the values of ``[paths]``, in the environment.
    """
    known: dict[str, str] = {}
    for name, value in dict(table.get("paths", {})).items():
        known[name] = _substitute(str(value), {**os.environ, **known}, f"paths.{name}")

    def walk(value: Any, where: str) -> Any:
        if isinstance(value, str):
            return _substitute(value, known, where)
        if isinstance(value, Mapping):
            return {key: walk(item, f"{where}.{key}" if where else key) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(item, where) for item in value]
        return value

    return {
        key: known if key == "paths" else value if key in ("title", "notes") else walk(value, key)
        for key, value in table.items()
    }


def _substitute(text: str, known: Mapping[str, str], where: str) -> str:
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


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _build(cls: Any, table: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(hints)}"
            raise RecipeError(f"{where}: unknown key '{key}'{hint}")
    return cls(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in table.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} must be a table, not {value!r}")
        return _build(kind, value, where)
    if isinstance(kind, types.GenericAlias) and kind.__origin__ is tuple:
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{where} must be a list, not {value!r}")
        return tuple(_convert(kind.__args__[0], item, where) for item in value)
    if isinstance(kind, types.GenericAlias) and kind.__origin__ is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} must be a table, not {value!r}")
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise RecipeError(f"{where} must be of type {kind.__name__}, not {value!r}")
    return value
