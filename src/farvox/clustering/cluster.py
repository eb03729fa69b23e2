"""Pseudo-speakers for unlabelled speech: clusters, their number, and the labels that are kept.

Shape suffixes: N utterance, E embedding dimension, K cluster, C number of clusters tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from farvox.clustering.elbow import Axis, Elbow, find_elbow
from farvox.clustering.hierarchy import merged_clusters, spectral_clusters
from farvox.clustering.kmeans import Clustering, Floats, kmeans
from farvox.errors import FarvoxError, UsageError
from farvox.metrics.clustering import mutual_agreement
from farvox.options import Above, AtLeast, AtMost, Options

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


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """Options of a clustering: the flags of `farvox cluster`, and a part of the keys of `[selftrain]`."""

    clusters: str = "10:2000:10"
    """A number of clusters, or FIRST:END:STEP, of which the elbow of the intra-class cosine is taken."""
    method: Literal["kmeans", "ahc", "spectral"] = "kmeans"
    """kmeans; ahc, which merges many small k-means clusters; spectral, on a sample."""
    min_size: Annotated[int, AtLeast(1)] = 1
    """Least utterances of a cluster, counted after the other conditions; smaller clusters are dropped."""
    min_cosine: Annotated[float, AtLeast(-1), AtMost(1)] = -1.0
    """Least cosine of an utterance to the centre of its cluster; other utterances are dropped."""
    keep: Annotated[float, Above(0), AtMost(1)] = 1.0
    """Share of each cluster to keep, nearest to the centre first."""
    wccs: Literal["clusters", "samples"] = "clusters"
    """Intra-class cosine as the mean over clusters (the FFSVC notebook), or over samples (its paper)."""
    elbow: Axis = "log"
    """Spacing of the axis of the number of clusters when the elbow is looked for."""
    iterations: Annotated[int, AtLeast(1)] = 25
    """Lloyd iterations of k-means."""
    per_cluster: Annotated[int, AtLeast(0)] = 256
    """Utterances a cluster that k-means iterates on, drawn at random; 0: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers_of_clusters(self.clusters)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of clusters to try, ascending."""
        return numbers_of_clusters(self.clusters)


def numbers_of_clusters(text: str) -> tuple[int, ...]:
    """``120``, or ``10:2000:10``: from 10 in steps of 10 to before 2000, as Python's range.

    Raises:
        UsageError: it is neither, or the range is empty or of two numbers, which have no elbow.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+)(?::(\d+))?)?", text.strip())
    if found is None:
        raise UsageError(f"'{text}' is neither a number of clusters nor a range such as 10:2000:10")
    first, end, step = found.groups()
    if step is not None and int(step) == 0:
        raise UsageError(f"'{text}': a range of numbers of clusters has a step of at least 1")
    numbers = (int(first),) if end is None else tuple(range(int(first), int(end), int(step or 1)))
    if not numbers or numbers[0] < 1:
        raise UsageError(
            f"'{text}' holds no number of clusters: FIRST:END:STEP leaves END out, FIRST is at least 1"
        )
    if len(numbers) == 2:
        raise UsageError(f"'{text}': an elbow needs at least three ascending numbers; widen it, or give one")
    return numbers


def cluster(
    unit_NE: Floats,
    options: ClusterOptions,
    *,
    seed: int = 0,
    known: Mapping[int, float] | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Cluster at each number of clusters, and keep the clustering at the elbow of the intra-class cosine.

    Only one clustering is held at a time: the one at the elbow is made again, with `RESTARTS` of k-means.

    Args:
        unit_NE: embeddings of unit length.
        options: numbers of clusters, one of which alone is taken as it is, and the method.
        seed: of everything drawn.
        known: points of the curve that an interrupted sweep has found; they are not found again.
        progress: called with how many are done, the number of clusters and its intra-class cosine; not for
            points that were known.

    Raises:
        FarvoxError: more clusters than utterances, or numbers among which there is no elbow.
    """
    numbers, over_samples = options.numbers, options.wccs == "samples"
    if max(numbers) > len(unit_NE):
        raise FarvoxError(f"{max(numbers)} clusters of {len(unit_NE)} utterances: ask for fewer")

    def clusterings(these: Sequence[int], restarts: int = 1) -> Iterator[Clustering]:
        settings: dict[str, Any] = {
            "seed": seed,
            "iterations": options.iterations,
            "per_cluster": options.per_cluster,
        }
        if options.method == "ahc":
            return merged_clusters(unit_NE, these, most=max(numbers), **settings)
        if options.method == "spectral":
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
    elbow = find_elbow(numbers, curve, axis=options.elbow)
    return Sweep(next(clusterings([elbow.num_clusters], RESTARTS)), tuple(numbers), np.array(curve), elbow)


def confident(
    clustering: Clustering, options: ClusterOptions, earlier_N: NDArray[np.int32] | None = None
) -> NDArray[np.bool_]:
    """The utterances whose pseudo-label is kept, by ``min_cosine``, ``keep`` and ``min_size``: bool [N].

    Args:
        clustering: the clusters.
        options: the conditions.
        earlier_N: labels of the round before; utterances whose clusters are not each other's partner
            (`mutual_agreement`) are left out.
    """
    labels_N, cosine_N = clustering.labels_N, clustering.cosine_N
    kept_N = cosine_N >= options.min_cosine
    if options.keep < 1:
        order = np.lexsort((-cosine_N, labels_N))
        sizes_K = clustering.sizes_K
        first_K = np.concatenate([[0], np.cumsum(sizes_K)[:-1]])
        place_N = np.empty(len(labels_N), np.int64)
        place_N[order] = np.arange(len(labels_N)) - first_K[labels_N[order]]
        kept_N &= place_N < np.ceil(np.round(options.keep * sizes_K, 6))[labels_N]
    if earlier_N is not None:
        kept_N &= mutual_agreement(labels_N, earlier_N)
    left_K = np.bincount(labels_N, weights=kept_N, minlength=len(clustering.centres_KE))
    kept: NDArray[np.bool_] = kept_N & (left_K >= options.min_size)[labels_N]
    return kept
