"""Speakers for speech whose speakers are unknown: clusters, their number, and the labels worth keeping.

Shape suffixes: N utterance, E embedding dimension, K cluster, C number of clusters tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farvox.clustering import ClusterOptions
from farvox.clustering.elbow import Elbow, SavedCurve, find_elbow
from farvox.clustering.hierarchy import merged_clusters, spectral_clusters
from farvox.clustering.kmeans import Clustering, kmeans, unit_rows
from farvox.datadir.embeddings import EmbeddingSet
from farvox.errors import FarvoxError
from farvox.metrics.clustering import mutual_agreement, normalised_mutual_information, purity
from farvox.progress import Note, Progress, silent


@dataclass(frozen=True)
class TruthFigures:
    """The quality of pseudo-labels, by the true speakers.

    Attributes:
        speakers: number of true speakers.
        nmi, purity: of all utterances.
        kept_nmi, kept_purity: of those whose label is kept; None where none is.
    """

    speakers: int
    nmi: float
    purity: float
    kept_nmi: float | None
    kept_purity: float | None


@dataclass(frozen=True)
class PseudoLabels:
    """Clusters that stand for speakers, and the curve by which their number was chosen.

    Attributes:
        clustering: the clusters.
        numbers: numbers of clusters tried, ascending [C].
        wccs_C: intra-class cosine of each.
        elbow: None where one number was asked for.
        kept_N: the utterances that keep their label, bool [N].
        truth: quality of the labels, where the true speakers are known.
    """

    clustering: Clustering
    numbers: tuple[int, ...]
    wccs_C: NDArray[np.float64]
    elbow: Elbow | None
    kept_N: NDArray[np.bool_]
    truth: TruthFigures | None

    @property
    def chosen(self) -> int:
        """The number of clusters at the elbow, or the one that was asked for."""
        return self.elbow.num_clusters if self.elbow else self.numbers[0]

    @property
    def facts(self) -> dict[str, Any]:
        """The result in figures, as ``clusters.json`` has it."""
        return {
            "clusters": len(self.clustering.centres_KE),
            "wccs": float(self.wccs_C[self.numbers.index(self.chosen)]),
            "at_edge": bool(self.elbow and self.elbow.at_edge),
            "utterances": len(self.kept_N),
            "kept": int(self.kept_N.sum()),
            "truth": asdict(self.truth) if self.truth else None,
        }


def cluster(
    embeddings: EmbeddingSet,
    options: ClusterOptions = ClusterOptions(),
    *,
    seed: int = 0,
    saved: Path | None = None,
    earlier_N: NDArray[np.integer[Any]] | None = None,
    truth_N: NDArray[np.integer[Any]] | None = None,
    note: Note = silent,
) -> PseudoLabels:
    """Cluster at each number of clusters, keep the clustering at the elbow, and choose the labels to keep.

    Only one clustering is held at a time: the one at the elbow is made again, with ``options.restarts``.

    Args:
        embeddings: of any length other than zero.
        options: numbers of clusters, method, conditions of the labels that are kept.
        seed: of everything drawn.
        saved: file that keeps the curve point by point, so that an interrupted clustering goes on; one of
            other embeddings or options is replaced. It stays when the clustering is done.
        earlier_N: labels of the round before; utterances whose clusters of the two rounds are not each
            other's partner (`mutual_agreement`) are dropped.
        truth_N: the true speakers, as numbers.
        note: called with a line where a curve was begun before.

    Raises:
        DataDirError: an embedding is zero or not finite.
        FarvoxError: more clusters than utterances.
    """
    unit_NE = unit_rows(embeddings)
    numbers, over_samples = options.numbers, options.wccs == "samples"
    if max(numbers) > len(unit_NE):
        raise FarvoxError(f"{max(numbers)} clusters of {len(unit_NE)} utterances: ask for fewer")
    settings: dict[str, Any] = {
        "seed": seed,
        "iterations": options.iterations,
        "per_cluster": options.per_cluster,
    }

    def clusterings(these: Sequence[int], restarts: int = 1) -> Iterator[Clustering]:
        if options.method == "ahc":
            return merged_clusters(unit_NE, these, most=max(numbers), **settings)
        if options.method == "spectral":
            return spectral_clusters(unit_NE, these, most=max(numbers), **settings)
        return (kmeans(unit_NE, number, restarts=restarts, **settings) for number in these)

    elbow, chosen = None, numbers[0]
    if len(numbers) > 1:
        curve = SavedCurve()
        if saved:
            depends_on = {"numbers": numbers, "method": options.method, **settings}
            depends_on |= {"over_samples": over_samples, "axis": options.elbow}
            curve = SavedCurve.open(saved, unit_NE, depends_on)
        if curve.values:
            note(f"{len(curve.values)} of {len(numbers)} numbers of clusters are known: {saved}")
        missing = [number for number in numbers if number not in curve.values]
        with Progress("cluster", len(numbers)) as line:
            for number, found in zip(missing, clusterings(missing), strict=False):
                curve.add(number, found.wccs(over_samples=over_samples))
                line.show(len(curve.values), f"{number} clusters: {curve.values[number]:.4f}")
        wccs = [curve.values[number] for number in numbers]
        elbow = find_elbow(numbers, wccs, axis=options.elbow)
        chosen = elbow.num_clusters
    clustering = next(clusterings([chosen], options.restarts))
    if elbow is None:
        wccs = [clustering.wccs(over_samples=over_samples)]

    kept_N = confident(clustering, options, earlier_N)
    truth = None
    if truth_N is not None:
        labels_N, any_kept = clustering.labels_N, bool(kept_N.any())
        truth = TruthFigures(
            speakers=len(np.unique(truth_N)),
            nmi=normalised_mutual_information(labels_N, truth_N),
            purity=purity(labels_N, truth_N),
            kept_nmi=normalised_mutual_information(labels_N[kept_N], truth_N[kept_N]) if any_kept else None,
            kept_purity=purity(labels_N[kept_N], truth_N[kept_N]) if any_kept else None,
        )
    return PseudoLabels(clustering, numbers, np.array(wccs), elbow, kept_N, truth)


def confident(
    clustering: Clustering, options: ClusterOptions, earlier_N: NDArray[np.integer[Any]] | None = None
) -> NDArray[np.bool_]:
    """The confidence filter: the utterances that keep their pseudo-label, bool [N].

    Args:
        clustering: the clusters.
        options: ``min_cosine`` and ``keep`` choose utterances; of the clusters that are left, ``min_size``.
        earlier_N: see `cluster`.
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
