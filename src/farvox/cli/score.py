"""The verbs from recordings to decisions: extract, cluster, score, evaluate, calibrate, submit."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from farvox import pipelines
from farvox.clustering import ClusterOptions
from farvox.errors import UsageError
from farvox.pipelines.calibrate import CalibrateOptions
from farvox.pipelines.evaluate import EvaluateOptions, as_table
from farvox.pipelines.score import ScoreOptions, Scores
from farvox.progress import to_stderr
from farvox.report.page import aligned, condition_rows, interval_lines
from farvox.zoo.embedder import Backend, Precision

if TYPE_CHECKING:
    from farvox.datadir.kaldi import DataDir
    from farvox.zoo import Embedder


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
        trials: trial list of any form; the labels, if any, are not looked at.
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
    refuse_plot_name(plot)
    scored = Scores.read(trials, scores)
    table = as_table(pipelines.evaluate.evaluate(scored, evaluation), evaluation)
    print(dumps(table, indent=2) if json else _as_text(table, scored.trials.form))
    if not (plot or report):
        return
    from farvox.report.page import write_report
    from farvox.report.plots import ScoreSet, det_figure, save_figure

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


def calibrate(trials: Trials, scores: ScoreFile, calibration: CalibrateOptions = CalibrateOptions()) -> None:
    """Choose a threshold and fit probabilities on scored trials, and write both into a model's card.

    The trials should be of speakers that the model was not trained on and that nothing is reported on later.

    Args:
        trials: trial list with labels.
        scores: lines "enrol test score", as "farvox score" writes them.
        calibration: the threshold to choose, and the model that it is for.
    """
    found = pipelines.calibrate.calibrate(Scores.read(trials, scores), calibration)
    point, scale, sign = found.point, found.scale, "-" if found.offset < 0 else "+"
    print(f"trials       {point.num_target:,} target, {point.num_nontarget:,} non-target")
    print(f"threshold    {point.threshold:.4f}: accepts {point.far:.3%} of the non-target trials")
    print(f"             and rejects {point.frr:.3%} of the target trials")
    print(f"calibration  llr = {scale:.4f} x score {sign} {abs(found.offset):.4f} (nats)")
    if found.card:
        print(f"written      {found.card}")


def submit(
    trials: Trials, scores: ScoreFile, out: Annotated[Positional[Path], arg(metavar="OUT.zip|.txt")]
) -> None:
    """Write a submission: one score a line, in trial order, after checking that every trial has one.

    Args:
        trials: the trial list that the challenge gave out.
        scores: lines "enrol test score" for exactly these trials, in any order.
        out: a .zip with scores.txt in it, as FFSVC2022 takes it, or a .txt, as the HI-MIA homework does.
    """
    from farvox.score.scores import check_submission_path, write_submission

    check_submission_path(out)
    scored = Scores.read(trials, scores)
    write_submission(out, scored.trials, scored.values)
    to_stderr(f"{len(scored.trials):,} scores in the order of {trials}: {out}")


def refuse_plot_name(plot: Path | None) -> None:
    """Refuse a plot that is neither a .png nor an .svg before any work is done."""
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: a plot is a .png or an .svg file")


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


def cluster(
    embeddings: Annotated[Positional[Path], arg(metavar="EMBEDDINGS")],
    out: Annotated[Positional[Path], arg(metavar="OUT_DIR")],
    clustering: ClusterOptions = ClusterOptions(),
    data: Annotated[Path | None, arg(metavar="DIR")] = None,
    truth: Annotated[Path | None, arg(metavar="UTT2SPK")] = None,
    seed: int = 0,
    plot: Annotated[Path | None, arg(metavar="FILE.png|.svg")] = None,
) -> None:
    """Cluster embeddings and write pseudo-labels: OUT_DIR/{utt2spk,utt2cluster,clusters.tsv,clusters.json}.

    With --data, OUT_DIR is a whole data dir, ready to train on. A sweep that was interrupted goes on with the
    next number of clusters; OUT_DIR.sweep holds what is known until OUT_DIR is there.

    Args:
        embeddings: a folder made by "farvox extract".
        out: the folder to write.
        clustering: numbers of clusters, method, and the labels to keep.
        data: the data dir that was extracted: names the audio of the utterances.
        truth: the true speakers: NMI and purity are printed.
        seed: of everything drawn.
        plot: also draw the curve to this file.
    """
    refuse_plot_name(plot)
    from farvox.pipelines.cluster import cluster as run_clustering
    from farvox.progress import to_stderr
    from farvox.report.page import cluster_lines

    facts = run_clustering(
        embeddings, out, clustering, data=data, truth=truth, seed=seed, plot=plot, note=to_stderr
    )
    print("\n".join(cluster_lines(facts)))


def extract(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    data_dir: Annotated[Positional[Path], arg(metavar="DIR")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    device: str = "auto",
    threads: int = 0,
    quality: FlagCreatePairsOff[bool] = False,
    precision: Precision = "fp32",
    backend: Backend = "auto",
) -> int:
    """Turn a data dir into embeddings: OUT/{embeddings.npy,utt_ids.txt,meta.json}.

    Args:
        model: a model folder, a run dir (its last epoch), RUN_DIR@37, a name of the zoo or an .onnx file.
        data_dir: a data dir; only its wav.scp is needed.
        out: folder to write; it appears whole or not at all. An extraction that was killed goes on where it
            stopped: what is done is kept in OUT.unfinished until all is.
        device: auto, cpu, cuda or mps.
        threads: utterances read and embedded at a time; 0: one per core.
        quality: also estimate each recording's signal-to-noise ratio (OUT/utt2quality), which
            "farvox score --channels best" and "weighted" need.
        precision: what the network multiplies in: fp32, or bf16, which torch and openvino have.
        backend: torch, or onnxruntime (onnx) or OpenVINO, which compute from a graph of the model that is
            made once; auto: onnxruntime in fp32 on a CPU, where it is installed, else torch.
    """
    from farvox.datadir.kaldi import DataDir
    from farvox.zoo import open_embedder

    embedder = open_embedder(model, device, precision=precision, backend=backend)
    extract_to(embedder, DataDir.open(data_dir), out, threads=threads, quality=quality)
    return 0


def extract_to(
    embedder: Embedder, data_dir: DataDir, out: Path, *, threads: int = 0, quality: bool = False
) -> None:
    """Extract with visible progress and write ``out``."""
    from farvox.pipelines.extract import extract as run_extraction
    from farvox.progress import to_stderr

    run_extraction(embedder, data_dir, threads=threads, quality=quality, out=out, note=to_stderr)
