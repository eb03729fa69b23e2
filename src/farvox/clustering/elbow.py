"""The number of clusters, from a curve of the intra-class cosine over it.

Shape suffixes: C number of clusters tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import FarvoxError

Axis = Literal["linear", "log"]
FEWEST_TO_SMOOTH = 20
"""A shorter curve is taken as it is: smoothing moves the bend by up to a point."""


@dataclass(frozen=True)
class Elbow:
    """Where a curve bends most.

    Attributes:
        num_clusters: the number of clusters there.
        smoothed_C: the curve that was looked at.
        distance_C: height of the curve above its chord, both axes scaled to 0..1; the elbow is its maximum.
        at_edge: the bend is at an end of the range or next to one, so the true one may lie outside it.
    """

    num_clusters: int
    smoothed_C: NDArray[np.float64]
    distance_C: NDArray[np.float64]
    at_edge: bool


def find_elbow(num_clusters: ArrayLike, wccs: ArrayLike, *, axis: Axis = "log", window: int = 3) -> Elbow:
    """The point of a rising curve that lies farthest above the chord from its first point to its last.

    Known bias: the chord ends where the range ends, so the answer moves with the range. On a linear
    axis a range that reaches far beyond the true number pulls the elbow upwards; on a logarithmic one
    the pull is much weaker, and a range that begins far below the truth pulls it down a little.
    Where clusters overlap the bend is round, and all that can be said is the neighbourhood.

    Reference:
        V. Satopaa et al., Finding a "kneedle" in a haystack, ICDCS workshops 2011.

    Args:
        num_clusters: ascending numbers of clusters [C].
        wccs: the curve [C].
        axis: how the numbers of clusters are spaced: by their value or by its logarithm.
        window: points of the moving mean that smooths a long curve (odd; shorter towards the ends).

    Raises:
        FarvoxError: fewer than three points, or numbers that do not ascend.
    """
    number_C = np.asarray(num_clusters, np.float64)
    curve_C = np.asarray(wccs, np.float64)
    if len(number_C) < 3 or len(number_C) != len(curve_C) or np.any(np.diff(number_C) <= 0):
        raise FarvoxError(
            f"an elbow needs at least three ascending numbers of clusters, not {number_C.tolist()}; "
            "give a wider range, or one number"
        )
    smoothed_C = _moving_mean(curve_C, window if len(curve_C) >= FEWEST_TO_SMOOTH else 1)
    place_C = _scaled(np.log(number_C) if axis == "log" else number_C)
    distance_C = _scaled(smoothed_C) - place_C
    best = int(np.argmax(distance_C))
    return Elbow(
        int(number_C[best]), smoothed_C, distance_C, best in (0, 1, len(curve_C) - 2, len(curve_C) - 1)
    )


def _moving_mean(curve_C: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """A centred mean whose window shrinks towards the ends, so that these stay where they are."""
    sums = np.concatenate([[0.0], np.cumsum(curve_C)])
    place = np.arange(len(curve_C))
    half = np.minimum(window // 2, np.minimum(place, place[::-1]))
    mean: NDArray[np.float64] = (sums[place + half + 1] - sums[place - half]) / (2 * half + 1)
    return mean


def _scaled(values_C: NDArray[np.float64]) -> NDArray[np.float64]:
    span = values_C[-1] - values_C[0]
    return (values_C - values_C[0]) / span if span > 0 else np.zeros_like(values_C)
