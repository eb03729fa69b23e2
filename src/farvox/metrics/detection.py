"""Error rates of scores on labelled trials: DET curve, EER and minimum detection cost.

Conventions: a trial is accepted when its score is above the threshold. FRR is the share of target
trials that are rejected, FAR the share of non-target trials that are accepted; both are fractions.

Ties. The FFSVC2022 baseline steps through the scores one trial at a time, in a stable sort with the
target trials before the non-target trials; among equal scores it so passes through operating points
that no threshold can reach. ``ties="baseline"``, the default, gives exactly its figures;
``ties="grouped"`` keeps the reachable points only. Without equal scores the two are the same.

Of many trials only those are sorted that can decide a figure; they are found by counting. Scores are counted
in bins of equal width, the kinds apart, which gives the error rates at every edge of two bins. Between two
edges FRR only rises and FAR only falls, so a bin can hold the least cost only if the FRR of its lower edge
and the FAR of its upper edge together cost no more than the best edge; and the rates meet in the bin at whose
edges their difference changes sign. Bins follow the order of the scores whatever the rounding, equal scores
share a bin, and costs are compared as they are computed later: the figures are those of all trials, to the
last digit.

Shape suffixes: N trial, M trial that can decide a figure, B bin.

References:
    NIST 2016 Speaker Recognition Evaluation Plan, section 3 (detection cost).
    A. Martin et al., The DET curve in assessment of detection task performance, Eurospeech 1997.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.reprs import short_repr

FEWEST_TO_COUNT = 1 << 16  # from so many trials on, only those that can decide a figure are sorted
NUM_BINS = 1 << 14  # so many counts of two kinds stay in the processor's cache
BLOCK = 1 << 17  # trials that are counted at a time; likewise

Ties = Literal["baseline", "grouped"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Rates = TypeVar("Rates", Floats, float)


class DetCurve(NamedTuple):
    """Error rates at every threshold, in ascending order of it: ``frr`` rises from 0 to 1, ``far`` falls."""

    frr: Floats
    far: Floats
    threshold: Floats


@dataclass(frozen=True, slots=True)
class CostModel:
    """An operating point of the detection cost: the prior of a target trial and the costs of both errors.

    Raises:
        TrialError: ``p_target`` is not between 0 and 1, or a cost is not positive.
    """

    p_target: float = 0.01
    c_miss: float = 1.0
    c_fa: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.p_target < 1:
            raise TrialError(f"the prior of a target trial must be between 0 and 1, not {self.p_target}")
        if not (0 < self.c_miss < math.inf and 0 < self.c_fa < math.inf):
            raise TrialError(f"costs must be positive, not {self.c_miss} and {self.c_fa}")

    @property
    def name(self) -> str:
        """The prior, and the costs unless both are 1, as in "0.05" and "0.01,10,1"."""
        alike = self.c_miss == self.c_fa == 1
        return f"{self.p_target:g}" + ("" if alike else f",{self.c_miss:g},{self.c_fa:g}")

    def cost(self, frr: Rates, far: Rates) -> Rates:
        """The detection cost ``c_miss FRR p_target + c_fa FAR (1 - p_target)``."""
        return self.c_miss * frr * self.p_target + self.c_fa * far * (1 - self.p_target)

    def normalised(self, cost: Rates) -> Rates:
        """A cost divided by that of the better of the two systems that do not listen.

        That is ``min(c_miss p_target, c_fa (1 - p_target))``: to accept all trials, or none.
        """
        return cost / min(self.c_miss * self.p_target, self.c_fa * (1 - self.p_target))

    @property
    def bayes_threshold(self) -> float:
        """The natural-log likelihood ratio from which on accepting costs less than rejecting.

        It is ``log(c_fa (1 - p_target) / (c_miss p_target))``.
        """
        return math.log(self.c_fa * (1 - self.p_target)) - math.log(self.c_miss * self.p_target)


@dataclass(frozen=True, slots=True)
class Detection:
    """The figures of one set of scores."""

    eer: float  # equal error rate, a fraction
    threshold: float  # the score at which FRR and FAR are nearest to each other
    min_dcf: float  # the smallest normalised detection cost over all thresholds
    num_target: int
    num_nontarget: int
    min_dcf_threshold: float  # the score at which ``min_dcf`` is reached
    p_target: float  # the prior that ``min_dcf`` assumes

    __repr__ = short_repr

    @property
    def num_rarer(self) -> int:
        """Number of trials of the rarer kind, which bounds the digits that the figures can have."""
        return min(self.num_target, self.num_nontarget)


class DecisiveTrials(NamedTuple):
    """The trials that can decide a figure, and their places among all."""

    scores_M: Floats  # in the order of the trials
    is_target_M: Bools
    skipped_M: Ints  # number of other trials below each, when these are sorted by score
    skipped_targets_M: Ints  # number of target trials among those


def validate(scores: ArrayLike, target: ArrayLike) -> tuple[Floats, Bools]:
    """Check that error rates can be computed from ``scores`` and ``target``, and return them as arrays.

    Raises:
        TrialError: no scores, another number of labels, a label other than 0 or 1, a score that is not
            finite, or no trials of one of the two kinds.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(target)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise TrialError(f"scores of shape {scores.shape} do not fit labels of shape {labels.shape}")
    if len(scores) == 0:
        raise TrialError("there are no scores")
    if labels.dtype != bool and not ((labels == 0) | (labels == 1)).all():
        raise TrialError("every label must be 0 (non-target) or 1 (target)")
    if not np.isfinite(scores).all():
        n = int(np.argmin(np.isfinite(scores)))
        raise TrialError(f"score {n + 1} is {scores[n]}: every score must be a finite number")
    is_target = labels.astype(bool)
    if is_target.all() or not is_target.any():
        kind = "non-target" if is_target[0] else "target"
        raise TrialError(f"none of the {len(scores):,} trials is a {kind} trial: error rates need both kinds")
    return scores, is_target


