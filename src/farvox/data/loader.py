"""Batches for the trainer: worker processes read and augment, the training process only stacks.

Shape suffixes: B utterance, T sample, K mask.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from farvox.data.dataset import ChunkDataset, Example
from farvox.data.plan import StepBatches
from farvox.errors import FarvoxError


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


def load_batches(
    dataset: ChunkDataset, batches: StepBatches, *, workers: int, pin_memory: bool = False
) -> Generator[Batch]:
    """The batches, in order; their order and content do not depend on ``workers``.

    The worker processes end with the iterator: exhaust it or close it.

    Raises:
        FarvoxError: what ``dataset`` raised, also where a worker met it.
    """
    loader = DataLoader(
        _FaultsAsValues(dataset),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate_unless_fault,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )
    for batch in loader:
        if isinstance(batch, FarvoxError):
            raise batch
        yield batch


class _FaultsAsValues(Dataset[Example | FarvoxError]):
    """Hands errors over like examples: raised in a worker, torch would bury them in a traceback's text."""

    def __init__(self, dataset: ChunkDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, where: tuple[int, int, int]) -> Example | FarvoxError:
        try:
            return self.dataset[where]
        except FarvoxError as error:
            return error


def _collate_unless_fault(examples: Sequence[Example | FarvoxError]) -> Batch | FarvoxError:
    fault = next((example for example in examples if isinstance(example, FarvoxError)), None)
    return fault or collate([example for example in examples if isinstance(example, Example)])
