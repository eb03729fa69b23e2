"""One optimiser step: forward, backward, check, update.

Shape suffixes: B utterance, F frame, M mel, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from farvox.features.specaugment import apply_masks
from farvox.training.guard import Guard
from farvox.training.loader import Batch
from farvox.training.objective import Anchor, Losses, Teacher
from farvox.training.sharded import ShardedHead

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """What a step found; tensors stay on the device until someone looks."""

    loss: Tensor
    num_right: Tensor
    distance: Tensor
    grad_norm: Tensor


class Stepper:
    """Runs optimiser steps of a training model.

    Args:
        model: a `TrainingModel`, or DDP around one.
        frontend: what batches hold to features, without parameters; `nn.Identity` where they hold features.
        optimizer: over the model's parameters.
        device: where to compute.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        clip_norm: largest gradient norm; 0: not clipped.
        teacher: embeds the clean chunks, or None.
        anchor: keeps the weights near where they started, or None.
        shard: the model's head, where it is a part of one; the gradient's norm is over all parts.
    """

    def __init__(
        self,
        model: nn.Module,
        frontend: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: str = "fp32",
        clip_norm: float = 0.0,
        teacher: Teacher | None = None,
        anchor: Anchor | None = None,
        shard: ShardedHead | None = None,
    ) -> None:
        self.model = model
        self.frontend = frontend
        self.optimizer = optimizer
        self.device = device
        self.precision = precision
        self.clip_norm = clip_norm
        self.teacher = teacher
        self.anchor = anchor
        self.shard = shard
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        own = {id(p) for p in shard.parameters()} if shard else set()
        self.shared = [p for p in self.parameters if id(p) not in own]
        self.guard = Guard(model, device)

    def step(self, micro_batches: Sequence[Batch], *, look: bool = True) -> StepResult:
        """One update from one global batch (this rank's micro-batches).

        Args:
            micro_batches: of this rank.
            look: wait for the device to see whether the gradient was finite. Else a faulty step and
                those after it leave all as it was, and the next look raises. A CPU always looks.

        Raises:
            NonFiniteLossError: the gradient is not finite; weights and BatchNorm's statistics are as they
                were.
        """
        self.guard.remember()
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, num_right, distance = torch.zeros(3, device=self.device)
        for number, batch in enumerate(micro_batches, 1):
            with self._no_sync(last=number == len(micro_batches)):
                found = self._forward(batch.to(self.device))
                self.scaler.scale(found.loss / len(micro_batches)).backward()  # type: ignore[no-untyped-call]
            loss_sum += found.loss.detach() / len(micro_batches)
            num_right += found.num_right
            distance += found.distance / len(micro_batches)
        self.scaler.unscale_(self.optimizer)
        if self.anchor:
            self.anchor.pull()
        grad_norm = self._grad_norm()
        if self.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, grad_norm)
        # An overflow of a finite loss is mended by a smaller scale.
        forgiven = torch.isfinite(loss_sum) if self.scaler.is_enabled() else None
        self._update(unless=self.guard.watch(loss_sum, grad_norm, forgiven=forgiven))
        if look or self.device.type == "cpu":
            self.guard.look()
        return StepResult(loss_sum, num_right, distance, grad_norm)

    def _grad_norm(self) -> Tensor:
        """Of all weights, also those of a head's other shards: the same on every rank."""
        shared = torch.nn.utils.get_total_norm([p.grad for p in self.shared if p.grad is not None])
        if self.shard is None:
            return shared
        gradients = [p.grad for p in self.shard.parameters() if p.grad is not None]
        own = torch.nn.utils.get_total_norm(gradients)
        squares = self.shard.world.sum(own.to(self.device).square())
        return (squares + shared.to(self.device).square()).sqrt()

    def _update(self, *, unless: Tensor) -> None:
        """The optimiser's step, left out on the device where ``unless`` is 1."""
        self.optimizer.found_inf = unless  # type: ignore[attr-defined]
        self.optimizer.step()
        del self.optimizer.found_inf  # type: ignore[attr-defined]
        self.scaler.update()

    def _forward(self, batch: Batch) -> Losses:
        with torch.no_grad():
            feats_BFM = apply_masks(self.frontend(batch.wav_BT), batch.masks_BK4)
            clean_BFM = None if batch.clean_BT is None else self.frontend(batch.clean_BT)
        with torch.autocast(
            self.device.type, AUTOCAST.get(self.precision), enabled=self.precision in AUTOCAST
        ):
            target_BE = self.teacher.embed(clean_BFM) if self.teacher and clean_BFM is not None else None
            losses: Losses = self._model_now()(feats_BFM, batch.labels_B, target_BE)
        return losses

    def _model_now(self) -> nn.Module:
        """The model, without DDP where only a shard is trained: DDP would wait for its own gradients."""
        if self.shard is None or any(p.requires_grad for p in self.shared):
            return self.model
        model: nn.Module = getattr(self.model, "module", self.model)
        return model

    def _no_sync(self, *, last: bool) -> AbstractContextManager[None]:
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()


def build_optimizer(
    name: str,
    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over parameters, or groups of them; Adam's decay is L2 in the gradient, as in the
    baseline. Fused: one pass over weights, gradients and moments, left out on the device if need be.
    """
    if name == "sgd":
        sgd = torch.optim.SGD(
            parameters, lr=lr, momentum=momentum, weight_decay=weight_decay,
            nesterov=nesterov, fused=True,
        )  # fmt: skip
        for weight in (p for group in sgd.param_groups for p in group["params"] if momentum):
            # torch would not fill them in where the first step is left out.
            sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        return sgd
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=weight_decay, fused=True)
