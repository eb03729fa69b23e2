"""The model card, ``card.json`` beside the weights: where a model comes from and how good it is.

A card is data that others may have written: it is read strictly, and nothing in it is believed to be code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from farvox.atomic import write_json
from farvox.audio.conditioning import Band, Conditioning
from farvox.audio.quality import MEASURES, SIDES, Measured, QualityTerm, quality_llr
from farvox.errors import ModelError, UsageError
from farvox.manifest import renew_manifest, verify_file
from farvox.parsing import parse_json
from farvox.reprs import short_repr
from farvox.writers import writes

CARD = "card.json"
Decision = Literal["same", "different", "not yet"]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Calibration:
    """From a cosine score to a log-likelihood ratio: ``scale * score + offset`` (logistic regression).

    Attributes:
        scale: nats per unit of score; positive.
        offset: nats.
        note: what it was fitted on.
        terms: added to the offset, by what is measured of both sides, see `farvox.audio.quality`.
        threshold: with terms, the lowest log-likelihood ratio of the same speaker.
    """

    scale: float
    offset: float
    note: str = ""
    terms: tuple[QualityTerm, ...] = ()
    threshold: float | None = None

    __repr__ = short_repr

    @classmethod
    def from_dict(cls, values: object, where: str) -> Calibration:
        """A calibration of a table of fields, as JSON has it.

        Raises:
            ModelError: a field is unknown or of the wrong kind, or this farvox cannot measure a term.
        """
        made = _made(cls, values, where)
        if not made.scale > 0:
            raise ModelError(f"{where}: scale must be positive")
        if not isinstance(made.terms, list | tuple):
            raise ModelError(f"{where}: 'terms' is not a list of tables")
        terms = tuple(_made(QualityTerm, term, f"{where}: terms") for term in made.terms)
        for term in terms:
            if term.measure not in MEASURES or term.side not in SIDES or not 0 <= term.low <= term.high:
                raise ModelError(
                    f"{where}: terms: {term} ({term.low} to {term.high}) is not known: update farvox"
                )
        return replace(made, terms=terms)

    def llr(self, score: float) -> float:
        """Natural log-likelihood ratio of the same speaker against different ones."""
        return self.scale * score + self.offset

    def probability(self, score: float, prior: float = 0.5) -> float:
        """Probability of the same speaker, given how probable that was before the recordings were heard.

        Raises:
            UsageError: it was certain, or no probability.
        """
        if not 0 < prior < 1:
            raise UsageError(f"prior = {prior}; it must be above 0 and below 1")
        logit = self.llr(score) + math.log(prior / (1 - prior))
        return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0


@dataclass(frozen=True, slots=True)
class SequentialTest:
    """Scores that decide after 1, 2, ... seconds of speech, see `farvox.score.sequential`.

    Attributes:
        false_acceptance: share of the decided trials of strangers that are called the same, at most.
        false_rejection: share of the decided trials of one speaker that are called different, at most.
        same: of each look, the score from which on it is the same speaker.
        different: of each look, the score below which it is another.
        note: what it was fitted on.
    """

    false_acceptance: float
    false_rejection: float
    same: tuple[float, ...]
    different: tuple[float, ...]
    note: str = ""

    __repr__ = short_repr

    @classmethod
    def from_dict(cls, values: object, where: str) -> SequentialTest:
        """A test of a table of fields, as JSON has it.

        Raises:
            ModelError: a field is unknown or of the wrong kind, or the scores are no test.
        """
        made = _made(cls, values, where)
        for scores in (made.same, made.different):
            is_list = isinstance(scores, list | tuple)
            if not is_list or not all(type(x) in (int, float) and math.isfinite(x) for x in scores):
                raise ModelError(f"{where}: {scores!r} is no list of scores")
        made = replace(made, same=tuple(made.same), different=tuple(made.different))
        is_test = len(made.same) == len(made.different) > 0
        if not is_test or any(low > high for low, high in zip(made.different, made.same, strict=True)):
            raise ModelError(f"{where}: each look has a score 'different' and one 'same', not below it")
        return made

    def decide(self, look: int, score: float) -> Decision:
        """Decide at a look, counted from 1, if nothing was decided before."""
        if score >= self.same[look - 1]:
            return "same"
        return "different" if score < self.different[look - 1] else "not yet"


@dataclass(frozen=True, slots=True)
class EnrolThreshold:
    """Threshold and calibration for enrolments of several recordings, whose mean scores higher than one.

    Attributes:
        recordings: number of recordings of an enrolment, at least.
        band: of the recordings; the others are as in `Card`.
    """

    recordings: int
    threshold: float
    threshold_note: str = ""
    threshold_interval: tuple[float, float] | None = None
    threshold_speakers: int | None = None
    calibration: Calibration | None = None
    band: Band = "full"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure of a model.

    Attributes:
        data: what was tested, in words.
        num_trials: how many trials.
        eer: equal error rate, a fraction.
        min_dcf: minimal normalised detection cost at P_target 0.01.
        command: what measured it.
    """

    data: str
    num_trials: int
    eer: float
    min_dcf: float
    command: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """A model card; a field that nobody knows is empty or None.

    Attributes:
        name: of the model, as in the zoo.
        title: one line.
        licence: of the weights, by SPDX name.
        publisher: who trained it, and where it was published.
        training_data: as its publisher states it.
        features: what the network hears, in words; ``config.json`` has it in full.
        threshold: a cosine score from which on two sides are called the same speaker.
        threshold_note: how the threshold was chosen.
        threshold_interval: the 95 % interval of the threshold, as other speakers would have given it.
        threshold_speakers: number of speakers that it was chosen on.
        calibration: from score to log-likelihood ratio.
        narrow_threshold: the threshold, all about it and the calibration of sides without anything above
            4 kHz (``--band narrow``).
        thresholds: those for enrolments of several recordings.
        sequential: the test of `farvox listen`, for enrolments of one recording.
        conditioning: what is done to a recording before the network hears it.
        figures: what was measured.
    """

    name: str = ""
    title: str = field(default="", repr=False)
    licence: str = ""
    publisher: str = field(default="", repr=False)
    training_data: str = field(default="", repr=False)
    features: str = field(default="", repr=False)
    threshold: float | None = None
    threshold_note: str = field(default="", repr=False)
    threshold_interval: tuple[float, float] | None = None
    threshold_speakers: int | None = None
    calibration: Calibration | None = None
    narrow_threshold: float | None = None
    narrow_threshold_note: str = field(default="", repr=False)
    narrow_threshold_interval: tuple[float, float] | None = None
    narrow_threshold_speakers: int | None = None
    narrow_calibration: Calibration | None = None
    thresholds: tuple[EnrolThreshold, ...] = ()
    sequential: SequentialTest | None = None
    conditioning: Conditioning = field(default_factory=Conditioning)
    figures: tuple[Figure, ...] = field(default=(), repr=False)

    __repr__ = short_repr

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "model card") -> Card:
        """A card of a table of fields, as JSON has it; absent fields take their defaults.

        Raises:
            ModelError: a field is unknown or of the wrong kind; ``where`` and the field are named.
        """
        if not isinstance(values, Mapping):
            raise ModelError(f"{where}: not a table of fields")
        values = _with_parts(values, where)
        thresholds = values.get("thresholds", ())
        if not isinstance(thresholds, list | tuple) or not all(isinstance(x, Mapping) for x in thresholds):
            raise ModelError(f"{where}: 'thresholds' is not a list of tables")
        inside = f"{where}: thresholds"
        values["thresholds"] = tuple(
            _made(EnrolThreshold, _with_parts(x, inside), inside) for x in thresholds
        )
        if values.get("sequential") is not None:
            values["sequential"] = SequentialTest.from_dict(values["sequential"], f"{where}: sequential")
        if "conditioning" in values:
            values["conditioning"] = Conditioning.from_dict(values["conditioning"], where)
        figures = values.get("figures", ())
        if not isinstance(figures, list | tuple):
            raise ModelError(f"{where}: 'figures' is not a list")
        values["figures"] = tuple(_made(Figure, figure, f"{where}: figures") for figure in figures)
        card = _made(cls, values, where)
        several = [each.threshold for each in card.thresholds]
        for threshold in (card.threshold, card.narrow_threshold, *several):
            if threshold is not None and not -1 <= threshold <= 1:
                raise ModelError(f"{where}: the threshold {threshold} is no cosine: it lies from -1 to 1")
        return card

    def for_band(self, band: Band) -> Card:
        """The card for recordings that are brought to a band; "narrow" has a threshold of its own."""
        if band == self.conditioning.band:
            return self
        return replace(
            self,
            threshold=self.narrow_threshold,
            threshold_note=self.narrow_threshold_note,
            threshold_interval=self.narrow_threshold_interval,
            threshold_speakers=self.narrow_threshold_speakers,
            calibration=self.narrow_calibration,
            sequential=None,
            conditioning=replace(self.conditioning, band=band),
        )

    def for_recordings(self, recordings: int) -> Card:
        """The card with the threshold for the nearest number of enrolment recordings not above."""
        band = self.conditioning.band
        fitting = [x for x in self.thresholds if x.recordings <= recordings and x.band == band]
        if not fitting:
            return self
        best = max(fitting, key=lambda each: each.recordings)
        return replace(
            self,
            threshold=best.threshold,
            threshold_note=best.threshold_note,
            threshold_interval=best.threshold_interval,
            threshold_speakers=best.threshold_speakers,
            calibration=best.calibration,
        )

    def for_quality(self, enrol_M: Measured, test_M: Measured) -> Card:
        """The card with the calibration, and the threshold on the score, for two sides that were measured."""
        fitted = self.calibration
        if fitted is None or not fitted.terms:
            return self
        offset = fitted.offset + float(quality_llr(fitted.terms, enrol_M, test_M))
        of_these = replace(fitted, offset=offset, terms=(), threshold=None)
        if fitted.threshold is None:
            return replace(self, calibration=of_these)
        return replace(self, calibration=of_these, threshold=(fitted.threshold - offset) / fitted.scale)

    @classmethod
    def load(cls, folder: str | Path) -> Card:
        """The card of a model folder; an empty one where there is none.

        Raises:
            ModelError: there is a card and it cannot be read.
            CheckpointError: it is not the one of the folder's manifest.
        """
        path = Path(folder) / CARD
        verify_file(path)
        try:
            values = parse_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from error
        return cls.from_dict(values, str(path))

    @writes("folder")
    def save(self, folder: str | Path) -> None:
        """Write ``card.json`` into a model folder, whole or not at all.

        Raises:
            ModelError: it could not be read again.
        """
        self.from_dict(asdict(self), f"{folder}: model card")
        write_json(Path(folder) / CARD, asdict(self))
        renew_manifest(folder, CARD)


