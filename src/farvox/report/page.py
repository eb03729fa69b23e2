"""The report: one HTML file of figures, curves and their meaning; nothing is loaded from outside."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from farvox.atomic import FileKind, atomic_file, refuse_to_replace, write_text
from farvox.errors import FarvoxError
from farvox.metrics.detection import (
    DetCurve,
    Ties,
    det_curve,
    detection_error,
    equal_error_rate,
    min_detection_cost,
)
from farvox.progress import printable
from farvox.report.text import rounded

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

PAGE = FileKind("report of farvox", rb"<!doctype html>.*?<style>\s*:root \{[^}]*--ink:.*?p\.note")
FIGURES = {
    ".png": FileKind("picture in PNG", rb"\x89PNG\r\n"),
    ".svg": FileKind(
        "picture in SVG", rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!DOCTYPE[^>]*>\s*)?(?:<!--.*?-->\s*)*<svg"
    ),
}
"""What figures may replace, by the suffix."""
MOST_UNMARKED = 100  # target trials from which on the best figure of a list is marked; it says little below
HEAD = ("system", "EER", "minDCF", "EER threshold", "target", "non-target")
TIES = {
    "baseline": "Equal scores are stepped through one by one, as in the FFSVC2022 baseline.",
    "grouped": "Equal scores are one threshold.",
}
COLOURS = ("#2f7de1", "#e8590c", "#2b9a66", "#a05fd0", "#c79200", "#d6336c", "#0c8599", "#868e96")
INK = "#5c6773"
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": INK}
RATES = tuple(n / 100 for n in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 40, 50, 60, 80, 90))
"""Error rates at which the axes of a DET curve may begin, end and have ticks."""


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
    """Write a report on one or several systems over one or several trial lists; returns the HTML file's path.

    Args:
        path: an ``.html`` file; or a folder, which gets ``report.html`` and every picture as PNG and SVG.
        title: of the page.
        trial_lists: name of a trial list -> the systems scored on it, in the order of the table.
        notes: sentences below the title, on the data and the systems.
        tables: heading -> rows of text, of which the first is the head; they follow the trial lists.
        p_target: prior of a target trial in the detection cost.
        ties: how equal scores are treated, see `farvox.metrics.detection`.

    Raises:
        TrialError: scores or labels are not usable.
    """
    path = Path(path)
    page = refuse_report(path)
    sections = []
    for n, (name, systems) in enumerate(trial_lists.items()):
        det, histogram = det_figure(systems, p_target=p_target, ties=ties), histogram_figure(systems)
        found = [detection_error(system.scores, system.target, p_target, ties) for system in systems]
        best_eer, best_dcf = min(each.eer for each in found), min(each.min_dcf for each in found)
        are_marked = len(found) > 1 and found[0].num_target >= MOST_UNMARKED
        rows = [
            _cell(system.name)
            + _cell(rounded(each.eer, each.num_rarer, "%"), is_best=each.eer == best_eer and are_marked)
            + _cell(rounded(each.min_dcf, each.num_rarer), is_best=each.min_dcf == best_dcf and are_marked)
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
    below_title = "\n".join(f'<p class="note">{_text(note)}</p>' for note in notes)
    definitions = "\n".join(f"<dt>{term}</dt><dd>{meaning}</dd>" for term, meaning in meanings.items())
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{_text(title)}</h1>
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
    write_text(page, text, PAGE)
    return page


def refuse_report(path: Path, inputs: Iterable[str | Path | None] = ()) -> Path:
    """Refuse a report that would destroy another file, see `refuse_to_replace`; the HTML file's path."""
    page = path if path.suffix in (".html", ".htm") else path / "report.html"
    refuse_to_replace(page, PAGE, inputs)
    for each in sorted(path.glob("*")) if page != path else ():
        if each.suffix in FIGURES and re.fullmatch(r"(det|scores)(_\d+)?", each.stem):
            refuse_to_replace(each, FIGURES[each.suffix], inputs)
    return page


