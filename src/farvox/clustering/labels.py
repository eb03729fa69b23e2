"""Pseudo-labels on disk: a data dir whose speakers are clusters, and what they were chosen by.

`wav.scp utt2spk spk2utt` are those of any data dir; `clusters.tsv` is the curve, `clusters.json` the
choice. Where every utterance was put, kept or not, is in `utt2cluster` (utterance, cluster, cosine).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.atomic import atomic_dir
from farvox.clustering.cluster import Sweep
from farvox.datadir.kaldi import DataDir, read_table, write_data_dir
from farvox.errors import DataDirError
from farvox.metrics.clustering import normalised_mutual_information, purity


@dataclass(frozen=True)
class Figures:
    """How good pseudo-labels are, by the true speakers.

    Attributes:
        speakers: how many there are in truth.
        nmi, purity: of all utterances.
        kept_nmi, kept_purity: of those whose label is kept; None where none is.
    """

    speakers: int
    nmi: float
    purity: float
    kept_nmi: float | None
    kept_purity: float | None


def true_labels(path: str | Path, utt_ids: list[str]) -> NDArray[np.int64]:
    """The speaker of each utterance by an ``utt2spk``, as numbers [N].

    Raises:
        DataDirError: the file is malformed, or an utterance is not in it.
    """
    known = read_table(path, ("utt_id", "speaker_id")).unique("utt_id")
    wanted = pl.DataFrame({"utt_id": pl.Series(utt_ids, dtype=pl.String)})
    speakers = wanted.join(known, on="utt_id", how="left", maintain_order="left")["speaker_id"]
    if speakers.null_count():
        missing = wanted["utt_id"].filter(speakers.is_null())[0]
        raise DataDirError(f"{path}: does not name the speaker of '{missing}'")
    return speakers.rank("dense").to_numpy().astype(np.int64)


def figures_by_truth(
    labels_N: NDArray[np.int32], kept_N: NDArray[np.bool_], truth_N: NDArray[np.int64]
) -> Figures:
    """NMI and purity of pseudo-labels, of all and of those that are kept."""
    of_kept = labels_N[kept_N], truth_N[kept_N]
    some = bool(kept_N.any())
    return Figures(
        len(np.unique(truth_N)),
        normalised_mutual_information(labels_N, truth_N),
        purity(labels_N, truth_N),
        normalised_mutual_information(*of_kept) if some else None,
        purity(*of_kept) if some else None,
    )


def write_labels(
    out: Path, data_dir: DataDir | None, utt_ids: list[str], sweep: Sweep, kept_N: NDArray[np.bool_],
    facts: Mapping[str, Any], *, prefix: str = "c",
) -> None:  # fmt: skip
    """Write pseudo-labels: a data dir, or without audio to name, the label files alone.

    Args:
        out: the folder.
        data_dir: where the audio of the utterances is; None: only the label files.
        utt_ids: the utterances, in the order of the clustering.
        sweep: the clustering and its curve.
        kept_N: which utterances keep their label.
        facts: goes into ``clusters.json``.
        prefix: of the speakers' names.

    Raises:
        DataDirError: no label is kept, or ``data_dir`` lacks an utterance.
    """
    if not kept_N.any():
        raise DataDirError(f"{out}: no pseudo-label meets the conditions; loosen them")
    clustering = sweep.clustering
    digits = max(4, len(str(len(clustering.centres_KE))))
    number = pl.Series(clustering.labels_N).cast(pl.String).str.zfill(digits)
    table = pl.DataFrame({"utt_id": utt_ids}).with_columns(
        (prefix + number).alias("speaker_id"),
        pl.Series("cosine", clustering.cosine_N),
        pl.Series("kept", kept_N),
    )
    files = {
        "clusters.tsv": _curve(sweep),
        "clusters.json": json.dumps(dict(facts), indent=2, ensure_ascii=False) + "\n",
        "utt2cluster": _rows(table.sort("utt_id"), ("utt_id", "speaker_id", "cosine")),
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
        files["utt2spk"] = _rows(kept, ("utt_id", "speaker_id"))
        for name, text in files.items():
            (folder / name).write_bytes(text.encode())


def _curve(sweep: Sweep) -> str:
    chosen = sweep.elbow.num_clusters if sweep.elbow else sweep.numbers[0]
    rows = zip(sweep.numbers, sweep.wccs_C, strict=True)
    return "clusters\twccs\tchosen\n" + "".join(f"{n}\t{wccs:.6f}\t{int(n == chosen)}\n" for n, wccs in rows)


def _rows(table: pl.DataFrame, columns: tuple[str, ...]) -> str:
    texts = [pl.col(name).round(6).cast(pl.String) if name == "cosine" else pl.col(name) for name in columns]
    joined = table.select(pl.concat_str(texts, separator=" ")).to_series()
    return str(joined.str.join("\n").item()) + "\n"
