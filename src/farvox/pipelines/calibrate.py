"""Calibration: scored trials become a threshold and probabilities, for these and for other trials."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

import farvox
from farvox.atomic import FileKind, refuse_to_replace
from farvox.errors import FarvoxError, LabelError, ModelError, TrialError, UsageError
from farvox.options import Above, Below, Metavar, Options, kinds
from farvox.parsing import parse_json
from farvox.pipelines.score import ScoreOptions, Scores
from farvox.progress import Note, silent
from farvox.report.text import rounded
from farvox.reprs import short_repr

if TYPE_CHECKING:
    from farvox.audio.quality import Measured, QualityTerm
    from farvox.score.calibrate import OperatingPoint
    from farvox.score.lists import Speakers


FORMAT = "farvox-calibration/1"
FITTED = FileKind("calibration of farvox", rb'\{\s*"format": "farvox-calibration')
_MOST_UNLIKE = 0.05  # share of trials; the quantiles of a fit leave out 2 % of those like its own
_OF_THE_LIST = ("channel_ids", "allow_missing_channels", "allow_self", "conditions")
"""Options of a scoring that are about a trial list, and change no score."""


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Options of whatever is fitted on some trials, kept in a file, and applied to others."""

    save: Annotated[Path | None, Metavar("FILE.json")] = None
    """File to write what is fitted to, for --apply."""
    apply: Annotated[Path | None, Metavar("FILE.json")] = None
    """Fit nothing: turn the scores into natural-log likelihood ratios by this file, written to --out; labels
    are not needed."""
    trial_speakers: Annotated[tuple[Path, ...], Metavar("DIR|UTT2SPK...")] = ()
    """Data dirs or utt2spk files that hold every utterance of the list, for the number of speakers and
    intervals; by default the utt2spk of the embeddings that were scored."""
    speaker_before: Annotated[str | None, Metavar("MARK")] = None
    """The speaker of an id is the part before the first MARK in it."""
    note: str = ""
    """Description of the trials."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.apply and self.save:
            raise UsageError("--apply fits nothing, so that there is nothing for --save")
        if self.trial_speakers and self.speaker_before is not None:
            raise UsageError(
                "the speakers come from --trial-speakers or from --speaker-before, not from both"
            )


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(FitOptions):
    """Options of a calibration.

    Raises:
        UsageError: options that need one another or exclude one another.
    """

    far: Annotated[float, Above(0), Below(1)] = 0.01
    """Share of the trials of different speakers that the threshold accepts."""
    quality: bool = False
    """Also fit probabilities and a threshold that know how good both recordings are: speech, decay, band and
    norm, as "farvox extract --quality" measured them for the embeddings that were scored."""
    model: Annotated[str | None, Metavar("MODEL")] = None
    """Model that the threshold is for: with --out any, of which a copy gets it; else a model folder or run
    dir, whose card.json is to hold it."""
    out: Annotated[Path | None, Metavar("SCORES|MODEL")] = None
    """With --apply: score file to write. With --model: model folder or .onnx file to write, a copy with
    threshold and calibration in its card."""

    def __post_init__(self) -> None:
        super().__post_init__()
        of_exported = self.model is not None and self.model.endswith(".onnx")
        for wrong, what in (
            (
                self.apply and self.quality,
                "--apply fits nothing, so that there is nothing for --quality",
            ),
            (self.apply and self.model, "--apply fits nothing, so that there is nothing for --model"),
            (self.apply and not self.out, "--apply needs a score file to write: --out"),
            (self.out and not (self.apply or self.model), "--out goes with --apply or --model"),
            (
                of_exported and self.out and self.out.suffix != ".onnx",
                f"{self.model} is an ONNX file, and so is its copy: --out FILE.onnx",
            ),
            (
                self.model and self.out and self.out.resolve() == Path(self.model).resolve(),
                "--out is the model itself: choose another name, or leave --out away",
            ),
        ):
            if wrong:
                raise UsageError(what)


@dataclass(frozen=True)
class Calibrated:
    """A threshold, and ``llr = scale * score + offset`` in nats.

    Attributes:
        point: the threshold and the error rates there.
        intervals: those of ``threshold``, and of ``far`` and ``frr`` there, over speakers, with
            ``num_speakers``; None where the speakers are not known.
        table: all that is known of it, as ``--save`` writes it.
        card: the file that holds it now.
        quality: the same, with what is measured of both sides.
    """

    point: OperatingPoint
    scale: float
    offset: float
    intervals: dict[str, Any] | None
    table: dict[str, Any]
    card: Path | None = None
    quality: QualityAware | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class QualityAware:
    """A threshold on ``llr = scale * score + offset + terms``, in nats, see `farvox.audio.quality`.

    Attributes:
        point: the threshold on the log-likelihood ratio, and the error rates there.
        held_out: Cllr of speakers who were not in the fit, by this and by the plain calibration, as
            `farvox.report.text.difference_lines` has it, with ``num_speakers``; None where the speakers are
            not known or too few.
    """

    scale: float
    offset: float
    terms: tuple[QualityTerm, ...]
    point: OperatingPoint
    held_out: dict[str, Any] | None

    __repr__ = short_repr


def calibrate(
    scores: Scores, options: CalibrateOptions = CalibrateOptions(), *, note: Note = silent
) -> Calibrated:
    """Choose a threshold and fit probabilities on scored trials, and write both into a model's card.

    The trials should be of speakers that the model was not trained on and that nothing is reported on later.

    Raises:
        TrialError: no labels, too few trials, no measures where they are asked for, or scores that are no
            plain cosines although a card is to be written.
        DataDirError: the scores are of another model than the one whose card is to be written.
        UsageError: the model is one of the zoo or an ONNX file, which is only copied.
    """
    from farvox.atomic import write_json
    from farvox.datadir.embeddings import shared_origin
    from farvox.report.results import provenance
    from farvox.score.calibrate import fit_llr, threshold_at_far
    from farvox.zoo import Calibration, copy_with_card, find_model, open_embedder, read_card
    from farvox.zoo.card import EnrolThreshold
    from farvox.zoo.embedder import origin_of
    from farvox.zoo.find import is_zoo_name

    model, out = options.model, options.out
    if options.save:
        refuse_to_replace(options.save, FITTED, [scores.trials.path])
    if model is not None and out is None and (is_zoo_name(model) or model.endswith(".onnx")):
        what = "an ONNX file" if model.endswith(".onnx") else "a model of the zoo"
        raise UsageError(
            f"'{model}' is {what}, whose card is not yours to change: --out FOLDER or --out FILE.onnx makes "
            "a copy with the threshold"
        )
    trials = scores.trials
    if trials.target is None:
        raise TrialError(f"{trials.path}: no labels, so there is nothing to calibrate by ({trials.form})")
    for line in scores.meta.get("leaks", []):
        note(line)
    point = threshold_at_far(scores.values, trials.target, options.far)
    weights, offset = fit_llr(scores.values, trials.target)
    scale = float(weights[0])
    speakers = None
    try:
        speakers = speakers_behind(scores, options)
    except FarvoxError as error:
        if options.trial_speakers or options.speaker_before or isinstance(error, LabelError):
            raise
        what = "no interval and no figure of speakers held out" if options.quality else "no interval"
        note(f"{what}: {error}; --trial-speakers or --speaker-before says who speaks")
    intervals = _intervals(scores, speakers, point, options, note) if speakers else None
    aware = _quality_aware(scores, speakers, options, note) if options.quality else None
    if speakers:
        num_terms = sum(term.weight != 0 for term in aware.terms) if aware else 0
        note_few_speakers(len(speakers.names), 2 + num_terms, note)
    table = {
        "format": FORMAT,
        "kind": "linear",
        "scale": scale,
        "offset": offset,
        "threshold": {"far_asked": options.far, **asdict(point), "intervals": intervals},
        "note": options.note,
        **provenance([trials.path], []),
        **fitted_on(scores),
    }
    if aware:
        table |= {
            "kind": "quality",
            "scale": aware.scale,
            "offset": aware.offset,
            "terms": [asdict(term) for term in aware.terms],
            "llr_threshold": {"far_asked": options.far, **asdict(aware.point)},
            "plain": {"scale": scale, "offset": offset},
            "held_out": aware.held_out,
        }
    written = None
    if model is not None:
        scored, scoring = scores.name, scores.meta.get("scoring", {})
        is_cosine = scoring.get("back_end", "cosine") == "cosine" and -1 <= point.threshold <= 1
        if not is_cosine or any(scoring.get(each) for each in ("norm", "centre", "calibration")):
            raise TrialError(
                f"{scored}: these are no cosines as 'farvox verify' computes them, which a card is for: "
                "score with 'farvox score' without norm, centre and plda; nothing was written"
            )
        metas = {scored: scores.meta}
        band = (scores.meta.get("conditioning") or {}).get("band", "full")
        if scores.meta.get("digest"):
            metas[model] = origin_of(open_embedder(model, band=band))
        shared_origin(metas, "score with embeddings of the model whose card this is", note)
        on = options.note or f"{trials.path.name}, {len(trials):,} trials"
        how = (
            f"accepts {rounded(point.far, point.num_nontarget, '%')} of the non-target and rejects "
            f"{rounded(point.frr, point.num_target, '%')} of the target trials of {on}"
        )
        found: dict[str, Any] = {
            "threshold": round(point.threshold, 4),
            "threshold_note": how,
            "threshold_interval": tuple(round(x, 4) for x in intervals["threshold"]) if intervals else None,
            "threshold_speakers": intervals["num_speakers"] if intervals else None,
            "calibration": Calibration(round(scale, 4), round(offset, 4), on),
        }
        if aware:
            least = aware.point.threshold
            found["calibration"] = Calibration(aware.scale, aware.offset, on, aware.terms, least)
        prefix = "narrow_" if band == "narrow" else ""
        card = read_card(model)
        fewest, most = scores.meta.get("enrol_recordings", (1, 1))
        if fewest < most:
            note(f"note: enrolments of {fewest} to {most} recordings: the threshold is for {fewest} and more")
        if fewest > 1:
            of_several = EnrolThreshold(recordings=fewest, band=band, **found)
            kept = [x for x in card.thresholds if (x.recordings, x.band) != (fewest, band)]
            card = dataclasses.replace(card, thresholds=(*kept, of_several))
        else:
            card = dataclasses.replace(card, **{prefix + key: value for key, value in found.items()})
        if out is None:
            card.save(find_model(model))
            written = find_model(model) / "card.json"
        else:
            copy_with_card(model, card, out)
            written = out
    if options.save:
        write_json(options.save, table, FITTED)
    return Calibrated(point, scale, offset, intervals, table, written, aware)


def note_few_speakers(num_speakers: int, num_fitted: int, note: Note) -> None:
    """Note fewer than ten speakers for each fitted number."""
    if num_speakers < 10 * num_fitted:
        note(f"note: {num_speakers} speakers are few for {num_fitted} fitted numbers")


def _quality_aware(
    scores: Scores, speakers: Speakers | None, options: CalibrateOptions, note: Note
) -> QualityAware:
    """Fit on scores and measures; how good that is, is what it says of speakers who are not in the fit."""
    from farvox.audio.quality import quality_llr
    from farvox.metrics.bootstrap import difference, llr_cost, speaker_bootstrap
    from farvox.score.calibrate import fit_llr, fit_quality, held_out, threshold_at_far

    target = np.asarray(scores.trials.target, bool)
    enrol_NM, test_NM = measures_of_sides(scores, note)

    def plain(rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        weights, offset = fit_llr(scores.values[rows], target[rows])
        return scores.values * float(weights[0]) + offset

    def fit(rows: NDArray[np.bool_]) -> tuple[float, float, tuple[QualityTerm, ...]]:
        return fit_quality(scores.values[rows], target[rows], enrol_NM[rows], test_NM[rows])

    def llrs(scale: float, offset: float, terms: tuple[QualityTerm, ...]) -> NDArray[np.float64]:
        return scale * scores.values + offset + quality_llr(terms, enrol_NM, test_NM)

    fitted = fit(np.ones(len(target), bool))
    llr_point, found = threshold_at_far(llrs(*fitted), target, options.far), None
    if speakers is None:
        return QualityAware(*fitted, llr_point, None)
    try:
        judged, (by_plain, by_this) = held_out(
            [plain, lambda rows: llrs(*fit(rows))], speakers.enrol, speakers.test
        )
        one, other = (
            each["cllr"]
            for each in speaker_bootstrap(
                [by_this, by_plain],
                target[judged],
                speakers.enrol[judged],
                speakers.test[judged],
                figures=[llr_cost],
            ).systems
        )
        less = difference(one, other)
        cllr = {"other": other.value, "difference": less.value, "interval": less.interval, "p": less.p}
        found = {"cllr": cllr, "num_speakers": one.num_speakers, "trials": one.trials}
    except FarvoxError as error:
        if options.trial_speakers or options.speaker_before or isinstance(error, LabelError):
            raise
        note(f"no figure of speakers held out: {error}")
    return QualityAware(*fitted, llr_point, found)


def measures_of_sides(scores: Scores, note: Note = silent) -> tuple[Measured, Measured]:
    """The `farvox.audio.quality.MEASURES` of both sides of every trial, [N, M]: means over their utterances.

    Raises:
        TrialError: the embeddings that were scored are not known, or were extracted without measures.
        DataDirError: they are not there any more.
    """
    from farvox.audio.quality import OF_SAMPLES
    from farvox.datadir.embeddings import EmbeddingSet
    from farvox.score.lists import values_of_side
    from farvox.score.scores import replaced_inputs

    trials, side_maps = scores.trials, scores.side_maps()
    sets = {folder: EmbeddingSet.load(folder) for folder in scores.meta.get("embeddings", [])}
    if not sets:
        raise TrialError(
            f"{scores.name}: the embeddings of these scores are not known, and so no {', '.join(OF_SAMPLES)} "
            "of the recordings: score with 'farvox score'"
        )
    for line in replaced_inputs(scores.name, scores.meta):
        note(line)
    rows = []
    for folder, each in sets.items():
        if each.measures is None:
            raise TrialError(
                f"{folder}: holds no {', '.join(OF_SAMPLES)} of the recordings: extract again with --quality"
            )
        rows.append(np.column_stack((each.measures, np.linalg.norm(each.embeddings, axis=1))))
    utt_ids = pl.concat([each.ids for each in sets.values()])
    measures_MU, mean = np.concatenate(rows).astype(np.float64).T, pl.col("value").mean()

    def of_side(side: Literal["enrol", "test"]) -> Measured:
        """The measures of one side of every trial."""
        side_map = side_maps[f"{side}_map"]
        columns = [
            values_of_side(trials, side, utt_ids, pl.Series(value_U), mean, side_map=side_map)
            for value_U in measures_MU
        ]
        return np.stack([column.to_numpy() for column in columns], axis=1)

    return of_side("enrol"), of_side("test")


def _note_unlike(
    terms: tuple[QualityTerm, ...], enrol_NM: Measured, test_NM: Measured, path: str | Path, note: Note
) -> None:
    """Note the measures that lie outside what a fit has seen: in any trial where that was one value, else
    in more than `_MOST_UNLIKE` of the trials.
    """
    from farvox.audio.quality import is_outside, value_of

    for name in dict.fromkeys(term.measure for term in terms):
        of = [term for term in terms if term.measure == name]
        outside = [is_outside(term, value_of(name, term.side, enrol_NM, test_NM)) for term in of]
        constant = [found for term, found in zip(of, outside, strict=True) if term.low == term.high]
        num = int(np.any(outside, axis=0).sum())
        if num > _MOST_UNLIKE * len(enrol_NM) or np.any(constant):
            low, high = min(term.low for term in of), max(term.high for term in of)
            note(
                f"note: {num:,} of {len(enrol_NM):,} trials have a '{name}' outside what {path} was fitted "
                f"on ({low:.3g} to {high:.3g}): it counts as the end of that range"
            )


def _intervals(
    scores: Scores, speakers: Speakers, point: OperatingPoint, options: CalibrateOptions, note: Note
) -> dict[str, Any] | None:
    """The intervals of `Calibrated`, with what was drawn how often; None, with a note, without speakers."""
    from farvox.metrics.bootstrap import LEVEL, rates_at, rejection_at, speaker_bootstrap

    try:
        resampled = speaker_bootstrap(
            [scores.values],
            scores.trials.target if scores.trials.target is not None else [],
            speakers.enrol,
            speakers.test,
            figures=[
                partial(rejection_at, far=options.far, suffix="@far"),
                partial(rates_at, threshold=point.threshold),
            ],
        )
    except FarvoxError as error:
        if options.trial_speakers or options.speaker_before or isinstance(error, LabelError):
            raise
        note(f"no interval: {error}")
        return None
    drawn = resampled.systems[0]
    names = {"threshold": "threshold@far", "far": "far", "frr": "frr"}
    return {
        "level": LEVEL,
        **{name: drawn[key].interval() for name, key in names.items()},
        "num_speakers": resampled.num_speakers,
        "replicates": resampled.replicates,
        "seed": resampled.seed,
    }


def speakers_behind(scores: Scores, options: FitOptions) -> Speakers:
    """The speakers of scored trials: those that the options name, or those of the embeddings.

    Raises:
        TrialError: they are not known, or contradict the labels.
    """
    from farvox.datadir.embeddings import SPEAKERS_FILE
    from farvox.score.lists import speakers_from_dirs, speakers_from_ids

    trials = scores.trials
    if options.speaker_before:
        return speakers_from_ids(trials, options.speaker_before)
    sources = options.trial_speakers or [
        Path(each) / SPEAKERS_FILE for each in scores.meta.get("embeddings", [])
    ]
    if not (sources and all(map(Path.exists, sources))):
        raise TrialError(f"{trials.path}: the speakers of these trials are not known")
    return speakers_from_dirs(trials, sources, **scores.side_maps())


def fitted_on(scores: Scores) -> dict[str, Any]:
    """The entries of a file of `FORMAT` that say what scores it is for: model, rules, digest."""
    from farvox.datadir.embeddings import ORIGIN

    return {
        "origin": {key: scores.meta[key] for key in ORIGIN if scores.meta.get(key) is not None},
        "scoring": scores.meta.get("scoring", {}),
        "scores": {"sha256": scores.meta.get("sha256")},
    }


def refuse_other_scores(
    fitted: Mapping[str, Any], scores: Scores, path: str | Path, *, system: str = "", note: Note = silent
) -> None:
    """Refuse scores of another model, or made by other rules, than those that a file was fitted on.

    Args:
        fitted: the entries of `fitted_on`.
        scores: those that it is to be applied to.
        path: the file, for messages.
        system: name of the scores among several.
        note: called with a line on what is not known.

    Raises:
        TrialError: they were made by other rules.
        DataDirError: they are of another model.
    """
    from farvox.datadir.embeddings import shared_origin

    scored = f"scores of {system}" if system else scores.name
    shared_origin({str(path): fitted["origin"], scored: scores.meta}, "score with that model", note)
    one, other = fitted["scoring"], scores.meta.get("scoring", {})
    for key in sorted(one.keys() | other.keys()) if one and other else ():
        pair: list[Any] = [scoring.get(key) or None for scoring in (one, other)]
        pair = [f"{each['file']} ({each['sha256']})" if isinstance(each, dict) else each for each in pair]
        if key in (known := kinds(ScoreOptions)) and known[key].type is Path:
            pair = ["given" if value else None for value in pair]
        if pair[0] != pair[1] and key not in _OF_THE_LIST:
            raise TrialError(
                f"{scored}: scored with {key} {pair[1] or 'none'}, and {path} was fitted on scores with "
                f"{key} {pair[0] or 'none'}: score by the same rules, or fit on scores like these"
            )


def leaks_of_fit(fitted: Mapping[str, Any], trials: Path, path: str | Path) -> list[str]:
    """A line if the trials are those that a file of `FORMAT` was fitted on; figures of them flatter it."""
    from farvox.atomic import sha256_of

    if sha256_of(trials) not in (fitted.get("trials") or {}).values():
        return []
    return [f"{trials} holds the trials that {path} was fitted on: their figures are better than of others"]


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
        TrialError: the file is no calibration, or was fitted on scores that were made by other rules; or it
            needs measures that are not there.
        DataDirError: it was fitted on scores of another model.
    """
    from farvox.atomic import sha256_of
    from farvox.audio.quality import quality_llr
    from farvox.score.scores import write_scores
    from farvox.zoo import Calibration

    fitted = read_calibration(path)
    refuse_other_scores(fitted, scores, path, note=note)
    applied = {key: fitted[key] for key in ("scale", "offset", "terms") if key in fitted}
    llrs = fitted["scale"] * scores.values + fitted["offset"]
    if fitted["kind"] == "quality":
        terms = Calibration.from_dict(applied, str(path)).terms
        sides = measures_of_sides(scores, note)
        _note_unlike(terms, *sides, path, note)
        llrs += quality_llr(terms, *sides)
    leaks = leaks_of_fit(fitted, scores.trials.path, path)
    for line in leaks:
        note(line)
    meta = {
        **scores.meta,
        "leaks": [*scores.meta.get("leaks", []), *leaks],
        "farvox_version": farvox.__version__,
        "scoring": {
            **scores.meta.get("scoring", {}),
            "calibration": {"kind": fitted["kind"], **applied, "file": str(path), "sha256": sha256_of(path)},
        },
    }
    found = Scores(scores.trials, llrs, meta, str(out or ""))
    if out:
        write_scores(out, found.trials, found.values, meta)
        note(f"{len(found.values):,} log-likelihood ratios: {out}")
    return found