def det_curve(scores: ArrayLike, target: ArrayLike, *, ties: Ties = "baseline") -> DetCurve:
    """FRR and FAR at every threshold.

    Args:
        scores: higher means more alike, [num_trials].
        target: 1 or True for the same speaker, 0 or False for another, [num_trials].
        ties: treatment of equal scores, see the head of this module.

    Returns:
        Three arrays of num_trials + 1 points (fewer when ties are grouped). The first point, where
        everything is accepted, has as its threshold the smallest score less 0.001, as in the baseline.

    Raises:
        TrialError: see `validate`.
    """
    return _curve(*validate(scores, target), ties)


def _curve(scores: Floats, is_target: Bools, ties: Ties, kept: DecisiveTrials | None = None) -> DetCurve:
    """The curve of all trials, or its first point and those of the trials that are kept.

    The scores of each kind are sorted by themselves: as numbers, far faster than an order of positions.
    """
    if ties not in get_args(Ties):
        raise TrialError(f"ties='{ties}': must be one of {', '.join(get_args(Ties))}")
    num_target = int(np.count_nonzero(is_target))
    num_nontarget, lowest = len(is_target) - num_target, scores.min()
    if kept is not None:
        scores, is_target = kept.scores_M, kept.is_target_M
    targets, nontargets = np.sort(scores[is_target]), np.sort(scores[~is_target])
    place = np.arange(len(targets)) + np.searchsorted(nontargets, targets, "left")  # before equal non-targets
    is_target = np.zeros(len(scores), bool)
    is_target[place] = True
    threshold = np.empty(len(scores))
    threshold[place], threshold[~is_target] = targets, nontargets
    rejected_targets, rejected = np.cumsum(is_target, dtype=np.int64), np.arange(1, len(scores) + 1)
    if kept is not None:
        rejected_targets, rejected = rejected_targets + kept.skipped_targets_M, rejected + kept.skipped_M
    if ties == "grouped":
        last = np.append(threshold[1:] != threshold[:-1], True)  # of each group
        threshold, rejected_targets, rejected = threshold[last], rejected_targets[last], rejected[last]
    frr = rejected_targets / num_target
    far = (num_nontarget - (rejected - rejected_targets)) / num_nontarget
    return DetCurve(np.append(0.0, frr), np.append(1.0, far), np.append(lowest - 0.001, threshold))


