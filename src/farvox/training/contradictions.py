"""What in a recipe cannot be together: found out before anything is opened or made."""

from __future__ import annotations

from farvox.errors import RecipeError
from farvox.models.options import HEAD, MODEL
from farvox.training.network import EVERYTHING
from farvox.training.options import AUGMENT, FEATURES, SPECAUGMENT, TrainOptions


def refuse_contradictions(options: TrainOptions, num_processes: int) -> None:
    """Refuse fields of a recipe that contradict each other, or the number of processes.

    Raises:
        RecipeError: what contradicts what, and what to set.
    """
    _refuse_counts(options, num_processes)
    _refuse_nothing_to_train(options)
    _refuse_shards(options)
    _refuse_without_model(options)
    _refuse_parts(options)
    if options.validate.trials and not options.validate.data:
        raise RecipeError("validate.trials needs the data dir of its utterances: set validate.data")
    if options.optim.compile and options.optim.checkpointing:
        raise RecipeError("optim.compile and optim.checkpointing exclude each other; set one of them")


def _refuse_counts(options: TrainOptions, num_processes: int) -> None:
    optim, data, schedule = options.optim, options.data, options.schedule
    if schedule.epochs <= schedule.first_epoch:
        raise RecipeError(
            f"schedule.epochs = {schedule.epochs}: training ends before its first epoch, "
            f"{schedule.first_epoch}; epochs are numbered through, so give the number after the last"
        )
    if optim.batch_size % (num_processes * optim.accumulate):
        raise RecipeError(
            f"optim.batch_size {optim.batch_size} does not divide into {num_processes} process(es) "
            f"x {optim.accumulate} accumulation steps"
        )
    if data.domain_weights and len(data.domain_weights) != len(data.train):
        raise RecipeError(
            f"data.domain_weights has {len(data.domain_weights)} entries, data.train {len(data.train)} dirs"
        )


def _refuse_nothing_to_train(options: TrainOptions) -> None:
    distill = options.distill
    if not distill.weight and not distill.classify:
        raise RecipeError("distill.weight and distill.classify are both 0: there is nothing to minimise")
    if EVERYTHING in options.optim.freeze and not distill.classify:
        raise RecipeError("the network is frozen and the head is not trained (distill.classify = 0)")


def _refuse_shards(options: TrainOptions) -> None:
    """What a head in shards cannot be combined with."""
    optim = options.optim
    if optim.sample_classes < 1.0 and not optim.shard_head:
        raise RecipeError("optim.sample_classes draws from shards: set optim.shard_head = true")
    if optim.shard_head and not options.distill.classify:
        raise RecipeError("optim.shard_head: distill.classify = 0 leaves no head to train; leave it out")
    if optim.shard_head and optim.precision == "fp16":
        raise RecipeError("optim.shard_head and optim.precision = 'fp16' exclude each other; use 'bf16'")


def _refuse_without_model(options: TrainOptions) -> None:
    """Whatever holds on to the starting model needs one."""
    for name, is_on in (
        ("distill.weight", options.distill.weight > 0),
        ("optim.l2_sp", options.optim.l2_sp > 0),
        ("init.classifier = 'means'", options.init.classifier == "means"),
    ):
        if is_on and not options.init.model:
            raise RecipeError(f"{name} needs a model to start from: set init.model")


def _refuse_parts(options: TrainOptions) -> None:
    """Parts whose options exclude each other; a model to start from brings front-end and network along."""
    AUGMENT.read(options.augment, "[augment]")
    HEAD.read(options.head, "[head]")
    if options.specaugment:
        SPECAUGMENT.read(options.specaugment, "[specaugment]")
    if options.init.model:
        return
    if not options.model.get("name"):
        raise RecipeError("the recipe names no architecture: set model.name ('farvox models' lists them)")
    frontend, network = FEATURES.read(options.features, "[features]"), MODEL.read(options.model, "[model]")
    if "num_mels" in options.model and network.num_mels != frontend.num_mels:
        raise RecipeError(
            f"model.num_mels = {network.num_mels}, but features.num_mels = {frontend.num_mels}: leave it out"
        )
