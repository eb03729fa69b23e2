"""What is known of each utterance of a data dir beside its speaker: `utt2cond`, tab-separated.

The first line names the columns, `utt_id` first; every other line is an utterance and a value for each
column, empty where it is not known. An utterance of which nothing is known may be absent. Values are
strings and may hold blanks, but neither tabs nor line ends.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from farvox.atomic import write_text
from farvox.datadir.kaldi import read_lines
from farvox.errors import DataDirError, UsageError

CONDITIONS = "utt2cond"

_FAULTS = {"line": pl.Int64, "what": pl.String}
_MOST_SHOWN = 20


def read_conditions(path: str | Path) -> pl.DataFrame:
    """Read a `utt2cond`: a million lines of eight columns in two or three seconds.

    Args:
        path: the file, or the data dir that holds it.

    Returns:
        One row an utterance, in the order of the file; `utt_id` is the first column, all columns are
        strings, and what is not known is the empty string.

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
    """The conditions in the lines of a `utt2cond`, and what is wrong with the lines.

    Returns:
        The rows that fit the header (with a last column `line`, from 1), and the faults: `line`, `what`,
        in the order of the lines.
    """
    header = lines[0].split("\t") if len(lines) else []
    wrong = _fault_of_header(header)
    if wrong:
        return pl.DataFrame(schema={"utt_id": pl.String, "line": pl.Int64}), _fault(1, wrong)
    rows = pl.DataFrame({"text": lines[1:]}).with_columns(line=pl.int_range(2, pl.len() + 2, dtype=pl.Int64))
    num_fields = pl.col("text").str.count_matches("\t", literal=True) + 1
    fits = (num_fields == len(header)) & ~pl.col("text").str.starts_with("\t") & (pl.col("text") != "")
    misfits = rows.filter(~fits).select("line", what=_misfit(num_fields, len(header)))
    rows = rows.filter(fits)
    fields = rows["text"].str.split_exact("\t", len(header) - 1).struct.rename_fields(header).struct.unnest()
    table = fields.with_columns(rows["line"])
    return table, pl.concat([misfits, _given_twice(table)]).sort("line", maintain_order=True)


def conditions_text(table: pl.DataFrame) -> str:
    """The text of a `utt2cond` with these rows, in C order of the utterances.

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


def write_conditions(path: str | Path, table: pl.DataFrame) -> None:
    """Write a `utt2cond`, see `conditions_text`.

    Args:
        path: the file.
        table: as `read_conditions` returns it.
    """
    write_text(path, conditions_text(table))


def merge_conditions(tables: Iterable[pl.DataFrame], names: Sequence[str | Path]) -> pl.DataFrame:
    """All rows of several tables with the columns of all; an utterance in several is one row.

    Args:
        tables: as `read_conditions` returns them.
        names: what an error calls each of them.

    Raises:
        DataDirError: two tables give different values for a condition of an utterance.
    """
    numbered = [table.with_columns(origin=pl.lit(number)) for number, table in enumerate(tables)]
    rows = pl.concat(numbered, how="diagonal").with_columns(pl.exclude("origin").replace("", None))
    if rows["utt_id"].n_unique() < len(rows):
        for column in rows.columns:
            if column not in ("utt_id", "origin"):
                _refuse_dispute(rows, column, names)
        rows = rows.group_by("utt_id", maintain_order=True).agg(pl.all().drop_nulls().first())
    return rows.drop("origin").fill_null("")


def parse_where(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Conditions from the command line: ``distance=3M,5M`` is a column and the values wanted of it.

    Raises:
        UsageError: a word of another form, or one column in two words.
    """
    where: dict[str, tuple[str, ...]] = {}
    for word in words:
        column, equals, values = word.partition("=")
        if not column or not equals:
            raise UsageError(f"--where {word}: expected CONDITION=VALUE or CONDITION=VALUE,VALUE")
        if column in where:
            raise UsageError(f"--where {word}: {column} was given before; write --where {column}=VALUE,VALUE")
        where[column] = tuple(values.split(","))
    return where


def select_utterances(table: pl.DataFrame, where: Mapping[str, Sequence[str]], path: str | Path) -> pl.Series:
    """The utterances of which every condition named has one of its values.

    Args:
        table: as `read_conditions` returns it.
        where: condition -> values; the empty string selects what is not known.
        path: what an error calls the table.

    Raises:
        DataDirError: no such condition, or a value that no utterance has.
    """
    wanted = pl.lit(True)
    for column, values in where.items():
        if column not in table.columns:
            raise DataDirError(f"{path}: has no condition '{column}'; it has {', '.join(table.columns[1:])}")
        known = table[column].unique().sort()
        for value in values:
            if value not in known:
                raise DataDirError(f"{path}: no utterance has {column} '{value}'{_known(value, known)}")
        wanted = wanted & pl.col(column).is_in(list(values))
    return table.filter(wanted)["utt_id"]


def _fault(line: int, what: str) -> pl.DataFrame:
    return pl.DataFrame({"line": [line], "what": [what]}, schema=_FAULTS)


def _fault_of_header(header: Sequence[str]) -> str:
    """What is wrong with the first line; empty where nothing is."""
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


def _misfit(num_fields: pl.Expr, expected: int) -> pl.Expr:
    text = pl.col("text")
    shown = text.str.slice(0, 60).str.replace_all("\t", " ", literal=True)
    return (
        pl.when(text == "")
        .then(pl.lit("empty line"))
        .when(text.str.starts_with("\t"))
        .then(pl.lit("no utterance; the line begins with a tab"))
        .otherwise(
            pl.format(f"{{}} fields between tabs, the header has {expected}: '{{}}'", num_fields, shown)
        )
    )


def _given_twice(table: pl.DataFrame) -> pl.DataFrame:
    ids = table["utt_id"]
    if len(ids) < 2 or (ids[1:] > ids[:-1]).all():  # sorted: the usual case, and much the faster test
        return pl.DataFrame(schema=_FAULTS)
    again = table.filter(~pl.col("utt_id").is_first_distinct())
    return again.select(pl.col("line").cast(pl.Int64), what=pl.format("'{}' is there twice", "utt_id"))


def _refuse_dispute(rows: pl.DataFrame, column: str, names: Sequence[str | Path]) -> None:
    known = rows.filter(pl.col(column).is_not_null())
    variants = known.group_by("utt_id", maintain_order=True).agg(pl.col(column).n_unique())
    disputed = variants.filter(pl.col(column) > 1)["utt_id"]
    if len(disputed):
        rivals = known.filter(pl.col("utt_id") == disputed[0]).unique(column, maintain_order=True)
        (here, one), (there, other) = rivals.select("origin", column).rows()[:2]
        raise DataDirError(
            f"'{disputed[0]}' has the {column} '{one}' in {names[here]} and '{other}' in {names[there]}; "
            "rename it in one of them, or leave one of them out"
        )


def _known(value: str, known: pl.Series) -> str:
    near = difflib.get_close_matches(value, known.to_list(), n=1)
    if near:
        return f" (did you mean '{near[0]}'?)"
    shown = ", ".join(f"'{each}'" for each in known[:_MOST_SHOWN])
    more = f" and {len(known) - _MOST_SHOWN:,} more" if len(known) > _MOST_SHOWN else ""
    return f"; there are {shown}{more}"
