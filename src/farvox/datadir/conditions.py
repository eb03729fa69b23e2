"""Conditions of the utterances of a data dir (distance, device, noise ...): `utt2cond`, tab-separated.

The first line names the columns, `utt_id` first; every other line is an utterance and a value for each
column, empty where it is unknown. Utterances without any known value may be absent. Values are strings and
may hold blanks, but neither tabs nor line ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from farvox.datadir.kaldi import DataDir, read_lines
from farvox.errors import DataDirError, UsageError
from farvox.options import nearest

CONDITIONS = "utt2cond"
SOURCE = "source"
"""The column with the utterance that an utterance is a copy of, as `farvox simulate` writes it."""

_FAULTS = {"line": pl.Int64, "what": pl.String}
_MOST_SHOWN = 20


def read_conditions(path: str | Path) -> pl.DataFrame:
    """Read a `utt2cond`: a million lines of eight columns in two or three seconds.

    Args:
        path: the file, or the data dir that holds it.

    Returns:
        One row an utterance, in the order of the file; `utt_id` is the first column, all columns are
        strings, and unknown values are empty.

    Raises:
        DataDirError: no such file, or (``FILE:LINE: what``) a line that does not fit the header or an
            utterance that is there twice.
    """
    file = Path(path)
    file = file / CONDITIONS if file.is_dir() else file
    table, faults = parse_conditions(read_lines(file, strip="\r"))
    if len(faults):
        line, what = faults.row(0)
        raise DataDirError(f"{file}:{line}: {what}")
    return table.drop("line")


def parse_conditions(lines: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Parse the lines of a `utt2cond`: the conditions, and the faults of the lines.

    Returns:
        The rows that fit the header (with a last column `line`, from 1), and the faults: `line`, `what`,
        in the order of the lines.
    """
    header = lines[0].split("\t") if len(lines) else []
    wrong = _fault_of_header(header)
    if wrong:
        table = pl.DataFrame(schema={"utt_id": pl.String, "line": pl.Int64})
        return table, pl.DataFrame({"line": [1], "what": [wrong]}, schema=_FAULTS)
    rows = pl.DataFrame({"text": lines[1:]}).with_columns(line=pl.int_range(2, pl.len() + 2, dtype=pl.Int64))
    text = pl.col("text")
    num_fields = text.str.count_matches("\t", literal=True) + 1
    fits = (num_fields == len(header)) & ~text.str.starts_with("\t") & (text != "")
    shown = text.str.slice(0, 60).str.replace_all("\t", " ", literal=True)
    misfit = (
        pl.when(text == "")
        .then(pl.lit("empty line"))
        .when(text.str.starts_with("\t"))
        .then(pl.lit("no utterance; the line begins with a tab"))
        .otherwise(
            pl.format(f"{{}} fields between tabs, the header has {len(header)}: '{{}}'", num_fields, shown)
        )
    )
    misfits = rows.filter(~fits).select("line", what=misfit)
    rows = rows.filter(fits)
    fields = rows["text"].str.split_exact("\t", len(header) - 1).struct.rename_fields(header).struct.unnest()
    table = fields.with_columns(rows["line"])
    return table, pl.concat([misfits, _given_twice(table)]).sort("line", maintain_order=True)


def conditions_text(table: pl.DataFrame) -> str:
    """Text of a `utt2cond` with these rows, in C order of the utterances.

    Args:
        table: `utt_id` and any further columns of strings; null is written as the empty string.

    Raises:
        DataDirError: a name or a value that no line can hold, or an utterance that is there twice.
    """
    table = table.select("utt_id", pl.exclude("utt_id")).fill_null("").sort("utt_id")
    wrong = _fault_of_header(table.columns)
    if wrong:
        raise DataDirError(f"{CONDITIONS}: {wrong}")
    for column in table.columns:
        bad = table.filter(pl.col(column).str.contains("[\t\r\n]"))
        if len(bad):
            raise DataDirError(
                f"{CONDITIONS}: the {column} of '{bad['utt_id'][0]}' is {bad[column][0]!r}; "
                "a value holds neither tabs nor line ends"
            )
    twice = _given_twice(table.with_row_index("line", 2))
    if len(twice):
        raise DataDirError(f"{CONDITIONS}: {twice['what'][0]}")
    rows = table.select(pl.concat_str(pl.all(), separator="\t")).to_series()
    return "".join(f"{line}\n" for line in ["\t".join(table.columns), *rows.to_list()])


def merge_conditions(tables: Iterable[pl.DataFrame], names: Sequence[str | Path]) -> pl.DataFrame:
    """Join the rows and the columns of several tables; an utterance in several is one row.

    Args:
        tables: as `read_conditions` returns them.
        names: of the tables, for errors.

    Raises:
        DataDirError: two tables give different values for a condition of an utterance.
    """
    named = [table.with_columns(origin=pl.lit(str(name))) for table, name in zip(tables, names, strict=True)]
    rows = pl.concat(named, how="diagonal").with_columns(pl.exclude("origin").replace("", None))
    if rows["utt_id"].n_unique() < len(rows):
        refuse_disagreement(rows, rows.drop("utt_id", "origin").columns)
        rows = rows.group_by("utt_id", maintain_order=True).agg(pl.all().drop_nulls().first())
    return rows.drop("origin").fill_null("")


