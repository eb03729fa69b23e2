"""Clustering: embeddings of unlabelled speech become pseudo-speakers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farvox.clustering.cluster import ClusterOptions as ClusterOptions
from farvox.clustering.cluster import Sweep, confident
from farvox.clustering.cluster import cluster as run_clustering
from farvox.clustering.curve import SavedCurve
from farvox.clustering.kmeans import unit_rows
from farvox.clustering.labels import Figures, figures_by_truth, true_labels, write_labels
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir
from farvox.metrics.clustering import normalised_mutual_information
from farvox.progress import Note, ProgressLine, silent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def cluster(
    embeddings: str | Path,
    out: str | Path,
    options: ClusterOptions = ClusterOptions(),
    *,
    data: str | Path | None = None,
    truth: str | Path | None = None,
    seed: int = 0,
    plot: str | Path | None = None,
    note: Note = silent,
) -> dict[str, Any]:
    """Cluster embeddings and write pseudo-labels: OUT/{utt2spk,utt2cluster,clusters.tsv,clusters.json}.

    A sweep that was interrupted goes on with the next number; OUT.sweep holds its points until OUT is there.

    Args:
        embeddings: a folder of embeddings.
        out: the folder to write; with ``data`` a whole data dir.
        options: numbers of clusters, method, and the labels to keep.
        data: data dir that was extracted: names the audio of the utterances.
        truth: the true ``utt2spk``, for NMI and purity.
        seed: of everything drawn.
        plot: file for the curve, .png or .svg.
        note: called with a line on what is known from an earlier run.

    Returns:
        The results as ``clusters.json`` has them.

    Raises:
        FarvoxError: more clusters than utterances, no label that meets the conditions, or an output folder
            that holds other things.
    """
    from farvox.atomic import refuse_to_replace_foreign

    refuse_to_replace_foreign(Path(out), ("clusters.json",))
    audio = None if data is None else DataDir.open(data)
    return label(
        EmbeddingSet.load(embeddings),
        Path(out),
        options,
        audio=audio,
        truth=truth,
        seed=seed,
        saved=Path(f"{os.path.realpath(out)}.sweep"),
        plot=plot,
        note=note,
        settings={
            "embeddings": str(embeddings),
            "method": options.method,
            "asked": options.clusters,
            "seed": seed,
            "iterations": options.iterations,
            "per_cluster": options.per_cluster,
            "wccs_over": options.wccs,
            "min_size": options.min_size,
            "min_cosine": options.min_cosine,
            "keep": options.keep,
        },
    )


def label(
    embeddings: EmbeddingSet,
    out: Path,
    options: ClusterOptions,
    *,
    saved: Path,
    audio: DataDir | None,
    truth: str | Path | None = None,
    seed: int = 0,
    earlier_N: NDArray[np.int32] | None = None,
    agreement: bool = False,
    prefix: str = "c",
    plot: str | Path | None = None,
    note: Note = silent,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Cluster, keep the confident labels, and write them; the part that a round of self-training shares.

    Args:
        embeddings: of the utterances.
        out: the folder to write.
        options: numbers of clusters, method, and the labels to keep.
        saved: file of the points of the curve while the sweep goes on; removed at the end.
        audio: data dir that names the audio of the utterances; None: only label files are written.
        truth: the true ``utt2spk``, for NMI and purity.
        seed: of everything drawn.
        earlier_N: labels of the round before, with which these are compared.
        agreement: keep only utterances whose clusters of both rounds are each other's partner.
        prefix: of the pseudo-speakers' names.
        plot: file for the curve.
        note: called with a line on what is known from an earlier run.
        settings: further entries of ``clusters.json``; a result of the same name stands instead.

    Returns:
        The content of ``clusters.json``.
    """
    unit_NE = unit_rows(embeddings)
    truth_N = None if truth is None else true_labels(truth, embeddings.utt_ids)
    curve = SavedCurve.open(saved, unit_NE, _of_the_curve(options, seed))
    if curve.values:
        note(f"{len(curve.values)} of {len(options.numbers)} numbers of clusters are known: {saved}")
    with ProgressLine("cluster", len(options.numbers)) as line:

        def progress(done: int, number: int, wccs: float) -> None:
            curve.add(number, wccs)
            line.show(done, f"{number} clusters: {wccs:.4f}")

        sweep = run_clustering(unit_NE, options, seed=seed, known=dict(curve.values), progress=progress)

    labels_N = sweep.clustering.labels_N
    kept_N = confident(sweep.clustering, options, earlier_N if agreement else None)
    figures = None if truth_N is None else figures_by_truth(labels_N, kept_N, truth_N)
    chosen = sweep.elbow.num_clusters if sweep.elbow else sweep.numbers[0]
    found: dict[str, Any] = {
        "clusters": len(sweep.clustering.centres_KE),
        "wccs": float(sweep.wccs_C[sweep.numbers.index(chosen)]),
        "at_edge": bool(sweep.elbow and sweep.elbow.at_edge),
        "utterances": len(labels_N),
        "kept": int(kept_N.sum()),
        "truth": None if figures is None else asdict(figures),
    }
    if earlier_N is not None:
        found["nmi_to_last"] = normalised_mutual_information(labels_N, earlier_N)
    found = {**found, **{name: value for name, value in settings.items() if name not in found}}
    write_labels(out, audio, embeddings.utt_ids, sweep, kept_N, found, prefix=prefix)
    if plot:
        _draw(Path(plot), sweep, figures)
    saved.unlink(missing_ok=True)
    return found


def _of_the_curve(options: ClusterOptions, seed: int) -> dict[str, Any]:
    """The settings that the points of a curve depend on, by the names of saved curves."""
    return {
        "numbers": list(options.numbers),
        "method": options.method,
        "seed": seed,
        "iterations": options.iterations,
        "per_cluster": options.per_cluster,
        "over_samples": options.wccs == "samples",
        "axis": options.elbow,
    }


def _draw(path: Path, sweep: Sweep, figures: Figures | None) -> None:
    from farvox.report.det import save_figure
    from farvox.report.elbow_plot import elbow_figure

    chosen = sweep.elbow.num_clusters if sweep.elbow else sweep.numbers[0]
    truth = None if figures is None else figures.speakers
    save_figure(elbow_figure(sweep.numbers, sweep.wccs_C, chosen, truth=truth), path)
