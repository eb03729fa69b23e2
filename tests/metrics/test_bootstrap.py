"""Intervals over speakers: they cover the truth, and a comparison with oneself finds nothing."""

import runpy
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from farvox.errors import TrialError
from farvox.metrics.bootstrap import (
    Sample,
    actual_cost,
    difference,
    equal_error,
    least_cost,
    llr_cost,
    mean_of_seeds,
    per_condition,
    rates_at,
    rejection_at,
    speaker_bootstrap,
    whole_curve,
)
from farvox.metrics.detection import CostModel, Ties, detection_error
from farvox.metrics.roc import llr_figures, roc_figures
from farvox.rng import rng_for
from farvox.score.calibrate import operating_point


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


def as_before(scores, target, enrol, test, replicates, seed, p_target=0.01, ties="baseline"):
    """EER and minDCF of each resample, one after the other and trial by trial."""
    num = max(enrol.max(), test.max()) + 1
    found = []
    for r in range(replicates):
        rng = rng_for(seed, 0, r)
        while True:
            count = np.bincount(rng.integers(0, num, num), minlength=num)
            weights = np.where(target == 1, count[enrol], count[enrol] * count[test])
            if weights[target == 1].any() and weights[target == 0].any():
                break
        found.append(weighted_error(scores, target, weights, p_target, ties))
    return np.array(found).T


@pytest.mark.parametrize("ties", ["baseline", "grouped"])
@pytest.mark.parametrize("decimals", [1, 15])
@pytest.mark.parametrize("num_speakers", [4, 30])
def test_resampled_figures_are_those_of_the_slow_way_to_the_last_digit(ties, decimals, num_speakers):
    scores, target, enrol, test = all_pairs(np.random.default_rng(0), num_speakers, 4, spread=0.6, noise=0.5)
    scores = scores.round(decimals)
    figures = (equal_error, partial(least_cost, model=CostModel(0.05)))
    options = {"figures": figures, "ties": ties, "replicates": 60, "seed": 3}
    (found,) = speaker_bootstrap([scores], target, enrol, test, **options).systems
    eer, min_dcf = as_before(scores, target, enrol, test, 60, 3, 0.05, ties)
    assert (found["eer"].value_R == eer).all() and (found["min_dcf"].value_R == min_dcf).all()
    plain = detection_error(scores, target, 0.05, ties)
    assert (found["eer"].value, found["threshold"].value) == (plain.eer, plain.threshold)
    assert (found["min_dcf"].value, found["min_dcf_threshold"].value) == (
        plain.min_dcf,
        plain.min_dcf_threshold,
    )


def test_identical_systems_differ_by_nothing():
    scores, target, enrol, test = all_pairs(np.random.default_rng(1), 12, spread=0.4, noise=0.4)
    one, same = speaker_bootstrap([scores, 4 * scores - 1], target, enrol, test, replicates=50).systems
    for name in ("eer", "min_dcf"):
        assert (one[name].value_R == same[name].value_R).all()
        found = difference(one[name], same[name])
        assert (found.value, found.interval, found.p) == (0, (0, 0), 1) and not found.excludes_zero


def test_a_plainly_better_system_is_seen_to_be_better():
    rng = np.random.default_rng(2)
    scores, target, enrol, test = all_pairs(rng, 30, takes=4, spread=0.3, noise=0.3)
    worse = scores + rng.standard_normal(len(scores))
    one, other = speaker_bootstrap([scores, worse], target, enrol, test, replicates=200).systems
    found, reverse = difference(one["eer"], other["eer"]), difference(other["eer"], one["eer"])
    assert found.interval.high < 0 and found.excludes_zero and 1 / 201 <= found.p < 0.05
    assert reverse.p == found.p and reverse.interval == pytest.approx([-x for x in found.interval[::-1]])


@given(st.integers(0, 2**31), st.floats(-2, 2))
def test_an_interval_of_a_difference_excludes_zero_just_where_p_is_below_5_percent(seed, shift):
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal(n) + shift for n in (1, 200, 12)]
    one = Sample(float(values[0][0]), values[1], values[2], 12, "score")
    other = Sample(0.0, np.zeros(200), np.zeros(12), 12, "score")
    found = difference(one, other)
    assert found.excludes_zero == (found.p < 0.05)


