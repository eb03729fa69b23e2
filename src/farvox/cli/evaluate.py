"""``farvox evaluate``: from scores to figures."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from farvox.errors import UsageError
from farvox.pipelines.evaluate import EvaluateOptions, as_table
from farvox.pipelines.evaluate import evaluate as run_evaluation
from farvox.pipelines.score import Scores
from farvox.report.text import aligned, condition_rows, interval_lines


def evaluate(
    trials: Annotated[Positional[Path], arg(metavar="TRIALS")],
    scores: Annotated[Positional[Path], arg(metavar="SCORES")],
    evaluation: EvaluateOptions = EvaluateOptions(),
    json: bool = False,
    plot: Annotated[Path | None, arg(metavar="FILE.png|.svg")] = None,
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
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: a plot is a .png or an .svg file")
    scored = Scores.read(trials, scores)
    table = as_table(run_evaluation(scored, evaluation), evaluation)
    print(dumps(table, indent=2) if json else _as_text(table, scored.trials.form))
    if not (plot or report):
        return
    from farvox.report.det import ScoreSet, det_figure, save_figure
    from farvox.report.html import write_report

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
            notes=interval_lines(table) if "intervals" in table else [],
            tables={heading: condition_rows(table["conditions"])} if evaluation.by else {},
            **costs,
        )


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
