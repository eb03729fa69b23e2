"""Figures per condition are those of the condition's own trials."""

import numpy as np
import pytest

from farvox.errors import TrialError
from farvox.metrics.bootstrap import speaker_bootstrap
from farvox.metrics.conditions import per_condition
from farvox.metrics.detection import detection_error


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
        assert (cell.resampled.eer_RK == alone.eer_RK).all()


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


def test_every_trial_needs_a_condition(trials):
    with pytest.raises(TrialError, match="do not fit scores"):
        per_condition(trials[0], trials[1], trials[2][:-1])
