"""Figures of the whole ROC curve, and of log-likelihood ratios: AUC, ROCCH-EER, minCllr, Cllr, actDCF.

The convex hull of the ROC curve is the best that any rising map of the scores can reach, a random choice
between two thresholds included. Its slopes are the pool-adjacent-violators (PAV) solution: the trials between
two neighbouring vertices have one likelihood ratio, their share of the target trials over their share of the
non-target trials. Vertices are kept as whole numbers of rejected trials, so that the hull is exact; equal
scores need no care, since nothing inside a group of them can be a vertex.

Many trials are sorted a range of scores at a time, from the lowest range up: the hull of all is that of the
vertices of the earlier ranges and the points of the next one. Besides the scores themselves that takes memory
for `PART` trials, or for as many as have one and the same score.

Shape suffixes: N trial of a block, P point of the curve, V vertex of its convex hull, T target trial.

References:
    N. Brummer and J. du Preez, Application-independent evaluation of speaker detection, Computer Speech and
    Language 20, 2006 (Cllr, minCllr by PAV, actual cost at the Bayes threshold).
    N. Brummer and E. de Villiers, The BOSARIS Toolkit, 2011 (the ROC convex hull and its EER).
    T. Fawcett, An introduction to ROC analysis, Pattern Recognition Letters 27, 2006 (area under the curve).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from farvox.errors import TrialError
from farvox.metrics.detection import BLOCK, Bools, CostModel, Floats, Ints, validate

PART = 1 << 23  # trials that are sorted at a time


@dataclass(frozen=True, slots=True)
class RejectionAtFar:
    """The false-rejection rate at the lowest threshold that accepts no more than a share of non-targets."""

    far_at_most: float  # the share that was asked for
    far: float  # that of the threshold
    frr: float
    threshold: float  # a trial is accepted if its score is above: the highest rejected non-target score


@dataclass(frozen=True, slots=True)
class RocFigures:
    """Figures of one set of scores that no rising map of the scores changes."""

    auc: float  # the probability that a target scores above a non-target, equal scores counting half
    rocch_eer: float  # FRR = FAR on the convex hull, a fraction
    min_cllr: float  # Cllr of the best calibration of these very scores, bits
    frr_at: tuple[RejectionAtFar, ...]


@dataclass(frozen=True, slots=True)
class LlrFigures:
    """Figures of log-likelihood ratios, to whose scale and offset they are sensitive."""

    cllr: float  # bits: 0 is perfect, 1 that of a system that always says 0
    act_dcf: tuple[float, ...]  # normalised detection cost at the Bayes threshold of each operating point


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Log-likelihood ratios as they were given, and as they were observed, in bins of trials."""

    given_B: Floats  # log odds of the mean probability of a target, both kinds weighing the same
    observed_B: Floats  # log of its share of the targets over its share of the non-targets
    cllr: float
    min_cllr: float


def roc_figures(scores: ArrayLike, target: ArrayLike, fars: Sequence[float] = ()) -> RocFigures:
    """AUC, ROCCH-EER, minCllr, and FRR at the given FARs, all exact.

    Args:
        scores, target: see `farvox.metrics.detection.det_curve`.
        fars: false-acceptance rates, fractions between 0 and 1.

    Raises:
        TrialError: see `farvox.metrics.detection.validate`; or a rate is not between 0 and 1.
    """
    values, is_target = validate(scores, target)
    if wrong := [far for far in fars if not 0 < far < 1]:
        raise TrialError(f"a false-acceptance rate lies between 0 and 1, not {wrong[0]}")
    num_target = int(np.count_nonzero(is_target))
    num_nontarget = len(values) - num_target
    rank_of = {far: num_nontarget - int(far * num_nontarget + 1e-9) - 1 for far in fars}
    rejection = {}
    targets = nontargets = last_corner = twice_above = 0
    hull_2V = np.zeros((2, 1), np.int64)  # rejected non-target and target trials at each vertex
    for target_T, nontarget in _ascending_parts(values, is_target):
        below_T = np.searchsorted(nontarget, target_T, "left")
        twice_above += int(below_T.sum()) + int(np.searchsorted(nontarget, target_T, "right").sum())
        twice_above += 2 * nontargets * len(target_T)
        below_T += nontargets
        corners = np.flatnonzero(np.diff(below_T, prepend=last_corner))  # where a run of non-targets ends
        points_2P = np.stack([below_T[corners], targets + corners])
        hull_2V = convex(np.concatenate([hull_2V, points_2P], axis=1))
        last_corner = int(below_T[-1]) if len(below_T) else last_corner
        for far, rank in rank_of.items():
            if nontargets <= rank < nontargets + len(nontarget):
                score = nontarget[rank - nontargets]
                rejected = nontargets + int(np.searchsorted(nontarget, score, "right"))
                missed = targets + int(np.searchsorted(target_T, score, "right"))
                rates = (num_nontarget - rejected) / num_nontarget, missed / num_target
                rejection[far] = RejectionAtFar(far, *rates, float(score))
        targets, nontargets = targets + len(target_T), nontargets + len(nontarget)
    hull_2V = convex(np.append(hull_2V, [[num_nontarget], [num_target]], axis=1))

    rocch_eer, min_cllr = hull_figures(hull_2V)
    return RocFigures(
        auc=twice_above / (2 * num_target * num_nontarget),
        rocch_eer=rocch_eer,
        min_cllr=min_cllr,
        frr_at=tuple(rejection[far] for far in fars),
    )


