"""The one-file report."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from farvox.errors import FarvoxError, TrialError
from farvox.metrics.detection import detection_error
from farvox.report.figures import (
    COLOURS,
    INK,
    ScoreSet,
    det_figure,
    histogram_figure,
    inline_svg,
    save_figure,
)
from farvox.report.page import Section, write_report

VOID = {"meta", "br", "link", "img"}


class Balanced(HTMLParser):
    """Collects the texts and checks that every element is closed in its place."""

    def __init__(self):
        super().__init__()
        self.open, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def systems(*names):
    target = (np.arange(300) % 3 == 0).astype(np.int8)
    draw = np.random.default_rng(5).standard_normal
    return [ScoreSet(name, draw(300) + (1 + n) * target, target) for n, name in enumerate(names)]


def test_the_page_holds_the_figures_of_every_system_and_trial_list(tmp_path):
    lists = {"near-near": systems("pre-trained", "+ mix <b>"), "near-far": systems("pre-trained")}
    page = write_report(tmp_path / "r.html", "Demo & more", lists, notes=["The voices are synthetic."])
    parser = Balanced()
    parser.feed(page.read_text("utf-8"))
    assert parser.open == []
    text = " ".join(parser.texts)
    for s in lists["near-near"] + lists["near-far"]:
        figures = detection_error(s.scores, s.target)
        assert s.name in text and f"{100 * figures.eer:.1f} %" in text and f"{figures.min_dcf:.2f}" in text
    assert "Demo & more" in text and "The voices are synthetic." in text and "near-far" in text


def test_the_best_figure_is_marked_only_where_there_are_a_hundred_target_trials(tmp_path):
    many = systems("a", "b")
    few = [ScoreSet(each.name, each.scores[:297], each.target[:297]) for each in many]
    marked = [
        'class="best"' in write_report(tmp_path / "r.html", "Demo", {"trials": each}).read_text("utf-8")
        for each in (many, few)
    ]
    assert marked == [True, False]


def test_the_page_loads_nothing_and_follows_the_colour_scheme_of_the_reader(tmp_path):
    page = write_report(tmp_path / "r.html", "Demo", {"trials": systems("a")}).read_text("utf-8")
    assert "http" not in page and "<script" not in page and "<link" not in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert "prefers-color-scheme: dark" in page


def test_a_folder_gets_the_page_and_every_picture(tmp_path):
    page = write_report(tmp_path / "out", "Demo", {"one": systems("a"), "two": systems("a")})
    assert page == tmp_path / "out" / "report.html"
    pictures = {
        f"{stem}_{n}{suffix}" for stem in ("det", "scores") for n in (1, 2) for suffix in (".png", ".svg")
    }
    assert {path.name for path in page.parent.iterdir()} == {"report.html", *pictures}


def test_the_prior_and_the_rule_for_ties_are_said(tmp_path):
    page = write_report(tmp_path / "r.html", "x", {"t": systems("a")}, p_target=0.05, ties="grouped")
    assert "0.05" in page.read_text() and "Equal scores are one threshold" in page.read_text()


def score_set(name="system", num_trials=400, gap=2.0):
    target = (np.arange(num_trials) % 4 == 0).astype(np.int8)
    scores = np.random.default_rng(num_trials).standard_normal(num_trials) + gap * target
    return ScoreSet(name, scores, target)


def curves(figure):
    return [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]


def test_a_curve_is_drawn_in_normal_deviates_and_marked_at_its_eer():
    system = score_set()
    figure = det_figure([system])
    eer = detection_error(system.scores, system.target).eer
    dot = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 1)
    assert float(dot.get_xdata()[0]) == pytest.approx(ndtri(eer), abs=0.05)
    (curve,) = curves(figure)
    assert (np.diff(curve.get_xdata()) <= 0).all() and (np.diff(curve.get_ydata()) >= 0).all()


def test_normally_distributed_scores_give_a_straight_line():
    (curve,) = curves(det_figure([score_set(num_trials=400_000)]))
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    middle = (abs(x) < 2) & (abs(y) < 2)
    assert np.abs(x[middle] + y[middle] + 2).max() < 0.05


def test_several_systems_share_one_picture_and_have_their_names_in_the_legend():
    figure = det_figure([score_set("near"), score_set("_far $x$", gap=1)])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0].startswith("near  (EER") and texts[1].startswith(r" _far \$x\$  (EER")
    assert len({line.get_color() for line in curves(figure)}) == 2


def test_a_curve_of_many_trials_is_thinned_but_not_moved():
    system = score_set(num_trials=200_000)
    (curve,) = curves(det_figure([system]))
    assert len(curve.get_xdata()) < 5000


@pytest.mark.parametrize("gap", [50.0, 0.0, -50.0])
@pytest.mark.parametrize("num_trials", [4, 400])
def test_perfect_and_useless_systems_can_be_drawn(tmp_path, gap, num_trials):
    system = score_set(num_trials=num_trials, gap=gap)
    save_figure(det_figure([system]), tmp_path / "det.png")
    save_figure(histogram_figure([system]), tmp_path / "scores.png")
    assert (tmp_path / "det.png").read_bytes().startswith(b"\x89PNG")


def test_scores_that_are_all_equal_have_a_histogram(tmp_path):
    system = ScoreSet("flat", np.full(6, 0.25), np.array([0, 1, 0, 1, 0, 1], np.int8))
    save_figure(histogram_figure([system]), tmp_path / "scores.svg")
    save_figure(det_figure([system]), tmp_path / "det.svg")
    assert ET.parse(tmp_path / "scores.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(("factor", "shared"), [(1, True), (1.5, True), (-40, False)])
def test_histograms_share_an_axis_where_the_scales_are_alike(factor, shared):
    one = score_set("cosine")
    other = ScoreSet("llr", factor * one.scores, one.target)
    figure = histogram_figure([one, other])
    ranges = [axes.get_xlim() for axes in figure.axes]
    assert (ranges[0] == ranges[1]) is shared
    for (low, high), system in zip(ranges, (one, other), strict=True):
        assert low <= system.scores.min() and high >= system.scores.max()
        assert shared or high - low < 1.2 * np.ptp(system.scores)


def test_the_same_scores_give_the_same_bytes(tmp_path):
    for name in ("one.svg", "two.svg"):
        save_figure(det_figure([score_set()]), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_an_inline_picture_points_to_nothing_outside():
    svg = inline_svg(histogram_figure([score_set("a"), score_set("b")]))
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert "http" not in svg and "threshold" in svg


def test_an_inline_picture_takes_the_colour_of_the_text_round_it():
    svg = inline_svg(det_figure([score_set()]))
    assert "currentColor" in svg and INK not in svg and COLOURS[0] in svg


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(FarvoxError, match=r"det\.gif: a figure is written as \.png, \.svg or \.pdf"):
        save_figure(det_figure([score_set()]), tmp_path / "det.gif")


def test_scores_without_targets_are_refused():
    with pytest.raises(TrialError, match="none of the 3 trials is a target trial"):
        det_figure([ScoreSet("x", np.arange(3.0), np.zeros(3, np.int8))])


HOSTILE = st.sampled_from(
    [
        "<script>alert(1)</script>",
        "</title><b>",
        '" onload="x',
        "&lt;",
        "\x1b[2J",
        "a\u202eb",
        "$x^2$",
        "\\$",
        "_",
        "",
    ]
) | st.text("<>&'\"/$\\_^{}\x1b\n\u202e a%", max_size=8)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A report of harmless names."""
    return write_report(
        tmp_path_factory.mktemp("report") / "plain.html",
        "t",
        {"n": systems("s")},
        notes=["o"],
        sections=[Section("by n", [["condition", "c"], ["c", "c"]], note="of o")],
    ).read_text("utf-8")


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(title=HOSTILE, name=HOSTILE, system=HOSTILE, note=HOSTILE, cell=HOSTILE)
def test_no_name_becomes_markup(plain, tmp_path_factory, title, name, system, note, cell):
    folder = tmp_path_factory.mktemp("report")
    sections = [Section(f"by {name}", [["condition", cell], [cell, cell]], note=f"of {note}")]
    hostile = write_report(
        folder / "a.html", title, {name: systems(system)}, notes=[note], sections=sections
    ).read_text("utf-8")
    parser = Balanced()
    parser.feed(hostile)
    assert parser.open == []
    assert (
        re.findall(
            r"<script|\son\w+=", re.sub(r"<(title|desc|h1|h2|p|a|td|th|text)[^>]*>[^<]*<", "<", hostile)
        )
        == []
    )
    outside = (re.sub(r"(?s)<svg.*?</svg>", "", page) for page in (hostile, plain))
    assert len({tuple(re.findall(r"<[^>]*>", page)) for page in outside}) == 1
    assert not set(hostile) & set("\x1b\u202e")
