"""A sequential test of speakers: thresholds for the looks at a score that changes as speech comes.

After each of K seconds of speech there is a look at the score of all speech so far. A trial is decided at the
first look whose score reaches the look's upper threshold (the same speaker) or is below its lower one
(different). The scores of a trial at several looks are correlated, and their distributions change with the
length; so no likelihood ratio is assumed (A. Wald, Sequential Analysis, 1947), but the errors of all looks
together are counted on trials. Look by look, each threshold is the one that decides as many trials as it may:
of those that are still undecided it spends, wrongly decided, a part of the promised errors, the same at every
look, with what earlier looks left over (error spending: K. K. G. Lan and D. L. DeMets, Discrete sequential
boundaries for clinical trials, Biometrika 70(3), 1983). Where the two thresholds meet, all are decided.

Thresholds that spend just what is promised on some speakers exceed it on others half of the time. So they
are fitted to a share of it: the largest with which, of bootstrap draws of the speakers, nineteen in twenty
give thresholds that keep the promise on all of them (`fit_safely`).

The promise is on the trials that are decided. Shape suffixes: N trial, K look; NaN where a trial has no look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farvox.errors import TrialError
from farvox.rng import rng_for

Looks = NDArray[np.float64]
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
CONFIDENCE = 0.95
UNDECIDED = 0  # the look of a trial that no look decides; others count from 1


class Boundaries(NamedTuple):
    """The thresholds of all looks: the same speaker from ``same`` on, another below ``different``."""

    same_K: Looks
    different_K: Looks


class Outcome(NamedTuple):
    """The ends of trials of one kind: the look that decides each, and True where that calls them the same."""

    look_N: NDArray[np.int64]
    same_N: NDArray[np.bool_]

    def rate(self, same: bool) -> float:
        """Share of the decided trials that are called the same, or different; 0 where none is decided."""
        decided_N = self.look_N > UNDECIDED
        return float((self.same_N == same)[decided_N].mean()) if decided_N.any() else 0.0


class SequentialTrials(NamedTuple):
    """Trials by their scores at every look, and the two speakers of each, as numbers from 0."""

    score_NK: Looks
    enrol_N: NDArray[np.int64]
    test_N: NDArray[np.int64]

    @property
    def target_N(self) -> NDArray[np.bool_]:
        """True for the same speaker."""
        return np.asarray(self.enrol_N == self.test_N)


def fit_boundaries(
    target_NK: Looks,
    nontarget_NK: Looks,
    false_acceptance: float,
    false_rejection: float,
    *weights: Looks,
) -> Boundaries:
    """Fit the thresholds that spend these shares of errors, equally over the looks, on trials of both kinds.

    ``weights`` are those of the target and the non-target trials, if they differ.
    """
    num_looks = target_NK.shape[1]
    kinds, errors = (target_NK, nontarget_NK), (false_rejection, false_acceptance)
    weight = list(weights) or [np.ones(len(kind)) for kind in kinds]
    weight = [each / each.sum() for each in weight]  # those of decided trials become 0
    spent = [0.0, 0.0]
    same_K, different_K = np.empty(num_looks), np.empty(num_looks)
    for look in range(num_looks):
        may = [error * (look + 1) / num_looks - each for error, each in zip(errors, spent, strict=True)]
        low = _spending(kinds[0][:, look], weight[0], may[0])
        high = -_spending(-kinds[1][:, look], weight[1], may[1])
        if np.isfinite(high):
            high = float(np.nextafter(high, np.inf))  # that score itself is no error
        if high <= low:  # infinite is the threshold of a kind of which nothing is left
            low = high = float(
                np.mean([each for each in (low, high) if np.isfinite(each)] or same_K[look - 1])
            )
        different_K[look], same_K[look] = low, high
        for kind, is_wrong in ((0, np.less), (1, np.greater_equal)):
            score_N = kinds[kind][:, look]
            spent[kind] += float(weight[kind][is_wrong(score_N, low if kind == 0 else high)].sum())
            weight[kind] = np.where((score_N < low) | (score_N >= high), 0.0, weight[kind])
    return Boundaries(same_K, different_K)


def outcomes(boundaries: Boundaries, score_NK: Looks) -> Outcome:
    """Decide trials at the first look that does."""
    same_NK = score_NK >= boundaries.same_K
    decided_NK = same_NK | (score_NK < boundaries.different_K)
    first_N = decided_NK.argmax(axis=1)
    rows_N = np.arange(len(score_NK))
    is_decided_N = decided_NK[rows_N, first_N]
    return Outcome(np.where(is_decided_N, first_N + 1, UNDECIDED), same_NK[rows_N, first_N] & is_decided_N)


def fit_safely(
    trials: SequentialTrials,
    false_acceptance: float,
    false_rejection: float,
    *,
    num_draws: int = 200,
    note: Callable[[str], object] = lambda line: None,
) -> tuple[Boundaries, tuple[float, float]]:
    """Fit thresholds that keep the promised errors with `CONFIDENCE`, as far as these speakers tell.

    Returns:
        The thresholds, and the shares of both errors that they were fitted to.

    Raises:
        TrialError: no trials of one kind, or no share is small enough.
    """
    is_target_N = trials.target_N
    if is_target_N.all() or not is_target_N.any():
        raise TrialError(
            "a sequential test is fitted on trials of one speaker and of two; one kind is missing"
        )
    kinds = trials.score_NK[is_target_N], trials.score_NK[~is_target_N]
    speakers = np.unique([trials.enrol_N, trials.test_N])
    shares, weights = [0, 0], []
    for draw in range(num_draws):
        count_S = np.zeros(speakers[-1] + 1)
        np.add.at(count_S, rng_for(0, 0, draw).choice(speakers, len(speakers)), 1.0)
        enrol_N, test_N = count_S[trials.enrol_N], count_S[trials.test_N]
        weights.append((test_N[is_target_N], (enrol_N * test_N)[~is_target_N]))
    while True:
        kept = SHARES[shares[0]], SHARES[shares[1]]
        errors = kept[0] * false_acceptance, kept[1] * false_rejection
        rates = []
        for each in weights:
            found = [outcomes(fit_boundaries(*kinds, *errors, *each), kind) for kind in kinds]
            rates.append((found[1].rate(same=True), found[0].rate(same=False)))
        worst = np.quantile(rates, CONFIDENCE, axis=0)
        told = [f"{100 * error:.2f} -> {100 * rate:.2f} %" for error, rate in zip(errors, worst, strict=True)]
        note(f"spent -> at most in {100 * CONFIDENCE:g} % of the draws: {', '.join(told)}")
        over = [n for n in (0, 1) if worst[n] > (false_acceptance, false_rejection)[n]]
        if not over:
            return fit_boundaries(*kinds, *errors), kept
        for n in over:
            shares[n] += 1
            if shares[n] == len(SHARES):
                raise TrialError(
                    "these trials are too few for such low errors: add speakers, or promise less"
                )


def _spending(score_N: Looks, weight_N: Looks, share: float) -> float:
    """The highest threshold below which lie trials of no more weight than ``share``."""
    order = np.flatnonzero((weight_N > 0) & np.isfinite(score_N))
    if not len(order):
        return np.inf  # nothing is left to be called wrongly
    order = order[np.argsort(score_N[order])]
    count = int(np.searchsorted(np.cumsum(weight_N[order]), share + 1e-12, side="right"))
    return float(score_N[order[min(count, len(order) - 1)]])
