"""``farvox calibrate``: a threshold and probabilities, from trials whose answers are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from farvox.errors import TrialError, UsageError


def calibrate(
    trials: Annotated[Positional[Path], arg(metavar="TRIALS")],
    scores: Annotated[Positional[Path], arg(metavar="SCORES")],
    far: float = 0.01,
    model: Annotated[str | None, arg(metavar="MODEL")] = None,
    note: str = "",
) -> None:
    """Choose a threshold and fit probabilities on scored trials, and write both into a model's card.

    The trials should be of speakers that the model was not trained on and that nothing is reported on later.

    Args:
        trials: trial list with labels.
        scores: lines "enrol test score", as "farvox score" writes them.
        far: share of the trials of different speakers that the threshold is to accept.
        model: a model folder or run dir whose card.json is to hold the result; else it is only printed.
        note: what the trials are, for the card.
    """
    from farvox.pipelines.score import Scores
    from farvox.score.calibrate import fit_llr, threshold_at_far

    folder = _folder(model)
    scored = Scores.read(trials, scores)
    trial_list, values = scored.trials, scored.values
    if trial_list.target is None:
        raise TrialError(f"{trials}: no labels, so there is nothing to calibrate by ({trial_list.form})")
    point = threshold_at_far(values, trial_list.target, far)
    scale, offset = fit_llr(values, trial_list.target)
    print(f"trials       {point.num_target:,} target, {point.num_nontarget:,} non-target")
    print(f"threshold    {point.threshold:.4f}: accepts {point.far:.3%} of the non-target trials")
    print(f"             and rejects {point.frr:.3%} of the target trials")
    print(f"calibration  llr = {scale:.4f} x score {'-' if offset < 0 else '+'} {abs(offset):.4f} (nats)")
    if folder is None:
        return
    if not -1 <= point.threshold <= 1:
        raise TrialError(
            f"{scores}: these are no cosines, and a card is for a model's own: score with 'farvox score'; "
            "nothing was written"
        )
    from farvox.zoo import Calibration, Card

    on = note or f"{trials.name}, {len(trial_list):,} trials"
    how = (
        f"accepts {point.far:.3%} of the non-target and rejects {point.frr:.3%} of the target trials of {on}"
    )
    card = dataclasses.replace(
        Card.load(folder),
        threshold=round(point.threshold, 4),
        threshold_note=how,
        calibration=Calibration(round(scale, 4), round(offset, 4), on),
    )
    card.save(folder)
    print(f"written      {folder / 'card.json'}")


def _folder(model: str | None) -> Path | None:
    from farvox.zoo import find_model, is_zoo_name

    if model is None:
        return None
    if is_zoo_name(model):
        raise UsageError(
            f"'{model}' is a model of the zoo, whose card is not yours to change: give its threshold to "
            "'farvox verify --threshold'"
        )
    return find_model(model)
