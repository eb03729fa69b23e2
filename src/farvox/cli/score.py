"""``farvox score``: from embeddings to scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from farvox.pipelines.score import ScoreOptions
from farvox.pipelines.score import score as run_scoring
from farvox.progress import to_stderr


def score(
    trials: Annotated[Positional[Path], arg(metavar="TRIALS")],
    embeddings: Annotated[Positional[tuple[Path, ...]], arg(metavar="EMBEDDINGS...")],
    out: Annotated[Path, arg(metavar="SCORES")],
    scoring: ScoreOptions = ScoreOptions(),
    out_trials: Annotated[Path | None, arg(metavar="TRIALS")] = None,
) -> None:
    """Score a trial list: one line a trial, in trial order, "enrol test score".

    Args:
        trials: trial list of any form; the labels, if any, are not looked at.
        embeddings: one or more folders made by "farvox extract".
        out: score file to write.
        scoring: rules of the scoring.
        out_trials: with "expand": also write the list of the trials of single channels, with their labels.
    """
    run_scoring(trials, embeddings, scoring, out=out, out_trials=out_trials, note=to_stderr)