def refuse_disagreement(rows: pl.DataFrame, columns: Iterable[str], key: str = "utt_id") -> None:
    """Refuse rows of one key with different values, which are not null.

    Args:
        rows: `key`, the columns, and `origin`: the file or folder that a row was read from.
        columns: to compare, in this order.
        key: the column of the key.

    Raises:
        DataDirError: names the key, both values and both origins.
    """
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


def recordings_of(data_dir: DataDir) -> pl.Series:
    """The recording that each utterance of a data dir is, or is a copy of, by the column `SOURCE`.

    The name of a source that utterances of several speakers have (a kind of source, say) is not that of an
    utterance, and counts for nothing.

    Returns:
        The first source of every utterance, or its own id; in the order of the data dir.

    Raises:
        DataDirError: `utt2cond` is malformed.
    """
    utt_ids = data_dir.utt_ids
    table = read_conditions(data_dir.path) if (data_dir.path / CONDITIONS).is_file() else pl.DataFrame()
    if SOURCE not in table.columns:
        return utt_ids
    source_of = dict(table.filter(pl.col(SOURCE) != "").select("utt_id", SOURCE).iter_rows())
    first: dict[str, str] = {}
    for utt_id in source_of:
        name, seen = utt_id, {utt_id}
        while (source := source_of.get(name)) is not None and source not in seen:
            name = source
            seen.add(name)
        first[utt_id] = min(seen) if source is not None else name  # in a circle, the same for all
    found = data_dir.table.select(
        "utt_id", "speaker_id", recording=pl.col("utt_id").replace(first)
    ).with_columns(num_speakers=pl.col("speaker_id").drop_nulls().n_unique().over("recording"))
    return found.select(
        pl.when(pl.col("num_speakers") > 1).then("utt_id").otherwise("recording").alias("recording")
    )["recording"]


def parse_where(words: Iterable[str], flag: str = "--where") -> dict[str, tuple[str, ...]]:
    """Parse conditions of the command line: ``distance=3M,5M`` is a column and the values wanted of it.

    Raises:
        UsageError: a word of another form, or one column in two words.
    """
    where: dict[str, tuple[str, ...]] = {}
    for word in words:
        column, equals, values = word.partition("=")
        if not column or not equals:
            raise UsageError(f"{flag} {word}: expected CONDITION=VALUE or CONDITION=VALUE,VALUE")
        if column in where:
            raise UsageError(f"{flag} {word}: {column} was given before; write {flag} {column}=VALUE,VALUE")
        where[column] = tuple(values.split(","))
    return where


def select_utterances(
    table: pl.DataFrame,
    where: Mapping[str, Sequence[str]],
    path: str | Path,
    utt_ids: pl.Series | None = None,
) -> pl.Series:
    """Select the utterances of which every condition named has one of its values.

    Args:
        table: as `read_conditions` returns it.
        where: condition -> values; the empty string selects utterances without a known value.
        path: of the table, for errors.
        utt_ids: those to choose from, where the table may lack some, of which no value is known.

    Raises:
        DataDirError: no such condition, or a value that no utterance has.
    """
    if utt_ids is not None:
        table = utt_ids.alias("utt_id").to_frame().join(table, on="utt_id", how="left").fill_null("")
    wanted = pl.lit(True)
    for column, values in where.items():
        if column not in table.columns:
            raise DataDirError(f"{path}: has no condition '{column}'; it has {', '.join(table.columns[1:])}")
        known = table[column].unique().sort()
        for value in values:
            if value not in known:
                shown = ", ".join(f"'{each}'" for each in known[:_MOST_SHOWN])
                more = f" and {len(known) - _MOST_SHOWN:,} more" if len(known) > _MOST_SHOWN else ""
                hint = nearest(value, known.to_list()) or f"; there are {shown}{more}"
                raise DataDirError(f"{path}: no utterance has {column} '{value}'{hint}")
        wanted = wanted & pl.col(column).is_in(list(values))
    return table.filter(wanted)["utt_id"]


def _fault_of_header(header: Sequence[str]) -> str:
    """The fault of the first line; empty where there is none."""
    if not header or header[0] != "utt_id":
        found = "\t".join(header)[:80]
        return f"'{found}'; the first line names the columns, utt_id first, with tabs between them"
    if len(header) == 1:
        return "no column but utt_id; the first line names the columns, with tabs between them"
    for column in header:
        if column != column.strip() or not column or any(mark in column for mark in "=\r\n"):
            return f"'{column}' cannot be a column: it is empty, has blanks at its ends, or holds '='"
        if header.count(column) > 1:
            return f"the column '{column}' is there twice"
        if column in ("line", "origin"):
            return f"a column cannot be called '{column}'"
    return ""


def _given_twice(table: pl.DataFrame) -> pl.DataFrame:
    ids = table["utt_id"]
    if len(ids) < 2 or (ids[1:] > ids[:-1]).all():  # sorted: the usual case, and much the faster test
        return pl.DataFrame(schema=_FAULTS)
    again = table.filter(~pl.col("utt_id").is_first_distinct())
    return again.select(pl.col("line").cast(pl.Int64), what=pl.format("'{}' is there twice", "utt_id"))
