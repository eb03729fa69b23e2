"""The verbs from embeddings to decisions: score, evaluate, calibrate, submit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from farvox import pipelines
from farvox.atomic import json_text, refuse_to_replace
from farvox.errors import UsageError
from farvox.pipelines.calibrate import CalibrateOptions
from farvox.pipelines.evaluate import EvaluateOptions, as_table, evaluate_systems
from farvox.pipelines.score import ScoreOptions, Scores
from farvox.progress import to_stderr, to_stdout
from farvox.report.text import (
    aligned,
    condition_rows,
    condition_rows_of,
    figure_lines,
    interval_lines,
    pair_lines,
    plain_span,
    rounded,
    seed_line,
    span,
)

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
    scores: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME=]SCORES...")],
    evaluation: EvaluateOptions = EvaluateOptions(),
    json: bool = False,
    plot: Plot = None,
    report: Annotated[Path | None, arg(metavar="DIR|FILE.html")] = None,
) -> None:
    """EER, minDCF and more of score files, how sure they are, and by condition; a DET curve or a report.

    Args:
        trials: trial list with labels.
        scores: one or several systems, each a file of lines "enrol test score", whose ids match with or
            without ".wav" in any order; NAME=SCORES names the system, and NAME=SCORES,SCORES,... is one
            system trained with several seeds.
        evaluation: figures to compute.
        json: print the figures as JSON; the EER is a fraction there.
        plot: also draw the DET curve to this file.
        report: also write a one-file HTML report; into a folder, with its pictures and the figures as data.
    """
    paths = _named_paths(scores)
    files = [path for each in paths.values() for path in each]
    folders = (*evaluation.data, *evaluation.trial_speakers, *evaluation.conditions)
    inputs = (trials, *files, evaluation.against, *folders)
    refuse_plot(plot, inputs)
    if report:
        from farvox.report.page import refuse_report

        refuse_report(report, inputs)
    systems = {name: [Scores.read(trials, path) for path in files] for name, files in paths.items()}
    (name, (scored, *others)), *more = systems.items()
    pairs = [
        (path, one) for name, files in paths.items() for path, one in zip(files, systems[name], strict=True)
    ]
    leaks = list(dict.fromkeys(line for path, one in pairs for line in _leaks_of(path, one)))
    if others or more:
        if evaluation.against:
            raise UsageError(
                "--against is for a single score file: name the other system as NAME=SCORES, too"
            )
        found = evaluate_systems(systems, evaluation)
        tables, compared = found["systems"], pair_lines(found)
    else:
        found = as_table(pipelines.evaluate.evaluate(scored, evaluation), evaluation)
        tables, compared = [{"system": name, **found}], []
    whose = {table["system"]: f"{table['system']}: " * (len(tables) > 1) for table in tables}
    doubts = [whose[table["system"]] + line for table in tables for line in table["notes"]]
    for line in (*leaks, *doubts):
        to_stderr(line)
    if json:
        to_stdout(json_text(found))
    else:
        num_target, num_nontarget = (tables[0][f"num_{kind}"] for kind in ("target", "nontarget"))
        lines = [
            f"trials  {scored.trials.form}",
            f"        {num_target:,} target, {num_nontarget:,} non-target",
        ]
        for table in tables:
            lines += ["", f"== {table['system']}"] if len(tables) > 1 else []
            lines += _as_lines(table)
        to_stdout("\n".join([*lines, *([""] if compared else []), *compared]))
    if not (plot or report):
        return
    from farvox.report.page import ScoreSet, det_figure, save_figure, write_report
    from farvox.report.results import write_results

    assert scored.trials.target is not None
    sets = [
        ScoreSet(f"{name}, seed {number}" if len(each) > 1 else name, one.values, scored.trials.target)
        for name, each in systems.items()
        for number, one in enumerate(each, 1)
    ]
    costs: Any = {"p_target": evaluation.p_target, "ties": evaluation.ties}
    if plot:
        save_figure(det_figure(sets, **costs), plot)
    if report:
        notes = [*leaks, *(line for table in tables for line in _sure_lines(table))]
        by = {}
        if evaluation.by:
            heading = f"By {', '.join(evaluation.by)}"
            of_system = {table["system"]: table for table in tables}
            by[heading] = condition_rows_of(of_system) if more else condition_rows(of_system[name])
        write_report(
            report,
            f"Evaluation of {Path(paths[name][0]).name if len(sets) == 1 else ', '.join(systems)}",
            {trials.name: sets},
            notes=[*notes, *doubts, *compared],
            tables=by,
            **costs,
        )
        if report.suffix not in (".html", ".htm"):
            write_results(report / "results.json", found, trials=[trials], scores=files)


def _named_paths(words: Sequence[str]) -> dict[str, list[Path]]:
    """The score files of each system: ``NAME=SCORES,SCORES``, or a path, whose name without suffix it is."""
    named: dict[str, list[Path]] = {}
    for word in words:
        name, is_named, files = word.partition("=")
        if not is_named or Path(word).exists():
            name, paths = Path(word).stem, [Path(word)]
        else:
            paths = [Path(each) for each in files.split(",") if each]
        if not name or not paths or name in named:
            raise UsageError(f"'{word}': give each system a name of its own and its scores, as NAME=SCORES")
        named[name] = paths
    if not named:
        raise UsageError("no scores: name a score file, or several as NAME=SCORES")
    return named


def calibrate(
    trials: Trials,
    scores: ScoreFile,
    calibration: CalibrateOptions = CalibrateOptions(),
    json: bool = False,
) -> None:
    """Choose a threshold and fit probabilities on scored trials; or turn scores into log-likelihood ratios.

    The trials should be of speakers that the model was not trained on and that nothing is reported on later.

    Args:
        trials: trial list, with labels unless --apply is given.
        scores: lines "enrol test score", as "farvox score" writes them.
        calibration: the threshold to choose, and where it goes.
        json: print what --save writes.
    """
    scored = Scores.read(trials, scores)
    if calibration.apply:
        pipelines.calibrate.apply_calibration(scored, calibration.apply, out=calibration.out, note=to_stderr)
        return
    found = pipelines.calibrate.calibrate(scored, calibration, note=to_stderr)
    if json:
        to_stdout(json_text(found.table))
        return
    point, scale, sign = found.point, found.scale, "-" if found.offset < 0 else "+"
    to_stdout(f"trials       {point.num_target:,} target, {point.num_nontarget:,} non-target")
    far, frr = rounded(point.far, point.num_nontarget, "%"), rounded(point.frr, point.num_target, "%")
    to_stdout(f"threshold    {point.threshold:.4f}: accepts {far} of the non-target trials")
    to_stdout(f"             and rejects {frr} of the target trials")
    if found.intervals:
        rates = (("FAR", "far", point.num_nontarget), ("FRR", "frr", point.num_target))
        there = ", ".join(f"{name} {span(found.intervals[key], num, '%')}" for name, key, num in rates)
        of = f"95 %, {found.intervals['num_speakers']:,} speakers"
        to_stdout(f"interval     {plain_span(found.intervals['threshold'])} ({of}); at the threshold {there}")
    to_stdout(f"calibration  llr = {scale:.4f} x score {sign} {abs(found.offset):.4f} (nats)")
    for path in filter(None, (calibration.save, found.card)):
        to_stdout(f"written      {path}")


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


def _leaks_of(path: Path, scores: Scores) -> list[str]:
    """Lines on what makes the figures of a score file better than they are, as far as it is known."""
    from farvox.score.scores import META_SUFFIX, replaced_inputs

    if not scores.meta and (beside := Path(f"{path}{META_SUFFIX}")).exists():
        return [f"note: {beside}: of other scores than {path}, so the model and what it shares are not known"]
    return [*scores.meta.get("leaks", []), *replaced_inputs(path, scores.meta)]


def refuse_plot(plot: Path | None, inputs: Iterable[Path | None]) -> None:
    """Refuse a plot that is neither a .png nor an .svg, or would destroy another file, before any work."""
    if plot is None:
        return
    if plot.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: a plot is a .png or an .svg file")
    from farvox.report.page import FIGURES

    refuse_to_replace(plot, FIGURES[plot.suffix], inputs)


def _as_lines(table: dict[str, Any]) -> list[str]:
    """The figures of one system."""
    lines = figure_lines(table)
    if "at" in table:
        at = table["at"]
        far = rounded(at["far"], table["num_nontarget"], "%")
        frr = rounded(at["frr"], table["num_target"], "%")
        lines.append(f"at {at['threshold']:<7.6g}FAR {far}, FRR {frr}")
    if sure := _sure_lines(table):
        lines += ["", *sure]
    if "conditions" in table:
        lines += ["", *aligned(condition_rows(table))]
    return lines


def _sure_lines(table: dict[str, Any]) -> list[str]:
    """How sure the figures of one system are."""
    seeds = [seed_line(table)] if "seeds" in table else []
    return [*seeds, *(interval_lines(table, table["system"]) if "intervals" in table else [])]
