"""Figures as lines and tables of text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from farvox.metrics.detection import CostModel

DEFAULT_PRIOR = CostModel().p_target
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


def condition_rows(table: Mapping[str, Any], beside: Iterable[Mapping[str, Any]] = ()) -> list[list[str]]:
    """The figures by condition of a system as rows below a head; two more rows have all trials together.

    Args:
        table: see `farvox.pipelines.evaluate.as_table`.
        beside: those of the other systems, so that all have the same columns.
    """
    conditions, equalised, at = table["conditions"], table.get("equalised"), table.get("at") or {}
    every = [each for system in (table, *beside) for each in system["conditions"]]
    with_intervals = any(each["intervals"] for each in every)
    with_notes = any(each.get("note") for each in every) or any(
        system.get("equalised") for system in (table, *beside)
    )
    units = figures_in([key for key in ("eer", "min_dcf", "far", "frr") if key in conditions[0]], table)
    names = list(conditions[0]["condition"])
    heads = (part for _, name, _ in units for part in (name, "95 %")[: 1 + with_intervals])
    rows = [[*names, *heads, "target", "non-target", *["note"] * with_notes]]
    together: list[Mapping[str, Any]] = []
    if equalised:
        rest = [""] * (len(names) - 1)
        pooled = {"intervals": None, **table, **{rate: at.get(rate) for rate in ("far", "frr")}}
        together = [
            {**pooled, "condition": dict(zip(names, ["all, pooled", *rest], strict=True)), "note": ""},
            {
                **equalised,
                "condition": dict(zip(names, ["all, equalised", *rest], strict=True)),
                "intervals": None,
                "note": f"{equalised['num_conditions']} conditions weigh the same"
                + (
                    f"; without {unknown:,} trials of unknown"
                    if (unknown := equalised["num_unknown"])
                    else ""
                ),
            },
        ]
    for each in [*conditions, *together]:
        row = [value or "unknown" * (each in conditions) for value in each["condition"].values()]
        of = {"far": int(each["num_nontarget"]), "frr": int(each["num_target"])}
        for key, _, unit in units:
            trials = of.get(key, rarer(each))
            row.append("-" if each[key] is None else rounded(each[key], trials, unit))
            if with_intervals:
                known = each["intervals"] and key in each["intervals"]
                row.append(span(each["intervals"][key], trials, unit) if known else "-")
        row += [f"{each['num_target']:,}", f"{each['num_nontarget']:,}"]
        rows.append([*row, *[each.get("note", "")] * with_notes])
    return rows


def condition_rows_of(systems: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The figures by condition of each system, whose name is the first column; see `condition_rows`."""
    rows_of = {name: condition_rows(table, systems.values()) for name, table in systems.items()}
    head = next(iter(rows_of.values()))[0]
    return [["system", *head], *([name, *row] for name, rows in rows_of.items() for row in rows[1:])]


UNITS: tuple[tuple[str, str, Unit], ...] = (
    ("eer", "EER", "%"),
    ("min_dcf", "minDCF", ""),
    ("act_dcf", "actDCF", ""),
    ("dcf_at_threshold", "DCF", ""),
    ("cllr", "Cllr", ""),
    ("min_cllr", "minCllr", ""),
    ("auc", "AUC", ""),
    ("rocch_eer", "ROCCH-EER", "%"),
    ("far", "FAR", "%"),
    ("frr", "FRR", "%"),
)
"""Names of figures in tables, as text has them, and their units; thresholds are apart."""


