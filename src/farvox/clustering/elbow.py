"""The curve of the intra-class cosine over the number of clusters: kept on disk, and its elbow.

Shape suffixes: N utterance, E embedding dimension, C number of clusters tried.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.atomic import naming, write_text
from farvox.clustering.kmeans import ROWS, Units
from farvox.errors import FarvoxError
from farvox.parsing import parse_json

FEWEST_TO_SMOOTH = 20
"""A shorter curve is taken as it is: smoothing moves the bend by up to a point."""
SMOOTHED_POINTS = 3
"""Points of the moving mean that smooths a longer one; odd."""


@dataclass
class SavedCurve:
    """The points of a curve that are known so far, in a file of JSON lines.

    Clustering 823,726 embeddings at many numbers of clusters takes a night. The first line identifies the
    embeddings and settings of the curve; numbers are written so that they are read back to the last bit.

    Attributes:
        path: the file; None: points are kept in memory alone.
        values: number of clusters -> its intra-class cosine.
    """

    path: Path | None = None
    values: dict[int, float] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path, unit_NE: Units, settings: Mapping[str, object]) -> SavedCurve:
        """Open the curve that an interrupted clustering left, or begin it.

        A file of other embeddings or ``settings``, all else that the curve depends on, is replaced.
        """
        path = Path(path)
        digest = hashlib.sha256(str(unit_NE.shape).encode())
        for start in range(0, len(unit_NE), ROWS):
            digest.update(np.ascontiguousarray(unit_NE[start : start + ROWS]).data)
        head = json.dumps({"sweep of": {**settings, "embeddings": digest.hexdigest()}})
        text = path.read_text("utf-8", errors="replace") if path.exists() else ""
        lines = text.split("\n")[:-1]  # without a torn last line
        lines = lines if lines[:1] == [head] else [head]
        values: dict[int, float] = {}
        try:
            for point in map(parse_json, lines[1:]):
                values[int(point["clusters"])] = float(point["wccs"])
        except (ValueError, TypeError, KeyError):  # damaged from there on
            lines = lines[: 1 + len(values)]
        write_text(path, "".join(f"{line}\n" for line in lines))
        return cls(path, values)

    def add(self, number: int, wccs: float) -> None:
        """Keep a point; it is on the disk when this returns."""
        self.values[number] = wccs
        if self.path is not None:
            with naming(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"clusters": number, "wccs": wccs}) + "\n")


class Elbow(NamedTuple):
    """The number of clusters where a curve bends most.

    At an edge, an end of the range or next to one, the true bend may lie outside the range.
    """

    num_clusters: int
    at_edge: bool


def find_elbow(num_clusters: ArrayLike, wccs: ArrayLike, *, axis: Literal["log", "linear"] = "log") -> Elbow:
    """The point of a rising curve that lies farthest above the chord from its first point to its last.

    Known bias: the chord ends where the range ends, so the answer moves with the range. On a linear
    axis a range that reaches far beyond the true number pulls the elbow upwards; on a logarithmic one
    the pull is much weaker, and a range that begins far below the truth pulls it down a little.
    Where clusters overlap the bend is round, and only its neighbourhood is certain.

    Reference:
        V. Satopaa et al., Finding a "kneedle" in a haystack, ICDCS workshops 2011.

    Args:
        num_clusters: ascending numbers of clusters [C].
        wccs: the curve [C].
        axis: spacing of the numbers of clusters: by their value or by its logarithm.

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
    # A centred mean whose window shrinks towards the ends, so that these stay where they are.
    place_C = np.arange(len(curve_C))
    window = SMOOTHED_POINTS if len(curve_C) >= FEWEST_TO_SMOOTH else 1
    half_C = np.minimum(window // 2, np.minimum(place_C, place_C[::-1]))
    sums = np.concatenate([[0.0], np.cumsum(curve_C)])
    smoothed_C = (sums[place_C + half_C + 1] - sums[place_C - half_C]) / (2 * half_C + 1)
    above_chord_C = _scaled(smoothed_C) - _scaled(np.log(number_C) if axis == "log" else number_C)
    best = int(np.argmax(above_chord_C))
    return Elbow(int(number_C[best]), best in (0, 1, len(curve_C) - 2, len(curve_C) - 1))


def _scaled(values_C: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values shifted and scaled so that the first is 0 and the last 1."""
    span = values_C[-1] - values_C[0]
    return (values_C - values_C[0]) / span if span > 0 else np.zeros_like(values_C)
