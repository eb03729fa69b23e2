"""Speakers for speech whose speakers are unknown: clusters, their number, and the labels worth keeping.

Shape suffixes: N utterance, E embedding dimension, K cluster, C number of clusters tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.atomic import atomic_dir, json_text
from farvox.clustering import ClusterOptions
from farvox.clustering.elbow import Elbow, SavedCurve, find_elbow
from farvox.clustering.kmeans import Clustering, UnitRows, kmeans, merged_clusters, spectral_clusters
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir, write_data_dir
from farvox.errors import DataDirError, FarvoxError
from farvox.metrics.clustering import mutual_agreement, normalised_mutual_information, purity
from farvox.progress import Note, Progress, silent


@dataclass(frozen=True)
class TruthFigures:
    """The quality of pseudo-labels by the true speakers: of all, and of those kept, None where none is."""

    speakers: int
    nmi: float
    purity: float
    kept_nmi: float | None
    kept_purity: float | None


@dataclass(frozen=True)
class PseudoLabels:
    """Clusters that stand for speakers, and the curve by which their number was chosen.

    Attributes:
        numbers: numbers of clusters tried, ascending [C].
        wccs_C: intra-class cosine of each.
        elbow: None where one number was asked for.
        kept_N: the utterances that keep their label, bool [N].
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
        saved: file that keeps the curve point by point, so that an interrupted clustering goes on; one of
            other embeddings or options is replaced. It stays when the clustering is done.
        earlier_N: labels of the round before; utterances whose clusters of the two rounds are not each
            other's partner (`mutual_agreement`) are dropped.
        truth_N: the true speakers, as numbers.

    Raises:
        DataDirError: an embedding is zero or not finite.
        FarvoxError: more clusters than utterances.
    """
    unit_NE = UnitRows(embeddings)
    numbers, over_samples = options.numbers, options.wccs == "samples"
    if max(numbers) > len(unit_NE):
        raise FarvoxError(f"{max(numbers)} clusters of {len(unit_NE)} utterances: ask for fewer")
    settings: dict[str, Any] = {"seed": seed}
    settings |= {"iterations": options.iterations, "per_cluster": options.per_cluster}

    def clusterings(these: Sequence[int], restarts: int = 1) -> Iterator[Clustering]:
        if options.method == "kmeans":
            return (kmeans(unit_NE, number, restarts=restarts, **settings) for number in these)
        method = merged_clusters if options.method == "ahc" else spectral_clusters
        return method(unit_NE, these, most=max(numbers), **settings)

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
        with Progress("cluster", len(numbers)) as progress:
            for number, found in zip(missing, clusterings(missing), strict=False):
                curve.add(number, found.wccs(over_samples=over_samples))
                progress.show(len(curve.values), f"{number} clusters: {curve.values[number]:.4f}")
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

    ``min_cosine`` and ``keep`` choose utterances; of the clusters that are left, ``min_size``.
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


def write_labels(
    out: Path,
    data_dir: DataDir | None,
    utt_ids: pl.Series,
    found: PseudoLabels,
    facts: Mapping[str, Any],
    *,
    prefix: str = "c",
) -> None:
    """Write pseudo-labels: a data dir, or without audio to name, the label files alone.

    Args:
        data_dir: names the audio of the utterances.
        utt_ids: the utterances, in the order of the clustering.
        facts: content of ``clusters.json``.
        prefix: of the speakers' names.

    Raises:
        DataDirError: no label is kept, or ``data_dir`` lacks an utterance.
    """
    if not found.kept_N.any():
        raise DataDirError(f"{out}: no pseudo-label meets the conditions; loosen them")
    digits = max(4, len(str(len(found.clustering.centres_KE))))
    number = pl.Series(found.clustering.labels_N).cast(pl.String).str.zfill(digits)
    table = pl.DataFrame({"utt_id": utt_ids}).with_columns(
        (prefix + number).alias("speaker_id"),
        pl.Series("cosine", found.clustering.cosine_N),
        pl.Series("kept", found.kept_N),
    )
    curve = "".join(
        f"{tried}\t{wccs:.6f}\t{int(tried == found.chosen)}\n"
        for tried, wccs in zip(found.numbers, found.wccs_C, strict=True)
    )
    files = {
        "clusters.tsv": f"clusters\twccs\tchosen\n{curve}",
        "clusters.json": json_text(dict(facts)) + "\n",
        "utt2cluster": _lines(table.sort("utt_id"), ("utt_id", "speaker_id", "cosine")),
    }
    kept = table.filter("kept").select("utt_id", "speaker_id").sort("utt_id")
    if data_dir is not None:
        audio = data_dir.table.select("utt_id", "wav_path", "num_samples")
        joined = kept.join(audio, on="utt_id", how="left", maintain_order="left")
        if joined["wav_path"].null_count():
            missing = joined.filter(pl.col("wav_path").is_null())["utt_id"][0]
            raise DataDirError(f"{data_dir.path}: has no '{missing}', of which there is an embedding")
        write_data_dir(out, joined, files=files)
        return
    with atomic_dir(out, own_files=("clusters.json",)) as folder:
        files["utt2spk"] = _lines(kept, ("utt_id", "speaker_id"))
        for name, text in files.items():
            (folder / name).write_bytes(text.encode())


def _lines(table: pl.DataFrame, columns: tuple[str, ...]) -> str:
    """Some columns of a table as lines, with a blank between columns."""
    texts = [pl.col(name).round(6).cast(pl.String) if name == "cosine" else pl.col(name) for name in columns]
    joined = table.select(pl.concat_str(texts, separator=" ")).to_series()
    return str(joined.str.join("\n").item()) + "\n"
