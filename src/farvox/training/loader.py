"""Training examples and their batches: worker processes read and augment, the training process only stacks.

Everything random about an example comes from ``rng_for(seed, epoch, position)``, so that it is the
same in any worker, on any rank and after any resume. Shape suffixes: T sample, K mask, V speed,
S speaker.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from farvox.audio.files import open_audio
from farvox.audio.remote import is_remote
from farvox.augment.speed import change_speed, num_samples_before_speed
from farvox.errors import AudioError, FarvoxError
from farvox.machine import keep_freed_memory
from farvox.rng import rng_for
from farvox.training.table import StepBatches, TrainingTable

Wav = npt.NDArray[np.float32]
Augment = Callable[[Wav, np.random.Generator], Wav]
DrawMasks = Callable[[np.random.Generator], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Example:
    """A chunk of speech with its label and the SpecAugment masks drawn for it.

    ``clean_T`` is the chunk before augmentation, where the data set keeps it.
    """

    wav_T: Wav
    label: int
    masks_K4: npt.NDArray[np.int64]
    position: int
    clean_T: Wav | None = None


class Chunk(NamedTuple):
    """A part of an utterance as it was read, and the random stream of all that is still to be done to it."""

    wav_T: Wav
    variant: int
    position: int
    row: int
    rng: np.random.Generator


class ChunkDataset(Dataset[Example]):
    """Training chunks, addressed by (epoch, position, row of the training table).

    Args:
        table: the utterances.
        seed: the run's seed.
        num_samples: length of a chunk, T.
        sample_rate: rate the chunk is delivered at, in Hz.
        speeds: speed factors, V of them; drawn uniformly.
        labels_VS: class of each speaker at each speed; None: speaker s at speed number v is s + v * S.
        augment: changes a chunk, or None.
        draw_masks: draws SpecAugment masks, or None.
        keep_clean: deliver each chunk as it was before augmentation as well.
    """

    def __init__(
        self,
        table: TrainingTable,
        *,
        seed: int,
        num_samples: int,
        sample_rate: int = 16000,
        speeds: Sequence[float] = (1.0,),
        labels_VS: npt.NDArray[np.int64] | None = None,
        augment: Augment | None = None,
        draw_masks: DrawMasks | None = None,
        keep_clean: bool = False,
    ) -> None:
        self.table = table
        self.seed = seed
        self.num_samples = num_samples
        self.sample_rate = sample_rate
        self.speeds = tuple(speeds)
        shape = (len(self.speeds), len(table.speaker_names))
        self.labels_VS = np.arange(shape[0] * shape[1]).reshape(shape) if labels_VS is None else labels_VS
        self.augment = augment
        self.draw_masks = draw_masks
        self.keep_clean = keep_clean

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, where: tuple[int, int, int]) -> Example:
        return self.example(self.read(where))

    def read(self, where: tuple[int, int, int]) -> Chunk:
        """The first half of the work: what waits for a disk or a network; threads may do it at once."""
        epoch, position, row = where
        rng = rng_for(self.seed, epoch, position)
        variant = int(rng.integers(len(self.speeds))) if len(self.speeds) > 1 else 0
        length = num_samples_before_speed(self.num_samples, self.speeds[variant])
        try:
            wav_T = draw_chunk(self.table.wav_paths[row], length, self.sample_rate, rng)
        except AudioError as error:
            raise AudioError(f"utterance '{self.table.utt_ids[row]}': {error}") from None
        return Chunk(wav_T, variant, position, row, rng)

    def example(self, chunk: Chunk) -> Example:
        """The second half: speed and augmentation."""
        speed = self.speeds[chunk.variant]
        wav_T = clean_T = fit_length(change_speed(chunk.wav_T, speed), self.num_samples)
        if self.augment is not None:
            wav_T = self.augment(wav_T, chunk.rng)
        masks = self.draw_masks(chunk.rng) if self.draw_masks else np.zeros((0, 4), dtype=np.int64)
        label = int(self.labels_VS[chunk.variant, self.table.speakers_N[chunk.row]])
        return Example(wav_T, label, masks, chunk.position, clean_T if self.keep_clean else None)

    def is_remote(self, row: int) -> bool:
        """The audio of a row comes over a network."""
        return is_remote(self.table.wav_paths[row])


def draw_chunk(path: str, num_samples: int, sample_rate: int, rng: np.random.Generator) -> Wav:
    """Read ``num_samples`` from a uniformly drawn start; a shorter file is repeated (as in the baseline).

    Raises:
        AudioError: the file cannot be read or is empty.
    """
    with open_audio(path) as file:
        available = int(file.info.num_samples * sample_rate / file.info.sample_rate)
        if available == 0:
            raise AudioError(f"{path}: the file has no samples")
        start = int(rng.random() * (available - num_samples)) if available > num_samples else 0
        wav_T = file.read(start=start, num_samples=min(num_samples, available), sample_rate=sample_rate)
    return fit_length(wav_T, num_samples)


def fit_length(wav_T: Wav, num_samples: int) -> Wav:
    """Repeat or cut a signal to exactly ``num_samples``."""
    if len(wav_T) < num_samples:
        wav_T = np.tile(wav_T, -(-num_samples // len(wav_T)))
    return wav_T[:num_samples]


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