def interval_lines(table: dict[str, Any], name: str = "this system") -> list[str]:
    """The intervals of an evaluation, and its comparison with another system, as sentences.

    Args:
        table: see `farvox.pipelines.evaluate.as_table`.
        name: of the system.
    """
    found, trials = table["intervals"], rarer(table)
    named = figures_in(found, table)
    main = [f"{figure} {span(found[key], trials, unit)}" for key, figure, unit in named]
    thresholds = [
        f"of {name} {plain_span(found[at])}" for key, name, _ in named if (at := threshold_of(key)) in found
    ]
    lines = [
        f"{100 * found['level']:.0f} % intervals, {found['replicates']:,} resamples of"
        f" {found['num_speakers']:,} speakers (seed {found['seed']}): {', '.join(main)}",
        f"their thresholds: {', '.join(thresholds)}",
    ]
    if "against" in table:
        lines += difference_lines(table["against"], Path(table["against"]["scores"]).stem, name, table)
    return lines


def seed_line(table: Mapping[str, Any]) -> str:
    """The spread of a system's seeds as a sentence."""
    seeds, trials = table["seeds"], rarer(table)
    spread = [
        f"{name} {span((min(seeds['values'][key]), max(seeds['values'][key])), trials, unit)}"
        f" (standard deviation {rounded(seeds['std'][key], trials, 'points' if unit else '')})"
        for key, name, unit in figures_in(seeds["values"], table)
    ]
    return f"mean of {seeds['number']} seeds: {', '.join(spread)}"


def figures_in(keys: Iterable[str], system: Mapping[str, Any]) -> list[tuple[str, str, Unit]]:
    """Key, name with its operating point, and unit of figures, in one order.

    "min_dcf@0.05" is "minDCF (0.05)", "frr@0.01" "FRR at FAR 0.01", and at a given threshold of 2 "far" is
    "FAR at 2"; "min_dcf" is plain at P_target 0.01 and costs of 1.

    Args:
        system: the table of the system, with ``p_target`` and, where one was given, the threshold.
    """
    threshold = f" at {system['at']['threshold']:g}" if system.get("at") else ""

    def point(of: str, suffix: str) -> str:
        if of in ("far", "frr"):
            return f" at FAR {suffix}" if suffix else threshold
        if not of.endswith(("dcf", "dcf_at_threshold")):
            return ""
        model = suffix or ("" if system["p_target"] == DEFAULT_PRIOR else f"{system['p_target']:g}")
        return threshold * (of == "dcf_at_threshold") + f" ({model})" * bool(model)

    parts = [(key, *key.partition("@")[::2]) for key in keys]
    return [
        (key, name + point(of, suffix), unit)
        for known, name, unit in UNITS
        for key, of, suffix in parts
        if of == known
    ]


def figures_of_system(table: Mapping[str, Any]) -> dict[str, float]:
    """Every figure of a system by its key, as intervals and differences have them.

    Args:
        table: see `farvox.pipelines.evaluate.as_table`.
    """
    found = {key: table[key] for key, _, _ in UNITS if table.get(key) is not None}
    for n, each in enumerate(table.get("dcf") or ()):
        suffix = f"@{CostModel(each['p_target'], each['c_miss'], each['c_fa']).name}" if n else ""
        costs = {f"{key}{suffix}": each.get(key) for key in ("min_dcf", "act_dcf", "dcf_at_threshold")}
        found |= {key: cost for key, cost in costs.items() if cost is not None}
    found |= {rate: table["at"][rate] for rate in ("far", "frr") if table.get("at")}
    return found | {f"frr@{each['far_at_most']:g}": each["frr"] for each in table.get("frr_at") or ()}


def threshold_of(key: str) -> str:
    """The key of the threshold that belongs to a figure; no key where it has none that was found."""
    of, at, suffix = key.partition("@")
    if of == "frr":
        return f"threshold@{suffix}" if at else ""
    return {"eer": "threshold", "min_dcf": f"min_dcf_threshold{at}{suffix}"}.get(of, "")


