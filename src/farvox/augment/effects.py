"""Noise at an exact signal-to-noise ratio, and reverberation, of packed recordings and responses.

Shape suffixes: T sample.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from farvox.audio.files import audio_info, open_audio, read_audio
from farvox.audio.mapped import MappedAudio, map_audio
from farvox.datadir.conditions import CONDITIONS, read_conditions
from farvox.datadir.kaldi import DataDir
from farvox.errors import AudioError, DataDirError
from farvox.farfield.mixing import Array, Spectrum, convolve_rir, is_silent, power, spectrum_of_rir

_TRIES = 5


@dataclass(frozen=True)
class NoiseSet:
    """Recordings to take crops from: MUSAN's noise, music or speech, or any other data dirs.

    Only the samples of a crop are read, from one memory-mapped file of 16-bit samples or from the files.

    Attributes:
        paths: the audio files.
        sample_rate: rate of the crops in Hz.
        packed: the same recordings in one memory-mapped file; None to read the files.
    """

    paths: tuple[str, ...]
    sample_rate: int = 16000
    packed: MappedAudio | None = field(default=None, compare=False)

    @classmethod
    def open(cls, dirs: Iterable[str | Path], *, sample_rate: int = 16000, pack: bool = True) -> NoiseSet:
        """The recordings of some data dirs.

        Args:
            dirs: data dirs; ``wav.scp`` is enough.
            sample_rate: rate of the crops in Hz.
            pack: keep the recordings in one file in the cache, so that a crop opens no file.

        Raises:
            DataDirError: a data dir cannot be read or has no files.
            AudioError: a file cannot be read (without ``pack``: the first of a data dir).
        """
        paths = read_paths(dirs)
        return cls(paths, sample_rate, map_audio(paths, sample_rate=sample_rate) if pack else None)

    def __len__(self) -> int:
        return len(self.paths)

    def draw(self, rng: np.random.Generator, num_samples: int, index: int | None = None) -> Array:
        """Draw a crop at random, again if it is silent, up to five times.

        Args:
            rng: random stream of the example.
            num_samples: samples wanted; a shorter file is repeated from its beginning.
            index: of the file to crop; drawn when None (and again after a silent crop).

        Raises:
            AudioError: the file cannot be read.
        """
        for _ in range(_TRIES):
            chosen = int(rng.integers(len(self.paths))) if index is None else index
            if self.packed is not None:
                start = int(rng.integers(max(0, self.packed.length(chosen) - num_samples) + 1))
                crop_T = self.packed.crop(chosen, start, num_samples)
            else:
                with open_audio(self.paths[chosen]) as file:
                    length = max(1, file.info.num_samples * self.sample_rate // file.info.sample_rate)
                    start = int(rng.integers(max(0, length - num_samples) + 1))
                    size = min(num_samples, length)
                    crop_T = file.read(start=start, num_samples=size, sample_rate=self.sample_rate)
            if not is_silent(crop_T):
                break
        return crop_T if len(crop_T) == num_samples else np.resize(crop_T, num_samples)


def draw_babble(
    rng: np.random.Generator, speech: NoiseSet, num_samples: int, num_talkers: tuple[int, int] = (3, 7)
) -> Array:
    """Several people who talk at once: crops of different files, each at the same power, summed.

    Args:
        rng: random stream of the example.
        speech: recordings of speech, at least as many as the fewest talkers.
        num_samples: samples wanted.
        num_talkers: fewest and most talkers, the most no more than there are recordings.
    """
    talkers = int(rng.integers(num_talkers[0], min(num_talkers[1], len(speech)) + 1))
    babble_T = np.zeros(num_samples, dtype=np.float32)
    for index in rng.choice(len(speech), size=talkers, replace=False):
        talker_T = speech.draw(rng, num_samples, int(index))
        if not is_silent(talker_T):
            babble_T += talker_T / np.float32(np.sqrt(power(talker_T)))
    return babble_T


def read_paths(dirs: Iterable[str | Path]) -> tuple[str, ...]:
    """The audio files of some data dirs, in order.

    The first file of each data dir is opened, so that training does not begin with a corpus that was moved.

    Raises:
        DataDirError: a data dir cannot be read, or has no files; or none is given.
        AudioError: the first file cannot be opened.
    """
    paths: list[str] = []
    for folder in dirs:
        of_folder = [str(path) for path in DataDir.open(folder).wav_paths]
        if not of_folder:
            raise DataDirError(f"{folder}: has no audio files; augmentation needs some")
        audio_info(of_folder[0])
        paths += of_folder
    if not paths:
        raise DataDirError("augmentation needs at least one data dir")
    return tuple(paths)


_SPECTRA_BYTES = 32_000_000


@dataclass(frozen=True)
class RirSet:
    """Room impulse responses to draw from.

    The spectra used last are kept, at most 32 MB of them, since chunks of one length need those of a small
    set again and again. They are not pickled.

    Attributes:
        paths: the RIR files; the first channel is used.
        sample_rate: rate the RIRs are read at, in Hz.
        packed: the same RIRs in one memory-mapped file; None to read the files.
    """

    paths: tuple[str, ...]
    sample_rate: int = 16000
    packed: MappedAudio | None = field(default=None, compare=False)
    _spectra: OrderedDict[tuple[int, int], Spectrum] = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    @classmethod
    def open(
        cls,
        dirs: Iterable[str | Path],
        *,
        sample_rate: int = 16000,
        within: Mapping[str, tuple[float, float]] | None = None,
        pack: bool = True,
    ) -> RirSet:
        """The RIRs of some data dirs (``wav.scp`` is enough).

        Args:
            dirs: the data dirs.
            sample_rate: rate the RIRs are read at, in Hz.
            within: condition of ``utt2cond`` -> least and greatest value; an RIR is kept if all are known of
                it and in range.
            pack: keep the RIRs in one file in the cache, so that drawing one opens no file.

        Raises:
            DataDirError: a data dir cannot be read or has no files; it has no such condition, or no RIR
                of any of them is in range.
            AudioError: a file cannot be read.
        """
        dirs = list(dirs)
        paths = read_paths(dirs)
        if within:
            kept: list[str] = []
            for folder in dirs:
                if not (Path(folder) / CONDITIONS).exists():
                    raise DataDirError(
                        f"{folder}: has no {CONDITIONS}, so the {', '.join(within)} of its RIRs is not known"
                        f"; measure them: farvox rirs OUT --measured {folder}"
                    )
                known = read_conditions(folder)
                in_range = []
                for condition, limits in within.items():
                    if condition not in known.columns:
                        raise DataDirError(f"{folder}: has no condition '{condition}' in {CONDITIONS}")
                    in_range.append(pl.col(condition).cast(pl.Float64, strict=False).is_between(*limits))
                wanted = known.filter(*in_range)["utt_id"]
                table = DataDir.open(folder).table
                kept += table.filter(pl.col("utt_id").is_in(wanted.implode()))["wav_path"].to_list()
            if not kept:
                ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in within.items())
                raise DataDirError(f"{', '.join(map(str, dirs))}: no RIR has {ranges}; widen the range")
            paths = tuple(kept)
        return cls(
            paths, sample_rate, map_audio(paths, sample_rate=sample_rate, kind="float32") if pack else None
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_spectra": OrderedDict()}

    def rir(self, index: int) -> Array:
        """One RIR.

        Raises:
            AudioError: the file cannot be read, or holds only zeros or something not finite.
        """
        if self.packed is not None:
            rir_R = self.packed.crop(index)
        else:
            rir_R = read_audio(self.paths[index], sample_rate=self.sample_rate)
        if not np.isfinite(rir_R).all() or not rir_R.any():
            raise AudioError(f"{self.paths[index]}: not an impulse response (all zeros, or not finite)")
        return rir_R

    def reverberate(self, speech_T: Array, index: int, *, aligned: bool = True) -> Array:
        """`convolve_rir` with one RIR of the set."""
        rir_R = self.rir(index)
        key = (index, len(speech_T))
        spectrum = self._spectra.pop(key, None)
        if spectrum is None:
            spectrum = spectrum_of_rir(rir_R, len(speech_T))
        self._spectra[key] = spectrum  # the one used last stands last
        if len(self._spectra) * spectrum.nbytes > _SPECTRA_BYTES:
            self._spectra.popitem(last=False)
        return convolve_rir(speech_T, rir_R, aligned=aligned, rir_spectrum=spectrum)

    def draw(self, rng: np.random.Generator) -> int:
        """Index of a random RIR."""
        return int(rng.integers(len(self.paths)))
