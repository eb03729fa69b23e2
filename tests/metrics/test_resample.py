"""Weighted error rates of many draws at once are those of each draw alone, to the last digit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import farvox.metrics.resample
from farvox.metrics.detection import det_curve, equal_error_rate, min_detection_cost
from farvox.metrics.resample import ResampledTrials


@st.composite
def weighted_trials(draw):
    """Trials with many ties among a few speakers, and draws that leave some of both kinds."""
    num_speakers, size = draw(st.integers(3, 6)), draw(st.integers(3, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    enrol, test = rng.integers(0, num_speakers, (2, size))
    enrol[:2], test[:2] = (0, 0), (0, 1)
    target = enrol == test
    scores = np.round(rng.standard_normal(size) + target, draw(st.integers(0, 3)))
    count_DS = rng.integers(0, 4, (draw(st.integers(1, 5)), num_speakers))
    count_DS[:, :2] += 1
    return scores, target, enrol, test, count_DS


def copies(scores, target, enrol, test, count_S):
    """Every trial as often as it counts."""
    weight = np.where(target, count_S[enrol], count_S[enrol] * count_S[test])
    return np.repeat(scores, weight), np.repeat(target, weight)


@pytest.fixture(params=[1 << 20, 7], ids=["one block", "small blocks"], scope="module", autouse=True)
def blocks(request):
    """Blocks so small that every loop over them runs more than once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(farvox.metrics.resample, "BLOCK", request.param)
        patch.setattr(farvox.metrics.resample, "FEWEST_IN_BIN", 2 if request.param == 7 else 64)
        yield


@given(weighted_trials(), st.sampled_from([0.01, 0.3, 0.9]))
def test_each_draw_has_the_figures_and_thresholds_of_a_list_of_copies(trials, p_target):
    *columns, count_DS = trials
    found = ResampledTrials(*columns, count_DS, "grouped")
    before, after = found.crossing(lambda frr, far: frr - far)
    cost_D, points = found.least(lambda frr, far: frr * p_target + far * (1 - p_target))
    threshold_D, cost_threshold_D = (
        np.where(
            np.abs(before.frr_D - before.far_D) <= np.abs(after.frr_D - after.far_D),
            found.threshold(before),
            found.threshold(after),
        ),
        found.threshold(points),
    )
    for d, count_S in enumerate(count_DS):
        listed = copies(*columns, count_S)
        curve = det_curve(*listed, ties="grouped")
        eer, threshold = equal_error_rate(curve)
        sides = [(x.frr_D[d], x.far_D[d]) for x in (before, after)]
        assert eer == sum(min(sides, key=lambda rates: abs(rates[0] - rates[1]))) / 2
        cost, cost_threshold = min_detection_cost(curve, p_target=p_target)
        assert cost == cost_D[d] / min(p_target, 1 - p_target)
        lowest = min(columns[0]) - 0.001  # below all trials, also those that do not count in the draw
        for expected, got in ((threshold, threshold_D[d]), (cost_threshold, cost_threshold_D[d])):
            assert got == expected or (expected < listed[0].min() and got == lowest)
        nontargets, targets = found.rejected(d)
        assert np.array_equal(targets / targets[-1], curve.frr)
        assert np.array_equal((nontargets[-1] - nontargets) / nontargets[-1], curve.far)


@given(weighted_trials())
def test_means_are_those_of_a_list_of_copies(trials):
    *columns, count_DS = trials
    found = ResampledTrials(*columns, count_DS, "baseline")
    of_targets_D, of_nontargets_D = found.means(found.scores_N, found.scores_N**2)
    for d, count_S in enumerate(count_DS):
        scores, target = copies(*columns, count_S)
        assert of_targets_D[d] == pytest.approx(scores[target].mean(), abs=1e-12)
        assert of_nontargets_D[d] == pytest.approx((scores[~target] ** 2).mean(), abs=1e-12)


def test_sums_beyond_float32_are_exact():
    rng = np.random.default_rng(0)
    enrol, test = np.triu_indices(40)
    enrol, test = np.repeat(enrol, 30), np.repeat(test, 30)
    scores, target = rng.standard_normal(len(enrol)) + (enrol == test), enrol == test
    count_DS = 1 + 2 * rng.integers(0, 1000, (2, 40))
    found = ResampledTrials(scores, target, enrol, test, count_DS, "baseline")
    before, _ = found.crossing(lambda frr, far: frr - far)
    for d, count_S in enumerate(count_DS):
        weight = np.where(target, count_S[enrol], count_S[enrol] * count_S[test])
        rejected = np.isin(np.arange(len(scores)), found.order_N[: before.rejected_D[d]])
        assert before.frr_D[d] == weight[rejected & target].sum() / weight[target].sum()
        assert before.far_D[d] == weight[~rejected & ~target].sum() / weight[~target].sum()