def _with_parts(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A table whose calibrations and intervals are checked and of their types."""
    values = dict(table)
    for key in ("calibration", "narrow_calibration"):
        if (calibration := values.get(key)) is not None:
            values[key] = Calibration.from_dict(calibration, f"{where}: {key}")
    for key in ("threshold_interval", "narrow_threshold_interval"):
        if (interval := values.get(key)) is not None:
            if not (isinstance(interval, list | tuple) and [type(x) for x in interval] == [float, float]):
                raise ModelError(f"{where}: {key} is {interval!r}, not two numbers")
            values[key] = tuple(interval)
    return values


_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
}


def _made(cls: type[_T], values: object, where: str) -> _T:
    """An instance of a dataclass from a table, with each field checked."""
    if not isinstance(values, Mapping):
        raise ModelError(f"{where}: not a table of fields")
    known = {field.name: str(field.type) for field in fields(cls)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known:
            raise ModelError(f"{where}: unknown field '{key}'; there are {', '.join(known)}")
        kind = _KINDS.get(known[key])
        if kind and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ModelError(f"{where}: '{key}' is {value!r}, not {known[key]}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"{where}: '{key}' is not finite")
    try:
        return cls(**values)
    except TypeError as error:
        raise ModelError(f"{where}: {error}") from error