def difference_lines(
    compared: Mapping[str, Any], other: str, this: str, system: Mapping[str, Any]
) -> list[str]:
    """The differences of one system from another, each figure on a line that is read once.

    Args:
        compared: see `farvox.pipelines.evaluate.Difference`, as tables, by the name of the figure.
        other: name of the system that it is compared with.
        this: its own name.
        system: the table of one of them, for the numbers of trials and the operating points.
    """
    lines, trials = [], rarer(system)
    for key, name, unit in figures_in(compared, system):
        found = compared[key]
        points: Unit = "points" if unit else ""
        change = rounded(found["difference"], trials, points, sign="+")
        reach = span(found["interval"], trials, points, sign="+").removesuffix(" points")
        lines.append(
            f"{name} {rounded(found['other'], trials, unit)} ({other}) ->"
            f" {rounded(found['other'] + found['difference'], trials, unit)} ({this})"
            f" ({change}, 95 % interval {reach}, p {p_value(found['p'])})"
        )
    return lines


def pair_lines(found: Mapping[str, Any]) -> list[str]:
    """The differences of several systems, as `farvox.pipelines.evaluate.evaluate_systems` has them."""
    return [
        line
        for pair in found["differences"]
        for line in difference_lines(pair, pair["other"], pair["system"], found["systems"][0])
    ]


def gain_line(name: str, pair: Mapping[str, Any], system: Mapping[str, Any]) -> str:
    """A line on the EER of a system beside that of the model it began as: better, not proven, or worse.

    Args:
        name: of the trial list.
        pair: one of the differences that `farvox.pipelines.evaluate.evaluate_systems` has.
        system: the table of one of both, for the numbers of trials.
    """
    found, trials = pair["eer"], rarer(system)
    reach = span(found["interval"], trials, "points", sign="+").removesuffix(" points")
    change = (
        f"EER {rounded(found['other'], trials, '%')} ->"
        f" {rounded(found['other'] + found['difference'], trials, '%')},"
        f" 95 % of the difference {reach} points"
    )
    this, other = pair["system"], pair["other"]
    if not found["excludes_zero"]:
        return f"note: {name}: {this} is not proven better than {other} ({change}; zero is inside)"
    if found["difference"] > 0:
        return f"note: {name}: {this} is worse than {other} ({change})"
    return f"{name}: {this} is better than {other} ({change})"


def headline_rows(tables: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The figures of each system with their intervals, where they are known, as rows below a head.

    Args:
        tables: see `farvox.pipelines.evaluate.as_table`; each with ``system``, its name.
    """
    with_intervals = any(table.get("intervals") for table in tables)
    values_of = [figures_of_system(table) for table in tables]
    shown = figures_in({key: None for values in values_of for key in values}, tables[0])
    sure = ["95 %"] if with_intervals else []
    head = ["system", *(word for _, name, _ in shown for word in (name, *sure)), "EER threshold", *sure]
    rows = [[*head, "target", "non-target"]]
    for table, values in zip(tables, values_of, strict=True):
        row, found = [table["system"]], table.get("intervals") or {}
        of = {"far": int(table["num_nontarget"]), "frr": int(table["num_target"])}
        for key, _, unit in shown:
            value, trials = values.get(key), of.get(key.partition("@")[0], rarer(table))
            row.append("-" if value is None else rounded(value, trials, unit))
            row += [span(found[key], trials, unit) if key in found else "-"] * with_intervals
        row.append(f"{table['threshold']:.4f}")
        row += [plain_span(found["threshold"]) if found else "-"] * with_intervals
        rows.append([*row, f"{table['num_target']:,}", f"{table['num_nontarget']:,}"])
    return rows


def difference_rows(pairs: Sequence[Mapping[str, Any]], system: Mapping[str, Any]) -> list[list[str]]:
    """The differences of pairs of systems as rows below a head; see `difference_lines`."""
    rows, trials = [["figure", "from", "to", "difference", "95 % interval", "p"]], rarer(system)
    for pair in pairs:
        for key, name, unit in figures_in(pair, system):
            found = pair[key]
            points: Unit = "points" if unit else ""
            rows.append(
                [
                    name,
                    f"{pair['other']}: {rounded(found['other'], trials, unit)}",
                    f"{pair['system']}: {rounded(found['other'] + found['difference'], trials, unit)}",
                    rounded(found["difference"], trials, points, sign="+"),
                    span(found["interval"], trials, points, sign="+").removesuffix(" points"),
                    p_value(found["p"]),
                ]
            )
    return rows


def as_markdown(rows: Sequence[Sequence[str]], title: str = "") -> str:
    """Rows, of which the first is the head, as a table in Markdown with its title; numbers flush right."""

    def escaped(text: str) -> str:
        return re.sub(r"([\\|<_*`\[])", r"\\\1", " ".join(text.split()))

    lines = [f"| {' | '.join(map(escaped, row))} |" for row in rows]
    above = [f"## {escaped(title)}", ""] if title else []
    return "\n".join([*above, lines[0], f"|---|{'---:|' * (len(rows[0]) - 1)}", *lines[1:]])


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def as_latex(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Rows, of which the first is the head, as a table for LaTeX with the package booktabs."""

    def escaped(text: str) -> str:
        plain = " ".join(text.split())
        return "".join(LATEX.get(each) or (f"\\{each}" if each in "&%$#_{}" else each) for each in plain)

    lines = [f"{' & '.join(map(escaped, row))} \\\\" for row in rows]
    columns = "l" + "r" * (len(rows[0]) - 1)
    above = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escaped(title)}}}",
        f"\\begin{{tabular}}{{{columns}}}",
    ]
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([*above, *body, r"\end{tabular}", r"\end{table}"])


