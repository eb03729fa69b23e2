"""Training examples and their batches, which worker processes read, augment and stack.

Everything random about an example comes from ``rng_for(seed, epoch, position)``, so that it is the
same in any worker, on any rank and after any resume.

Shape suffixes: B utterance, T sample, K mask, V speed, S speaker.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from farvox.atomic import remove_stale, temporary_beside
from farvox.audio.files import open_audio
from farvox.audio.remote import is_remote
from farvox.augment.effects import change_speed, num_samples_before_speed
from farvox.children import END, end_with_parent
from farvox.errors import AudioError, FarvoxError
from farvox.machine import keep_freed_memory
from farvox.rng import rng_for
from farvox.training.table import Draw, StepBatches, TrainingTable

Wav = npt.NDArray[np.float32]
Augment = Callable[[Wav, np.random.Generator], Wav]
DrawMasks = Callable[[np.random.Generator], npt.NDArray[np.int64]]
_LONGEST_PATH = 75  # bytes; a socket below it has 32 more, and 107 in all
LENGTHS, COPIES = 3, 4  # random streams: lengths of batches, augmentation of each copy of a chunk
READS_AT_ONCE = 64
"""Chunks that a worker asks for at a time, over a network."""


@dataclass(frozen=True, slots=True)
class Example:
    """A chunk of speech, perhaps also as before augmentation, with its label and its SpecAugment masks."""

    wav_T: Wav
    label: int
    masks_K4: npt.NDArray[np.int64]
    position: int
    clean_T: Wav | None = None


class Chunk(NamedTuple):
    """A part of an utterance as it was read, and the random stream of the steps that follow."""

    wav_T: Wav
    start: int
    variant: int
    position: int
    row: int
    num_samples: int
    rng: np.random.Generator


@dataclass(eq=False)
class ChunkDataset(Dataset[Example]):
    """Training chunks, addressed by `Draw`.

    Attributes:
        num_samples: length of a chunk, T; or with several, the lengths of which each batch has one.
        batch_size: examples of a batch, of all ranks, where lengths differ.
        sample_rate: rate the chunk is delivered at, in Hz.
        speeds: speed factors, V of them; drawn uniformly.
        labels_VS: class of each speaker at each speed; None: speaker s at speed number v is s + v * S.
        keep_clean: deliver each chunk as it was before augmentation as well.
        copies: positions in a row that share a chunk; augmentation and masks are their own.
    """

    table: TrainingTable
    seed: int
    num_samples: int | Sequence[int]
    sample_rate: int = 16000
    batch_size: int = 1
    speeds: Sequence[float] = (1.0,)
    labels_VS: npt.NDArray[np.int64] | None = None
    augment: Augment | None = None
    draw_masks: DrawMasks | None = None
    keep_clean: bool = False
    copies: int = 1

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, draw: Draw) -> Example:
        return self.example(self.read(draw))

    def read(self, draw: Draw) -> Chunk:
        """Read a chunk: the part of the work that waits for a disk or a network; threads may share it."""
        epoch, position, row = draw
        rng = rng_for(self.seed, epoch, position - position % self.copies)
        variant = int(rng.integers(len(self.speeds))) if len(self.speeds) > 1 else 0
        num_samples = self.length_at(epoch, position)
        length = num_samples_before_speed(num_samples, self.speeds[variant])
        try:
            wav_T, start = draw_chunk(self.table.wav_paths[row], length, self.sample_rate, rng)
        except AudioError as error:
            raise AudioError(f"utterance '{self.table.utt_ids[row]}': {error}") from None
        if self.copies > 1:
            rng = rng_for(self.seed, epoch, position, COPIES)
        return Chunk(wav_T, start, variant, position, row, num_samples, rng)

    def length_at(self, epoch: int, position: int) -> int:
        """Samples of the chunk at a position: the same for all of a batch."""
        if isinstance(self.num_samples, int):
            return self.num_samples
        rng = rng_for(self.seed, epoch, position // self.batch_size, LENGTHS)
        return self.num_samples[int(rng.integers(len(self.num_samples)))]

    def example(self, chunk: Chunk) -> Example:
        """Make an example of a chunk: speed, augmentation, masks."""
        speed = self.speeds[chunk.variant]
        wav_T = clean_T = fit_length(change_speed(chunk.wav_T, speed), chunk.num_samples)
        if self.augment is not None:
            wav_T = self.augment(wav_T, chunk.rng)
        masks = self.draw_masks(chunk.rng) if self.draw_masks else np.zeros((0, 4), dtype=np.int64)
        label = self.label(chunk.variant, chunk.row)
        return Example(wav_T, label, masks, chunk.position, clean_T if self.keep_clean else None)

    def label(self, variant: int, row: int) -> int:
        """Class of an utterance at a speed."""
        speaker = int(self.table.speakers_N[row])
        if self.labels_VS is None:
            return speaker + variant * len(self.table.speaker_names)
        return int(self.labels_VS[variant, speaker])


def draw_chunk(path: str, num_samples: int, sample_rate: int, rng: np.random.Generator) -> tuple[Wav, int]:
    """Read ``num_samples`` from a uniformly drawn start; a shorter file is repeated (as in the baseline).

    Returns:
        The samples, and the number of the first in the file, at ``sample_rate``.

    Raises:
        AudioError: the file cannot be read or is empty.
    """
    with open_audio(path) as file:
        available = int(file.info.num_samples * sample_rate / file.info.sample_rate)
        if available == 0:
            raise AudioError(f"{path}: the file has no samples")
        start = int(rng.random() * (available - num_samples)) if available > num_samples else 0
        wav_T = file.read(start=start, num_samples=min(num_samples, available), sample_rate=sample_rate)
    return fit_length(wav_T, num_samples), start


def fit_length(wav_T: Wav, num_samples: int) -> Wav:
    """Repeat or cut a signal to exactly ``num_samples``."""
    if len(wav_T) < num_samples:
        wav_T = np.tile(wav_T, -(-num_samples // len(wav_T)))
    return wav_T[:num_samples]


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one forward-backward pass: chunks, their classes, masks and positions in the epoch.

    Where there is a teacher, ``clean_BT`` are the chunks before augmentation. Where the workers compute
    features, these (feats_BFM) take the place of chunks.
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
        clean_BT = None if self.clean_BT is None else change(self.clean_BT)
        wav_BT, labels_B, masks_BK4 = map(change, (self.wav_BT, self.labels_B, self.masks_BK4))
        return Batch(wav_BT, labels_B, masks_BK4, self.positions, clean_BT)


def collate(
    examples: Sequence[Example | FarvoxError], frontend: nn.Module | None = None
) -> Batch | FarvoxError:
    """Stack examples to a batch, or give the first error among them.

    Those with fewer masks than others get empty ones; ``frontend`` computes the features, if any.
    """
    sound = [example for example in examples if isinstance(example, Example)]
    for error in examples:
        if isinstance(error, FarvoxError):
            return error
    masks = np.zeros((len(sound), max(len(example.masks_K4) for example in sound), 4), dtype=np.int64)
    for row, example in enumerate(sound):
        masks[row, : len(example.masks_K4)] = example.masks_K4
    clean = [example.clean_T for example in sound if example.clean_T is not None]
    wav_BT = torch.from_numpy(np.stack([example.wav_T for example in sound]))
    clean_BT = torch.from_numpy(np.stack(clean)) if clean else None
    if frontend is not None:
        with torch.no_grad():
            clean_BT = None if clean_BT is None else frontend(clean_BT)
            wav_BT = frontend(wav_BT)
    labels = torch.tensor([example.label for example in sound])
    positions = tuple(example.position for example in sound)
    return Batch(wav_BT, labels, torch.from_numpy(masks), positions, clean_BT)


def load_batches(
    dataset: ChunkDataset,
    batches: StepBatches,
    *,
    workers: int,
    pin_memory: bool = False,
    frontend: nn.Module | None = None,
) -> Generator[Batch]:
    """The batches, in order; their order and content do not depend on ``workers``.

    The worker processes end with the iterator: exhaust it or close it. Their errors are raised here.

    Args:
        dataset: the examples.
        batches: the draws of each batch.
        workers: processes that read and augment; 0: this one.
        pin_memory: deliver in page-locked memory.
        frontend: computes features where the examples are made; None leaves that to the receiver.
    """
    shared = Path(tempfile.gettempdir())
    if workers:
        remove_stale(shared)
    with temporary_beside(shared / "loader") if workers else nullcontext(shared) as folder:
        loader = DataLoader(
            _ErrorsAsValues(dataset),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=partial(collate, frontend=frontend),
            pin_memory=pin_memory,
            prefetch_factor=4 if workers else None,
            worker_init_fn=partial(_start_worker, str(folder)),
        )
        for batch in loader:
            if isinstance(batch, FarvoxError):
                raise batch
            yield batch


def _start_worker(folder: str, _number: int) -> None:
    """Let a process that reads take no signal, but end with the one that trains, whose last step it feeds.

    In ``folder`` it keeps the socket by which batches change hands, which a process that is killed leaves.
    """
    for number in END:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    if len(os.fsencode(folder)) <= _LONGEST_PATH:
        tempfile.tempdir = folder
    keep_freed_memory()


class _ErrorsAsValues(Dataset[Example | FarvoxError]):
    """Examples, and errors in their place: of one that is raised in a worker, torch keeps the text only.

    The chunks of a batch that come over a network are asked for all at once.
    """

    def __init__(self, dataset: ChunkDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, draws: Sequence[Draw]) -> list[Example | FarvoxError]:
        read = partial(_result_or_error, self.dataset.read)
        example = partial(_result_or_error, self.dataset.example)
        if not any(is_remote(self.dataset.table.wav_paths[row]) for _, _, row in draws):
            return [example(read(draw)) for draw in draws]
        with ThreadPool(min(READS_AT_ONCE, len(draws))) as pool:
            return [example(chunk) for chunk in pool.map(read, draws, chunksize=1)]


def _result_or_error(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return argument if isinstance(argument, FarvoxError) else function(argument)
    except FarvoxError as error:
        return error
