"""Pseudo-labels on disk: a data dir whose speakers are clusters, and the record of how they were chosen.

`wav.scp utt2spk spk2utt` are those of any data dir; `clusters.tsv` is the curve, `clusters.json` the
result. `utt2cluster` has the cluster of every utterance, kept or not (utterance, cluster, cosine).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.atomic import atomic_dir
from farvox.clustering.cluster import PseudoLabels
from farvox.datadir.kaldi import DataDir, read_table, write_data_dir
from farvox.errors import DataDirError


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


def write_labels(
    out: Path,
    data_dir: DataDir | None,
    utt_ids: list[str],
    found: PseudoLabels,
    facts: Mapping[str, Any],
    *,
    prefix: str = "c",
) -> None:
    """Write pseudo-labels: a data dir, or without audio to name, the label files alone.

    Args:
        out: the folder.
        data_dir: the data dir that names the audio of the utterances; None: only the label files.
        utt_ids: the utterances, in the order of the clustering.
        found: the clustering, its curve, and the labels that are kept.
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
        "clusters.json": json.dumps(dict(facts), indent=2, ensure_ascii=False) + "\n",
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
