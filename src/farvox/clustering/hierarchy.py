"""Clusterers for where k-means is weak: clusters of unequal size, and chains rather than balls.

Both begin with many small k-means clusters or a sample, so that their cost does not grow with the
square of the number of utterances.

Shape suffixes: N utterance, E embedding dimension, M small cluster, S sampled utterance, V eigenvector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import eigh

from farvox.clustering.kmeans import Clustering, Floats, by_size, kmeans, nearest
from farvox.clustering.lloyd import cosines_to, mean_directions
from farvox.rng import rng_for

SMALL_CLUSTERS = 4000
"""Most small clusters that are merged; their distances take 64 MB."""
SAMPLE = 4000
"""Most utterances that spectral clustering compares with one another."""
NEIGHBOURS = 12
"""How many of the nearest an utterance of the sample stays connected to."""


def merged_clusters(
    unit_NE: Floats, numbers: Sequence[int], *, most: int, seed: int = 0, iterations: int = 25,
    per_cluster: int = 256,
) -> Iterator[Clustering]:  # fmt: skip
    """Agglomerative clustering of k-means centres by Ward's criterion, cut at each of ``numbers``.

    There are four times as many small clusters as ``most``, the largest number there may be (at most a
    third of the utterances, and `SMALL_CLUSTERS`); one k-means serves all cuts.
    """
    wanted = max(most, min(4 * most, len(unit_NE) // 3, SMALL_CLUSTERS))
    small = kmeans(  # what shares a speaker is merged anyway
        unit_NE, wanted, seed=seed, iterations=iterations, per_cluster=per_cluster, relocate=False
    )
    several = len(small.centres_KE) > 1  # copies of one embedding are one cluster
    tree = linkage(small.centres_KE.astype(np.float64), method="ward") if several else None
    for number in numbers:
        group_M = (
            fcluster(tree, number, criterion="maxclust") - 1 if tree is not None else np.zeros(1, np.int64)
        )
        yield _gathered(unit_NE, group_M[small.labels_N], int(group_M.max()) + 1)


def spectral_clusters(
    unit_NE: Floats, numbers: Sequence[int], *, most: int, seed: int = 0, iterations: int = 25,
    per_cluster: int = 256,
) -> Iterator[Clustering]:  # fmt: skip
    """Spectral clustering of a sample; everyone else joins the nearest of the clusters' mean directions.

    Cosines are cut to each utterance's nearest neighbours and made symmetric; the eigenvectors of the
    normalised Laplacian, rows scaled to unit length, are clustered by k-means.

    Reference:
        A. Ng, M. Jordan, Y. Weiss, On spectral clustering, NIPS 2001.
    """
    size = min(len(unit_NE), SAMPLE)
    rows = np.sort(rng_for(seed, 1, 0).choice(len(unit_NE), size, replace=False))
    sample_SE = unit_NE[rows]
    most = min(most, size)
    vectors_SV = _laplacian_vectors(sample_SE, most)
    for number in numbers:
        few_SV = vectors_SV[:, : min(number, most)]
        few_SV = few_SV / np.maximum(np.linalg.norm(few_SV, axis=1, keepdims=True), 1e-12)
        found = kmeans(
            np.ascontiguousarray(few_SV, np.float32), min(number, most),
            seed=seed, iterations=iterations, per_cluster=per_cluster,
        )  # fmt: skip
        centres_KE = mean_directions(sample_SE, found.labels_N, len(found.centres_KE))
        yield by_size(*nearest(unit_NE, centres_KE), centres_KE)


def _laplacian_vectors(sample_SE: Floats, count: int) -> NDArray[np.float64]:
    """The ``count`` smoothest eigenvectors of the sample's graph [S, V]."""
    cosine_SS = np.maximum(sample_SE.astype(np.float64) @ sample_SE.T, 0)
    np.fill_diagonal(cosine_SS, 0)
    size = len(sample_SE)
    if size > NEIGHBOURS + 1:
        least = np.partition(cosine_SS, size - NEIGHBOURS, axis=1)[:, size - NEIGHBOURS, None]
        cosine_SS[cosine_SS < least] = 0
    graph_SS = np.maximum(cosine_SS, cosine_SS.T)
    scale_S = 1 / np.sqrt(np.maximum(graph_SS.sum(axis=1), 1e-12))
    graph_SS *= scale_S[:, None] * scale_S
    vectors: NDArray[np.float64] = eigh(graph_SS, subset_by_index=(size - count, size - 1))[1][:, ::-1]
    return vectors


def _gathered(unit_NE: Floats, labels_N: NDArray[np.int64], num_clusters: int) -> Clustering:
    """Given labels as a `Clustering`: centres are the mean directions of their members."""
    centres_KE = mean_directions(unit_NE, labels_N, num_clusters)
    return by_size(labels_N, cosines_to(unit_NE, labels_N, centres_KE), centres_KE)
