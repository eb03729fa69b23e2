"""Figures of a report and of a paper: DET curves, histograms, reliability, conditions, and the elbow.

Systems are told apart by colour, dash and marker. Text has its size in points of the printed figure, so that
a figure of any width has readable text when it is printed at that width.

Reference:
    D. Freedman and P. Diaconis, On the histogram as a density estimator, 1981 (width of a bin).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
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

from farvox.atomic import FileKind, atomic_file
from farvox.errors import FarvoxError, UsageError
from farvox.metrics.detection import (
    Floats,
    Ties,
    det_curve,
    detection_error,
    equal_error_rate,
    min_detection_cost,
)
from farvox.metrics.roc import reliability
from farvox.progress import printable
from farvox.report.text import rounded

COLOURS = ("#2f7de1", "#e8590c", "#2b9a66", "#a05fd0", "#c79200", "#d6336c", "#0c8599", "#868e96")
DASHES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (6, 1, 1, 1, 1, 1)),
    (0, (1, 2)),
    (0, (8, 3)),
    (0, (3, 1)),
)
MARKERS = "os^DvPX*"
INK = "#5c6773"
WIDTH = 4.4  # inches; so narrow that text can be read on a phone
SMALL = 8  # points
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "labelcolor": INK}
RATES = tuple(n / 100 for n in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 40, 50, 60, 80, 90))
"""Error rates at which the axes of a DET curve may begin, end and have ticks."""
SUFFIXES = (".png", ".svg", ".pdf")
"""Suffixes of the files that a figure is written as."""
FIGURES = {
    ".png": FileKind("picture in PNG", rb"\x89PNG\r\n"),
    ".svg": FileKind(
        "picture in SVG", rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!DOCTYPE[^>]*>\s*)?(?:<!--.*?-->\s*)*<svg"
    ),
    ".pdf": FileKind("picture in PDF", rb"%PDF-"),
}
"""What figures may replace, by the suffix."""


@dataclass(frozen=True)
class DetBand:
    """The intervals of the FRR of one system at some FARs, fractions, each [num_fars]."""

    far: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class ScoreSet:
    """The scores of one system on one labelled trial list."""

    name: str  # of the system, in legends and tables
    scores: NDArray[np.float64] = field(repr=False)  # higher is more alike
    target: NDArray[np.int8] = field(repr=False)  # 1 for target trials, 0 for the others
    band: DetBand | None = field(default=None, repr=False)  # round its DET curve


def det_figure(
    systems: Sequence[ScoreSet], *, p_target: float = 0.01, ties: Ties = "baseline", width: float = WIDTH
) -> Figure:
    """DET curves of one or several systems on normal-deviate axes, with their bands.

    A filled mark is the EER, a hollow one the minDCF; where it lies outside of the axes, it stands at their
    edge. The curve of many trials is thinned to the points that differ visibly, at most a few thousand.

    Args:
        systems: their scores and bands.
        p_target: prior of a target trial in the detection cost.
        ties: how equal scores are treated, see `farvox.metrics.detection`.
        width: inches.

    Raises:
        TrialError: the scores or labels of a system are not usable, see `farvox.metrics.detection.validate`.
    """
    points, curves = [], []
    for system in systems:
        curve = det_curve(system.scores, system.target, ties=ties)
        eer, eer_threshold = equal_error_rate(curve)
        min_dcf, cost_threshold = min_detection_cost(curve, p_target=p_target)
        at = [int(np.argmax(curve.threshold == each)) for each in (eer_threshold, cost_threshold)]
        points.append((eer, min_dcf, [(float(curve.far[n]), float(curve.frr[n])) for n in at]))
        far_frr = ndtri(np.clip(np.stack([curve.far, curve.frr]), RATES[0] / 2, (1 + RATES[-1]) / 2))
        seen = np.round(far_frr * 200).astype(np.int64)
        curves.append(far_frr[:, np.append(True, np.any(seen[:, 1:] != seen[:, :-1], axis=0))])
    # An axis begins at the rate that the number of trials can resolve, and ends some way above the EER.
    num_target = min(int(system.target.sum()) for system in systems)
    num_nontarget = min(len(system.target) - int(system.target.sum()) for system in systems)
    worst = max(eer for eer, _, _ in points)
    highest = [max([worst * 1.5, 0.4, *(1.1 * marks[1][side] for _, _, marks in points)]) for side in (0, 1)]
    lowest = [
        min([1 / num_trials, 0.02, *(0.9 * marks[1][side] for _, _, marks in points if marks[1][side] > 0)])
        for side, num_trials in ((0, max(num_nontarget, 1)), (1, max(num_target, 1)))
    ]
    limits = [
        (
            max([rate for rate in RATES if rate <= low], default=RATES[0]),
            min([rate for rate in RATES if rate >= high], default=RATES[-1]),
        )
        for low, high in zip(lowest, highest, strict=True)
    ]

    figure = _new_figure(width=width, height=width + 0.17 * len(systems))
    axes = figure.subplots()
    _style(axes)
    for n, (system, curve_2P, (eer, min_dcf, marks)) in enumerate(zip(systems, curves, points, strict=True)):
        look = _look(n)
        rarer = min(int(system.target.sum()), len(system.target) - int(system.target.sum()))
        figures = f"EER {rounded(eer, rarer, '%')}, minDCF {rounded(min_dcf, rarer)}"
        if system.band:
            far, low, high = (
                ndtri(np.clip(each, RATES[0] / 2, (1 + RATES[-1]) / 2))
                for each in (system.band.far, system.band.low, system.band.high)
            )
            axes.fill_between(far, low, high, color=look["color"], alpha=0.15, linewidth=0)
        label = f"{_plain(system.name)}  ({figures})"
        axes.plot(*curve_2P, linewidth=1.6, label=label, **(look | {"markevery": []}))
        # A rate of 0 or 1 has no place on these axes.
        for (far_at, frr_at), size, fill in zip(marks, (5, 8), (look["color"], "none"), strict=True):
            rates = zip((far_at, frr_at), limits, strict=True)
            if fill == "none" or (0 < far_at < 1 and 0 < frr_at < 1):
                axes.plot(
                    *([ndtri(np.clip(rate, *ends))] for rate, ends in rates),
                    look["marker"],
                    color=look["color"],
                    markerfacecolor=fill,
                    markersize=size,
                    clip_on=False,
                    zorder=3,
                )
    both = max(limits[0][0], limits[1][0]), min(limits[0][1], limits[1][1])
    axes.plot(ndtri(both), ndtri(both), color=INK, linewidth=0.7, linestyle=":")
    for axis, (low_rate, high_rate) in zip((axes.xaxis, axes.yaxis), limits, strict=True):
        ticks: list[float] = []
        least = (ndtri(high_rate) - ndtri(low_rate)) / 10
        for rate in (rate for rate in RATES if low_rate <= rate <= high_rate):
            if not ticks or ndtri(rate) - ndtri(ticks[-1]) > least:
                ticks.append(rate)
        axis.set_ticks(ndtri(ticks), [f"{100 * rate:g}" for rate in ticks])
    axes.set(xlim=ndtri(limits[0]), ylim=ndtri(limits[1]))
    axes.set(xlabel="false acceptance rate, FAR (%)", ylabel="false rejection rate, FRR (%)")
    figure.legend(loc="outside upper left", handlelength=3.2, **LEGEND)
    return figure


def histogram_figure(systems: Sequence[ScoreSet], *, width: float = WIDTH) -> Figure:
    """Histograms of target and non-target scores, one panel a system, with the EER threshold.

    The width of a bin is ``2 IQR / cube root of n`` of the rarer kind (Freedman and Diaconis), so that few
    trials have few bins. Systems of one scale share their axis: all scores span at most twice those of each.
    """
    figure = _new_figure(width=width, height=0.8 + 1.7 * len(systems))
    lowest, highest = ([float(of(each.scores)) for each in systems] for of in (np.min, np.max))
    spans = [high - low for low, high in zip(lowest, highest, strict=True)]
    one_scale = max(highest) - min(lowest) <= 2 * min(spans)
    panels = figure.subplots(len(systems), 1, sharex=one_scale, squeeze=False)[:, 0]
    for system, axes in zip(systems, panels, strict=True):
        _style(axes)
        threshold = detection_error(system.scores, system.target).threshold
        edges = _bin_edges(system)
        for value, name, colour, dash in (
            (0, "non-target", COLOURS[1], "--"),
            (1, "target", COLOURS[0], "-"),
        ):
            chosen = system.scores[system.target == value]
            share = np.histogram(chosen, edges)[0] / len(chosen)
            axes.stairs(100 * share, edges, fill=True, color=colour, alpha=0.35, label=name)
            axes.stairs(100 * share, edges, color=colour, linewidth=1.2, linestyle=dash)
        axes.axvline(threshold, color=INK, linewidth=1, linestyle=":", label="EER threshold")
        axes.set_ylabel("% of trials")
        axes.set_title(
            f"{_plain(system.name)}: threshold {threshold:.4g}", loc="left", fontsize=SMALL, color=INK
        )
    panels[-1].set_xlabel("score")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, **LEGEND)
    return figure


def _bin_edges(system: ScoreSet) -> Floats:
    low, high = float(system.scores.min()), float(np.nextafter(system.scores.max(), np.inf))
    num_target = int(system.target.sum())
    rarer = system.scores[system.target == (num_target <= len(system.target) - num_target)]
    quarters = np.percentile(rarer, [25, 75])
    bin_width = 2 * float(quarters[1] - quarters[0]) / len(rarer) ** (1 / 3)
    num_bins = int(np.clip((high - low) / bin_width, 8, 200)) if bin_width > 0 else 8
    edges = np.linspace(low, high, num_bins + 1)
    return np.linspace(low - 0.5, low + 0.5, 9) if edges[0] == edges[-2] else edges


def reliability_figure(systems: Sequence[ScoreSet], *, width: float = WIDTH) -> Figure:
    """The log-likelihood ratios that were given against those that were observed; right on the diagonal.

    Raises:
        TrialError: see `farvox.metrics.detection.validate`.
    """
    figure = _new_figure(width=width, height=width + 0.17 * len(systems))
    axes = figure.subplots()
    _style(axes)
    ends = [0.0]
    for n, system in enumerate(systems):
        found = reliability(system.scores, system.target)
        rarer = min(int(system.target.sum()), len(system.target) - int(system.target.sum()))
        costs = f"Cllr {rounded(found.cllr, rarer)}, minCllr {rounded(found.min_cllr, rarer)}"
        label = f"{_plain(system.name)}  ({costs})"
        axes.plot(found.given_B, found.observed_B, label=label, linewidth=1.4, markersize=4.5, **_look(n))
        ends += [*found.given_B, *found.observed_B]
    span = min(ends), max(ends)
    axes.plot(span, span, color=INK, linewidth=0.8, linestyle=":", label="calibrated")
    axes.set(xlabel="log-likelihood ratio, given", ylabel="log-likelihood ratio, observed")
    figure.legend(loc="outside upper left", handlelength=3.2, **LEGEND)
    return figure


def forest_figure(
    conditions: Mapping[str, Sequence[Mapping[str, Any]]],
    pooled: Mapping[str, float],
    *,
    width: float = WIDTH,
) -> Figure:
    """The EER of each condition by each system, with its interval where it is known.

    Args:
        conditions: name of a system -> its conditions, as `farvox.pipelines.evaluate` has them.
        pooled: name of a system -> its EER on all trials, a vertical line.
        width: inches.
    """
    names = [
        ", ".join(value or "unknown" for value in map(str, each["condition"].values()))
        for each in next(iter(conditions.values()))
    ]
    figure = _new_figure(width=width, height=0.9 + (0.14 + 0.16 * len(conditions)) * len(names))
    axes = figure.subplots()
    _style(axes)
    for n, (system, cells) in enumerate(conditions.items()):
        look = _look(n)
        rows = np.arange(len(cells)) + (n - (len(conditions) - 1) / 2) * 0.7 / len(conditions)
        seen = False
        for row, cell in zip(rows, cells, strict=True):
            if cell["eer"] is None:
                continue
            eer, found = 100 * cell["eer"], cell.get("intervals")
            if found:
                axes.plot([100 * end for end in found["eer"]], [row, row], color=look["color"], linewidth=1.4)
            label = None if seen else _plain(system)
            axes.plot([eer], [row], look["marker"], color=look["color"], markersize=5, label=label)
            seen = True
        axes.axvline(100 * pooled[system], color=look["color"], linewidth=0.9, linestyle=look["linestyle"])
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.set(xlabel="EER (%); line: all trials", ylim=(len(names) - 0.4, -0.6))
    axes.set_xlim(left=0)
    figure.legend(loc="outside upper left", ncols=2, **LEGEND)
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


def inches(text: str) -> float:
    """A width such as ``8.5cm``, ``85mm`` or ``3.4in``, in inches.

    Raises:
        UsageError: it is not one, or not between 2 and 40 cm.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(cm|mm|in)", text)
    per_inch = {"cm": 2.54, "mm": 25.4, "in": 1.0}
    width = float(found[1]) / per_inch[found[2]] if found else 0.0
    if not 2 <= 2.54 * width <= 40:
        raise UsageError(f"--width {text}: give 2 to 40 cm, as in 8.5cm, 85mm or 3.4in")
    return width


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure by its suffix, one of `SUFFIXES`, whole or not at all; a `FarvoxError` for another."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise FarvoxError(f"{path}: a figure is written as .png, .svg or .pdf")
    with atomic_file(path, FIGURES[path.suffix]) as temporary:
        temporary.write_bytes(_drawn(figure, path.suffix[1:], background="white"))


