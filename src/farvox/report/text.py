"""Figures as lines and tables of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Unit = Literal["", "%", "points"]


def rounded(value: float, trials: int, unit: Unit = "", *, sign: Literal["", "+"] = "") -> str:
    """A figure with as many digits as its trials can show, as every command, table and report writes it.

    One trial more or less moves an error rate by a share 1 / ``trials``, so digits below that say nothing:
    ``3.3 %`` of 200 target trials, ``3.33 %`` of 2,000. An error rate has one to three decimals, a cost two
    to four. A value that is not finite is written as Python writes it.

    Args:
        value: an error rate or a difference of two, as a fraction; or a cost.
        trials: number of trials behind it, of the rarer kind.
        unit: "%" for an error rate, "points" for a difference of two in points of per cent, "" for a cost.
        sign: "+" writes the sign of positive values too.
    """
    places = math.ceil(math.log10(max(trials, 1)))
    if unit:
        return f"{100 * value:{sign}.{min(max(places - 2, 1), 3)}f} {unit}"
    return f"{value:{sign}.{min(max(places, 2), 4)}f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines whose columns are flush."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def condition_rows(conditions: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The figures of each condition, as `farvox.pipelines.evaluate` gives them, as rows below a head."""
    with_intervals = any(each["intervals"] for each in conditions)
    interval_head = ["95 %"] if with_intervals else []
    head = [*conditions[0]["condition"], "EER", *interval_head, "minDCF", *interval_head]
    rows = [[*head, "target", "non-target"]]
    units: tuple[tuple[str, Unit], ...] = (("eer", "%"), ("min_dcf", ""))
    for each in conditions:
        row = [value or "unknown" for value in each["condition"].values()]
        trials = rarer(each)
        for key, unit in units:
            row.append("-" if each[key] is None else rounded(each[key], trials, unit))
            if with_intervals:
                row.append(span(each["intervals"][key], trials, unit) if each["intervals"] else "-")
        rows.append([*row, f"{each['num_target']:,}", f"{each['num_nontarget']:,}"])
    return rows


def interval_lines(table: dict[str, Any]) -> list[str]:
    """The intervals of an evaluation, and its comparison with another system, as sentences."""
    found, trials = table["intervals"], rarer(table)
    lines = [
        f"{100 * found['level']:.0f} % intervals, {found['replicates']:,} resamples of"
        f" {found['num_speakers']:,} speakers (seed {found['seed']}):"
        f" EER {span(found['eer'], trials, '%')}, minDCF {span(found['min_dcf'], trials)}"
    ]
    if "against" in table:
        other = table["against"]
        compared: tuple[tuple[str, str, Unit, Unit], ...] = (
            ("EER", "eer", "%", "points"),
            ("minDCF", "min_dcf", "", ""),
        )
        for name, key, unit, of_difference in compared:
            found = other[key]
            verdict = "excludes zero" if found["excludes_zero"] else "does not exclude zero"
            lines.append(
                f"{name} less that of {other['scores']} ({rounded(found['other'], trials, unit)}):"
                f" {rounded(found['difference'], trials, of_difference, sign='+')},"
                f" {span(found['interval'], trials, of_difference, sign='+')}, which {verdict}"
            )
    return lines


def span(interval: tuple[float, float], trials: int, unit: Unit = "", *, sign: Literal["", "+"] = "") -> str:
    """An interval as ``low to high``; see `rounded`."""
    low, high = (rounded(end, trials, unit, sign=sign) for end in interval)
    return f"{low.removesuffix(f' {unit}')} to {high}"


def rarer(counts: Mapping[str, Any]) -> int:
    """The number of trials of the rarer kind, from ``num_target`` and ``num_nontarget``."""
    return min(int(counts["num_target"]), int(counts["num_nontarget"]))


def cluster_lines(facts: Mapping[str, Any]) -> list[str]:
    """The results of a clustering as lines."""
    lines = [
        f"clusters  {facts['clusters']:,}  (intra-class cosine {facts['wccs']:.4f})",
        f"kept      {facts['kept']:,} of {facts['utterances']:,} utterances",
    ]
    if facts["at_edge"]:
        lines.append("          the elbow is at the edge of the range: try a wider one")
    if truth := facts["truth"]:
        lines.append(
            f"truth     {truth['speakers']:,} speakers; all: NMI {truth['nmi']:.4f}, "
            f"purity {truth['purity']:.4f}; kept: NMI {truth['kept_nmi']:.4f}, "
            f"purity {truth['kept_purity']:.4f}"
        )
    return lines