def test_names_of_speakers_do_as_well_as_numbers_and_the_seed_decides():
    scores, target, enrol, test = all_pairs(np.random.default_rng(3), 8, spread=0.4, noise=0.4)
    names = np.array([f"s{n}" for n in range(8)])
    one = speaker_bootstrap([scores], target, enrol, test, replicates=20, seed=1)
    two = speaker_bootstrap([scores], target, names[enrol], names[test], replicates=20, seed=1)
    other = speaker_bootstrap([scores], target, enrol, test, replicates=20, seed=2)
    drawn = [each.systems[0]["eer"].value_R for each in (one, two, other)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    assert (one.num_speakers, one.replicates, one.seed) == (8, 20, 1)


def test_the_figures_of_the_list_itself_are_those_of_the_other_modules():
    scores, target, enrol, test = all_pairs(np.random.default_rng(5), 10, 4, spread=0.4, noise=0.4)
    figures = (
        partial(rates_at, threshold=0.4),
        partial(actual_cost, model=CostModel(0.05, 10, 1), threshold=0.4),
        partial(rejection_at, far=0.1, suffix="@0.1"),
        llr_cost,
        whole_curve,
    )
    (found,) = speaker_bootstrap([scores], target, enrol, test, figures=figures, replicates=20).systems
    at = operating_point(scores, target, 0.4)
    assert (found["far"].value, found["frr"].value) == (at.far, at.frr)
    model = CostModel(0.05, 10, 1)
    assert found["act_dcf"].value == pytest.approx(model.normalised(model.cost(at.frr, at.far)), abs=1e-12)
    assert found["cllr"].value == pytest.approx(llr_figures(scores, target).cllr, abs=1e-12)
    whole = roc_figures(scores, target, [0.1])
    for name in ("auc", "rocch_eer", "min_cllr"):
        assert found[name].value == pytest.approx(getattr(whole, name), abs=1e-12)
    (point,) = whole.frr_at
    assert (found["frr@0.1"].value, found["threshold@0.1"].value) == (point.frr, point.threshold)
    for each in found.values():
        low, high = each.interval()
        assert low < high and (each.scale == "score" or low >= 0) and (each.scale != "rate" or high <= 1)


def by_formula(sample, level, centre=None):
    """The interval and p of `farvox.metrics.bootstrap`'s head, with scipy's distributions."""
    trials, num = max(sample.trials, 1), sample.num_speakers
    errors, others = sample.value * trials + 0.5, (1 - sample.value) * trials + 0.5
    to, back, least = {
        "score": (lambda x: np.asarray(x), lambda x: x, 0.0),
        "cost": (
            lambda x: np.log(np.asarray(x) * trials + 0.5),
            lambda x: max((np.exp(x) - 0.5) / trials, 0),
            sample.step / np.sqrt(errors),
        ),
        "rate": (
            lambda x: special.logit((np.asarray(x) * trials + 0.5) / (trials + 1)),
            lambda x: min(max(((trials + 1) * special.expit(x) - 0.5) / trials, 0), 1),
            sample.step * np.sqrt(1 / errors + 1 / others),
        ),
    }[sample.scale]
    value, value_R, value_J = to(sample.value), to(sample.value_R), to(sample.value_J)
    spread = max(np.std(value_R) * np.sqrt(num / (num - 1)), least)
    degrees = len(value_J) - 1
    if len(value_J) and np.ptp(value_J):
        degrees = min(degrees, max(2 * len(value_J) / (stats.kurtosis(value_J, fisher=False) - 1), 2))
    middle = 2 * value - np.mean(value_R) if centre is None else centre
    low, high = stats.t.interval(level, max(degrees, 2), middle, spread)
    return back(low), back(high), 2 * stats.t.sf(abs(middle) / spread, max(degrees, 2))


@given(
    st.integers(0, 2**31),
    st.sampled_from(["rate", "cost", "score"]),
    st.sampled_from([0.0, 0.02, 0.3]),
    st.sampled_from([(40, 0.5), (5000, 1.0)]),
    st.sampled_from([0.001, 0.2]),
    st.sampled_from([3, 7, 200]),
    st.sampled_from([0.5, 0.95]),
)
def test_an_interval_is_that_of_students_t_on_the_scale_of_its_figure(
    seed, scale, value, size, spread, num, level
):
    rng = np.random.default_rng(seed)
    value_R = np.clip(value + spread * rng.standard_normal(50), 0, 1)
    value_J = np.clip(value + spread / 4 * rng.standard_t(2, num), 0, 1)
    sample = Sample(value, value_R, value_J, num, scale, *size)
    *expected, _ = by_formula(sample, level)
    assert sample.interval(level) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(0, 2**31), st.floats(0, 0.5), st.sampled_from([3, 7, 200]))
