"""Batches for the trainer: worker processes read and augment, the training process only stacks.

Shape suffixes: B utterance, T sample, K mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from farvox.data.dataset import ChunkDataset, Example
from farvox.data.plan import StepBatches


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward-backward pass takes."""

    wav_BT: Tensor
    labels_B: Tensor
    masks_BK4: Tensor
    positions: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return Batch(
            self.wav_BT.to(device, non_blocking=True),
            self.labels_B.to(device, non_blocking=True),
            self.masks_BK4.to(device, non_blocking=True),
            self.positions,
        )

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; called by the DataLoader."""
        return Batch(
            self.wav_BT.pin_memory(), self.labels_B.pin_memory(), self.masks_BK4.pin_memory(), self.positions
        )


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples; examples with fewer masks than others get empty ones."""
    num_masks = max(len(example.masks_K4) for example in examples)
    masks = np.zeros((len(examples), num_masks, 4), dtype=np.int64)
    for row, example in enumerate(examples):
        masks[row, : len(example.masks_K4)] = example.masks_K4
    return Batch(
        torch.from_numpy(np.stack([example.wav_T for example in examples])),
        torch.tensor([example.label for example in examples]),
        torch.from_numpy(masks),
        tuple(example.position for example in examples),
    )


def build_loader(
    dataset: ChunkDataset, batches: StepBatches, *, workers: int, pin_memory: bool = False
) -> DataLoader[Batch]:
    """A DataLoader over ``batches``; its order and content do not depend on ``workers``."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # a batch is not an example, and torch's stub has one type for both
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )
