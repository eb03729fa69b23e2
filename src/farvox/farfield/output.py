"""Audio that is made in batches and becomes a data dir.

A batch leaves a table of conditions behind when all its files are there; a batch with a table is not done
again by a run that goes on (`farvox.jobs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import polars as pl

from farvox.datadir.conditions import CONDITIONS, conditions_text, read_conditions
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.jobs import Job, cut

SETTINGS = "simulate.json"  # of the settings that the folder was begun with
AUDIO, BATCHES = "audio", "batches"

Row = dict[str, str]
"""An utterance: its `utt_id`, `file` below the audio folder, `speaker`, `num_samples` and conditions."""
Item = TypeVar("Item")


def run_batches(
    job: Job, function: Callable[[Item], list[Row]], items: Sequence[Item], out: Path, *, size: int
) -> pl.DataFrame:
    """Table of all rows that a function gives for ``items``, in order.

    Args:
        job: names the work and its workers.
        function: writes the files of an item, and gives a row a file; picklable.
        items: all there are.
        out: the folder; audio is in it, and the tables of the batches.
        size: items a batch.

    Raises:
        JobError: a process was killed.
    """
    files = job.run_kept(partial(_table_text, function), cut(items, size), out / BATCHES, ".tsv")
    return pl.concat([read_conditions(path) for path in files])


def _table_text(function: Callable[[Item], list[Row]], batch: Sequence[Item]) -> bytes:
    rows = [row for item in batch for row in function(item)]
    header = list(rows[0])
    lines = ["\t".join(header), *("\t".join(row[column] for column in header) for row in rows)]
    return "".join(f"{line}\n" for line in lines).encode()


def write_output(out: Path, table: pl.DataFrame, files: Mapping[str, str] | None = None) -> DataDir:
    """Write the data dir of a table of rows, with further ``files`` (name to text).

    The tables of the batches stay, so that a second run finds all done.
    """
    utterances = [
        Utterance(utt_id, str(out / AUDIO / file), speaker or None, int(num_samples))
        for utt_id, file, speaker, num_samples in table.select(
            "utt_id", "file", "speaker", "num_samples"
        ).iter_rows()
    ]
    conditions = table.drop("file", "speaker", "num_samples")
    return write_data_dir(out, utterances, files={CONDITIONS: conditions_text(conditions), **(files or {})})


def text_of(value: float | None, digits: int) -> str:
    """A measured value; the empty string where there is none."""
    return "" if value is None else f"{value:.{digits}f}"
