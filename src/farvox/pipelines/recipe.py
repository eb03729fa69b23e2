"""Recipes: TOML files that say what is trained on what, and what it is evaluated on.

A recipe is a combination of named parts, never code. Its tables are the options of training and of the other
stages; an unknown key is refused with the nearest name there is. Contradictions are found before anything is
opened or made: the annotations of the options bound every value by itself, a part that is also used without
a recipe refuses options of its own that exclude each other, and `refuse_contradictions` has the rest.
"""

from __future__ import annotations

import os
import shlex
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w

import farvox
from farvox.atomic import visible
from farvox.clustering import ClusterOptions
from farvox.errors import RecipeError
from farvox.features.specaugment import SpecAugmentOptions
from farvox.models.options import HEAD, HEADS, MODEL, HeadOptions
from farvox.options import (
    Above,
    AtLeast,
    AtMost,
    Below,
    Metavar,
    Options,
    Table,
    from_table,
    kinds,
    merge,
    nearest,
    to_table,
)
from farvox.parsing import parse_toml
from farvox.pipelines.evaluate import ConditionOptions
from farvox.pipelines.finish import FinishOptions
from farvox.pipelines.score import ScoreOptions
from farvox.progress import Note, silent
from farvox.training.options import (
    AUGMENT,
    EVERYTHING,
    FEATURES,
    SPECAUGMENT,
    InitOptions,
    OptimOptions,
    ScheduleOptions,
    TrainOptions,
    ValidateOptions,
)
from farvox.training.table import examples_per_domain

_INSIDE = Path(farvox.__file__).parent / "recipes"  # in the wheel; in a checkout they lie beside src
_ROOT = _INSIDE if _INSIDE.is_dir() else _INSIDE.parents[2] / "recipes"
_NEEDS: tuple[tuple[str, tuple[str, ...], str, str, tuple[str, ...]], ...] = (
    ("optim", ("momentum", "nesterov"), "name", "sgd", ("sgd",)),
    ("schedule", ("milestones", "gamma"), "kind", "multistep", ("multistep",)),
    ("schedule", ("final_lr",), "kind", "multistep", ("linear", "cosine", "exponential")),
    ("specaugment", ("mel_width",), "kind", "farvox", ("farvox", "both")),
    ("init", ("mean_utterances",), "classifier", "new", ("means",)),
    ("validate", ("data", "keep_embeddings"), "trials", "", ()),
    ("optim", ("release_epoch",), "freeze", "", ()),
    ("head", ("margin", "scale"), "name", HEAD.default, tuple(name for name in HEADS if name != "softmax")),
)
"""Table, options of it, the option they depend on, its default, and the values they need (none: any)."""
DATA_VERBS = ("prepare", "check", "combine", "subset", "trials", "enhance", "rirs", "noises", "simulate")
"""Verbs that the lines of ``prepare`` may begin with."""


@dataclass(frozen=True, kw_only=True)
class SelftrainTable(ClusterOptions):
    """``[selftrain]``: unlabelled speech, how it is clustered, and how often."""

    data: Path | None = None
    """Data dir without speakers, whose clusters are trained on."""
    skip_bad: bool = False
    """Leave out utterances of `data` that cannot be embedded; round-N/embeddings/rejected.tsv lists them."""
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
    """``[[adapt]]``: one further training that starts from the first."""

    name: str
    """Its name: a folder of the run dir and a row of the results."""
    set: Table = field(default_factory=dict)
    """The part of the recipe that differs, as nested tables."""


@dataclass(frozen=True, kw_only=True)
class PublishedFigures(Options):
    """``[[evaluate]] published``: figures that were published for a trial list."""

    eer: Annotated[float, AtLeast(0), AtMost(1)]
    """Equal error rate, a fraction (0.0207 is 2.07 %)."""
    min_dcf: Annotated[float, AtLeast(0)] | None = None
    """Normalised minDCF at P_target 0.01."""
    source: str
    """Paper, page or file that has them."""

    def __str__(self) -> str:
        dcf = "" if self.min_dcf is None else f", minDCF {self.min_dcf:.4f}"
        return f"published EER {100 * self.eer:.2f} %{dcf} ({self.source})"


@dataclass(frozen=True, kw_only=True)
class EvaluateTable(ScoreOptions, ConditionOptions):
    """``[[evaluate]]``: a trial list on a data dir and how it is scored; a column of the results."""

    name: str
    """Its name: that of the column and of the score file."""
    data: Path
    """Data dir that holds the utterances of the trials."""
    trials: Path
    """Trial list with labels."""
    centre: Annotated[Path | None, Metavar("DIR")] = None
    """Data dir whose mean embedding is subtracted from all others first."""
    plda: Annotated[Path | None, Metavar("DIR")] = None
    """Data dir of other speakers, several utterances of each, from which PLDA learns."""
    cohort: Annotated[Path | None, Metavar("DIR")] = None
    """Data dir of the cohort: speakers who are in no trial."""
    skip_bad: bool = False
    """Leave out utterances of these data dirs that cannot be embedded; trials of them are refused then."""
    conditions: tuple[Path, ...] = ()
    """Data dirs, files or tables with further conditions than those of data."""
    intervals: bool = False
    """Also 95 % intervals, and p-values of the differences between systems, by resampling the speakers."""
    published: PublishedFigures | None = None
    """Figures of others on this list, which are printed beside ours."""

    @property
    def dirs(self) -> tuple[Path, ...]:
        """The data dirs that are extracted for it."""
        return tuple(each for each in (self.data, self.centre, self.plda, self.cohort) if each is not None)


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainOptions):
    """A training, the data it needs, what follows it, and the trial lists at the end."""

    title: str = ""
    """Heading of the results."""
    name: str = ""
    """Name of the first training in the tables; empty: "fine-tuned" with init.model, else "trained"."""
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
    finish: FinishOptions = field(default_factory=FinishOptions)
    """What is done to the weights when they are trained."""
    adapt: tuple[AdaptTable, ...] = ()
    """Further trainings that start from the first."""
    evaluate: tuple[EvaluateTable, ...] = ()
    """Trial lists that every trained model is evaluated on."""

    @property
    def names_of_rows(self) -> tuple[str, ...]:
        """The names that the starting model, if there is one, and the first training have in tables."""
        if self.init.model:
            return "starting model", self.name or "fine-tuned"
        return (self.name or "trained",)


def recipe_names() -> list[str]:
    """Names of all recipes: path below ``recipes/`` without ``.toml``; ``x/recipe.toml`` is just ``x``."""
    names = (path.relative_to(_ROOT).with_suffix("").as_posix() for path in visible(_ROOT, "**/*.toml"))
    return sorted(name.removesuffix("/recipe") for name in names)


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by name.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    for path in (Path(name), _ROOT / f"{name}.toml", _ROOT / name / "recipe.toml"):
        if path.is_file():
            return path
    hint = nearest(name, recipe_names()) or "; 'farvox recipes' lists those that come with farvox"
    raise RecipeError(f"no recipe '{name}': neither a file nor a name{hint}")


def default_run_dir(name: str) -> Path:
    """``exp/<name>``: the folder of a recipe's results by default."""
    path = Path(name)
    return Path("exp") / (path.stem if path.suffix == ".toml" else path)


def read_recipe(name: str, changes: Mapping[str, Any] | None = None, *, note: Note = silent) -> Recipe:
    """A recipe by path or name, with ``changes`` (nested tables) and with every ``$name`` in it expanded.

    Args:
        note: called with a line on each option that was written and has no effect.

    Raises:
        RecipeError: the recipe is not there, or anything in it is wrong.
    """
    path = find_recipe(name)
    written = read_toml(path)
    table = merge(written, changes or {})
    from_table(Recipe, table, str(path))  # names a fault as it is written, before paths are expanded
    for where, added, whole in (
        (str(path), written, written),
        ("command line", changes or {}, table),
        *(
            (f"{path}: [[adapt]] {each['name']}", each["set"], merge(table, each["set"]))
            for each in table.get("adapt", ())
            if each.keys() >= {"name", "set"}
        ),
    ):
        for line in _idle(added, whole):
            note(f"note: {where}: {line}")
    return from_table(Recipe, expand_paths(table), str(path))


