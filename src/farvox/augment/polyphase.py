"""A resampler for the few ratios of speed perturbation: one product of matrices.

At a ratio of small numbers L / M, output n takes the same weights as output n + L, of samples M further on.
So a matrix holds the weights of a few periods of outputs, and the signal is cut into overlapping rows. For a
chunk of two seconds that takes half the time of soxr's HQ.

Shape suffixes: T sample, R row, W sample of a row, P output of a row.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Array = NDArray[np.float32]

LARGEST = 64
"""Largest numerator and denominator that `resample` takes."""
_CROSSINGS, _ROLL_OFF, _BETA = 48, 0.935, 10.0
"""Zero crossings of the sinc on either side, where it falls off, its window. Within 0.5 dB up to 0.90 of the
band that the output can hold, 85 dB down where that ends, 100 dB soon after (soxr's HQ: 0.91 and 120 dB)."""
_OUTPUTS = 40  # of a row: fewer copy more, more multiply more zeros
_ROWS = 64  # at a time: so few that no BLAS uses its threads for them


def resample(wav_T: Array, step: Fraction) -> Array:
    """The signal at times 0, step, 2 step, ...: float32, as many as there are before its end.

    A windowed sinc (Kaiser) that falls off below the lower of the two Nyquist frequencies.

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
    """weights_WP of a row; samples that come before its first output; and from row to row."""
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