def equalised_curve(scores: ArrayLike, target: ArrayLike, cell: ArrayLike) -> DetCurve:
    """FRR and FAR at every threshold as the means over cells of trials, which so weigh the same.

    That is how NIST pools partitions of a list (evaluation plans of SRE 2016, section 3, and later): a
    condition with many trials does not outvote another. Equal scores are one threshold.

    Args:
        scores, target: see `det_curve`.
        cell: number of the cell of each trial, [num_trials].

    Raises:
        TrialError: see `validate`; or a cell has no trials of one of the two kinds.
    """
    scores, is_target = validate(scores, target)
    numbers, cells = np.unique(np.asarray(cell), return_inverse=True)
    num = len(numbers)
    counts_2C = np.stack([np.bincount(cells[kind], minlength=num) for kind in (~is_target, is_target)])
    if not counts_2C.all():
        number = numbers[int(np.argmin(counts_2C.all(axis=0)))]
        raise TrialError(f"cell {number} has no trials of one of the two kinds: error rates need both")
    weight = 1 / (num * counts_2C[is_target.astype(np.int64), cells])
    order = np.argsort(scores, kind="stable")
    threshold, weight, is_target = scores[order], weight[order], is_target[order]
    last = np.append(threshold[1:] != threshold[:-1], True)  # of each group
    frr, rejected = (np.cumsum(np.where(kind, weight, 0))[last] for kind in (is_target, ~is_target))
    far = np.clip(1 - rejected, 0, 1)
    return DetCurve(
        np.append(0.0, np.minimum(frr, 1)),
        np.append(1.0, far),
        np.append(threshold[0] - 0.001, threshold[last]),
    )


def equal_error_rate(curve: DetCurve) -> tuple[float, float]:
    """The EER and its threshold: the mean of FRR and FAR where they are nearest, without interpolation."""
    n = int(np.argmin(np.abs(curve.frr - curve.far)))
    return float((curve.frr[n] + curve.far[n]) / 2), float(curve.threshold[n])


