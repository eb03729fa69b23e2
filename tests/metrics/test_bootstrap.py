"""Intervals over speakers: they cover the truth, and a comparison with oneself finds nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.errors import TrialError
from farvox.metrics.bootstrap import interval, per_condition, speaker_bootstrap
from farvox.metrics.detection import detection_error
from farvox.rng import rng_for


@st.composite
def trials_with_ties(draw):
    size = draw(st.integers(2, 60))
    scores = draw(st.lists(st.integers(-12, 12), min_size=size, max_size=size))
    labels = st.lists(st.integers(0, 1), min_size=size, max_size=size)
    return np.array(scores) / 8, np.array(draw(labels.filter(lambda x: 0 < sum(x) < len(x))))


def weighted_error(scores, target, weights, p_target=0.01, ties="baseline"):
    """EER and minDCF from the rates at every threshold, each trial counting as often as its weight says."""
    scores, is_target = np.asarray(scores), np.asarray(target) == 1
    order = np.lexsort((~is_target, scores))
    missed = np.append(0, np.cumsum(np.where(is_target, weights, 0)[order]))
    rejected = np.append(0, np.cumsum(np.where(is_target, 0, weights)[order]))
    frr, far = missed / missed[-1], (rejected[-1] - rejected) / rejected[-1]
    if ties == "grouped":
        last_of_group = np.append(True, np.append(np.diff(scores[order]) != 0, True))
        frr, far = frr[last_of_group], far[last_of_group]
    n = int(np.argmin(np.abs(frr - far)))
    cost = np.min(frr * p_target + far * (1 - p_target)) / min(p_target, 1 - p_target)
    return float((frr[n] + far[n]) / 2), float(cost)


def all_pairs(rng, num_speakers, takes=2, spread=0.0, noise=0.2):
    """Every pair of takes; some speakers are hard to recognise, some easily taken for others."""
    speaker = np.repeat(np.arange(num_speakers), takes)
    enrol, test = np.triu_indices(len(speaker), 1)
    goat, lamb = spread * rng.standard_normal((2, num_speakers))
    a, b = speaker[enrol], speaker[test]
    target = a == b
    scores = np.where(target, 1 - goat[a], (lamb[a] + lamb[b]) / np.sqrt(2)) + noise * rng.standard_normal(
        len(a)
    )
    return scores, target.astype(int), a, b


@given(trials_with_ties(), st.sampled_from(["baseline", "grouped"]), st.sampled_from([0.01, 0.3, 0.9]))
def test_with_every_weight_one_the_figures_are_the_plain_ones(trials, ties, p_target):
    scores, target = trials
    plain = detection_error(scores, target, p_target, ties)
    assert weighted_error(scores, target, np.ones(len(scores), int), p_target, ties) == (
        plain.eer,
        plain.min_dcf,
    )


@given(trials_with_ties(), st.randoms(use_true_random=False))
def test_a_weight_counts_as_that_many_copies_of_the_trial(trials, random):
    scores, target = trials
    weights = np.array([random.randint(1, 4) for _ in scores])
    copies = detection_error(np.repeat(scores, weights), np.repeat(target, weights), 0.05, "grouped")
    found = weighted_error(scores, target, weights, 0.05, "grouped")
    assert found == pytest.approx((copies.eer, copies.min_dcf), abs=1e-12)


@pytest.mark.parametrize("ties", ["baseline", "grouped"])
@pytest.mark.parametrize("decimals", [1, 15])
def test_a_resample_counts_a_target_trial_once_for_each_draw_of_its_speaker(ties, decimals):
    scores, target, enrol, test = all_pairs(np.random.default_rng(0), 6, spread=0.6, noise=0.5)
    scores = scores.round(decimals)
    found = speaker_bootstrap([scores], target, enrol, test, replicates=1, seed=3, p_target=0.05, ties=ties)
    count = np.bincount(rng_for(3, 0, 0).integers(0, 6, 6), minlength=6)
    assert count.max() > 1
    weights = np.where(target == 1, count[enrol], count[enrol] * count[test])
    expected = weighted_error(scores, target, weights, 0.05, ties)
    assert (found.eer_RK[0, 0], found.min_dcf_RK[0, 0]) == expected


def test_identical_systems_differ_by_nothing():
    scores, target, enrol, test = all_pairs(np.random.default_rng(1), 12, spread=0.4, noise=0.4)
    both = speaker_bootstrap([scores, 3 * scores - 1], target, enrol, test, replicates=50)
    assert (both.eer_RK[:, 0] == both.eer_RK[:, 1]).all() and (
        both.min_dcf_RK[:, 0] == both.min_dcf_RK[:, 1]
    ).all()
    difference = interval(both.eer_RK[:, 0] - both.eer_RK[:, 1])
    assert difference == (0, 0) and not difference.excludes_zero


def test_a_plainly_better_system_is_seen_to_be_better():
    rng = np.random.default_rng(2)
    scores, target, enrol, test = all_pairs(rng, 30, takes=4, spread=0.3, noise=0.3)
    worse = scores + rng.standard_normal(len(scores))
    both = speaker_bootstrap([scores, worse], target, enrol, test, replicates=200)
    assert interval(both.eer_RK[:, 0] - both.eer_RK[:, 1]).high < 0
    assert interval([-1, 1, 2]).low < 0 < interval([0.1, 0.2]).low


def test_names_of_speakers_do_as_well_as_numbers_and_the_seed_decides():
    scores, target, enrol, test = all_pairs(np.random.default_rng(3), 8, spread=0.4, noise=0.4)
    names = np.array([f"s{n}" for n in range(8)])
    one = speaker_bootstrap([scores], target, enrol, test, replicates=20, seed=1)
    two = speaker_bootstrap([scores], target, names[enrol], names[test], replicates=20, seed=1)
    other = speaker_bootstrap([scores], target, enrol, test, replicates=20, seed=2)
    assert (one.eer_RK == two.eer_RK).all() and (one.eer_RK != other.eer_RK).any()
    assert one.num_speakers == 8 and one.seed == 1


@pytest.mark.slow
def test_intervals_cover_the_truth_where_speakers_differ_and_trials_alone_would_not():
    """The figure of 1,200 speakers is the truth; 100 corpora of 40 speakers each make an interval for it."""
    rng = np.random.default_rng(4)
    truth = detection_error(*all_pairs(rng, 1200, spread=0.35, noise=0.3)[:2]).eer
    covered, covered_by_trials, runs = 0, 0, 100
    for run in range(runs):
        scores, target, enrol, test = all_pairs(rng, 40, takes=4, spread=0.35, noise=0.3)
        found = interval(
            speaker_bootstrap([scores], target, enrol, test, replicates=200, seed=run).eer_RK[:, 0]
        )
        covered += found.low <= truth <= found.high
        by_trials = [
            weighted_error(
                scores, target, np.bincount(rng.integers(0, len(scores), len(scores)), minlength=len(scores))
            )[0]
            for _ in range(100)
        ]
        naive = interval(by_trials)
        covered_by_trials += naive.low <= truth <= naive.high
    assert covered >= 85
    assert covered_by_trials < covered - 10


FAULTS = {
    "contradiction": (
        [0.1, 0.9, 0.3],
        [0, 1, 0],
        "aab",
        "bcc",
        "trial 2 is a target trial, but its speakers are 'a' and 'c'",
    ),
    "same speaker": ([0.1, 0.9, 0.3], [0, 1, 0], "aab", "aac", "trial 1 is a non-target trial"),
    "two speakers": (
        [0.1, 0.9],
        [0, 1],
        "aa",
        "ba",
        "2 speakers: an interval over speakers needs at least 3",
    ),
    "lengths": ([0.1, 0.9], [0, 1], "a", "b", "speakers for 1 trials do not fit 2 trials"),
}


@pytest.mark.parametrize(("scores", "target", "enrol", "test", "message"), FAULTS.values(), ids=FAULTS)
def test_speakers_that_do_not_fit_are_refused(scores, target, enrol, test, message):
    with pytest.raises(TrialError, match=message):
        speaker_bootstrap([scores], target, list(enrol), list(test), replicates=5)


def test_no_resamples_are_refused():
    with pytest.raises(TrialError, match="at least one is needed"):
        speaker_bootstrap([[1, 2, 3]], [0, 1, 0], list("aab"), list("bac"), replicates=0)


@pytest.fixture
def trials():
    rng = np.random.default_rng(0)
    enrol, test = np.triu_indices(40, 1)
    enrol, test = enrol % 8, test % 8
    target = (enrol == test).astype(int)
    return (
        target + 0.6 * rng.standard_normal(len(target)),
        target,
        rng.integers(0, 3, len(target)),
        enrol,
        test,
    )


def test_each_cell_is_evaluated_alone(trials):
    scores, target, condition, enrol, test = trials
    cells = per_condition(scores, target, condition, speakers=(enrol, test), replicates=20, seed=4)
    assert [cell.number for cell in cells] == [0, 1, 2]
    assert sum(cell.num_target + cell.num_nontarget for cell in cells) == len(scores)
    for cell in cells:
        rows = condition == cell.number
        assert cell.figures == detection_error(scores[rows], target[rows])
        alone = speaker_bootstrap(
            [scores[rows]], target[rows], enrol[rows], test[rows], replicates=20, seed=4
        )
        assert (cell.resampled.eer_RK == alone.eer_RK).all()


def test_a_cell_with_trials_of_one_kind_has_counts_and_no_figures(trials):
    scores, target = trials[:2]
    few, rest = per_condition(scores, target, np.arange(len(scores)) > 0)
    assert (few.num_target, few.num_nontarget, few.figures, few.resampled) == (
        target[0],
        1 - target[0],
        None,
        None,
    )
    assert rest.figures is not None and rest.resampled is None


def test_a_cell_of_two_speakers_has_no_interval(trials):
    scores, target, _, enrol, test = trials
    two = (enrol < 2) & (test < 2)
    others, pair = per_condition(scores, target, two, speakers=(enrol, test), replicates=5)
    assert pair.figures is not None and pair.resampled is None and others.resampled is not None


def test_every_trial_needs_a_condition(trials):
    with pytest.raises(TrialError, match="do not fit scores"):
        per_condition(trials[0], trials[1], trials[2][:-1])
