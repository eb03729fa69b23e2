"""Work in batches over processes that an interrupted run takes up again.

A batch leaves a table of conditions behind when all its files are there; a batch with a table is not done
again. The cut into batches does not depend on the number of processes.
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
from farvox.progress import Note

SETTINGS = "simulate.json"
AUDIO, BATCHES = "audio", "batches"

Row = dict[str, str]
Item = TypeVar("Item")


def in_batches(
    out: Path, function: Callable[[Item], list[Row]], items: Sequence[Item], what: str, note: Note,
    *, size: int, jobs: int | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Conditions of all that ``function`` makes of ``items``, in order.

    Args:
        out: the folder; audio is in it, and the tables of the batches.
        function: writes the files of an item; picklable.
        items: what there is to do.
        what: that is, for people.
        note: is told how far it is.
        size: items a batch.
        jobs: processes; as many as there are processors by default.

    Raises:
        JobError: a process was killed.
    """
    job = Job(what=what, note=note, jobs=jobs, kept=out)
    files = job.run_kept(partial(_table_of_batch, function), cut(items, size), out / BATCHES, ".tsv")
    return pl.concat([read_conditions(path) for path in files])


def finish(out: Path, table: pl.DataFrame, files: Mapping[str, str] | None = None) -> DataDir:
    """Write the data dir of a table whose columns ``file``, ``speaker`` and ``num_samples`` become its lines.

    ``files`` are more files, name to text. The audio lies below ``out``; the tables of the batches stay, so
    that a second run finds all done.
    """
    utterances = [
        Utterance(utt_id, str(out / AUDIO / file), speaker or None, int(num_samples))
        for utt_id, file, speaker, num_samples in table.select(
            "utt_id", "file", "speaker", "num_samples"
        ).iter_rows()
    ]
    conditions = table.drop("file", "speaker", "num_samples")
    return write_data_dir(out, utterances, files={CONDITIONS: conditions_text(conditions), **(files or {})})


def _table_of_batch(function: Callable[[Item], list[Row]], batch: Sequence[Item]) -> bytes:
    rows = [row for item in batch for row in function(item)]
    header = list(rows[0])
    lines = ["\t".join(header), *("\t".join(row[column] for column in header) for row in rows)]
    return "".join(f"{line}\n" for line in lines).encode()


def shown(value: float | None, digits: int) -> str:
    """A measured value; the empty string where there is none."""
    return "" if value is None else f"{value:.{digits}f}"
