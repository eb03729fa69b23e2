"""The trainer: options and a run dir become checkpoints and a log.

Read `train` first: it is the whole run from top to bottom.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from farvox.augment import build_augmenter
from farvox.datadir.audit import admit_audio
from farvox.datadir.conditions import recordings_of
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir, shared_speakers
from farvox.errors import (
    AudioError,
    CheckpointError,
    DataDirError,
    NonFiniteLossError,
    OutOfMemoryError,
    RecipeError,
    TrialError,
)
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig
from farvox.features.specaugment import draw_masks
from farvox.jobs import REJECTED
from farvox.machine import fault_of_memory, has_bf16, is_out_of_memory, keep_freed_memory, resolve_precision
from farvox.manifest import read_weights
from farvox.metrics.detection import detection_error
from farvox.models.base import EmbeddingNetwork
from farvox.models.margin import Head
from farvox.models.options import HEAD
from farvox.models.registry import build_head, build_model
from farvox.options import to_table
from farvox.progress import Note, silent
from farvox.score.cosine import cosine_scores
from farvox.score.lists import refuse_wrong_trials
from farvox.score.trials import read_trials
from farvox.training import checkpoint, start
from farvox.training.checkpoint import Packed, TrainingState, begin_run_dir, place_of
from farvox.training.distributed import World, synchronise_batchnorm
from farvox.training.faults import explain
from farvox.training.loader import Batch, ChunkDataset, load_batches
from farvox.training.log import RunLog, mend_log
from farvox.training.objective import Anchor, TrainingModel, find_frozen, recompute_stages, teacher_of
from farvox.training.options import AUGMENT, SPECAUGMENT, DataOptions, OptimOptions, TrainOptions
from farvox.training.saver import Saver, own_totals
from farvox.training.sharded import ShardedHead
from farvox.training.step import Schedule, Stepper, build_optimizer
from farvox.training.table import EpochPlan, StepBatches, TrainingTable
from farvox.zoo import Model, TorchEmbedder
from farvox.zoo.embedder import embed_files, origin_of
from farvox.zoo.model import fill, write_new_model


def train(
    options: TrainOptions, run_dir: Path, world: World, *, resume: bool = True, note: Note = silent
) -> Path:
    """Train, and return the folder of the last checkpoint.

    All ranks call this together, with options that do not contradict each other
    (`farvox.pipelines.recipe`). With ``resume`` a run dir that already holds checkpoints of the same
    options is continued after its last whole one. ``note`` takes the lines for people.

    In the main thread SIGINT, SIGTERM and SIGUSR1 end the run at its next step, which is saved, or in the
    middle of a validation, before which all is; a second SIGINT ends it at once.

    Raises:
        StoppedError: such a signal came.
        RecipeError: the run dir was begun with other options.
        CheckpointError: it was begun with another model or other audio than lies there now, or none of its
            checkpoints is whole.
        NonFiniteLossError: the gradient became NaN or infinite.
        OutOfMemoryError: a step needs more memory than there is; names the options that need less.
    """
    to_main = note if world.is_main else silent
    last_whole = partial(begin_run_dir, options, run_dir, world, to_main, resume=resume)
    unfit: dict[Path, CheckpointError] = {}
    world.enter(f"looking for checkpoints in {run_dir}")
    last = last_whole()
    if last and place_of(last) >= (options.schedule.end - 1, math.inf):
        unfit = _compare_finished(options, run_dir, last, world, to_main)
        if last not in unfit:
            return last
        last = last_whole(unfit=unfit)
    world.enter("preparing the data")
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    if world.device.type == "cpu":
        keep_freed_memory(all_of_it=True)
    model_folder = checkpoint.starting_folder(options.init.model, run_dir, to_main, has_begun=bool(last))
    if world.is_main:
        admit_audio(options.data.train, options.data.max_rejects, run_dir / REJECTED, note)
    init = replace(options.init, model=str(model_folder or ""))
    run = Run(replace(options, init=init), world, checkpoint.load_state(last).passes if last else 0)
    if not last and options.init.classifier == "means":
        first = run.shard.classes.start if run.shard else 0
        model, most = run.as_model(), options.init.mean_utterances
        start.start_at_means(run.head, model, run.dataset, most, world, first)
    state = run.state(options.schedule.first_epoch - 1, 0)
    while last:
        error = None
        world.enter(f"reading {last}")
        try:
            state = restore(run, last)
        except CheckpointError as failure:
            error = failure
        if not world.max(torch.tensor(float(error is not None), device=world.device)):
            break
        unfit |= {last: error or CheckpointError(f"{last}: another process cannot go on after it")}
        last = last_whole(unfit=unfit | checkpoint.of_other_data(run_dir, run.table, run.classes))
    world.enter("comparing the data with those that the run began with")
    epoch = state.epoch
    first_epoch = epoch if state.within else epoch + 1
    if world.is_main:
        noise = AUGMENT.read(options.augment, "[augment]").inputs()
        checkpoint.compare_audio(run.table, noise, run_dir, note, has_begun=bool(last))
        if model_folder:
            checkpoint.record_start(model_folder, run_dir)
        mend_log(run_dir, state, note)
    world.barrier()
    total = (options.schedule.end - options.schedule.first_epoch) * run.plan.steps_per_epoch
    run_log = RunLog(
        run_dir, total, note, done=state.step, active=world.is_main, tensorboard=options.log.tensorboard
    )
    saver = Saver(run, run_dir, tomli_w.dumps(to_table(options)))
    with run_log as log, saver, closing(run.batches(first_epoch, state.within)) as batches:
        if line := run._describe_change(first_epoch, state) if last else run.describe():
            log.say(line)
        for epoch in range(first_epoch, options.schedule.end):
            figures = _run_epoch(run, epoch, batches, log, saver, state)
            done = (epoch + 1 - options.schedule.first_epoch) * run.plan.steps_per_epoch
            world.enter(f"the end of epoch {epoch}")
            state = run.state(epoch, done, figures)
            world.share_buffers(run.network)
            packed = run.pack()  # by all ranks together, before one of them can fail
            try:
                if run.validation and run.is_validated(epoch):
                    out = run_dir / f"validation/epoch_{epoch:03d}"
                    kept = out if options.validate.keep_embeddings else None
                    world.enter(f"the validation of epoch {epoch}")
                    with saver.before_validation(epoch):
                        figures |= run.validation.run(run.as_model(epoch), world, kept)
                lr = run.schedule.lr_at(epoch, run.plan.steps_per_epoch - 1)
                log.epoch(done, epoch=epoch, lr=lr, **figures)
            except AudioError:  # of the validation, which does not cost the epoch
                saver.write(state, packed)
                raise
            saver.write(replace(state, figures=figures), packed)
            saver.after_epoch(epoch)
    return checkpoint.checkpoint_folder(run_dir, options.schedule.end - 1)


class Run:
    """The parts of one training run, put together from its options.

    Args:
        options: of the run.
        world: the ranks.
        passes: of a step, over all ranks, when the run began: fewer ranks than then take more each, so that
            neither the batch nor a pass becomes larger; 0: it begins.
    """

    def __init__(self, options: TrainOptions, world: World, passes: int = 0) -> None:
        self.passes = passes or world.size * options.optim.accumulate
        copies = options.agree.copies
        accumulate = passes_each(options.optim, world.size, self.passes, copies)
        options = replace(options, optim=replace(options.optim, accumulate=accumulate))
        optim, data, distill, validate = options.optim, options.data, options.distill, options.validate
        self.options, self.world, self.skipped = options, world, 0
        self.table = table = TrainingTable.open(data.train, labelled=distill.classify > 0)
        self.plan = EpochPlan(
            options.seed, table.speakers_N, optim.batch_size, data.sampling,
            table.domains_N, data.domain_weights, data.epoch_size, copies,
        )  # fmt: skip
        origin = start.starting_point(options.init.model, options.features, options.model)
        self.frontend_config = config = origin.frontend
        self.model_name, self.model_kwargs = origin.model_name, origin.model_kwargs
        self.frontend = build_frontend(config).to(world.device)
        names = start.class_names(table.speaker_names, data.speeds)
        reserved = start.class_names(start.reserved_speakers(data.reserve, table.speaker_names), data.speeds)
        network, head, self.classes = _network_and_head(options, origin, names + reserved)
        self.network, self.head = network, head
        number_of = {name: number for number, name in enumerate(self.classes)}
        masks = None
        if options.specaugment:
            if config.kind == "waveform":
                raise RecipeError("[specaugment] masks bands of mels, and a waveform has none; leave it out")
            spec = SPECAUGMENT.read(options.specaugment, "[specaugment]")
            masks = partial(draw_masks, num_frames=data.num_frames, num_mels=config.num_mels, options=spec)
        self.dataset = ChunkDataset(
            table,
            seed=options.seed,
            num_samples=_lengths(data, config),
            sample_rate=config.sample_rate,
            batch_size=optim.batch_size,
            speeds=data.speeds,
            labels_VS=np.array([number_of[name] for name in names]).reshape(len(data.speeds), -1),
            augment=build_augmenter(AUGMENT.read(options.augment, "[augment]"), config.sample_rate),
            draw_masks=masks,
            keep_clean=distill.weight > 0,
            copies=copies,
        )
        self.schedule = Schedule(options.schedule, optim.lr, self.plan.steps_per_epoch, head.margin)
        network.to(world.device)
        precision = resolve_precision(optim.precision, world.device)
        is_on = optim.channels_last == "on" or (
            optim.channels_last == "auto" and network.is_faster_in_channels_last(world.device, precision)
        )
        if is_on and not _crash_in_channels_last(network, world):
            network.use_channels_last()
        teacher = teacher_of(network) if distill.weight else None
        if optim.sync_batchnorm:
            synchronise_batchnorm(network)
            synchronise_batchnorm(head)
        if optim.checkpointing:
            recompute_stages(network)
        self.shard = None
        if optim.shard_head:
            self.shard = ShardedHead(head, world, share=optim.sample_classes, seed=options.seed)
        model = TrainingModel(
            network,
            self.shard or head,
            distill.classify,
            distill.weight,
            options.agree.weight,
            compiled=optim.compile,
        ).to(world.device)
        anchor = Anchor(network.parameters(), optim.l2_sp) if optim.l2_sp else None
        self.optimizer = build_optimizer(optim, _parameter_groups(model, anchor))
        self.frozen = find_frozen(network, optim.freeze, optim.release_epoch)
        self._refuse_lone_examples()
        later = self.frozen.is_released_later
        if not later:
            self.frozen.apply(options.schedule.first_epoch)  # before DDP asks which gradients to wait for
        with world.waiting():
            reduced = _reduced(model, self.shard, unused=later) if world.size > 1 else model
        self.stepper = Stepper(
            reduced,
            nn.Identity() if data.features == "workers" else self.frontend,
            self.optimizer, world=world, precision=precision,
            clip_norm=optim.clip_norm, teacher=teacher, anchor=anchor, shard=self.shard,
        )  # fmt: skip
        self.validation: Validation | None = None
        if validate.data and validate.trials:
            self.validation = Validation(validate.data, validate.trials)

    def _refuse_lone_examples(self) -> None:
        """Refuse passes of one example where a BatchNorm would get one value a channel, and no statistics.

        Those over several frames have them, and frozen ones need none. A pass in evaluation mode finds out,
        which changes nothing.
        """
        options, size = self.options, self.world.size
        optim, passes = options.optim, size * options.optim.accumulate
        if optim.batch_size > passes or optim.freeze_batchnorm or (optim.sync_batchnorm and size > 1):
            return
        is_held = optim.release_epoch == 0 or optim.release_epoch >= options.schedule.end
        frozen = self.frozen.batchnorms if is_held else ()
        alone, hooks = [], []

        def look(name: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if inputs[0].numel() == inputs[0].shape[1]:
                alone.append(name)

        for name, module in self.network.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in frozen:
                hooks.append(module.register_forward_pre_hook(partial(look, name)))
        self.network.eval()
        with torch.no_grad():
            shape = (1, options.data.num_frames, self.network.num_mels)
            self.network(torch.zeros(shape, device=self.world.device))
        for hook in hooks:
            hook.remove()
        if alone:
            fewer = ", lower optim.accumulate" if optim.accumulate > 1 else ""
            synced = ", set optim.sync_batchnorm = true" if size > 1 else ""
            raise RecipeError(
                f"optim.batch_size = {optim.batch_size} over {size} process(es) x {optim.accumulate} "
                f"accumulation step(s) is one example a pass, and BatchNorm ('{alone[0]}') has no statistics "
                f"of one: set optim.batch_size to {2 * passes} or more{fewer}{synced}, or set "
                "optim.freeze_batchnorm = true, which keeps the running statistics"
            )

    @property
    def has_distance(self) -> bool:
        """There is a teacher, or chunks have copies."""
        return self.options.distill.weight > 0 or self.options.agree.weight > 0

    def is_validated(self, epoch: int) -> bool:
        """A validation follows the last step of ``epoch``."""
        schedule, number = self.options.schedule, epoch + 1 - self.options.schedule.first_epoch
        is_due = number % max(1, self.options.validate.every) == 0 or epoch + 1 == schedule.end
        return self.validation is not None and is_due

    def batches(self, first_epoch: int, first_step: int = 0) -> Generator[Batch]:
        """This rank's batches from a step of ``first_epoch`` to the end of the run."""
        batches = StepBatches(
            self.plan, first_epoch, first_step, self.options.schedule.end,
            self.world.rank, self.world.size, self.options.optim.accumulate,
        )  # fmt: skip
        in_workers = self.options.data.features == "workers"
        return load_batches(
            self.dataset,
            batches,
            workers=self.options.data.workers,
            pin_memory=self.world.device.type == "cuda",
            frontend=build_frontend(self.frontend_config) if in_workers else None,
        )

    def as_model(self, epoch: int | None = None) -> Model:
        """The network as it stands after ``epoch``, with its front-end, for extraction."""
        model = {"name": self.model_name, "kwargs": self.network.kwargs_to_save(self.model_kwargs)}
        config = {"frontend": self.frontend_config.to_dict(), "model": model, "epoch": epoch}
        return Model(self.network, self.frontend, config)

    def begin_epoch(self, epoch: int) -> None:
        """Bring all modules into the mode in which ``epoch`` trains them."""
        self.network.train()
        self.head.train()
        if self.options.optim.freeze_batchnorm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        self.frozen.apply(epoch)

    def seed_step(self, epoch: int, step: int, rank: int) -> None:
        """Seed torch for a step, so that dropout is the same after a resume; a data loader draws from it."""
        seeds = np.random.SeedSequence([self.options.seed, epoch, step, rank])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))

    def pack(self) -> tuple[dict[str, torch.Tensor], Packed]:
        """State of head and optimiser, of all shards; on rank 0."""
        if self.shard:
            return self.shard.whole_state(self.optimizer)
        return self.head.state_dict(), checkpoint.pack_optimizer(self.optimizer)

    def state(self, epoch: int, done: int, figures: dict[str, float] | None = None) -> TrainingState:
        """The state of the run after ``done`` steps, the last of them in ``epoch``."""
        scaler, data = self.stepper.scaler.state_dict(), self.table.fingerprint()
        return TrainingState(
            epoch=epoch, step=done, classes=tuple(self.classes), data=data, scaler=scaler,
            figures=figures or {}, skipped=self.skipped, processes=self.world.size,
            passes=self.passes,
        )  # fmt: skip

    def write_model(self, epoch: int, folder: Path) -> None:
        """Write network and front-end as a MODEL."""
        head = {"name": HEAD.default, **self.options.head}
        extra = {"classes": len(self.classes), "epoch": epoch, "head": head}
        write_new_model(folder, self.network, self.frontend_config, self.model_name, self.model_kwargs, extra)

    def describe(self) -> str:
        """Lines on what is being trained on what."""
        count = sum(p.numel() for p in self.network.parameters())
        lines = [
            f"{len(self.table)} utterances, {len(self.table.speaker_names)} speakers, {len(self.classes)} "
            f"classes; {self.plan.steps_per_epoch} steps of {self.plan.batch_size} an epoch",
            f"{self.model_name}: {count:,} parameters; {self.world.size} process(es) on {self.world.device}, "
            f"{self.stepper.precision}",
        ]
        if self.stepper.precision == "bf16" and not has_bf16(self.world.device):
            lines += ["optim.precision: this device has no bf16 and imitates it, which is slow: take auto"]
        wanted = self.network.trained_mean
        if wanted not in (None, self.frontend_config.mean):
            lines += [
                f"features.mean is '{self.frontend_config.mean}', but the weights of model.wavlm were "
                f"trained with '{wanted}': take that"
            ]
        augment = AUGMENT.read(self.options.augment, "[augment]")
        is_plain = augment.kind == "none" or augment.clean_probability == 1.0
        if self.options.agree.weight and is_plain and not self.options.specaugment:
            lines += ["agree.weight: the copies of a chunk are alike, without [augment] and [specaugment]"]
        if self.shard:
            lines += [self.shard.describe()]
        crash = _crash_in_channels_last(self.network, self.world)
        if self.options.optim.channels_last == "on" and crash:
            lines += [f"optim.channels_last is left out: torch crashes on it {crash}"]
        lines += self.table.shared_by_dirs(self.options.data.train)
        if self.validation:
            lines += self.validation.leaks
            trained = {"the training": self.table.speaker_names}
            for folder, names in start.trained_speakers(self.options.init.model).items():
                trained[f"the training of init.model {folder}"] = tuple(names)
            for where, others in trained.items():
                what = f"the validation {self.options.validate.data}"
                lines += shared_speakers(self.validation.speaker_ids, what, others, where)
        return "\n".join(lines)

    def explain_memory(self, error: MemoryError | RuntimeError, epoch: int, step: int) -> None:
        """`OutOfMemoryError` with what needs less memory and what that costs, if ``error`` is of memory."""
        if not is_out_of_memory(error):
            return
        optim, data, device = self.options.optim, self.options.data, self.world.device
        is_host = device.type == "cpu" or not isinstance(error, torch.OutOfMemoryError)
        share, least = optim.batch_size // self.world.size, 1 if optim.freeze_batchnorm else 2
        least = max(least, copies := self.options.agree.copies)
        counts = range(optim.accumulate + 1, share // least + 1)
        more = [n for n in counts if share % (n * copies) == 0]
        passes = next((n for n in more if n >= 2 * optim.accumulate), more[-1] if more else 0)
        frames = max(self.network.min_frames, data.num_frames // 2)
        together = " with optim.compile = false" if optim.compile else ""
        of_step = device.type == "cpu" or not is_host  # what a step keeps is where memory is short
        ways = [
            way
            for is_left, way in (
                (
                    of_step and passes,
                    f"optim.accumulate = {passes} ({optim.accumulate} now): {share // (passes or 1)} examples"
                    f" a pass instead of {share // optim.accumulate}; a step takes a little longer, and "
                    "BatchNorm's statistics are of fewer",
                ),
                (
                    of_step and not optim.checkpointing,
                    f"optim.checkpointing = true{together}: activations inside the stages are not kept; a "
                    "forward pass more, about a third of the time, for the same gradients",
                ),
                (
                    of_step and self.stepper.precision == "fp32" and has_bf16(device),
                    "optim.precision = 'bf16': activations of half the size; the losses differ a little",
                ),
                (
                    of_step and frames < data.num_frames,
                    f"data.num_frames = {frames} ({data.num_frames} now): memory in proportion; the model "
                    "sees less of an utterance at a time, and its EER usually rises",
                ),
                (
                    is_host and data.workers,
                    f"data.workers = {data.workers // 2} ({data.workers} now): fewer batches wait in "
                    "memory; reading and augmentation take longer",
                ),
            )
            if is_left
        ]
        begun = epoch > self.options.schedule.first_epoch
        free = " (this run dir takes only checkpointing and workers; the others need a new --run-dir)"
        remedy = f"What needs less{free if begun else ''}:" if ways else "A smaller network needs less."
        where = "this machine's memory" if is_host else f"the memory of {device}"
        fault = fault_of_memory(error, f"{where} is full")
        first = " ".join(str(error).splitlines()[:1])
        raise OutOfMemoryError(
            "\n  ".join([f"epoch {epoch}, step {step + 1}: {fault} ({first}). {remedy}", *ways])
        ) from None

    def _describe_change(self, epoch: int, state: TrainingState) -> str:
        """Lines on what makes the next step another than it would have been: processes, learning rate."""
        lines = [self._describe_rate(epoch, state.within)]
        if state.processes not in (0, self.world.size):
            optim, size = self.options.optim, self.world.size
            line = (
                f"note: {state.processes} process(es) trained until here, and {size} go on: the batches "
                f"are the same, of {optim.batch_size}, in {optim.accumulate} pass(es) a process of "
                f"{optim.batch_size // (size * optim.accumulate)} examples each, but sums are of other parts,"
                " so that the last digits differ"
            )
            if not (optim.sync_batchnorm or optim.freeze_batchnorm):
                line += "; BatchNorm, if there is one, takes its statistics of other examples"
            lines.insert(0, line)
        return "\n".join(filter(None, lines))

    def _describe_rate(self, epoch: int, step: int) -> str:
        """A line on a learning rate of the next step that the schedule before would not have had; or ""."""
        options, kind = self.options.schedule, self.options.schedule.kind
        before, now = self.optimizer.param_groups[0]["lr"], self.schedule.lr_at(epoch, step)
        steps = self.plan.steps_per_epoch
        last = self.schedule.lr_at(*divmod(epoch * steps + step - 1, steps))
        if math.isclose(before, last, rel_tol=1e-6, abs_tol=1e-12) or kind in ("multistep", "constant"):
            return ""
        line = (
            f"note: the learning rate {'rises' if now > before else 'falls'} from {before:g} to {now:g}: it "
            f"was on its way to another end, and '{kind}' now runs to schedule.epochs = {options.epochs}"
        )
        if now > before and options.final_lr and math.isclose(before, options.final_lr, rel_tol=1e-6):
            more = options.end - epoch
            line += f". To go on at {before:g}: --schedule.epochs {epoch} --schedule.extend {more}"
        return line


def passes_each(optim: OptimOptions, size: int, passes: int, copies: int = 1) -> int:
    """Passes that each of ``size`` ranks takes, so that a step has as many as ``passes`` or more.

    The ``copies`` of a chunk are in one pass.
    """
    counts = (n for n in range(optim.accumulate, optim.batch_size // size + 1) if n * size >= passes)
    return next((n for n in counts if optim.batch_size % (n * size * copies) == 0), optim.accumulate)


def _reduced(model: TrainingModel, shard: ShardedHead | None, *, unused: bool) -> nn.Module:
    """The model with gradients that are means over the ranks, but for those of a shard."""
    if shard is not None:
        names = [f"head.{name}" for name, _ in shard.named_parameters()]
        ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(model, names)  # type: ignore[no-untyped-call]
        if not any(weight.requires_grad for weight in model.network.parameters()):
            return model  # DDP wants something to do
    return DistributedDataParallel(model, find_unused_parameters=unused)


def _crash_in_channels_last(network: EmbeddingNetwork, world: World) -> str:
    """The words for a network on which torch 2.13 crashes in channels_last; empty for others."""
    if world.size > 1 and world.device.type == "cpu":
        return "in several CPU processes"
    if network.crashes_in_channels_last(world.device):
        return "where a strided convolution of 1 x 1 has fewer than 16 channels"
    return ""


def _parameter_groups(model: TrainingModel, anchor: Anchor | None) -> list[dict[str, Any]]:
    """The weights to train; those that are pulled to where they started are not pulled to 0 as well."""
    network = [p for p in model.network.parameters() if p.requires_grad]
    head = [p for p in model.head.parameters() if p.requires_grad]
    if anchor is None:
        return [{"params": network + head}]
    return [{"params": network, "weight_decay": 0.0}, *([{"params": head}] if head else [])]


def _lengths(data: DataOptions, config: FrontEndConfig) -> int | list[int]:
    """Samples of a chunk; several, but few, where each batch has its own length."""
    if not data.least_frames:
        return config.num_samples_for(data.num_frames)
    frames = [*range(data.least_frames, data.num_frames, 25), data.num_frames]
    return [config.num_samples_for(each) for each in frames]


def _network_and_head(
    options: TrainOptions, origin: start.StartingPoint, names: list[str]
) -> tuple[EmbeddingNetwork, Head, list[str]]:
    """Network and classifier with the weights that training starts from, and the names of its classes."""
    network = build_model(origin.model_name, **origin.model_kwargs)
    origin.load_network(network)
    head_options = {"name": HEAD.default, **options.head}
    num_idle = HEAD.read(head_options, "[head]").idle_classes
    idle = [f"{start.IDLE}{number}" for number in range(num_idle)]
    classes = origin.classes_for(options.init.classifier, names + idle)
    if options.distill.classify and len(classes) < 2:
        raise RecipeError(
            f"the data dirs have one speaker, '{classes[0]}', and there is nothing to classify: add another "
            "data dir to data.train, or set distill.classify = 0"
        )
    old = len(origin.old_classes) if options.init.classifier in ("keep", "extend") else 0
    head = build_head(embedding_dim=network.embedding_dim, num_classes=old or len(classes), **head_options)
    if old:
        origin.load_head(head, len(classes))
    return network, head, classes


def _run_epoch(
    run: Run, epoch: int, batches: Iterator[Batch], log: RunLog, saver: Saver, state: TrainingState
) -> dict[str, float]:
    """The optimiser steps of one epoch that ``state`` lacks; returns its mean figures over all ranks."""
    run.begin_epoch(epoch)
    most = run.options.optim.skip_nonfinite
    first = (epoch - run.options.schedule.first_epoch) * run.plan.steps_per_epoch
    totals = own_totals(state, run.world)
    for step in range(state.within, run.plan.steps_per_epoch):
        lr = run.schedule.lr_at(epoch, step)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        run.head.margin = run.schedule.margin_at(epoch, step)
        run.world.enter(f"epoch {epoch}, reading the batch of step {step + 1}")
        try:
            micro_batches = [next(batches) for _ in range(run.options.optim.accumulate)]
        except (MemoryError, RuntimeError) as error:
            run.explain_memory(error, epoch, step)
            raise
        run.world.enter(f"epoch {epoch}, step {step + 1}", waits=True)
        if run.shard:
            run.shard.draw(torch.cat([b.labels_B for b in micro_batches]), run.optimizer, epoch, step)
        run.seed_step(epoch, step, run.world.rank)
        is_logged = (step + 1) % run.options.log.every == 0
        is_last = step + 1 == run.plan.steps_per_epoch
        wish = saver.ask(epoch, step + 1, is_last=is_last, look=is_logged or is_last)
        look = is_logged or is_last or most > 0 or wish > 0
        try:
            result = run.stepper.step(micro_batches, look=look)
        except NonFiniteLossError as error:
            fault = explain(run, error, epoch, step - error.steps_ago, saver.run_dir)
            if run.skipped >= most:
                raise NonFiniteLossError(f"{fault}\n  {fault.remedy}") from None
            run.skipped += 1
            log.say(f"{fault}\n  left out: {run.skipped} of optim.skip_nonfinite = {most}")
            result = None
        except (MemoryError, RuntimeError) as error:
            run.explain_memory(error, epoch, step)
            raise
        if result:
            share, one = run.plan.batch_size / run.world.size, torch.ones_like(result.loss)
            totals = totals + torch.stack([result.loss, result.num_right / share, result.distance, one])
        if result and is_logged:
            local = torch.stack([result.loss, *(totals[:3] / totals[3]), result.grad_norm])
            loss, mean_loss, accuracy, distance, grad_norm = run.world.mean(local).tolist()
            log.step(
                first + step + 1, epoch=epoch, loss=loss, mean_loss=mean_loss, accuracy=accuracy, lr=lr,
                grad_norm=grad_norm, **({"distance": distance} if run.has_distance else {}),
            )  # fmt: skip
        if wish:
            saver.save_within(epoch, step + 1, totals, wish)
    loss, accuracy, distance = (run.world.mean(totals[:3]) / totals[3].clamp(min=1)).tolist()
    distances = {"distance": distance} if run.has_distance else {}
    return {"loss": loss, "accuracy": accuracy, **distances}


def _compare_finished(
    options: TrainOptions, run_dir: Path, last: Path, world: World, note: Note
) -> dict[Path, CheckpointError]:
    """Make sure that a finished run is of the model and the data that lie there now, as far as they do.

    Returns:
        The checkpoints that are of other data, and why; on all ranks.

    Raises:
        CheckpointError: as `train`.
    """
    unfit: dict[Path, CheckpointError] = {}
    try:
        table = TrainingTable.open(options.data.train, labelled=options.distill.classify > 0)
        noise = AUGMENT.read(options.augment, "[augment]").inputs()
        if checkpoint.load_state(last).data:  # earlier runs have none
            unfit = checkpoint.of_other_data(run_dir, table)
    except (DataDirError, AudioError) as error:
        table = None
        note(f"note: {error}: so whether the data of {run_dir} were changed since is not known")
    if world.is_main and last not in unfit:
        number = place_of(last)[0]
        note(f"{run_dir} has all epochs already, up to {number}")
        if number >= (end := options.schedule.end):
            note(
                f"note: that is {number + 1 - end} more than asked for: schedule.epochs = {end} ends before "
                f"epoch {end}; {run_dir}@{end - 1} is the model there, if it was kept"
            )
        mend_log(run_dir, checkpoint.load_state(last), note)
        checkpoint.starting_folder(options.init.model, run_dir, note, has_begun=True)
        if table is not None:
            checkpoint.compare_audio(table, noise, run_dir, note, has_begun=True)
    return unfit


def restore(run: Run, folder: Path) -> TrainingState:
    """Load a checkpoint into ``run``.

    Raises:
        CheckpointError: it is of other data, or does not fit.
    """
    state = checkpoint.load_state(folder)
    checkpoint.refuse_other_data(folder, state, run.table, run.classes)
    fill(run.network, read_weights(folder / "model.safetensors"), folder)
    classifier = read_weights(folder / checkpoint.CLASSIFIER)
    moments = read_weights(folder / checkpoint.OPTIMIZER)
    if run.shard:
        classifier = {name: run.shard.own(whole) for name, whole in classifier.items()}
        moments = run.shard.own_moments(run.optimizer, moments)
    fill(run.head, classifier, folder)
    try:
        checkpoint.unpack_optimizer(run.optimizer, moments, state.optimizer)
        run.stepper.scaler.load_state_dict(state.scaler)
    except (CheckpointError, RuntimeError, LookupError) as error:
        raise CheckpointError(f"{folder}: {error}") from None
    run.skipped = state.skipped
    return state


class Validation:
    """A data dir and a labelled trial list; read at the start, so that faults show before training."""

    def __init__(self, data_dir: Path, trial_list: Path) -> None:
        self.data_dir = data_dir
        opened = DataDir.open(data_dir)
        table = opened.table
        trials = read_trials(trial_list)
        if trials.target is None:
            raise TrialError(f"{trial_list}: validation needs a trial list with labels")
        if trials.target.all() or not trials.target.any():
            kind = "target" if trials.target.all() else "non-target"
            raise TrialError(f"{trial_list}: all trials are {kind}; validation needs both kinds")
        rows = trials.resolve(table["utt_id"], allow_missing_channels=True).needed_rows
        self.utt_ids, self.wav_paths = (table[name][rows].to_list() for name in ("utt_id", "wav_path"))
        self.target = trials.target
        self.resolved = trials.resolve(table["utt_id"][rows], allow_missing_channels=True)
        self.speaker_ids = table["speaker_id"][rows]
        self.leaks = refuse_wrong_trials(
            self.resolved,
            self.speaker_ids,
            recordings_of(opened)[rows],
            remedy="remove them from the list",
        )

    def run(self, model: Model, world: World, out: Path | None = None) -> dict[str, float]:
        """EER and minDCF of ``model``; every rank embeds its share of the utterances, rank 0 writes."""
        model.network.eval()
        mine = slice(world.rank, None, world.size)
        embedder = TorchEmbedder(model)
        local = embed_files(embedder, self.utt_ids[mine], self.wav_paths[mine])
        rows = world.gather_rows(torch.from_numpy(local).to(world.device), len(self.utt_ids))
        emb_NE = rows.cpu().numpy().astype(np.float32)
        if out and world.is_main:
            meta = {"data_dir": str(self.data_dir), **origin_of(embedder)}
            EmbeddingSet(self.utt_ids, emb_NE, meta).save(out)
        result = detection_error(cosine_scores(self.resolved, emb_NE), self.target)
        return {"eer": result.eer, "min_dcf": result.min_dcf}
