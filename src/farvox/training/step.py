"""One optimiser step: learning rate and margin by closed formulas, forward, backward, check, update.

Shape suffixes: B utterance, F frame, M mel, E embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from farvox.errors import NonFiniteLossError
from farvox.features.specaugment import apply_masks
from farvox.training.distributed import World
from farvox.training.loader import Batch
from farvox.training.objective import Anchor, Losses
from farvox.training.options import OptimOptions, ScheduleOptions
from farvox.training.sharded import ShardedHead

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """Figures of one step; tensors stay on the device until they are read."""

    loss: Tensor
    num_right: Tensor
    distance: Tensor
    grad_norm: Tensor


@dataclass(eq=False)
class Stepper:
    """Runs optimiser steps of a training model.

    Attributes:
        model: a `TrainingModel`, or DDP around one.
        frontend: gives the features of what batches hold, without parameters; `nn.Identity` for features.
        world: the ranks, which take each step together or leave it out together.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        clip_norm: largest gradient norm; 0: not clipped.
        shard: the model's head, where it is a part of one; the gradient's norm is over all parts.
    """

    model: nn.Module
    frontend: nn.Module
    optimizer: torch.optim.Optimizer
    world: World
    precision: str = "fp32"
    clip_norm: float = 0.0
    teacher: nn.Module | None = None
    anchor: Anchor | None = None
    shard: ShardedHead | None = None

    def __post_init__(self) -> None:
        self.device = self.world.device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.scaler.scale(torch.zeros((), device=self.device))  # makes its tensors
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        own = {id(p) for p in self.shard.parameters()} if self.shard else set()
        self.shared = [p for p in self.parameters if id(p) not in own]
        self.guard = Guard(self.model, self.scaler, self.device)

    def step(self, micro_batches: Sequence[Batch], *, look: bool = True) -> StepResult:
        """One update from one global batch (this rank's micro-batches).

        With ``look``, wait for the device and raise if loss or gradient was not finite, on any rank.
        Otherwise a faulty step and those after it leave all as it was, and the next look raises. A CPU always
        looks.

        Raises:
            NonFiniteLossError: on all ranks; weights, moments, BatchNorm's statistics and the scale of fp16
                are as before the step.
        """
        self.guard.remember()
        result = self.gradient(micro_batches, len(micro_batches))
        if self.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, result.grad_norm)
        # The optimiser leaves its step out on the device where this is 1.
        self.optimizer.found_inf = self.guard.watch(self.world.mean(result.loss), result.grad_norm)  # type: ignore[attr-defined]
        self.optimizer.step()
        del self.optimizer.found_inf  # type: ignore[attr-defined]
        self.scaler.update()
        if look or self.device.type == "cpu":
            self.guard.look()
        return result

    def gradient(self, micro_batches: Iterable[Batch], count: int) -> StepResult:
        """The gradient of one global batch, of ``count`` micro-batches on this rank, and its norm."""
        self.optimizer.zero_grad(set_to_none=True)
        model = self.model
        if self.shard is not None and not any(p.requires_grad for p in self.shared):
            model = getattr(model, "module", model)  # DDP would wait for gradients of its own
        loss_sum, num_right, distance = torch.zeros(3, device=self.device)
        for number, batch in enumerate(micro_batches, 1):
            more = number < count
            with model.no_sync() if isinstance(model, DistributedDataParallel) and more else nullcontext():
                here = batch.to(self.device)
                with torch.no_grad():
                    feats_BFM = apply_masks(self.frontend(here.wav_BT), here.masks_BK4)
                    clean_BFM = None if here.clean_BT is None else self.frontend(here.clean_BT)
                with self.autocast():
                    target_BE = None
                    if self.teacher is not None and clean_BFM is not None:
                        with torch.no_grad():
                            target_BE = self.teacher(clean_BFM)
                    found: Losses = model(feats_BFM, here.labels_B, target_BE)
                self.scaler.scale(found.loss / count).backward()  # type: ignore[no-untyped-call]
            loss_sum += found.loss.detach() / count
            num_right += found.num_right
            distance += found.distance / count
        self.scaler.unscale_(self.optimizer)
        if self.anchor:
            self.anchor.pull()
        grad_norm = torch.nn.utils.get_total_norm([p.grad for p in self.shared if p.grad is not None])
        if self.shard is not None:  # also those of the head's other shards: the same on every rank
            gradients = [p.grad for p in self.shard.parameters() if p.grad is not None]
            own = torch.nn.utils.get_total_norm(gradients)
            squares = self.shard.world.sum(own.to(self.device).square())
            grad_norm = (squares + grad_norm.to(self.device).square()).sqrt()
        return StepResult(loss_sum, num_right, distance, grad_norm)

    def autocast(self) -> torch.autocast:
        """The number format that the network computes in."""
        kind = AUTOCAST.get(self.precision)
        return torch.autocast(self.device.type, kind, enabled=kind is not None)


class Guard:
    """Keeps all that a step changes as it is from the first fault on, until `look` is called.

    All is arithmetic on the device, so that a step does not wait for it. A step whose loss or gradient is not
    finite is not taken, nor is any after it: `look` puts BatchNorm's statistics and the scale of fp16 back to
    what they were before the faulty step, and raises.
    """

    def __init__(self, model: nn.Module, scaler: torch.amp.GradScaler, device: torch.device) -> None:
        self.model, self.scaler = model, scaler
        self._steps = 0
        self._found = torch.zeros(4, device=device)  # fault (0 or 1), its loss, gradient norm, step
        self._kept: list[Tensor] = []

    def remember(self) -> None:
        """Keep the statistics as they are before a step's first forward pass."""
        now = [torch.cat([b.flatten() for b in group]) for group in self._tensors()]
        is_faulty = self._found[0] > 0
        kept = zip(self._kept, now, strict=True) if self._kept else ()
        self._kept = [torch.where(is_faulty, before, after) for before, after in kept] or now
        self._steps += 1

    def watch(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """1.0 where the step must not be taken, else 0.0: the ``found_inf`` of torch's fused optimisers.

        Both figures are over all ranks. With fp16 the overflow of a finite loss is no fault: the step is left
        out, and the scaler takes a smaller scale, as long as there is one.
        """
        is_faulty = ~torch.isfinite(loss) | ~torch.isfinite(grad_norm)
        is_fault = is_faulty
        if self.scaler.is_enabled():
            scale, _ = self._scale()
            is_fault = ~torch.isfinite(loss) | (is_faulty & (scale <= 1.0))
        step = torch.full_like(loss, self._steps)
        fault = torch.stack([is_fault.float(), loss, grad_norm, step]).float()
        self._found = torch.where((self._found[0] == 0) & is_fault, fault, self._found)
        return torch.maximum(self._found[0], is_faulty.float())

    def look(self) -> None:
        """Wait for the device; `NonFiniteLossError` if a step was faulty, and all is as before that step."""
        fault, loss, grad_norm, step = self._found.tolist()
        if not fault:
            return
        for group, kept in zip(self._tensors(), self._kept, strict=True):
            for tensor, before in zip(group, torch.split(kept, [t.numel() for t in group]), strict=True):
                tensor.copy_(before.view_as(tensor))
        self._found.zero_()
        raise NonFiniteLossError(
            f"loss {loss:.4g}, gradient norm {grad_norm:.4g}; nothing was updated",
            steps_ago=self._steps - int(step),
        )

    def _tensors(self) -> list[list[Tensor]]:
        """Buffers and the state of the scaler, by type: each type is kept in one piece."""
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in (*self.model.buffers(), *self._scale()):
            groups.setdefault(tensor.dtype, []).append(tensor)
        return list(groups.values())

    def _scale(self) -> tuple[Tensor, ...]:
        """The scale of fp16, and the number of steps that it has been good for; nothing otherwise."""
        if not self.scaler.is_enabled():
            return ()
        scale, growth = self.scaler._scale, self.scaler._growth_tracker
        assert scale is not None and growth is not None
        return scale, growth


def build_optimizer(
    optim: OptimOptions, parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]]
) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over parameters, or groups of them; Adam's decay is L2 in the gradient, as in the
    baseline. Fused: one pass over weights, gradients and moments, left out on the device if need be.
    """
    common: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay, "fused": True}
    if optim.name != "sgd":
        kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
        return kind(parameters, **common)
    sgd = torch.optim.SGD(parameters, momentum=optim.momentum, nesterov=optim.nesterov, **common)
    for weight in (p for group in sgd.param_groups for p in group["params"] if optim.momentum):
        # torch would not fill them in where the first step is left out.
        sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return sgd


@dataclass(frozen=True)
class Schedule:
    """Learning rate and margin at any moment of a run.

    The warm-up is the baseline's: linear from lr / W to lr over the first W steps, counted from
    epoch 0; ``multistep`` counts its milestones from the first epoch of the run, as a fresh
    MultiStepLR does when the homework continues at epoch 44.

    Attributes:
        options: the epochs, and the curves of learning rate and margin.
        lr: the full learning rate.
        steps_per_epoch: optimiser steps in an epoch.
        margin: the head's full margin.
    """

    options: ScheduleOptions
    lr: float
    steps_per_epoch: int
    margin: float = 0.0

    def lr_at(self, epoch: int, step: int) -> float:
        """Learning rate of optimiser step ``step`` (from 0) of ``epoch``."""
        options = self.options
        warmup_steps = round(options.warmup_epochs * self.steps_per_epoch)
        done = epoch * self.steps_per_epoch + step
        if done < warmup_steps:
            return self.lr * (done + 1) / warmup_steps
        if options.kind == "multistep":
            passed = sum(epoch - options.first_epoch >= milestone for milestone in options.milestones)
            return float(self.lr * options.gamma**passed)
        if options.kind == "constant":
            return self.lr
        first = max(options.first_epoch * self.steps_per_epoch, warmup_steps)
        last = options.epochs * self.steps_per_epoch
        progress = min(1.0, (done - first) / max(1, last - 1 - first))
        if options.kind == "linear":
            return self.lr + (options.final_lr - self.lr) * progress
        if options.kind == "cosine":
            return options.final_lr + (self.lr - options.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        return float(self.lr * (options.final_lr / self.lr) ** progress)

    def margin_at(self, epoch: int, step: int) -> float:
        """Margin of the head at a step: 0, then growing linearly, then full."""
        if not self.options.margin_epochs:
            return self.margin
        start, end = self.options.margin_epochs
        now = epoch + step / self.steps_per_epoch
        return self.margin * min(1.0, max(0.0, (now - start) / max(end - start, 1e-9)))
