"""The figures of the docs, for both colour schemes.

    python benchmarks/figures.py                 those that show a table of a page, and the way of the data
    python benchmarks/figures.py LISTS TUNE EMB  also those of scores: the lists of the far-field test, of the
                                                 speakers that settings are chosen on, and a folder with the
                                                 embeddings of both: EMB/<name of LISTS>/near, ...

A figure of a table is drawn from the Markdown of its page, so that both say the same.
"""

from __future__ import annotations

import io
import re
import sys
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from farvox.pipelines.evaluate import EvaluateOptions, det_bands
from farvox.pipelines.score import Scores, score
from farvox.report.figures import (
    COLOURS,
    INK,
    LEGEND,
    WIDTH,
    DetBand,
    ScoreSet,
    det_figure,
    reliability_figure,
)
from farvox.score.calibrate import fit_llr

DOCS = Path(__file__).parents[1] / "docs"
STYLE = """<style>
svg { --paper: #ffffff; --ink: #4a5560; color: var(--ink) }
@media (prefers-color-scheme: dark) { svg { --paper: #1e2129; --ink: #c3cad3 } }
</style>"""
"""The colours of a figure, which is its own paper: also where the reader's scheme is not the page's."""

STAGES = (
    ("corpus", "recordings as their publisher ships them", "prepare"),
    ("data dir", "wav.scp, utt2spk, utt2cond: text", "extract"),
    ("embeddings", "one vector a recording: embeddings.npy", "score"),
    ("scores", "one number a trial", "evaluate, calibrate"),
    ("decision", "EER with its interval; a threshold; yes or no", ""),
)


def save(figure: Figure, name: str) -> None:
    """Write a figure of matplotlib as ``docs/images/NAME``, its ink and paper by the scheme."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "farvox"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="#fffffe")
    text = buffer.getvalue().decode().replace("#fffffe", "var(--paper)").replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>\n?", "", text, flags=re.DOTALL)
    write(name, re.sub(r"(<svg[^>]*>)", rf"\1\n{STYLE}", text, count=1))


def write(name: str, text: str) -> None:
    """Write a figure without the blanks at the ends of its lines."""
    lines = [line.rstrip() for line in text.splitlines()]
    (DOCS / "images" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(page: str, head: str) -> list[list[str]]:
    """The rows of the table of a page whose heading begins with ``head``, without marks of weight."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(head))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("*") for cell in line.strip("|").split("|")])
    return rows


def numbers(text: str) -> list[float]:
    """The numbers of a cell."""
    return [float(each) for each in re.findall(r"\d+(?:\.\d+)?", text)]


def new_axes(rows: int) -> tuple[Figure, Axes]:
    """An empty figure with room for so many rows, in the look of the report."""
    figure = Figure(figsize=(WIDTH, 0.9 + 0.26 * rows), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.grid(axis="x", color=INK, alpha=0.25, linewidth=0.6)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(INK)
    axes.set_ylim(rows - 0.4, -0.6)
    return figure, axes


def draw_pipeline() -> None:
    """Five stages below one another, with the verbs between them."""
    step, width, box = 74, 430, 46
    height = step * (len(STAGES) - 1) + box + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif">',
        STYLE,
        f'<rect width="{width}" height="{height}" fill="var(--paper)"/>',
    ]
    for n, (name, what, verb) in enumerate(STAGES):
        top, colour = 4 + n * step, COLOURS[(0, 0, 2, 3, 1)[n]]
        parts += [
            f'<rect x="4" y="{top}" width="{width - 8}" height="{box}" rx="6" fill="{colour}" '
            f'fill-opacity="0.12" stroke="{colour}" stroke-width="1.5"/>',
            f'<text x="16" y="{top + 28}" font-size="15" font-weight="600" fill="currentColor">{name}</text>',
            f'<text x="132" y="{top + 28}" font-size="13" fill="currentColor">{escape(what)}</text>',
        ]
        if verb:
            below = top + box
            parts += [
                f'<path d="M60 {below + 2}v{step - box - 8}m-5 -7l5 7l5 -7" fill="none" '
                'stroke="currentColor" stroke-width="1.5"/>',
                f'<text x="132" y="{below + 18}" font-size="13" font-family="monospace" '
                f'fill="currentColor">farvox {escape(verb)}</text>',
            ]
    write("pipeline.svg", "\n".join([*parts, "</svg>"]))


