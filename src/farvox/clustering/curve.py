"""The curve of a sweep over numbers of clusters, saved point by point.

A sweep over 823,726 embeddings takes a night. What is found is kept in a file of JSON lines, the first of
which says what the sweep is of: a sweep that was interrupted goes on with the next number, and one of other
embeddings or settings begins anew. Numbers are written so that they are read back to the last bit.

Shape suffixes: N utterance, E embedding dimension.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from farvox.atomic import write_text
from farvox.clustering.kmeans import BLOCK, Floats


@dataclass
class SavedCurve:
    """The points that are known so far.

    Attributes:
        path: the file.
        values: number of clusters -> its intra-class cosine.
    """

    path: Path
    values: dict[int, float] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path, unit_NE: Floats, settings: Mapping[str, object]) -> SavedCurve:
        """Open the curve of a sweep, or begin it.

        Args:
            path: the file; one of another sweep is replaced.
            unit_NE: the embeddings.
            settings: all else that the curve depends on.
        """
        path = Path(path)
        head = json.dumps({"sweep of": {**settings, "embeddings": _digest(unit_NE)}})
        lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []  # a torn line goes
        lines = lines if lines[:1] == [head] else [head]
        write_text(path, "".join(f"{line}\n" for line in lines))
        points = map(json.loads, lines[1:])
        return cls(path, {int(point["clusters"]): float(point["wccs"]) for point in points})

    def add(self, number: int, wccs: float) -> None:
        """Keep a point, on the disk when this returns."""
        self.values[number] = wccs
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"clusters": number, "wccs": wccs}) + "\n")


def _digest(unit_NE: Floats) -> str:
    digest = hashlib.sha256(str(unit_NE.shape).encode())
    for start in range(0, len(unit_NE), BLOCK):
        digest.update(np.ascontiguousarray(unit_NE[start : start + BLOCK]).data)
    return digest.hexdigest()
