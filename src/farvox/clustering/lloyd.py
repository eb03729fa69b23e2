"""Lloyd's iterations of spherical k-means, without most of their products.

An iteration moves every centre to the mean direction of its members, and every utterance to its nearest
centre. After a few of them hardly a centre moves far and hardly an utterance changes sides. So it is kept
how near any other than its own centre can be to an utterance: by the triangle inequality that bound shrinks
by no more than the way that centres went. While the own centre is nearer than the bound, nothing can have
changed (Hamerly, "Making k-means even faster", SDM 2010). Here the few centres that went farthest are
looked at for everyone, so that the bound shrinks only by the way of the others. The clusters are those of
the plain iterations.

Shape suffixes: N utterance, E embedding dimension, K cluster, A active utterance, F far-moved centre.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]
Labels = NDArray[np.int64]

CELLS = 1 << 22
"""Products of utterances and centres held at a time: 16 MB."""
ROWS = 65_536
"""Rows worked on at a time where there are no products."""
FAR_SHARE = 16
"""One centre in so many counts as far-moved."""
SLACK = 1e-3
"""How far rounding may move a distance of unit vectors in float32, amply."""


class Assignment(NamedTuple):
    """The nearest centre of each utterance, the cosine to it, and the centres."""

    labels_N: Labels
    cosine_N: Floats32
    centres_KE: Floats32


def lloyd(unit_NE: Floats32, centres_KE: Floats32, iterations: int) -> Assignment:
    """Iterate from given centres, until nothing changes or for so many times.

    A centre that lost all its members starts anew from the utterance that is farthest from its own.

    Args:
        unit_NE: embeddings of unit length.
        centres_KE: of unit length too.
        iterations: at most so many.
    """
    state = _State(unit_NE, centres_KE)
    for _ in range(iterations):
        labels_N = state.labels_N.copy()
        state.move(_moved(unit_NE, state))
        if np.array_equal(labels_N, state.labels_N):
            break
    return Assignment(state.labels_N, state.own_N, state.centres_KE)


class _State:
    """The centres, who is nearest to which, and how near any other centre can be."""

    def __init__(self, unit_NE: Floats32, centres_KE: Floats32) -> None:
        self._unit_NE = unit_NE
        self.centres_KE = centres_KE
        self.labels_N = np.zeros(len(unit_NE), np.int64)
        self.own_N = np.zeros(len(unit_NE), np.float32)
        self._bound_N = np.zeros(len(unit_NE), np.float32)
        self._look(np.arange(len(unit_NE)))

    def move(self, centres_KE: Floats32) -> None:
        """Put the centres elsewhere, and find who changes sides."""
        way_K = np.linalg.norm(centres_KE - self.centres_KE, axis=1)
        self.centres_KE = centres_KE
        self.own_N = cosines_to(self._unit_NE, self.labels_N, centres_KE)
        num_far = min(len(way_K) - 1, -(-len(way_K) // FAR_SHARE))
        order_K = np.argsort(-way_K, kind="stable")
        far_F = order_K[:num_far]
        self._bound_N -= way_K[order_K[num_far]] + SLACK * bool(way_K[order_K[num_far]])
        settled_N = _distance(self.own_N) < self._bound_N
        if num_far and way_K[far_F[0]] > 0:
            self._look_at_far(np.flatnonzero(settled_N), far_F)
        self._look(np.flatnonzero(~settled_N))

    def _look_at_far(self, rows_A: Labels, far_F: Labels) -> None:
        """Compare utterances whose own centre is nearer than all but perhaps some far-moved ones."""
        far_FE = self.centres_KE[far_F]
        place_K = np.full(len(self.centres_KE), -1)
        place_K[far_F] = np.arange(len(far_F))
        for part in row_blocks(len(rows_A), len(far_F)):
            rows = rows_A[part]
            scores_AF = self._unit_NE[rows] @ far_FE.T
            own = place_K[self.labels_N[rows]]
            scores_AF[own >= 0, own[own >= 0]] = -2
            best = scores_AF.argmax(axis=1)
            score = scores_AF[np.arange(len(rows)), best]
            wins = score > self.own_N[rows]
            loser = np.where(wins, self.own_N[rows], score)  # the better of the two that it is not with
            self._bound_N[rows] = np.minimum(self._bound_N[rows], _distance(loser))
            winners = rows[wins]
            if len(winners):  # what came second among the far-moved bounds them too
                scores_AF[wins, best[wins]] = -2
                second = scores_AF[wins].max(axis=1)
                self._bound_N[winners] = np.minimum(self._bound_N[winners], _distance(second))
                self.labels_N[winners], self.own_N[winners] = far_F[best[wins]], score[wins]

    def _look(self, rows_A: Labels) -> None:
        """Compare utterances with every centre."""
        for part in row_blocks(len(rows_A), len(self.centres_KE)):
            rows = rows_A[part]
            whole = len(rows_A) == len(self._unit_NE)
            scores_AK = (self._unit_NE[part] if whole else self._unit_NE[rows]) @ self.centres_KE.T
            best = scores_AK.argmax(axis=1)
            every = np.arange(len(rows))
            self.labels_N[rows], self.own_N[rows] = best, scores_AK[every, best]
            scores_AK[every, best] = -2
            self._bound_N[rows] = _distance(scores_AK.max(axis=1))


def _moved(unit_NE: Floats32, state: _State) -> Floats32:
    """The mean directions of the members; without members, the utterances that are worst off."""
    num_clusters = len(state.centres_KE)
    centres_KE = mean_directions(unit_NE, state.labels_N, num_clusters)
    without = np.flatnonzero(np.bincount(state.labels_N, minlength=num_clusters) == 0)
    if len(without):
        worst = np.argsort(state.own_N, kind="stable")[: len(without)]
        centres_KE[without[: len(worst)]] = unit_NE[worst]
    return centres_KE


def mean_directions(unit_NE: Floats32, labels_N: NDArray[np.integer[Any]], num_clusters: int) -> Floats32:
    """Sums of each cluster's embeddings, scaled to unit length: float32 [K, E]."""
    from scipy.sparse import csr_array

    sums_KE = np.zeros((num_clusters, unit_NE.shape[1]))
    for start in range(0, len(unit_NE), ROWS):
        label = labels_N[start : start + ROWS]
        members = csr_array(
            (np.ones(len(label), np.float32), (label, np.arange(len(label)))), (num_clusters, len(label))
        )
        sums_KE += members @ unit_NE[start : start + ROWS]
    length = np.maximum(np.linalg.norm(sums_KE, axis=1, keepdims=True), 1e-12)
    directions_KE: Floats32 = (sums_KE / length).astype(np.float32)
    return directions_KE


def cosines_to(unit_NE: Floats32, labels_N: NDArray[np.integer[Any]], centres_KE: Floats32) -> Floats32:
    """Cosine of each utterance to the centre of the cluster it is in, float32 [N]."""
    cosine_N = np.empty(len(unit_NE), np.float32)
    for start in range(0, len(unit_NE), ROWS):
        part = slice(start, start + ROWS)
        np.einsum("ne,ne->n", unit_NE[part], centres_KE[labels_N[part]], out=cosine_N[part])
    return cosine_N


def row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Blocks of rows that make at most `CELLS` products with so many columns."""
    size = max(1, CELLS // max(1, num_columns))
    return (slice(first, first + size) for first in range(0, num_rows, size))


def _distance(cosine_N: Floats32) -> Floats32:
    distance_N: Floats32 = np.sqrt(np.maximum(2 - 2 * cosine_N, 0))
    return distance_N