def test_a_difference_is_compared_with_its_spread_over_the_draws(seed, shift, num):
    rng = np.random.default_rng(seed)
    one, other = (
        Sample(value, value + rng.standard_normal(30), rng.standard_t(2, num), num, "rate", 100)
        for value in (shift, 0.0)
    )
    apart = Sample(shift, one.value_R - other.value_R, one.value_J - other.value_J, num, "score")
    low, high, p = by_formula(apart, 0.95, centre=shift)
    found = difference(one, other)
    assert found.interval == pytest.approx((low, high), rel=1e-9)
    assert found.p == pytest.approx(max(p, 1 / 31), rel=1e-9)


def test_without_any_spread_a_difference_is_certain_and_equality_is_no_difference():
    same = Sample(0.1, np.full(30, 0.1), np.full(5, 0.1), 5, "rate", 100)
    higher = Sample(0.2, np.full(30, 0.2), np.full(5, 0.2), 5, "rate", 100)
    assert (difference(higher, same).p, difference(same, same).p) == (1 / 31, 1)
    nobody = Sample(0.1, np.array([0.1, 0.3]), np.empty(0), 5, "score")
    assert nobody.interval(0.5) == pytest.approx(by_formula(nobody, 0.5)[:2])


def test_every_figure_has_its_scale_the_trials_it_rests_on_and_what_an_error_moves():
    scores, target, enrol, test = all_pairs(np.random.default_rng(5), 6, 4, spread=0.4, noise=0.4)
    figures = (
        equal_error,
        partial(least_cost, suffix="@x"),
        partial(rates_at, threshold=0.4),
        partial(actual_cost, model=CostModel(0.05), threshold=0.4),
        partial(actual_cost, model=CostModel(0.05), threshold=0.4, suffix="@y", name="dcf"),
        partial(rejection_at, far=0.1),
        llr_cost,
        whole_curve,
    )
    resampled = speaker_bootstrap([scores], target, enrol, test, figures=figures, replicates=3)
    found = {name: (s.scale, s.trials, s.step) for name, s in resampled.systems[0].items()}
    num, others = int(target.sum()), int((1 - target).sum())
    assert found == {
        "eer": ("rate", num, 0.5),
        "min_dcf@x": ("rate", num, 1.0),
        "min_dcf_threshold@x": ("score", 0, 1.0),
        "far": ("rate", others, 1.0),
        "frr": ("rate", num, 1.0),
        "act_dcf": ("cost", num, 1.0),
        "dcf@y": ("cost", num, 1.0),
        "threshold": ("score", 0, 1.0),
        "cllr": ("cost", num, 1.0),
        "auc": ("rate", num, 1.0),
        "rocch_eer": ("rate", num, 0.5),
        "min_cllr": ("rate", num, 1.0),
    }


def test_the_defaults_are_a_thousand_draws_of_seed_0_with_ties_as_in_the_baseline():
    scores, target, enrol, test = all_pairs(np.random.default_rng(5), 5, 2, spread=0.4, noise=0.4)
    scores = scores.round(1)
    spelled = {"ties": "baseline", "replicates": 1000, "seed": 0}
    one, two = (speaker_bootstrap([scores], target, enrol, test, **each) for each in ({}, spelled))
    assert (one.replicates, one.seed) == (1000, 0)
    for name, sample in one.systems[0].items():
        assert np.array_equal(sample.value_R, two.systems[0][name].value_R)
    assert speaker_bootstrap([scores], target, enrol, test, replicates=1).replicates == 1
    only_three = np.isin(enrol, [0, 1, 2]) & np.isin(test, [0, 1, 2])
    kept = [each[only_three] for each in (scores, target, enrol, test)]
    assert speaker_bootstrap([kept[0]], *kept[1:], replicates=2).num_speakers == 3


def test_of_many_speakers_some_are_left_out_at_a_time():
    scores, target, enrol, test = all_pairs(np.random.default_rng(5), 250, 2)
    near = np.flatnonzero((test - enrol) % 250 < 2)
    resampled = speaker_bootstrap([scores[near]], target[near], enrol[near], test[near], replicates=2)
    assert len(resampled.systems[0]["eer"].value_J) == 200


def test_the_mean_of_seeds_draws_the_seeds_too():
    rng = np.random.default_rng(8)
    seeds = [Sample(v, rng.random(40), rng.random(6), 6, "rate", 70, 0.5) for v in (0.1, 0.2, 0.6)]
    count_RK = rng_for(3, 1, 0).multinomial(3, [1 / 3] * 3, 40)
    found = mean_of_seeds(seeds, seed=3)
    for r in range(40):
        weights = [1 + (count - 1) * np.sqrt(3 / 2) for count in count_RK[r]]
        terms = [weight * each.value_R[r] for weight, each in zip(weights, seeds, strict=True)]
        assert found.value_R[r] == pytest.approx(sum(terms) / 3)
    assert found.value == pytest.approx(0.3) and (found.num_speakers, found.scale) == (6, "rate")
    assert (found.trials, found.step) == (70, 0.5)
    assert found.value_J == pytest.approx(sum(each.value_J for each in seeds) / 3)


