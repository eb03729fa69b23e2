"""The report: one HTML file of figures, curves and their meaning; nothing is loaded from outside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from farvox.atomic import FileKind, refuse_to_replace, visible, write_text
from farvox.metrics.detection import Ties, detection_error
from farvox.progress import printable
from farvox.report.figures import FIGURES, ScoreSet, det_figure, histogram_figure, inline_svg, save_figure
from farvox.report.results import RESULTS
from farvox.report.text import figures_in, headline_rows
from farvox.writers import writes

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5c6773; --line: #d9dee4; }
:root { --page: #fbfcfd; --card: #fff; --link: #1a5fb4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #98a3af; --line: #303943; --page: #12171c; --card: #1a2027; }
  :root { --link: #8ab8f5; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .4rem; } h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem; }
h1, h2, p, dd { overflow-wrap: anywhere; }
p.note { color: var(--soft); margin: .2rem 0; max-width: 60rem; }
a { color: var(--link); } :focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; top: 1rem; background: var(--page); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: 1rem 0 0; padding: 0; }
nav a { display: inline-block; padding: .2rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem; } tbody th { font-weight: 400; }
th, td { text-align: right; padding: .5rem .8rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.best { font-weight: 650; }
.text td, .text th { text-align: left; vertical-align: top; }
.text td { white-space: normal; overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin-top: 1.2rem; }
figure { flex: 1 1 22rem; max-width: 36rem; margin: 0; padding: .8rem; background: var(--card); }
figure { border: 1px solid var(--line); border-radius: .6rem; min-width: 0; }
figure svg { width: 100%; height: auto; color: var(--soft); }
figcaption { color: var(--soft); font-size: .85rem; } figcaption b { color: var(--ink); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1.2rem; } dt { font-weight: 600; }
dd { margin: 0; color: var(--soft); max-width: 52rem; }
@media (max-width: 40rem) {
  main { padding: 1rem .75rem 3rem; } figure { padding: .4rem; flex-basis: 100%; } dl { display: block; }
  th, td { padding: .45rem .5rem; } th:first-child { white-space: normal; } dd { margin-bottom: .6rem; }
}
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --card: #fff; }
  body { font-size: 9.5pt; } main { padding: 0; max-width: none; } nav, .skip { display: none; }
  .wide { overflow: visible; } th, td { white-space: normal; padding: .2rem .4rem; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } figure { flex: 1 1 45%; }
}
"""

