"""Intervals by resampling the speakers, paired comparisons, and figures by condition.

The trials of a list are not independent: a voice that is easily taken for others is hard in every trial it
takes part in, on either side. The sample that was drawn is one of speakers, so the speakers are drawn again:
as many as there are, with replacement, one draw for both sides. With ``w`` the number of times that a speaker
was drawn, a non-target trial of speakers a and b counts ``w_a w_b`` times, and a target trial, in which one
speaker stands on both sides, ``w_a`` times and not ``w_a ** 2``: it rests on one draw, not on two.

The interval. Of few speakers the percentiles of the resampled figures are too narrow and too low, because a
small error rate is skewed and its spread is itself a guess. So the interval is taken on the scale on which
the figure's spread depends least on its size (the log odds of a rate, the log of a cost, with half an error
added; a threshold as it is), as ``centre -+ t s``: the centre is the figure less the bias that the draws
show, ``s`` the standard deviation over the draws, times S / (S - 1) in variance, and t a quantile of
Student's distribution. Its degrees of freedom are S - 1, or fewer where few speakers make most of the
errors: ``2 S / (k - 1)`` by Satterthwaite, with k the kurtosis of the figure's changes when each speaker in
turn is left out. ``s`` is never below what independent trials would give: where no speaker of the list errs,
the draws would claim certainty. `benchmarks/coverage.py` compares it with percentile and BCa intervals.

All systems of a comparison are evaluated on the same draws: the difficulty that a draw has for all of them
cancels in their difference. The difference is compared with its standard deviation over the draws, as above
but on its own scale; p is two-sided, from Student's t.

Shape suffixes: D draw (the list itself, then the resamples, then those with some speakers left out), R
resample, J speakers left out, S speaker.

References:
    S. Bengio and J. Mariethoz, A statistical significance test for person authentication, Odyssey 2004
    (resampling of persons: tests on trials understate the variance).
    A. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), 2007 (both sides of a pair are
    resampled, and a pair counts the product of the two multiplicities).
    B. Efron and R. Tibshirani, An introduction to the bootstrap, 1993, chapters 10 (bias), 11 (jackknife), 12
    and 13 (scales on which an interval is symmetric) and 16 (tests).
    T. DiCiccio and B. Efron, Bootstrap confidence intervals, Statistical Science 11(3), 1996 (BCa).
    F. Satterthwaite, An approximate distribution of estimates of variance components, Biometrics 2, 1946.
    J. Haldane, The estimation and significance of the logarithm of a ratio of frequencies, Annals of Human
    Genetics 20, 1956 (half an error; the variance of log odds is the sum of both reciprocal counts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from farvox.errors import LabelError, TrialError
from farvox.metrics.detection import CostModel, Detection, Floats, Ints, Ties, detection_error, validate
from farvox.metrics.resample import ResampledTrials
from farvox.metrics.roc import convex, hull_figures
from farvox.rng import rng_for

LEVEL = 0.95
FEWEST_SPEAKERS = 3
FEWEST_DRAWS = 100  # below, the spread of the draws is itself rough, and p no smaller than 1 / draws
MOST_LEFT_OUT = 200  # with more speakers, some at a time are left out

Scale = Literal["rate", "cost", "score"]
"""A figure between 0 and 1; one that is not negative; or any number."""


class Interval(NamedTuple):
    """A range that holds the true figure or difference in the share ``level`` of all lists."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True where zero lies outside."""
        return self.low > 0 or self.high < 0


class DrawnFigure(NamedTuple):
    """A figure of weighted trials, for each draw of the speakers."""

    value_D: Floats
    scale: Scale
    trials: int = 0  # number of trials of the rarer of the kinds that it depends on; 0 on the scale of scores
    step: float = 1.0  # by how much one error more moves it, times ``trials``


Figures = Callable[[ResampledTrials], Mapping[str, DrawnFigure]]
"""One or several figures of weighted trials, by name."""


