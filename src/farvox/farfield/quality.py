"""How good a recording is: a signal-to-noise ratio that nobody has to be told the noise for.

Speech comes and goes, noise mostly stays: loud frames of a recording hold both, quiet ones noise alone.
NIST's ``stnr`` (of its Speech Quality Assurance package) goes by the same idea; it fits the noise to the
lower mode of a histogram of frame powers, where a low percentile, which needs no fit, is taken here.
Reverberation fills the pauses as noise does, and lowers the figure as well.

Shape suffixes: T sample, F frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRAME_SECONDS = 0.02
LOUD, QUIET = 95, 10
"""Percentiles of the power of the frames: speech with noise, and noise alone."""
FLOOR = 1e-10  # power of what counts as digital silence, -100 dB of full scale
RANGE_DB = (-20.0, 100.0)


def energy_snr(wav_T: NDArray[np.float32], sample_rate: int) -> float:
    """Signal-to-noise ratio in dB, from the powers of loud and quiet frames of 20 ms.

    It compares recordings of one take, such as the channels of an array. Over takes it also depends on how
    much of them is pause, and without any pause it says nothing.

    Args:
        wav_T: samples in [-1, 1].
        sample_rate: in Hz.

    Returns:
        Between -20 and 100; -20 for what has no louder frames, or is shorter than two.
    """
    power_F, _ = frame_powers(wav_T, sample_rate)
    if len(power_F) < 2:
        return RANGE_DB[0]
    loud, quiet = np.percentile(power_F, [LOUD, QUIET])
    ratio = (loud - quiet) / quiet
    return float(np.clip(10 * np.log10(ratio), *RANGE_DB)) if ratio > 0 else RANGE_DB[0]


def frame_powers(wav_T: NDArray[np.float32], sample_rate: int) -> tuple[NDArray[np.float64], int]:
    """Power of each frame of 20 ms, its mean taken off, at least `FLOOR`; and the samples of a frame."""
    size = max(1, round(FRAME_SECONDS * sample_rate))
    num_frames = len(wav_T) // size
    wav_FT = wav_T[: num_frames * size].reshape(num_frames, size).astype(np.float64)
    wav_FT -= wav_FT.mean(axis=1, keepdims=True)  # an offset of the microphone is neither
    return np.maximum(np.einsum("ft,ft->f", wav_FT, wav_FT) / size, FLOOR), size