def inline_svg(figure: Figure, title: str = "", description: str = "", number: int = 0) -> str:
    """The figure as an ``<svg>`` element of an HTML page: transparent, in the colour of the text round it.

    It holds no address, not even those that name the SVG language: an HTML page needs none.

    Args:
        title, description: what is read in place of the figure.
        number: of the figure on the page, before every id in it.
    """
    text = _drawn(figure, "svg", background="none").decode()
    text = text[text.index("<svg") :]
    head, _, rest = text.partition("<metadata>")
    text = head + rest.partition("</metadata>")[2] if rest else text
    for namespace in ('xmlns:xlink="http://www.w3.org/1999/xlink"', 'xmlns="http://www.w3.org/2000/svg"'):
        text = text.replace(namespace, "")
    text = re.sub(r'((?: id|:href)="#?|url\(#)', rf"\g<1>f{number}-", text)
    start, _, drawing = text.partition(">")
    names = f'role="img" aria-labelledby="f{number}-title f{number}-desc"'
    labels = "".join(
        f'<{tag} id="f{number}-{tag}">{escape(printable(text))}</{tag}>'
        for tag, text in (("title", title), ("desc", description))
    )
    return f"{start} {names}>{labels}{drawing}".replace(INK, "currentColor")


def _drawn(figure: Figure, form: str, background: str) -> bytes:
    """The bytes of a file: the same for the same figure, with text as text and fonts that a journal takes."""
    buffer = io.BytesIO()
    without_date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    fonts: Any = {"svg.fonttype": "none", "svg.hashsalt": "farvox", "pdf.fonttype": 42}
    with matplotlib.rc_context(fonts):
        figure.savefig(buffer, format=form, dpi=200, metadata=without_date, facecolor=background)
    return buffer.getvalue()


def _new_figure(*, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _look(n: int) -> dict[str, Any]:
    """Colour, dash and marker of a system by its number."""
    return {
        "color": COLOURS[n % len(COLOURS)],
        "linestyle": DASHES[n % len(DASHES)],
        "marker": MARKERS[n % len(MARKERS)],
    }


def _style(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.grid(color=INK, alpha=0.18, linewidth=0.6)
    axes.tick_params(colors=INK, labelsize=SMALL, length=0)
    axes.xaxis.label.set(color=INK, fontsize=SMALL + 1)
    axes.yaxis.label.set(color=INK, fontsize=SMALL + 1)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(INK)


def _plain(name: str) -> str:
    """A name as matplotlib shows it unchanged: no formula in it, and not hidden from the legend."""
    shown = " ".join(printable(name).split())
    return (" " + shown if shown.startswith("_") else shown).replace("$", r"\$")
