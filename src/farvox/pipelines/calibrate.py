"""Calibration: scored trials become a threshold and probabilities, for these and for other trials."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import farvox
from farvox.errors import TrialError, UsageError
from farvox.options import Above, Below, Metavar, Options, kinds
from farvox.pipelines.score import ScoreOptions, Scores
from farvox.progress import Note, silent
from farvox.report.text import rounded

if TYPE_CHECKING:
    from farvox.score.calibrate import OperatingPoint


FORMAT = "farvox-calibration/1"
_OF_THE_LIST = ("channel_ids", "allow_missing_channels", "allow_self")
"""Options of a scoring that are about a trial list, and change no score."""


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(Options):
    """Options of a calibration.

    Raises:
        UsageError: options that need one another or exclude one another.
    """

    far: Annotated[float, Above(0), Below(1)] = 0.01
    """Share of the trials of different speakers that the threshold accepts."""
    model: Annotated[str | None, Metavar("MODEL")] = None
    """Model folder or run dir whose card.json is to hold the result; else nothing is written."""
    note: str = ""
    """Description of the trials, for the card."""
    save: Annotated[Path | None, Metavar("FILE.json")] = None
    """File to write threshold and calibration to, for --apply."""
    apply: Annotated[Path | None, Metavar("FILE.json")] = None
    """Fit nothing: turn the scores into natural-log likelihood ratios by this file, written to --out; labels
    are not needed."""
    out: Annotated[Path | None, Metavar("SCORES")] = None
    """Score file to write the log-likelihood ratios to, with --apply."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for wrong, what in (
            (
                self.apply and (self.model or self.save),
                "--apply fits nothing, so that there is nothing for --model or --save",
            ),
            (bool(self.apply) != bool(self.out), "--apply and --out go together: log-likelihood ratios"),
        ):
            if wrong:
                raise UsageError(what)


@dataclass(frozen=True)
class Calibrated:
    """A threshold, and ``llr = scale * score + offset`` in nats.

    Attributes:
        point: the threshold and the error rates there.
        table: all that is known of it, as ``--save`` writes it.
        card: the file that holds it now.
    """

    point: OperatingPoint
    scale: float
    offset: float
    table: dict[str, Any]
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
    from farvox.atomic import write_json
    from farvox.datadir.embeddings import ORIGIN, shared_origin
    from farvox.report.results import provenance
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
    table = {
        "format": FORMAT,
        "kind": "linear",
        "scale": scale,
        "offset": offset,
        "threshold": {"far_asked": options.far, **asdict(point)},
        "note": options.note,
        "origin": {key: scores.meta[key] for key in ORIGIN if scores.meta.get(key) is not None},
        "scoring": scores.meta.get("scoring", {}),
        **provenance([trials.path], []),
        "scores": {"sha256": scores.meta.get("sha256")},
    }
    card_file = None
    if folder is not None:
        scored, scoring = f"scores of {trials.path}", scores.meta.get("scoring", {})
        is_cosine = scoring.get("back_end", "cosine") == "cosine" and -1 <= point.threshold <= 1
        if not is_cosine or any(scoring.get(each) for each in ("norm", "centre", "calibration")):
            raise TrialError(
                f"{scored}: these are no cosines as 'farvox verify' computes them, which a card is for: "
                "score with 'farvox score' without norm, centre and plda; nothing was written"
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
        card_file = folder / "card.json"
    if options.save:
        write_json(options.save, table)
    return Calibrated(point, scale, offset, table, card_file)


def apply_calibration(
    scores: Scores, path: str | Path, *, out: str | Path | None = None, note: Note = silent
) -> Scores:
    """Turn scores into natural-log likelihood ratios by a calibration that was fitted on others.

    Args:
        scores: of the same model and scored by the same rules; their trials need no labels.
        path: what ``farvox calibrate --save`` wrote.
        out: score file to write.
        note: called with a line on what is not known and on what was written.

    Raises:
        TrialError: the file is no calibration, or was fitted on scores that were made by other rules.
        DataDirError: it was fitted on scores of another model.
    """
    from farvox.atomic import sha256_of
    from farvox.datadir.embeddings import shared_origin
    from farvox.score.scores import write_scores

    fitted, scored = read_calibration(path), f"scores of {scores.trials.path}"
    shared_origin({str(path): fitted["origin"], scored: scores.meta}, "score with that model", note)
    one, other = fitted["scoring"], scores.meta.get("scoring", {})
    for key in sorted(one.keys() | other.keys()) if one and other else ():
        pair: list[Any] = [scoring.get(key) or None for scoring in (one, other)]
        if key in (known := kinds(ScoreOptions)) and known[key].type is Path:
            pair = ["given" if value else None for value in pair]
        if pair[0] != pair[1] and key not in _OF_THE_LIST:
            raise TrialError(
                f"{scored}: scored with {key} {pair[1] or 'none'}, and {path} was fitted on scores with "
                f"{key} {pair[0] or 'none'}: score by the same rules, or fit on scores like these"
            )
    applied = {key: fitted[key] for key in ("kind", "scale", "offset")}
    meta = {
        **scores.meta,
        "farvox_version": farvox.__version__,
        "scoring": {**other, "calibration": {**applied, "file": str(path), "sha256": sha256_of(path)}},
    }
    found = Scores(scores.trials, fitted["scale"] * scores.values + fitted["offset"], meta)
    if out:
        write_scores(out, found.trials, found.values, meta)
        note(f"{len(found.values):,} log-likelihood ratios: {out}")
    return found


def read_calibration(path: str | Path) -> dict[str, Any]:
    """The content of a file that ``farvox calibrate --save`` wrote.

    Raises:
        TrialError: it cannot be read, or is no such file.
    """
    try:
        values = json.loads(Path(path).read_text("utf-8"))
        if values["format"] != FORMAT or values["kind"] != "linear":
            raise ValueError(f"format {values['format']!r}, kind {values['kind']!r}")
        if not (values["scale"] > 0 and math.isfinite(values["scale"]) and math.isfinite(values["offset"])):
            raise ValueError(f"scale {values['scale']!r}, offset {values['offset']!r}")
        if not (isinstance(values["origin"], dict) and isinstance(values["scoring"], dict)):
            raise ValueError("origin and scoring are tables")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrialError(
            f"{path}: cannot be read as a calibration ({error!r}): 'farvox calibrate --save' writes one"
        ) from None
    return dict(values)
