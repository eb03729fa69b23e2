"""From scores to decisions: a threshold for a false-acceptance rate, and log-likelihood ratios.

The threshold is the one at which a stated share of the non-target trials is accepted. The calibration is
logistic regression with both kinds of trials weighing the same (Brummer and du Preez,
"Application-independent evaluation of speaker detection", Computer Speech and Language, 2006):
``llr = scale * score + offset``.

Both are as good as the trials they come from: speakers, rooms and devices should be like those to come, and
never those that the result is then reported on. Scores are higher for more alike, targets 1 or True for the
same speaker, both [num_trials].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.metrics.detection import validate

FEWEST_FALSE_ACCEPTS = 10
"""Below so many accepted non-target trials a rate is a guess (Doddington's rule of 30 would ask for more)."""

_MOST_STEPS = 100


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


def fit_llr(scores: ArrayLike, target: ArrayLike) -> tuple[float, float]:
    """Fit scale and offset of the calibration, in nats.

    They minimise the mean of log(1 + exp(-llr)) over target trials plus that of log(1 + exp(llr)) over the
    others.

    Raises:
        TrialError: see `farvox.metrics.detection.validate`; or the two kinds of trials do not overlap, so
            that there is no best scale; or target trials do not score higher.
    """
    values, is_target = validate(scores, target)
    if values[is_target].min() >= values[~is_target].max():
        raise TrialError(
            "no non-target trial scores above any target trial: these trials are too few or too easy to "
            "learn probabilities from"
        )
    sign_N = np.where(is_target, 1.0, -1.0)
    weight_N = np.where(is_target, 0.5 / is_target.sum(), 0.5 / (~is_target).sum())
    centre, spread = float(values.mean()), float(values.std()) or 1.0
    x_N = (values - centre) / spread  # for numbers of like size in the Hessian

    def loss(theta_2: NDArray[np.float64]) -> float:
        return float(weight_N @ np.logaddexp(0, -sign_N * (theta_2[0] * x_N + theta_2[1])))

    theta_2 = np.zeros(2)  # slope and bias, by damped Newton steps
    current = loss(theta_2)
    for _ in range(_MOST_STEPS):
        miss_N = 1 / (1 + np.exp(np.clip(sign_N * (theta_2[0] * x_N + theta_2[1]), -700, 700)))
        pull_N = -weight_N * sign_N * miss_N
        gradient_2 = np.array([pull_N @ x_N, pull_N.sum()])
        curvature_N = weight_N * miss_N * (1 - miss_N)
        cross = float(curvature_N @ x_N)
        hessian_22 = np.array([[float(curvature_N @ x_N**2), cross], [cross, float(curvature_N.sum())]])
        step_2 = np.linalg.solve(hessian_22 + 1e-12 * np.eye(2), gradient_2)
        while (proposed := loss(theta_2 - step_2)) > current and np.abs(step_2).max() > 1e-12:
            step_2 /= 2
        theta_2, gained, current = theta_2 - step_2, current - proposed, proposed
        if gained < 1e-12:
            break
    scale = float(theta_2[0]) / spread
    if not scale > 0:
        raise TrialError("higher scores do not mean the same speaker on these trials: nothing to calibrate")
    return scale, float(theta_2[1]) - scale * centre
