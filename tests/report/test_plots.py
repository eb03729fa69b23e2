"""DET curves and histograms."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy.special import ndtri

from farvox.errors import FarvoxError, TrialError
from farvox.metrics.detection import detection_error
from farvox.report.plots import COLOURS, INK, ScoreSet, det_figure, histogram_figure, inline_svg, save_figure


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
    dot = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
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
    with pytest.raises(FarvoxError, match=r"det\.pdf: a figure is written as \.png or \.svg"):
        save_figure(det_figure([score_set()]), tmp_path / "det.pdf")


def test_scores_without_targets_are_refused():
    with pytest.raises(TrialError, match="none of the 3 trials is a target trial"):
        det_figure([ScoreSet("x", np.arange(3.0), np.zeros(3, np.int8))])