def read_calibration(path: str | Path, kind: Literal["linear", "fusion"] = "linear") -> dict[str, Any]:
    """The content of a file that ``farvox calibrate --save`` or, kind "fusion", ``farvox fuse --save`` wrote.

    Raises:
        TrialError: it cannot be read, or is no such file.
    """
    from farvox.zoo import Calibration

    verb = "calibrate" if kind == "linear" else "fuse"
    try:
        values = parse_json(Path(path).read_text("utf-8"))
        kinds_read = ("linear", "quality") if kind == "linear" else (kind,)
        if values["format"] != FORMAT or values["kind"] not in kinds_read:
            raise ValueError(f"format {values['format']!r}, kind {values['kind']!r}")
        parts = [values] if kind == "linear" else list(values["systems"].values())
        numbers = [values["offset"], *(part["scale"] for part in parts)]
        if not all(map(math.isfinite, numbers)) or (kind == "linear" and not values["scale"] > 0):
            raise ValueError(f"offset and scales {numbers}")
        if not all(isinstance(part["origin"], dict) and isinstance(part["scoring"], dict) for part in parts):
            raise ValueError("origin and scoring are tables")
        if values["kind"] == "quality":
            Calibration.from_dict({key: values[key] for key in ("scale", "offset", "terms")}, str(path))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ModelError) as error:
        raise TrialError(
            f"{path}: cannot be read as a {'calibration' if kind == 'linear' else kind} ({error!r}): "
            f"'farvox {verb} --save' writes one"
        ) from None
    return dict(values)
