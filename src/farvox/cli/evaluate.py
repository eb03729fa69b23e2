"""``farvox evaluate``: from scores to figures."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from farvox.metrics.detection import Detection
    from farvox.score.calibrate import Operating


def evaluate(
    trials: Annotated[Positional[Path], arg(metavar="TRIALS")],
    scores: Annotated[Positional[Path], arg(metavar="SCORES")],
    json: bool = False,
    p_target: float = 0.01,
    ties: Literal["baseline", "grouped"] = "baseline",
    threshold: float | None = None,
    plot: Annotated[Path | None, arg(metavar="FILE.png|.svg")] = None,
    report: Annotated[Path | None, arg(metavar="DIR|FILE.html")] = None,
) -> int:
    """EER and minDCF of a score file, and a DET curve or a report if asked for.

    Args:
        trials: trial list with labels.
        scores: lines "enrol test score"; ids match with or without ".wav", in any order.
        json: print the figures as JSON; the EER is a fraction there.
        p_target: prior of a target trial in the detection cost; both costs are 1.
        ties: how equal scores are treated: step by step as in the FFSVC2022 baseline, or as one threshold.
        threshold: also print both error rates at this score, which was chosen on other trials.
        plot: also draw the DET curve to this file.
        report: also write a one-file HTML report; into a folder, with its pictures as PNG and SVG.
    """
    if plot is not None and plot.suffix not in (".png", ".svg"):
        print(f"farvox evaluate: --plot {plot}: a plot is a .png or an .svg file", file=sys.stderr)
        return 2
    from farvox.errors import TrialError
    from farvox.metrics.detection import detection_error
    from farvox.score.calibrate import operating_point
    from farvox.score.scores import read_scores
    from farvox.score.trials import read_trials

    trial_list = read_trials(trials)
    if trial_list.target is None:
        raise TrialError(f"{trials}: no labels, so there is nothing to evaluate by ({trial_list.form})")
    values = read_scores(scores, trial_list)
    figures = detection_error(values, trial_list.target, p_target, ties)
    point = None if threshold is None else operating_point(values, trial_list.target, threshold)
    print(_as_json(figures, point) if json else _as_text(figures, trial_list.form, point))
    if plot or report:
        from farvox.report.det import ScoreSet, det_figure, save_figure
        from farvox.report.html import write_report

        systems = [ScoreSet(scores.stem, values, trial_list.target)]
        if plot:
            save_figure(det_figure(systems, p_target=p_target, ties=ties), plot)
        if report:
            title = f"Evaluation of {scores.name}"
            write_report(report, title, {trials.name: systems}, p_target=p_target, ties=ties)
    return 0


def _as_json(figures: Detection, point: Operating | None) -> str:
    at = {"at": {"threshold": point.threshold, "far": point.far, "frr": point.frr}} if point else {}
    return json.dumps(asdict(figures) | at, indent=2)


def _as_text(figures: Detection, form: str, point: Operating | None) -> str:
    at = f"at {point.threshold:<7.6g}FAR {point.far:.4%}, FRR {point.frr:.4%}" if point else ""
    return "\n".join(
        [
            f"trials  {form}",
            f"        {figures.num_target:,} target, {figures.num_nontarget:,} non-target",
            f"EER     {figures.eer:.4%}  at threshold {figures.threshold:.6g}",
            f"minDCF  {figures.min_dcf:.4f}  at threshold {figures.min_dcf_threshold:.6g}"
            f"  (P_target {figures.p_target:g}, costs 1, normalised)",
            *([at] if at else []),
        ]
    )
