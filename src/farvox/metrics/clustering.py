"""The agreement of two labellings of the same utterances: NMI, purity, and the matching of their clusters.

A labelling is a row of integers or names, one an utterance; the number of a cluster has no meaning. Two
that are empty or of different lengths raise a `FarvoxError`.

Shape suffixes: N utterance, A cluster of the first labelling, B cluster of the second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array

from farvox.errors import FarvoxError


def contingency(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of clusters that share utterances, int [P, 2], and the number of utterances of each, [P].

    Clusters are numbered in the sorted order of their labels. The table is sparse, so that its size is
    at most the number of utterances.
    """
    first_N, second_N = np.asarray(first), np.asarray(second)
    if first_N.shape != second_N.shape or first_N.ndim != 1 or not first_N.size:
        raise FarvoxError(
            f"labellings of {list(first_N.shape)} and {list(second_N.shape)} utterances cannot be compared: "
            "give one label an utterance in each"
        )
    row_N = np.unique(first_N, return_inverse=True)[1]
    column_N = np.unique(second_N, return_inverse=True)[1]
    table = coo_array((np.ones(len(row_N), np.int64), (row_N, column_N)))
    table.sum_duplicates()
    return np.stack(table.coords, axis=1).astype(np.int64), table.data


def normalised_mutual_information(first: ArrayLike, second: ArrayLike) -> float:
    """Mutual information over the mean of both entropies: 1 the same partition, 0 independent ones.

    The arithmetic mean is the usual choice (scikit-learn's default since 0.22); two labellings of one
    cluster each are the same partition: 1.

    Reference:
        N. X. Vinh et al., Information theoretic measures for clusterings comparison, JMLR 11, 2010.
    """
    pairs, counts = contingency(first, second)
    joint = counts / counts.sum()
    share_A, share_B = (np.bincount(pairs[:, side], weights=joint) for side in (0, 1))
    entropy = -(share_A @ np.log(share_A)) - (share_B @ np.log(share_B))
    if entropy <= 0:
        return 1.0
    information = joint @ np.log(joint / (share_A[pairs[:, 0]] * share_B[pairs[:, 1]]))
    return float(np.clip(2 * information / entropy, 0, 1))


def purity(clusters: ArrayLike, truth: ArrayLike) -> float:
    """Share of utterances that belong to the commonest true speaker of their cluster.

    It grows with the number of clusters and is 1 when each utterance has its own, so it is read beside
    that number, or beside the NMI.
    """
    pairs, counts = contingency(clusters, truth)
    best_A = np.zeros(pairs[:, 0].max() + 1, np.int64)
    np.maximum.at(best_A, pairs[:, 0], counts)
    return float(best_A.sum() / counts.sum())


def mutual_agreement(first: ArrayLike, second: ArrayLike) -> NDArray[np.bool_]:
    """The utterances that lie in clusters which are each other's partner, bool [N].

    Clusters are matched one to one so that the most utterances agree (the Hungarian method). Those of
    a cluster left without a partner agree with nothing.
    """
    pairs, counts = contingency(first, second)
    table_AB = np.zeros(pairs.max(axis=0) + 1, np.int32)
    table_AB[pairs[:, 0], pairs[:, 1]] = counts
    rows, columns = linear_sum_assignment(table_AB, maximize=True)
    partner_A = np.full(table_AB.shape[0], -1)
    partner_A[rows] = columns
    row_N = np.unique(np.asarray(first), return_inverse=True)[1]
    column_N = np.unique(np.asarray(second), return_inverse=True)[1]
    agree: NDArray[np.bool_] = partner_A[row_N] == column_N
    return agree
