"""The verbs from embeddings to decisions: score, evaluate, calibrate, submit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from farvox import pipelines
from farvox.atomic import FileKind, atomic_update, json_text, refuse_to_replace, write_text
from farvox.cli.flags import FROM_STORE
from farvox.errors import UsageError
from farvox.pipelines.calibrate import CalibrateOptions
from farvox.pipelines.evaluate import EvaluateOptions, as_table, evaluate_systems
from farvox.pipelines.fuse import FuseOptions
from farvox.pipelines.score import ScoreOptions, Scores
from farvox.progress import to_stderr, to_stdout
from farvox.report.text import (
    aligned,
    as_latex,
    as_markdown,
    condition_rows,
    condition_rows_of,
    difference_lines,
    difference_rows,
    figure_lines,
    headline_rows,
    interval_lines,
    pair_lines,
    plain_span,
    rounded,
    seed_line,
    span,
)
from farvox.writers import writes

if TYPE_CHECKING:
    from farvox.report import sections
    from farvox.report.figures import ScoreSet

Trials = Annotated[Positional[Path], arg(metavar="TRIALS")]
ScoreFile = Annotated[Positional[Path], arg(metavar="SCORES")]
Plot = Annotated[Path | None, arg(metavar="FILE.png|.svg|.pdf")]
TABLES = {
    ".md": FileKind("tables in Markdown", rb"## .*\n\n\|"),
    ".tex": FileKind("tables for LaTeX", rb"\\begin\{table\}"),
}


def score(
    trials: Trials,
    embeddings: Annotated[Positional[tuple[Path, ...]], arg(metavar="EMBEDDINGS..."), FROM_STORE],
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
    width: str = "4.4in",
    tables: Annotated[Path | None, arg(metavar="FILE.md|.tex")] = None,
    report: Annotated[Path | None, arg(metavar="DIR|FILE.html")] = None,
    link_audio: bool = False,
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
        width: of the plot as it is printed, such as 8.5cm; its text is sized for it.
        tables: also write the tables, in Markdown or for LaTeX.
        report: also write a one-file HTML report; into a folder, with its pictures and the figures as data.
        link_audio: let the report lead to the recordings of the hardest trials, which it never holds.
    """
    if tables is not None and tables.suffix not in TABLES:
        raise UsageError(f"--tables {tables}: tables are a .md or a .tex file")
    if plot:
        from farvox.report.figures import inches

        inches(width)
    dirs = [each for each in (*evaluation.data, *evaluation.trial_speakers) if each.is_dir()]
    if link_audio and not (report and dirs):
        raise UsageError("--link-audio goes with --report and with --data, whose data dirs name the audio")
    paths = _named_paths(scores)
    files = [path for each in paths.values() for path in each]
    folders = (*evaluation.data, *evaluation.trial_speakers, *evaluation.conditions)
    inputs = (trials, *files, evaluation.against, *folders)
    refuse_plot(plot, inputs)
    if tables:
        refuse_to_replace(tables, TABLES[tables.suffix], inputs)
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
        rows, compared = found["systems"], pair_lines(found)
    else:
        found = as_table(pipelines.evaluate.evaluate(scored, evaluation), evaluation)
        rows, compared = [{"system": name, **found}], []
    whose = {table["system"]: f"{table['system']}: " * (len(rows) > 1) for table in rows}
    doubts = [whose[table["system"]] + line for table in rows for line in table["notes"]]
    for line in (*leaks, *doubts):
        to_stderr(line)
    if json:
        to_stdout(json_text(found))
    else:
        num_target, num_nontarget = (rows[0][f"num_{kind}"] for kind in ("target", "nontarget"))
        lines = [
            f"trials  {scored.trials.form}",
            f"        {num_target:,} target, {num_nontarget:,} non-target",
        ]
        for table in rows:
            lines += ["", f"== {table['system']}"] if len(rows) > 1 else []
            lines += _as_lines(table)
        to_stdout("\n".join([*lines, *([""] if compared else []), *compared]))
    if tables:
        _write_tables(tables, rows, _pairs_of(found), evaluation)
    sets = _score_sets(systems, evaluation) if plot or report else []
    if plot:
        from farvox.report.figures import det_figure, inches, save_figure

        costs: Any = {"p_target": evaluation.p_target, "ties": evaluation.ties}
        save_figure(det_figure(sets, width=inches(width), **costs), plot)
    if report:
        from farvox.report import sections

        title = f"Evaluation of {Path(paths[name][0]).name if len(pairs) == 1 else ', '.join(systems)}"
        _write_report(
            report,
            title,
            trials,
            paths,
            systems,
            sets,
            found,
            rows,
            [*leaks, *doubts],
            evaluation,
            sections.audio_links(report, dirs) if link_audio else None,
        )


