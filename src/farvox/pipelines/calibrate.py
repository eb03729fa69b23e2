"""Calibration: scored trials become a threshold and probabilities."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from farvox.errors import TrialError, UsageError
from farvox.options import Above, Below, Metavar, Options
from farvox.pipelines.score import Scores
from farvox.progress import Note, silent
from farvox.report.text import rounded

if TYPE_CHECKING:
    from farvox.score.calibrate import OperatingPoint


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(Options):
    """Options of a calibration."""

    far: Annotated[float, Above(0), Below(1)] = 0.01
    """Share of the trials of different speakers that the threshold accepts."""
    model: Annotated[str | None, Metavar("MODEL")] = None
    """Model folder or run dir whose card.json is to hold the result; else nothing is written."""
    note: str = ""
    """Description of the trials, for the card."""


@dataclass(frozen=True)
class Calibrated:
    """A threshold, and ``llr = scale * score + offset`` in nats; ``card`` is the file that holds it now."""

    point: OperatingPoint
    scale: float
    offset: float
    card: Path | None = None


def calibrate(
    scores: Scores, options: CalibrateOptions = CalibrateOptions(), *, note: Note = silent
) -> Calibrated:
    """Choose a threshold and fit probabilities on scored trials, and write both into a model's card.

    The trials should be of speakers that the model was not trained on and that nothing is reported on later.

    Raises:
        TrialError: no labels, too few trials, or scores that are no plain cosines although a card is to be
            written.
        DataDirError: the scores are of another model than the one whose card is to be written.
        UsageError: the model is one of the zoo, whose card cannot be changed.
    """
    from farvox.datadir.embeddings import shared_origin
    from farvox.score.calibrate import fit_llr, threshold_at_far
    from farvox.zoo import Calibration, Card, find_model, is_zoo_name, open_embedder
    from farvox.zoo.embedder import origin_of

    folder = None
    if options.model is not None:
        if is_zoo_name(options.model):
            raise UsageError(
                f"'{options.model}' is a model of the zoo, whose card is not yours to change: give its "
                "threshold to 'farvox verify --threshold'"
            )
        folder = find_model(options.model)
    trials = scores.trials
    if trials.target is None:
        raise TrialError(f"{trials.path}: no labels, so there is nothing to calibrate by ({trials.form})")
    for line in scores.meta.get("leaks", []):
        note(line)
    point = threshold_at_far(scores.values, trials.target, options.far)
    scale, offset = fit_llr(scores.values, trials.target)
    if folder is None:
        return Calibrated(point, scale, offset)
    scored, scoring = f"scores of {trials.path}", scores.meta.get("scoring", {})
    if not -1 <= point.threshold <= 1 or any(scoring.get(key) for key in ("norm", "centre", "plda")):
        raise TrialError(
            f"{scored}: these are no cosines as 'farvox verify' computes them, which a card is for: score "
            "with 'farvox score' without norm, centre and plda; nothing was written"
        )
    metas = {scored: scores.meta}
    band = (scores.meta.get("conditioning") or {}).get("band", "full")
    if scores.meta.get("digest"):
        metas[str(folder)] = origin_of(open_embedder(folder, band=band))
    shared_origin(metas, "score with embeddings of the model whose card this is", note)
    on = options.note or f"{trials.path.name}, {len(trials):,} trials"
    threshold, calibration = round(point.threshold, 4), Calibration(round(scale, 4), round(offset, 4), on)
    how = (
        f"accepts {rounded(point.far, point.num_nontarget, '%')} of the non-target and rejects "
        f"{rounded(point.frr, point.num_target, '%')} of the target trials of {on}"
    )
    card = Card.load(folder)
    if band == "narrow":
        card = dataclasses.replace(
            card, narrow_threshold=threshold, narrow_threshold_note=how, narrow_calibration=calibration
        )
    else:
        card = dataclasses.replace(card, threshold=threshold, threshold_note=how, calibration=calibration)
    card.save(folder)
    return Calibrated(point, scale, offset, folder / "card.json")
