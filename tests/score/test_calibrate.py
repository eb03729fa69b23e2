import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from farvox.audio.quality import quality_llr
from farvox.errors import TrialError
from farvox.score.calibrate import (
    FEWEST_FALSE_ACCEPTS,
    fit_llr,
    fit_quality,
    held_out,
    operating_point,
    threshold_at_far,
)

GOLDEN = Path(__file__).parents[1] / "golden"
MADE = runpy.run_path(str(GOLDEN / "make_logistic.py"))
FROZEN = json.loads((GOLDEN / "logistic.json").read_text())["results"]


def gaussian_trials(num_target=20_000, num_nontarget=80_000, distance=2.0, seed=0):
    """Scores of two normal distributions of deviation 1, ``distance`` apart."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(distance, 1, num_target), rng.normal(0, 1, num_nontarget)])
    return scores, np.repeat([1, 0], [num_target, num_nontarget])


def test_the_llr_of_two_normal_distributions_is_the_one_of_the_textbook():
    # log N(s; d, 1) / N(s; 0, 1) = d s - d^2 / 2
    (scale,), offset = fit_llr(*gaussian_trials(distance=2.0))
    assert scale == pytest.approx(2.0, rel=0.03)
    assert offset == pytest.approx(-2.0, rel=0.03)


def test_the_llr_does_not_depend_on_how_many_trials_of_each_kind_there_are():
    (scale,), offset = fit_llr(*gaussian_trials(num_target=5_000, num_nontarget=500_000))
    (other_scale,), other_offset = fit_llr(*gaussian_trials(100_000, 100_000))
    assert (scale, offset) == pytest.approx((other_scale, other_offset), rel=0.05)


def test_the_calibration_follows_a_change_of_the_scale_of_the_scores():
    scores, target = gaussian_trials()
    (scale,), offset = fit_llr(scores, target)
    (other_scale,), other_offset = fit_llr(0.01 * scores + 5, target)
    assert other_scale == pytest.approx(100 * scale, rel=1e-6)
    assert other_offset == pytest.approx(offset - 5 * 100 * scale, rel=1e-6)


def test_no_other_line_has_a_lower_cost():
    scores, target = gaussian_trials(2_000, 3_000, seed=3)
    (scale,), offset = fit_llr(scores, target)

    def cost(scale, offset):
        llr = scale * scores + offset
        return np.logaddexp(0, -llr)[target == 1].mean() + np.logaddexp(0, llr)[target == 0].mean()

    for a, b in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3), (1e-3, 1e-3)):
        assert cost(scale + a, offset + b) > cost(scale, offset)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.9, 0.8, 0.1, 0.0], "too few or too easy"),
        ([0.9, 0.5, 0.5, 0.0], "too few or too easy"),
        ([0.0, 0.2, 0.1, 0.3], "do not mean the same speaker"),
        ([0.5, 0.5, 0.5, 0.5], "too few or too easy"),
    ],
)
def test_trials_that_teach_nothing_are_refused(scores, message):
    with pytest.raises(TrialError, match=message):
        fit_llr(scores, [1, 1, 0, 0])


@pytest.mark.parametrize("case", FROZEN)
def test_the_weights_of_several_features_are_those_of_scikit_learn(case):
    features, target = MADE["features_of"](case)
    names = [f"system {n}" for n in range(features.shape[1])]
    weights, offset = fit_llr(features, target, names)
    assert weights == pytest.approx(FROZEN[case]["weights"], rel=1e-6)
    assert offset == pytest.approx(FROZEN[case]["offset"], rel=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_the_llr_is_the_same_whatever_the_order_and_the_scales_of_the_features(seed):
    features, target = MADE["features_of"]("three, few targets")
    weights, offset = fit_llr(features, target, ("a", "b", "c"))
    rng = np.random.default_rng(seed)
    order, shift, scale = rng.permutation(3), rng.normal(size=3), rng.uniform(0.01, 10, 3)
    changed = (features * scale + shift)[:, order]
    other_weights, other_offset = fit_llr(changed, target, ("a", "b", "c"))
    np.testing.assert_allclose(
        changed @ other_weights + other_offset, features @ weights + offset, rtol=1e-6, atol=1e-7
    )


def test_features_that_say_nothing_are_named():
    features, target = MADE["features_of"]("two")
    one, other = features.T
    for third, message in (
        (np.full(len(one), 0.3), "third is 0.3 in all trials"),
        (2 * one - other + 1, "third says nothing that first, second does not"),
    ):
        with pytest.raises(TrialError, match=message):
            fit_llr(np.stack([one, other, third], 1), target, ("first", "second", "third"))
    with pytest.raises(TrialError, match="too few or too easy"):  # apart in the plane, not in either alone
        fit_llr([[0, 1], [1, 2], [1, 0.9], [2, 1.9]], [1, 1, 0, 0], ("first", "second"))
    with pytest.raises(TrialError, match="2 features a trial and 1 names"):
        fit_llr(features, target)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.05, 0.2, 0.5]), st.booleans())
def test_the_threshold_is_the_lowest_that_keeps_the_rate(seed, far, rounded):
    scores, target = gaussian_trials(200, 2_000, seed=seed)
    if rounded:
        scores = scores.round(1)  # many ties
    point = threshold_at_far(scores, target, far)
    nontargets = scores[target == 0]
    assert point.far == np.mean(nontargets >= point.threshold) <= far
    assert point.frr == np.mean(scores[target == 1] < point.threshold)
    next_lower = nontargets[nontargets < point.threshold].max()
    assert np.mean(nontargets >= next_lower) > far


def test_a_rate_that_the_trials_cannot_show_is_refused():
    scores, target = gaussian_trials(100, 1_000)
    with pytest.raises(TrialError, match=r"1,000 non-target trials are too few .* 10,000 or more"):
        threshold_at_far(scores, target, 0.001)
    assert threshold_at_far(scores, target, FEWEST_FALSE_ACCEPTS / 1_000).far <= 0.01
    with pytest.raises(TrialError, match="between 0 and 1"):
        threshold_at_far(scores, target, 1.0)


def test_the_rates_at_a_threshold_are_counted_from_it_on():
    point = operating_point([0.1, 0.5, 0.5, 0.9, 0.2], [0, 0, 1, 1, 1], 0.5)
    assert (point.far, point.frr, point.num_target, point.num_nontarget) == (1 / 2, 1 / 3, 3, 2)


def measured_trials(num_trials=4_000, seed=0):
    """Trials whose scores fall where the shorter side is short or one side is narrow."""
    rng = np.random.default_rng(seed)
    target = (rng.random(num_trials) < 0.3).astype(int)
    sides = [
        np.column_stack(
            [
                rng.uniform(0.5, 8, num_trials),
                rng.uniform(2, 15, num_trials),
                rng.random(num_trials) < 0.2,
                rng.uniform(5, 9, num_trials),
            ]
        )
        for _ in range(2)
    ]
    shorter, narrow = np.minimum(sides[0][:, 0], sides[1][:, 0]), np.maximum(sides[0][:, 2], sides[1][:, 2])
    scores = rng.standard_normal(num_trials) + target * 3 + np.log1p(shorter) - 2 * narrow
    return scores, target, *sides


def weighted_loss(llrs, target):
    return np.logaddexp(0, -llrs[target == 1]).mean() / 2 + np.logaddexp(0, llrs[target == 0]).mean() / 2


def test_the_terms_of_the_measures_are_those_of_least_cost():
    """Against a general minimiser on the features that the equation of a term gives."""
    scores, target, enrol_NM, test_NM = measured_trials()
    scale, offset, terms = fit_quality(scores, target, enrol_NM, test_NM)
    llrs = scale * scores + offset + quality_llr(terms, enrol_NM, test_NM)
    columns = [scores]
    for m in range(4):
        for value in (np.maximum(enrol_NM[:, m], test_NM[:, m]), np.minimum(enrol_NM[:, m], test_NM[:, m])):
            columns.append(np.log1p(np.clip(value, *np.quantile(value, (0.005, 0.995)))))
    features = np.stack(columns, axis=1)
    features -= features.mean(0)
    found = minimize(
        lambda theta: weighted_loss(features @ theta[:-1] + theta[-1], target), np.zeros(10), tol=1e-12
    )
    assert llrs == pytest.approx(features @ found.x[:-1] + found.x[-1], rel=1e-3, abs=1e-3)
    assert weighted_loss(llrs, target) == pytest.approx(found.fun, abs=1e-9)
    assert len(terms) == 8 and {term.measure for term in terms} == {"speech", "decay", "narrow", "norm"}
    (plain,), at = fit_llr(scores, target)
    assert weighted_loss(llrs, target) < 0.8 * weighted_loss(plain * scores + at, target)


def test_a_measure_that_says_nothing_has_no_term():
    scores, target, enrol_NM, test_NM = measured_trials()
    enrol_NM[:, 1] = test_NM[:, 1] = 7.0  # all rooms alike
    enrol_NM[:, 2] = test_NM[:, 2]  # both sides by telephone, or neither
    terms = fit_quality(scores, target, enrol_NM, test_NM)[2]
    of = [(term.measure, term.side) for term in terms if term.weight]
    assert "decay" not in dict(of) and ("narrow", "higher") in of and ("narrow", "lower") not in of
    assert {(x.low, x.high) for x in terms if x.measure == "decay"} == {
        (7.0, 7.0)
    }  # so that others are noticed


@pytest.mark.parametrize("of_either", [29, 30])
def test_a_measure_of_thirty_trials_of_either_kind_has_a_weight(of_either):
    """Narrow on one side in so many target and non-target trials, on both in none."""
    scores, target, enrol_NM, test_NM = measured_trials()
    enrol_NM[:, 2] = test_NM[:, 2] = 0
    for kind in (0, 1):
        enrol_NM[np.flatnonzero(target == kind)[:of_either], 2] = 1
    terms = {(x.measure, x.side): x for x in fit_quality(scores, target, enrol_NM, test_NM)[2]}
    higher, lower = terms["narrow", "higher"], terms["narrow", "lower"]
    assert (higher.weight != 0) == (of_either == 30) and (higher.low, higher.high) == (0, 1)
    assert (lower.weight, lower.low, lower.high) == (0, 0, 0)


def test_a_rare_measure_changes_no_likelihood_ratio():
    """One narrow recording: its trials, and those of others like it, are judged as all others."""
    scores, target, enrol_NM, test_NM = measured_trials()
    enrol_NM[:, 2] = test_NM[:, 2] = 0
    plain = fit_quality(scores, target, enrol_NM, test_NM)
    enrol_NM[np.flatnonzero(target == 1)[:6], 2] = enrol_NM[np.flatnonzero(target == 0)[:300], 2] = 1
    rare = fit_quality(scores, target, enrol_NM, test_NM)
    assert rare[:2] == plain[:2]
    enrol_NM[:, 2] = 1
    np.testing.assert_array_equal(
        quality_llr(rare[2], enrol_NM, test_NM), quality_llr(plain[2], enrol_NM, test_NM)
    )


def test_a_calibration_does_not_depend_on_the_order_of_the_sides():
    scores, target, enrol_NM, test_NM = measured_trials(1_000)
    one, other = (
        fit_quality(scores, target, enrol_NM, test_NM),
        fit_quality(scores, target, test_NM, enrol_NM),
    )
    assert one == other


@pytest.mark.parametrize("across", [False, True])
def test_nobody_who_is_judged_is_in_the_fit(across):
    rng = np.random.default_rng(0)
    enrol, test = rng.integers(0, 23, (2, 3000))

    def fit(rows):
        inside = np.unique(np.concatenate([enrol[rows], test[rows]]))
        return (np.isin(enrol, inside) | np.isin(test, inside)).astype(float)

    judged, (seen,) = held_out([fit], enrol, test, across=across)
    assert judged.sum() == len(seen) and not seen.any()
    assert set(enrol[judged]) | set(test[judged]) == set(range(23))  # everybody is judged once
    assert (enrol == test)[~judged].sum() == 0  # and so is every target trial
    assert judged.all() == across  # those of different speakers are mostly between the parts


def test_four_speakers_are_too_few_to_hold_some_out():
    with pytest.raises(TrialError, match="4 speakers cannot be cut into 5 parts"):
        held_out([], [0, 1, 2, 3], [1, 2, 3, 0])