def hull_figures(hull_2V: Ints) -> tuple[float, float]:
    """ROCCH-EER and minCllr from the vertices of the hull: rejected non-target and target trials."""
    share_2V = hull_2V / hull_2V[:, -1:]
    frr_V, far_V = share_2V[1], 1 - share_2V[0]
    v = int(np.argmax(frr_V >= far_V))  # not the first vertex, where everything is accepted
    gap, next_gap = far_V[v - 1] - frr_V[v - 1], far_V[v] - frr_V[v]
    eer = frr_V[v - 1] + (frr_V[v] - frr_V[v - 1]) * gap / (gap - next_gap)
    share_of_nontargets, share_of_targets = np.diff(hull_2V) / hull_2V[:, -1:]
    cllr = _log_cost(share_of_targets, share_of_nontargets) + _log_cost(share_of_nontargets, share_of_targets)
    return float(eer), cllr / 2


def _log_cost(shares: Floats, others: Floats) -> float:
    """Bits that trials cost whose likelihood ratio against the other kind is that of both shares."""
    some = shares > 0
    return float(shares[some] @ np.log1p(others[some] / shares[some])) / float(np.log(2))


def _ascending_parts(scores: Floats, is_target: Bools) -> Iterator[tuple[Floats, Floats]]:
    """The sorted target and non-target scores of one range of scores after the other, lowest range first."""
    count = -(-len(scores) // PART)
    sample = np.sort(scores[:: max(1, len(scores) // (256 * count))])
    cuts = np.unique(sample[[len(sample) * k // count for k in range(1, count)]])
    for low, high in pairwise([-np.inf, *cuts, np.inf]):
        parts: tuple[list[Floats], list[Floats]] = ([], [])
        for first in range(0, len(scores), BLOCK):
            scores_N, is_target_N = scores[first : first + BLOCK], is_target[first : first + BLOCK]
            within_N = (scores_N >= low) & (scores_N < high)
            parts[0].append(scores_N[within_N & is_target_N])
            parts[1].append(scores_N[within_N & ~is_target_N])
        found = np.concatenate(parts[0]), np.concatenate(parts[1])
        del parts
        for each in found:
            each.sort()
        yield found


def convex(points_2P: Ints) -> Ints:
    """The vertices of the lower convex hull of points in ascending order; no two are the same point.

    A point on or above the line between its neighbours is no vertex, and all such points can go at once. When
    few go in a round, the rest is done by Andrew's monotone chain.
    """
    while points_2P.shape[1] > 2:
        (dx, dy) = np.diff(points_2P)
        kept = np.ones(points_2P.shape[1], bool)
        kept[1:-1] = dx[:-1] * dy[1:] > dy[:-1] * dx[1:]
        few = 8 * np.count_nonzero(kept) > 7 * len(kept)
        points_2P = points_2P[:, kept]
        if few:
            break
    chain: list[tuple[int, int]] = []
    for x, y in points_2P.T.tolist():
        while len(chain) > 1:
            (x0, y0), (x1, y1) = chain[-2:]
            if (x1 - x0) * (y - y1) > (y1 - y0) * (x - x1):
                break
            chain.pop()
        chain.append((x, y))
    return np.array(chain, np.int64).T


def llr_figures(llrs: ArrayLike, target: ArrayLike, costs: Sequence[CostModel] = ()) -> LlrFigures:
    """Cllr, and the actual detection cost at the Bayes threshold of each operating point.

    ``Cllr = (mean over targets of log2(1 + exp(-llr)) + mean over non-targets of log2(1 + exp(llr))) / 2``. A
    trial is accepted if its ratio is not below the threshold.

    Args:
        llrs: natural-log likelihood ratios of target over non-target, [num_trials].
        target: see `farvox.metrics.detection.det_curve`.
        costs: operating points.

    Raises:
        TrialError: see `farvox.metrics.detection.validate`.
    """
    values, is_target = validate(llrs, target)
    thresholds = [each.bayes_threshold for each in costs]
    losses, missed, accepted = np.zeros(2), np.zeros(len(costs)), np.zeros(len(costs))
    for first in range(0, len(values), BLOCK):
        llr_N, is_target_N = values[first : first + BLOCK], is_target[first : first + BLOCK]
        target_T, nontarget = llr_N[is_target_N], llr_N[~is_target_N]
        losses += _sum_of_log1p_exp(-target_T), _sum_of_log1p_exp(nontarget)
        missed += [np.count_nonzero(target_T < threshold) for threshold in thresholds]
        accepted += [np.count_nonzero(nontarget >= threshold) for threshold in thresholds]
    num_target = int(np.count_nonzero(is_target))
    num_nontarget = len(values) - num_target
    frr, far = missed / num_target, accepted / num_nontarget
    return LlrFigures(
        cllr=float(losses[0] / num_target + losses[1] / num_nontarget) / (2 * float(np.log(2))),
        act_dcf=tuple(
            each.normalised(float(each.cost(*rates))) for each, *rates in zip(costs, frr, far, strict=True)
        ),
    )


def reliability(llrs: ArrayLike, target: ArrayLike, num_bins: int = 12) -> Reliability:
    """Log-likelihood ratios as they were given and as observed, in ascending bins of trials.

    Every bin holds the same share of the trials when both kinds weigh the same; there are fewer bins where
    trials are few (20 of the rarer kind a bin) or equal. Half a trial is added to each count, so that a bin
    of one kind alone has a finite ratio.

    Args:
        llrs, target: see `llr_figures`.
        num_bins: at most.

    Raises:
        TrialError: see `farvox.metrics.detection.validate`.
    """
    values, is_target = validate(llrs, target)
    num_target = int(np.count_nonzero(is_target))
    num_nontarget = len(values) - num_target
    bins = max(2, min(num_bins, min(num_target, num_nontarget) // 20))
    order = np.argsort(values)
    sorted_N, weight_N = values[order], np.where(is_target[order], 0.5 / num_target, 0.5 / num_nontarget)
    first = np.searchsorted(np.cumsum(weight_N), np.arange(1, bins) / bins)
    edges = np.unique(sorted_N[np.minimum(first, len(values) - 1)])
    starts = np.unique([0, *np.searchsorted(sorted_N, edges)])
    target_B, other_B = (
        np.add.reduceat(weight_N * np.exp(-np.logaddexp(0, sign * sorted_N)), starts) for sign in (-1, 1)
    )
    with np.errstate(divide="ignore"):
        given_B = np.clip(np.log(target_B) - np.log(other_B), sorted_N[0], sorted_N[-1])
    sizes_B = np.diff(starts, append=len(values))
    targets_B = np.add.reduceat(is_target[order].astype(np.int64), starts)
    share_B = (targets_B + 0.5) / (num_target + 1)
    share_of_others_B = (sizes_B - targets_B + 0.5) / (num_nontarget + 1)
    return Reliability(
        given_B,
        np.log(share_B / share_of_others_B),
        llr_figures(values, is_target).cllr,
        roc_figures(values, is_target).min_cllr,
    )


def _sum_of_log1p_exp(values: Floats) -> float:
    """The sum of log(1 + exp(value)), without overflow and with full precision of small terms."""
    return float(np.maximum(values, 0).sum() + np.log1p(np.exp(-np.abs(values))).sum())
