"""Figures as lines and tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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
    for each in conditions:
        row = [value or "unknown" for value in each["condition"].values()]
        for key, form in (("eer", ".2%"), ("min_dcf", ".4f")):
            row.append("-" if each[key] is None else f"{each[key]:{form}}")
            if with_intervals:
                row.append(span(each["intervals"][key], form) if each["intervals"] else "-")
        rows.append([*row, f"{each['num_target']:,}", f"{each['num_nontarget']:,}"])
    return rows


def interval_lines(table: dict[str, Any]) -> list[str]:
    """The intervals of an evaluation, and its comparison with another system, as sentences."""
    found = table["intervals"]
    lines = [
        f"{found['level']:.0%} intervals, {found['replicates']:,} resamples of {found['num_speakers']:,}"
        f" speakers (seed {found['seed']}):"
        f" EER {span(found['eer'], '.2%')}, minDCF {span(found['min_dcf'], '.4f')}"
    ]
    if "against" in table:
        other = table["against"]
        for name, key, form in (("EER", "eer", ".2%"), ("minDCF", "min_dcf", ".4f")):
            found = other[key]
            verdict = "excludes zero" if found["excludes_zero"] else "does not exclude zero"
            lines.append(
                f"{name} less that of {other['scores']} ({found['other']:{form}}):"
                f" {found['difference']:+{form}}, {span(found['interval'], '+' + form)}, which {verdict}"
            )
    return lines


def span(interval: tuple[float, float], form: str) -> str:
    """An interval as ``low to high``."""
    return f"{interval[0]:{form}} to {interval[1]:{form}}"


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