def test_a_list_without_errors_has_an_interval_that_does_not_claim_certainty():
    scores, target, enrol, test = all_pairs(np.random.default_rng(6), 10, 4, noise=0.01)
    (found,) = speaker_bootstrap([scores], target, enrol, test, replicates=50).systems
    assert found["eer"].value == 0
    low, high = found["eer"].interval()
    assert low == 0 and 0.005 < high < 0.1


def test_seeds_are_one_system_whose_interval_grows_with_their_spread():
    rng = np.random.default_rng(7)
    scores, target, enrol, test = all_pairs(rng, 20, 4, spread=0.2, noise=0.3)
    apart = [scores + noise * rng.standard_normal(len(scores)) for noise in (0.0, 0.4, 0.8)]
    one, *others = (each["eer"] for each in speaker_bootstrap(apart, target, enrol, test).systems)
    mean = mean_of_seeds([one, *others], seed=0)
    assert mean.value == pytest.approx(np.mean([each.value for each in (one, *others)]))
    assert np.std(mean.value_R) > np.std(np.mean([each.value_R for each in (one, *others)], axis=0))
    same = mean_of_seeds([one, one, one], seed=0)
    assert same.interval() == pytest.approx(one.interval()) and mean_of_seeds([one], seed=0) is one


@pytest.fixture(scope="module")
def coverage():
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/coverage.py"), run_name="coverage")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EER 8 %", "EER 1 %"])
def test_intervals_cover_the_truth_and_percentiles_of_few_speakers_do_not(coverage, kind):
    """A right interval misses more than 11 of 100 corpora less than once in 200 times."""
    kinds = coverage["KINDS"]
    found = coverage["cover"](kinds[kind], coverage["truth"](kind), 40, 100, list(kinds).index(kind))
    assert found["eer"]["coverage"] >= 0.89
    assert found["eer, percentile"]["coverage"] < found["eer"]["coverage"]
    assert found["eer, difference"]["found"] <= 0.24  # of 25


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
        "target trials of 1 speakers: an interval over speakers needs at least 3",
    ),
    "an impostor list of one speaker": (
        [0.1, 0.9, 0.2, 0.3],
        [0, 1, 0, 0],
        "aaaa",
        "bacd",
        "target trials of 1 speakers",
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
        both = (each.systems[0]["eer"].value_R for each in (cell.resampled, alone))
        assert np.array_equal(*both)


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
    assert (pair.num_speakers, others.num_speakers) == (2, 6)
    three = (enrol < 3) & (test < 3)
    others, trio = per_condition(
        scores, target, three, speakers=(enrol, test), replicates=5, figures=[equal_error], ties="grouped"
    )
    assert trio.num_speakers == 3 and list(trio.resampled.systems[0]) == ["eer", "threshold"]


def test_one_target_trial_is_enough_for_figures_and_ties_are_treated_as_asked():
    scores, target = [0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]
    cells = {ties: per_condition(scores, target, [7] * 4, ties=ties)[0] for ties in get_args(Ties)}
    assert cells["baseline"].figures.eer != cells["grouped"].figures.eer
    for ties, cell in cells.items():
        assert cell.figures == detection_error(scores, target, ties=ties) and cell.num_speakers is None


def test_the_trials_of_many_cells_stay_in_order_within_each():
    numbers = np.arange(3000) % 7
    cells = per_condition(np.linspace(0, 1, 3000), np.arange(3000) % 2, numbers, threshold=0.25)
    for cell in cells:
        targets = [n for n in range(3000) if n % 7 == cell.number and n % 2]
        assert cell.frr == np.mean([n / 2999 < 0.25 for n in targets]) and cell.num_target == len(targets)


def test_cells_have_the_error_rates_at_one_threshold():
    scores, target = [0.1, 0.6, 0.7, 0.2, 0.9, 0.3, 0.8, 0.7], [0, 0, 1, 1, 1, 1, 0, 1]
    one, two, last = per_condition(scores, target, [0, 0, 0, 0, 1, 1, 2, 0], threshold=0.6)
    assert (one.far, one.frr) == (1 / 2, 1 / 3)  # 0.6 is accepted, 0.2 is rejected
    assert (two.far, two.frr, two.figures) == (None, 0.5, None)
    assert (last.far, last.frr) == (1.0, None)


def test_every_trial_needs_a_condition(trials):
    with pytest.raises(TrialError, match="do not fit scores"):
        per_condition(trials[0], trials[1], trials[2][:-1])
