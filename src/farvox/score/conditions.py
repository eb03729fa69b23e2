"""The conditions of trials: what is known of each side, of both together, and bins of what is measured.

A condition is a column of `utt2cond` or of another table, or follows from the files of a data dir: the
duration and the estimated SNR of an utterance, the gender of its speaker. Before its name, ``enrol.`` asks
for the enrolment side instead of the test side, ``same.`` for whether both sides have the same value, and
``gap.`` for how far apart both are, in numbers or, of dates, in days.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.datadir.conditions import CONDITIONS, merge_conditions, read_conditions
from farvox.datadir.embeddings import MEASURES_FILE, QUALITY_FILE
from farvox.datadir.kaldi import DataDir, read_lines, read_table
from farvox.errors import DataDirError, TrialError, UsageError
from farvox.options import nearest
from farvox.score.columns import stems_of
from farvox.score.lists import PathLike, Side, values_of_side
from farvox.score.sides import SideMap
from farvox.score.trials import ResolvedTrials, TrialList

SIDES = ("enrol.", "same.", "gap.")
MOST_VALUES = 10
"""A measurement of more values than these is put in bins."""
UNITS = {"duration": "s", "speech": "s", "t60": "s", "snr": "dB", "drr": "dB", "decay": "dB", "distance": "m"}
"""Units of the numbers that farvox itself writes."""
VISITS = {"F": "1", "S": "2", "T": "3"}
"""The visits in FFSVC2020's names, so that they have a gap."""
SAMPLE_RATE = 16_000
_NUMBER = r"^([-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?) ?([A-Za-z%]*)$"  # 03 is a name


class Known(NamedTuple):
    """Conditions of utterances and of trials.

    Attributes:
        utterances: `utt_id`, and a column of strings for each condition, empty where unknown.
        trials: `enrol` and `test`, and likewise.
    """

    utterances: pl.DataFrame
    trials: pl.DataFrame


def read_known(sources: Sequence[PathLike]) -> Known:
    """Read the conditions that some sources have.

    Args:
        sources: data dirs; folders of embeddings, for what ``farvox extract --quality`` measured; `utt2cond`
            files; tables of that form whose first columns are ``enrol`` and ``test``.

    Raises:
        DataDirError: a source cannot be read, or two disagree.
    """
    tables, derived, of_trials = [], [], []
    ids = [pl.Series("utt_id", [], pl.String)]
    for source in map(Path, sources):
        if not source.is_dir():
            lines = read_lines(source, strip="\r")
            if len(lines) and lines[0].split("\t")[:2] == ["enrol", "test"]:
                of_trials.append((source, _read_pairs(source, lines)))
            else:
                tables.append((source, read_conditions(source)))
            continue
        if (source / CONDITIONS).is_file():
            tables.append((source, read_conditions(source)))
        if (source / QUALITY_FILE).is_file():
            derived.append((source, read_table(source / QUALITY_FILE, ("utt_id", "snr"))))
        if (source / MEASURES_FILE).is_file():
            derived.append((source, read_conditions(source / MEASURES_FILE)))
        if (source / "utt_ids.txt").is_file() and not (source / "wav.scp").exists():
            continue  # embeddings
        data_dir = DataDir.open(source, remote=True)
        ids.append(data_dir.utt_ids)
        derived += [(source, table) for table in _derived(data_dir)]
    known, found = (
        merge_conditions([table for _, table in pairs], [path for path, _ in pairs])
        if pairs
        else pl.DataFrame(schema={"utt_id": pl.String})
        for pairs in (tables, derived)
    )
    found = found.select("utt_id", pl.exclude("utt_id", *known.columns))
    every = pl.concat([known["utt_id"], found["utt_id"], *ids]).unique(maintain_order=True)
    table = pl.DataFrame({"utt_id": every})
    for each in (known, found):
        table = table.join(each, on="utt_id", how="left", maintain_order="left")
    pairs = pl.DataFrame(schema={"enrol": pl.String, "test": pl.String})
    for path, each in of_trials:
        again = sorted(set(each.columns[2:]) & {*pairs.columns, *table.columns})
        if again:
            raise DataDirError(f"{path}: the condition '{again[0]}' is in another table, too; rename it")
        pairs = pairs.join(each, on=["enrol", "test"], how="full", coalesce=True)
    return Known(table.fill_null(""), pairs.fill_null(""))


