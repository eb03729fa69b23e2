"""Clustering: embeddings of unlabelled speech become pseudo-speakers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farvox.clustering import ClusterOptions as ClusterOptions
from farvox.clustering.cluster import cluster as run_clustering
from farvox.clustering.cluster import write_labels
from farvox.datadir.embeddings import EmbeddingSet, shared_origin
from farvox.datadir.kaldi import DataDir, values_of
from farvox.errors import FarvoxError
from farvox.metrics.clustering import normalised_mutual_information
from farvox.parsing import parse_json
from farvox.progress import Note, silent
from farvox.writers import writes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@writes("out")
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
        data: data dir that was extracted: names the audio of the utterances.
        truth: the true ``utt2spk``, for NMI and purity.
        plot: file for the curve, .png or .svg.

    Returns:
        The results as ``clusters.json`` has them.

    Raises:
        FarvoxError: more clusters than utterances, no label that meets the conditions, or an output folder
            that holds other things.
    """
    from farvox.atomic import refuse_to_replace_foreign

    refuse_to_replace_foreign(Path(out), ("clusters.json",))
    before = str(embeddings)
    with suppress(FileNotFoundError, ValueError, AttributeError):
        before = str(parse_json(Path(out, "clusters.json").read_text("utf-8")).get("embeddings", ""))
    is_gone = os.path.isabs(before) and not os.path.exists(before)  # moved
    if not is_gone and os.path.realpath(before or "/") != os.path.realpath(embeddings):
        raise FarvoxError(
            f"{out}: holds clusters of {before or 'a round of selftrain'}, not of {embeddings}; they are not "
            "replaced: choose another OUT, or remove it first"
        )
    audio = None if data is None else DataDir.open(data, remote=True)
    found = EmbeddingSet.load(embeddings)
    return label(
        found,
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
            "origin": shared_origin({str(embeddings): found.meta}, "", note),
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

    The arguments are those of `cluster`, and:

    Args:
        saved: file of the points of the curve while the sweep goes on; removed at the end.
        audio: data dir that names the audio of the utterances; None: only label files are written.
        earlier_N: labels of the round before, with which these are compared.
        agreement: keep only utterances whose clusters of both rounds are each other's partner.
        prefix: of the pseudo-speakers' names.
        settings: further entries of ``clusters.json``; a result of the same name stands instead.
    """
    truth_N = None
    if truth is not None:
        truth_N = values_of(truth, embeddings.ids).rank("dense").to_numpy()
    found = run_clustering(
        embeddings,
        options,
        seed=seed,
        saved=saved,
        earlier_N=earlier_N if agreement else None,
        truth_N=truth_N,
        note=note,
    )
    facts = found.facts
    if earlier_N is not None:
        facts["nmi_to_last"] = normalised_mutual_information(found.clustering.labels_N, earlier_N)
    facts |= {name: value for name, value in settings.items() if name not in facts}
    write_labels(out, audio, embeddings.ids, found, facts, prefix=prefix)
    if plot:
        from farvox.report.figures import elbow_figure, save_figure

        speakers = found.truth.speakers if found.truth else None
        save_figure(elbow_figure(found.numbers, found.wccs_C, found.chosen, truth=speakers), plot)
    saved.unlink(missing_ok=True)
    return facts
