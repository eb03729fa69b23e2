"""EER and minDCF: equal to the baseline's, and right by a slow definition of our own."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.errors import TrialError
from farvox.metrics import detection
from farvox.metrics.detection import (
    DetCurve,
    det_curve,
    detection_error,
    equal_error_rate,
    equalised_curve,
    min_detection_cost,
    validate,
)

GOLDEN = Path(__file__).parents[1] / "golden"
scores_of = runpy.run_path(str(GOLDEN / "make_metrics.py"))["scores_of"]
RESULTS = json.loads((GOLDEN / "metrics.json").read_text())["results"]


@st.composite
def scored_trials(draw, distinct=False):
    """Scores on a coarse grid (so that many are equal, unless distinct), with both kinds of trials."""
    grid = st.integers(-20, 20) if not distinct else st.integers(-5000, 5000)
    scores = draw(st.lists(grid, min_size=2, max_size=60, unique=distinct))
    target = draw(
        st.lists(st.integers(0, 1), min_size=len(scores), max_size=len(scores)).filter(
            lambda labels: 0 < sum(labels) < len(labels)
        )
    )
    return np.array(scores) / 8, np.array(target)


@pytest.mark.parametrize("frozen", RESULTS, ids=lambda r: f"{r['case']}, prior {r['p_target']}")
def test_the_figures_are_those_of_the_baseline(frozen):
    scores, target = scores_of(frozen["case"])
    found = detection_error(scores, target, frozen["p_target"])
    for name in ("eer", "threshold", "min_dcf", "min_dcf_threshold"):
        assert getattr(found, name) == pytest.approx(frozen[name], rel=1e-12, abs=1e-12), name
    assert (found.num_target, found.num_nontarget) == ((target == 1).sum(), (target == 0).sum())


def test_the_order_of_the_trials_does_not_matter():
    scores, target = scores_of("ties of one decimal")
    shuffled = np.random.default_rng(0).permutation(len(scores))
    assert detection_error(scores[shuffled], target[shuffled]) == detection_error(scores, target)


@given(scored_trials())
def test_grouped_figures_follow_the_definition(trials):
    scores, target = trials
    points = []
    for threshold in [scores.min() - 1, *sorted(set(scores))]:
        rejected = scores <= threshold
        frr = np.mean([r for r, t in zip(rejected, target, strict=True) if t])
        far = np.mean([not r for r, t in zip(rejected, target, strict=True) if not t])
        points.append((frr, far))
    nearest = min(abs(frr - far) for frr, far in points)
    cost = min(0.01 * frr + 0.99 * far for frr, far in points) / 0.01
    found = detection_error(scores, target, ties="grouped")
    assert found.min_dcf == pytest.approx(cost, abs=1e-12)
    near = [(frr + far) / 2 for frr, far in points if abs(frr - far) < nearest + 1e-12]
    assert any(found.eer == pytest.approx(eer, abs=1e-12) for eer in near)


def plain_curve(scores, target, ties):
    """The curve by a stable sort of all trials, the targets before the others."""
    order = np.concatenate([np.flatnonzero(target), np.flatnonzero(np.asarray(target) == 0)])
    order = order[np.argsort(scores[order], kind="stable")]
    threshold, hits = scores[order], np.cumsum(target[order])
    rejected = np.arange(1, len(scores) + 1)
    if ties == "grouped":
        last = np.append(threshold[1:] != threshold[:-1], True)
        threshold, hits, rejected = threshold[last], hits[last], rejected[last]
    num_target = int(target.sum())
    num_nontarget = len(scores) - num_target
    frr, far = hits / num_target, (num_nontarget - (rejected - hits)) / num_nontarget
    return DetCurve(np.append(0.0, frr), np.append(1.0, far), np.append(threshold[0] - 0.001, threshold))


@st.composite
def scores_of_all_kinds(draw):
    """Few and many, equal and far apart."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    count = draw(st.integers(2, 400))
    target = (rng.random(count) < draw(st.sampled_from([0.02, 0.3, 0.9]))).astype(np.int8)
    target[:2] = 0, 1
    scores = rng.standard_normal(count) + draw(st.sampled_from([-0.5, 0.0, 1.0, 8.0])) * target
    scores = np.round(scores, draw(st.sampled_from([0, 1, 3, 15])))
    scores[rng.integers(count)] *= draw(st.sampled_from([1.0, 1e9, 1e300]))
    return scores, target