def trial_conditions(
    trials: TrialList,
    sources: Sequence[PathLike],
    by: Sequence[str],
    *,
    bins: int = 4,
    edges: Mapping[str, Sequence[float]] | None = None,
    enrol_map: SideMap | None = None,
    test_map: SideMap | None = None,
) -> pl.DataFrame:
    """The conditions of every trial.

    A measurement, that is a condition whose values are numbers with decimals or all of one unit, is put in
    bins where it has more than `MOST_VALUES` values; so is any of which the edges are given. Of a side of
    several utterances it is the mean.

    Args:
        trials: the list.
        sources: see `read_known`; together they hold the utterances of the list.
        by: names of conditions, see the head of this module.
        bins: number of bins of a measurement, whose edges are quantiles over the trials, to three digits.
        edges: condition -> rising edges of its bins, instead; a bin holds its lower edge.
        enrol_map: enrolment ids that stand for several utterances, see `farvox.score.sides.read_side_map`.
        test_map: the same of the test side.

    Returns:
        One column for each name, [num_trials]: an Enum in the order of the numbers or bins, else of the
        alphabet. A side of several utterances has their values joined by ``+``; an unknown value is the empty
        string.

    Raises:
        TrialError: an utterance is in none of the sources.
        UsageError: no such condition, one that is known of no trial, or one with edges or a gap that is no
            number.
        DataDirError: a source cannot be read, or two disagree.
    """
    known, side_maps = read_known(sources), {"enrol": enrol_map, "test": test_map}
    columns = []
    for name in by:
        of_sides, column = _split(name)
        if of_sides != "enrol." and name in known.trials.columns[2:]:
            found = _of_pairs(trials, known.trials, name)
        elif column in known.utterances.columns[1:]:
            found = _of_sides(trials, known.utterances, name, side_maps)
        else:
            names = [*known.utterances.columns[1:], *known.trials.columns[2:]]
            hint = nearest(column, names) or f"; there are {', '.join(names)}"
            raise UsageError(f"--by {name}: no such condition{hint}")
        if (found.text.fill_null("") == "").all() and found.number.is_null().all():
            raise UsageError(f"no trial has the condition '{name}'")
        cuts = (edges or {}).get(name)
        if cuts is None and not (found.is_measured and found.number.n_unique() > MOST_VALUES):
            pairs = pl.DataFrame({"text": found.text, "number": found.number}).unique()
            in_order = pairs.sort("number", "text")["text"].unique(maintain_order=True)  # 2 m before 10 m
            columns.append(found.text.cast(pl.Enum(in_order)).alias(name))
            continue
        if cuts is None:
            cuts = _quantile_edges(found.number.drop_nulls().to_numpy(), bins)
        elif found.odd:
            raise UsageError(f"--edges {name}: '{found.odd}' is no number, or has another unit than others")
        columns.append(binned(found.number, cuts, found.unit).alias(name))
    return pl.DataFrame(columns)


class SharedConditions(NamedTuple):
    """A condition of the sides of trials and of a cohort.

    Attributes:
        names: its values, or bins, as a message has them.
        number_S: of each side, 1 + the index of its value in ``names``, or 0 where it has none or several.
        number_C: the same of each member of the cohort.
    """

    names: list[str]
    number_S: NDArray[np.int64]
    number_C: NDArray[np.int64]


