"""Speed, tempo and volume.

Shape suffixes: T sample, R row, W sample of a row, P output of a row.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
import soxr
from numpy.lib.stride_tricks import as_strided

from farvox.errors import AudioError
from farvox.farfield.mixing import Array

LARGEST = 64
"""Largest numerator and denominator of a ratio that `resample` takes."""
_CROSSINGS, _ROLL_OFF, _BETA = 48, 0.935, 10.0
"""Zero crossings of the sinc on either side, its cut-off, its Kaiser window. Within 0.5 dB up to 0.90 of the
band that the output can hold, 85 dB down at its end, 100 dB soon after (soxr's HQ: 0.91 and 120 dB)."""
_OUTPUTS = 40  # of a row: fewer copy more, more multiply more zeros
_ROWS = 64  # at a time: so few that no BLAS uses its threads for them


def change_speed(wav_T: Array, factor: float) -> Array:
    """Play a recording ``factor`` times as fast: shorter and higher above 1, longer and lower below.

    The voice changes with it, so trainings take a speaker at another speed for a new speaker (Yamamoto et
    al., 2019).

    Args:
        wav_T: samples.
        factor: 0.9, 1.1, ...; taken as the nearest fraction with a denominator of at most 100.

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
    matrices does the rest: for a chunk of two seconds half the time of soxr's HQ.

    Args:
        wav_T: samples.
        step: input samples from one output to the next; its numbers are at most `LARGEST`.
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

    Args:
        wav_T: samples.
        factor: 0.7, 0.8, 0.9, 1.1, 1.2, 1.3, ...
        sample_rate: in Hz.

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
        energy = (
            energy_T[first + overlap : first + overlap + search + 1] - energy_T[first : first + search + 1]
        )
        start = first + int(np.argmax(likeness - energy))  # least squared difference from the tail
        out_T[written : written + overlap] = tail * fade_out + padded_T[start : start + overlap] * fade_in
        out_T[written + overlap : written + step + overlap] = padded_T[
            start + overlap : start + step + overlap
        ]
        tail = padded_T[start + step : start + step + overlap]
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