def equal_error(trials: ResampledTrials) -> dict[str, DrawnFigure]:
    """``eer`` and its ``threshold``, as `farvox.metrics.detection.equal_error_rate` has them."""
    before, after = trials.crossing(lambda frr, far: frr - far)
    is_before = np.abs(before.frr_D - before.far_D) <= np.abs(after.frr_D - after.far_D)
    eer_D = np.where(is_before, before.frr_D + before.far_D, after.frr_D + after.far_D) / 2
    threshold_D = np.where(is_before, trials.threshold(before), trials.threshold(after))
    # An error more moves the threshold, too, and so the EER by about half as much as a rate at a threshold.
    return {
        "eer": DrawnFigure(eer_D, "rate", trials.num_rarer, step=0.5),
        "threshold": DrawnFigure(threshold_D, "score"),
    }


def least_cost(
    trials: ResampledTrials, model: CostModel = CostModel(), suffix: str = ""
) -> dict[str, DrawnFigure]:
    """``min_dcf`` and ``min_dcf_threshold``, as `farvox.metrics.detection.min_detection_cost` has them."""
    cost_D, points = trials.least(model.cost)
    return {
        f"min_dcf{suffix}": DrawnFigure(model.normalised(cost_D), "rate", trials.num_rarer),
        f"min_dcf_threshold{suffix}": DrawnFigure(trials.threshold(points), "score"),
    }


def rates_at(trials: ResampledTrials, threshold: float) -> dict[str, DrawnFigure]:
    """``far`` and ``frr`` at a threshold, as `farvox.score.calibrate.operating_point` has them."""
    frr_D, far_D = trials.means(trials.scores_N < threshold, trials.scores_N >= threshold)
    return {
        "far": DrawnFigure(far_D, "rate", trials.num_nontarget),
        "frr": DrawnFigure(frr_D, "rate", trials.num_target),
    }


def actual_cost(
    trials: ResampledTrials, model: CostModel, threshold: float, suffix: str = "", name: str = "act_dcf"
) -> dict[str, DrawnFigure]:
    """The normalised detection cost at a threshold, as ``name``."""
    far, frr = (each.value_D for each in rates_at(trials, threshold).values())
    cost_D = model.normalised(model.cost(frr, far))
    return {f"{name}{suffix}": DrawnFigure(cost_D, "cost", trials.num_rarer)}


def rejection_at(trials: ResampledTrials, far: float, suffix: str = "") -> dict[str, DrawnFigure]:
    """``frr`` and ``threshold`` at a FAR, as `farvox.metrics.roc.roc_figures` has them."""
    _, point = trials.crossing(lambda _, accepted: far + 1e-12 - accepted)
    return {
        f"frr{suffix}": DrawnFigure(point.frr_D, "rate", trials.num_target),
        f"threshold{suffix}": DrawnFigure(trials.threshold(point), "score"),
    }


def llr_cost(trials: ResampledTrials) -> dict[str, DrawnFigure]:
    """``cllr`` of log-likelihood ratios, as `farvox.metrics.roc.llr_figures` has it."""
    llr_N = trials.scores_N
    of_targets_D, of_nontargets_D = trials.means(np.logaddexp(0, -llr_N), np.logaddexp(0, llr_N))
    cllr_D = (of_targets_D + of_nontargets_D) / (2 * np.log(2))
    return {"cllr": DrawnFigure(cllr_D, "cost", trials.num_rarer)}


def whole_curve(trials: ResampledTrials) -> dict[str, DrawnFigure]:
    """``auc``, ``rocch_eer`` and ``min_cllr``, as `farvox.metrics.roc.roc_figures` has them; draw by draw."""
    found = np.empty((3, trials.num_draws))
    for draw in range(trials.num_draws):
        points_2P = trials.rejected(draw)
        nontargets, targets = points_2P / points_2P[:, -1:]
        found[0, draw] = np.diff(targets) @ (nontargets[1:] + nontargets[:-1]) / 2
        corners = np.append(np.diff(points_2P[1]) > 0, True)  # no vertex where the next point has no target
        corners[0] = True
        found[1:, draw] = hull_figures(convex(points_2P[:, corners]))
    step_of = {"auc": 1.0, "rocch_eer": 0.5, "min_cllr": 1.0}
    return {
        name: DrawnFigure(np.minimum(value_D, 1), "rate", trials.num_rarer, step)
        for (name, step), value_D in zip(step_of.items(), found, strict=True)
    }


