"""The curve by which a number of clusters was chosen, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from farvox.report.det import COLOURS, INK


def elbow_figure(numbers: Sequence[int], wccs: ArrayLike, chosen: int, *, truth: int | None = None) -> Figure:
    """Intra-class cosine over the number of clusters; a line marks the elbow, another the truth, if known.

    Args:
        numbers: numbers of clusters tried, ascending [C].
        wccs: their intra-class cosine [C].
        chosen: the number at the elbow.
        truth: the true number of speakers.
    """
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(color=INK, alpha=0.18, linewidth=0.6)
    axes.plot(numbers, np.asarray(wccs), color=COLOURS[0], linewidth=1.8, marker="o", markersize=2.5)
    axes.axvline(chosen, color=COLOURS[1], linewidth=1.2, label=f"elbow: {chosen}")
    if truth is not None:
        axes.axvline(truth, color=COLOURS[2], linewidth=1.2, linestyle="--", label=f"truth: {truth}")
    if numbers[-1] > 20 * numbers[0] and all(a < b for a, b in pairwise(numbers)):
        axes.set_xscale("log")
    axes.set(xlabel="number of clusters", ylabel="intra-class cosine")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure
