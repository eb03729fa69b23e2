"""Contradictions in a recipe, found before anything is opened or made.

The annotations of the options bound every value by itself, and a part that is also used without a recipe (a
network, a front-end, an augmentation, a scoring) refuses options of its own that exclude each other. The rest
is here.
"""

from __future__ import annotations

import shlex

from farvox.errors import RecipeError
from farvox.models.options import HEAD, MODEL
from farvox.pipelines.recipe import Recipe, adapted, with_labels
from farvox.training.options import AUGMENT, EVERYTHING, FEATURES, SPECAUGMENT, TrainOptions
from farvox.training.table import examples_per_domain

DATA_VERBS = ("prepare", "check", "combine", "subset", "trials", "enhance", "rirs", "noises", "simulate")
"""Verbs that the lines of ``prepare`` may begin with."""


def refuse_contradictions(recipe: TrainOptions, *, num_processes: int = 1, selftrains: bool = False) -> None:
    """Refuse a recipe, or the options of one training, that cannot be run as a whole.

    Args:
        recipe: the trainings that it derives from itself are looked at, too.
        num_processes: ranks that train together.
        selftrains: it is to be run in rounds of self-training.

    Raises:
        RecipeError: names the fields that contradict each other, and the remedy.
    """
    _refuse_training(recipe, num_processes)
    if not isinstance(recipe, Recipe):
        return
    for table, names, taken in (
        ("adapt", [each.name for each in recipe.adapt], {"train", "pre-trained"}),
        ("evaluate", [each.name for each in recipe.evaluate], set()),
    ):
        for name in names:
            if not name.strip(". ") or "/" in name or name in taken or names.count(name) > 1:
                raise RecipeError(f"[[{table}]] name = '{name}': give each a name of its own, without '/'")
    for each in recipe.evaluate:
        if each.conditions and not each.by:
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
    for wrong, message in (
        (
            schedule.epochs <= schedule.first_epoch,
            f"schedule.epochs = {schedule.epochs}: training ends before its first epoch, "
            f"{schedule.first_epoch}; epochs are numbered through, so give the number after the last",
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
            optim.batch_size % (num_processes * optim.accumulate) != 0,
            f"optim.batch_size {optim.batch_size} does not divide into {num_processes} process(es) "
            f"x {optim.accumulate} accumulation steps",
        ),
        (
            weights and len(weights) != len(data.train),
            f"data.domain_weights has {len(weights)} entries, data.train {len(data.train)} dirs",
        ),
        (
            weights and examples_per_domain(weights, optim.batch_size).min() < 1,
            f"data.domain_weights = {list(weights)}: every weight must be worth at least one of the "
            f"{optim.batch_size} examples of a batch",
        ),
        (
            not data.speeds or len(set(data.speeds)) < len(data.speeds),
            f"data.speeds = {list(data.speeds)}: give at least one factor, and none twice",
        ),
        (
            not distill.weight and not distill.classify,
            "distill.weight and distill.classify are both 0: there is nothing to minimise",
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
