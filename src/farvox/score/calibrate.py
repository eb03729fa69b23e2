"""From scores to decisions: a threshold for a false-acceptance rate, and log-likelihood ratios.

The threshold is the one at which a stated share of the non-target trials is accepted. The calibration is
logistic regression with both kinds of trials weighing the same (Brummer and du Preez,
"Application-independent evaluation of speaker detection", Computer Speech and Language, 2006):
``llr = scale * score + offset``. With the scores of several systems it is their linear fusion (Brummer et
al., "Fusion of heterogeneous speaker recognition systems in the STBU submission for the NIST speaker
recognition evaluation 2006", IEEE Transactions on Audio, Speech, and Language Processing, 2007). With terms
of what is measured of both sides it knows how good the recordings are, see `farvox.audio.quality`.

Shape suffixes: N trial, K feature of a trial, such as the score of a system.

Both are as good as the trials they come from: speakers, rooms and devices should be like those to come, and
never those that the result is then reported on. Scores are higher for more alike, targets 1 or True for the
same speaker, both [num_trials].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.audio.quality import MEASURES, SIDES, Measured, QualityTerm, value_of
from farvox.errors import TrialError
from farvox.metrics.detection import validate
from farvox.rng import rng_for

FEWEST_FALSE_ACCEPTS = 10
"""Below so many accepted non-target trials a rate is a guess (Doddington's rule of 30 would ask for more)."""

FOLDS = 5
"""Parts of the speakers, each of which is held out once."""
FEWEST_OF_A_TERM = 30
"""Trials of either kind without the commonest value of a measure that a weight needs (Doddington's rule)."""
_RANGE = (0.005, 0.995)  # quantiles of the trials: values beyond are too few to learn from
_MOST_STEPS = 100
_TOO_EASY = (
    "no non-target trial scores above any target trial: these trials are too few or too easy to learn "
    "probabilities from"
)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A score from which on trials are accepted, and the error rates there on a set of trials."""

    threshold: float
    far: float
    """Share of the non-target trials that are accepted."""
    frr: float
    """Share of the target trials that are rejected."""
    num_target: int
    num_nontarget: int


def threshold_at_far(scores: ArrayLike, target: ArrayLike, far: float) -> OperatingPoint:
    """The lowest threshold that accepts no more than ``far`` of the non-target trials.

    It lies halfway between the scores on its two sides.

    Raises:
        TrialError: see `farvox.metrics.detection.validate`; or there are too few non-target trials to see a
            rate this low.
    """
    values, is_target = validate(scores, target)
    if not 0 < far < 1:
        raise TrialError(f"a false-acceptance rate lies between 0 and 1, not {far}")
    nontargets = np.sort(values[~is_target])
    if far * len(nontargets) < FEWEST_FALSE_ACCEPTS:
        raise TrialError(
            f"{len(nontargets):,} non-target trials are too few for a false-acceptance rate of {far:g}: "
            f"{math.ceil(FEWEST_FALSE_ACCEPTS / far):,} or more are needed; add some or ask for a higher rate"
        )
    highest_rejected = nontargets[len(nontargets) - int(far * len(nontargets) + 1e-9) - 1]
    above = values[values > highest_rejected]
    threshold = float((highest_rejected + above.min()) / 2) if len(above) else float(highest_rejected) + 1e-6
    return operating_point(values, is_target, threshold)


def operating_point(scores: ArrayLike, target: ArrayLike, threshold: float) -> OperatingPoint:
    """The error rates at a threshold that was chosen elsewhere; errors are those of `validate`."""
    values, is_target = validate(scores, target)
    accepted = values >= threshold
    return OperatingPoint(
        threshold=float(threshold),
        far=float(np.mean(accepted[~is_target])),
        frr=float(np.mean(~accepted[is_target])),
        num_target=int(is_target.sum()),
        num_nontarget=int((~is_target).sum()),
    )


def fit_llr(
    features: ArrayLike, target: ArrayLike, names: Sequence[str] = ("score",)
) -> tuple[NDArray[np.float64], float]:
    """Fit the weights and the offset of ``llr = features @ weights + offset``, in nats.

    They minimise the mean of log(1 + exp(-llr)) over target trials plus that of log(1 + exp(llr)) over the
    others, without a penalty. One feature, the score, makes it a calibration; the scores of several systems
    make it their fusion.

    Args:
        features: [N, K], or [N] for a single one.
        target: [N].
        names: of the K features, for messages.

    Returns:
        The weights [K] and the offset.

    Raises:
        TrialError: see `farvox.metrics.detection.validate`; a feature is the same in all trials, or follows
            from others; no trial is on the wrong side, so that there are no best weights; or, of a single
            feature, target trials do not score higher.
    """
    columns = np.asarray(features, np.float64).reshape(len(np.asarray(target)), -1).T
    if len(columns) != len(names):
        raise TrialError(f"{len(columns)} features a trial and {len(names)} names")
    for column in columns:
        values, is_target = validate(column, target)
    if len(columns) == 1 and values[is_target].min() >= values[~is_target].max():
        raise TrialError(_TOO_EASY)
    sign_N = np.where(is_target, 1.0, -1.0)
    weight_N = np.where(is_target, 0.5 / is_target.sum(), 0.5 / (~is_target).sum())
    centre_K, spread_K = columns.mean(1), columns.std(1)
    for name, centre, spread in zip(names, centre_K, spread_K, strict=True):
        if not spread > 1e-12 * abs(centre):
            raise TrialError(f"{name} is {centre:.9g} in all trials and says nothing: leave it out")
    x_NK = np.ones((len(sign_N), len(names) + 1))  # the last column is for the offset
    x_NK[:, :-1] = ((columns - centre_K[:, None]) / spread_K[:, None]).T
    for k in range(2, len(names) + 1):
        if np.linalg.eigvalsh(x_NK[:, :k].T @ x_NK[:, :k] / len(x_NK))[0] < 1e-10:
            raise TrialError(
                f"{names[k - 1]} says nothing that {', '.join(names[: k - 1])} does not: leave it out"
            )

    def loss(theta_K: NDArray[np.float64]) -> float:
        return float(weight_N @ np.logaddexp(0, -sign_N * (x_NK @ theta_K)))

    theta_K = np.zeros(len(names) + 1)  # by damped Newton steps
    current = loss(theta_K)
    for _ in range(_MOST_STEPS):
        miss_N = 1 / (1 + np.exp(np.clip(sign_N * (x_NK @ theta_K), -700, 700)))
        gradient_K = (-weight_N * sign_N * miss_N) @ x_NK
        curvature_N = weight_N * miss_N * (1 - miss_N)
        hessian_KK = (x_NK * curvature_N[:, None]).T @ x_NK
        step_K = np.linalg.solve(hessian_KK + 1e-12 * np.eye(len(theta_K)), gradient_K)
        while (proposed := loss(theta_K - step_K)) > current and np.abs(step_K).max() > 1e-12:
            step_K /= 2
        theta_K, gained, current = theta_K - step_K, current - proposed, proposed
        if gained < 1e-12:
            break
    if (sign_N * (x_NK @ theta_K) > 0).all():
        raise TrialError(_TOO_EASY)
    weights_K = theta_K[:-1] / spread_K
    if len(names) == 1 and not weights_K[0] > 0:
        raise TrialError("higher scores do not mean the same speaker on these trials: nothing to calibrate")
    return weights_K, float(theta_K[-1] - weights_K @ centre_K)


def fit_quality(
    scores: ArrayLike, target: ArrayLike, enrol_NM: Measured, test_NM: Measured
) -> tuple[float, float, tuple[QualityTerm, ...]]:
    """Fit the scale, the offset and the terms of a calibration that knows what is measured of both sides.

    A measure that is another than in most trials in fewer than `FEWEST_OF_A_TERM` target or non-target trials
    has weight 0, and the range of all trials. There is no term of the lower side where both have the same.

    Args:
        scores: [N].
        target: [N].
        enrol_NM: `farvox.audio.quality.MEASURES` of the enrolment sides.
        test_NM: of the test sides.

    Raises:
        TrialError: see `fit_llr`; or a higher score would lower the log-likelihood ratio.
    """
    columns, terms, seen = [np.asarray(scores, np.float64)], [], []
    is_target = np.asarray(target, bool)
    for name in MEASURES:
        for side in reversed(SIDES):
            value_N = value_of(name, side, enrol_NM, test_NM)
            found, count = np.unique(value_N, return_counts=True)
            is_other = value_N != found[count.argmax()]
            if min(is_other[is_target].sum(), is_other[~is_target].sum()) < FEWEST_OF_A_TERM:
                seen.append(QualityTerm(name, side, 0.0, float(found[0]), float(found[-1])))
                continue
            low, high = np.quantile(value_N, _RANGE)
            if low == high:  # of all but a few, as a telephone may be rare
                low, high = found[0], found[-1]
            column_N = np.log1p(np.clip(value_N, low, high))
            if low < high and not any(np.array_equal(column_N, other_N) for other_N in columns):
                columns.append(column_N)
                terms.append(QualityTerm(name, side, 0.0, float(low), float(high)))
    weights, offset = fit_llr(
        np.stack(columns, axis=1), target, ["score", *(f"{term.side} {term.measure}" for term in terms)]
    )
    scale, *others = weights.tolist()
    if not scale > 0:
        raise TrialError("higher scores do not mean the same speaker on these trials: nothing to calibrate")
    weighted = (replace(term, weight=x) for term, x in zip(terms, others, strict=True))
    return scale, offset, (*weighted, *seen)


def held_out(
    fits: Sequence[Callable[[NDArray[np.bool_]], NDArray[np.float64]]],
    enrol_speaker: ArrayLike,
    test_speaker: ArrayLike,
    seed: int = 0,
    *,
    across: bool = False,
) -> tuple[NDArray[np.bool_], list[NDArray[np.float64]]]:
    """Log-likelihood ratios of trials by fits that have not seen their speakers.

    The speakers are cut into `FOLDS` parts. A trial whose speakers are of one part is judged by the fit on
    the trials without any speaker of it; all other trials are left out, or, with ``across``, judged by the
    fit on the trials without any speaker of both parts, for which each fits three times as often.

    Args:
        fits: each fits on the trials that are True, and returns the log-likelihood ratios of all.
        enrol_speaker: name or number of the speaker, [N].
        test_speaker: the same of the test side.
        seed: of the parts.
        across: judge the trials between two parts, too, which are most trials of different speakers.

    Returns:
        The trials that were judged, [N], and by each fit their log-likelihood ratios.

    Raises:
        TrialError: fewer than `FOLDS` speakers, or see the fits.
    """
    both = np.concatenate([np.asarray(enrol_speaker), np.asarray(test_speaker)])
    names, number_N = np.unique(both, return_inverse=True)
    if len(names) < FOLDS:
        raise TrialError(f"{len(names)} speakers cannot be cut into {FOLDS} parts")
    part_S = rng_for(seed, 0, 0).permutation(len(names)) % FOLDS
    enrol_N, test_N = np.split(part_S[number_N], 2)
    low_N, high_N = np.minimum(enrol_N, test_N), np.maximum(enrol_N, test_N)
    judged_N = (low_N == high_N) | across
    llr_FN = np.zeros((len(fits), len(judged_N)))
    for low, high in combinations_with_replacement(range(FOLDS), 2):
        is_inside = judged_N & (low_N == low) & (high_N == high)
        is_outside = ~(np.isin(enrol_N, (low, high)) | np.isin(test_N, (low, high)))
        for llr_N, fit in zip(llr_FN, fits, strict=True):
            if is_inside.any():
                llr_N[is_inside] = fit(is_outside)[is_inside]
    return judged_N, [llr_N[judged_N] for llr_N in llr_FN]
