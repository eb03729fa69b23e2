"""``farvox evaluate``: from scores to figures."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from farvox.errors import TrialError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from farvox.metrics.bootstrap import Resampled
    from farvox.metrics.conditions import Cell
    from farvox.metrics.detection import Detection, Ties
    from farvox.score.calibrate import Operating
    from farvox.score.conditions import Speakers
    from farvox.score.trials import TrialList

Table = dict[str, Any]


def evaluate(
    trials: Annotated[Positional[Path], arg(metavar="TRIALS")],
    scores: Annotated[Positional[Path], arg(metavar="SCORES")],
    json: bool = False,
    p_target: float = 0.01,
    ties: Literal["baseline", "grouped"] = "baseline",
    threshold: float | None = None,
    intervals: Annotated[bool, FlagCreatePairsOff] = False,
    against: Annotated[Path | None, arg(metavar="SCORES")] = None,
    trial_speakers: Annotated[tuple[Path, ...], arg(metavar="DIR|UTT2SPK...")] = (),
    speaker_before: Annotated[str | None, arg(metavar="MARK")] = None,
    bootstrap: int = 1000,
    seed: int = 0,
    by: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="CONDITION")] = (),
    conditions: Annotated[tuple[Path, ...], arg(metavar="DIR...")] = (),
    plot: Annotated[Path | None, arg(metavar="FILE.png|.svg")] = None,
    report: Annotated[Path | None, arg(metavar="DIR|FILE.html")] = None,
) -> int:
    """EER and minDCF of a score file, how sure they are, and where they come from; a DET curve or a report.

    Args:
        trials: trial list with labels.
        scores: lines "enrol test score"; ids match with or without ".wav", in any order.
        json: print the figures as JSON; the EER is a fraction there.
        p_target: prior of a target trial in the detection cost; both costs are 1.
        ties: how equal scores are treated: step by step as in the FFSVC2022 baseline, or as one threshold.
        threshold: also print both error rates at this score, which was chosen on other trials.
        intervals: also print 95 % intervals, by resampling the speakers.
        against: a score file of another system on the same trials: the difference and its paired interval.
        trial_speakers: data dirs or utt2spk files that hold every utterance of the list.
        speaker_before: the speaker of an id is what stands before the first MARK in it.
        bootstrap: how many times the speakers are drawn.
        seed: what the draws follow from.
        by: also print the figures for each value of a condition of the test side, or with "enrol."
            before it of the enrolment side; may be given several times.
        conditions: data dirs with a utt2cond, or such files, for --by.
        plot: also draw the DET curve to this file.
        report: also write a one-file HTML report; into a folder, with its pictures as PNG and SVG.
    """
    if plot is not None and plot.suffix not in (".png", ".svg"):
        print(f"farvox evaluate: --plot {plot}: a plot is a .png or an .svg file", file=sys.stderr)
        return 2
    _refuse_half_said(
        intervals or against is not None, trial_speakers, speaker_before, bootstrap, by, conditions
    )
    from farvox.metrics.detection import detection_error
    from farvox.score.calibrate import operating_point
    from farvox.score.scores import read_scores
    from farvox.score.trials import read_trials

    trial_list = read_trials(trials)
    if trial_list.target is None:
        raise TrialError(f"{trials}: no labels, so there is nothing to evaluate by ({trial_list.form})")
    values = read_scores(scores, trial_list)
    terms = Terms(p_target, ties, bootstrap, seed)
    table: Table = asdict(detection_error(values, trial_list.target, p_target, ties))
    if threshold is not None:
        table["at"] = _at(operating_point(values, trial_list.target, threshold))
    speakers = None
    if intervals or against:
        speakers = _speakers(trial_list, trial_speakers, speaker_before)
        table |= _how_sure(trial_list, values, against, speakers, terms)
    if by:
        table["conditions"] = condition_cells(trial_list, values, conditions, by, speakers, terms)
    print(_as_json(table) if json else _as_text(table, trial_list.form))
    if plot or report:
        _show(trials, scores, values, trial_list.target, table, by, plot, report, terms)
    return 0


@dataclass(frozen=True)
class Terms:
    """What figures are computed by; see the options of these names."""

    p_target: float = 0.01
    ties: Ties = "baseline"
    bootstrap: int = 1000
    seed: int = 0


def condition_cells(
    trials: TrialList,
    values: NDArray[np.float64],
    sources: tuple[Path, ...],
    by: tuple[str, ...],
    speakers: Speakers | None = None,
    terms: Terms | None = None,
) -> list[Table]:
    """The figures of each condition of a trial list with labels.

    Args:
        trials: the list.
        values: its scores.
        sources: data dirs with a `utt2cond`, or such files.
        by: conditions, see `farvox.score.conditions.trial_conditions`.
        speakers: of both sides of every trial: intervals are made, too.
        terms: what is computed by.
    """
    from farvox.metrics.conditions import per_condition

    terms = terms or Terms()
    number, kinds = _kinds(trials, sources, by)
    assert trials.target is not None
    cells = per_condition(
        values, trials.target, number,
        speakers=speakers, p_target=terms.p_target, ties=terms.ties, replicates=terms.bootstrap,
        seed=terms.seed,
    )  # fmt: skip
    return [_cell(cell, kinds) for cell in cells]


def condition_rows(cells: list[Table]) -> list[list[str]]:
    """What `condition_cells` gives as rows of text, of which the first is the head."""
    unsure = any(cell["intervals"] for cell in cells)
    sure_head = ["95 %"] if unsure else []
    head = [*cells[0]["condition"], "EER", *sure_head, "minDCF", *sure_head]
    rows = [[*head, "target", "non-target"]]
    for cell in cells:
        row = [value or "unknown" for value in cell["condition"].values()]
        for key, form in (("eer", ".2%"), ("min_dcf", ".4f")):
            row.append("-" if cell[key] is None else f"{cell[key]:{form}}")
            if unsure:
                row.append(_span(cell["intervals"][key], form) if cell["intervals"] else "-")
        rows.append([*row, f"{cell['num_target']:,}", f"{cell['num_nontarget']:,}"])
    return rows


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of text as lines whose columns are flush."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _refuse_half_said(
    unsure: bool,
    trial_speakers: tuple[Path, ...],
    speaker_before: str | None,
    bootstrap: int,
    by: tuple[str, ...],
    conditions: tuple[Path, ...],
) -> None:
    if bool(trial_speakers) and speaker_before is not None:
        raise UsageError("the speakers come from --trial-speakers or from --speaker-before, not from both")
    known = bool(trial_speakers) or bool(speaker_before)
    if unsure and not known:
        raise UsageError(
            "an interval needs the speakers of the trials: name data dirs with --trial-speakers, or say with "
            "--speaker-before which mark ends the speaker's name in an id"
        )
    if (trial_speakers or speaker_before is not None) and not unsure:
        raise UsageError("speakers are for intervals: add --intervals or --against")
    if bootstrap < 1:
        raise UsageError(f"--bootstrap {bootstrap}: at least one resample is needed; 1000 is usual")
    if bool(by) != bool(conditions):
        raise UsageError("--by names conditions and --conditions the data dirs that have them: give both")


def _speakers(trials: TrialList, sources: tuple[Path, ...], separator: str | None) -> Speakers:
    from farvox.score.conditions import speakers_from_dirs, speakers_from_ids

    return speakers_from_ids(trials, separator) if separator else speakers_from_dirs(trials, sources)


def _how_sure(
    trials: TrialList, values: NDArray[np.float64], against: Path | None, speakers: Speakers, terms: Terms
) -> Table:
    """Intervals, and the comparison with another system if there is one."""
    from farvox.metrics.bootstrap import speaker_bootstrap
    from farvox.metrics.detection import detection_error
    from farvox.score.scores import read_scores

    assert trials.target is not None
    systems = [values] if against is None else [values, read_scores(against, trials)]
    resampled = speaker_bootstrap(
        systems, trials.target, *speakers,
        p_target=terms.p_target, ties=terms.ties, replicates=terms.bootstrap, seed=terms.seed,
    )  # fmt: skip
    table: Table = {"intervals": _intervals(resampled)}
    if against:
        ours, theirs = (detection_error(s, trials.target, terms.p_target, terms.ties) for s in systems)
        table["against"] = _against(against, ours, theirs, resampled)
    return table


def _show(
    trials: Path,
    scores: Path,
    values: NDArray[np.float64],
    target: NDArray[np.int8],
    table: Table,
    by: tuple[str, ...],
    plot: Path | None,
    report: Path | None,
    terms: Terms,
) -> None:
    """The DET curve and the report."""
    from farvox.report.det import ScoreSet, det_figure, save_figure
    from farvox.report.html import write_report

    found = [ScoreSet(scores.stem, values, target)]
    if plot:
        save_figure(det_figure(found, p_target=terms.p_target, ties=terms.ties), plot)
    if report:
        write_report(
            report, f"Evaluation of {scores.name}", {trials.name: found},
            notes=_interval_lines(table) if "intervals" in table else [],
            tables={f"By {', '.join(by)}": condition_rows(table["conditions"])} if by else {},
            p_target=terms.p_target, ties=terms.ties,
        )  # fmt: skip


def _kinds(
    trials: TrialList, sources: tuple[Path, ...], by: tuple[str, ...]
) -> tuple[NDArray[np.int64], list[dict[str, str]]]:
    """The number of each trial's condition, and what each number stands for."""
    from farvox.score.conditions import trial_conditions

    named = trial_conditions(trials, sources, tuple(dict.fromkeys(by)))
    kinds = named.unique().sort(named.columns)
    numbered = kinds.with_row_index("=")  # no condition is called so
    number = named.join(numbered, on=named.columns, how="left", maintain_order="left")["="]
    return number.to_numpy(), kinds.to_dicts()


