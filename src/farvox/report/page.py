"""The report: one HTML file of figures, curves and their meaning; and figures as lines and tables of text.

Nothing is loaded from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from farvox.atomic import write_text
from farvox.metrics.detection import Ties, detection_error
from farvox.report.plots import ScoreSet, det_figure, histogram_figure, inline_svg, save_figure

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5c6773; --line: #d9dee4; }
:root { --page: #fbfcfd; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #98a3af; --line: #303943; --page: #12171c; --card: #1a2027; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .4rem; } h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem; }
p.note, footer { color: var(--soft); margin: .2rem 0; max-width: 60rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; font-size: .85rem; }
th, td { text-align: right; padding: .5rem .8rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.best { font-weight: 650; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin-top: 1.2rem; }
figure { flex: 1 1 24rem; margin: 0; padding: .8rem; background: var(--card); }
figure { border: 1px solid var(--line); border-radius: .6rem; }
figure svg { width: 100%; height: auto; color: var(--soft); }
figcaption { color: var(--soft); font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1.2rem; } dt { font-weight: 600; }
dd { margin: 0; color: var(--soft); max-width: 52rem; }
"""

HEAD = ("system", "EER", "minDCF", "EER threshold", "target", "non-target")
TIES = {
    "baseline": "Equal scores are stepped through one by one, as in the FFSVC2022 baseline.",
    "grouped": "Equal scores are one threshold.",
}


def write_report(
    path: str | Path,
    title: str,
    trial_lists: Mapping[str, Sequence[ScoreSet]],
    *,
    notes: Sequence[str] = (),
    tables: Mapping[str, Sequence[Sequence[str]]] | None = None,
    p_target: float = 0.01,
    ties: Ties = "baseline",
) -> Path:
    """Write a report on one or several systems over one or several trial lists.

    Args:
        path: an ``.html`` file; or a folder, which gets ``report.html`` and every picture as PNG and SVG.
        title: head of the page.
        trial_lists: name of a trial list -> the systems scored on it, in the order of the table.
        notes: sentences below the title, on the data and the systems.
        tables: heading -> rows of text, of which the first is the head; they follow the trial lists.
        p_target: prior of a target trial in the detection cost.
        ties: how equal scores are treated, see `farvox.metrics.detection`.

    Returns:
        The path of the HTML file.

    Raises:
        TrialError: scores or labels are not usable.
    """
    path = Path(path)
    page = path if path.suffix in (".html", ".htm") else path / "report.html"
    sections = []
    for n, (name, systems) in enumerate(trial_lists.items()):
        det, histogram = det_figure(systems, p_target=p_target, ties=ties), histogram_figure(systems)
        found = [detection_error(system.scores, system.target, p_target, ties) for system in systems]
        best_eer, best_dcf = min(each.eer for each in found), min(each.min_dcf for each in found)
        rows = [
            _cell(system.name)
            + _cell(f"{each.eer:.2%}", is_best=each.eer == best_eer and len(found) > 1)
            + _cell(f"{each.min_dcf:.4f}", is_best=each.min_dcf == best_dcf and len(found) > 1)
            + _cell(f"{each.threshold:.4f}")
            + _cell(f"{each.num_target:,}")
            + _cell(f"{each.num_nontarget:,}")
            for system, each in zip(systems, found, strict=True)
        ]
        det_svg, histogram_svg = inline_svg(det), inline_svg(histogram)
        pictures = f"""<div class="figures">
<figure>{det_svg}<figcaption>DET curve: lower left is better. Dot: EER. Ring: minDCF.</figcaption></figure>
<figure>{histogram_svg}<figcaption>Scores of target and non-target trials.</figcaption></figure>
</div>
"""
        sections.append(_section(name, HEAD, rows, pictures))
        if page != path:
            number = f"_{n + 1}" if len(trial_lists) > 1 else ""
            for stem, figure in (("det", det), ("scores", histogram)):
                for suffix in (".png", ".svg"):
                    save_figure(figure, path / f"{stem}{number}{suffix}")
    for name, (head, *others) in (tables or {}).items():
        sections.append(_section(name, head, ["".join(map(_cell, row)) for row in others]))
    meanings = {
        "EER": "equal error rate: the error rate at the threshold where as large a share of target trials is"
        f" rejected (misses) as of non-target trials is accepted (false alarms). {TIES[ties]}",
        "minDCF": "the smallest detection cost over all thresholds when a target trial has the prior"
        f" {p_target:g} and both errors cost 1, divided by the cost of not listening at all;"
        " 0 is perfect, 1 is useless.",
        "Threshold": "a raw score, good for this system on trials like these; it does not carry over to"
        " another system or another room.",
        "DET curve": "misses against false alarms at every threshold, on axes where normally distributed"
        " scores give a straight line.",
    }
    below_title = "\n".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    definitions = "\n".join(f"<dt>{term}</dt><dd>{meaning}</dd>" for term, meaning in meanings.items())
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{below_title}
{"".join(sections)}
<h2>What the figures mean</h2>
<dl>
{definitions}
</dl>
</main>
</body>
</html>
"""
    write_text(page, text)
    return page


def _section(title: str, head: Sequence[str], rows: Sequence[str], below: str = "") -> str:
    """A section of the page: a table, whose rows are cells in HTML, and HTML below it."""
    heads = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"""
<section>
<h2>{escape(title)}</h2>
<div class="wide"><table>
<thead>
<tr>{heads}</tr>
</thead>
<tbody>
{body}
</tbody>
</table></div>
{below}</section>
"""


def _cell(text: str, *, is_best: bool = False) -> str:
    return f'<td class="best">{escape(text)}</td>' if is_best else f"<td>{escape(text)}</td>"


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
