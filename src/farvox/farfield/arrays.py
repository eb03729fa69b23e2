"""Microphone arrays as coordinates.

Shape suffixes: C channel (microphone), 3 the axes x, y, z in metres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def circular_array(
    centre: ArrayLike = (0.0, 0.0, 0.0), *, num: int = 16, radius: float = 0.05, turn: float = 0.0
) -> Floats:
    """Microphones at equal angles on a horizontal circle, as in HI-MIA and FFSVC (16 on 5 cm).

    Args:
        centre: middle of the circle, metres.
        num: number of microphones.
        radius: metres.
        turn: angle of microphone 0 against the x axis, radians.

    Returns:
        positions_C3, counter-clockwise from microphone 0.
    """
    angle_C = turn + 2 * np.pi * np.arange(num) / num
    offsets_C3 = radius * np.stack([np.cos(angle_C), np.sin(angle_C), np.zeros(num)], axis=1)
    return np.asarray(np.asarray(centre) + offsets_C3, dtype=np.float64)


def linear_array(
    centre: ArrayLike = (0.0, 0.0, 0.0), *, num: int = 4, spacing: float = 0.05, turn: float = 0.0
) -> Floats:
    """Microphones at equal distances on a horizontal line.

    Args:
        centre: middle of the line, metres.
        num: number of microphones.
        spacing: metres between neighbours.
        turn: angle of the line against the x axis, radians.

    Returns:
        positions_C3, in order along the line.
    """
    along_C = spacing * (np.arange(num) - (num - 1) / 2)
    direction_3 = np.array([np.cos(turn), np.sin(turn), 0.0])
    return np.asarray(np.asarray(centre) + along_C[:, None] * direction_3, dtype=np.float64)
