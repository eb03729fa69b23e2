"""Spherical k-means on length-normalised embeddings.

Lloyd's iterations do not carry a centre across the space: of two centres that begin in one cluster neither
leaves it, and a cluster that began without a centre stays with its neighbour's. So every few iterations
`relocated` takes centres that share one cluster to clusters that share one centre. The sum of the cosines
in a cluster is the length of the sum of its embeddings: the cost of merging two clusters and the gain of
splitting one are known exactly. A centre moves only where the split gains more than the merge costs.

Shape suffixes: N utterance, S sampled utterance, E embedding dimension, K cluster, H half of a cluster,
R row of a block. Embeddings ``unit_NE`` and centres have unit length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import eigh
from scipy.sparse import csr_array

from farvox.datadir.embeddings import EmbeddingSet
from farvox.errors import DataDirError, FarvoxError
from farvox.rng import rng_for

Floats32 = NDArray[np.float32]
Labels = NDArray[np.int64]

CELLS = 1 << 22
"""Products of utterances and centres held at a time: 16 MB."""
ROWS = 65_536
"""Rows worked on at a time where there are no products."""
SEEDING_SAMPLE = 5
"""Utterances a cluster among which the first centres are looked for."""
BETWEEN = 2
"""Lloyd iterations before centres are relocated."""
SPLIT_STEPS = 3
"""Two-means iterations by which a cluster is split."""
SMALL_CLUSTERS = 4000
"""Most small clusters that are merged; their distances take 64 MB."""
SAMPLE = 4000
"""Most utterances that spectral clustering compares with one another."""
NEIGHBOURS = 12
"""Nearest utterances of the sample that an utterance stays connected to."""


class Assignment(NamedTuple):
    """The nearest centre of each utterance, the cosine to it, and the centres."""

    labels_N: Labels
    cosine_N: Floats32
    centres_KE: Floats32


@dataclass(frozen=True)
class Clustering:
    """The clusters of utterances, numbered by size from 0, the largest.

    Attributes:
        labels_N: int32 [N], the cluster of each utterance, 0..K-1; no cluster is empty.
        cosine_N: float32 [N], cosine of each utterance to the centre of its cluster.
        centres_KE: float32 [K, E], of unit length.
    """

    labels_N: NDArray[np.int32]
    cosine_N: Floats32
    centres_KE: Floats32

    @property
    def sizes_K(self) -> NDArray[np.int64]:
        """Utterances in each cluster."""
        return np.bincount(self.labels_N, minlength=len(self.centres_KE))

    def wccs(self, *, over_samples: bool = False) -> float:
        """Intra-class cosine: the mean cosine to the centre.

        It is taken over all utterances, as the paper defines it, or is the mean of the clusters' means, as
        the organisers' notebook computes it.

        Reference:
            X. Qin et al., The 2022 far-field speaker verification challenge, 2022, and its baseline's
            ``KMEANS_for_task2.ipynb``.
        """
        if over_samples:
            return float(self.cosine_N.mean(dtype=np.float64))
        return float((np.bincount(self.labels_N, weights=self.cosine_N) / self.sizes_K).mean())


class UnitRows:
    """Embeddings [N, E] of unit length, which are read and normalised where they are asked for.

    So a set that is larger than the memory can be clustered: of a set on disk only the blocks in use are
    held. Indexed by a slice or an array of rows it gives float32 [R, E].

    Raises:
        DataDirError: an embedding is zero or not finite; the utterance is named.
    """

    def __init__(self, embeddings: EmbeddingSet) -> None:
        self._raw_NE = embeddings.embeddings
        self.shape: tuple[int, int] = self._raw_NE.shape
        self._length_N1 = np.empty((len(self), 1), np.float32)
        for start in range(0, len(self), ROWS):
            block = self._raw_NE[start : start + ROWS]
            length_R1 = np.linalg.norm(block, axis=1, keepdims=True)
            bad = np.flatnonzero(~(np.isfinite(length_R1) & (length_R1 > 0)))
            if len(bad):
                utt_id = embeddings.utt_ids[start + int(bad[0])]
                raise DataDirError(f"the embedding of '{utt_id}' is zero or not finite: it has no direction")
            self._length_N1[start : start + ROWS] = length_R1

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Labels) -> Floats32:
        found: Floats32 = self._raw_NE[rows] / self._length_N1[rows]
        return found


Units = Floats32 | UnitRows


def kmeans(
    unit_NE: Units,
    num_clusters: int,
    *,
    seed: int = 0,
    iterations: int = 25,
    per_cluster: int = 256,
    restarts: int = 1,
    relocate: bool = True,
) -> Clustering:
    """Spherical k-means: Lloyd's iterations with centres of unit length.

    Centres are drawn from a sample by greedy k-means++ and improved on at most ``per_cluster * num_clusters``
    utterances drawn at random, by Lloyd's iterations and, every few of these, by `relocated`; then every
    utterance goes to its nearest centre. The same seed and number of threads give the same clusters.

    Reference:
        D. Arthur and S. Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.

    Args:
        num_clusters: clusters asked for; those that stay empty are dropped.
        seed: of the sample and the first centres.
        per_cluster: utterances a cluster that the iterations look at; 0: all there are.
        restarts: runs from different first centres; the one with the highest mean cosine is kept.
        relocate: also take centres that share a cluster to clusters that share a centre.

    Raises:
        FarvoxError: fewer utterances than clusters.
    """
    if not 1 <= num_clusters <= len(unit_NE):
        raise FarvoxError(
            f"{num_clusters} clusters of {len(unit_NE)} utterances: ask for at least 1, and at most as "
            "many as there are utterances"
        )
    best: Assignment | None = None
    for attempt in range(restarts):
        centres_KE = _first_centres(unit_NE, num_clusters, seed, attempt)
        sample_SE, wanted = unit_NE, per_cluster * num_clusters or len(unit_NE)
        if wanted < len(unit_NE):
            chosen = rng_for(seed, 1, num_clusters, attempt).choice(len(unit_NE), wanted, replace=False)
            sample_SE = unit_NE[np.sort(chosen)]
        found = lloyd(sample_SE, centres_KE, min(iterations, BETWEEN) if relocate else iterations)
        for left in range(iterations - BETWEEN, 0, -BETWEEN) if relocate else ():
            centres_KE, num_moved = relocated(sample_SE, found)
            found = lloyd(sample_SE, centres_KE, min(left, BETWEEN) if num_moved else left)
            if not num_moved:
                break
        if wanted < len(unit_NE):
            found = Assignment(*nearest(unit_NE, found.centres_KE), found.centres_KE)
        if best is None or found.cosine_N.mean(dtype=np.float64) > best.cosine_N.mean(dtype=np.float64):
            best = found
    assert best is not None
    return by_size(*best)


def lloyd(unit_NE: Units, centres_KE: Floats32, iterations: int) -> Assignment:
    """Move centres to the mean directions of their members, until nothing changes or for so many times.

    A centre that lost all its members starts anew from the utterance that is farthest from its own.
    """
    labels_N, cosine_N = nearest(unit_NE, centres_KE)
    for _ in range(iterations):
        before_N, num_clusters = labels_N, len(centres_KE)
        centres_KE = mean_directions(unit_NE, labels_N, num_clusters)
        without = np.flatnonzero(np.bincount(labels_N, minlength=num_clusters) == 0)
        if len(without):
            worst = np.argsort(cosine_N, kind="stable")[: len(without)]
            centres_KE[without[: len(worst)]] = unit_NE[worst]
        labels_N, cosine_N = nearest(unit_NE, centres_KE)
        if np.array_equal(labels_N, before_N):
            break
    return Assignment(labels_N, cosine_N, centres_KE)


def nearest(unit_NE: Units, centres_KE: Floats32) -> tuple[NDArray[np.int64], Floats32]:
    """The nearest centre of each utterance, and the cosine to it."""
    labels_N, cosine_N = np.empty(len(unit_NE), np.int64), np.empty(len(unit_NE), np.float32)
    for part in _row_blocks(len(unit_NE), len(centres_KE)):
        scores_NK = unit_NE[part] @ centres_KE.T
        labels_N[part] = scores_NK.argmax(axis=1)
        cosine_N[part] = np.take_along_axis(scores_NK, labels_N[part, None], axis=1)[:, 0]
    return labels_N, cosine_N


def mean_directions(unit_NE: Units, labels_N: NDArray[np.integer[Any]], num_clusters: int) -> Floats32:
    """Sums of each cluster's embeddings, scaled to unit length: float32 [K, E]."""
    sums_KE = np.zeros((num_clusters, unit_NE.shape[1]))
    for start in range(0, len(unit_NE), ROWS):
        label = labels_N[start : start + ROWS]
        is_member = np.ones(len(label), np.float32), (label, np.arange(len(label)))
        members = csr_array(is_member, (num_clusters, len(label)))
        sums_KE += members @ unit_NE[start : start + ROWS]
    length = np.maximum(np.linalg.norm(sums_KE, axis=1, keepdims=True), 1e-12)
    directions_KE: Floats32 = (sums_KE / length).astype(np.float32)
    return directions_KE


