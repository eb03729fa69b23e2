"""``farvox cluster``: pseudo-speakers for unlabelled utterances."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from farvox.cli.score import refuse_plot_name
from farvox.clustering import ClusterOptions


def cluster(
    embeddings: Annotated[Positional[Path], arg(metavar="EMBEDDINGS")],
    out: Annotated[Positional[Path], arg(metavar="OUT_DIR")],
    clustering: ClusterOptions = ClusterOptions(),
    data: Annotated[Path | None, arg(metavar="DIR")] = None,
    truth: Annotated[Path | None, arg(metavar="UTT2SPK")] = None,
    seed: int = 0,
    plot: Annotated[Path | None, arg(metavar="FILE.png|.svg")] = None,
) -> None:
    """Cluster embeddings and write pseudo-labels: OUT_DIR/{utt2spk,utt2cluster,clusters.tsv,clusters.json}.

    With --data, OUT_DIR is a whole data dir, ready to train on. A sweep that was interrupted goes on with the
    next number of clusters; OUT_DIR.sweep holds what is known until OUT_DIR is there.

    Args:
        embeddings: a folder made by "farvox extract".
        out: the folder to write.
        clustering: numbers of clusters, method, and the labels to keep.
        data: the data dir that was extracted: names the audio of the utterances.
        truth: the true speakers: NMI and purity are printed.
        seed: of everything drawn.
        plot: also draw the curve to this file.
    """
    refuse_plot_name(plot)
    from farvox.pipelines.cluster import cluster as run_clustering
    from farvox.progress import to_stderr
    from farvox.report.text import cluster_lines

    facts = run_clustering(
        embeddings, out, clustering, data=data, truth=truth, seed=seed, plot=plot, note=to_stderr
    )
    print("\n".join(cluster_lines(facts)))