def shared_conditions(
    resolved: ResolvedTrials,
    cohort_ids: Sequence[str] | pl.Series,
    sources: Sequence[PathLike],
    name: str,
    edges: Sequence[float] = (),
) -> SharedConditions:
    """A condition of the sides of a list and of a cohort; a measurement in bins, as of `trial_conditions`.

    Args:
        resolved: the list; the measurement of a side of several utterances is the mean.
        cohort_ids: utterances of the cohort.
        sources: see `read_known`.
        name: of the condition.
        edges: rising edges of its bins; unless given they are the quartiles over the cohort, to three digits.

    Raises:
        TrialError: nothing is known of the cohort.
        UsageError: no such condition, or one with edges that is no number.
        DataDirError: a source cannot be read, or two disagree.
    """
    known = read_known(sources).utterances
    if name not in known.columns[1:]:
        hint = nearest(name, known.columns[1:]) or f"; there are {', '.join(known.columns[1:])}"
        raise UsageError(f"--cohort-by {name}: no such condition{hint}")
    ids = pl.DataFrame({"utt_id": pl.concat([pl.Series(cohort_ids), pl.Series(resolved.utt_ids)])})
    rows = ids.join(known.select("utt_id", name), on="utt_id", how="left", maintain_order="left")
    found, num_cohort = _as_numbers(rows[name].fill_null(""), name), len(cohort_ids)
    if not (found.text[:num_cohort] != "").any():
        raise TrialError(
            f"--cohort-by {name}: it is known of no utterance of the cohort; name the data dirs that have it "
            "with --conditions"
        )
    if edges and found.odd:
        raise UsageError(f"--cohort-by {name}: '{found.odd}' is no number, or has another unit than others")
    first_S, side_rows = resolved.side_offsets[:-1], num_cohort + resolved.side_rows
    if edges or (found.is_measured and found.number[:num_cohort].n_unique() > MOST_VALUES):
        number_N = found.number.cast(pl.Float64).to_numpy()
        sizes_S = np.diff(resolved.side_offsets)
        mean_S = np.add.reduceat(number_N[side_rows], first_S) / sizes_S
        cuts = edges or _quantile_edges(found.number[:num_cohort].drop_nulls().to_numpy(), 4)
        bins = [
            binned(pl.Series(each).fill_nan(None), cuts, found.unit)
            for each in (mean_S, number_N[:num_cohort])
        ]
        assert isinstance(bins[0].dtype, pl.Enum)
        names = [f"{name} {label}" for label in bins[0].dtype.categories[1:]]
        return SharedConditions(names, *(each.to_physical().cast(pl.Int64).to_numpy() for each in bins))
    values = sorted(set(found.text) - {""})
    number_N = found.text.replace_strict(["", *values], list(range(len(values) + 1))).to_numpy()
    low_S, high_S = (each.reduceat(number_N[side_rows], first_S) for each in (np.minimum, np.maximum))
    number_S = np.where(low_S == high_S, low_S, 0)
    return SharedConditions([f"{name} {value}" for value in values], number_S, number_N[:num_cohort])


def _quantile_edges(values: NDArray[np.float64], bins: int) -> list[float]:
    """Rising edges that make bins of as many values each, to three digits."""
    quantiles = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return sorted({float(f"{each:.3g}") for each in quantiles})


def binned(values: pl.Series, edges: Sequence[float], unit: str = "") -> pl.Series:
    """The bin of each value by its range, such as ``1 to 3 s``; a bin holds its lower edge.

    Args:
        values: numbers, null where unknown.
        edges: rising; n of them make n + 1 bins.
        unit: of both.

    Returns:
        An Enum in the order of the bins, whose first value is the empty string, for unknown.
    """
    shown, of = [f"{edge:.12g}" for edge in edges], f" {unit}" if unit else ""
    labels = [
        f"below {shown[0]}{of}",
        *(f"{low} to {high}{of}" for low, high in pairwise(shown)),
        f"{shown[-1]}{of} or more",
    ]
    number = np.searchsorted(np.asarray(edges), values.fill_null(0).to_numpy(), side="right") + 1
    number[values.is_null().to_numpy()] = 0
    return pl.Series(["", *labels]).gather(number).cast(pl.Enum(["", *labels]))


class _Found(NamedTuple):
    """A condition of every trial."""

    text: pl.Series  # empty where unknown
    number: pl.Series  # the same as a number, null where unknown or no number
    unit: str
    odd: str  # a value that is no number, or is of another unit; empty where all are of one
    is_measured: bool


def _split(name: str) -> tuple[str, str]:
    """The prefix of a condition, one of `SIDES` or empty, and its column."""
    prefix = next((each for each in SIDES if name.startswith(each)), "")
    return prefix, name.removeprefix(prefix)


def _of_pairs(trials: TrialList, table: pl.DataFrame, name: str) -> _Found:
    """A condition that a table has for every trial, by its two ids."""
    stems = stems_of(trials.ids)
    keys = {"enrol": stems.gather(trials.enrol_code), "test": stems.gather(trials.test_code)}
    known = table.select(stems_of(table["enrol"]), stems_of(table["test"]), name)
    text = pl.DataFrame(keys).join(known, on=["enrol", "test"], how="left", maintain_order="left")[name]
    return _as_numbers(text.fill_null(""), name)