def cosines_to(unit_NE: Units, labels_N: NDArray[np.integer[Any]], centres_KE: Floats32) -> Floats32:
    """Cosine of each utterance to the centre of the cluster it is in, float32 [N]."""
    cosine_N = np.empty(len(unit_NE), np.float32)
    for start in range(0, len(unit_NE), ROWS):
        part = slice(start, start + ROWS)
        np.einsum("ne,ne->n", unit_NE[part], centres_KE[labels_N[part]], out=cosine_N[part])
    return cosine_N


def _row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Blocks of rows that make at most `CELLS` products with so many columns."""
    size = max(1, CELLS // max(1, num_columns))
    return (slice(first, first + size) for first in range(0, num_rows, size))


def by_size(labels_N: NDArray[np.integer[Any]], cosine_N: Floats32, centres_KE: Floats32) -> Clustering:
    """A `Clustering` without empty clusters, numbered from the largest."""
    sizes = np.bincount(labels_N, minlength=len(centres_KE))
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    number = np.empty(len(centres_KE), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    return Clustering(number[labels_N], cosine_N, np.ascontiguousarray(centres_KE[order], np.float32))


def relocated(unit_NE: Units, found: Assignment) -> tuple[Floats32, int]:
    """Better centres than those found, float32 [K, E], and the number of centres that were moved.

    The cheapest merge is paired with the split that gains most, then the next with the next. A cluster
    takes part in one merge or one split. The sum of all cosines rises by the gain of the splits above the
    cost of the merges.

    Reference:
        T. Kaukoranta, P. Fränti and O. Nevalainen, Iterative split-and-merge algorithm for vector
        quantization codebook generation, Optical Engineering 37 (10), 1998.
    """
    num_clusters = len(found.centres_KE)
    mean_KE = mean_directions(unit_NE, found.labels_N, num_clusters)
    length_K = _sum_of_cosines(unit_NE, found.labels_N, mean_KE)

    # Merges: each cluster into the longer one that costs least. Were shorter ones allowed, an empty cluster
    # or one of a single utterance would be the partner of all others.
    rank_K = np.argsort(np.argsort(-length_K, kind="stable"))
    partner_K, cost_K = np.zeros(num_clusters, np.int64), np.zeros(num_clusters)
    for part in _row_blocks(num_clusters, num_clusters):
        own_R = length_K[part, None]
        squares_RK = own_R**2 + length_K**2 + 2 * own_R * length_K * (mean_KE[part] @ mean_KE.T)
        cost_RK = own_R + length_K - np.sqrt(np.maximum(squares_RK, 0))
        cost_RK[rank_K >= rank_K[part, None]] = np.inf
        partner_K[part], cost_K[part] = cost_RK.argmin(axis=1), cost_RK.min(axis=1)

    # Splits: two-means in each cluster, begun from two utterances that lie far apart; the two halves of a
    # cluster stand one after the other.
    first_KE = _farthest_members(unit_NE, found.labels_N, found.cosine_N, found.centres_KE)
    cosine_N = cosines_to(unit_NE, found.labels_N, first_KE)
    second_KE = _farthest_members(unit_NE, found.labels_N, cosine_N, found.centres_KE)
    halves_HE = np.stack([first_KE, second_KE], axis=1).reshape(-1, unit_NE.shape[1])
    for _ in range(SPLIT_STEPS):
        half_N = _nearer_half(unit_NE, found.labels_N, halves_HE)
        halves_HE = mean_directions(unit_NE, half_N, len(halves_HE))
    half_N = _nearer_half(unit_NE, found.labels_N, halves_HE)
    gain_K = _sum_of_cosines(unit_NE, half_N, halves_HE).reshape(-1, 2).sum(axis=1) - length_K

    centres_KE, is_free_K, num_moved = found.centres_KE.copy(), np.ones(num_clusters, bool), 0
    to_split = np.argsort(-gain_K, kind="stable")
    for merged in np.argsort(cost_K, kind="stable").tolist():
        kept = int(partner_K[merged])
        if not (is_free_K[merged] and is_free_K[kept]):
            continue
        is_free_K[[merged, kept]] = False
        to_split = to_split[np.argmax(is_free_K[to_split]) :]
        split = int(to_split[0])
        if not is_free_K[split] or gain_K[split] <= cost_K[merged]:
            break
        is_free_K[split] = False
        sum_E = length_K[kept] * mean_KE[kept] + length_K[merged] * mean_KE[merged]
        centres_KE[kept] = sum_E / np.linalg.norm(sum_E)
        centres_KE[split], centres_KE[merged] = halves_HE[2 * split : 2 * split + 2]
        num_moved += 1
    return centres_KE, num_moved


def _first_centres(unit_NE: Units, num_clusters: int, seed: int, attempt: int) -> Floats32:
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


def _sum_of_cosines(unit_NE: Units, labels_N: Labels, centres_KE: Floats32) -> NDArray[np.float64]:
    """The sum for each cluster [K]; to the mean direction it is the length of the sum of the members."""
    cosine_N = cosines_to(unit_NE, labels_N, centres_KE)
    return np.bincount(labels_N, cosine_N, minlength=len(centres_KE)).astype(np.float64)


def _farthest_members(unit_NE: Units, labels_N: Labels, cosine_N: Floats32, centres_KE: Floats32) -> Floats32:
    """The member of each cluster with the least cosine, float32 [K, E]; of an empty cluster its centre."""
    order = np.lexsort((cosine_N, labels_N))
    clusters, first = np.unique(labels_N[order], return_index=True)
    farthest_KE = centres_KE.copy()
    farthest_KE[clusters] = unit_NE[order[first]]
    return farthest_KE


def _nearer_half(unit_NE: Units, labels_N: Labels, halves_HE: Floats32) -> Labels:
    """The half that each utterance is nearer to, as a row of ``halves_HE``."""
    nearer_N: Labels = 2 * labels_N + (cosines_to(unit_NE, labels_N, halves_HE[1::2] - halves_HE[::2]) > 0)
    return nearer_N


def merged_clusters(
    unit_NE: Units, numbers: Sequence[int], *, most: int, **settings: Any
) -> Iterator[Clustering]:
    """Agglomerative clustering of k-means centres by Ward's criterion, cut at each of ``numbers``.

    There are four times as many small clusters as ``most``, the largest number there may be (at most a
    third of the utterances, and `SMALL_CLUSTERS`); one k-means, with ``settings``, serves all cuts.
    """
    wanted = max(most, min(4 * most, len(unit_NE) // 3, SMALL_CLUSTERS))
    # clusters that share a speaker are merged anyway
    small = kmeans(unit_NE, wanted, relocate=False, **settings)
    several = len(small.centres_KE) > 1  # copies of one embedding are one cluster
    tree = linkage(small.centres_KE.astype(np.float64), method="ward") if several else None
    for number in numbers:
        group_M = np.zeros(1, np.int64) if tree is None else fcluster(tree, number, criterion="maxclust") - 1
        labels_N = group_M[small.labels_N]
        centres_KE = mean_directions(unit_NE, labels_N, int(group_M.max()) + 1)
        yield by_size(labels_N, cosines_to(unit_NE, labels_N, centres_KE), centres_KE)


def spectral_clusters(
    unit_NE: Units, numbers: Sequence[int], *, most: int, seed: int = 0, **settings: Any
) -> Iterator[Clustering]:
    """Spectral clustering of a sample; all other utterances join the nearest mean direction of a cluster.

    Cosines are cut to each utterance's nearest neighbours and made symmetric; the eigenvectors of the
    normalised Laplacian, rows scaled to unit length, are clustered by k-means with ``settings``.

    Reference:
        A. Ng, M. Jordan, Y. Weiss, On spectral clustering, NIPS 2001.
    """
    size = min(len(unit_NE), SAMPLE)
    sample_SE = unit_NE[np.sort(rng_for(seed, 1, 0).choice(len(unit_NE), size, replace=False))]
    most = min(most, size)

    cosine_SS = np.maximum(sample_SE.astype(np.float64) @ sample_SE.T, 0)
    np.fill_diagonal(cosine_SS, 0)
    if size > NEIGHBOURS + 1:
        least_S = np.partition(cosine_SS, size - NEIGHBOURS, axis=1)[:, size - NEIGHBOURS, None]
        cosine_SS[cosine_SS < least_S] = 0
    graph_SS = np.maximum(cosine_SS, cosine_SS.T)
    scale_S = 1 / np.sqrt(np.maximum(graph_SS.sum(axis=1), 1e-12))
    graph_SS *= scale_S[:, None] * scale_S
    smoothest_SV = eigh(graph_SS, subset_by_index=(size - most, size - 1))[1][:, ::-1]

    for number in numbers:
        few_SV = smoothest_SV[:, : min(number, most)]
        few_SV = few_SV / np.maximum(np.linalg.norm(few_SV, axis=1, keepdims=True), 1e-12)
        found = kmeans(np.ascontiguousarray(few_SV, np.float32), few_SV.shape[1], seed=seed, **settings)
        centres_KE = mean_directions(sample_SE, found.labels_N, len(found.centres_KE))
        yield by_size(*nearest(unit_NE, centres_KE), centres_KE)
