"""Spherical k-means on length-normalised embeddings.

Shape suffixes: N utterance, E embedding dimension, K cluster, S sampled utterance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farvox.clustering.lloyd import Assignment, lloyd, row_blocks
from farvox.clustering.relocate import relocated
from farvox.datadir.embeddings import EmbeddingSet
from farvox.errors import DataDirError, FarvoxError
from farvox.rng import rng_for

Floats = NDArray[np.float32]
BLOCK = 65_536
"""Rows worked on at a time, which bounds what is held beside the embeddings."""
SEEDING_SAMPLE = 5
"""Utterances a cluster among which the first centres are looked for."""
BETWEEN = 2
"""Lloyd iterations before centres are looked at that are needed more elsewhere."""


@dataclass(frozen=True)
class Clustering:
    """Which cluster each utterance is in, and how near its centre. Clusters are numbered by size, largest 0.

    Attributes:
        labels_N: int32 [N], 0..K-1; no cluster is empty.
        cosine_N: float32 [N], cosine of each utterance to the centre of its cluster.
        centres_KE: float32 [K, E], of unit length.
    """

    labels_N: NDArray[np.int32]
    cosine_N: Floats
    centres_KE: Floats

    @property
    def sizes_K(self) -> NDArray[np.int64]:
        """Utterances in each cluster."""
        return np.bincount(self.labels_N, minlength=len(self.centres_KE))

    def wccs(self, *, over_samples: bool = False) -> float:
        """Intra-class cosine: the mean cosine to the centre.

        Args:
            over_samples: the mean over all utterances, as the paper defines it; by default the mean of
                each cluster's mean, as the organisers' notebook computes it.

        Reference:
            X. Qin et al., The 2022 far-field speaker verification challenge, 2022, and its baseline's
            ``KMEANS_for_task2.ipynb``.
        """
        if over_samples:
            return float(self.cosine_N.mean(dtype=np.float64))
        return float((np.bincount(self.labels_N, weights=self.cosine_N) / self.sizes_K).mean())


def unit_rows(embeddings: EmbeddingSet) -> Floats:
    """Length-normalised embeddings, float32 [N, E]: the one copy that clustering holds.

    Raises:
        DataDirError: an embedding is zero or not finite; the utterance is named.
    """
    raw_NE = embeddings.embeddings
    unit_NE = np.empty(raw_NE.shape, np.float32)
    for start in range(0, len(raw_NE), BLOCK):
        block = np.asarray(raw_NE[start : start + BLOCK], np.float32)
        length = np.linalg.norm(block, axis=1, keepdims=True)
        bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
        if len(bad):
            utt_id = embeddings.utt_ids[start + int(bad[0])]
            raise DataDirError(f"the embedding of '{utt_id}' is zero or not finite: it has no direction")
        unit_NE[start : start + BLOCK] = block / length
    return unit_NE


def kmeans(
    unit_NE: Floats,
    num_clusters: int,
    *,
    seed: int = 0,
    iterations: int = 25,
    per_cluster: int = 256,
    restarts: int = 1,
    relocate: bool = True,
) -> Clustering:
    """Spherical k-means: Lloyd's iterations with centres of unit length.

    Centres begin as greedy k-means++ draws them from a sample, and are improved on at most
    ``per_cluster * num_clusters`` utterances drawn at random, where centres that share a cluster are moved to
    clusters that share a centre (`farvox.clustering.relocate`); then every utterance goes to its nearest.
    The same seed and number of threads give the same clusters.

    Reference:
        D. Arthur and S. Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.

    Args:
        unit_NE: embeddings of unit length.
        num_clusters: clusters asked for; those that stay empty are dropped.
        seed: of the sample and the first centres.
        iterations: Lloyd iterations.
        per_cluster: utterances a cluster that the iterations look at; 0: all there are.
        relocate: move centres that share a cluster; without it a little sooner.
        restarts: times it is done, from other centres; the one with the highest mean cosine is kept.

    Raises:
        FarvoxError: fewer utterances than clusters.
    """
    if not 1 <= num_clusters <= len(unit_NE):
        raise FarvoxError(
            f"{num_clusters} clusters of {len(unit_NE)} utterances: ask for at least 1, and at most as "
            "many as there are utterances"
        )
    improve = _improved if relocate else lloyd
    best: Assignment | None = None
    for attempt in range(restarts):
        centres_KE = _first_centres(unit_NE, num_clusters, seed, attempt)
        wanted = per_cluster * num_clusters or len(unit_NE)
        if wanted < len(unit_NE):
            chosen = rng_for(seed, 1, num_clusters, attempt).choice(len(unit_NE), wanted, replace=False)
            centres_KE = improve(unit_NE[np.sort(chosen)], centres_KE, iterations).centres_KE
            found = Assignment(*nearest(unit_NE, centres_KE), centres_KE)
        else:
            found = improve(unit_NE, centres_KE, iterations)
        if best is None or found.cosine_N.mean(dtype=np.float64) > best.cosine_N.mean(dtype=np.float64):
            best = found
    assert best is not None
    return by_size(*best)


def _improved(unit_NE: Floats, centres_KE: Floats, iterations: int) -> Assignment:
    """Lloyd's iterations; after each few of them, centres go where they are needed more, until none does."""
    found = lloyd(unit_NE, centres_KE, min(iterations, BETWEEN))
    for left in range(iterations - BETWEEN, 0, -BETWEEN):
        centres_KE, moved = relocated(unit_NE, found)
        if not moved:
            return lloyd(unit_NE, found.centres_KE, left)
        found = lloyd(unit_NE, centres_KE, min(left, BETWEEN))
    return found


