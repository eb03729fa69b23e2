"""Thresholds of looks spend no more errors than they may, also on speakers that were not fitted on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.errors import TrialError
from farvox.score.sequential import (
    UNDECIDED,
    Boundaries,
    SequentialTrials,
    fit_boundaries,
    fit_safely,
    outcomes,
)


def drawn(seed, num_speakers, *, apart=1.0):
    """Trials at four looks of speakers, some of whom are harder than others; looks of a trial correlate."""
    rng = np.random.default_rng(seed)
    hard_S, pairs = 0.3 * rng.standard_normal(num_speakers), np.arange(num_speakers)
    enrol_N, test_N = (each.ravel() for each in np.meshgrid(pairs, pairs))
    own = np.repeat(pairs, 8)
    enrol_N, test_N = np.append(enrol_N[enrol_N != test_N], own), np.append(test_N[enrol_N != test_N], own)
    steps_NK = rng.standard_normal((len(enrol_N), 4))
    mean_N = np.where(enrol_N == test_N, apart, 0.0) + hard_S[test_N]
    score_NK = mean_N[:, None] + np.cumsum(steps_NK, axis=1) / np.arange(1, 5)
    return SequentialTrials(score_NK, enrol_N, test_N)


def test_a_trial_is_decided_at_its_first_look_that_decides():
    boundaries = Boundaries(np.array([0.9, 0.5, 0.4]), np.array([-0.9, 0.0, 0.4]))
    scores = [
        [0.9, -1, -1],
        [0.8, 0.5, 0],
        [-1, 1, 1],
        [0.8, 0.4, 0.39],
        [np.nan, np.nan, 0.4],
        [0, 0.2, np.nan],
    ]
    found = outcomes(boundaries, np.array(scores))
    assert found.look_N.tolist() == [1, 2, 1, 3, 3, UNDECIDED]
    assert found.same_N.tolist() == [True, True, False, False, True, False]
    assert (found.rate(same=True), found.rate(same=False)) == (0.6, 0.4)
    nothing = outcomes(boundaries, np.full((2, 3), np.nan))
    assert nothing.rate(same=True) == nothing.rate(same=False) == 0


@given(
    seed=st.integers(0, 10**6), apart=st.floats(0, 6), errors=st.tuples(st.floats(0, 0.2), st.floats(0, 0.2))
)
def test_no_more_errors_are_spent_than_promised_by_any_look(seed, apart, errors):
    trials = drawn(seed, 6, apart=apart)
    trials.score_NK[np.random.default_rng(seed).random(trials.score_NK.shape) < 0.1] = np.nan
    kinds = trials.score_NK[trials.target_N], trials.score_NK[~trials.target_N]
    boundaries = fit_boundaries(*kinds, *errors)
    assert np.isfinite(boundaries).all() and (boundaries.different_K <= boundaries.same_K).all()
    for kind, wrong, error in zip(kinds, (False, True), errors[::-1], strict=True):
        found = outcomes(boundaries, kind)
        for look in range(1, 5):
            is_wrong_N = (found.look_N > UNDECIDED) & (found.look_N <= look) & (found.same_N == wrong)
            assert is_wrong_N.mean() <= error * look / 4 + 1e-9


def test_kinds_that_are_far_apart_are_all_decided_at_the_first_look():
    trials = drawn(1, 6, apart=40.0)
    boundaries = fit_boundaries(
        trials.score_NK[trials.target_N], trials.score_NK[~trials.target_N], 0.01, 0.05
    )
    found = outcomes(boundaries, trials.score_NK)
    assert (found.look_N == 1).all() and (found.same_N == trials.target_N).all()


def test_weights_count_as_so_many_trials():
    trials = drawn(2, 6)
    kinds = trials.score_NK[trials.target_N], trials.score_NK[~trials.target_N]
    weights = [np.random.default_rng(n).integers(0, 3, len(kind)) for n, kind in enumerate(kinds)]
    repeated = [np.repeat(kind, weight, axis=0) for kind, weight in zip(kinds, weights, strict=True)]
    found = fit_boundaries(*kinds, 0.1, 0.1, *(weight.astype(float) for weight in weights))
    np.testing.assert_allclose(found, fit_boundaries(*repeated, 0.1, 0.1))


def test_a_safe_fit_keeps_its_promise_on_other_speakers_and_a_plain_one_does_not():
    kept = {"plain": 0, "safe": 0}
    for seed in range(12):
        trials, others = drawn(seed, 24, apart=1.8), drawn(1000 + seed, 200, apart=1.8)
        kinds = trials.score_NK[trials.target_N], trials.score_NK[~trials.target_N]
        safe, _ = fit_safely(trials, 0.1, 0.1, num_draws=40)
        for name, boundaries in (("plain", fit_boundaries(*kinds, 0.1, 0.1)), ("safe", safe)):
            accepted = outcomes(boundaries, others.score_NK[~others.target_N]).rate(same=True)
            rejected = outcomes(boundaries, others.score_NK[others.target_N]).rate(same=False)
            kept[name] += max(accepted, rejected) <= 0.1
    assert kept["safe"] >= 9 > kept["plain"]


def test_trials_that_cannot_be_fitted_on_are_refused():
    trials = drawn(3, 6)
    alone = SequentialTrials(*(each[trials.target_N] for each in trials))
    with pytest.raises(TrialError, match="one kind is missing"):
        fit_safely(alone, 0.01, 0.05)
    with pytest.raises(TrialError, match="too few"):
        fit_safely(drawn(3, 3, apart=0.0), 1e-9, 1e-9, num_draws=5)