@dataclass(frozen=True, eq=False)
class Sample:
    """One figure of one system, on the list and on its resamples."""

    value: float  # on the list itself
    value_R: Floats = field(repr=False)  # on each resample of the speakers
    value_J: Floats = field(repr=False)  # with some speakers left out
    num_speakers: int
    scale: Scale
    trials: int = 0  # see `DrawnFigure`
    step: float = 1.0

    @classmethod
    def of(cls, figure: DrawnFigure, replicates: int, num_speakers: int) -> Sample:
        """A figure whose draws are the list itself, the resamples, and those with speakers left out."""
        value, value_R, value_J = np.split(figure.value_D, [1, 1 + replicates])
        return cls(float(value[0]), value_R, value_J, num_speakers, figure.scale, figure.trials, figure.step)

    def interval(self, level: float = LEVEL) -> Interval:
        """The range that holds the true figure; see the head of this module."""
        if self.scale == "score":
            return _student(self.value, self.value_R, self.value_J, self.num_speakers, level).interval
        trials = max(self.trials, 1)
        errors, others = self.value * trials + 0.5, (1 - self.value) * trials + 0.5
        least = self.step * np.sqrt(1 / errors + (self.scale == "rate") / max(others, 0.5))

        def stretched(value: ArrayLike) -> Floats:
            """The figure on the scale of the interval."""
            errors = np.maximum(np.asarray(value, np.float64), 0) * trials + 0.5
            return np.log(errors / np.maximum(trials + 1 - errors, 0.5) if self.scale == "rate" else errors)

        found = _student(
            float(stretched(self.value)),
            stretched(self.value_R),
            stretched(self.value_J),
            self.num_speakers,
            level,
            least=float(least),
        ).interval
        errors_2 = np.exp(np.minimum(np.array(found), 700))
        if self.scale == "rate":
            errors_2 = (trials + 1) / (1 + 1 / errors_2)
        low, high = np.maximum((errors_2 - 0.5) / trials, 0)
        return Interval(float(low), float(min(high, 1.0) if self.scale == "rate" else high))


@dataclass(frozen=True)
class PairedDifference:
    """A figure of one system less that of another, on the same draws."""

    value: float
    interval: Interval
    p: float  # two-sided: how probable so large a difference is where there is none

    @property
    def excludes_zero(self) -> bool:
        """True where the interval does."""
        return self.interval.excludes_zero


def difference(one: Sample, other: Sample, level: float = LEVEL) -> PairedDifference:
    """The figure of ``one`` less that of ``other``, both of the same resamples."""
    found = _student(
        one.value - other.value,
        one.value_R - other.value_R,
        one.value_J - other.value_J,
        one.num_speakers,
        level,
        is_centred=True,
    )
    return PairedDifference(one.value - other.value, found.interval, max(found.p, 1 / (len(one.value_R) + 1)))


class _Student(NamedTuple):
    interval: Interval
    p: float


def _student(
    value: float,
    value_R: Floats,
    value_J: Floats,
    num_speakers: int,
    level: float,
    *,
    least: float = 0.0,
    is_centred: bool = False,
) -> _Student:
    """The interval of a value by Student's t, and p of the hypothesis that the true value is zero.

    Args:
        least: standard deviation at least.
        is_centred: the value itself is the centre, not the value less its bias.
    """
    deviation = max(float(np.std(value_R)) * (num_speakers / (num_speakers - 1)) ** 0.5, least)
    change_J = value_J - value_J.mean() if len(value_J) else value_J
    squares = float(np.sum(change_J**2))
    degrees = float(len(value_J) - 1)
    if squares > 0:
        kurtosis = len(value_J) * float(np.sum(change_J**4)) / squares**2
        degrees = min(degrees, max(2 * len(value_J) / max(kurtosis - 1, 1e-9), 2.0))
    centre = value if is_centred else 2 * value - float(np.mean(value_R))
    reach = float(stdtrit(max(degrees, 2.0), (1 + level) / 2)) * deviation
    far_out = abs(centre) / deviation if deviation > 0 else np.inf if centre else 0.0
    p = 2 * float(stdtr(max(degrees, 2.0), -far_out))
    return _Student(Interval(centre - reach, centre + reach), p)


