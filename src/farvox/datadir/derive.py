"""New data dirs out of others: several as one, a part of one, or new audio that is made in batches.

A batch leaves a table of conditions behind when all its files are there; a batch with a table is not done
again by a run that goes on (`farvox.jobs`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import polars as pl

from farvox.atomic import visible
from farvox.audio.remote import is_remote
from farvox.audio.shards import fingerprint
from farvox.datadir.conditions import (
    CONDITIONS,
    conditions_text,
    merge_conditions,
    read_conditions,
    refuse_disagreement,
    select_utterances,
)
from farvox.datadir.kaldi import (
    CHECKED,
    CORE_FILES,
    MADE_BY,
    DataDir,
    Utterance,
    read_lines,
    refuse_other_data_dir,
    write_data_dir,
)
from farvox.errors import AudioError, DataDirError, UnreachableError
from farvox.jobs import REJECTED, Job, Rejected, cut, rejected_of, report_rejected
from farvox.rng import rng_for
from farvox.writers import writes

SETTINGS = "simulate.json"  # of the settings that the folder was begun with
AUDIO, BATCHES = "audio", "batches"
Row = dict[str, str]
"""An utterance: its `utt_id`, `file` below the audio folder, `speaker`, `num_samples` and conditions."""
Item = TypeVar("Item")


@writes("out")
def combine(out: str | Path, dirs: Sequence[str | Path]) -> DataDir:
    """Write the utterances of several data dirs as one (the homework's ``ftmix``).

    An utterance that is in several dirs with the same audio file and speaker is taken once. Lengths are
    written when every dir has them. Conditions (``utt2cond``) have the columns of all dirs, and are empty
    where a dir has no value. Any further ``utt2*`` or ``spk2*`` file (ages, say) that every dir has is
    carried over, with its header line if it has one.

    Args:
        out: the data dir to write.
        dirs: the data dirs to read.

    Raises:
        DataDirError: an utterance differs between two dirs, only some dirs have speakers, or ``out`` holds
            another data dir or is one of ``dirs``.
    """
    opened = [DataDir.open(path, remote=True) for path in dirs]
    if not opened:
        raise DataDirError(f"{out}: there is nothing to combine; name at least one data dir")
    known = [part.speaker_ids.null_count() == 0 for part in opened]
    if any(known) and not all(known):
        have, have_not = opened[known.index(True)].path, opened[known.index(False)].path
        raise DataDirError(
            f"{have_not}: has no speakers (neither utt2spk nor spk2utt), but {have} has; "
            "give it a utt2spk, or combine only dirs of one kind"
        )
    parts = [part.table.with_columns(origin=pl.lit(str(part.path))) for part in opened]
    table = _merged(pl.concat(parts), ("wav_path", "speaker_id", "num_samples"), "utt_id")
    files = {}
    for name in set.intersection(*(names_of_further_files(part) for part in opened)):
        first, *others = (FurtherFile.read(part, name) for part in opened)
        for file in others:
            if file.header != first.header:
                raise DataDirError(
                    f"{file.path}:1: header '{file.header}', but '{first.header}' in {first.path}; "
                    "give both the same columns, or remove one of the files"
                )
        rows = pl.concat([file.rows for file in (first, *others)])
        if name == CHECKED:  # an older check of the same audio contradicts nothing
            rows = rows.unique("key", keep="last", maintain_order=True)
        files[name] = replace(first, rows=_merged(rows, ("line",), "key")).text()
    paths = [part.path / CONDITIONS for part in opened if (part.path / CONDITIONS).is_file()]
    if paths:
        files[CONDITIONS] = conditions_text(merge_conditions(map(read_conditions, paths), paths))
    return _write_derived(out, "combine", dirs, table.drop("origin"), files)


@writes("out")
def subset(
    path: str | Path,
    out: str | Path,
    *,
    speakers: str | None = None,
    utterances: str | Path | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
    per_speaker: int | None = None,
    seed: int = 0,
) -> DataDir:
    """Write a part of a data dir; every condition given must hold.

    Further ``utt2*`` and ``spk2*`` files are carried over for the utterances that are kept.

    Args:
        path: the data dir to read.
        out: the data dir to write; another one than ``path``.
        speakers: ``FIRST-LAST`` or one number, which count the speakers in C order from 1, both included, or
            a file whose lines begin with a speaker.
        utterances: a file whose lines begin with an utterance.
        where: a condition of ``utt2cond`` -> the values of it that are kept.
        per_speaker: keep that many utterances of each speaker, drawn at random (all, where there are fewer).
        seed: of that draw.

    Raises:
        DataDirError: an unknown speaker, utterance, condition or value, a range beyond the speakers, no
            utterance left, or ``out`` is ``path`` or holds another data dir.
    """
    source = DataDir.open(path, remote=True)
    table = source.table
    if (speakers is not None or per_speaker is not None) and source.speaker_ids.null_count():
        raise DataDirError(f"{path}: has neither utt2spk nor spk2utt, so speakers cannot be chosen")
    if speakers is not None:
        known = source.speaker_ids.unique().sort()
        bounds = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", speakers)
        if bounds is None or Path(speakers).is_file():
            chosen = _named(speakers, known, source.path)
        else:
            first, last = int(bounds[1]), int(bounds[2] or bounds[1])
            if not 1 <= first <= last <= len(known):
                raise DataDirError(
                    f"--speakers {speakers}: {source.path} has speakers 1-{len(known)}; "
                    "FIRST-LAST counts them from 1"
                )
            chosen = known[first - 1 : last]
        table = table.filter(pl.col("speaker_id").is_in(chosen.implode()))
    if utterances is not None:
        chosen = _named(utterances, source.utt_ids, source.path)
        table = table.filter(pl.col("utt_id").is_in(chosen.implode()))
    conditions = read_conditions(source.path) if (source.path / CONDITIONS).is_file() else None
    if where:
        if conditions is None:
            raise DataDirError(
                f"{source.path}: has no {CONDITIONS}, so --where cannot be answered; "
                "'farvox prepare' writes one for the corpora whose file names hold the conditions"
            )
        chosen = select_utterances(conditions, where, source.path / CONDITIONS, source.utt_ids)
        table = table.filter(pl.col("utt_id").is_in(chosen.implode()))
    if per_speaker is not None:
        if per_speaker < 1:
            raise DataDirError(f"--per-speaker {per_speaker}: at least 1 is needed")
        draw = pl.Series(rng_for(seed, 0, 0).random(len(table)))
        place = pl.col("draw").rank("ordinal").over("speaker_id")
        table = table.sort("utt_id").with_columns(draw=draw).filter(place <= per_speaker).drop("draw")
    if table.is_empty():
        raise DataDirError(f"{path}: no utterance meets all conditions; nothing was written")
    return _write_derived(out, "subset", [path], table, further_texts(source, table, conditions))


def _write_derived(
    out: str | Path, verb: str, inputs: Sequence[str | Path], table: pl.DataFrame, files: Mapping[str, str]
) -> DataDir:
    """Write a data dir with its record; over one without a record only where that is the same already."""

    def is_same(there: DataDir) -> bool:
        names = names_of_further_files(there) | {path.name for path in visible(there.path, CONDITIONS)}
        lengths = pl.when(pl.col("num_samples").is_null().any()).then(None).otherwise("num_samples")
        new = table.with_columns(num_samples=lengths).select(there.table.columns).sort("utt_id")
        texts = {name: (there.path / name).read_bytes() for name in names}
        return there.table.equals(new) and texts == {name: text.encode() for name, text in files.items()}

    record = refuse_other_data_dir(out, verb, inputs, unless=is_same)
    return write_data_dir(out, table, files={**files, MADE_BY: record})


def further_texts(
    source: DataDir, table: pl.DataFrame, conditions: pl.DataFrame | None = None
) -> dict[str, str]:
    """Cut the ``utt2*`` and ``spk2*`` files of a data dir to a part of its utterances: name -> text.

    Args:
        source: the data dir.
        table: the utterances to keep, with `utt_id` and `speaker_id`.
        conditions: those of ``source``, where they were read already.
    """
    files = {}
    for name in names_of_further_files(source):
        file = FurtherFile.read(source, name)
        rows = file.rows.filter(file.rows["key"].is_in(keys_of(table, name).implode()))
        files[name] = replace(file, rows=rows).text()
    if conditions is None and (source.path / CONDITIONS).is_file():
        conditions = read_conditions(source.path)
    if conditions is not None:
        kept = conditions.filter(pl.col("utt_id").is_in(table["utt_id"].implode()))
        files[CONDITIONS] = conditions_text(kept)
    return files


@dataclass(frozen=True)
class FurtherFile:
    """A file beside the core ones with a line for each utterance (``utt2*``) or speaker (``spk2*``).

    Attributes:
        path: of the file.
        header: its first line, if that is one: fields between tabs, the first no utterance or speaker.
        rows: `key` (utterance or speaker), `line` (unchanged), `origin` (the file).
    """

    path: Path
    header: str | None
    rows: pl.DataFrame

    @classmethod
    def read(cls, part: DataDir, name: str) -> FurtherFile:
        """Read the file ``name`` of a data dir; lines of other utterances or speakers are left out."""
        path = part.path / name
        lines = read_lines(path, strip="\r").alias("line")
        keys = lines.str.extract(r"^[ \t]*([^ \t]+)")
        is_of_part = keys.is_in(keys_of(part.table, name).implode()).fill_null(False)
        has_header = len(lines) > 0 and not is_of_part[0] and "\t" in lines[0]
        rows = pl.DataFrame(lines).with_columns(key=keys, origin=pl.lit(str(path))).filter(is_of_part)
        return cls(path, lines[0] if has_header else None, rows)

    def text(self) -> str:
        """Text of the file: the header, then the lines in C order."""
        lines = self.rows.sort("key", maintain_order=True)["line"].to_list()
        return "".join(f"{line}\n" for line in ([] if self.header is None else [self.header]) + lines)


def names_of_further_files(part: DataDir) -> set[str]:
    """Names of the files with more about each utterance or speaker, except the conditions."""
    files = (*visible(part.path, "utt2*"), *visible(part.path, "spk2*"))
    return {file.name for file in files if file.is_file()} - {*CORE_FILES, CONDITIONS}


def keys_of(table: pl.DataFrame, name: str) -> pl.Series:
    """The utterances or the speakers of a data dir, whichever a file of that name is about."""
    return table["utt_id" if name.startswith("utt2") else "speaker_id"]


def refuse_among_recordings(out: Path, data_dir: DataDir | None, folders: Iterable[str | Path] = ()) -> None:
    """Refuse to write audio where it would be read as further recordings of what it is made from.

    Args:
        out: the folder to write.
        data_dir: the source, if it is one. Where recordings of several speakers lie in folders of theirs,
            ``farvox prepare folder`` reads these and those beside them.
        folders: also read, as data dirs or as folders of audio files.

    Raises:
        DataDirError: ``out`` lies in such a folder.
    """
    read = {str(each) for each in folders if not (Path(each) / "wav.scp").exists()}
    speakers: dict[str, str] = {}  # folder -> a speaker with a folder in it
    spoken = data_dir.table.select("wav_path", "speaker_id").iter_rows() if data_dir else ()
    for path, speaker_id in spoken:
        above, found, _ = os.path.dirname(path + os.sep).rpartition(f"{os.sep}{speaker_id}{os.sep}")
        if found and not is_remote(path) and speakers.setdefault(above, speaker_id) != speaker_id:
            read.add(above or os.sep)
    for folder in sorted(read):
        if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(folder)):
            raise DataDirError(
                f"{out}: lies among the recordings of {folder}, and would be read as more of them; choose an "
                "OUT outside of it"
            )


def run_batches(
    job: Job,
    function: Callable[[Item], list[Row]],
    items: Sequence[Item],
    out: Path,
    *,
    size: int,
    inputs: Callable[[Item], Iterable[str]] | None = None,
    shared: Iterable[str] = (),
    name: Callable[[Item], str] | None = None,
    skip_bad: bool = False,
) -> pl.DataFrame:
    """Table of all rows that a function gives for ``items``, in order.

    Args:
        job: names the work and its workers.
        function: writes the files of an item, and gives a row a file; picklable.
        items: all there are.
        out: the folder; audio is in it, and the tables of the batches.
        size: items a batch.
        inputs: gives the audio files that an item is made from; picklable.
        shared: audio files that any item may be made from.
        name: gives the utterance of an item; one whose audio cannot be used does not end the work, but is
            listed in ``out/rejected.tsv``; picklable.
        skip_bad: leave such utterances out.

    Raises:
        AudioError: the audio of an item cannot be used, and it has no name or is not to be left out.
        JobError: a process was killed.
    """
    work = partial(_table_text, function, name)
    files = job.run_kept(
        work,
        cut(items, size),
        out / BATCHES,
        ".tsv",
        inputs=partial(_fingerprint, inputs, fingerprint(shared)),
        outputs=partial(_files_of, out / AUDIO),
    )
    if name is not None:
        total = len(set(map(name, items)))
        report_rejected(
            out / REJECTED, rejected_of(files), total, what="used", skip_bad=skip_bad, note=job.note
        )
    return pl.concat([read_conditions(path) for path in files if path.stat().st_size])


def _fingerprint(inputs: Callable[[Item], Iterable[str]] | None, shared: str, batch: Sequence[Item]) -> str:
    return shared + fingerprint(path for item in batch for path in (inputs(item) if inputs else ()))


def _files_of(folder: Path, _: Sequence[Item], table: bytes) -> list[Path]:
    """The files that a table names below ``folder``; others (measured responses, URLs) are the user's own."""
    header, *rows = [line.split("\t") for line in table.decode().splitlines()] or [["file"]]
    column = header.index("file")
    names = [row[column] for row in rows]
    is_outside = re.compile(r"/|\.\./|.*/\.\.(/|$)|.*://")
    return [folder / name for name in names if name and not is_outside.match(name)]


def _table_text(
    function: Callable[[Item], list[Row]], name: Callable[[Item], str] | None, batch: Sequence[Item]
) -> tuple[bytes, Rejected]:
    rows: list[Row] = []
    rejected = {}
    for item in batch:
        try:
            rows += function(item)
        except UnreachableError:  # the recording may be as good as any
            raise
        except AudioError as error:
            if name is None:
                raise
            rejected[name(item)] = str(error)
    header = list(rows[0]) if rows else []
    lines = ["\t".join(header), *("\t".join(row[column] for column in header) for row in rows)]
    return "".join(f"{line}\n" for line in lines if rows).encode(), rejected


def write_output(out: Path, table: pl.DataFrame, files: Mapping[str, str] | None = None) -> DataDir:
    """Write the data dir of a table of rows, with further ``files`` (name to text).

    The tables of the batches stay, so that a second run finds all done.
    """
    utterances = [
        Utterance(
            utt_id,
            file if is_remote(file) else str(out / AUDIO / file),
            speaker or None,
            int(num_samples),
        )
        for utt_id, file, speaker, num_samples in table.select(
            "utt_id", "file", "speaker", "num_samples"
        ).iter_rows()
    ]
    conditions = table.drop("file", "speaker", "num_samples")
    return write_data_dir(out, utterances, files={CONDITIONS: conditions_text(conditions), **(files or {})})


def text_of(value: float | None, digits: int) -> str:
    """A measured value; the empty string where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def _merged(rows: pl.DataFrame, columns: Iterable[str], key: str) -> pl.DataFrame:
    """Each key once; an error where two origins disagree about it."""
    if rows[key].n_unique() == len(rows):
        return rows
    refuse_disagreement(rows, columns, key)
    return rows.unique(key, keep="first", maintain_order=True)


def _named(path: str | Path, known: pl.Series, source: Path) -> pl.Series:
    """The first fields of the lines of ``path``, all of them among ``known``."""
    names = read_lines(path).str.extract(r"^([^ \t]+)").alias("name")
    bad = (~names.is_in(known.implode())).fill_null(True).arg_true()
    if len(bad):
        line = int(bad[0])
        kind = "speaker" if known.name == "speaker_id" else "utterance"
        what = "empty line" if names[line] is None else f"{source} has no {kind} '{names[line]}'"
        raise DataDirError(f"{path}:{line + 1}: {what}")
    return names