def _cell(cell: Cell, kinds: list[dict[str, str]]) -> Table:
    return {
        "condition": kinds[cell.number],
        "num_target": cell.num_target,
        "num_nontarget": cell.num_nontarget,
        "eer": cell.figures.eer if cell.figures else None,
        "min_dcf": cell.figures.min_dcf if cell.figures else None,
        "intervals": _intervals(cell.resampled) if cell.resampled else None,
    }


def _at(point: Operating) -> Table:
    return {"threshold": point.threshold, "far": point.far, "frr": point.frr}


def _intervals(resampled: Resampled) -> Table:
    from farvox.metrics.bootstrap import LEVEL, interval

    return {
        "level": LEVEL,
        "eer": interval(resampled.eer_RK[:, 0]),
        "min_dcf": interval(resampled.min_dcf_RK[:, 0]),
        "num_speakers": resampled.num_speakers,
        "replicates": len(resampled.eer_RK),
        "seed": resampled.seed,
    }


def _against(path: Path, ours: Detection, theirs: Detection, resampled: Resampled) -> Table:
    from farvox.metrics.bootstrap import interval

    table: Table = {"scores": str(path)}
    for name, values_RK in (("eer", resampled.eer_RK), ("min_dcf", resampled.min_dcf_RK)):
        found = interval(values_RK[:, 0] - values_RK[:, 1])
        table[name] = {
            "other": getattr(theirs, name),
            "difference": getattr(ours, name) - getattr(theirs, name),
            "interval": found,
            "excludes_zero": found.excludes_zero,
        }
    return table


