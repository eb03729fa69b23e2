"""Evaluation: scores become figures, with their uncertainty and by condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from farvox.datadir.conditions import parse_where
from farvox.errors import TrialError, UsageError
from farvox.options import Above, AtLeast, AtMost, Below, Metavar, Options, Repeated
from farvox.pipelines.score import Scores
from farvox.reprs import short_repr

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from farvox.metrics.bootstrap import Cell, Figures, Interval, Resampled, Sample
    from farvox.metrics.detection import CostModel, Detection, Ties
    from farvox.metrics.roc import RocFigures
    from farvox.score.calibrate import OperatingPoint
    from farvox.score.lists import Speakers


FEWEST_TRIALS = 30
"""A cell with fewer trials of a kind says so."""


@dataclass(frozen=True, kw_only=True)
class ConditionOptions(Options):
    """Options of the figures by condition.

    Raises:
        UsageError: edges of something else than a condition, or that do not rise.
    """

    threshold: float | None = None
    """Score, chosen on other trials, at which both error rates and the cost at every operating point are also
    computed, of all trials and of those of each condition."""
    by: Annotated[tuple[str, ...], Metavar("CONDITION"), Repeated()] = ()
    """Condition of the test side, or with "enrol." before it of the enrolment side, with "same." or "gap."
    of both, for each value of which the figures are also computed; may be given several times."""
    bins: Annotated[int, AtLeast(2)] = 4
    """Bins of a condition that is a measurement of more than ten values, as many trials in each as can be."""
    edges: Annotated[tuple[str, ...], Metavar("CONDITION=A,B"), Repeated()] = ()
    """Rising edges of the bins of a condition; may be given several times."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.edges_of()

    def edges_of(self) -> dict[str, tuple[float, ...]]:
        """The edges of each condition that has them.

        Raises:
            UsageError: a word of another form, a condition that is not in ``by``, edges that do not rise.
        """
        found: dict[str, tuple[float, ...]] = {}
        for word, (name, texts) in zip(self.edges, parse_where(self.edges, "--edges").items(), strict=True):
            try:
                found[name] = tuple(map(float, texts))
            except ValueError:
                raise UsageError(f"--edges {word}: edges are numbers, as in duration=1,3,6") from None
            if list(found[name]) != sorted(set(found[name])) or not all(map(math.isfinite, found[name])):
                raise UsageError(f"--edges {word}: each edge is above the one before it")
            if name not in self.by:
                raise UsageError(f"--edges {word}: there is no --by {name}")
        return found


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ConditionOptions):
    """Options of an evaluation.

    Raises:
        UsageError: options that need one another or exclude one another.
    """

    p_target: Annotated[float, Above(0), Below(1)] = 0.01
    """Prior of a target trial in the detection cost; both costs are 1."""
    dcf: Annotated[tuple[str, ...], Metavar("P[,C_MISS,C_FA]"), Repeated()] = ()
    """Another operating point of the detection cost: prior of a target trial and the costs of both errors, 1
    unless given; may be given several times."""
    llr: bool = False
    """Scores are natural-log likelihood ratios: also Cllr and minCllr, and at every operating point the cost
    at its Bayes threshold (actDCF)."""
    roc: bool = False
    """Also the area under the ROC curve, the EER of its convex hull, and minCllr."""
    frr_at: Annotated[tuple[Annotated[float, Above(0), Below(1)], ...], Metavar("FAR...")] = ()
    """False-acceptance rates, fractions, at which the false-rejection rate is also computed."""
    ties: Literal["baseline", "grouped"] = "baseline"
    """Treatment of equal scores: step by step as in the FFSVC2022 baseline, or as one threshold."""
    intervals: bool = False
    """Also compute 95 % intervals, by resampling the speakers."""
    against: Annotated[Path | None, Metavar("SCORES")] = None
    """Score file of another system on the same trials: the difference and its paired interval."""
    data: Annotated[tuple[Path, ...], Metavar("DIR...")] = ()
    """Data dirs that hold every utterance of the list: their speakers, for intervals, and their conditions,
    for --by."""
    trial_speakers: Annotated[tuple[Path, ...], Metavar("DIR|UTT2SPK...")] = ()
    """Data dirs or utt2spk files with the speakers, where --data has others or none."""
    speaker_before: Annotated[str | None, Metavar("MARK")] = None
    """The speaker of an id is the part before the first MARK in it."""
    bootstrap: Annotated[int, AtLeast(1), AtMost(1_000_000)] = 1000
    """Number of resamples of the speakers."""
    seed: int = 0
    """Seed of the resampling."""
    conditions: Annotated[tuple[Path, ...], Metavar("DIR...")] = ()
    """Data dirs, utt2cond files, tables of trials or folders of embeddings with further conditions than those
    of --data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cost_models()
        unsure = self.intervals or self.against is not None
        known = bool(self.data) or bool(self.trial_speakers) or bool(self.speaker_before)
        for wrong, what in (
            (
                self.trial_speakers and self.speaker_before is not None,
                "the speakers come from --trial-speakers or from --speaker-before, not from both",
            ),
            (
                unsure and not known,
                "an interval needs the speakers of the trials: name data dirs with --data, or say "
                "with --speaker-before which mark ends the speaker's name in an id",
            ),
            (
                (self.trial_speakers or self.speaker_before is not None) and not unsure,
                "speakers are for intervals: add --intervals or --against",
            ),
            (
                self.by and not (self.conditions or self.data),
                "--by names conditions: name the data dirs that have them with --data",
            ),
            (
                self.conditions and not self.by,
                "--conditions goes with --by, which names the conditions",
            ),
        ):
            if wrong:
                raise UsageError(what)

    def cost_models(self) -> list[CostModel]:
        """The operating points, that of ``p_target`` first.

        Raises:
            UsageError: ``dcf`` has something else than a prior, or a prior and two costs.
        """
        from farvox.metrics.detection import CostModel

        models = [CostModel(self.p_target)]
        for text in self.dcf:
            try:
                values = [float(word) for word in text.split(",")]
                if len(values) not in (1, 3):
                    raise ValueError(f"{len(values)} numbers")
                models.append(CostModel(*values))
            except (ValueError, TrialError) as error:
                raise UsageError(
                    f"dcf = '{text}' ({error}): give the prior of a target trial, as in 0.05, or the prior"
                    " and the costs of a miss and of a false acceptance, as in 0.01,10,1"
                ) from None
        return models


@dataclass(frozen=True)
class CostFigures:
    """The normalised detection cost at one operating point.

    The actual cost (actDCF) is that at the Bayes threshold of log-likelihood ratios; ``dcf_at_threshold`` is
    that at the threshold which was given. Neither threshold was chosen on these trials.
    """

    p_target: float
    c_miss: float
    c_fa: float
    min_dcf: float
    min_dcf_threshold: float
    act_dcf: float | None = None
    act_dcf_threshold: float | None = None
    dcf_at_threshold: float | None = None


@dataclass(frozen=True)
class Difference:
    """A figure of another system, and this system's less it: negative is better, except for thresholds.

    The interval is that of 95 % of the difference, paired over the resamples; it may exclude zero. ``p`` is
    two-sided.
    """

    other: float
    difference: float
    interval: Interval
    excludes_zero: bool
    p: float


@dataclass(frozen=True)
class Evaluation:
    """The figures of one system on one trial list.

    Attributes:
        at: the error rates at the given threshold.
        costs: one for each operating point, where others than ``p_target`` or actual costs were asked for.
        cllr: the cost of log-likelihood ratios, bits.
        curve: figures of the whole ROC curve.
        intervals: the interval of every figure by its name, and how they were resampled, as
            `farvox evaluate --json` has them. The figures of the operating point ``--dcf 0.05`` are
            "min_dcf@0.05" and so on, those of ``--frr-at 0.01`` "frr@0.01" and "threshold@0.01".
        against: every figure compared with another system's.
        conditions: one table for each condition: its values, numbers of trials, figures, intervals, and a
            note where they say little.
        equalised: the same figures where every condition with trials of both kinds weighs the same; trials
            of which a condition is not known (``num_unknown`` of them) are left out.
        notes: see `notes_on`.
    """

    figures: Detection
    at: OperatingPoint | None = None
    costs: Sequence[CostFigures] = ()
    cllr: float | None = None
    curve: RocFigures | None = None
    intervals: dict[str, Any] | None = None
    against: dict[str, Difference] | None = None
    conditions: Sequence[dict[str, Any]] | None = None
    equalised: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    __repr__ = short_repr

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
    from farvox.metrics.detection import detection_error, min_detection_costs
    from farvox.metrics.roc import llr_figures, roc_figures
    from farvox.score.calibrate import operating_point
    from farvox.score.scores import read_scores

    trials, values = scores.trials, scores.values
    if trials.target is None:
        raise TrialError(f"{trials.path}: no labels, so there is nothing to evaluate by ({trials.form})")
    figures = detection_error(values, trials.target, options.p_target, options.ties)
    at = None if options.threshold is None else operating_point(values, trials.target, options.threshold)

    models, costs, cllr, curve = options.cost_models(), [], None, None
    actual: Sequence[tuple[float | None, float | None]] = [(None, None)] * len(models)
    if options.llr:
        found_llr = llr_figures(values, trials.target, models)
        cllr = found_llr.cllr
        actual = [(cost, each.bayes_threshold) for each, cost in zip(models, found_llr.act_dcf, strict=True)]
    if options.dcf or options.llr or at:
        least = min_detection_costs(values, trials.target, models, options.ties)
        costs = [
            CostFigures(
                **asdict(each),
                min_dcf=least_one[0],
                min_dcf_threshold=least_one[1],
                act_dcf=of_actual[0],
                act_dcf_threshold=of_actual[1],
                dcf_at_threshold=None if at is None else each.normalised(each.cost(at.frr, at.far)),
            )
            for each, least_one, of_actual in zip(models, least, actual, strict=True)
        ]
    if options.roc or options.llr or options.frr_at:
        curve = roc_figures(values, trials.target, options.frr_at)

    speakers, intervals, against = None, None, None
    if options.intervals or options.against:
        speakers = speakers_of(scores, options)
        others = [read_scores(options.against, trials)] if options.against else []
        resampled = resample([values, *others], scores, speakers, options)
        mine, *theirs = resampled.systems
        intervals = intervals_of(resampled, mine)
        against = {name: d for other in theirs for name, d in differences(mine, other).items()} or None
    by = evaluate_conditions(scores, options, speakers) if options.by else {}
    notes = (*notes_on(values, trials.target, figures, options.ties), *_notes_on_draws(options))
    return Evaluation(figures, at, costs, cllr, curve, intervals, against, notes=notes, **by)


def speakers_of(scores: Scores, options: EvaluateOptions) -> Speakers:
    """The speakers of both sides, from where the options say; errors as of `farvox.score.lists`."""
    from farvox.score.lists import speakers_from_dirs, speakers_from_ids

    if options.speaker_before:
        return speakers_from_ids(scores.trials, options.speaker_before)
    return speakers_from_dirs(scores.trials, options.trial_speakers or options.data, **scores.side_maps())


def figures_of(options: EvaluateOptions) -> list[Figures]:
    """Functions of the figures that the options ask for, for intervals."""
    from farvox.metrics import bootstrap

    figures: list[Figures] = [bootstrap.equal_error]
    if options.threshold is not None:
        figures.append(partial(bootstrap.rates_at, threshold=options.threshold))
    for n, model in enumerate(options.cost_models()):
        suffix = f"@{model.name}" if n else ""
        figures.append(partial(bootstrap.least_cost, model=model, suffix=suffix))
        cost = partial(bootstrap.actual_cost, model=model, suffix=suffix)
        if options.llr:
            figures.append(partial(cost, threshold=model.bayes_threshold))
        if options.threshold is not None:
            figures.append(partial(cost, threshold=options.threshold, name="dcf_at_threshold"))
    if options.llr:
        figures.append(bootstrap.llr_cost)
    if options.llr or options.roc:
        figures.append(bootstrap.whole_curve)
    return figures + [partial(bootstrap.rejection_at, far=far, suffix=f"@{far:g}") for far in options.frr_at]


def resample(
    systems: Sequence[NDArray[np.float64]], scores: Scores, speakers: Speakers, options: EvaluateOptions
) -> Resampled:
    """All figures of scores on the trials of ``scores``, on the same resamples of the speakers."""
    from farvox.metrics.bootstrap import speaker_bootstrap

    assert scores.trials.target is not None
    return speaker_bootstrap(
        systems,
        scores.trials.target,
        speakers.enrol,
        speakers.test,
        figures=figures_of(options),
        ties=options.ties,
        replicates=options.bootstrap,
        seed=options.seed,
    )


BAND_POINTS = 24  # of the intervals round a DET curve


def det_bands(
    systems: Sequence[Scores], options: EvaluateOptions
) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """The intervals round the DET curve of each system on one trial list.

    Returns:
        FARs, and the lower and the upper end of the FRR there, all fractions, each [num_fars]. The FARs begin
        at that of one false acceptance, or at 0.0001, and end at 0.6.
    """
    from scipy.special import ndtr, ndtri

    from farvox.metrics.bootstrap import rejection_at, speaker_bootstrap

    scores = systems[0]
    assert scores.trials.target is not None
    lowest = max(1 / max(len(scores.trials) - int(scores.trials.target.sum()), 2), 1e-4)
    fars = ndtr(np.linspace(ndtri(lowest), ndtri(0.6), BAND_POINTS))
    speakers = speakers_of(scores, options)
    found = speaker_bootstrap(
        [each.values for each in systems],
        scores.trials.target,
        speakers.enrol,
        speakers.test,
        figures=[partial(rejection_at, far=float(far), suffix=f"@{n}") for n, far in enumerate(fars)],
        ties=options.ties,
        replicates=options.bootstrap,
        seed=options.seed,
    )
    ends = [np.array([each[f"frr@{n}"].interval() for n in range(len(fars))]) for each in found.systems]
    return [(fars, each[:, 0], each[:, 1]) for each in ends]


def differences(one: Mapping[str, Sample], other: Mapping[str, Sample]) -> dict[str, Difference]:
    """Every figure of ``one`` compared with that of ``other``, on the same resamples."""
    from farvox.metrics.bootstrap import difference

    compared = {name: difference(each, other[name]) for name, each in one.items()}
    return {
        name: Difference(other[name].value, each.value, each.interval, each.excludes_zero, each.p)
        for name, each in compared.items()
    }


def notes_on(values: ArrayLike, target: ArrayLike, figures: Detection, ties: Ties) -> tuple[str, ...]:
    """Warnings that equal scores change the ``figures`` of scores, or that these may be distances.

    Arguments as of `farvox.metrics.detection.detection_error`.
    """
    from farvox.metrics.detection import detection_error

    notes, grouped = [], detection_error(values, target, figures.p_target, "grouped")
    shown, reachable = (
        f"EER is {100 * each.eer:.4f} % and minDCF {each.min_dcf:.4f}" for each in (figures, grouped)
    )
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


def _notes_on_draws(options: EvaluateOptions) -> list[str]:
    """A warning that the intervals are of few draws; empty where they are not, or there are none."""
    from farvox.metrics.bootstrap import FEWEST_DRAWS

    if options.bootstrap >= FEWEST_DRAWS or not (options.intervals or options.against):
        return []
    return [
        f"note: intervals and p of {options.bootstrap} resamples (--bootstrap) are rough: from"
        f" {FEWEST_DRAWS} on they are of use, and 1,000 are usual"
    ]


def evaluate_conditions(
    scores: Scores, options: EvaluateOptions, speakers: Speakers | None = None
) -> dict[str, Any]:
    """The figures for each combination of the values of ``options.by``, with ``speakers`` also intervals.

    Returns:
        ``conditions`` and ``equalised``, as `Evaluation` has them.
    """
    from farvox.metrics.bootstrap import per_condition
    from farvox.metrics.detection import equal_error_rate, equalised_curve, min_detection_cost
    from farvox.score.conditions import trial_conditions

    trials, model = scores.trials, options.cost_models()[0]
    assert trials.target is not None
    by = tuple(dict.fromkeys(options.by))
    named = trial_conditions(
        trials,
        tuple(dict.fromkeys((*options.data, *options.conditions))),
        by,
        bins=options.bins,
        edges=options.edges_of(),
        **scores.side_maps(),
    )
    kinds = named.unique().sort(named.columns)
    numbered = kinds.with_row_index("=")  # no condition is called so
    number = named.join(numbered, on=named.columns, how="left", maintain_order="left")["="].to_numpy()
    cells = per_condition(
        scores.values,
        trials.target,
        number,
        speakers=speakers and (speakers.enrol, speakers.test),
        p_target=options.p_target,
        threshold=options.threshold,
        figures=figures_of(options),
        ties=options.ties,
        replicates=options.bootstrap,
        seed=options.seed,
    )
    values_of = kinds.to_dicts()
    tables = [
        {
            "condition": values_of[cell.number],
            "num_target": cell.num_target,
            "num_nontarget": cell.num_nontarget,
            "eer": cell.figures.eer if cell.figures else None,
            "min_dcf": cell.figures.min_dcf if cell.figures else None,
            **_rates(cell.far, cell.frr, model, options),
            "intervals": intervals_of(cell.resampled, cell.resampled.systems[0]) if cell.resampled else None,
            "note": _note_on(cell),
        }
        for cell in cells
    ]
    known = [cell for cell in cells if all(values_of[cell.number].values())]
    whole = [cell for cell in known if cell.figures]
    equalised = None
    if len(whole) > 1:
        kept = np.isin(number, [cell.number for cell in whole])
        curve = equalised_curve(scores.values[kept], trials.target[kept], number[kept])
        far, frr = (
            None if options.threshold is None else float(np.mean([getattr(cell, rate) for cell in whole]))
            for rate in ("far", "frr")
        )
        equalised = {
            "num_conditions": len(whole),
            "num_unknown": len(trials) - sum(cell.num_target + cell.num_nontarget for cell in known),
            "num_target": int(trials.target[kept].sum()),
            "num_nontarget": int((1 - trials.target[kept]).sum()),
            "eer": equal_error_rate(curve)[0],
            "min_dcf": min_detection_cost(curve, p_target=options.p_target)[0],
            **_rates(far, frr, model, options),
        }
    return {"conditions": tables, "equalised": equalised}


def _rates(
    far: float | None, frr: float | None, model: CostModel, options: EvaluateOptions
) -> dict[str, float | None]:
    """The error rates at the given threshold, and their cost; nothing without a threshold."""
    if options.threshold is None:
        return {}
    cost = None if far is None or frr is None else model.normalised(model.cost(frr, far))
    return {"far": far, "frr": frr, "dcf_at_threshold": cost}


def _note_on(cell: Cell) -> str:
    """A sentence on a cell whose figures are missing or say little; empty where they are sound."""
    from farvox.metrics.bootstrap import FEWEST_SPEAKERS

    counts = (("target", cell.num_target), ("non-target", cell.num_nontarget))
    notes = [f"no {kind} trials" for kind, count in counts if not count]
    notes += [
        f"few {kind} trials: one is {100 / count:.1f} points"
        for kind, count in counts
        if 0 < count < FEWEST_TRIALS
    ]
    if cell.figures and cell.num_speakers is not None and cell.num_speakers < FEWEST_SPEAKERS:
        notes.append(f"target trials of {cell.num_speakers} speakers: no interval")
    return "; ".join(notes)


def evaluate_systems(
    systems: Mapping[str, Sequence[Scores]], options: EvaluateOptions = EvaluateOptions()
) -> dict[str, Any]:
    """The figures of several systems on one trial list and, with intervals, each system less each later one.

    Args:
        systems: name of a system -> its scores; several where it was trained with several seeds. They are
            one system then: its figures are the means, and its intervals and differences are for other
            speakers and other seeds.
        options: of the evaluation; ``against`` is for a single system.

    Returns:
        ``systems``: one table for each, as `as_table` has it, with ``system``, its name, and, of several
        seeds, ``seeds``: their number, and the values and the standard deviation of each figure.
        ``differences``: one for each pair of systems, with ``system``, ``other`` and the figures, as in
        ``against``; empty without intervals.

    Raises:
        TrialError: see `evaluate`.
    """
    from farvox.metrics.bootstrap import mean_of_seeds

    plain = replace(
        options,
        intervals=False,
        trial_speakers=(),
        speaker_before=None,
        by=(),
        conditions=(),
        edges=(),
    )
    tables = {
        name: {"system": name, **_mean_of_tables([as_table(evaluate(each, plain), plain) for each in seeds])}
        for name, seeds in systems.items()
    }
    compared = []
    scores, speakers = next(iter(systems.values()))[0], None
    if options.intervals:
        speakers = speakers_of(scores, options)
        every = [each.values for seeds in systems.values() for each in seeds]
        resampled = resample(every, scores, speakers, options)
        found = iter(resampled.systems)
        samples: dict[str, dict[str, Sample]] = {}
        for name, seeds in systems.items():
            of_seeds = [next(found) for _ in seeds]
            samples[name] = {
                figure: mean_of_seeds([each[figure] for each in of_seeds], options.seed)
                for figure in of_seeds[0]
            }
            tables[name]["intervals"] = intervals_of(resampled, samples[name])
            tables[name]["notes"] += _notes_on_draws(options)
        for one, other in combinations(samples, 2):
            of_pair = differences(samples[one], samples[other])
            figures = {figure: asdict(each) for figure, each in of_pair.items()}
            compared.append({"system": one, "other": other, **figures})
    if options.by:
        for name, seeds in systems.items():
            known = speakers if len(seeds) == 1 else None
            found_by = [evaluate_conditions(each, options, known) for each in seeds]
            cells = zip(*(each["conditions"] for each in found_by), strict=True)
            tables[name]["conditions"] = [_mean_of_tables(each) for each in cells]
            if options.intervals and len(seeds) > 1:
                tables[name]["notes"].append("note: means of seeds by condition have no intervals")
            tables[name]["equalised"] = found_by[0]["equalised"] and _mean_of_tables(
                [each["equalised"] for each in found_by]
            )
    return {"systems": list(tables.values()), "differences": compared}


def _mean_of_tables(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Tables of one system's seeds as one: the mean of every number, and what each seed had."""
    if len(tables) == 1:
        return tables[0]

    def mean(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, dict):
            return {key: mean([each[key] for each in values]) for key in first}
        if isinstance(first, (list, tuple)):
            return [mean(each) for each in zip(*values, strict=True)]
        if isinstance(first, float):
            return sum(values) / len(values)
        return first

    of_each = {
        key: [each[key] for each in tables] for key, value in tables[0].items() if type(value) is float
    }
    deviations = {key: stdev(values) for key, values in of_each.items()}
    notes = list(dict.fromkeys(line for each in tables for line in each.get("notes", ())))
    averaged = mean([each | ({"notes": notes} if "notes" in each else {}) for each in tables])
    return {**averaged, "seeds": {"number": len(tables), "values": of_each, "std": deviations}}


