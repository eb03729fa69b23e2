"""The figures of a set of scores in each of its conditions: near and far, this device and that one.

A condition is judged by its own trials alone, with a threshold of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.metrics.bootstrap import FEWEST_SPEAKERS, Resampled, speaker_bootstrap
from farvox.metrics.detection import Detection, Ties, detection_error, validate


@dataclass(frozen=True, slots=True)
class Cell:
    """The trials of one condition.

    Attributes:
        number: of the condition.
        num_target: number of its target trials.
        num_nontarget: number of its non-target trials.
        figures: EER and minDCF; None where trials of one kind are missing.
        resampled: figures for intervals; None if not asked for, or with fewer than three speakers.
    """

    number: int
    num_target: int
    num_nontarget: int
    figures: Detection | None
    resampled: Resampled | None


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
        scores: higher means more alike, [num_trials].
        target: 1 for target trials, 0 for the others, [num_trials].
        condition: the number of each trial's condition, [num_trials].
        speakers: the speakers of the enrolment and of the test sides, for intervals; see `speaker_bootstrap`.
        p_target: prior of a target trial in the detection cost; both costs are 1.
        ties: treatment of equal scores, see `farvox.metrics.detection`.
        replicates: number of times that the speakers of a condition are drawn.
        seed: of the draws.

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