def nearest(unit_NE: Floats, centres_KE: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The nearest centre of each utterance, and the cosine to it."""
    labels_N, cosine_N = np.empty(len(unit_NE), np.int64), np.empty(len(unit_NE), np.float32)
    for part in row_blocks(len(unit_NE), len(centres_KE)):
        scores_NK = unit_NE[part] @ centres_KE.T
        labels_N[part] = scores_NK.argmax(axis=1)
        cosine_N[part] = np.take_along_axis(scores_NK, labels_N[part, None], axis=1)[:, 0]
    return labels_N, cosine_N


def by_size(labels_N: NDArray[np.integer[Any]], cosine_N: Floats, centres_KE: Floats) -> Clustering:
    """A `Clustering` without empty clusters, numbered from the largest."""
    sizes = np.bincount(labels_N, minlength=len(centres_KE))
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    number = np.empty(len(centres_KE), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    return Clustering(number[labels_N], cosine_N, np.ascontiguousarray(centres_KE[order], np.float32))


def _first_centres(unit_NE: Floats, num_clusters: int, seed: int, attempt: int) -> Floats:
    """Greedy k-means++ on a sample: of a few draws by distance, the centre that helps most is taken."""
    rng = rng_for(seed, 0, num_clusters, attempt)
    size = min(len(unit_NE), SEEDING_SAMPLE * num_clusters + 1000)
    sample_SE = unit_NE[np.sort(rng.choice(len(unit_NE), size, replace=False))]
    draws = 2 + int(np.log(num_clusters))
    chosen = [int(rng.integers(size))]
    near_S = sample_SE @ sample_SE[chosen[0]]  # the cosine to the nearest centre so far
    for _ in range(num_clusters - 1):
        total = np.cumsum(np.maximum(1 - near_S, 0), dtype=np.float64)
        tried = np.minimum(np.searchsorted(total, rng.random(draws) * total[-1]), size - 1)
        nearer = sample_SE[tried] @ sample_SE.T
        np.maximum(nearer, near_S, out=nearer)
        best = int(np.argmax(nearer.sum(axis=1)))
        chosen.append(int(tried[best]))
        near_S = nearer[best]
    return np.ascontiguousarray(sample_SE[chosen])