def _as_json(table: Table) -> str:
    return json.dumps(table, indent=2)


def _as_text(table: Table, form: str) -> str:
    lines = [
        f"trials  {form}",
        f"        {table['num_target']:,} target, {table['num_nontarget']:,} non-target",
        f"EER     {table['eer']:.4%}  at threshold {table['threshold']:.6g}",
        f"minDCF  {table['min_dcf']:.4f}  at threshold {table['min_dcf_threshold']:.6g}"
        f"  (P_target {table['p_target']:g}, costs 1, normalised)",
    ]
    if "at" in table:
        at = table["at"]
        lines.append(f"at {at['threshold']:<7.6g}FAR {at['far']:.4%}, FRR {at['frr']:.4%}")
    if "intervals" in table:
        lines += ["", *_interval_lines(table)]
    if "conditions" in table:
        lines += ["", *aligned(condition_rows(table["conditions"]))]
    return "\n".join(lines)


def _interval_lines(table: Table) -> list[str]:
    sure = table["intervals"]
    lines = [
        f"{sure['level']:.0%} intervals, {sure['replicates']:,} resamples of {sure['num_speakers']:,}"
        f" speakers (seed {sure['seed']}):"
        f" EER {_span(sure['eer'], '.2%')}, minDCF {_span(sure['min_dcf'], '.4f')}"
    ]
    if "against" in table:
        other = table["against"]
        for name, key, form in (("EER", "eer", ".2%"), ("minDCF", "min_dcf", ".4f")):
            found = other[key]
            verdict = "excludes zero" if found["excludes_zero"] else "does not exclude zero"
            lines.append(
                f"{name} less that of {other['scores']} ({found['other']:{form}}):"
                f" {found['difference']:+{form}}, {_span(found['interval'], '+' + form)}, which {verdict}"
            )
    return lines


def _span(found: tuple[float, float], form: str) -> str:
    return f"{found[0]:{form}} to {found[1]:{form}}"
