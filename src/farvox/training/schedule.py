"""Learning rate and margin as closed formulas of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate and margin at any moment of a run.

    The warm-up is the baseline's: linear from lr / W to lr over the first W steps, counted from
    epoch 0; ``multistep`` counts its milestones from the first epoch of the run, as a fresh
    MultiStepLR does when the homework continues at epoch 44.

    Attributes:
        kind: ``multistep``, ``linear``, ``cosine``, ``exponential`` or ``constant``.
        lr: the full learning rate.
        steps_per_epoch: optimiser steps in an epoch.
        first_epoch: number of the run's first epoch.
        epochs: the run ends before this epoch.
        margin: the head's full margin.
        margin_epochs: (start, end) of the margin's growth; empty: full margin throughout.
    """

    kind: str
    lr: float
    steps_per_epoch: int
    epochs: int
    first_epoch: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    final_lr: float = 0.0
    warmup_epochs: float = 0.0
    margin: float = 0.0
    margin_epochs: tuple[float, ...] = ()

    def lr_at(self, epoch: int, step: int) -> float:
        """Learning rate of optimiser step ``step`` (from 0) of ``epoch``."""
        warmup_steps = round(self.warmup_epochs * self.steps_per_epoch)
        done = epoch * self.steps_per_epoch + step
        if done < warmup_steps:
            return self.lr * (done + 1) / warmup_steps
        if self.kind == "multistep":
            passed = sum(epoch - self.first_epoch >= milestone for milestone in self.milestones)
            return float(self.lr * self.gamma**passed)
        if self.kind == "constant":
            return self.lr
        first = max(self.first_epoch * self.steps_per_epoch, warmup_steps)
        last = self.epochs * self.steps_per_epoch
        progress = (done - first) / max(1, last - 1 - first)
        if self.kind == "linear":
            return self.lr + (self.final_lr - self.lr) * progress
        if self.kind == "cosine":
            return self.final_lr + (self.lr - self.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        return float(self.lr * (self.final_lr / self.lr) ** progress)

    def margin_at(self, epoch: int, step: int) -> float:
        """Margin of the head at a step: 0, then growing linearly, then full."""
        if not self.margin_epochs:
            return self.margin
        start, end = self.margin_epochs
        now = epoch + step / self.steps_per_epoch
        return self.margin * min(1.0, max(0.0, (now - start) / max(end - start, 1e-9)))
