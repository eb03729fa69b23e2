"""One optimiser step: forward, backward, check, update.

Shape suffixes: B utterance, F frame, M mel, C class.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from farvox.data.loader import Batch
from farvox.errors import NonFiniteLossError
from farvox.features.specaugment import apply_masks

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingModel(nn.Module):
    """Network and classifier head as one module, so that DDP sees one forward pass."""

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, feats_BFM: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and number of right guesses; both scalars."""
        logits_BC = self.head(self.network(feats_BFM), labels_B)
        loss = F.cross_entropy(logits_BC.float(), labels_B)
        with torch.no_grad():
            right = (logits_BC.argmax(dim=1) == labels_B).sum()
        return loss, right


@dataclass(frozen=True)
class StepResult:
    """What a step found; tensors stay on the device until someone looks."""

    loss: Tensor
    num_right: Tensor
    grad_norm: Tensor


class Stepper:
    """Runs optimiser steps of a training model.

    Args:
        model: a `TrainingModel`, or DDP around one.
        frontend: waveform to features, without parameters.
        optimizer: over the model's parameters.
        device: where to compute.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        clip_norm: largest gradient norm; 0: not clipped.
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
    ) -> None:
        self.model = model
        self.frontend = frontend
        self.optimizer = optimizer
        self.device = device
        self.precision = precision
        self.clip_norm = clip_norm
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(self, micro_batches: Sequence[Batch]) -> StepResult:
        """One update from one global batch (this rank's micro-batches).

        Raises:
            NonFiniteLossError: the gradient is not finite; weights and BatchNorm's statistics are as they
                were.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = torch.zeros((), device=self.device)
        num_right = torch.zeros((), device=self.device)
        for number, batch in enumerate(micro_batches, 1):
            with self._no_sync(last=number == len(micro_batches)):
                loss, right = self._forward(batch.to(self.device))
                self.scaler.scale(loss / len(micro_batches)).backward()  # type: ignore[no-untyped-call]
            loss_sum += loss.detach() / len(micro_batches)
            num_right += right
        self.scaler.unscale_(self.optimizer)
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm or float("inf"))
        overflow = self.scaler.is_enabled() and bool(torch.isfinite(loss_sum))  # a smaller scale will mend it
        if not bool(torch.isfinite(grad_norm)) and not overflow:
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
            raise NonFiniteLossError(
                f"loss {float(loss_sum):.4g}, gradient norm {float(grad_norm):.4g}; the weights were not "
                "touched. Lower optim.lr, set optim.clip_norm, or look for damaged audio with 'farvox check'"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return StepResult(loss_sum, num_right, grad_norm)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            feats_BFM = apply_masks(self.frontend(batch.wav_BT), batch.masks_BK4)
        with torch.autocast(
            self.device.type, AUTOCAST.get(self.precision), enabled=self.precision in AUTOCAST
        ):
            loss, right = self.model(feats_BFM, batch.labels_B)
        return loss, right

    def _no_sync(self, *, last: bool) -> AbstractContextManager[None]:
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()


def build_optimizer(
    name: str,
    parameters: Sequence[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over ``parameters``; Adam's decay is L2 in the gradient, as in the baseline."""
    if name == "sgd":
        return torch.optim.SGD(
            parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=weight_decay)