PAGE = FileKind("report of farvox", rb"<!doctype html>.*?<style>\s*:root \{[^}]*--ink:.*?p\.note")
MOST_UNMARKED = 100  # target trials from which on the best figure of a list is marked; it says little below
TIES = {
    "baseline": "Equal scores are stepped through one by one, as in the FFSVC2022 baseline.",
    "grouped": "Equal scores are one threshold.",
}


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to a file."""

    text: str
    href: str


Cells = Sequence[Sequence[str | Link]]


@dataclass(frozen=True)
class Picture:
    """A figure of a section."""

    stem: str  # of its files, where the report is a folder
    title: str
    description: str  # for whom cannot see it
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Section:
    """A heading with a note, a table and figures; any of them may be absent."""

    title: str
    rows: Cells = ()  # the first is the head
    pictures: Sequence[Picture] = ()
    note: str = ""
    best: frozenset[tuple[int, int]] = frozenset()  # row and column of the cells that are marked
    is_text: bool = False  # long texts in the table, which wrap


@writes("path")
def write_report(
    path: str | Path,
    title: str,
    trial_lists: Mapping[str, Sequence[ScoreSet]],
    *,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    notes: Sequence[str] = (),
    sections: Sequence[Section] = (),
    p_target: float = 0.01,
    ties: Ties = "baseline",
) -> Path:
    """Write a report on one or several systems over one or several trial lists; returns the HTML file's path.

    Args:
        path: an ``.html`` file; or a folder, which gets ``report.html`` and every picture as PNG and SVG.
        title: of the page.
        trial_lists: name of a trial list -> the systems scored on it, in the order of the legends.
        tables: name of a trial list -> the figures of each system, see `farvox.report.text.headline_rows`;
            EER and minDCF are computed for a list that is not in it.
        notes: sentences below the title, on the data and the systems.
        sections: of the page, after those of the trial lists.
        p_target: prior of a target trial in the detection cost.
        ties: how equal scores are treated, see `farvox.metrics.detection`.

    Raises:
        TrialError: scores or labels are not usable.
    """
    path = Path(path)
    page = refuse_report(path)
    every = []
    for n, (name, systems) in enumerate(trial_lists.items(), 1):
        found = (tables or {}).get(name) or [
            {"system": each.name, **asdict(detection_error(each.scores, each.target, p_target, ties))}
            for each in systems
        ]
        number = f"_{n}" if len(trial_lists) > 1 else ""
        names = ", ".join(each.name for each in systems)
        band = " Band: 95 % interval." if any(each.band for each in systems) else ""
        pictures = [
            Picture(
                f"det{number}",
                "DET curves",
                f"False rejection rate against false acceptance rate at every threshold: {names}."
                " The figures of the marked points are in the table above.",
                f"Lower left is better. Filled mark: EER. Hollow mark: minDCF.{band}",
                det_figure(systems, p_target=p_target, ties=ties),
            ),
            Picture(
                f"scores{number}",
                "Scores of target and non-target trials",
                f"Histograms of the scores of both kinds of trials, with the EER threshold: {names}.",
                "The less the two overlap, the better.",
                histogram_figure(systems),
            ),
        ]
        every.append(Section(name, headline_rows(found), pictures, best=_best(found)))
    every += sections
    if page != path:
        for picture in (picture for section in every for picture in section.pictures):
            for suffix in (".png", ".svg"):
                save_figure(picture.figure, path / f"{picture.stem}{suffix}")
    write_text(page, _page(title, notes, every, _meanings(p_target, ties, every)), PAGE)
    return page


def refuse_report(path: Path, inputs: Iterable[str | Path | None] = ()) -> Path:
    """Refuse a report that would destroy another file, see `refuse_to_replace`; the HTML file's path."""
    page = path if path.suffix in (".html", ".htm") else path / "report.html"
    refuse_to_replace(page, PAGE, inputs)
    if page != path:
        refuse_to_replace(path / "results.json", RESULTS, inputs)
    for each in visible(path) if page != path else ():
        if each.suffix in FIGURES and re.fullmatch(r"(det|scores|reliability|conditions)(_\d+)?", each.stem):
            refuse_to_replace(each, FIGURES[each.suffix], inputs)
    return page


def _best(found: Sequence[Mapping[str, Any]]) -> frozenset[tuple[int, int]]:
    """Cells and columns of the best EER and minDCF, where several systems have enough trials."""
    if len(found) < 2 or found[0]["num_target"] < MOST_UNMARKED:
        return frozenset()
    head = headline_rows(found)[0]
    best = set()
    for key, name, _ in figures_in(("eer", "min_dcf"), found[0]):
        least = min(each[key] for each in found)
        best |= {(row, head.index(name)) for row, each in enumerate(found, 1) if each[key] == least}
    return frozenset(best)