@pytest.mark.parametrize("num_bins", [2, 7, 1 << 14])
@pytest.mark.parametrize("ties", ["baseline", "grouped"])
@given(trials=scores_of_all_kinds(), p_target=st.sampled_from([0.001, 0.01, 0.5, 0.99]))
def test_counting_first_changes_no_digit(ties, num_bins, trials, p_target):
    scores, target = trials
    curve = plain_curve(scores, target, ties)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "NUM_BINS", num_bins)
        patch.setattr(detection, "BLOCK", 97)
        patch.setattr(detection, "FEWEST_TO_COUNT", 2)
        found = detection_error(scores, target, p_target, ties)
    assert (found.eer, found.threshold) == equal_error_rate(curve)
    assert (found.min_dcf, found.min_dcf_threshold) == min_detection_cost(curve, p_target=p_target)


@given(trials=scores_of_all_kinds(), ties=st.sampled_from(["baseline", "grouped"]))
def test_the_curve_is_that_of_a_stable_sort(trials, ties):
    for mine, plain in zip(det_curve(*trials, ties=ties), plain_curve(*trials, ties), strict=True):
        assert np.array_equal(mine, plain)


def test_few_of_many_trials_are_sorted(monkeypatch):
    rng = np.random.default_rng(0)
    target = (rng.random(200_000) < 0.1).astype(np.int8)
    scores = rng.standard_normal(200_000) + 3 * target
    kept = detection.decisive_trials(scores, target == 1, [detection.CostModel()])
    assert kept is not None and len(kept.scores_M) < 20_000
    counted = detection_error(scores, target)
    monkeypatch.setattr(detection, "FEWEST_TO_COUNT", 10**9)
    assert counted == detection_error(scores, target)


@given(scored_trials(distinct=True))
def test_without_equal_scores_both_ways_of_treating_ties_agree(trials):
    assert detection_error(*trials, ties="grouped") == detection_error(*trials, ties="baseline")


@given(scored_trials(distinct=True))
def test_a_monotone_map_of_the_scores_changes_no_rate(trials):
    scores, target = trials
    before, after = detection_error(scores, target), detection_error(np.arctan(scores) * 3 - 1, target)
    assert (before.eer, before.min_dcf) == (after.eer, after.min_dcf)


@given(scored_trials(distinct=True))
def test_swapping_the_kinds_and_the_sign_leaves_the_distance_of_the_rates(trials):
    scores, target = trials
    one, other = det_curve(scores, target), det_curve(-scores, 1 - target)
    assert np.abs(one.frr - one.far).min() == pytest.approx(np.abs(other.frr - other.far).min(), abs=1e-12)
    assert sorted(one.frr) == pytest.approx(sorted(other.far), abs=1e-12)


@given(scored_trials())
def test_rates_go_from_accepting_all_to_rejecting_all(trials):
    for ties in ("baseline", "grouped"):
        frr, far, threshold = det_curve(*trials, ties=ties)
        assert (frr[0], far[0], frr[-1], far[-1]) == (0, 1, 1, 0)
        assert (np.diff(frr) >= 0).all() and (np.diff(far) <= 0).all() and (np.diff(threshold) >= 0).all()
        assert 0 <= equal_error_rate(det_curve(*trials, ties=ties))[0] <= 1


@given(scored_trials())
def test_the_detection_cost_never_exceeds_that_of_not_listening(trials):
    curve = det_curve(*trials)
    assert 0 <= min_detection_cost(curve)[0] <= 1
    assert 0 <= min_detection_cost(curve, p_target=0.9, c_miss=2, c_fa=5)[0] <= 1 + 1e-12


