"""Work in batches over processes that an interrupted run takes up again.

A batch leaves a table of conditions behind when all its files are there; a batch with a table is not done
again. The cut into batches does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import polars as pl

from farvox.atomic import refuse_to_replace_foreign, write_json, write_text
from farvox.corpora.parts import Note, Progress
from farvox.datadir.conditions import CONDITIONS, conditions_text, read_conditions
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import CorpusError
from farvox.jobs import in_processes

CLAIM = "simulate.json"  # in the folder: what it was begun with
AUDIO, BATCHES = "audio", "batches"

Row = dict[str, str]
Item = TypeVar("Item")


def claim(out: Path, settings: Mapping[str, object]) -> None:
    """Begin a folder, or find that it was begun with the same settings.

    Raises:
        CorpusError: it was begun with others.
        FarvoxError: it holds other things.
    """
    import json

    refuse_to_replace_foreign(out, (CLAIM,))
    told = json.loads(json.dumps(settings))
    if not (out / CLAIM).exists():
        write_json(out / CLAIM, told)
        return
    try:
        before = json.loads((out / CLAIM).read_text("utf-8"))
    except ValueError:
        before = {}
    other = [key for key in told if before.get(key) != told[key]]
    if other:
        raise CorpusError(
            f"{out}: was begun with other settings ({', '.join(other)}); "
            "choose another name, or remove the folder to begin again"
        )


def digest(lines: Iterable[str]) -> str:
    """What stands for many lines in a claim."""
    found = sha256()
    for line in lines:
        found.update(f"{line}\n".encode())
    return found.hexdigest()


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
        CorpusError: a process was killed.
    """
    batches = [
        (out / BATCHES / f"{start:09d}.tsv", items[start : start + size])
        for start in range(0, len(items), size)
    ]
    todo = [batch for batch in batches if not batch[0].exists()]
    progress = Progress(what, len(items), note, done=len(items) - sum(len(batch[1]) for batch in todo))
    for done in in_processes(partial(_do_batch, function), todo, jobs, str(out)):
        progress.advance(done)
    return pl.concat([read_conditions(path) for path, _ in batches])


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


def _do_batch(function: Callable[[Item], list[Row]], batch: tuple[Path, Sequence[Item]]) -> int:
    path, items = batch
    rows = [row for item in items for row in function(item)]
    header = list(rows[0])
    lines = ["\t".join(header), *("\t".join(row[column] for column in header) for row in rows)]
    write_text(path, "".join(f"{line}\n" for line in lines))
    return len(items)


def shown(value: float | None, digits: int) -> str:
    """A measured value; the empty string where there is none."""
    return "" if value is None else f"{value:.{digits}f}"