def mean_of_seeds(seeds: Sequence[Sample], seed: int) -> Sample:
    """The mean of one figure over systems that differ by their seed, as one system.

    The seeds are drawn again, too, with each resample of the speakers, so that the interval is also one for
    other seeds. The deviations are stretched by K / (K - 1) in variance, as K seeds are few.

    Args:
        seeds: one sample for each seed, all on the same resamples.
        seed: of the drawing of the seeds.
    """
    num, first = len(seeds), seeds[0]
    if num == 1:
        return first
    count_RK = rng_for(seed, 1, 0).multinomial(num, np.full(num, 1 / num), len(first.value_R))
    weight_RK = 1 + (count_RK - 1) * np.sqrt(num / (num - 1))
    value_R = np.mean(weight_RK * np.stack([each.value_R for each in seeds], axis=1), axis=1)
    value_J = np.mean([each.value_J for each in seeds], axis=0)
    mean = float(np.mean([each.value for each in seeds]))
    return Sample(mean, value_R, value_J, first.num_speakers, first.scale, first.trials, first.step)


@dataclass(frozen=True, eq=False)
class Resampled:
    """The figures of one or several systems on the same resamples of the speakers."""

    systems: tuple[dict[str, Sample], ...]
    num_speakers: int  # that were drawn each time
    replicates: int
    seed: int  # of the draws


