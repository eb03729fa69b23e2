"""What in a recipe cannot be together: found out before anything is opened or made."""

from __future__ import annotations

from farvox.errors import RecipeError
from farvox.recipe import Recipe
from farvox.training.network import EVERYTHING


def refuse_contradictions(recipe: Recipe, num_processes: int) -> None:
    """Refuse fields of a recipe that contradict each other, or the number of processes.

    Raises:
        RecipeError: what contradicts what, and what to set.
    """
    _refuse_counts(recipe, num_processes)
    _refuse_nothing_to_train(recipe)
    _refuse_shards(recipe)
    _refuse_without_model(recipe)
    if recipe.optim.compile and recipe.optim.checkpointing:
        raise RecipeError("optim.compile and optim.checkpointing exclude each other; set one of them")


def _refuse_counts(recipe: Recipe, num_processes: int) -> None:
    optim, data, schedule = recipe.optim, recipe.data, recipe.schedule
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


def _refuse_nothing_to_train(recipe: Recipe) -> None:
    distill = recipe.distill
    if not distill.weight and not distill.classify:
        raise RecipeError("distill.weight and distill.classify are both 0: there is nothing to minimise")
    if EVERYTHING in recipe.optim.freeze and not distill.classify:
        raise RecipeError("the network is frozen and the head is not trained (distill.classify = 0)")


def _refuse_shards(recipe: Recipe) -> None:
    """What a head in shards cannot be combined with."""
    optim = recipe.optim
    if not 0.0 < optim.sample_classes <= 1.0:
        raise RecipeError(f"optim.sample_classes = {optim.sample_classes}: give a share above 0, up to 1")
    if optim.sample_classes < 1.0 and not optim.shard_head:
        raise RecipeError("optim.sample_classes draws from shards: set optim.shard_head = true")
    if optim.shard_head and not recipe.distill.classify:
        raise RecipeError("optim.shard_head: distill.classify = 0 leaves no head to train; leave it out")
    if optim.shard_head and optim.precision == "fp16":
        raise RecipeError("optim.shard_head and optim.precision = 'fp16' exclude each other; use 'bf16'")


def _refuse_without_model(recipe: Recipe) -> None:
    """Whatever holds on to the starting model needs one."""
    for name, is_on in (
        ("distill.weight", recipe.distill.weight > 0),
        ("optim.l2_sp", recipe.optim.l2_sp > 0),
        ("init.classifier = 'means'", recipe.init.classifier == "means"),
    ):
        if is_on and not recipe.init.model:
            raise RecipeError(f"{name} needs a model to start from: set init.model")