def draw_channels() -> None:
    """EER and interval of each rule, of docs/channels.md, for three sets of microphones."""
    rows = table("channels.md", "| channels | rule |")
    rules = ("one channel", "mean-norm", "best", "WPE", "delay-and-sum", "MVDR")
    sets = ("4 channels", "16 channels", "4 ad hoc")
    figure, axes = new_axes(2 * len(rules))
    for n, channels in enumerate(sets):
        found = {row[1]: row for row in rows if row[0] == channels and numbers(row[5])}
        for place, rule in enumerate(rules):
            if rule in found:
                eer, (low, high) = numbers(found[rule][4])[0], numbers(found[rule][5])
                row = place + (n - 1) * 0.24
                axes.plot([low, high], [row, row], color=COLOURS[n], linewidth=1.6)
                axes.plot([eer], [row], "osD"[n], color=COLOURS[n], label=channels if not place else None)
    axes.set_ylim(len(rules) - 0.5, -0.5)
    axes.set_yticks(range(len(rules)), rules)
    axes.set_xlim(left=0)
    axes.set_xlabel("EER (%) and its 95 % interval, 25 speakers", color=INK, fontsize=9)
    figure.legend(loc="outside upper left", ncols=3, **LEGEND)
    save(figure, "channels.svg")


def draw_gain() -> None:
    """EER before and after the fine-tuning of docs/farfield.md, by list and back-end."""
    rows = table("farfield.md", "| list | back-end | EER before |")
    figure, axes = new_axes(len(rows))
    for n, row in enumerate(rows):
        before, (after, low, high) = numbers(row[2])[0], numbers(row[3])[:3]
        axes.annotate(
            "", (after, n), (before, n), arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.2}
        )
        axes.plot([low, high], [n, n], color=COLOURS[2], linewidth=3, alpha=0.5)
        axes.plot([before], [n], "o", color=COLOURS[1], label="as it came" if not n else None)
        axes.plot([after], [n], "s", color=COLOURS[2], label="fine-tuned, three seeds" if not n else None)
    axes.set_yticks(range(len(rows)), [f"{row[0]}, {row[1]}" for row in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel("EER (%)", color=INK, fontsize=9)
    figure.legend(loc="outside upper left", ncols=2, **LEGEND)
    save(figure, "farfield.svg")


def scores_of(lists: Path, embeddings: Path, name: str) -> Scores:
    """The cosines of a list of the far-field test."""
    folders = [embeddings / lists.name / part for part in ("enrol", name)]
    return score(lists / f"{name}.trials", folders)


def draw_det(lists: Path, embeddings: Path) -> None:
    """DET curves of near and far tests, with bands by resampling the speakers."""
    options = EvaluateOptions(intervals=True, speaker_before="-")
    sets = []
    for name in ("near", "far-a"):
        found = scores_of(lists, embeddings, name)
        assert found.trials.target is not None
        band = DetBand(*det_bands([found], options)[0])
        sets.append(ScoreSet(name, found.values, found.trials.target, band))
    save(det_figure(sets), "det.svg")


def draw_calibration(lists: Path, tune: Path, embeddings: Path) -> None:
    """Log-likelihood ratios given and observed on far tests: fitted on near tests, and on far ones."""
    far = scores_of(lists, embeddings, "far-b")
    sets = []
    for name in ("near", "far-b"):
        others = scores_of(tune, embeddings, name)
        assert others.trials.target is not None and far.trials.target is not None
        weights, offset = fit_llr(others.values, others.trials.target)
        label = f"fitted on {'near' if name == 'near' else 'far'} tests"
        sets.append(ScoreSet(label, float(weights[0]) * far.values + offset, far.trials.target))
    save(reliability_figure(sets), "calibration.svg")


def main(*folders: str) -> None:
    """Draw the figures; those of scores where the folders are named."""
    draw_pipeline()
    draw_channels()
    draw_gain()
    if folders:
        lists, tune, embeddings = map(Path, folders)
        draw_det(lists, embeddings)
        draw_calibration(lists, tune, embeddings)


if __name__ == "__main__":
    main(*sys.argv[1:])
