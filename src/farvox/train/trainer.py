"""The trainer: a recipe and a run dir become checkpoints and a log.

Read `train` first: it is the whole run from top to bottom.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from farvox.augment.chain import build_augmenter
from farvox.data.dataset import ChunkDataset, DrawMasks
from farvox.data.loader import Batch, build_loader
from farvox.data.plan import EpochPlan, StepBatches
from farvox.data.table import TrainingTable
from farvox.errors import CheckpointError, RecipeError
from farvox.features.frontend import FrontEndConfig, build_frontend
from farvox.features.specaugment import draw_masks
from farvox.io.atomic import write_text
from farvox.models.base import EmbeddingNetwork
from farvox.models.registry import build_head, build_model
from farvox.recipe import Recipe, parse_recipe, recipe_to_table, recipe_to_toml
from farvox.rng import rng_for
from farvox.train import checkpoint
from farvox.train.checkpoint import TrainingState
from farvox.train.distributed import World, synchronise_batchnorm
from farvox.train.log import RunLog
from farvox.train.schedule import Schedule
from farvox.train.start import StartingPoint, class_names, starting_point
from farvox.train.step import Stepper, TrainingModel, build_optimizer
from farvox.train.validate import Validation
from farvox.zoo import Model, save_model


def train(recipe: Recipe, run_dir: Path, world: World, *, resume: bool = True) -> Path:
    """Train as ``recipe`` says; returns the folder of the last checkpoint.

    All ranks call this together. With ``resume`` a run dir that already holds checkpoints of the same
    recipe is continued after its last whole one.

    Raises:
        RecipeError: settings exclude each other, or the run dir belongs to another recipe.
        NonFiniteLossError: the gradient became NaN or infinite.
    """
    finished = _claim_run_dir(recipe, run_dir, world, resume)
    torch.manual_seed(recipe.seed)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    run = _build(recipe, run_dir, world)
    first_epoch = _restore(run, run_dir, finished) if finished else recipe.schedule.first_epoch
    total = (recipe.schedule.epochs - recipe.schedule.first_epoch) * run.plan.steps_per_epoch
    with RunLog(run_dir, active=world.is_main, total_steps=total, tensorboard=recipe.log.tensorboard) as log:
        if not finished:
            log.say(run.describe())
        batches = iter(run.loader(first_epoch))
        for epoch in range(first_epoch, recipe.schedule.epochs):
            figures = _run_epoch(run, epoch, batches, log)
            done = (epoch + 1 - recipe.schedule.first_epoch) * run.plan.steps_per_epoch
            world.share_buffers(run.network)
            if run.validation and _is_due(recipe, epoch):
                figures |= run.validation.run(run.as_model(), world)
            lr = run.schedule.lr_at(epoch, run.plan.steps_per_epoch - 1)
            log.epoch(done, epoch=epoch, lr=lr, **figures)
            if world.is_main:
                _save(run, run_dir, TrainingState(epoch, done, run.classes, figures=figures))
                checkpoint.prune_checkpoints(run_dir, recipe.log.keep)
            world.barrier()
    return checkpoint.checkpoint_folder(run_dir, recipe.schedule.epochs - 1)


@dataclass
class Run:
    """The parts of one training run, put together from a recipe."""

    recipe: Recipe
    world: World
    table: TrainingTable
    plan: EpochPlan
    dataset: ChunkDataset
    schedule: Schedule
    frontend_config: FrontEndConfig
    frontend: nn.Module
    model_name: str
    model_kwargs: dict[str, Any]
    network: EmbeddingNetwork
    head: nn.Module
    classes: list[str]
    optimizer: torch.optim.Optimizer
    stepper: Stepper
    validation: Validation | None

    def loader(self, first_epoch: int) -> Any:
        """This rank's batches from ``first_epoch`` to the end of the run."""
        batches = StepBatches(
            self.plan, first_epoch, 0, self.recipe.schedule.epochs,
            self.world.rank, self.world.size, self.recipe.optim.accumulate,
        )  # fmt: skip
        return build_loader(
            self.dataset,
            batches,
            workers=self.recipe.data.workers,
            pin_memory=self.world.device.type == "cuda",
        )

    def as_model(self) -> Model:
        """The network as it stands, with its front-end, for extraction."""
        return Model(self.network, self.frontend, {"frontend": self.frontend_config.to_dict()})

    def describe(self) -> str:
        """Two lines on what is being trained on what."""
        count = sum(p.numel() for p in self.network.parameters())
        return (
            f"{len(self.table)} utterances, {len(self.table.speaker_names)} speakers, {len(self.classes)} classes; "
            f"{self.plan.steps_per_epoch} steps of {self.plan.batch_size} an epoch\n"
            f"{self.model_name}: {count:,} parameters; {self.world.size} process(es) on {self.world.device}"
        )


