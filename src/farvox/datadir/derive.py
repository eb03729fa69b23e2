"""New data dirs out of others: several as one, or a part of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from farvox.datadir.conditions import (
    CONDITIONS,
    conditions_text,
    merge_conditions,
    read_conditions,
    select_utterances,
)
from farvox.datadir.kaldi import CORE_FILES, DataDir, read_lines, write_data_dir
from farvox.errors import DataDirError
from farvox.rng import rng_for


def combine(out: str | Path, dirs: Sequence[str | Path]) -> DataDir:
    """Write the utterances of several data dirs as one (the homework's ``ftmix``).

    An utterance that is in several dirs with the same audio file and speaker is taken once. Lengths are
    written when every dir has them. Conditions (``utt2cond``) have the columns of all dirs, and are empty
    where a dir does not say. Any further ``utt2*`` or ``spk2*`` file (ages, say) that every dir has is
    carried over, with its header line if it has one.

    Args:
        out: the data dir to write; it may be one of ``dirs``.
        dirs: the data dirs to read.

    Raises:
        DataDirError: an utterance is another one in another dir, or only some dirs know their speakers.
    """
    opened = [DataDir.open(path) for path in dirs]
    if not opened:
        raise DataDirError(f"{out}: there is nothing to combine; name at least one data dir")
    _refuse_half_known_speakers(opened)
    parts = [part.table.with_columns(origin=pl.lit(str(part.path))) for part in opened]
    table = _merged(pl.concat(parts), ("wav_path", "speaker_id", "num_samples"), "utt_id")
    shared = set.intersection(*(names_of_further_files(part) for part in opened))
    files = {name: _merged_file([FurtherFile.read(part, name) for part in opened]).text() for name in shared}
    files |= _merged_conditions(opened)
    return write_data_dir(out, table.drop("origin"), files=files)


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

    Further ``utt2*`` and ``spk2*`` files are carried over for what stays.

    Args:
        path: the data dir to read.
        out: the data dir to write; another one than ``path``.
        speakers: ``FIRST-LAST``, which counts the speakers in C order from 1 and includes both, or a file
            whose lines begin with a speaker.
        utterances: a file whose lines begin with an utterance.
        where: a condition of ``utt2cond`` -> the values of it that are kept.
        per_speaker: keep that many utterances of each speaker, drawn at random (all, where there are fewer).
        seed: of that draw.

    Raises:
        DataDirError: an unknown speaker or utterance, a range that leaves the speakers there are,
            an unknown
            condition or value, nothing stays, or ``out`` is ``path``.
    """
    source = DataDir.open(path)
    if Path(out).resolve() == Path(path).resolve():
        raise DataDirError(f"{out}: is the data dir itself, which would lose the others; choose another OUT")
    table = source.table
    if (speakers is not None or per_speaker is not None) and source.speaker_ids.null_count():
        raise DataDirError(f"{path}: has neither utt2spk nor spk2utt, so speakers cannot be chosen")
    if speakers is not None:
        table = table.filter(pl.col("speaker_id").is_in(_chosen_speakers(source, speakers).implode()))
    if utterances is not None:
        table = table.filter(
            pl.col("utt_id").is_in(_named(utterances, source.utt_ids, source.path).implode())
        )
    conditions = read_conditions(source.path) if (source.path / CONDITIONS).is_file() else None
    if where:
        table = table.filter(pl.col("utt_id").is_in(_meeting(where, source.path, conditions).implode()))
    if per_speaker is not None:
        table = _draw_per_speaker(table, per_speaker, seed)
    if table.is_empty():
        raise DataDirError(f"{path}: no utterance meets all conditions; nothing was written")
    return write_data_dir(out, table, files=further_texts(source, table, conditions))


def further_texts(
    source: DataDir, table: pl.DataFrame, conditions: pl.DataFrame | None = None
) -> dict[str, str]:
    """Name -> text of the ``utt2*`` and ``spk2*`` files for the part of a data dir that stays.

    Args:
        source: the data dir.
        table: the utterances that stay, with `utt_id` and `speaker_id`.
        conditions: those of ``source``, where they were read already.
    """
    further = {name: FurtherFile.read(source, name) for name in names_of_further_files(source)}
    files = {name: _cut_file(file, keys_of(table, name)).text() for name, file in further.items()}
    if conditions is None and (source.path / CONDITIONS).is_file():
        conditions = read_conditions(source.path)
    if conditions is not None:
        files[CONDITIONS] = conditions_text(
            conditions.filter(pl.col("utt_id").is_in(table["utt_id"].implode()))
        )
    return files


def _merged_conditions(opened: Sequence[DataDir]) -> dict[str, str]:
    """The file of conditions of several data dirs, if any of them has one."""
    paths = [part.path / CONDITIONS for part in opened if (part.path / CONDITIONS).is_file()]
    if not paths:
        return {}
    return {CONDITIONS: conditions_text(merge_conditions(map(read_conditions, paths), paths))}


def _meeting(where: Mapping[str, Sequence[str]], path: Path, conditions: pl.DataFrame | None) -> pl.Series:
    if conditions is None:
        raise DataDirError(
            f"{path}: has no {CONDITIONS}, so --where cannot be answered; "
            "'farvox prepare' writes one for the corpora whose names tell the conditions"
        )
    return select_utterances(conditions, where, path / CONDITIONS)


def _refuse_half_known_speakers(opened: Sequence[DataDir]) -> None:
    known = [part.speaker_ids.null_count() == 0 for part in opened]
    if any(known) and not all(known):
        have, have_not = opened[known.index(True)].path, opened[known.index(False)].path
        raise DataDirError(
            f"{have_not}: has no speakers (neither utt2spk nor spk2utt), but {have} has; "
            "give it a utt2spk, or combine only dirs of one kind"
        )


def _merged(rows: pl.DataFrame, columns: Iterable[str], key: str) -> pl.DataFrame:
    """Each key once, or an error that names the two origins that disagree about it."""
    if rows[key].n_unique() == len(rows):
        return rows
    for column in columns:
        known = rows.filter(pl.col(column).is_not_null())
        variants = known.group_by(key, maintain_order=True).agg(pl.col(column).n_unique())
        disputed = variants.filter(pl.col(column) > 1)[key]
        if len(disputed):
            rivals = known.filter(pl.col(key) == disputed[0]).unique(column, maintain_order=True)
            (here, one), (there, other) = rivals.select("origin", column).rows()[:2]
            raise DataDirError(
                f"'{disputed[0]}' has the {column} '{one}' in {here} and '{other}' in {there}; "
                "rename it in one of them, or leave one of them out"
            )
    return rows.unique(key, keep="first", maintain_order=True)


def _chosen_speakers(source: DataDir, speakers: str) -> pl.Series:
    known = source.speaker_ids.unique().sort()
    bounds = re.fullmatch(r"(\d+)-(\d+)", speakers)
    if bounds is None or Path(speakers).is_file():
        return _named(speakers, known, source.path)
    first, last = int(bounds[1]), int(bounds[2])
    if not 1 <= first <= last <= len(known):
        raise DataDirError(
            f"--speakers {speakers}: {source.path} has speakers 1-{len(known)}; FIRST-LAST counts them from 1"
        )
    return known[first - 1 : last]


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


def _draw_per_speaker(table: pl.DataFrame, per_speaker: int, seed: int) -> pl.DataFrame:
    if per_speaker < 1:
        raise DataDirError(f"--per-speaker {per_speaker}: at least 1 is needed")
    drawn = table.sort("utt_id").with_columns(draw=pl.lit(pl.Series(rng_for(seed, 0, 0).random(len(table)))))
    place = pl.col("draw").rank("ordinal").over("speaker_id")
    return drawn.filter(place <= per_speaker).drop("draw")


@dataclass(frozen=True)
class FurtherFile:
    """A file beside the core ones that says something of each utterance (``utt2*``) or speaker (``spk2*``).

    Attributes:
        path: where it was read.
        header: its first line, if that is one: fields between tabs, the first no utterance or speaker.
        rows: `key` (utterance or speaker), `line` (as it was), `origin` (the file).
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
        """What to write: the header, then the lines in C order."""
        lines = self.rows.sort("key", maintain_order=True)["line"].to_list()
        return "".join(f"{line}\n" for line in ([] if self.header is None else [self.header]) + lines)


def names_of_further_files(part: DataDir) -> set[str]:
    """The files that say something more of each utterance or speaker, but for its conditions."""
    files = (*part.path.glob("utt2*"), *part.path.glob("spk2*"))
    return {file.name for file in files if file.is_file()} - {*CORE_FILES, CONDITIONS}


def keys_of(table: pl.DataFrame, name: str) -> pl.Series:
    """The utterances or the speakers of a data dir, whichever a file of that name is about."""
    return table["utt_id" if name.startswith("utt2") else "speaker_id"]


def _merged_file(files: Sequence[FurtherFile]) -> FurtherFile:
    first = files[0]
    for file in files[1:]:
        if file.header != first.header:
            raise DataDirError(
                f"{file.path}:1: header '{file.header}', but '{first.header}' in {first.path}; "
                "give both the same columns, or remove one of the files"
            )
    rows = pl.concat([file.rows for file in files])
    return replace(first, rows=_merged(rows, ("line",), "key"))


def _cut_file(file: FurtherFile, keys: pl.Series) -> FurtherFile:
    return replace(file, rows=file.rows.filter(file.rows["key"].is_in(keys.implode())))
