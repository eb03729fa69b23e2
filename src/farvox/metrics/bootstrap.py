"""Intervals by resampling the speakers, paired comparisons, and figures by condition.

The trials of a list are not independent: a voice that is easily taken for others is hard in every trial it
takes part in, on either side. The sample that was drawn is one of speakers, so the speakers are drawn again:
as many as there are, with replacement, one draw for both sides. With ``w`` the number of times that a speaker
was drawn, a non-target trial of speakers a and b counts ``w_a w_b`` times, and a target trial, in which one
speaker stands on both sides, ``w_a`` times and not ``w_a ** 2``: it rests on one draw, not on two. The 95 %
interval lies between the 2.5th and the 97.5th percentile of the resampled figures. Resampling the trials
instead gives intervals that are several times too narrow.

All systems of a comparison are evaluated on the same draws: the difficulty that a draw has for all of them
cancels in their difference.

Shape suffixes: R replicate, K system, S speaker.

References:
    S. Bengio and J. Mariethoz, A statistical significance test for person authentication, Odyssey 2004
    (resampling of persons: tests on trials understate the variance).
    A. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), 2007 (both sides of a pair are
    resampled, and a pair counts the product of the two multiplicities).
    B. Efron and R. Tibshirani, An introduction to the bootstrap, 1993, chapter 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.metrics.detection import Detection, Ties, detection_error, validate
from farvox.rng import rng_for

LEVEL = 0.95
FEWEST_SPEAKERS = 3
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Interval(NamedTuple):
    """The range between two percentiles of the resampled values."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True where zero lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, eq=False)
class Resampled:
    """The figures of one or several systems on the same resamples of the speakers."""

    eer_RK: Floats = field(repr=False)  # equal error rates, fractions
    min_dcf_RK: Floats = field(repr=False)  # normalised detection costs
    num_speakers: int  # that were drawn each time
    seed: int  # of the draws


def interval(values_R: ArrayLike, level: float = LEVEL) -> Interval:
    """The percentile interval in which the share ``level`` of resampled values or differences lies."""
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(values_R, np.float64), [tail, 1 - tail])
    return Interval(float(low), float(high))