def _section(title: str, head: Sequence[str], rows: Sequence[str], below: str = "") -> str:
    """A section of the page: a table, whose rows are cells in HTML, and HTML below it."""
    heads = "".join(f"<th>{_text(each)}</th>" for each in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"""
<section>
<h2>{_text(title)}</h2>
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


def _text(text: str) -> str:
    """A text as HTML shows it unchanged."""
    return escape(printable(text))


def _cell(text: str, *, is_best: bool = False) -> str:
    return f'<td class="best">{_text(text)}</td>' if is_best else f"<td>{_text(text)}</td>"


@dataclass(frozen=True)
class ScoreSet:
    """The scores of one system on one labelled trial list."""

    name: str  # of the system, in legends and tables
    scores: NDArray[np.float64] = field(repr=False)  # higher is more alike
    target: NDArray[np.int8] = field(repr=False)  # 1 for target trials, 0 for the others


def det_figure(systems: Sequence[ScoreSet], *, p_target: float = 0.01, ties: Ties = "baseline") -> Figure:
    """DET curves of one or several systems on normal-deviate axes; a dot marks the EER, a ring the minDCF.

    Raises:
        TrialError: the scores or labels of a system are not usable, see `farvox.metrics.detection.validate`.
    """
    curves = [det_curve(system.scores, system.target, ties=ties) for system in systems]
    # The axes begin at the rate that the number of trials can resolve, and end some way above the EER.
    fewest = min(min(int(s.target.sum()), len(s.target) - int(s.target.sum())) for s in systems)
    worst = max(equal_error_rate(curve)[0] for curve in curves)
    low = max([rate for rate in RATES if rate <= min(1 / fewest, 0.02)], default=RATES[0])
    high = min([rate for rate in RATES if rate >= max(0.4, 1.5 * worst)], default=RATES[-1])

    figure = _new_figure(width=5.6, height=5.2)
    axes = figure.subplots()
    _style(axes)
    for n, (system, curve) in enumerate(zip(systems, curves, strict=True)):
        colour = COLOURS[n % len(COLOURS)]
        eer, eer_threshold = equal_error_rate(curve)
        min_dcf, cost_threshold = min_detection_cost(curve, p_target=p_target)
        # In normal deviates, thinned to the points that differ visibly: at most a few thousand.
        frr, far = (ndtri(np.clip(rate, low / 2, (1 + high) / 2)) for rate in (curve.frr, curve.far))
        seen = np.round(np.stack([frr, far]) * 200).astype(np.int64)
        kept = np.append(True, np.any(seen[:, 1:] != seen[:, :-1], axis=0))
        rarer = min(int(system.target.sum()), len(system.target) - int(system.target.sum()))
        figures = f"EER {rounded(eer, rarer, '%')}, minDCF {rounded(min_dcf, rarer)}"
        label = f"{_plain(system.name)}  ({figures})"
        axes.plot(far[kept], frr[kept], color=colour, linewidth=1.8, label=label)
        _mark(axes, curve, eer_threshold, color=colour, markersize=5)
        _mark(axes, curve, cost_threshold, color=colour, markersize=8, markerfacecolor="none")
    axes.plot(ndtri([low, high]), ndtri([low, high]), color=INK, linewidth=0.7, linestyle=":")
    ticks = [rate for rate in RATES if low <= rate <= high]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ndtri(ticks), [f"{100 * rate:g}" for rate in ticks])
    axes.set(xlim=ndtri([low, high]), ylim=ndtri([low, high]), aspect="equal")
    axes.set(xlabel="false acceptance rate (%)", ylabel="false rejection rate (%)")
    figure.legend(loc="outside upper left", **LEGEND)
    return figure


def histogram_figure(systems: Sequence[ScoreSet], *, num_bins: int = 80) -> Figure:
    """Histograms of target and non-target scores, one panel a system, with the EER threshold."""
    figure = _new_figure(width=5.6, height=0.8 + 1.7 * len(systems))
    panels = figure.subplots(len(systems), 1, sharex=True, squeeze=False)[:, 0]
    for system, axes in zip(systems, panels, strict=True):
        _style(axes)
        _, threshold = equal_error_rate(det_curve(system.scores, system.target))
        edges = np.linspace(system.scores.min(), np.nextafter(system.scores.max(), np.inf), num_bins + 1)
        if edges[0] == edges[-2]:
            edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, num_bins + 1)
        for value, name, colour in ((0, "non-target", COLOURS[1]), (1, "target", COLOURS[0])):
            chosen = system.scores[system.target == value]
            share = np.histogram(chosen, edges)[0] / len(chosen)
            axes.stairs(100 * share, edges, fill=True, color=colour, alpha=0.45, label=name)
            axes.stairs(100 * share, edges, color=colour, linewidth=1)
        axes.axvline(threshold, color=INK, linewidth=1, linestyle="--", label="EER threshold")
        axes.set_ylabel("% of trials")
        axes.set_title(f"{_plain(system.name)}: threshold {threshold:.4g}", loc="left", fontsize=8, color=INK)
    panels[-1].set_xlabel("score")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, **LEGEND)
    return figure


def elbow_figure(numbers: Sequence[int], wccs: ArrayLike, chosen: int, *, truth: int | None = None) -> Figure:
    """Intra-class cosine over ascending numbers of clusters; lines mark the elbow and the truth, if known."""
    figure = _new_figure(width=5.6, height=3.6)
    axes = figure.subplots()
    axes.grid(color=INK, alpha=0.18, linewidth=0.6)
    axes.plot(numbers, np.asarray(wccs), color=COLOURS[0], linewidth=1.8, marker="o", markersize=2.5)
    axes.axvline(chosen, color=COLOURS[1], linewidth=1.2, label=f"elbow: {chosen}")
    if truth is not None:
        axes.axvline(truth, color=COLOURS[2], linewidth=1.2, linestyle="--", label=f"truth: {truth}")
    if numbers[-1] > 20 * numbers[0] and all(a < b for a, b in pairwise(numbers)):
        axes.set_xscale("log")
    axes.set(xlabel="number of clusters", ylabel="intra-class cosine")
    axes.legend(**LEGEND)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as ``.png`` or ``.svg``, whole or not at all; a `FarvoxError` for another suffix."""
    path = Path(path)
    if path.suffix == ".svg":
        data = _svg(figure, transparent=False)
    elif path.suffix == ".png":
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, facecolor="white")
        data = buffer.getvalue()
    else:
        raise FarvoxError(f"{path}: a figure is written as .png or .svg")
    with atomic_file(path, FIGURES[path.suffix]) as temporary:
        temporary.write_bytes(data)


