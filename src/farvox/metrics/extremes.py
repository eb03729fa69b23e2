"""Which trials can decide EER and minDCF, found by counting: all others need no sorting.

Scores are counted in bins of equal width, the kinds apart, which gives the error rates at every edge of two
bins. Between two edges FRR only rises and FAR only falls, so a bin can hold the least cost only if the FRR of
its lower edge and the FAR of its upper edge together cost no more than the best edge; and the rates meet in
the bin at whose edges their difference changes sign. Bins follow the order of the scores whatever the
rounding, equal scores share a bin, and costs are compared as they are computed later: the figures are those
of all trials, to the last digit.

Shape suffixes: B bin, K kept bin, M kept trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 1 << 14
"""So many counts of two kinds stay in the processor's cache."""
BLOCK = 1 << 17
"""Trials looked at at a time; likewise."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Kept(NamedTuple):
    """The trials that matter, and where they stand among all.

    Attributes:
        scores_M: their scores, in the order of the trials.
        is_target_M: their labels.
        skipped_M: how many other trials lie below each, when these are sorted by score.
        skipped_targets_M: how many of them are target trials.
    """

    scores_M: Floats
    is_target_M: Bools
    skipped_M: Ints
    skipped_targets_M: Ints


def decisive_trials(
    scores: Floats, is_target: Bools, cost: Callable[[Floats, Floats], Floats]
) -> Kept | None:
    """The trials between which EER and minDCF are reached, with both neighbours of the crossing.

    Args:
        scores: finite, [num_trials].
        is_target: trials of both kinds, [num_trials].
        cost: of FRR and FAR, rising with both.

    Returns:
        None where the scores cannot be put in bins: they are all equal, or too far apart for a float.
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
    keep_B = _decisive_bins(targets_B, nontargets_B, cost)
    parts = [
        (scores[part][mask], is_target[part][mask]) for part, bin_N in blocks() for mask in (keep_B[bin_N],)
    ]
    kept_scores, kept_target = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    size_K = (targets_B + nontargets_B)[keep_B]
    return Kept(
        kept_scores,
        kept_target,
        np.repeat(_skipped(targets_B + nontargets_B, keep_B), size_K),
        np.repeat(_skipped(targets_B, keep_B), size_K),
    )


def _decisive_bins(targets_B: Ints, nontargets_B: Ints, cost: Callable[[Floats, Floats], Floats]) -> Bools:
    """Which bins may hold the least cost, and those around the point where the rates meet."""
    num_nontarget = int(nontargets_B.sum())
    frr = np.append(0, np.cumsum(targets_B)) / int(targets_B.sum())
    far = (num_nontarget - np.append(0, np.cumsum(nontargets_B))) / num_nontarget
    keep_B: Bools = cost(frr[:-1], far[1:]) <= cost(frr, far).min()
    crossing = int(np.argmax(frr >= far)) - 1
    keep_B[crossing] = True
    before = np.flatnonzero((targets_B + nontargets_B)[:crossing])
    keep_B[before[-1:]] = True  # its last trial is the point at the lower edge
    return keep_B


def _skipped(count_B: Ints, keep_B: Bools) -> Ints:
    """How many trials of the bins that are not kept lie below each kept one."""
    skipped: Ints = np.cumsum(np.where(keep_B, 0, count_B))[keep_B]
    return skipped
