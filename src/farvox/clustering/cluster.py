"""Speakers for speech whose speakers nobody knows: clusters, how many of them, and whom to trust.

Shape suffixes: N utterance, E embedding dimension, K cluster, C number of clusters tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from farvox.clustering.elbow import Axis, Elbow, find_elbow
from farvox.clustering.hierarchy import merged_clusters, spectral_clusters
from farvox.clustering.kmeans import Clustering, Floats, kmeans
from farvox.errors import FarvoxError
from farvox.metrics.clustering import mutual_agreement

Method = Literal["kmeans", "ahc", "spectral"]
METHODS: dict[str, Method] = {"kmeans": "kmeans", "ahc": "ahc", "spectral": "spectral"}
WCCS = ("clusters", "samples")
"""What the intra-class cosine is the mean over."""
Progress = Callable[[int, int, float], None]

RESTARTS = 3
"""Of the k-means whose clusters are kept: a bad start costs a few speakers, and the curve only some noise."""


@dataclass(frozen=True)
class Sweep:
    """The clustering that was chosen, and the curve it was chosen by.

    Attributes:
        clustering: with the number of clusters of the elbow, or the one that was asked for.
        numbers: numbers of clusters tried, ascending [C].
        wccs_C: intra-class cosine of each.
        elbow: None where one number was asked for.
    """

    clustering: Clustering
    numbers: tuple[int, ...]
    wccs_C: NDArray[np.float64]
    elbow: Elbow | None


@dataclass(frozen=True)
class Settings:
    """What a sweep is made by, beside the embeddings and the numbers of clusters; see `cluster`."""

    method: Method = "kmeans"
    seed: int = 0
    iterations: int = 25
    per_cluster: int = 256
    over_samples: bool = False
    axis: Axis = "log"


@dataclass(frozen=True)
class Trust:
    """Which pseudo-labels are kept.

    Attributes:
        min_size: least utterances of a cluster, counted after the other conditions.
        min_cosine: least cosine of an utterance to the centre of its cluster.
        keep: share of each cluster that is kept, the nearest to its centre first.
    """

    min_size: int = 1
    min_cosine: float = -1.0
    keep: float = 1.0

    def __post_init__(self) -> None:
        if self.min_size < 1 or not -1 <= self.min_cosine <= 1 or not 0 < self.keep <= 1:
            raise FarvoxError(
                f"least size {self.min_size}, least cosine {self.min_cosine:g}, share kept {self.keep:g}: "
                "a size is at least 1, a cosine between -1 and 1, a share above 0 and at most 1"
            )


def numbers_of_clusters(text: str) -> tuple[int, ...]:
    """``120``, or ``10:2000:10``: from 10 in steps of 10 to before 2000, as Python's range.

    Raises:
        FarvoxError: it is neither, or the range is empty or of two numbers, which have no elbow.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+)(?::(\d+))?)?", text.strip())
    if found is None:
        raise FarvoxError(f"'{text}' is neither a number of clusters nor a range such as 10:2000:10")
    first, end, step = found.groups()
    if step is not None and int(step) == 0:
        raise FarvoxError(f"'{text}': a range of numbers of clusters has a step of at least 1")
    numbers = (int(first),) if end is None else tuple(range(int(first), int(end), int(step or 1)))
    if not numbers or numbers[0] < 1:
        raise FarvoxError(
            f"'{text}' holds no number of clusters: FIRST:END:STEP leaves END out, FIRST is at least 1"
        )
    if len(numbers) == 2:
        raise FarvoxError(f"'{text}': an elbow needs at least three ascending numbers; widen it, or give one")
    return numbers


