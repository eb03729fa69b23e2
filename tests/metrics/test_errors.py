"""The hardest trials, the errors of each speaker, and reliability, against loops over the trials."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.metrics.detection import errors_by_speaker, hardest_errors
from farvox.metrics.roc import llr_figures, reliability, roc_figures

SCORES = np.array([0.9, 0.1, 0.8, 0.3, 0.5, 0.2, 0.7])
TARGET = np.array([1, 1, 0, 0, 1, 0, 0])


def test_the_hardest_trials_are_those_furthest_on_the_wrong_side():
    accepted, rejected = hardest_errors(SCORES, TARGET, 0.6)
    assert accepted.tolist() == [2, 6] and rejected.tolist() == [1, 4]
    accepted, rejected = hardest_errors(SCORES, TARGET, 0.5, most=1)
    assert accepted.tolist() == [2] and rejected.tolist() == [1]
    assert [each.tolist() for each in hardest_errors([0.0, 1.0], [0, 1], 0.5)] == [[], []]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), most=st.integers(1, 9), threshold=st.floats(-1, 1))
def test_the_hardest_trials_are_those_of_a_whole_sort(seed, most, threshold):
    rng = np.random.default_rng(seed)
    target = np.append([0, 1], rng.integers(0, 2, 60))
    scores = rng.standard_normal(62)
    wrong = [n for n in np.argsort(-scores) if not target[n] and scores[n] >= threshold]
    missed = [n for n in np.argsort(scores) if target[n] and scores[n] < threshold]
    found = hardest_errors(scores, target, threshold, most)
    assert [each.tolist() for each in found] == [wrong[:most], missed[:most]]


def test_the_errors_of_a_speaker_are_those_of_the_trials_with_them():
    rng = np.random.default_rng(2)
    enrol, test = rng.integers(0, 7, (2, 400))
    target, scores = enrol == test, rng.standard_normal(400)
    found = errors_by_speaker(scores, target, enrol, test, 0.3)
    for s in range(7):
        of_s = (enrol == s) | (test == s)
        assert found.targets_S[s] == (of_s & target).sum()
        assert found.rejected_S[s] == (of_s & target & (scores < 0.3)).sum()
        assert found.nontargets_S[s] == (of_s & ~target).sum()
        assert found.accepted_S[s] == (of_s & ~target & (scores >= 0.3)).sum()


def normal_llrs(num_target, num_nontarget, spread=4.0):
    """Ratios of two normal distributions, which are calibrated: mean and half the variance are equal."""
    rng = np.random.default_rng(4)
    llrs = rng.standard_normal(num_target + num_nontarget) * spread**0.5
    target = np.arange(len(llrs)) < num_target
    return llrs + np.where(target, spread / 2, -spread / 2), target


def test_calibrated_ratios_lie_on_the_diagonal_and_stretched_ones_do_not():
    llrs, target = normal_llrs(50_000, 200_000)
    found = reliability(llrs, target)
    assert len(found.given_B) == 12 and np.abs(found.given_B - found.observed_B).max() < 0.15
    assert found.cllr == llr_figures(llrs, target).cllr
    assert found.min_cllr == roc_figures(llrs, target).min_cllr
    stretched = reliability(2 * llrs, target)
    assert np.allclose(stretched.observed_B, found.observed_B)
    assert (np.abs(stretched.given_B) > 1.5 * np.abs(found.given_B)).all()


@pytest.mark.parametrize("llrs", [np.zeros(50), np.where(np.arange(50) < 25, 9.0, -9.0)])
def test_equal_and_separated_ratios_have_finite_bins(llrs):
    found = reliability(llrs, np.arange(50) < 25)
    assert np.isfinite(found.given_B).all() and np.isfinite(found.observed_B).all()


@given(
    st.integers(0, 2**31),
    st.sampled_from([(3, 5), (30, 200), (45, 90), (61, 60), (500, 260)]),
    st.sampled_from([3, 12]),
    st.sampled_from([0, 1, 9]),
)
def test_reliability_is_that_of_bins_of_equal_weight(seed, sizes, num_bins, decimals):
    rng = np.random.default_rng(seed)
    llrs = np.concatenate([rng.normal(2 * kind - 1, 2, size) for kind, size in enumerate(sizes[::-1])])
    llrs, target = llrs.round(decimals), np.repeat([0, 1], sizes[::-1])
    num_target, num_nontarget = sizes
    bins = max(2, min(num_bins, min(sizes) // 20))
    order = np.argsort(llrs)  # as equal trials come, their weights may add up in another order
    trials = list(zip(llrs[order].tolist(), target[order].tolist(), strict=True))
    weights = [0.5 / num_target if kind else 0.5 / num_nontarget for _, kind in trials]
    reached, starts = np.cumsum(weights), {0}
    for k in range(1, bins):
        edge = trials[min(int(np.argmax(reached >= k / bins)), len(trials) - 1)][0]
        starts.add(next(n for n, (llr, _) in enumerate(trials) if llr == edge))
    bounds = [*sorted(starts), len(trials)]
    given_B, observed_B = [], []
    for start, end in pairwise(bounds):
        part = list(zip(trials[start:end], weights[start:end], strict=True))
        as_target = sum(weight / (1 + np.exp(-llr)) for (llr, _), weight in part)
        as_other = sum(weight / (1 + np.exp(llr)) for (llr, _), weight in part)
        targets = sum(kind for (_, kind), _ in part)
        given_B.append(np.log(as_target / as_other))
        share = (targets + 0.5) / (num_target + 1)
        observed_B.append(np.log(share / ((len(part) - targets + 0.5) / (num_nontarget + 1))))
    found = reliability(llrs, target, num_bins)
    assert found.given_B == pytest.approx(given_B) and found.observed_B == pytest.approx(observed_B)
    assert found.cllr == llr_figures(llrs, target).cllr
    assert found.min_cllr == roc_figures(llrs, target).min_cllr


def test_ratios_that_no_number_holds_are_given_as_the_nearest_trial():
    found = reliability([-900.0, -800.0, 800.0, 900.0], [0, 0, 1, 1])
    assert found.given_B == pytest.approx([-900, np.log(2)]) and np.isfinite(found.observed_B).all()