def _build(recipe: Recipe, run_dir: Path, world: World) -> Run:
    optim, data = recipe.optim, recipe.data
    if optim.batch_size % (world.size * optim.accumulate):
        raise RecipeError(
            f"optim.batch_size {optim.batch_size} does not divide into {world.size} process(es) "
            f"x {optim.accumulate} accumulation steps"
        )
    if data.domain_weights and len(data.domain_weights) != len(data.train):
        raise RecipeError(
            f"data.domain_weights has {len(data.domain_weights)} entries for {len(data.train)} dirs of data.train"
        )
    table = TrainingTable.open(data.train)
    plan = EpochPlan(
        recipe.seed, table.speakers_N, optim.batch_size, data.sampling,
        table.domains_N, data.domain_weights, data.epoch_size,
    )  # fmt: skip
    start = starting_point(recipe.init.model, recipe.features, recipe.model)
    frontend = build_frontend(start.frontend).to(world.device)
    dataset = ChunkDataset(
        table,
        seed=recipe.seed,
        num_samples=start.frontend.num_samples_for(data.num_frames),
        sample_rate=start.frontend.sample_rate,
        speeds=data.speeds,
        augment=build_augmenter(**{"kind": "none", **recipe.augment}),
        draw_masks=_mask_law(recipe.specaugment, data.num_frames, start.frontend.num_mels),
    )
    classes = class_names(table.speaker_names, data.speeds)
    network, head, classes = _network_and_head(recipe, start, classes)
    schedule = _schedule(recipe, plan, head)
    if optim.sync_batchnorm:
        synchronise_batchnorm(network)
        synchronise_batchnorm(head)
    model = TrainingModel(network, head).to(world.device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = build_optimizer(
        optim.name, parameters, lr=optim.lr, weight_decay=optim.weight_decay,
        momentum=optim.momentum, nesterov=optim.nesterov,
    )  # fmt: skip
    wrapped = model if world.size == 1 else DistributedDataParallel(model)
    stepper = Stepper(
        wrapped, frontend, optimizer,
        device=world.device, precision=optim.precision, clip_norm=optim.clip_norm,
    )  # fmt: skip
    validation = (
        Validation(Path(recipe.validate.data), Path(recipe.validate.trials))
        if recipe.validate.trials
        else None
    )
    return Run(
        recipe, world, table, plan, dataset, schedule, start.frontend, frontend, start.model_name,
        start.model_kwargs, network, head, classes, optimizer, stepper, validation,
    )  # fmt: skip


def _mask_law(specaugment: dict[str, Any], num_frames: int, num_mels: int) -> DrawMasks | None:
    """The SpecAugment of the recipe as a function of a random stream; None when the recipe has none."""
    if not specaugment:
        return None
    law: DrawMasks = partial(draw_masks, num_frames=num_frames, num_mels=num_mels, **specaugment)
    try:
        law(rng_for(0, 0, 0))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"[specaugment] of the recipe: {error}") from None
    return law


def _network_and_head(
    recipe: Recipe, start: StartingPoint, classes: list[str]
) -> tuple[EmbeddingNetwork, nn.Module, list[str]]:
    """Network and classifier, with the weights the recipe starts from."""
    network = build_model(start.model_name, **start.model_kwargs)
    if start.network_state is not None:
        start.load_network(network)
    head_kwargs = {"name": "aam", **recipe.head}
    wanted = start.classes_for(recipe.init.classifier, classes)
    head = build_head(embedding_dim=network.embedding_dim, num_classes=len(wanted), **head_kwargs)
    if recipe.init.classifier != "new":
        start.load_head(head, wanted)
    return network, head, wanted


def _schedule(recipe: Recipe, plan: EpochPlan, head: nn.Module) -> Schedule:
    schedule = recipe.schedule
    return Schedule(
        kind=schedule.kind, lr=recipe.optim.lr, steps_per_epoch=plan.steps_per_epoch,
        epochs=schedule.epochs, first_epoch=schedule.first_epoch, milestones=schedule.milestones,
        gamma=schedule.gamma, final_lr=schedule.final_lr, warmup_epochs=schedule.warmup_epochs,
        margin=float(getattr(head, "margin", 0.0)), margin_epochs=schedule.margin_epochs,
    )  # fmt: skip


def _run_epoch(run: Run, epoch: int, batches: Iterator[Batch], log: RunLog) -> dict[str, float]:
    """All optimiser steps of one epoch; returns its mean loss and accuracy over all ranks."""
    run.network.train()
    run.head.train()
    if run.recipe.optim.freeze_batchnorm:
        _freeze_batchnorm(run.network)
    first = (epoch - run.recipe.schedule.first_epoch) * run.plan.steps_per_epoch
    totals = torch.zeros(2, device=run.world.device)
    for step in range(run.plan.steps_per_epoch):
        lr = run.schedule.lr_at(epoch, step)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        if hasattr(run.head, "margin"):
            run.head.margin = run.schedule.margin_at(epoch, step)  # type: ignore[assignment]
        torch.manual_seed(_step_seed(run.recipe.seed, epoch, step, run.world.rank))
        result = run.stepper.step([next(batches) for _ in range(run.recipe.optim.accumulate)])
        share = run.plan.batch_size / run.world.size
        totals += torch.stack([result.loss, result.num_right / share])
        if (step + 1) % run.recipe.log.every == 0:
            mean_loss, accuracy = (totals / (step + 1)).tolist()
            log.step(
                first + step + 1, epoch=epoch, loss=float(result.loss), mean_loss=mean_loss,
                accuracy=accuracy, lr=lr, grad_norm=float(result.grad_norm),
            )  # fmt: skip
    loss, accuracy = (run.world.mean(totals) / run.plan.steps_per_epoch).tolist()
    return {"loss": loss, "accuracy": accuracy}


def _step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Seed of torch's generator for one step: dropout is the same after a resume."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def _freeze_batchnorm(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _is_due(recipe: Recipe, epoch: int) -> bool:
    number = epoch - recipe.schedule.first_epoch + 1
    return number % max(1, recipe.validate.every) == 0 or epoch == recipe.schedule.epochs - 1


def _claim_run_dir(recipe: Recipe, run_dir: Path, world: World, resume: bool) -> list[int]:
    """Make the run dir ours; returns the epochs already finished there."""
    finished = checkpoint.finished_epochs(run_dir)
    saved = run_dir / "recipe.toml"
    if finished and not resume:
        raise RecipeError(f"{run_dir} already holds {len(finished)} checkpoint(s): choose another --run-dir")
    if finished and saved.exists():
        _refuse_other_recipe(recipe, saved)
    elif world.is_main:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(saved, recipe_to_toml(recipe))
    world.barrier()
    return finished


def _refuse_other_recipe(recipe: Recipe, saved: Path) -> None:
    """A run dir is continued with the recipe it was begun with; only its length and place may change."""
    import tomllib

    before = _flat(
        recipe_to_table(parse_recipe(tomllib.loads(saved.read_text(encoding="utf-8")), str(saved)))
    )
    now = _flat(recipe_to_table(recipe))
    free = (
        "run_dir",
        "device",
        "threads",
        "title",
        "prepare",
        "data.workers",
        "log.",
        "validate.",
        "evaluate",
        "adapt",
    )
    changed = [
        f"  {key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(free) and key != "schedule.epochs"
    ]
    if changed:
        raise RecipeError(
            f"{saved.parent} was begun with another recipe; choose another --run-dir or undo this:\n"
            + "\n".join(changed)
        )


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _save(run: Run, run_dir: Path, state: TrainingState) -> None:
    extra = {"classes": len(run.classes), "epoch": state.epoch, "head": {"name": "aam", **run.recipe.head}}

    def write_model(folder: Path) -> None:
        save_model(folder, run.network, run.frontend_config, run.model_name, run.model_kwargs, extra=extra)

    checkpoint.save_checkpoint(
        checkpoint.checkpoint_folder(run_dir, state.epoch),
        write_model=write_model,
        head=run.head,
        optimizer=run.optimizer,
        state=state,
    )


def _restore(run: Run, run_dir: Path, finished: list[int]) -> int:
    """Load the last whole checkpoint into ``run``; returns the epoch to go on with."""
    folder = checkpoint.checkpoint_folder(run_dir, finished[-1])
    state = checkpoint.load_state(folder)
    if state.classes != run.classes:
        raise CheckpointError(
            f"{folder}: its classifier has {len(state.classes)} classes, the data dirs give {len(run.classes)} "
            "or others: the data dirs were changed since the run began"
        )
    run.network.load_state_dict(checkpoint.load_tensors(folder, "model.safetensors"))
    run.head.load_state_dict(checkpoint.load_tensors(folder, "classifier.safetensors"))
    checkpoint.unpack_optimizer(
        run.optimizer, checkpoint.load_tensors(folder, "optimizer.safetensors"), state.optimizer
    )
    return state.epoch + 1