def speaker_bootstrap(
    systems: Sequence[ArrayLike],
    target: ArrayLike,
    enrol_speaker: ArrayLike,
    test_speaker: ArrayLike,
    *,
    figures: Sequence[Figures] = (equal_error, least_cost),
    ties: Ties = "baseline",
    replicates: int = 1000,
    seed: int = 0,
) -> Resampled:
    """The figures of every system on the same resamples of the speakers.

    A resample in which no target or no non-target trial is left has no error rates and is drawn again.

    Args:
        systems: the scores of each system on the same trials, each [num_trials].
        target: 1 for target trials, 0 for the others, [num_trials].
        enrol_speaker: number or name of the speaker on the enrolment side, [num_trials].
        test_speaker: the same of the test side; one speaker has one name on both.
        figures: functions that give the figures, such as `equal_error`.
        ties: treatment of equal scores, see `farvox.metrics.detection`.
        replicates: number of times that the speakers are drawn.
        seed: of the draws.

    Raises:
        TrialError: scores or labels are not usable, the speakers contradict the labels, fewer than three of
            them have target trials, or ``replicates`` is not positive.
    """
    if replicates < 1:
        raise TrialError(f"{replicates} resamples: at least one is needed, and an interval needs hundreds")
    names = np.concatenate([np.asarray(enrol_speaker), np.asarray(test_speaker)])
    speakers, codes = np.unique(names, return_inverse=True)
    _, is_target = validate(systems[0], target)
    if codes.shape != (2 * len(is_target),):
        raise TrialError(f"speakers for {len(codes) // 2:,} trials do not fit {len(is_target):,} trials")
    enrol, test = codes.astype(np.int64).reshape(2, -1)
    wrong = is_target != (enrol == test)
    if wrong.any():
        n = int(np.argmax(wrong))
        kind = "a target" if is_target[n] else "a non-target"
        raise LabelError(
            f"trial {n + 1} is {kind} trial, but its speakers are '{speakers[enrol[n]]}' and"
            f" '{speakers[test[n]]}' ({wrong.sum():,} such trials): the speakers are of another corpus, or"
            " the labels are wrong"
        )
    num = len(speakers)
    has_target_S = np.bincount(enrol[is_target], minlength=num) > 0
    if (enough := int(has_target_S.sum())) < FEWEST_SPEAKERS:
        raise TrialError(
            f"target trials of {enough} speakers: an interval over speakers needs at least {FEWEST_SPEAKERS}"
        )
    first, second = enrol[~is_target], test[~is_target]

    def both_kinds(count_S: Ints) -> bool:
        """True where trials of both kinds are left; some hundred non-target trials nearly always show it."""
        return bool(count_S[has_target_S].any()) and any(
            bool((count_S[first[::step]] * count_S[second[::step]]).any())
            for step in (1 + len(first) // 500, 1)
        )

    draws: list[Ints] = [np.ones(num, np.int64)]
    for r in range(replicates):
        rng = rng_for(seed, 0, r)
        while True:
            count_S = np.bincount(rng.integers(0, num, num), minlength=num)
            if both_kinds(count_S):
                break
        draws.append(count_S)
    groups = min(num, MOST_LEFT_OUT)
    without = [(np.arange(num) % groups != group).astype(np.int64) for group in range(groups)]
    count_DS = np.stack(draws + [count_S for count_S in without if both_kinds(count_S)])

    def samples(scores: ArrayLike) -> dict[str, Sample]:
        trials = ResampledTrials(scores, is_target, enrol, test, count_DS, ties)
        named = [item for figure in figures for item in figure(trials).items()]
        return {name: Sample.of(found, replicates, num) for name, found in named}

    return Resampled(tuple(samples(scores) for scores in systems), num, replicates, seed)


@dataclass(frozen=True, slots=True)
class Cell:
    """The trials of one condition."""

    number: int  # of the condition
    num_target: int
    num_nontarget: int
    num_speakers: int | None  # with target trials; None where the speakers are not known
    figures: Detection | None  # None where trials of one kind are missing
    far: float | None  # at the given threshold; None without one, or without non-target trials
    frr: float | None  # likewise of target trials
    resampled: Resampled | None  # None if not asked for, or with fewer than three speakers


def per_condition(
    scores: ArrayLike,
    target: ArrayLike,
    condition: ArrayLike,
    *,
    speakers: tuple[ArrayLike, ArrayLike] | None = None,
    p_target: float = 0.01,
    threshold: float | None = None,
    figures: Sequence[Figures] = (equal_error, least_cost),
    ties: Ties = "baseline",
    replicates: int = 1000,
    seed: int = 0,
) -> list[Cell]:
    """The figures of each condition, in ascending order of its number.

    Args:
        scores, target: see `farvox.metrics.detection.det_curve`.
        condition: the number of each trial's condition, [num_trials].
        speakers: the speakers of the enrolment and of the test sides, for intervals; see `speaker_bootstrap`.
        p_target: prior of a target trial in the detection cost; both costs are 1.
        threshold: score from which on trials of every condition are accepted, for their FAR and FRR.
        figures: functions of the figures that get intervals.
        ties, replicates, seed: see `speaker_bootstrap`.

    Raises:
        TrialError: see `farvox.metrics.detection.validate` and `speaker_bootstrap`; or another number of
            conditions than of trials.
    """
    values, is_target = validate(scores, target)
    numbers = np.asarray(condition)
    if numbers.shape != values.shape:
        raise TrialError(f"conditions of shape {numbers.shape} do not fit scores of shape {values.shape}")
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(numbers[order]) != 0))
    sides = None if speakers is None else (np.asarray(speakers[0]), np.asarray(speakers[1]))

    def cell(rows: NDArray[np.int64]) -> Cell:
        num_target = int(is_target[rows].sum())
        detection = resampled = num_speakers = None
        far = frr = None
        if threshold is not None:
            accepted = [values[rows][is_target[rows] == kind] >= threshold for kind in (False, True)]
            far = float(np.mean(accepted[0])) if len(accepted[0]) else None
            frr = float(np.mean(~accepted[1])) if len(accepted[1]) else None
        if sides is not None:
            num_speakers = len(np.unique(sides[0][rows][is_target[rows]]))
        if 0 < num_target < len(rows):
            detection = detection_error(values[rows], is_target[rows], p_target, ties)
            if sides is not None and num_speakers is not None and num_speakers >= FEWEST_SPEAKERS:
                resampled = speaker_bootstrap(
                    [values[rows]],
                    is_target[rows],
                    sides[0][rows],
                    sides[1][rows],
                    figures=figures,
                    ties=ties,
                    replicates=replicates,
                    seed=seed,
                )
        num_nontarget = len(rows) - num_target
        number = int(numbers[rows[0]])
        return Cell(number, num_target, num_nontarget, num_speakers, detection, far, frr, resampled)

    return [cell(rows) for rows in np.split(order, starts[1:])]
