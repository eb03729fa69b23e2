"""``farvox submit``: from a score file to what a challenge takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def submit(
    trials: Annotated[Positional[Path], arg(metavar="TRIALS")],
    scores: Annotated[Positional[Path], arg(metavar="SCORES")],
    out: Annotated[Positional[Path], arg(metavar="OUT.zip|.txt")],
) -> None:
    """Write a submission: one score a line, in trial order, after checking that every trial has one.

    Args:
        trials: the trial list that the challenge gave out.
        scores: lines "enrol test score" for exactly these trials, in any order.
        out: a .zip with scores.txt in it, as FFSVC2022 takes it, or a .txt, as the HI-MIA homework does.
    """
    from farvox.score.scores import read_scores
    from farvox.score.submit import check_submission_path, write_submission
    from farvox.score.trials import read_trials

    check_submission_path(out)
    trial_list = read_trials(trials)
    write_submission(out, trial_list, read_scores(scores, trial_list))
    print(f"{len(trial_list):,} scores in the order of {trials}: {out}", file=sys.stderr)
