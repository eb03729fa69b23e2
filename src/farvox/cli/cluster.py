"""``farvox cluster``: pseudo-speakers for utterances whose speakers nobody knows."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from farvox.clustering.cluster import Settings, Sweep
    from farvox.clustering.labels import Figures
    from farvox.datadir.embeddings import EmbeddingSet


def cluster(
    embeddings: Annotated[Positional[Path], arg(metavar="EMBEDDINGS")],
    out: Annotated[Positional[Path], arg(metavar="OUT_DIR")],
    clusters: str = "10:2000:10",
    method: Literal["kmeans", "ahc", "spectral"] = "kmeans",
    data: Annotated[Path | None, arg(metavar="DIR")] = None,
    truth: Annotated[Path | None, arg(metavar="UTT2SPK")] = None,
    min_size: int = 1,
    min_cosine: float = -1.0,
    keep: float = 1.0,
    wccs: Literal["clusters", "samples"] = "clusters",
    elbow: Literal["log", "linear"] = "log",
    iterations: int = 25,
    per_cluster: int = 256,
    seed: int = 0,
    plot: Annotated[Path | None, arg(metavar="FILE.png|.svg")] = None,
) -> int:
    """Cluster embeddings and write pseudo-labels: OUT_DIR/{utt2spk,utt2cluster,clusters.tsv,clusters.json}.

    With --data, OUT_DIR is a whole data dir, ready to train on. A sweep that was interrupted goes on with the
    next number of clusters; OUT_DIR.sweep holds what is known until OUT_DIR is there.

    Args:
        embeddings: a folder made by "farvox extract".
        out: the folder to write.
        clusters: how many: a number, or FIRST:END:STEP, of which the elbow of the intra-class cosine is
            taken.
        method: k-means; ahc, which merges many small k-means clusters; spectral, on a sample.
        data: the data dir that was extracted: names the audio of the utterances.
        truth: the true speakers: NMI and purity are printed.
        min_size: drop clusters with fewer utterances than this.
        min_cosine: drop utterances whose cosine to their centre is less.
        keep: share of each cluster to keep, nearest to the centre first.
        wccs: intra-class cosine as the mean over clusters (the FFSVC notebook), or over samples (its paper).
        elbow: how the axis of the number of clusters is spaced when the elbow is looked for.
        iterations: of k-means.
        per_cluster: utterances a cluster that k-means iterates on, drawn at random; 0: all.
        seed: what is drawn at random follows from it.
        plot: also draw the curve to this file.
    """
    if plot is not None and plot.suffix not in (".png", ".svg"):
        print(f"farvox cluster: --plot {plot}: a plot is a .png or an .svg file", file=sys.stderr)
        return 2
    from farvox.atomic import refuse_to_replace_foreign
    from farvox.clustering.cluster import Settings, Trust, numbers_of_clusters, trusted
    from farvox.clustering.labels import figures_by_truth, true_labels, write_labels
    from farvox.datadir.embeddings import EmbeddingSet
    from farvox.datadir.kaldi import DataDir

    refuse_to_replace_foreign(out, ("clusters.json",))
    trust = Trust(min_size, min_cosine, keep)
    numbers = numbers_of_clusters(clusters)
    data_dir = None if data is None else DataDir.open(data)
    embedding_set = EmbeddingSet.load(embeddings)
    truth_N = None if truth is None else true_labels(truth, embedding_set.utt_ids)
    settings = Settings(method, seed, iterations, per_cluster, wccs == "samples", elbow)
    saved = Path(f"{os.path.realpath(out)}.sweep")
    sweep = swept(embedding_set, numbers, settings, saved)
    kept_N = trusted(sweep.clustering, trust)
    figures = None if truth_N is None else figures_by_truth(sweep.clustering.labels_N, kept_N, truth_N)
    facts = facts_of(sweep, kept_N.sum(), figures) | {
        "embeddings": str(embeddings), "method": method, "asked": clusters, "seed": seed,
        "iterations": iterations, "per_cluster": per_cluster, "wccs_over": wccs, **asdict(trust),
    }  # fmt: skip
    write_labels(out, data_dir, embedding_set.utt_ids, sweep, kept_N, facts)
    saved.unlink(missing_ok=True)
    if plot:
        draw_elbow(plot, sweep, figures)
    print("\n".join(summary(facts)))
    return 0


def swept(embeddings: EmbeddingSet, numbers: Sequence[int], settings: Settings, saved: Path) -> Sweep:
    """Cluster with visible progress; every point of the curve is kept in ``saved`` as it is found."""
    from farvox.clustering.cluster import cluster as run_clustering
    from farvox.clustering.curve import SavedCurve
    from farvox.clustering.kmeans import unit_rows
    from farvox.progress import ProgressLine

    unit_NE = unit_rows(embeddings)
    curve = SavedCurve.open(saved, unit_NE, {"numbers": list(numbers), **asdict(settings)})
    if curve.values:
        print(
            f"{len(curve.values)} of {len(numbers)} numbers of clusters are known: {saved}", file=sys.stderr
        )
    with ProgressLine("cluster", len(numbers)) as line:

        def progress(done: int, number: int, wccs: float) -> None:
            curve.add(number, wccs)
            line.show(done, f"{number} clusters: {wccs:.4f}")

        return run_clustering(
            unit_NE, numbers, **asdict(settings), known=dict(curve.values), progress=progress
        )


def facts_of(sweep: Sweep, kept: Any, figures: Figures | None) -> dict[str, Any]:
    """What a clustering came to, for ``clusters.json``."""
    chosen = sweep.elbow.num_clusters if sweep.elbow else sweep.numbers[0]
    return {
        "clusters": len(sweep.clustering.centres_KE),
        "wccs": float(sweep.wccs_C[sweep.numbers.index(chosen)]),
        "at_edge": bool(sweep.elbow and sweep.elbow.at_edge),
        "utterances": len(sweep.clustering.labels_N),
        "kept": int(kept),
        "truth": None if figures is None else asdict(figures),
    }


def draw_elbow(path: Path, sweep: Sweep, figures: Figures | None) -> None:
    """Draw the curve of a sweep."""
    from farvox.report.det import save_figure
    from farvox.report.elbow_plot import elbow_figure

    chosen = sweep.elbow.num_clusters if sweep.elbow else sweep.numbers[0]
    truth = None if figures is None else figures.speakers
    save_figure(elbow_figure(sweep.numbers, sweep.wccs_C, chosen, truth=truth), path)


def summary(facts: dict[str, Any]) -> list[str]:
    """The lines that a person reads."""
    lines = [
        f"clusters  {facts['clusters']:,}  (intra-class cosine {facts['wccs']:.4f})",
        f"kept      {facts['kept']:,} of {facts['utterances']:,} utterances",
    ]
    if facts["at_edge"]:
        lines.append("          the elbow is at the edge of the range: try a wider one")
    if truth := facts["truth"]:
        lines.append(
            f"truth     {truth['speakers']:,} speakers; all: NMI {truth['nmi']:.4f}, "
            f"purity {truth['purity']:.4f}; kept: NMI {truth['kept_nmi']:.4f}, "
            f"purity {truth['kept_purity']:.4f}"
        )
    return lines
