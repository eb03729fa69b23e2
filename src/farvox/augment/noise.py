"""Noise to add: the banks it is taken from, and babble made of speech.

Shape suffixes: T sample.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farvox.acoustics.mixing import Array, is_silent, power
from farvox.errors import DataDirError
from farvox.io.audio import audio_info, read_audio
from farvox.io.kaldi import DataDir

_TRIES = 5


@dataclass(frozen=True)
class NoiseBank:
    """Recordings to take crops from: MUSAN's noise, music or speech, or any other data dirs.

    Only the samples of a crop are read. A small bank is kept in memory (16 bits a sample) once read; each
    data-loader worker fills its own, and a pickled bank travels empty.

    Attributes:
        paths: the audio files.
        sample_rate: rate of the crops in Hz.
        cached: whether files are kept in memory.
    """

    paths: tuple[str, ...]
    sample_rate: int = 16000
    cached: bool = False
    _memory: dict[int, NDArray[np.int16]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(
        cls, dirs: Iterable[str | Path], *, sample_rate: int = 16000, max_cached: int = 64_000_000
    ) -> NoiseBank:
        """Bank of every file of some data dirs.

        Args:
            dirs: data dirs; ``wav.scp`` is enough, and ``utt2num_samples`` lets a small bank be cached.
            sample_rate: rate of the crops in Hz.
            max_cached: keep the bank in memory if it has no more samples than this.

        Raises:
            DataDirError: a data dir cannot be read or has no files.
            AudioError: the first file of a data dir cannot be opened.
        """
        dirs = list(dirs)
        lengths = [n for folder in dirs for n in DataDir.open(folder).num_samples]
        small = None not in lengths and sum(lengths) <= max_cached
        return cls(read_paths(dirs), sample_rate, cached=small)

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_memory": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def draw(self, rng: np.random.Generator, num_samples: int, index: int | None = None) -> Array:
        """A random crop, one that is not silent if a few tries find any.

        Args:
            rng: random stream of the example.
            num_samples: samples wanted; a shorter file is repeated from its beginning.
            index: of the file to crop; drawn when None (and again after a silent crop).

        Raises:
            AudioError: the file cannot be read.
        """
        for _ in range(_TRIES):
            chosen = int(rng.integers(len(self.paths))) if index is None else index
            length = self._length(chosen)
            start = int(rng.integers(max(0, length - num_samples) + 1))
            crop_T = self._crop(chosen, start, min(num_samples, length))
            if not is_silent(crop_T):
                break
        return crop_T if len(crop_T) == num_samples else np.resize(crop_T, num_samples)

    def _length(self, index: int) -> int:
        """Samples of a file at the bank's rate, as far as its header tells."""
        if self.cached:
            return len(self._whole(index))
        info = audio_info(self.paths[index])
        return max(1, info.num_samples * self.sample_rate // info.sample_rate)

    def _crop(self, index: int, start: int, num_samples: int) -> Array:
        if self.cached:
            crop_T = self._whole(index)[start : start + num_samples]
            return crop_T.astype(np.float32) / np.float32(32768)
        return read_audio(
            self.paths[index], start=start, num_samples=num_samples, sample_rate=self.sample_rate
        )

    def _whole(self, index: int) -> NDArray[np.int16]:
        if index not in self._memory:
            wav_T = read_audio(self.paths[index], sample_rate=self.sample_rate)
            self._memory[index] = np.clip(np.rint(wav_T * 32768), -32768, 32767).astype(np.int16)
        return self._memory[index]


def draw_babble(
    rng: np.random.Generator, bank: NoiseBank, num_samples: int, num_talkers: tuple[int, int] = (3, 7)
) -> Array:
    """Several people talking at once: crops of different files, each at the same power, summed.

    Args:
        rng: random stream of the example.
        bank: recordings of speech, at least as many as the fewest talkers.
        num_samples: samples wanted.
        num_talkers: fewest and most talkers; the most is cut to the size of the bank.
    """
    talkers = int(rng.integers(num_talkers[0], min(num_talkers[1], len(bank)) + 1))
    babble_T = np.zeros(num_samples, dtype=np.float32)
    for index in rng.choice(len(bank), size=talkers, replace=False):
        talker_T = bank.draw(rng, num_samples, int(index))
        if not is_silent(talker_T):
            babble_T += talker_T / np.float32(np.sqrt(power(talker_T)))
    return babble_T


def read_paths(dirs: Iterable[str | Path]) -> tuple[str, ...]:
    """The audio files of some data dirs, in order.

    The first of each data dir is opened, so that a corpus that was moved is found out before training and
    not within it.

    Raises:
        DataDirError: a data dir cannot be read, or has no files; or none is given.
        AudioError: the first file cannot be opened.
    """
    paths: list[str] = []
    for folder in dirs:
        of_folder = [str(path) for path in DataDir.open(folder).wav_paths]
        if not of_folder:
            raise DataDirError(f"{folder}: a bank needs audio files, and there is none")
        audio_info(of_folder[0])
        paths += of_folder
    if not paths:
        raise DataDirError("a bank needs at least one data dir")
    return tuple(paths)
