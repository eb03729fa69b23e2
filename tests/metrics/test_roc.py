"""The ROC curve as a whole and log-likelihood ratios: scikit-learn's figures, slow references, and laws."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.errors import TrialError
from farvox.metrics import roc
from farvox.metrics.detection import (
    CostModel,
    det_curve,
    detection_error,
    min_detection_cost,
    min_detection_costs,
)
from farvox.metrics.roc import llr_figures, roc_figures

GOLDEN = Path(__file__).parents[1] / "golden"
MADE = runpy.run_path(str(GOLDEN / "make_metrics.py"))
scores_of = MADE["scores_of"]
FROZEN = json.loads((GOLDEN / "roc.json").read_text())
BASELINE = json.loads((GOLDEN / "metrics.json").read_text())["results"]
COSTS = [CostModel(0.01), CostModel(0.05), CostModel(0.5), CostModel(0.01, 10, 1), CostModel(0.9, 2, 5)]


@st.composite
def trials_of_both_kinds(draw, distinct=False):
    """Scores of which many are equal, unless distinct, with both kinds of trials."""
    grid = st.integers(-12, 12) if not distinct else st.integers(-5000, 5000)
    scores = draw(st.lists(grid, min_size=2, max_size=50, unique=distinct))
    labels = st.lists(st.integers(0, 1), min_size=len(scores), max_size=len(scores))
    return np.array(scores) / 8, np.array(draw(labels.filter(lambda each: 0 < sum(each) < len(each))))


@pytest.mark.parametrize("frozen", FROZEN["results"], ids=lambda each: each["case"])
def test_the_figures_are_those_of_scikit_learn(frozen):
    scores, target = scores_of(frozen["case"])
    found = roc_figures(scores, target, FROZEN["fars"])
    assert found.auc == pytest.approx(frozen["auc"], abs=1e-12)
    assert found.min_cllr == pytest.approx(frozen["min_cllr"], abs=1e-12)
    assert [each.frr for each in found.frr_at] == pytest.approx(frozen["frr_at"], abs=1e-12)
    assert [each.far_at_most for each in found.frr_at] == FROZEN["fars"]
    llrs = FROZEN["scale"] * scores + FROZEN["offset"]
    assert llr_figures(llrs, target).cllr == pytest.approx(frozen["cllr"], abs=1e-12)


@pytest.mark.parametrize("case", sorted({each["case"] for each in BASELINE}))
def test_several_operating_points_at_once_are_those_of_the_baseline(case):
    expected = [each for each in BASELINE if each["case"] == case]
    found = min_detection_costs(*scores_of(case), [CostModel(each["p_target"]) for each in expected])
    wanted = [(each["min_dcf"], each["min_dcf_threshold"]) for each in expected]
    assert np.array(found) == pytest.approx(np.array(wanted), rel=1e-12, abs=1e-12)


def test_costs_by_hand():
    """Two of four targets are below -1, one of five non-targets is above 2."""
    llrs, target = [-3, -2, 1, 3, -4, -3, -2.5, -1.5, 2.5], [1, 1, 1, 1, 0, 0, 0, 0, 0]
    model = CostModel(0.1, c_miss=2, c_fa=1)
    assert model.bayes_threshold == pytest.approx(math.log(0.9 / 0.2))  # 1.504
    (actual,) = llr_figures(llrs, target, [model]).act_dcf
    assert actual == pytest.approx((2 * 3 / 4 * 0.1 + 1 / 5 * 0.9) / 0.2)
    ((least, threshold),) = min_detection_costs(llrs, target, [model])
    assert (least, threshold) == (pytest.approx((2 * 3 / 4 * 0.1 + 0) / 0.2), 2.5)
    (at_equal,) = llr_figures([0, math.log(9)], [0, 1], [CostModel(0.1)]).act_dcf
    assert at_equal == 0  # a ratio at the threshold is accepted


def test_cllr_by_hand():
    assert llr_figures([0, 0, 0], [1, 0, 0]).cllr == pytest.approx(1, abs=1e-15)
    three = math.log(3)  # posteriors 3/4: each trial costs log2(4/3)
    assert llr_figures([three, -three], [1, 0]).cllr == pytest.approx(math.log2(4 / 3))
    assert llr_figures([1000, -1000], [0, 1]).cllr == pytest.approx(1000 / math.log(2))  # no overflow
    assert llr_figures([40, -40], [1, 0]).cllr == pytest.approx(math.exp(-40) / math.log(2), rel=1e-12)


def test_a_hull_by_hand():
    """Vertices (FAR, FRR): (1, 0), (1/2, 0), (0, 1/3), (0, 1)."""
    found = roc_figures([1, 2, 3, 4, 5], [0, 1, 0, 1, 1], [0.5, 0.1])
    assert found.auc == pytest.approx(5 / 6)
    assert found.rocch_eer == pytest.approx(1 / 5)  # FAR / (1/2) + FRR / (1/3) = 1 and FAR = FRR
    shares = [(1 / 3, 1 / 2)]  # one PAV block with both kinds; the trials of the others cost nothing
    by_hand = sum(t * math.log2(1 + n / t) + n * math.log2(1 + t / n) for t, n in shares) / 2
    assert found.min_cllr == pytest.approx(by_hand)
    assert [(each.far, each.frr, each.threshold) for each in found.frr_at] == [
        (0.5, 0.0, 1.0),
        (0.0, pytest.approx(1 / 3), 3.0),
    ]


def slow_pav(scores, target):
    """Posteriors by pooling the first violating pair of neighbours until there is none: quadratic."""
    weight = np.where(target == 1, 1 / target.sum(), 1 / (1 - target).sum())
    blocks = [
        [weight[(scores == score) & (target == 1)].sum(), weight[(scores == score) & (target == 0)].sum()]
        for score in sorted(set(scores))
    ]
    while True:
        shares = [t / (t + n) for t, n in blocks]
        wrong = [b for b in range(len(blocks) - 1) if shares[b] >= shares[b + 1] - 1e-12]
        if not wrong:
            return blocks
        b = wrong[0]
        blocks[b : b + 2] = [[blocks[b][0] + blocks[b + 1][0], blocks[b][1] + blocks[b + 1][1]]]


@pytest.mark.parametrize("part", [3, 7, 1 << 23])
@given(trials=trials_of_both_kinds())
def test_min_cllr_is_that_of_a_slow_pav_whatever_the_size_of_the_parts(part, trials):
    scores, target = trials
    bits = 0.0
    for t, n in slow_pav(scores, target):
        bits += t * math.log2(1 + n / t) if t else 0
        bits += n * math.log2(1 + t / n) if n else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roc, "PART", part)
        patch.setattr(roc, "BLOCK", 5)
        found = roc_figures(scores, target, [0.3])
    assert found.min_cllr == pytest.approx(bits / 2, abs=1e-12)
    assert found == roc_figures(scores, target, [0.3])


@given(trials_of_both_kinds())
def test_the_eer_of_the_hull_is_the_worst_smallest_error_over_all_priors(trials):
    """Brummer and de Villiers: max over p of min over thresholds of p FRR + (1 - p) FAR."""
    curve = det_curve(*trials, ties="grouped")
    away = curve.frr - curve.far  # where two thresholds have the same error, p (frr - far) + far is equal
    with np.errstate(divide="ignore", invalid="ignore"):
        p = (curve.far[:, None] - curve.far) / (away - away[:, None])
    p = np.append(p[np.isfinite(p) & (p >= 0) & (p <= 1)], [0, 1])
    worst = (p[:, None] * curve.frr + (1 - p)[:, None] * curve.far).min(axis=1).max()
    assert roc_figures(*trials).rocch_eer == pytest.approx(worst, abs=1e-12)


@given(trials_of_both_kinds())
def test_frr_at_a_far_and_auc_follow_their_definitions(trials):
    scores, target = trials
    fars = [0.01, 0.25, 0.5, 0.9]
    found = roc_figures(scores, target, fars)
    hits, others = scores[target == 1], scores[target == 0]
    pairs = (hits[:, None] > others) + (hits[:, None] == others) / 2
    assert found.auc == pytest.approx(pairs.mean(), abs=1e-12)
    for asked, point in zip(fars, found.frr_at, strict=True):
        rejecting = [(np.mean(others > s), np.mean(hits <= s)) for s in [-99, *scores]]
        assert point.frr == pytest.approx(min(frr for far, frr in rejecting if far <= asked), abs=1e-12)
        assert point.far == np.mean(others > point.threshold) <= asked
        assert point.frr == pytest.approx(np.mean(hits <= point.threshold), abs=1e-12)


@given(trials_of_both_kinds())
def test_bounds(trials):
    scores, target = trials
    whole, ratios = roc_figures(scores, target), llr_figures(scores, target, COSTS)
    assert -1e-15 <= whole.min_cllr <= min(1, ratios.cllr) + 1e-12
    for ties in ("baseline", "grouped"):
        for (least, _), actual in zip(
            min_detection_costs(scores, target, COSTS, ties), ratios.act_dcf, strict=True
        ):
            assert 0 <= least <= min(1, actual) + 1e-12
        curve = det_curve(scores, target, ties=ties)
        assert 0 <= whole.rocch_eer <= np.maximum(curve.frr, curve.far).min() + 1e-12
    assert 0 <= whole.rocch_eer <= 0.5 and 0 <= whole.auc <= 1
    between = np.diff(curve.frr - curve.far)  # the EER by interpolation is above the hull's
    n = int(np.argmax(curve.frr >= curve.far))
    share = (curve.far[n - 1] - curve.frr[n - 1]) / between[n - 1]
    interpolated = curve.frr[n - 1] + share * (curve.frr[n] - curve.frr[n - 1])
    assert whole.rocch_eer <= interpolated + 1e-12


@given(trials_of_both_kinds())
def test_a_rising_map_changes_no_figure_of_the_curve(trials):
    scores, target = trials
    before, after = (roc_figures(each, target, [0.2]) for each in (scores, np.arctan(scores) * 3 - 1))
    assert (before.auc, before.rocch_eer, before.min_cllr) == (after.auc, after.rocch_eer, after.min_cllr)
    assert [p.frr for p in before.frr_at] == [p.frr for p in after.frr_at]


@given(trials_of_both_kinds())
def test_the_opposite_scores_of_swapped_kinds_have_the_same_figures(trials):
    scores, target = trials
    one, other = roc_figures(scores, target), roc_figures(-scores, 1 - target)
    assert (one.auc, one.rocch_eer, one.min_cllr) == pytest.approx(
        (other.auc, other.rocch_eer, other.min_cllr), abs=1e-12
    )
    assert llr_figures(scores, target).cllr == pytest.approx(llr_figures(-scores, 1 - target).cllr, abs=1e-12)


@given(trials_of_both_kinds(), st.randoms(use_true_random=False))
def test_the_order_of_the_trials_does_not_matter(trials, random):
    scores, target = trials
    order = random.sample(range(len(scores)), len(scores))
    assert roc_figures(scores[order], target[order], [0.1]) == roc_figures(scores, target, [0.1])
    shuffled, plain = llr_figures(scores[order], target[order], COSTS), llr_figures(scores, target, COSTS)
    assert shuffled.cllr == pytest.approx(plain.cllr, abs=1e-12) and shuffled.act_dcf == plain.act_dcf


@given(trials_of_both_kinds(distinct=True), st.integers(1, 4))
def test_repeating_every_trial_changes_nothing(trials, times):
    scores, target = trials
    one = roc_figures(scores, target)
    many = roc_figures(np.repeat(scores, times), np.repeat(target, times))
    assert (one.auc, one.rocch_eer, one.min_cllr) == pytest.approx(
        (many.auc, many.rocch_eer, many.min_cllr), abs=1e-12
    )


def test_many_trials_in_parts_have_the_figures_of_few(monkeypatch):
    """As many as are counted first; in one part and in several."""
    rng = np.random.default_rng(0)
    target = (rng.random(150_000) < 0.1).astype(np.int8)
    scores = np.round(rng.standard_normal(150_000) + 2 * target, 3)
    whole = roc_figures(scores, target, [0.01, 0.001])
    monkeypatch.setattr(roc, "PART", 10_000)
    assert roc_figures(scores, target, [0.01, 0.001]) == whole
    curve = det_curve(scores, target)
    for (least, _), each in zip(min_detection_costs(scores, target, COSTS), COSTS, strict=True):
        assert (
            least == min_detection_cost(curve, p_target=each.p_target, c_miss=each.c_miss, c_fa=each.c_fa)[0]
        )
    assert whole.rocch_eer < detection_error(scores, target).eer < whole.rocch_eer + 0.002


def test_a_curve_that_only_its_end_pulls_down_has_the_hull_of_that_end():
    """Ever steeper steps, and a million non-targets at last: rounds of pruning alone would take forever."""
    target = np.concatenate([np.repeat([1, 0], [n, 500 - n]) for n in range(100, 400)])
    scores = np.arange(len(target), dtype=float)
    found = roc_figures(np.append(scores, [1e6] * 10**6), np.append(target, [0] * 10**6))
    assert found.min_cllr == pytest.approx(1, abs=1e-9) and found.rocch_eer == pytest.approx(0.5)


@given(trials_of_both_kinds())
def test_the_values_of_other_toolkits_follow_from_ours_as_the_docs_say(trials):
    scores, target = trials
    points = [(np.mean(scores[target == 1] <= s), np.mean(scores[target == 0] > s)) for s in sorted(scores)]
    frr, far = np.array(points).T
    nearest = int(np.argmin(np.abs(frr - far)))
    least = float(np.min(0.01 * frr + 0.99 * far))
    ours = detection_error(scores, target, ties="grouped")
    assert 0.01 * ours.min_dcf == pytest.approx(min(least, 0.99), abs=1e-12)  # SpeechBrain
    assert abs(frr - far).min() >= 1 or ours.eer == pytest.approx((frr + far)[nearest] / 2, abs=1e-12)
    step = 1 / min(target.sum(), (1 - target).sum())
    order = np.argsort(scores, kind="stable")  # WeSpeaker, 3D-Speaker; without equal scores
    if len(set(scores)) == len(scores):
        frr, far = np.cumsum(target[order]) / target.sum(), 1 - np.cumsum(1 - target[order]) / sum(1 - target)
        assert ours.min_dcf == pytest.approx(min(1, np.min(frr + 99 * far)), abs=1e-9)
        before = np.flatnonzero(frr < far)
        if len(before):
            a, b = before[-1], before[-1] + 1
            share = (frr[b] - far[b]) / (far[a] - far[b] - (frr[a] - frr[b]))
            assert abs(frr[b] + share * (frr[a] - frr[b]) - ours.eer) <= step
    assert max(frr[nearest], far[nearest]) - (frr + far)[nearest] / 2 <= step  # voxceleb_trainer


@pytest.mark.parametrize(
    ("values", "message"),
    [((0, 1, 1), "prior"), ((1.0, 1, 1), "prior"), ((0.1, 0, 1), "costs"), ((0.1, 1, math.inf), "costs")],
)
def test_an_impossible_operating_point_is_refused(values, message):
    with pytest.raises(TrialError, match=message):
        CostModel(*values)


def test_impossible_input_is_refused():
    with pytest.raises(TrialError, match="between 0 and 1, not 1"):
        roc_figures([0.1, 0.2], [0, 1], [0.5, 1])
    with pytest.raises(TrialError, match="score 2 is nan"):
        roc_figures([0.1, np.nan], [0, 1])
    with pytest.raises(TrialError, match="score 1 is inf"):
        llr_figures([np.inf, 0], [1, 0])