def _pairs_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The differences in a result of one or of several systems, each with the names of both systems."""
    if against := found.get("against"):
        return [{"system": "this system", "other": Path(against["scores"]).stem, **against}]
    return list(found.get("differences", ()))


def _score_sets(systems: Mapping[str, Sequence[Scores]], evaluation: EvaluateOptions) -> list[ScoreSet]:
    """The scores of every system and seed, with intervals also the bands of their DET curves."""
    from farvox.report.figures import DetBand, ScoreSet

    every = [
        (f"{name}, seed {number}" if len(seeds) > 1 else name, one)
        for name, seeds in systems.items()
        for number, one in enumerate(seeds, 1)
    ]
    bands: list[DetBand | None] = [None] * len(every)
    if evaluation.intervals:
        found = pipelines.evaluate.det_bands([one for _, one in every], evaluation)
        bands = [DetBand(*each) for each in found]
    sets = []
    for (name, one), band in zip(every, bands, strict=True):
        assert one.trials.target is not None
        sets.append(ScoreSet(name, one.values, one.trials.target, band))
    return sets


def _write_tables(
    path: Path,
    tables: Sequence[dict[str, Any]],
    pairs: Sequence[dict[str, Any]],
    evaluation: EvaluateOptions,
) -> None:
    """The figures, differences and conditions as tables of a paper."""
    named = {"Figures": headline_rows(tables)}
    if pairs:
        named["Differences"] = difference_rows(pairs, tables[0])
    if evaluation.by:
        named[f"By {', '.join(evaluation.by)}"] = condition_rows_of(
            {table["system"]: table for table in tables}
        )
    texts = [
        as_latex(title, rows) if path.suffix == ".tex" else as_markdown(rows, title)
        for title, rows in named.items()
    ]
    write_text(path, "\n\n".join(texts) + "\n", TABLES[path.suffix])


@writes("path")
def _write_report(
    path: Path,
    title: str,
    trials: Path,
    paths: Mapping[str, Sequence[Path]],
    systems: Mapping[str, Sequence[Scores]],
    sets: Sequence[ScoreSet],
    found: Mapping[str, Any],
    tables: Sequence[dict[str, Any]],
    leaks: Sequence[str],
    evaluation: EvaluateOptions,
    target_of: sections.Target | None,
) -> None:
    from farvox.report import sections
    from farvox.report.page import write_report
    from farvox.report.results import provenance, write_results

    files = [file for each in paths.values() for file in each]
    scored = next(iter(systems.values()))[0]
    if evaluation.threshold is None:
        thresholds = [table["threshold"] for table in tables for _ in systems[table["system"]]]
    else:
        thresholds = [evaluation.threshold] * len(sets)
    pairs, shown = _pairs_of(found), []
    if pairs:
        shown.append(sections.difference_section(pairs, tables[0]))
    if evaluation.llr:
        shown.append(sections.reliability_section(sets))
    if evaluation.by:
        shown.append(sections.condition_section(evaluation.by, tables))
    ids = scored.trials.enrol, scored.trials.test
    shown.append(sections.hardest_section(sets, thresholds, *ids, target_of))
    if evaluation.intervals or evaluation.against:
        speakers = pipelines.evaluate.speakers_of(scored, evaluation)
        shown.append(sections.speaker_section(sets, thresholds, *speakers))
    counts = f"{tables[0]['num_target']:,} target, {tables[0]['num_nontarget']:,} non-target"
    shown.append(sections.provenance_section(provenance([trials], files), counts))
    notes = [f"{table['system']}: {seed_line(table)}" for table in tables if "seeds" in table]
    if sure := tables[0].get("intervals"):
        notes.append(
            f"{100 * sure['level']:.0f} % intervals: {sure['replicates']:,} resamples of"
            f" {sure['num_speakers']:,} speakers (seed {sure['seed']})."
        )
    write = partial(
        write_report,
        title=title,
        trial_lists={trials.name: sets},
        tables={trials.name: tables},
        notes=[*leaks, *notes],
        sections=shown,
        p_target=evaluation.p_target,
        ties=evaluation.ties,
    )
    if path.suffix in (".html", ".htm"):
        write(path)
        return
    with atomic_update(path, lambda name: False) as folder:
        write(folder)
        write_results(folder / "results.json", found, trials=[trials], scores=files)


def _named_paths(words: Sequence[str]) -> dict[str, list[Path]]:
    """The score files of each system: ``NAME=SCORES,SCORES``, or a path, whose name without suffix it is."""
    named: dict[str, list[Path]] = {}
    for word in words:
        name, is_named, files = word.partition("=")
        if not is_named or Path(word).exists():
            name, paths = Path(word).stem, [Path(word)]
        else:
            paths = [Path(each) for each in files.split(",") if each]
        if not name or not paths or name in named or len(set(paths)) < len(paths):
            raise UsageError(
                f"'{word}': give each system a name of its own and its scores, each once, as NAME=SCORES"
            )
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
    if aware := found.quality:
        sign = "-" if aware.offset < 0 else "+"
        to_stdout(f"quality      llr = {aware.scale:.4f} x score {sign} {abs(aware.offset):.4f}")
        for term in filter(lambda term: term.weight, aware.terms):
            to_stdout(f"                   {term}")
        far, frr = (
            rounded(aware.point.far, point.num_nontarget, "%"),
            rounded(aware.point.frr, point.num_target, "%"),
        )
        to_stdout(f"             llr {aware.point.threshold:.4f}: accepts {far}, rejects {frr}")
        if held := aware.held_out:
            counts = dict.fromkeys(("num_target", "num_nontarget"), held["trials"])
            (line,) = difference_lines(held, "plain", "quality-aware", counts)
            to_stdout(f"held out     {line}, {held['num_speakers']} speakers")
    for path in filter(None, (calibration.save, found.card)):
        to_stdout(f"written      {path}")


def fuse(
    trials: Trials,
    scores: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME=SCORES...")],
    fusion: FuseOptions = FuseOptions(),
    json: bool = False,
) -> None:
    """Fit one log-likelihood ratio on the scores of several systems; or turn other scores into them.

    The trials should be of speakers that no system was trained on and that nothing is reported on later.

    Args:
        trials: trial list, with labels unless --apply is given.
        scores: one file of lines "enrol test score" for each system, whose name --apply knows it by.
        fusion: where the fit goes.
        json: print what --save writes.
    """
    paths = _named_paths(scores)
    if several := next((name for name, files in paths.items() if len(files) > 1), None):
        raise UsageError(
            f"{several}: a system has one score file in a fusion; give each seed a name of its own"
        )
    systems = {name: Scores.read(trials, path) for name, (path,) in paths.items()}
    if fusion.apply:
        pipelines.fuse.apply_fusion(systems, fusion.apply, out=fusion.out, note=to_stderr)
        return
    found = pipelines.fuse.fuse(systems, fusion, note=to_stderr)
    if json:
        to_stdout(json_text(found.table))
        return
    table, sign = found.table, "-" if found.offset < 0 else "+"
    speakers = "" if found.num_speakers is None else f", {found.num_speakers:,} speakers"
    to_stdout(f"trials   {table['num_target']:,} target, {table['num_nontarget']:,} non-target{speakers}")
    terms = " + ".join(f"{scale:.4f} x {name}" for name, scale in found.scales.items())
    to_stdout(f"fusion   llr = {terms} {sign} {abs(found.offset):.4f} (nats)".replace("+ -", "- "))
    if fusion.save:
        to_stdout(f"written  {fusion.save}")


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
    """Refuse a plot that is no .png, .svg or .pdf, or would destroy another file, before any work."""
    if plot is None:
        return
    if plot.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {plot}: a plot is a .png, .svg or .pdf file")
    from farvox.report.figures import FIGURES

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
    """The spread over the seeds and the intervals of one system."""
    seeds = [seed_line(table)] if "seeds" in table else []
    return [*seeds, *(interval_lines(table, table["system"]) if "intervals" in table else [])]