def _of_sides(
    trials: TrialList, table: pl.DataFrame, name: str, side_maps: Mapping[str, SideMap | None]
) -> _Found:
    """A condition that follows from the utterances of one side, or of both."""
    prefix, column = _split(name)
    utt_ids, values = table["utt_id"], table[column]

    def joined(side: Side) -> pl.Series:
        """The values of a side."""
        found = values_of_side(trials, side, utt_ids, values, side_map=side_maps[side])
        return found.list.sort().list.join("+")

    def mean(side: Side, numbers: pl.Series) -> pl.Series:
        """The mean of the numbers of a side."""
        of_side = pl.col("value").mean()
        return values_of_side(trials, side, utt_ids, numbers, of_side, side_map=side_maps[side])

    if prefix == "same.":
        both = pl.DataFrame({"enrol": joined("enrol"), "test": joined("test")})
        is_known, is_same = (
            (pl.col("enrol") != "") & (pl.col("test") != ""),
            pl.col("enrol") == pl.col("test"),
        )
        kind = pl.when(~is_known).then(pl.lit("")).when(is_same).then(pl.lit("same"))
        text = both.select(kind.otherwise(pl.lit("different"))).to_series()
        return _Found(text, pl.Series([None] * len(text), dtype=pl.Float64), "", "same", is_measured=False)
    if prefix != "gap.":
        side: Side = "enrol" if prefix else "test"
        found = _as_numbers(values, column)
        return found._replace(text=joined(side), number=mean(side, found.number))
    if set(values.unique()) <= {"", *VISITS}:
        values = values.replace(VISITS)
    found = _as_numbers(values, column)
    dates = values.str.to_date("%Y-%m-%d", strict=False)
    if found.odd and dates.null_count() == (values == "").sum():
        found = found._replace(number=dates.to_physical().cast(pl.Float64), unit="days", odd="")
    if found.odd:
        raise UsageError(
            f"--by {name}: '{found.odd}' is neither a number of the unit of others nor a date (2026-11-29)"
        )
    gap = (mean("enrol", found.number) - mean("test", found.number)).abs()
    unit = f" {found.unit}" if found.unit else ""
    shown = {value: f"{value:.12g}{unit}" for value in gap.drop_nulls().unique()}
    text = gap.replace_strict(shown, default="", return_dtype=pl.String)
    return _Found(text, gap, found.unit, "", is_measured=True)


def _as_numbers(values: pl.Series, column: str) -> _Found:
    """Values as numbers, where they begin as numbers and are all of one unit."""
    table = pl.DataFrame({"text": values}).select(
        "text",
        number=pl.col("text").str.extract(_NUMBER).cast(pl.Float64, strict=False),
        unit=pl.col("text").str.extract(_NUMBER, 2),
    )
    named = table.filter(pl.col("text") != "")
    unit = next(iter(named["unit"].drop_nulls()), "")
    is_odd = pl.col("number").is_null() | (pl.col("unit").str.to_lowercase() != unit.lower())
    odd = named.filter(is_odd)["text"]
    is_measured = column in UNITS or unit != "" or named["text"].str.contains(r"[.eE]").any()
    return _Found(
        values,
        table["number"],
        unit or UNITS.get(column, ""),
        odd[0] if len(odd) else "",
        is_measured=is_measured and not len(odd) and len(named) > 0,
    )


def _derived(data_dir: DataDir) -> list[pl.DataFrame]:
    """The conditions that follow from the files of a data dir: `duration` in seconds, and `gender`."""
    tables, folder = [], data_dir.path
    if (folder / "utt2dur").is_file():
        tables.append(read_table(folder / "utt2dur", ("utt_id", "duration")))
    elif data_dir.num_samples.null_count() < len(data_dir):
        seconds = (pl.col("num_samples") / SAMPLE_RATE).round(3).cast(pl.String)
        tables.append(data_dir.table.select("utt_id", duration=seconds).drop_nulls())
    if (folder / "spk2gender").is_file():
        gender = read_table(folder / "spk2gender", ("speaker_id", "gender"))
        tables.append(
            data_dir.table.select("utt_id", "speaker_id")
            .join(gender, on="speaker_id", maintain_order="left")
            .select("utt_id", "gender")
        )
    return tables


def _read_pairs(path: Path, lines: pl.Series) -> pl.DataFrame:
    """A table of conditions of trials: `enrol`, `test`, and further columns."""
    header = lines[0].split("\t")
    fields = lines[1:].str.split("\t")
    wrong = (fields.list.len() != len(header)).arg_true()
    if len(wrong):
        n = int(wrong[0])
        raise DataDirError(
            f"{path}:{n + 2}: {len(fields[n])} fields between tabs, the header has {len(header)}"
        )
    if len(header) == 2 or len(set(header)) < len(header) or "" in header:
        raise DataDirError(f"{path}:1: after enrol and test, name each condition once, with tabs between")
    table = fields.list.to_struct(fields=header).struct.unnest()
    again = table.select("enrol", "test").is_duplicated().arg_true()
    if len(again):
        pair = table.row(int(again[0]))[:2]
        raise DataDirError(
            f"{path}:{int(again[0]) + 2}: the trial of '{pair[0]}' and '{pair[1]}' is there twice"
        )
    return table
