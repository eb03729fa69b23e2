"""One training example: read only the chunk, change its speed, augment it.

Everything random about an example comes from ``rng_for(seed, epoch, position)``, so that it is the
same in any worker, on any rank and after any resume. Shape suffixes: T sample, K mask, V speed,
S speaker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from farvox.audio.files import open_audio
from farvox.audio.remote import is_remote
from farvox.augment.speed import change_speed, num_samples_before_speed
from farvox.errors import AudioError
from farvox.rng import rng_for
from farvox.training.table import TrainingTable

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
