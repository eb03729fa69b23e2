"""Centres that share one cluster, moved to where two clusters share one centre.

Lloyd's iterations do not carry a centre across the space: of two centres that begin in one cluster neither
leaves it, and a cluster that began without a centre stays with its neighbour's. The sum of the cosines in a
cluster is the length of the sum of its embeddings: what it costs to merge two clusters, and what it brings
to split one, is known exactly. A centre moves only where the split brings more than the merge costs.

Shape suffixes: N utterance, E embedding dimension, K cluster, H half of a cluster, R row of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farvox.clustering.lloyd import Assignment, Floats, Labels, cosines_to, mean_directions, row_blocks

SPLIT_STEPS = 3
"""Two-means iterations by which a cluster is split."""

Numbers = NDArray[np.float64]


def relocated(unit_NE: Floats, found: Assignment) -> tuple[Floats, int]:
    """Better centres than those found, float32 [K, E], and how many of them were moved.

    The cheapest merge is paired with the split that brings most, then the next with the next. A cluster
    takes part in one merge or one split. The sum of all cosines rises by what the splits bring above the
    cost of the merges.

    Reference:
        T. Kaukoranta, P. Fränti and O. Nevalainen, Iterative split-and-merge algorithm for vector
        quantization codebook generation, Optical Engineering 37 (10), 1998.

    Args:
        unit_NE: embeddings of unit length.
        found: of these embeddings; the centres are taken to be the mean directions, or near them.
    """
    num_clusters = len(found.centres_KE)
    mean_KE = mean_directions(unit_NE, found.labels_N, num_clusters)
    length_K = _sum_of_cosines(unit_NE, found.labels_N, mean_KE)
    partner_K, cost_K = _cheapest_merges(mean_KE, length_K)
    halves_HE = _halves(unit_NE, found)
    labels_N = _nearer_half(unit_NE, found.labels_N, halves_HE)
    gain_K = _sum_of_cosines(unit_NE, labels_N, halves_HE).reshape(-1, 2).sum(axis=1) - length_K

    centres_KE, is_free_K, moved = found.centres_KE.copy(), np.ones(num_clusters, bool), 0
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
        moved += 1
    return centres_KE, moved


def _sum_of_cosines(unit_NE: Floats, labels_N: Labels, centres_KE: Floats) -> Numbers:
    """Of each cluster [K]; to the mean direction it is the length of the sum of the members."""
    cosine_N = cosines_to(unit_NE, labels_N, centres_KE)
    return np.bincount(labels_N, cosine_N, minlength=len(centres_KE)).astype(np.float64)


def _cheapest_merges(mean_KE: Floats, length_K: Numbers) -> tuple[Labels, Numbers]:
    """Into which longer one each cluster is merged at the least cost, and the cost; infinite for the longest.

    Were shorter ones allowed, an empty cluster or one of a single utterance would be everybody's partner.
    """
    order = np.argsort(-length_K, kind="stable")
    rank_K = np.argsort(order)
    partner_K, cost_K = np.zeros(len(order), np.int64), np.zeros(len(order))
    for part in row_blocks(len(order), len(order)):
        own_R = length_K[part, None]
        squares_RK = own_R**2 + length_K**2 + 2 * own_R * length_K * (mean_KE[part] @ mean_KE.T)
        cost_RK = own_R + length_K - np.sqrt(np.maximum(squares_RK, 0))
        cost_RK[rank_K >= rank_K[part, None]] = np.inf
        partner_K[part], cost_K[part] = cost_RK.argmin(axis=1), cost_RK.min(axis=1)
    return partner_K, cost_K


def _halves(unit_NE: Floats, found: Assignment) -> Floats:
    """Each cluster split by two-means that begin far apart: float32 [2 K, E], a cluster's two in a row."""
    first_KE = _worst_off(unit_NE, found.labels_N, found.cosine_N, found.centres_KE)
    cosine_N = cosines_to(unit_NE, found.labels_N, first_KE)
    second_KE = _worst_off(unit_NE, found.labels_N, cosine_N, found.centres_KE)
    halves_HE = np.stack([first_KE, second_KE], axis=1).reshape(-1, unit_NE.shape[1])
    for _ in range(SPLIT_STEPS):
        labels_N = _nearer_half(unit_NE, found.labels_N, halves_HE)
        halves_HE = mean_directions(unit_NE, labels_N, len(halves_HE))
    return halves_HE


def _worst_off(unit_NE: Floats, labels_N: Labels, cosine_N: Floats, centres_KE: Floats) -> Floats:
    """The member of each cluster with the least cosine, float32 [K, E]; of an empty cluster its centre."""
    order = np.lexsort((cosine_N, labels_N))
    clusters, first = np.unique(labels_N[order], return_index=True)
    worst_KE = centres_KE.copy()
    worst_KE[clusters] = unit_NE[order[first]]
    return worst_KE


def _nearer_half(unit_NE: Floats, labels_N: Labels, halves_HE: Floats) -> Labels:
    nearer_N: Labels = 2 * labels_N + (cosines_to(unit_NE, labels_N, halves_HE[1::2] - halves_HE[::2]) > 0)
    return nearer_N