def _idle(added: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[str]:
    """A line on each option of ``added`` that has no effect in the recipe ``whole``; both are tables."""
    parts = {"specaugment": SpecAugmentOptions, "head": HeadOptions}
    full = {"optim": OptimOptions, "schedule": ScheduleOptions} | parts
    full |= {"init": InitOptions, "validate": ValidateOptions}
    for table, keys, chooser, default, needed in _NEEDS:
        entries, chosen_from = added.get(table, {}), whole.get(table, {})
        if not (isinstance(entries, Mapping) and isinstance(chosen_from, Mapping)):
            continue  # an adaptation that is refused when it is looked at
        chosen = chosen_from.get(chooser, default)
        is_saved = entries.keys() >= kinds(full[table]).keys()  # as a run dir's recipe.toml has them
        if chosen in needed or (chosen and not needed) or is_saved:
            continue
        for key in (key for key in keys if key in entries):
            words = " or ".join(f"'{each}'" for each in needed)
            only = (
                f"with {table}.{chooser} = '{chosen}', only with {words}"
                if needed
                else f"without {table}.{chooser}"
            )
            yield f"{table}.{key} has no effect {only}"


def read_toml(path: Path) -> Table:
    """The content of a recipe file.

    Raises:
        RecipeError: the file is missing or is not TOML; names the file and line.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file") from None
    except ValueError as error:
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
    """The recipe by which a round of self-training trains on the pseudo-labelled data dir, too.

    Its training starts from ``model``, where one is given, instead of ``init.model``.
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

    quoted = {name: shlex.quote(value) for name, value in known.items()}  # one word, whatever is in it

    def expanded(value: Any, where: str) -> Any:
        if isinstance(value, str):
            return substitute(value, quoted if where == "prepare" else known, where)
        if isinstance(value, Mapping):
            return {key: expanded(item, f"{where}.{key}" if where else key) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [expanded(item, where) for item in value]
        return value

    return {
        key: known if key == "paths" else value if key in ("title", "notes") else expanded(value, key)
        for key, value in table.items()
    }


def refuse_contradictions(recipe: TrainOptions, *, num_processes: int = 1, selftrains: bool = False) -> None:
    """Refuse a recipe, or the options of one training, that cannot be run as a whole.

    The trainings that a recipe derives from itself are looked at, too: one for each adaptation and, where it
    ``selftrains``, that of a round.

    Raises:
        RecipeError: names the fields that contradict each other, and the remedy.
    """
    _refuse_training(recipe, num_processes)
    if not isinstance(recipe, Recipe):
        return
    for table, names, taken in (
        ("adapt", [each.name for each in recipe.adapt], {"train", "start", *recipe.names_of_rows}),
        ("evaluate", [each.name for each in recipe.evaluate], set()),
    ):
        for name in names:
            is_file_name = name.isprintable() and name.strip(". ") and len(name.encode()) <= 200
            if not is_file_name or set(name) & set("/\\") or name in taken or names.count(name) > 1:
                raise RecipeError(
                    f"[[{table}]] name = '{name}': give each a name of its own that a file can have, of at"
                    " most 200 bytes and without '/' and '\\'"
                )
    if recipe.finish.start and not recipe.init.model:
        raise RecipeError("finish.start is a share of the starting model, and there is none: set init.model")
    for each in recipe.evaluate:
        if each.conditions and not (each.by or each.cohort_by):
            raise RecipeError(f"[[evaluate]] {each.name}: conditions are for by, which names none")
    for line in recipe.prepare:
        if (shlex.split(line) or [""])[0] not in DATA_VERBS:
            raise RecipeError(f"prepare: '{line}' does not begin with one of {', '.join(DATA_VERBS)}")
    for adapt in recipe.adapt:
        further = adapted(recipe, adapt, model="train")
        try:
            _refuse_training(further, num_processes)
        except RecipeError as error:
            raise RecipeError(f"[[adapt]] {adapt.name}: {error}") from None
    if selftrains:
        if not recipe.selftrain.data:
            raise RecipeError("selftrain.data is missing: name the data dir whose speakers are to be found")
        if not recipe.init.model:
            raise RecipeError("init.model is missing: self-training begins with a trained model")
        if recipe.selftrain.share and not recipe.data.domain_weights and len(recipe.data.train) > 1:
            raise RecipeError(
                "selftrain.share divides a batch between data.train and the clusters; with several data "
                "dirs there, data.domain_weights must divide their part"
            )
        _refuse_training(with_labels(recipe, labels="labels"), num_processes)


def _refuse_training(options: TrainOptions, num_processes: int) -> None:
    """Refuse the options of one training."""
    data, optim, schedule, distill = options.data, options.optim, options.schedule, options.distill
    starts, weights = bool(options.init.model), data.domain_weights
    copies = options.agree.copies
    of_one = optim.accumulate * copies
    of_pairs = " of pairs (agree.weight)" if copies > 1 else ""
    passes, chunks = num_processes * of_one, optim.batch_size // copies
    fewer = next((n for n in range(num_processes - 1, 0, -1) if optim.batch_size % (n * of_one) == 0), 0)
    for wrong, message in (
        (
            schedule.epochs <= schedule.first_epoch,
            f"schedule.epochs = {schedule.epochs}: training ends before its first epoch, "
            f"{schedule.first_epoch}; epochs are numbered through, so give the number after the last",
        ),
        (
            schedule.extend and schedule.kind in ("linear", "cosine") and not schedule.final_lr,
            f"schedule.extend = {schedule.extend}: the learning rate is 0 at the end of schedule.kind = "
            f"'{schedule.kind}', and more epochs at 0 train nothing: set schedule.final_lr in a new run, or "
            "raise schedule.epochs instead, by which the rate rises again",
        ),
        (
            schedule.kind == "exponential" and not 0 < schedule.final_lr <= optim.lr,
            "schedule.kind = 'exponential' needs 0 < schedule.final_lr <= optim.lr, "
            f"not {schedule.final_lr:g} and {optim.lr:g}",
        ),
        (
            len(schedule.margin_epochs) not in (0, 2)
            or list(schedule.margin_epochs) != sorted(schedule.margin_epochs),
            f"schedule.margin_epochs = {list(schedule.margin_epochs)}: give the epochs where the margin's "
            "growth starts and ends",
        ),
        (
            optim.batch_size % passes != 0,
            f"optim.batch_size {optim.batch_size} does not divide into {num_processes} process(es) "
            f"x {optim.accumulate} accumulation steps{of_pairs}: set optim.batch_size to "
            f"{-(-optim.batch_size // passes) * passes}"
            + f", or start {fewer} process(es), which takes the same batches"
            * (fewer > 0),
        ),
        (
            weights and len(weights) != len(data.train),
            f"data.domain_weights has {len(weights)} entries, data.train {len(data.train)} dirs",
        ),
        (
            weights and examples_per_domain(weights, chunks).min() < 1,
            f"data.domain_weights = {list(weights)}: every weight must be worth at least one of the "
            f"{chunks} {'chunks' if copies > 1 else 'examples'} of a batch",
        ),
        (
            not data.speeds or len(set(data.speeds)) < len(data.speeds),
            f"data.speeds = {list(data.speeds)}: give at least one factor, and none twice",
        ),
        (
            not distill.weight and not distill.classify,
            "distill.weight and distill.classify are both 0: there is nothing to minimise"
            + ", for agree.weight alone would make all embeddings one" * (copies > 1),
        ),
        (
            EVERYTHING in optim.freeze and not distill.classify,
            "the network is frozen and the head is not trained (distill.classify = 0)",
        ),
        (
            optim.sample_classes < 1.0 and not optim.shard_head,
            "optim.sample_classes draws from shards: set optim.shard_head = true",
        ),
        (
            optim.shard_head and not distill.classify,
            "optim.shard_head: distill.classify = 0 leaves no head to train; leave it out",
        ),
        (
            optim.shard_head and optim.precision == "fp16",
            "optim.shard_head and optim.precision = 'fp16' exclude each other; use 'bf16'",
        ),
        (
            optim.compile and optim.checkpointing,
            "optim.compile and optim.checkpointing exclude each other; set one of them",
        ),
        (
            options.validate.trials and not options.validate.data,
            "validate.trials needs the data dir of its utterances: set validate.data",
        ),
        (distill.weight and not starts, "distill.weight needs a model to start from: set init.model"),
        (optim.l2_sp and not starts, "optim.l2_sp needs a model to start from: set init.model"),
        (
            options.init.classifier != "new" and not starts,
            f"init.classifier = '{options.init.classifier}' needs a model to start from: set init.model",
        ),
        (
            not starts and not options.model.get(MODEL.key),
            "the recipe names no architecture: set model.name ('farvox models' lists them)",
        ),
    ):
        if wrong:
            raise RecipeError(message)
    AUGMENT.read(options.augment, "[augment]")
    HEAD.read(options.head, "[head]")
    if options.specaugment:
        SPECAUGMENT.read(options.specaugment, "[specaugment]")
    if starts:  # from a model that brings front-end and network along
        return
    frontend, network = FEATURES.read(options.features, "[features]"), MODEL.read(options.model, "[model]")
    if "num_mels" in options.model and network.num_mels != frontend.num_mels:
        raise RecipeError(
            f"model.num_mels = {network.num_mels}, but features.num_mels = {frontend.num_mels}: leave it out"
        )
    if options.specaugment and frontend.kind == "waveform":
        raise RecipeError("[specaugment] masks bands of mels, and a waveform has none; leave it out")