def min_detection_cost(
    curve: DetCurve, *, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> tuple[float, float]:
    """The smallest detection cost over all thresholds, and the first threshold that reaches it.

    The cost is normalised, see `CostModel`, whose errors these are.
    """
    model = CostModel(p_target, c_miss, c_fa)
    cost = model.cost(curve.frr, curve.far)
    n = int(np.argmin(cost))
    return model.normalised(float(cost[n])), float(curve.threshold[n])


def decisive_trials(scores: Floats, is_target: Bools, costs: Sequence[CostModel]) -> DecisiveTrials | None:
    """The trials between which EER and each minDCF are reached, with both neighbours of the crossing.

    None where the finite scores cannot be put in bins: they are all equal, or too far apart for a float.
    """
    lowest, highest = float(scores.min()), float(scores.max())
    with np.errstate(over="ignore", divide="ignore"):
        per_bin = (NUM_BINS - 1) / np.float64(highest - lowest)
    if not 0 < per_bin < np.inf:
        return None

    def blocks() -> Iterator[tuple[slice, Ints]]:
        for first in range(0, len(scores), BLOCK):
            part = slice(first, first + BLOCK)
            yield part, ((scores[part] - lowest) * per_bin).astype(np.int64)

    counts = np.zeros(2 * NUM_BINS, np.int64)
    for part, bin_N in blocks():
        bin_N += is_target[part].astype(np.int64) * NUM_BINS
        counts += np.bincount(bin_N, minlength=2 * NUM_BINS)
    nontargets_B, targets_B = counts.reshape(2, NUM_BINS)
    all_B = targets_B + nontargets_B
    num_nontarget = int(nontargets_B.sum())
    frr = np.append(0, np.cumsum(targets_B)) / int(targets_B.sum())
    far = (num_nontarget - np.append(0, np.cumsum(nontargets_B))) / num_nontarget
    keep_B = np.zeros(NUM_BINS, bool)
    for each in costs:
        keep_B |= each.cost(frr[:-1], far[1:]) <= each.cost(frr, far).min()
    crossing = int(np.argmax(frr >= far)) - 1
    keep_B[crossing] = True
    before = np.flatnonzero(all_B[:crossing])
    keep_B[before[-1:]] = True  # its last trial is the point at the lower edge

    kept_N = np.concatenate([keep_B[bin_N] for _, bin_N in blocks()])
    skipped, skipped_targets = (
        np.repeat(np.cumsum(np.where(keep_B, 0, count_B))[keep_B], all_B[keep_B])
        for count_B in (all_B, targets_B)
    )
    return DecisiveTrials(scores[kept_N], is_target[kept_N], skipped, skipped_targets)


def detection_error(
    scores: ArrayLike, target: ArrayLike, p_target: float = 0.01, ties: Ties = "baseline"
) -> Detection:
    """All figures of one set of scores (the ``evaluate`` of this module).

    They are those of the whole `det_curve`, to the last digit; with many trials most of it is never computed.

    Args:
        scores, target, ties: see `det_curve`.
        p_target: prior of a target trial in the detection cost; both costs are 1.

    Raises:
        TrialError: see `validate` and `CostModel`.
    """
    scores, is_target = validate(scores, target)
    curve = _decisive_curve(scores, is_target, [CostModel(p_target)], ties)
    eer, threshold = equal_error_rate(curve)
    min_dcf, dcf_threshold = min_detection_cost(curve, p_target=p_target)
    targets = int(np.count_nonzero(is_target))
    return Detection(eer, threshold, min_dcf, targets, len(scores) - targets, dcf_threshold, p_target)


def hardest_errors(
    scores: ArrayLike, target: ArrayLike, threshold: float, most: int = 10
) -> tuple[Ints, Ints]:
    """The trials that are furthest on the wrong side of a threshold, the furthest first.

    Args:
        scores, target: see `det_curve`.
        threshold: a trial is accepted from it on.
        most: number of trials of each kind, at most.

    Returns:
        Places of falsely accepted non-target trials, and of falsely rejected target trials.

    Raises:
        TrialError: see `validate`.
    """
    values, is_target = validate(scores, target)

    def worst(wrong: Bools, sign: int) -> Ints:
        rows = np.flatnonzero(wrong)
        loss = sign * values[rows]
        if len(rows) > most:
            rows = rows[np.sort(np.argpartition(loss, most)[:most])]
        return rows[np.argsort(sign * values[rows], kind="stable")]

    return worst(~is_target & (values >= threshold), -1), worst(is_target & (values < threshold), 1)


@dataclass(frozen=True, slots=True, eq=False)
class SpeakerErrors:
    """The trials of each speaker and the errors in them: numbers, [num_speakers] each.

    A non-target trial counts for both of its speakers.
    """

    targets_S: Ints
    rejected_S: Ints  # target trials that are falsely rejected
    nontargets_S: Ints
    accepted_S: Ints  # non-target trials that are falsely accepted


def errors_by_speaker(
    scores: ArrayLike, target: ArrayLike, enrol_speaker: Ints, test_speaker: Ints, threshold: float
) -> SpeakerErrors:
    """The errors of every speaker at a threshold, from which on trials are accepted.

    Args:
        scores, target: see `det_curve`.
        enrol_speaker, test_speaker: numbers of the speakers of both sides, from 0 on, [num_trials].
        threshold: a score.

    Raises:
        TrialError: see `validate`.
    """
    values, is_target = validate(scores, target)
    num = int(max(enrol_speaker.max(), test_speaker.max())) + 1
    rejected, accepted = is_target & (values < threshold), ~is_target & (values >= threshold)

    def of_both(chosen: Bools) -> Ints:
        sides = (enrol_speaker[chosen], test_speaker[chosen])
        return np.bincount(sides[0], minlength=num) + np.bincount(sides[1], minlength=num)

    return SpeakerErrors(
        np.bincount(enrol_speaker[is_target], minlength=num),
        np.bincount(enrol_speaker[rejected], minlength=num),
        of_both(~is_target),
        of_both(accepted),
    )


def min_detection_costs(
    scores: ArrayLike, target: ArrayLike, costs: Sequence[CostModel], ties: Ties = "baseline"
) -> list[tuple[float, float]]:
    """`min_detection_cost` at several operating points, in the time of one; errors as of `validate`."""
    curve = _decisive_curve(*validate(scores, target), costs, ties)
    return [min_detection_cost(curve, **asdict(each)) for each in costs]


def _decisive_curve(scores: Floats, is_target: Bools, costs: Sequence[CostModel], ties: Ties) -> DetCurve:
    """The curve of all trials if they are few, and otherwise of those that decide the EER or a cost."""
    many = len(scores) >= FEWEST_TO_COUNT
    return _curve(scores, is_target, ties, decisive_trials(scores, is_target, costs) if many else None)
