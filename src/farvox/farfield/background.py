"""The background of a recording: what is left of it where nobody speaks.

Shape suffixes: T sample, F frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from farvox.farfield.quality import FLOOR, LOUD, QUIET, frame_powers

ABOVE_DB = 6.0
"""How far a frame of background may rise above the quiet ones."""
LEAST_RANGE_DB = 6.0
"""Between the loud and the quiet frames: with less, pauses and speech cannot be told apart."""
LEAST_FRAMES = 5
"""Of a stretch of background: shorter ones are the closures of stops."""
FADE_SECONDS = 0.01


def background(wav_T: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """The quiet stretches of a recording, one after the other.

    A frame of 20 ms is quiet when its level is at most `ABOVE_DB` above that of the quiet frames (their 10th
    percentile), and nearer to it than to that of the loud ones (the 95th). Stretches lose a frame at both
    ends, which may hold the edge of a word, and need `LEAST_FRAMES` then. They are joined by fades of 10 ms
    that keep the power.

    Args:
        wav_T: samples in [-1, 1].
        sample_rate: in Hz.

    Returns:
        The background; empty where nothing is quiet for long enough, where the recording has no pauses, or
        where they are digital silence.
    """
    nothing = np.zeros(0, np.float32)
    power_F, size = frame_powers(wav_T, sample_rate)
    if len(power_F) < 2:
        return nothing
    level_F = 10 * np.log10(power_F)
    loud, quiet = np.percentile(level_F, [LOUD, QUIET])
    if loud - quiet < LEAST_RANGE_DB:
        return nothing
    is_quiet_F = (level_F <= min(quiet + ABOVE_DB, (quiet + loud) / 2)) & (power_F > FLOOR)
    is_quiet_F = binary_erosion(is_quiet_F, np.ones(3), border_value=1)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_quiet_F, [False]))))
    stretches = [
        wav_T[first * size : last * size]
        for first, last in edges.reshape(-1, 2)
        if last - first >= LEAST_FRAMES
    ]
    return _joined(stretches, round(FADE_SECONDS * sample_rate)) if stretches else nothing


def _joined(stretches: list[NDArray[np.float32]], fade: int) -> NDArray[np.float32]:
    """One after the other, each fading into the next over ``fade`` samples; each is longer than two fades."""
    falling_T = np.cos(0.5 * np.pi * (np.arange(fade) + 0.5) / fade).astype(np.float32)
    parts = [stretches[0]]
    for stretch_T in stretches[1:]:
        before_T = parts.pop()
        overlap_T = before_T[-fade:] * falling_T + stretch_T[:fade] * falling_T[::-1]
        parts += [before_T[:-fade], overlap_T, stretch_T[fade:]]
    return np.concatenate(parts).astype(np.float32)