def test_separable_scores_make_no_errors():
    found = detection_error([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert (found.eer, found.min_dcf, found.threshold) == (0, 0, 0.2)


@pytest.mark.parametrize(
    ("scores", "target", "message"),
    [
        ([], [], "^there are no scores$"),
        ([0.1, 0.2], [1, 1], "none of the 2 trials is a non-target trial"),
        ([0.1, 0.2], [0, 0], "none of the 2 trials is a target trial"),
        ([0.1, np.nan], [0, 1], "score 2 is nan"),
        ([-np.inf, 0.1], [0, 1], "score 1 is -inf"),
        ([0.1, 0.2], [0, 2], r"^every label must be 0 \(non-target\) or 1 \(target\)$"),
        ([0.1, 0.2, 0.3], [0, 1], r"scores of shape \(3,\) do not fit labels of shape \(2,\)"),
    ],
)
def test_input_that_has_no_error_rates_is_refused(scores, target, message):
    with pytest.raises(TrialError, match=message):
        validate(scores, target)
    with pytest.raises(TrialError, match=message):
        detection_error(scores, target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p_target": 0}, "prior"),
        ({"p_target": 1.5}, "prior"),
        ({"ties": "none"}, "ties='none'"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(TrialError, match=message):
        detection_error([0.1, 0.2], [0, 1], **options)


@pytest.mark.parametrize("costs", [{"c_miss": 0}, {"c_fa": 0}, {"c_miss": np.inf}, {"c_fa": np.inf}])
def test_costs_must_be_positive_and_finite(costs):
    with pytest.raises(TrialError, match="costs"):
        min_detection_cost(det_curve([0.1, 0.2], [0, 1]), **costs)


def test_a_million_scores_take_about_a_second():
    scores = np.random.default_rng(0).standard_normal(1_000_000)
    target = np.arange(1_000_000) % 2
    assert 0.49 < detection_error(scores, target).eer < 0.51


def test_equalised_rates_are_the_means_of_those_of_the_cells():
    """Cell 0 rejects 1 of 2 targets at 0.5 and accepts 1 of 4 others; cell 1 none of 4 and 1 of 2."""
    scores = [0.4, 0.9, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.85, 0.95, 0.15, 0.65]
    target = [1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    curve = equalised_curve(scores, target, [0] * 6 + [1] * 6)
    n = int(np.searchsorted(curve.threshold, 0.5)) - 1  # everything up to 0.4 is rejected
    assert curve.frr[n] == pytest.approx((1 / 2 + 0) / 2) and curve.far[n] == pytest.approx(
        (1 / 4 + 1 / 2) / 2
    )
    with pytest.raises(TrialError, match="cell 7 has no trials of one of the two kinds"):
        equalised_curve([0.1, 0.2, 0.3], [0, 1, 1], [3, 3, 7])


@given(
    trials=st.lists(st.tuples(st.integers(-5, 5), st.booleans(), st.integers(0, 2)), min_size=6, max_size=40),
    copies=st.integers(1, 4),
)
def test_an_equalised_curve_is_that_of_cells_of_one_size_and_ignores_copies_of_a_cell(trials, copies):
    both = [(0, kind, cell) for kind in (False, True) for cell in range(3)]
    scores, target, cell = (np.array(each) for each in zip(*trials, *both, strict=True))
    curve = equalised_curve(scores, target, cell)
    again = np.repeat(np.arange(len(cell)), np.where(cell == 1, copies, 1))
    repeated = equalised_curve(scores[again], target[again], cell[again])
    for one, other in zip(curve, repeated, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    slow_frr = [  # from the definition
        np.mean([np.mean(scores[(cell == name) & target] <= t) for name in range(3)]) for t in curve.threshold
    ]
    np.testing.assert_allclose(curve.frr, slow_frr, atol=1e-12)
    alone, plain = (
        equalised_curve(scores, target, np.zeros(len(cell))),
        det_curve(scores, target, ties="grouped"),
    )
    for one, other in zip(alone, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