def speaker_bootstrap(
    systems: Sequence[ArrayLike],
    target: ArrayLike,
    enrol_speaker: ArrayLike,
    test_speaker: ArrayLike,
    *,
    p_target: float = 0.01,
    ties: Ties = "baseline",
    replicates: int = 1000,
    seed: int = 0,
) -> Resampled:
    """EER and minDCF of every system on the same resamples of the speakers.

    A resample in which no target or no non-target trial is left has no error rates and is drawn again.

    Args:
        systems: the scores of each system on the same trials, each [num_trials].
        target: 1 for target trials, 0 for the others, [num_trials].
        enrol_speaker: number or name of the speaker on the enrolment side, [num_trials].
        test_speaker: the same of the test side; one speaker has one name on both.
        p_target: prior of a target trial in the detection cost; both costs are 1.
        ties: treatment of equal scores, see `farvox.metrics.detection`.
        replicates: number of times that the speakers are drawn.
        seed: of the draws.

    Raises:
        TrialError: scores or labels are not usable, the speakers contradict the labels, there are fewer
            than three of them, or ``replicates`` is not positive.
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
        raise TrialError(
            f"trial {n + 1} is {kind} trial, but its speakers are '{speakers[enrol[n]]}' and"
            f" '{speakers[test[n]]}' ({wrong.sum():,} such trials): the speakers are of another corpus, or"
            " the labels are wrong"
        )
    if len(speakers) < FEWEST_SPEAKERS:
        raise TrialError(
            f"{len(speakers)} speakers: an interval over speakers needs at least {FEWEST_SPEAKERS}"
        )
    ordered = [_Ordered.of(scores, is_target, enrol, test, ties) for scores in systems]
    figures = np.empty((2, replicates, len(systems)))
    for r in range(replicates):
        rng, both_kinds = rng_for(seed, 0, r), False
        while not both_kinds:
            drawn = rng.integers(0, len(speakers), len(speakers))
            count_S = np.bincount(drawn, minlength=len(speakers))
            both_kinds = all(weights.any() for weights in ordered[0].weights(count_S))
        for k, trials in enumerate(ordered):
            figures[:, r, k] = trials.figures(*trials.weights(count_S), p_target)
    return Resampled(figures[0], figures[1], len(speakers), seed)


@dataclass(frozen=True, eq=False)
class _Ordered:
    """Trials in ascending order of their scores, sorted once for all replicates."""

    target_speaker: Ints  # of each target trial
    enrol: Ints  # the enrolment speaker of each non-target trial
    test: Ints  # its test speaker
    targets_below: Ints  # number of target trials that are rejected at each threshold, ascending
    nontargets_below: Ints  # the same of non-target trials
    corners: Ints  # the thresholds at which a detection cost can be least: the next one rejects targets

    @classmethod
    def of(
        cls, scores: ArrayLike, is_target: NDArray[np.bool_], enrol: Ints, test: Ints, ties: Ties
    ) -> _Ordered:
        values, is_target = validate(scores, is_target)
        targets_first = np.concatenate([np.flatnonzero(is_target), np.flatnonzero(~is_target)])
        order = targets_first[np.argsort(values[targets_first], kind="stable")]
        sorted_scores, is_target = values[order], is_target[order]
        thresholds = np.arange(len(order) + 1)
        if ties == "grouped":
            thresholds = np.append(0, np.flatnonzero(np.append(np.diff(sorted_scores) != 0, True)) + 1)
        targets_below = np.append(0, np.cumsum(is_target))[thresholds]
        return cls(
            target_speaker=enrol[order[is_target]],
            enrol=enrol[order[~is_target]],
            test=test[order[~is_target]],
            targets_below=targets_below,
            nontargets_below=thresholds - targets_below,
            corners=np.flatnonzero(np.append(np.diff(targets_below) > 0, True)),
        )

    def weights(self, count_S: Ints) -> tuple[Ints, Ints]:
        """The weight of each target and of each non-target trial; speakers were drawn ``count_S`` times."""
        of_nontarget = count_S.take(self.enrol)
        of_nontarget *= count_S.take(self.test)
        return count_S.take(self.target_speaker), of_nontarget

    def figures(
        self, of_target: NDArray[np.number], of_nontarget: NDArray[np.number], p_target: float
    ) -> tuple[float, float]:
        """EER and minDCF of weighted trials, from the rates at the thresholds that can decide them."""
        missed, rejected = _running_sum(of_target), _running_sum(of_nontarget)

        def frr_and_far(threshold: int | Ints) -> tuple[Floats, Floats]:
            frr = missed[self.targets_below[threshold]] / missed[-1]
            return frr, (rejected[-1] - rejected[self.nontargets_below[threshold]]) / rejected[-1]

        frr, far = frr_and_far(self.corners)
        cost = float(np.min(frr * p_target + far * (1 - p_target))) / min(p_target, 1 - p_target)
        low, high = 0, len(self.targets_below) - 1
        while high - low > 1:  # frr - far rises from -1 to 1; the EER is where it changes sign
            middle = (low + high) // 2
            frr, far = frr_and_far(middle)
            low, high = (low, middle) if frr >= far else (middle, high)
        sides = [frr_and_far(low), frr_and_far(high)]
        frr, far = min(sides, key=lambda rates: abs(rates[0] - rates[1]))
        return float((frr + far) / 2), cost


def _running_sum(weights: NDArray[np.number]) -> NDArray[np.number]:
    """The sum of the first 0, 1, 2, ... weights."""
    total = np.zeros(len(weights) + 1, weights.dtype)
    np.cumsum(weights, out=total[1:])
    return total


@dataclass(frozen=True, slots=True)
class Cell:
    """The trials of one condition."""

    number: int  # of the condition
    num_target: int
    num_nontarget: int
    figures: Detection | None  # None where trials of one kind are missing
    resampled: Resampled | None  # None if not asked for, or with fewer than three speakers


def per_condition(
    scores: ArrayLike,
    target: ArrayLike,
    condition: ArrayLike,
    *,
    speakers: tuple[ArrayLike, ArrayLike] | None = None,
    p_target: float = 0.01,
    ties: Ties = "baseline",
    replicates: int = 1000,
    seed: int = 0,
) -> list[Cell]:
    """EER and minDCF of each condition, in ascending order of its number.

    Args:
        scores, target: see `farvox.metrics.detection.det_curve`.
        condition: the number of each trial's condition, [num_trials].
        speakers: the speakers of the enrolment and of the test sides, for intervals; see `speaker_bootstrap`.
        p_target, ties, replicates, seed: see `speaker_bootstrap`.

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
        figures = resampled = None
        if 0 < num_target < len(rows):
            figures = detection_error(values[rows], is_target[rows], p_target, ties)
            if sides is not None and len(np.union1d(sides[0][rows], sides[1][rows])) >= FEWEST_SPEAKERS:
                resampled = speaker_bootstrap(
                    [values[rows]],
                    is_target[rows],
                    sides[0][rows],
                    sides[1][rows],
                    p_target=p_target,
                    ties=ties,
                    replicates=replicates,
                    seed=seed,
                )
        return Cell(int(numbers[rows[0]]), num_target, len(rows) - num_target, figures, resampled)

    return [cell(rows) for rows in np.split(order, starts[1:])]
