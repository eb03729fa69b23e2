"""Two methods for clusters that k-means finds badly: of unequal size, or chains rather than balls.

Both begin with many small k-means clusters or a sample, so that their cost does not grow with the
square of the number of utterances.

Shape suffixes: N utterance, E embedding dimension, M small cluster, S sampled utterance, V eigenvector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import eigh

from farvox.clustering.kmeans import Clustering, by_size, kmeans, nearest
from farvox.clustering.lloyd import Floats32, cosines_to, mean_directions
from farvox.rng import rng_for

SMALL_CLUSTERS = 4000
"""Most small clusters that are merged; their distances take 64 MB."""
SAMPLE = 4000
"""Most utterances that spectral clustering compares with one another."""
NEIGHBOURS = 12
"""Nearest utterances of the sample that an utterance stays connected to."""


def merged_clusters(
    unit_NE: Floats32,
    numbers: Sequence[int],
    *,
    most: int,
    seed: int = 0,
    iterations: int = 25,
    per_cluster: int = 256,
) -> Iterator[Clustering]:
    """Agglomerative clustering of k-means centres by Ward's criterion, cut at each of ``numbers``.

    There are four times as many small clusters as ``most``, the largest number there may be (at most a
    third of the utterances, and `SMALL_CLUSTERS`); one k-means serves all cuts.
    """
    wanted = max(most, min(4 * most, len(unit_NE) // 3, SMALL_CLUSTERS))
    small = kmeans(  # clusters that share a speaker are merged anyway
        unit_NE, wanted, seed=seed, iterations=iterations, per_cluster=per_cluster, relocate=False
    )
    several = len(small.centres_KE) > 1  # copies of one embedding are one cluster
    tree = linkage(small.centres_KE.astype(np.float64), method="ward") if several else None
    for number in numbers:
        group_M = np.zeros(1, np.int64) if tree is None else fcluster(tree, number, criterion="maxclust") - 1
        labels_N = group_M[small.labels_N]
        centres_KE = mean_directions(unit_NE, labels_N, int(group_M.max()) + 1)
        yield by_size(labels_N, cosines_to(unit_NE, labels_N, centres_KE), centres_KE)


def spectral_clusters(
    unit_NE: Floats32,
    numbers: Sequence[int],
    *,
    most: int,
    seed: int = 0,
    iterations: int = 25,
    per_cluster: int = 256,
) -> Iterator[Clustering]:
    """Spectral clustering of a sample; all other utterances join the nearest mean direction of a cluster.

    Cosines are cut to each utterance's nearest neighbours and made symmetric; the eigenvectors of the
    normalised Laplacian, rows scaled to unit length, are clustered by k-means.

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
        found = kmeans(
            np.ascontiguousarray(few_SV, np.float32),
            min(number, most),
            seed=seed,
            iterations=iterations,
            per_cluster=per_cluster,
        )
        centres_KE = mean_directions(sample_SE, found.labels_N, len(found.centres_KE))
        yield by_size(*nearest(unit_NE, centres_KE), centres_KE)
