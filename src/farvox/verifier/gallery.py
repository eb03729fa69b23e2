"""The enrolled speakers of one model in memory, and the exact search among them.

Shape suffixes: N enrolment, K some of them, E embedding dimension.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farvox.errors import StoreError

ROWS_PER_BLOCK = 4096  # a few megabytes at a time in float64


class Rows(NamedTuple):
    """Some enrolments as they are read.

    Attributes:
        ids: of the rows, ascending, larger than those before.
        names: of the speakers, unique in a gallery.
        templates_KE: float32 [K, E], of any lengths.
    """

    ids: Sequence[int]
    names: Sequence[str]
    templates_KE: NDArray[np.float32]


class Gallery:
    """Names and unit vectors, which never change: what is enrolled or removed makes another gallery.

    So any number of threads may search one while a newer one is made. The newer one takes over the
    room behind the last row: extend only the newest gallery, one thread at a time.

    Args:
        dim: embedding dimension E.

    Attributes:
        ids_N: int64, ascending.
        names: in the order of the rows.
        unit_NE: float32, rows of length 1.
    """

    def __init__(self, dim: int) -> None:
        self.ids_N: NDArray[np.int64] = np.empty(0, np.int64)
        self.names: list[str] = []
        self._room: NDArray[np.float32] = np.empty((0, dim), np.float32)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dim(self) -> int:
        """Embedding dimension E."""
        return int(self._room.shape[1])

    @property
    def unit_NE(self) -> NDArray[np.float32]:
        """The templates, scaled to length 1."""
        return self._room[: len(self)]

    def extended(self, blocks: Iterable[Rows], count: int) -> Gallery:
        """This gallery and ``count`` more rows; nothing is copied while there is room behind the last.

        Raises:
            StoreError: a template is zero or not finite.
        """
        total = len(self) + count
        room = self._room
        if total > len(room):
            room = np.empty((total + total // 8, self.dim), np.float32)
            room[: len(self)] = self.unit_NE
        names, ids = list(self.names), [self.ids_N]
        for block in blocks:
            room[len(names) : len(names) + len(block.names)] = _unit(block)
            names += block.names
            ids.append(np.asarray(block.ids, np.int64))
        return self._made(np.concatenate(ids), names, room)

    def keeping(self, ids: NDArray[np.int64]) -> Gallery:
        """Those of its rows that have one of ``ids``."""
        kept = np.flatnonzero(np.isin(self.ids_N, ids, assume_unique=True))
        return self._made(self.ids_N[kept], [self.names[n] for n in kept], self._room[kept])

    def best(self, emb_E: NDArray[np.floating], top: int) -> list[tuple[str, float]]:
        """The ``top`` nearest by cosine similarity, best first, those of equal score by name.

        All are scored in float32, and in float64 those that rounding could have put out of the first
        ``top``. A row's score does not depend on the others', so equal rows have equal scores.

        Args:
            emb_E: with a direction, of any length.
            top: at least 1.
        """
        top = min(top, len(self))
        if top == 0:
            return []
        probe_E = emb_E.astype(np.float64)
        probe_E /= np.abs(probe_E).max()  # no square of it overflows or vanishes
        probe_E /= np.sqrt(probe_E @ probe_E)
        rough_N = self.unit_NE @ probe_E.astype(np.float32)
        last = np.partition(rough_N, len(self) - top)[len(self) - top]
        rounding = 2 * self.dim * np.finfo(np.float32).eps  # more than a dot product of unit vectors loses
        near = np.flatnonzero(rough_N >= last - rounding)
        scored: list[tuple[float, str]] = []
        for first in range(0, len(near), ROWS_PER_BLOCK):
            rows = near[first : first + ROWS_PER_BLOCK]
            score_K = (self.unit_NE[rows].astype(np.float64) * probe_E).sum(axis=1).clip(-1, 1)
            scored += zip((-score_K).tolist(), (self.names[n] for n in rows), strict=True)
        return [(name, -negated) for negated, name in heapq.nsmallest(top, scored)]

    def _made(self, ids_N: NDArray[np.int64], names: list[str], room: NDArray[np.float32]) -> Gallery:
        made = Gallery(self.dim)
        made.ids_N, made.names, made._room = ids_N, names, room
        return made


def _unit(rows: Rows) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # some NaNs warn when they are converted
        templates_KE = rows.templates_KE.astype(np.float64)
    length_K = np.sqrt(np.einsum("ke,ke->k", templates_KE, templates_KE))
    usable_K = np.isfinite(length_K) & (length_K > 0)
    if not usable_K.all():
        name = rows.names[int(np.argmin(usable_K))]
        raise StoreError(
            f"the template of '{name}' is damaged (zero or not finite); forget and enrol it again"
        )
    templates_KE /= length_K[:, None]
    return templates_KE