def inline_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element of an HTML page: transparent, in the colour of the text round it.

    It holds no address, not even those that name the SVG language: an HTML page needs none.
    """
    text = _svg(figure, transparent=True).decode()
    text = text[text.index("<svg") :]
    head, _, rest = text.partition("<metadata>")
    text = head + rest.partition("</metadata>")[2] if rest else text
    for namespace in ('xmlns:xlink="http://www.w3.org/1999/xlink"', 'xmlns="http://www.w3.org/2000/svg"'):
        text = text.replace(namespace, "")
    return text.replace(INK, "currentColor")


def _svg(figure: Figure, *, transparent: bool) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "farvox"}):
        background = "none" if transparent else "white"
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor=background)
    return buffer.getvalue()


def _new_figure(*, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _style(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.grid(color=INK, alpha=0.18, linewidth=0.6)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.yaxis.label.set(color=INK, fontsize=9)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(INK)


def _plain(name: str) -> str:
    """A name as matplotlib shows it unchanged: no formula in it, and not hidden from the legend."""
    shown = " ".join(printable(name).split())
    return (" " + shown if shown.startswith("_") else shown).replace("$", r"\$")


def _mark(axes: Axes, curve: DetCurve, threshold: float, **style: Any) -> None:
    """Mark the point of a threshold."""
    n = int(np.argmax(curve.threshold == threshold))
    if 0 < curve.far[n] < 1 and 0 < curve.frr[n] < 1:  # a rate of 0 or 1 has no place on these axes
        axes.plot([ndtri(curve.far[n])], [ndtri(curve.frr[n])], "o", **style)
