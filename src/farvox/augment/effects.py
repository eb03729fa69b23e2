"""Effects on a chunk: noise at an exact signal-to-noise ratio, reverberation, speed, tempo and volume.

Shape suffixes: T sample, R row, W sample of a row, P output of a row.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import soxr
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from farvox.audio.files import audio_info, open_audio, read_audio
from farvox.audio.mapped import MappedAudio, map_audio
from farvox.datadir.conditions import CONDITIONS, read_conditions
from farvox.datadir.kaldi import DataDir
from farvox.errors import AudioError, DataDirError
from farvox.farfield.mixing import Array, Spectrum, convolve_rir, is_silent, power, spectrum_of_rir
from farvox.farfield.rirs import audio_of
from farvox.farfield.rooms import refuse_other_sounds
from farvox.progress import to_stderr

_TRIES = 5
_OCTAVES = np.arange(-4, 4)  # of `change_colour`, from 1 kHz
_SPECTRA_BYTES = 32_000_000
LARGEST = 64
"""Largest numerator and denominator of a ratio that `resample` takes."""
_OUTPUTS = 40  # of a row: fewer copy more, more multiply more zeros
_ROWS = 64  # at a time: so few that no BLAS uses its threads for them


@dataclass(frozen=True)
class NoiseSet:
    """Recordings to take crops from: MUSAN's noise, music or speech, or any other data dirs.

    Only the samples of a crop are read, at ``sample_rate`` Hz, from one memory-mapped file of 16-bit samples
    (``packed``) or from the files.
    """

    paths: tuple[str, ...]
    sample_rate: int = 16000
    packed: MappedAudio | None = field(default=None, compare=False)

    @classmethod
    def open(cls, dirs: Iterable[str | Path], *, sample_rate: int = 16000, pack: bool = True) -> NoiseSet:
        """The recordings of some data dirs (``wav.scp`` is enough), or folders of audio files.

        With ``pack`` they are kept in one file in the cache, so that a crop opens no file.

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

        A shorter file is repeated from its beginning. The file is drawn, too, without ``index``.
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

    ``num_talkers`` are the fewest, at most as many as there are recordings, and the most.
    """
    talkers = int(rng.integers(num_talkers[0], min(num_talkers[1], len(speech)) + 1))
    babble_T = np.zeros(num_samples, dtype=np.float32)
    for index in rng.choice(len(speech), size=talkers, replace=False):
        talker_T = speech.draw(rng, num_samples, int(index))
        if not is_silent(talker_T):
            babble_T += talker_T / np.float32(np.sqrt(power(talker_T)))
    return babble_T


def read_paths(dirs: Iterable[str | Path]) -> tuple[str, ...]:
    """The audio files of some data dirs or plain folders, in order.

    The first file of each data dir is opened, so that training does not begin with a corpus that was moved.

    Raises:
        DataDirError: a data dir cannot be read, or has no files; or none is given.
        AudioError: the first file cannot be opened.
    """
    paths: list[str] = []
    for folder in dirs:
        of_folder = [path for _, path in audio_of(Path(folder))]
        audio_info(of_folder[0])
        paths += of_folder
    if not paths:
        raise DataDirError("augmentation needs at least one data dir")
    return tuple(paths)


def change_colour(wav_T: Array, rng: np.random.Generator, step_db: float, sample_rate: int = 16000) -> Array:
    """Colour a chunk as a loudspeaker and a microphone do; the power stays.

    From 1 kHz, where it is 0 dB, the gain goes up and down the octaves in random steps of the standard
    deviation ``step_db``, straight between them; to the lowest and the highest octave (62 Hz and 8 kHz) it
    falls, with twice that deviation.
    """
    below, above = rng.normal(0.0, step_db, (2, len(_OCTAVES) // 2))
    below[-1], above[-2] = -2 * abs(below[-1]), -2 * abs(above[-2])
    gain_db = np.concatenate([np.cumsum(below)[::-1], [0.0], np.cumsum(above[:-1])])
    size = int(next_fast_len(len(wav_T), real=True))
    spectrum = rfft(wav_T, size)
    spectrum *= (10 ** (np.interp(_octaves_of(size, sample_rate), _OCTAVES, gain_db) / 20)).astype(np.float32)
    coloured_T: Array = irfft(spectrum, size)[: len(wav_T)]
    return coloured_T * np.float32(math.sqrt(power(wav_T) / max(power(coloured_T), 1e-20)))


@lru_cache(maxsize=8)
def _octaves_of(size: int, sample_rate: int) -> NDArray[np.float64]:
    """Octaves above 1 kHz of the bins of an FFT."""
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    return np.asarray(np.log2(np.maximum(frequencies, 62.5) / 1000), np.float64)


@dataclass(frozen=True)
class RirSet:
    """Room impulse responses to draw from.

    The spectra used last are kept, at most 32 MB of them, since chunks of one length need those of a small
    set again and again. They are not pickled. Of a file, the first channel is used.
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
        """The RIRs of some data dirs or folders (``wav.scp`` is enough), read at ``sample_rate`` Hz.

        Args:
            within: condition of ``utt2cond`` -> least and greatest value; an RIR is kept if all are known of
                it and in range.
            pack: keep the RIRs in one file in the cache, so that drawing one opens no file.

        Raises:
            DataDirError: a data dir cannot be read or has no files; it has no such condition, or no RIR
                of any of them is in range.
            AudioError: a file cannot be read, or most are not responses of a room.
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
        packed = map_audio(paths, sample_rate=sample_rate, kind="float32") if pack else None
        rirs = cls(paths, sample_rate, packed)
        instead = "noise, music or speech of [augment]"
        refuse_other_sounds(paths, rirs.rir, sample_rate, instead=instead, note=to_stderr)
        return rirs

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_spectra": OrderedDict()}

    def rir(self, index: int) -> Array:
        """One RIR; an `AudioError` if it cannot be read, or holds only zeros or something not finite."""
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


_CROSSINGS, _ROLL_OFF, _BETA = 48, 0.935, 10.0
"""Zero crossings of the sinc on either side, its cut-off, its Kaiser window. Within 0.5 dB up to 0.90 of the
band that the output can hold, 85 dB down at its end, 100 dB soon after (soxr's HQ: 0.91 and 120 dB)."""


def change_speed(wav_T: Array, factor: float) -> Array:
    """Play a recording ``factor`` times as fast: shorter and higher above 1, longer and lower below.

    The voice changes with it, so trainings take a speaker at another speed for a new speaker (Yamamoto et
    al., 2019).

    The factor is taken as the nearest fraction with a denominator of at most 100.

    Returns:
        float32, round(T / factor) samples (see `num_samples_before_speed`).

    Raises:
        AudioError: ``factor`` is not in [0.1, 10].
    """
    ratio = _ratio(factor)
    if ratio == 1 or len(wav_T) == 0:
        return wav_T
    if max(ratio.numerator, ratio.denominator) <= LARGEST:
        resampled_T = resample(wav_T, ratio)
    else:
        resampled_T = soxr.resample(wav_T, ratio.numerator, ratio.denominator, quality="HQ")
    return _fit(resampled_T.astype(np.float32, copy=False), round(len(wav_T) / ratio))


def num_samples_before_speed(num_samples: int, factor: float) -> int:
    """Samples to read so that `change_speed` gives at least ``num_samples`` (and at most one more)."""
    return -(-num_samples * _ratio(factor).numerator // _ratio(factor).denominator)


def resample(wav_T: Array, step: Fraction) -> Array:
    """Samples of a signal at times 0, step, 2 step, ... up to its end; float32.

    A sinc with a Kaiser window, cut off below the lower of the two Nyquist frequencies. At a ratio of small
    numbers L / M, output n has the same weights as output n + L, of samples M further on. So a matrix holds
    the weights of a few periods of outputs, the signal is cut into overlapping rows, and one product of
    matrices does the rest: for a chunk of two seconds half the time of soxr's HQ. The numbers of ``step`` are
    at most `LARGEST`.
    """
    weights_WP, before, ahead = _weights(step)
    num_outputs = -(-len(wav_T) * step.denominator // step.numerator)
    num_rows = -(-num_outputs // (weights_WP.shape[1] * _ROWS)) * _ROWS
    padded_T = np.zeros((num_rows - 1) * ahead + len(weights_WP), np.float32)
    padded_T[before : before + len(wav_T)] = wav_T[: len(padded_T) - before]
    hop = padded_T.itemsize
    rows_RW = as_strided(padded_T, (num_rows, len(weights_WP)), (ahead * hop, hop), writeable=False)
    blocks = np.ascontiguousarray(rows_RW).reshape(-1, _ROWS, len(weights_WP))
    resampled_T: Array = np.matmul(blocks, weights_WP).reshape(-1)[:num_outputs]
    return resampled_T


@lru_cache(maxsize=32)
def _weights(step: Fraction) -> tuple[Array, int, int]:
    """The weights weights_WP of a row, the samples before its first output, the samples from row to row."""
    periods = max(1, round(_OUTPUTS / step.denominator))
    ahead, num_outputs = periods * step.numerator, periods * step.denominator
    band = min(1.0, 1 / float(step))  # of the input's, that the output can hold
    reach = _CROSSINGS / band
    before = int(reach)
    time_P = np.arange(num_outputs) * float(step) + before
    apart_WP = np.arange(int(time_P[-1] + reach) + 1)[:, None] - time_P
    inside_WP = np.clip(1 - (apart_WP / reach) ** 2, 0, None)
    window_WP = np.where(inside_WP > 0, np.i0(_BETA * np.sqrt(inside_WP)) / np.i0(_BETA), 0)
    weights_WP = _ROLL_OFF * band * np.sinc(_ROLL_OFF * band * apart_WP) * window_WP
    return np.ascontiguousarray(weights_WP, np.float32), before, ahead


def change_tempo(wav_T: Array, factor: float, *, sample_rate: int = 16000) -> Array:
    """Speak ``factor`` times as fast at the same pitch.

    Waveform-similarity overlap-add (WSOLA; Verhelst and Roelands, 1993): pieces of the recording follow one
    another at the new pace, each taken from where it best continues the one before.

    Returns:
        float32, round(T / factor) samples.

    Raises:
        AudioError: ``factor`` is not in [0.1, 10].
    """
    ratio = _ratio(factor)
    overlap, search, step = (round(seconds * sample_rate) for seconds in (0.012, 0.015, 0.05))
    length = round(len(wav_T) / ratio)
    if ratio == 1 or len(wav_T) < overlap + step + search:
        return wav_T if ratio == 1 else _fit(wav_T, length)

    padded_T = np.concatenate([wav_T, np.zeros(2 * (step + overlap) + search, dtype=np.float32)])
    fade_in = (np.arange(1, overlap + 1) / (overlap + 1)).astype(np.float32)
    fade_out = 1 - fade_in
    energy_T = np.concatenate([[0.0], np.cumsum(padded_T.astype(np.float64) ** 2)])
    out_T = np.empty(length + 2 * step + overlap, dtype=np.float32)
    out_T[: step + overlap] = padded_T[: step + overlap]
    tail = padded_T[step : step + overlap]
    for written in range(step, length, step):
        nominal = min(int(written * ratio), len(wav_T))
        first = max(0, nominal - search // 2)
        likeness = 2 * np.correlate(padded_T[first : first + search + overlap], tail, "valid")
        energy = energy_T[first + overlap :][: search + 1] - energy_T[first:][: search + 1]
        start = first + int(np.argmax(likeness - energy))  # least squared difference from the tail
        out_T[written : written + overlap] = tail * fade_out + padded_T[start : start + overlap] * fade_in
        out_T[written + overlap :][:step] = padded_T[start + overlap :][:step]
        tail = padded_T[start + step :][:overlap]
    return out_T[:length]


def change_volume(wav_T: Array, gain_db: float) -> Array:
    """Amplify by ``gain_db`` and clip to [-1, 1], as a recorder with its gain too high does."""
    louder_T: Array = np.clip(wav_T * np.float32(10 ** (gain_db / 20)), -1.0, 1.0)
    return louder_T


@lru_cache(maxsize=256)
def _ratio(factor: float) -> Fraction:
    if not 0.1 <= factor <= 10:
        raise AudioError(f"a speed or tempo factor must be in [0.1, 10], not {factor}")
    return Fraction(factor).limit_denominator(100)


def _fit(wav_T: Array, num_samples: int) -> Array:
    """Cut, or repeat the last sample: a resampler may be off by one."""
    if len(wav_T) >= num_samples:
        return wav_T[:num_samples]
    return np.pad(wav_T, (0, num_samples - len(wav_T)), mode="edge")
