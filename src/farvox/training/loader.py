"""Batches for the trainer: worker processes read and augment, the training process only stacks.

Shape suffixes: B utterance, T sample, K mask.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from farvox.errors import FarvoxError
from farvox.machine import keep_freed_memory
from farvox.training.dataset import Chunk, ChunkDataset, Example
from farvox.training.plan import StepBatches

_READS_AT_ONCE = 64  # over a network, by each worker
_Place = tuple[int, int, int]  # epoch, position, row of the table


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one forward-backward pass.

    Attributes:
        wav_BT: chunks, augmented; their features (feats_BFM) where the workers compute these.
        labels_B: their classes.
        masks_BK4: their SpecAugment masks.
        positions: where they stand in the epoch.
        clean_BT: the same before augmentation, where there is a teacher.
    """

    wav_BT: Tensor
    labels_B: Tensor
    masks_BK4: Tensor
    positions: tuple[int, ...]
    clean_BT: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; called by the DataLoader."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.wav_BT),
            change(self.labels_B),
            change(self.masks_BK4),
            self.positions,
            None if self.clean_BT is None else change(self.clean_BT),
        )


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples; examples with fewer masks than others get empty ones."""
    num_masks = max(len(example.masks_K4) for example in examples)
    masks = np.zeros((len(examples), num_masks, 4), dtype=np.int64)
    for row, example in enumerate(examples):
        masks[row, : len(example.masks_K4)] = example.masks_K4
    clean = [example.clean_T for example in examples if example.clean_T is not None]
    return Batch(
        torch.from_numpy(np.stack([example.wav_T for example in examples])),
        torch.tensor([example.label for example in examples]),
        torch.from_numpy(masks),
        tuple(example.position for example in examples),
        torch.from_numpy(np.stack(clean)) if clean else None,
    )


def load_batches(
    dataset: ChunkDataset,
    batches: StepBatches,
    *,
    workers: int,
    pin_memory: bool = False,
    frontend: nn.Module | None = None,
) -> Generator[Batch]:
    """The batches, in order; their order and content do not depend on ``workers``.

    The worker processes end with the iterator: exhaust it or close it.

    Args:
        dataset: the examples.
        batches: which of them make a batch.
        workers: processes that read and augment; 0: this one.
        pin_memory: deliver in page-locked memory.
        frontend: computes features where the examples are made; None leaves that to the receiver.

    Raises:
        FarvoxError: what ``dataset`` raised, also where a worker met it.
    """
    loader = DataLoader(
        _FaultsAsValues(dataset),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_Collate(frontend),
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
    )
    for batch in loader:
        if isinstance(batch, FarvoxError):
            raise batch
        yield batch


def _start_worker(_number: int) -> None:
    keep_freed_memory()


class _FaultsAsValues(Dataset[Example | FarvoxError]):
    """Hands errors over like examples: raised in a worker, torch would bury them in a traceback's text.

    The chunks of a batch that come over a network are asked for all at once.
    """

    def __init__(self, dataset: ChunkDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, places: Sequence[_Place]) -> list[Example | FarvoxError]:
        if not any(self.dataset.is_remote(row) for _, _, row in places):
            return [self._finished(self._read(place)) for place in places]
        with ThreadPool(min(_READS_AT_ONCE, len(places))) as pool:
            return list(map(self._finished, pool.map(self._read, places, chunksize=1)))

    def _read(self, place: _Place) -> Chunk | FarvoxError:
        try:
            return self.dataset.read(place)
        except FarvoxError as error:
            return error

    def _finished(self, chunk: Chunk | FarvoxError) -> Example | FarvoxError:
        try:
            return chunk if isinstance(chunk, FarvoxError) else self.dataset.example(chunk)
        except FarvoxError as error:
            return error


@dataclass(frozen=True)
class _Collate:
    frontend: nn.Module | None

    def __call__(self, examples: Sequence[Example | FarvoxError]) -> Batch | FarvoxError:
        fault = next((example for example in examples if isinstance(example, FarvoxError)), None)
        if fault is not None:
            return fault
        batch = collate([example for example in examples if isinstance(example, Example)])
        if self.frontend is None:
            return batch
        with torch.no_grad():
            clean = None if batch.clean_BT is None else self.frontend(batch.clean_BT)
            return replace(batch, wav_BT=self.frontend(batch.wav_BT), clean_BT=clean)
