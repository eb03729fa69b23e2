"""Evaluation: scores become figures, with their uncertainty and by condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from farvox.errors import TrialError, UsageError
from farvox.options import Above, AtLeast, Below, Metavar, Options, Repeated
from farvox.pipelines.score import Scores

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from farvox.metrics.bootstrap import Interval, Resampled
    from farvox.metrics.detection import Detection, Ties
    from farvox.score.calibrate import OperatingPoint
    from farvox.score.lists import Speakers


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Options of an evaluation.

    Raises:
        UsageError: options that need one another or exclude one another.
    """

    p_target: Annotated[float, Above(0), Below(1)] = 0.01
    """Prior of a target trial in the detection cost; both costs are 1."""
    ties: Literal["baseline", "grouped"] = "baseline"
    """Treatment of equal scores: step by step as in the FFSVC2022 baseline, or as one threshold."""
    threshold: float | None = None
    """Score, chosen on other trials, at which both error rates are also computed."""
    intervals: bool = False
    """Also compute 95 % intervals, by resampling the speakers."""
    against: Annotated[Path | None, Metavar("SCORES")] = None
    """Score file of another system on the same trials: the difference and its paired interval."""
    trial_speakers: Annotated[tuple[Path, ...], Metavar("DIR|UTT2SPK...")] = ()
    """Data dirs or utt2spk files that hold every utterance of the list."""
    speaker_before: Annotated[str | None, Metavar("MARK")] = None
    """The speaker of an id is the part before the first MARK in it."""
    bootstrap: Annotated[int, AtLeast(1)] = 1000
    """Number of resamples of the speakers."""
    seed: int = 0
    """Seed of the resampling."""
    by: Annotated[tuple[str, ...], Metavar("CONDITION"), Repeated()] = ()
    """Condition of the test side, or with "enrol." before it of the enrolment side, for each value of which
    the figures are also computed; may be given several times."""
    conditions: Annotated[tuple[Path, ...], Metavar("DIR...")] = ()
    """Data dirs with a utt2cond, or such files, for --by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unsure = self.intervals or self.against is not None
        known = bool(self.trial_speakers) or bool(self.speaker_before)
        for wrong, what in (
            (
                self.trial_speakers and self.speaker_before is not None,
                "the speakers come from --trial-speakers or from --speaker-before, not from both",
            ),
            (
                unsure and not known,
                "an interval needs the speakers of the trials: name data dirs with --trial-speakers, or say "
                "with --speaker-before which mark ends the speaker's name in an id",
            ),
            (
                (self.trial_speakers or self.speaker_before is not None) and not unsure,
                "speakers are for intervals: add --intervals or --against",
            ),
            (
                bool(self.by) != bool(self.conditions),
                "--by names conditions and --conditions the data dirs that have them: give both",
            ),
        ):
            if wrong:
                raise UsageError(what)


@dataclass(frozen=True)
class Difference:
    """A figure of another system, and the first system's less it: negative is better.

    The interval is that of 95 % of the difference, paired over the resamples; it may exclude zero.
    """

    other: float
    difference: float
    interval: Interval
    excludes_zero: bool


@dataclass(frozen=True)
class Evaluation:
    """The figures of one system on one trial list.

    Attributes:
        at: the error rates at the given threshold.
        intervals: "eer", "min_dcf" and how they were resampled, as `farvox evaluate --json` has them.
        against: "eer" and "min_dcf" compared with another system's.
        conditions: one table for each condition: its values, numbers of trials, figures, intervals.
        notes: see `notes_on`.
    """

    figures: Detection
    at: OperatingPoint | None = None
    intervals: dict[str, Any] | None = None
    against: dict[str, Difference] | None = None
    conditions: Sequence[dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def eer(self) -> float:
        """Equal error rate, a fraction."""
        return self.figures.eer

    @property
    def min_dcf(self) -> float:
        """Smallest normalised detection cost."""
        return self.figures.min_dcf


def evaluate(scores: Scores, options: EvaluateOptions = EvaluateOptions()) -> Evaluation:
    """Compute EER and minDCF of a scored trial list, and the rest that is asked for.

    Raises:
        TrialError: the list has no labels, the scores are not usable, or the speakers contradict the labels.
    """
    from farvox.metrics.bootstrap import interval, speaker_bootstrap
    from farvox.metrics.detection import detection_error
    from farvox.score.calibrate import operating_point
    from farvox.score.lists import speakers_from_dirs, speakers_from_ids
    from farvox.score.scores import read_scores

    trials, values = scores.trials, scores.values
    if trials.target is None:
        raise TrialError(f"{trials.path}: no labels, so there is nothing to evaluate by ({trials.form})")
    figures = detection_error(values, trials.target, options.p_target, options.ties)
    at = None if options.threshold is None else operating_point(values, trials.target, options.threshold)

    speakers, intervals, against = None, None, None
    if options.intervals or options.against:
        if options.speaker_before:
            speakers = speakers_from_ids(trials, options.speaker_before)
        else:
            speakers = speakers_from_dirs(trials, options.trial_speakers)
        others = [read_scores(options.against, trials)] if options.against else []
        resampled = speaker_bootstrap(
            [values, *others],
            trials.target,
            *speakers,
            p_target=options.p_target,
            ties=options.ties,
            replicates=options.bootstrap,
            seed=options.seed,
        )
        intervals = _intervals(resampled)
        for other in others:
            theirs = detection_error(other, trials.target, options.p_target, options.ties)
            against = {}
            for name, values_RK in (("eer", resampled.eer_RK), ("min_dcf", resampled.min_dcf_RK)):
                found = interval(values_RK[:, 0] - values_RK[:, 1])
                difference = getattr(figures, name) - getattr(theirs, name)
                against[name] = Difference(getattr(theirs, name), difference, found, found.excludes_zero)
    conditions = evaluate_conditions(scores, options, speakers) if options.by else None
    notes = notes_on(values, trials.target, figures, options.ties)
    return Evaluation(figures, at, intervals, against, conditions, notes)


def notes_on(values: ArrayLike, target: ArrayLike, figures: Detection, ties: Ties) -> tuple[str, ...]:
    """Warnings that equal scores change the ``figures`` of scores, or that these may be distances.

    Arguments as of `farvox.metrics.detection.detection_error`.
    """
    from farvox.metrics.detection import detection_error

    notes, grouped = [], detection_error(values, target, figures.p_target, "grouped")
    shown, reachable = (f"EER is {each.eer:.4%} and minDCF {each.min_dcf:.4f}" for each in (figures, grouped))
    if ties == "baseline" and shown != reachable:
        counts = np.unique(np.asarray(values), return_counts=True)[1]
        notes.append(
            f"note: {int(counts[counts > 1].sum()):,} of {int(counts.sum()):,} trials share scores, on which "
            f"the figures depend: the {shown}; with --ties grouped, by thresholds that exist, the {reachable}"
        )
    if grouped.eer > 0.5:
        notes.append(
            "note: the EER is above 50 %: higher scores do not mean the same speaker; if they are distances, "
            "change their sign"
        )
    return tuple(notes)


def evaluate_conditions(
    scores: Scores, options: EvaluateOptions, speakers: Speakers | None = None
) -> list[dict[str, Any]]:
    """The figures for each combination of the values of ``options.by``, with ``speakers`` also intervals."""
    from farvox.metrics.bootstrap import per_condition
    from farvox.score.lists import trial_conditions

    trials = scores.trials
    assert trials.target is not None
    named = trial_conditions(trials, options.conditions, tuple(dict.fromkeys(options.by)))
    kinds = named.unique().sort(named.columns)
    numbered = kinds.with_row_index("=")  # no condition is called so
    number = named.join(numbered, on=named.columns, how="left", maintain_order="left")["="]
    cells = per_condition(
        scores.values,
        trials.target,
        number.to_numpy(),
        speakers=speakers,
        p_target=options.p_target,
        ties=options.ties,
        replicates=options.bootstrap,
        seed=options.seed,
    )
    values_of = kinds.to_dicts()
    return [
        {
            "condition": values_of[cell.number],
            "num_target": cell.num_target,
            "num_nontarget": cell.num_nontarget,
            "eer": cell.figures.eer if cell.figures else None,
            "min_dcf": cell.figures.min_dcf if cell.figures else None,
            "intervals": _intervals(cell.resampled) if cell.resampled else None,
        }
        for cell in cells
    ]


def as_table(evaluation: Evaluation, options: EvaluateOptions) -> dict[str, Any]:
    """An evaluation as `farvox evaluate --json` prints it."""
    table: dict[str, Any] = {**asdict(evaluation.figures), "notes": list(evaluation.notes)}
    if evaluation.at:
        table["at"] = {name: getattr(evaluation.at, name) for name in ("threshold", "far", "frr")}
    if evaluation.intervals:
        table["intervals"] = evaluation.intervals
    if evaluation.against:
        compared = {name: asdict(each) for name, each in evaluation.against.items()}
        table["against"] = {"scores": str(options.against), **compared}
    if evaluation.conditions is not None:
        table["conditions"] = evaluation.conditions
    return table


def _intervals(resampled: Resampled) -> dict[str, Any]:
    from farvox.metrics.bootstrap import LEVEL, interval

    return {
        "level": LEVEL,
        "eer": interval(resampled.eer_RK[:, 0]),
        "min_dcf": interval(resampled.min_dcf_RK[:, 0]),
        "num_speakers": resampled.num_speakers,
        "replicates": len(resampled.eer_RK),
        "seed": resampled.seed,
    }
