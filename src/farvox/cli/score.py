"""``farvox score`` and ``farvox evaluate``: from embeddings to scores, from scores to figures."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from farvox.io.embeddings import EmbeddingSet
    from farvox.metrics.detection import Detection
    from farvox.score.calibrate import Operating


def score(
    trials: Annotated[Positional[Path], arg(metavar="TRIALS")],
    embeddings: Annotated[Positional[tuple[Path, ...]], arg(metavar="EMBEDDINGS...")],
    out: Annotated[Path, arg(metavar="SCORES")],
    channels: Literal["mean-norm", "sum"] = "mean-norm",
    channel_ids: Literal["enrol", "test", "both", "neither"] | None = None,
) -> int:
    """Score a trial list: one line a trial, in trial order, "enrol test score".

    Args:
        trials: trial list of any form; the labels, if any, are not looked at.
        embeddings: one or more folders made by "farvox extract".
        out: score file to write.
        channels: how a side of several utterances becomes one embedding: the mean of the
            length-normalised ones, or the plain sum, as in the HI-MIA homework.
        channel_ids: the side whose ids mean their channels ID_0, ID_1, ... where an utterance ID is
            there too; without it such ids are refused.
    """
    if not embeddings:
        print("farvox score: EMBEDDINGS is missing: name at least one folder of embeddings", file=sys.stderr)
        return 2
    from farvox.score.cosine import cosine_scores
    from farvox.score.scores import write_scores
    from farvox.score.trials import read_trials

    trial_list = read_trials(trials)
    print(trial_list.form, file=sys.stderr)
    embedding_set = _load(embeddings)
    resolved = trial_list.resolve(embedding_set.utt_ids, channel_ids)
    if resolved.reading:
        print(resolved.reading, file=sys.stderr)
    write_scores(out, trial_list, cosine_scores(resolved, embedding_set.embeddings, channels))
    print(f"{len(trial_list):,} scores: {out}", file=sys.stderr)
    return 0


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


def _load(folders: tuple[Path, ...]) -> EmbeddingSet:
    import numpy as np

    from farvox.errors import TrialError
    from farvox.io.embeddings import EmbeddingSet

    sets = [EmbeddingSet.load(folder) for folder in folders]
    if len(sets) == 1:
        return sets[0]
    for folder, other in zip(folders, sets, strict=True):
        if other.embeddings.shape[1] != sets[0].embeddings.shape[1]:
            raise TrialError(
                f"{folder}: embeddings of {other.embeddings.shape[1]} dimensions, and of"
                f" {sets[0].embeddings.shape[1]} in {folders[0]}: they are of different models"
            )
    utt_ids = [utt_id for other in sets for utt_id in other.utt_ids]
    return EmbeddingSet(utt_ids, np.concatenate([other.embeddings for other in sets]))


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