def p_value(p: float) -> str:
    """A p-value with two digits, or with one where it is small."""
    return f"{p:.2f}" if p >= 0.01 else f"{p:.3f}" if p >= 0.001 else "below 0.001"


def plain_span(interval: tuple[float, float]) -> str:
    """An interval of a threshold as ``low to high``."""
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def figure_lines(table: Mapping[str, Any]) -> list[str]:
    """EER, costs, and what else was asked for of an evaluation, each on a line of its own."""
    trials = rarer(table)
    lines = [f"EER     {rounded(table['eer'], trials, '%')}  at threshold {table['threshold']:.6g}"]
    plain = {name: table[name] for name in ("p_target", "min_dcf", "min_dcf_threshold")}
    for each in table.get("dcf", [plain | {"c_miss": 1, "c_fa": 1, "act_dcf": None}]):
        alike = each["c_miss"] == each["c_fa"] == 1
        costs = "costs 1" if alike else f"C_miss {each['c_miss']:g}, C_fa {each['c_fa']:g}"
        lines.append(
            f"minDCF  {rounded(each['min_dcf'], trials)}  at threshold {each['min_dcf_threshold']:.6g}"
            f"  (P_target {each['p_target']:g}, {costs}, normalised)"
        )
        if each["act_dcf"] is not None:
            actual = rounded(each["act_dcf"], trials)
            lines.append(f"actDCF  {actual}  at threshold {each['act_dcf_threshold']:.6g}")
        if each.get("dcf_at_threshold") is not None:
            given = rounded(each["dcf_at_threshold"], trials)
            lines.append(f"DCF     {given}  at the given threshold {table['at']['threshold']:.6g}")
    if "cllr" in table:
        lines.append(f"Cllr    {rounded(table['cllr'], trials)}  bits, of log-likelihood ratios as they are")
    if "min_cllr" in table:
        lines.append(
            f"minCllr {rounded(table['min_cllr'], trials)}  bits, of the best rising map of the scores"
        )
        lines.append(f"AUC     {rounded(table['auc'], trials)}  area under the ROC curve")
        lines.append(
            f"ROCCH   {rounded(table['rocch_eer'], trials, '%')}  EER of the convex hull of the ROC curve"
        )
    for point in table.get("frr_at", ()):
        asked, frr = 100 * point["far_at_most"], rounded(point["frr"], table["num_target"], "%")
        accepted = round(point["far"] * table["num_nontarget"])
        lines.append(
            f"FRR     {frr}  at FAR {asked:g} %, threshold {point['threshold']:.6g}"
            f"  ({accepted:,} non-target trials accepted)"
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