def as_table(evaluation: Evaluation, options: EvaluateOptions) -> dict[str, Any]:
    """An evaluation as `farvox evaluate --json` prints it."""
    table: dict[str, Any] = {**asdict(evaluation.figures), "notes": list(evaluation.notes)}
    if evaluation.at:
        table["at"] = {name: getattr(evaluation.at, name) for name in ("threshold", "far", "frr")}
    if evaluation.costs:
        table["dcf"] = [asdict(each) for each in evaluation.costs]
    if evaluation.cllr is not None:
        table["cllr"] = evaluation.cllr
    if evaluation.curve:
        table |= asdict(evaluation.curve)
    if evaluation.intervals:
        table["intervals"] = evaluation.intervals
    if evaluation.against:
        compared = {name: asdict(each) for name, each in evaluation.against.items()}
        table["against"] = {"scores": str(options.against), **compared}
    if evaluation.conditions is not None:
        table |= {"conditions": evaluation.conditions, "equalised": evaluation.equalised}
    return table


def intervals_of(resampled: Resampled, system: Mapping[str, Sample]) -> dict[str, Any]:
    """The intervals of a system's figures, and how they were resampled, as `Evaluation` has them."""
    from farvox.metrics.bootstrap import LEVEL

    return {
        "level": LEVEL,
        **{name: each.interval() for name, each in system.items()},
        "num_speakers": resampled.num_speakers,
        "replicates": resampled.replicates,
        "seed": resampled.seed,
    }