def _meanings(p_target: float, ties: Ties, sections: Sequence[Section]) -> dict[str, str]:
    """The meanings of the figures that stand at the head of a table, and of those of every report."""
    heads = [str(cell) for each in sections if each.rows for cell in each.rows[0]]
    of_head = {
        "actDCF": "the same cost at Bayes's threshold of natural-log likelihood ratios, which the prior and"
        " the costs alone decide; actDCF - minDCF is what a better calibration could save.",
        "DCF": "the same cost at the given threshold, which was chosen on other trials.",
        "Cllr": "the cost of the log-likelihood ratios over all priors, in bits; 1 is useless, and certain"
        " errors cost without limit.",
        "minCllr": "Cllr after the rising map of the scores that is best for these trials.",
        "AUC": "the area under the ROC curve: how often a target trial has a higher score than a non-target"
        " trial; 1 is perfect, 0.5 is chance.",
        "ROCCH-EER": "the EER of the convex hull of the ROC curve.",
        "FAR": "the share of non-target trials that are accepted at the given threshold; of a speaker, at the"
        " threshold named there.",
        "FRR": "the share of target trials that are rejected there; or, at FAR, at the lowest threshold that"
        " accepts no more than this share (a fraction) of the non-target trials.",
        "p": "how probable so large a difference of two systems is where there is none; two-sided.",
    }
    shown = {
        term: meaning
        for term, meaning in of_head.items()
        if any(head == term or head.startswith(f"{term} ") for head in heads)
    }
    always = {
        "EER": "equal error rate: the error rate at the threshold where as large a share of target trials is"
        f" rejected (FRR) as of non-target trials is accepted (FAR). {TIES[ties]}",
        "minDCF": "the smallest detection cost over all thresholds when a target trial has the prior"
        f" {p_target:g} and both errors cost 1, divided by the cost of not listening at all;"
        " 0 is perfect, 1 is useless. Another prior, or prior and costs of a miss and of a false acceptance,"
        " is in brackets.",
        "95 %": "an interval that holds the figure of other speakers like these in 95 of 100 such lists;"
        " it says nothing of other rooms, devices or languages.",
        "Threshold": "a raw score, good for this system on trials like these; it does not carry over to"
        " another system or another room.",
        "DET curve": "FRR against FAR at every threshold, on axes where normally distributed scores give a"
        " straight line.",
    }
    return {**always, **shown}


def _page(title: str, notes: Sequence[str], sections: Sequence[Section], meanings: Mapping[str, str]) -> str:
    numbered = list(enumerate(sections, 1))
    contents = "\n".join(f'<li><a href="#s{n}">{_text(each.title)}</a></li>' for n, each in numbered)
    below_title = "\n".join(f'<p class="note">{_text(note)}</p>' for note in notes)
    definitions = "\n".join(f"<dt>{term}</dt><dd>{meaning}</dd>" for term, meaning in meanings.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the figures</a>
<main id="main" tabindex="-1">
<h1>{_text(title)}</h1>
{below_title}
<nav aria-label="Contents"><ul>
{contents}
<li><a href="#meaning">What the figures mean</a></li>
</ul></nav>
{"".join(_section(n, each) for n, each in numbered)}
<section>
<h2 id="meaning">What the figures mean</h2>
<dl>
{definitions}
</dl>
</section>
</main>
</body>
</html>
"""


def _section(number: int, section: Section) -> str:
    parts = [f'<h2 id="s{number}">{_text(section.title)}</h2>']
    if section.note:
        parts.append(f'<p class="note">{_text(section.note)}</p>')
    if section.rows:
        head, *rows = section.rows
        heads = "".join(f'<th scope="col">{_content(each)}</th>' for each in head)
        body = "\n".join(
            f'<tr><th scope="row">{_content(first)}</th>'
            + "".join(_cell(cell, (row, column) in section.best) for column, cell in enumerate(cells, 1))
            + "</tr>"
            for row, (first, *cells) in enumerate(rows, 1)
        )
        kind = "wide text" if section.is_text else "wide"
        parts.append(
            f'<div class="{kind}" role="region" aria-labelledby="s{number}" tabindex="0"><table>\n'
            f"<thead>\n<tr>{heads}</tr>\n</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
        )
    if section.pictures:
        figures = "\n".join(
            f"<figure>{inline_svg(each.figure, each.title, each.description, 10 * number + n)}"
            f"<figcaption><b>{_text(each.title)}.</b> {_text(each.caption)}</figcaption></figure>"
            for n, each in enumerate(section.pictures)
        )
        parts.append(f'<div class="figures">\n{figures}\n</div>')
    return "\n<section>\n" + "\n".join(parts) + "\n</section>\n"


def _cell(cell: str | Link, is_best: bool) -> str:
    return f'<td class="best">{_content(cell)}</td>' if is_best else f"<td>{_content(cell)}</td>"


def _content(cell: str | Link) -> str:
    if isinstance(cell, Link):
        return f'<a href="{escape(cell.href)}">{_text(cell.text)}</a>'
    return _text(cell)


def _text(text: str) -> str:
    """A text as HTML shows it unchanged."""
    return escape(printable(text))
