"""The verbs from embeddings to decisions: score, evaluate, calibrate, submit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from farvox import pipelines
from farvox.atomic import json_text, refuse_to_replace
from farvox.errors import UsageError
from farvox.pipelines.calibrate import CalibrateOptions
from farvox.pipelines.evaluate import EvaluateOptions, as_table
from farvox.pipelines.score import ScoreOptions, Scores
from farvox.progress import to_stderr, to_stdout
from farvox.report.text import aligned, condition_rows, interval_lines

Trials = Annotated[Positional[Path], arg(metavar="TRIALS")]
ScoreFile = Annotated[Positional[Path], arg(metavar="SCORES")]
Plot = Annotated[Path | None, arg(metavar="FILE.png|.svg")]


def score(
    trials: Trials,
    embeddings: Annotated[Positional[tuple[Path, ...]], arg(metavar="EMBEDDINGS...")],
    out: Annotated[Path, arg(metavar="SCORES")],
    scoring: ScoreOptions = ScoreOptions(),
    out_trials: Annotated[Path | None, arg(metavar="TRIALS")] = None,
) -> None:
    """Score a trial list: one line a trial, in trial order, "enrol test score".

    Args:
        trials: trial list of any form; labels, if any, must not contradict the speakers of the embeddings.
        embeddings: one or more folders made by "farvox extract".
        out: score file to write.
        scoring: rules of the scoring.
        out_trials: with "expand": also write the list of the trials of single channels, with their labels.
    """
    pipelines.score.score(trials, embeddings, scoring, out=out, out_trials=out_trials, note=to_stderr)


def evaluate(
    trials: Trials,
    scores: ScoreFile,
    evaluation: EvaluateOptions = EvaluateOptions(),
    json: bool = False,
    plot: Plot = None,
    report: Annotated[Path | None, arg(metavar="DIR|FILE.html")] = None,
) -> None:
    """EER and minDCF of a score file, how sure they are, and where they come from; a DET curve or a report.

    Args:
        trials: trial list with labels.
        scores: lines "enrol test score"; ids match with or without ".wav", in any order.
        evaluation: figures to compute.
        json: print the figures as JSON; the EER is a fraction there.
        plot: also draw the DET curve to this file.
        report: also write a one-file HTML report; into a folder, with its pictures as PNG and SVG.
    """
    from farvox.score.scores import META_SUFFIX, replaced_inputs

    inputs = (trials, scores, evaluation.against, *evaluation.trial_speakers, *evaluation.conditions)
    refuse_plot(plot, inputs)
    if report:
        from farvox.report.page import refuse_report

        refuse_report(report, inputs)
    scored = Scores.read(trials, scores)
    leaks = [*scored.meta.get("leaks", []), *replaced_inputs(scores, scored.meta)]
    if not scored.meta and (beside := Path(f"{scores}{META_SUFFIX}")).exists():
        leaks = [
            f"note: {beside}: of other scores than {scores}, so the model and what it shares are not known"
        ]
    table = as_table(pipelines.evaluate.evaluate(scored, evaluation), evaluation)
    for line in (*leaks, *table["notes"]):
        to_stderr(line)
    to_stdout(json_text(table) if json else _as_text(table, scored.trials.form))
    if not (plot or report):
        return
    from farvox.report.page import ScoreSet, det_figure, save_figure, write_report

    assert scored.trials.target is not None
    system = ScoreSet(scores.stem, scored.values, scored.trials.target)
    costs: Any = {"p_target": evaluation.p_target, "ties": evaluation.ties}
    if plot:
        save_figure(det_figure([system], **costs), plot)
    if report:
        heading = f"By {', '.join(evaluation.by)}"
        write_report(
            report,
            f"Evaluation of {scores.name}",
            {trials.name: [system]},
            notes=[*leaks, *table["notes"], *(interval_lines(table) if "intervals" in table else [])],
            tables={heading: condition_rows(table["conditions"])} if evaluation.by else {},
            **costs,
        )


def calibrate(trials: Trials, scores: ScoreFile, calibration: CalibrateOptions = CalibrateOptions()) -> None:
    """Choose a threshold and fit probabilities on scored trials, and write both into a model's card.

    The trials should be of speakers that the model was not trained on and that nothing is reported on later.

    Args:
        trials: trial list with labels.
        scores: lines "enrol test score", as "farvox score" writes them.
        calibration: the threshold to choose, and the model that it is for.
    """
    found = pipelines.calibrate.calibrate(Scores.read(trials, scores), calibration, note=to_stderr)
    point, scale, sign = found.point, found.scale, "-" if found.offset < 0 else "+"
    to_stdout(f"trials       {point.num_target:,} target, {point.num_nontarget:,} non-target")
    to_stdout(f"threshold    {point.threshold:.4f}: accepts {point.far:.3%} of the non-target trials")
    to_stdout(f"             and rejects {point.frr:.3%} of the target trials")
    to_stdout(f"calibration  llr = {scale:.4f} x score {sign} {abs(found.offset):.4f} (nats)")
    if found.card:
        to_stdout(f"written      {found.card}")


def submit(
    trials: Trials, scores: ScoreFile, out: Annotated[Positional[Path], arg(metavar="OUT.zip|.txt")]
) -> None:
    """Write a submission: one score a line, in trial order, after checking that every trial has one.

    Args:
        trials: the trial list that the challenge gave out.
        scores: lines "enrol test score" for exactly these trials, in any order.
        out: a .zip with scores.txt in it, as FFSVC2022 takes it, or a .txt, as the HI-MIA homework does.
    """
    from farvox.score.scores import submission_kind, write_submission

    refuse_to_replace(out, submission_kind(out), (trials, scores))
    scored = Scores.read(trials, scores)
    write_submission(out, scored.trials, scored.values)
    to_stderr(f"{len(scored.trials):,} scores in the order of {trials}: {out}")


def refuse_plot(plot: Path | None, inputs: Iterable[Path | None]) -> None:
    """Refuse a plot that is neither a .png nor an .svg, or would destroy another file, before any work."""
    if plot is None:
        return
    if plot.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: a plot is a .png or an .svg file")
    from farvox.report.page import FIGURES

    refuse_to_replace(plot, FIGURES[plot.suffix], inputs)


def _as_text(table: dict[str, Any], form: str) -> str:
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
        lines += ["", *interval_lines(table)]
    if "conditions" in table:
        lines += ["", *aligned(condition_rows(table["conditions"]))]
    return "\n".join(lines)