def cluster(
    unit_NE: Floats, numbers: Sequence[int], *, method: Method = "kmeans", seed: int = 0,
    iterations: int = 25, per_cluster: int = 256, over_samples: bool = False, axis: Axis = "log",
    known: Mapping[int, float] | None = None, progress: Progress | None = None,
) -> Sweep:  # fmt: skip
    """Cluster at each of ``numbers``, and keep the clustering at the elbow of the intra-class cosine.

    Only one clustering is held at a time: the one at the elbow is made again, with `RESTARTS` of k-means.

    Args:
        unit_NE: embeddings of unit length.
        numbers: numbers of clusters, ascending; one alone is taken as it is.
        method: ``kmeans``; ``ahc``, which merges small k-means clusters; ``spectral``, on a sample.
        seed: of everything drawn.
        iterations: Lloyd iterations.
        per_cluster: utterances a cluster that k-means looks at; 0: all.
        over_samples: how the curve is computed, see `Clustering.wccs`.
        axis: of the elbow, see `find_elbow`.
        known: points of the curve that an interrupted sweep has found; they are not found again.
        progress: called with how many are done, the number of clusters and its intra-class cosine; not for
            points that were known.

    Raises:
        FarvoxError: more clusters than utterances, or numbers among which there is no elbow.
    """
    if max(numbers) > len(unit_NE):
        raise FarvoxError(f"{max(numbers)} clusters of {len(unit_NE)} utterances: ask for fewer")
    if iterations < 1 or per_cluster < 0:
        raise FarvoxError(
            f"{iterations} iterations on {per_cluster} utterances a cluster: at least 1, and at least 0 (all"
            " of them) or more"
        )

    def clusterings(these: Sequence[int], restarts: int = 1) -> Iterator[Clustering]:
        settings: dict[str, Any] = {"seed": seed, "iterations": iterations, "per_cluster": per_cluster}
        if method == "ahc":
            return merged_clusters(unit_NE, these, most=max(numbers), **settings)
        if method == "spectral":
            return spectral_clusters(unit_NE, these, most=max(numbers), **settings)
        return (kmeans(unit_NE, number, restarts=restarts, **settings) for number in these)

    if len(numbers) == 1:
        only = next(clusterings(numbers, RESTARTS))
        return Sweep(only, tuple(numbers), np.array([only.wccs(over_samples=over_samples)]), None)
    wccs_of = {number: known[number] for number in numbers if number in known} if known else {}
    missing = [number for number in numbers if number not in wccs_of]
    for number, found in zip(missing, clusterings(missing) if missing else (), strict=True):
        wccs_of[number] = found.wccs(over_samples=over_samples)
        if progress:
            progress(len(wccs_of), number, wccs_of[number])
    curve = [wccs_of[number] for number in numbers]
    elbow = find_elbow(numbers, curve, axis=axis)
    return Sweep(next(clusterings([elbow.num_clusters], RESTARTS)), tuple(numbers), np.array(curve), elbow)


def trusted(
    clustering: Clustering, trust: Trust, earlier_N: NDArray[np.int32] | None = None
) -> NDArray[np.bool_]:
    """Which utterances keep their pseudo-label: bool [N].

    Args:
        clustering: the clusters.
        trust: the conditions.
        earlier_N: labels of the round before; utterances whose clusters are not each other's partner
            (`mutual_agreement`) are left out.
    """
    labels_N, cosine_N = clustering.labels_N, clustering.cosine_N
    kept_N = cosine_N >= trust.min_cosine
    if trust.keep < 1:
        order = np.lexsort((-cosine_N, labels_N))
        sizes_K = clustering.sizes_K
        first_K = np.concatenate([[0], np.cumsum(sizes_K)[:-1]])
        place_N = np.empty(len(labels_N), np.int64)
        place_N[order] = np.arange(len(labels_N)) - first_K[labels_N[order]]
        kept_N &= place_N < np.ceil(np.round(trust.keep * sizes_K, 6))[labels_N]
    if earlier_N is not None:
        kept_N &= mutual_agreement(labels_N, earlier_N)
    left_K = np.bincount(labels_N, weights=kept_N, minlength=len(clustering.centres_KE))
    kept: NDArray[np.bool_] = kept_N & (left_K >= trust.min_size)[labels_N]
    return kept
