"""The verbs about models and their embeddings: models, pull, import, export, average, extract, cluster."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg
from tyro.extras import literal_type_from_choices

from farvox.audio.conditioning import Band
from farvox.cli.flags import FROM_STORE, TO_STORE, EngineOptions, ShardFlag, work_of
from farvox.clustering import ClusterOptions
from farvox.errors import MissingExtraError, UsageError
from farvox.manifest import write_manifest
from farvox.options import AtLeast
from farvox.progress import to_stderr, to_stdout
from farvox.report.text import plain_span, rounded
from farvox.zoo.embedder import Backend, Precision
from farvox.zoo.foreign import LAYOUTS

if TYPE_CHECKING:
    from farvox.zoo import Card


EMBEDDINGS, WAVLM = "ffsvc-embeddings", "wavlm"

if TYPE_CHECKING:
    Arch = str
else:
    Arch = literal_type_from_choices([*LAYOUTS, WAVLM, EMBEDDINGS])


def models(
    model: Annotated[Positional[str | None], arg(metavar="[MODEL]")] = None,
    renew_manifest: FlagCreatePairsOff[bool] = False,
) -> None:
    """List the pretrained models, the network architectures and the heads that train them; or print a card.

    Args:
        model: print the card of this one: a name of the zoo, a model folder, a run dir or an .onnx file.
        renew_manifest: first enter the files of the MODEL, a folder, in its manifest.json as they are now,
            after a change by hand, or where it has none; refused where they cannot be loaded.
    """
    from farvox.zoo import read_card, zoo_models
    from farvox.zoo.find import is_zoo_name, locate_model
    from farvox.zoo.model import load_all, require_torch
    from farvox.zoo.pretrained import is_pulled

    if renew_manifest:
        if model is None or is_zoo_name(model):
            raise UsageError("--renew-manifest takes a folder; 'farvox pull NAME' renews a model of the zoo")
        write_manifest(locate_model(model), load_all)
    if model is not None:
        to_stdout(_card(read_card(model)))
        return
    to_stdout("pretrained models (farvox pull NAME; any command takes such a name as MODEL):")
    for name, entry in zoo_models().items():
        here = "here" if is_pulled(entry) else f"{entry.bytes / 1e6:.0f} MB"
        to_stdout(f"  {name:<17} {here:>12}  {entry.card.title}")
    try:
        require_torch()
    except MissingExtraError as error:
        to_stdout(f"\nnetworks: {error}")
        return
    import torch

    from farvox.models.options import HEADS, MODELS
    from farvox.models.registry import build_model
    from farvox.options import summary_of

    to_stdout("\nnetworks, with the number of parameters at default sizes:")
    for name, options in MODELS.items():
        summary = summary_of(options)
        try:
            with torch.device("meta"):
                network = build_model(name)
            size = f"{sum(parameter.numel() for parameter in network.parameters()):,}"
        except MissingExtraError as error:
            size, summary = "", f"{summary}; {error}"
        to_stdout(f"  {name:<17} {size:>12}  {summary}")
    to_stdout("\nheads:")
    for name, head_options in HEADS.items():
        to_stdout(f"  {name:<17} {summary_of(head_options)}")


def pull(
    model: Annotated[Positional[str], arg(metavar="NAME|ADDRESS")],
    out: Annotated[Path | None, arg(metavar="OUT")] = None,
    arch: str | None = None,
    sha256: str = "",
    frontend: str | None = None,
    max_gb: float = 4.0,
) -> None:
    """Fetch a pretrained model, check it, and print the folder it lies in; once is enough.

    Any command pulls a model of the zoo by itself when it is first named. A checkpoint that the zoo does not
    know is fetched by its address: huggingface:OWNER/NAME[@REVISION]:FILE, or modelscope: likewise.

    Args:
        model: a name of the zoo ("farvox models" lists them), or an address.
        out: for an address: the model folder to write.
        arch: for an address: how the checkpoint is laid out, see "farvox import".
        sha256: for an address: what the file must hash to.
        frontend: for an address: see "farvox import".
        max_gb: for an address: the largest file that is fetched, in GB.
    """
    from farvox.zoo.pretrained import is_address, pull, pull_address

    if not 0 < max_gb < 1e6:
        raise UsageError(f"--max-gb {max_gb}: it is a number of GB above 0")
    if is_address(model):
        if out is None or arch is None:
            raise UsageError("an address needs --out FOLDER and --arch NAME")
        found = pull_address(model, out, arch, sha256, frontend, max_gb=max_gb)
        if not sha256:
            to_stderr(f"not pinned; next time say --sha256 {found}")
        to_stdout(str(out))
        return
    if out or arch or sha256 or frontend:
        raise UsageError(
            "--out, --arch, --sha256 and --frontend go with an address, not with a name of the zoo"
        )
    to_stdout(str(pull(model, repair=True)))


def import_checkpoint(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    arch: Arch,
    frontend: str | None = None,
    spk2utt: Path | None = None,
    epoch: int | None = None,
) -> None:
    """Convert what another toolkit saved; nothing in the file is ever executed.

    Args:
        checkpoint: of 3D-Speaker (campplus_cn_en_common.pt), WeSpeaker (avg_model.pt), SpeechBrain
            (embedding_model.ckpt) or the FFSVC2022 baseline (model_37.pkl, or a test_37.npy of embeddings);
            or a .safetensors of the same weights by the same names; or Microsoft's WavLM-Large.pt.
        out: the folder to write: a model (config.json, model.safetensors and the baseline's classifier if
            there is one), a set of embeddings, or a WavLM for recipes (--paths.wavlm FOLDER).
        arch: what the file holds.
        frontend: the toolkit whose features the model was trained on (3dspeaker, wespeaker, speechbrain),
            where the weights do not tell: SpeechBrain's and 3D-Speaker's ECAPA-TDNN have the same ones.
        spk2utt: of the data dir that the baseline's model was trained on. It names the classes of its
            classifier, which init.classifier = "keep" and "extend" need.
        epoch: the last one that it was trained for (default: the number in model_37.pkl).
    """
    from farvox.zoo import import_checkpoint, import_embeddings
    from farvox.zoo.foreign import import_wavlm

    if arch in (EMBEDDINGS, WAVLM) and (spk2utt is not None or epoch is not None or frontend is not None):
        raise UsageError(
            f"--frontend, --spk2utt and --epoch are of a model; leave them out with --arch {arch}"
        )
    if arch == WAVLM:
        is_normed = import_wavlm(checkpoint, out).get("normalize", False)
        mean = "utterance" if is_normed else "none"
        to_stdout(f'{out}: a WavLM for a recipe (--paths.wavlm), trained with features.mean = "{mean}"')
        return
    if arch == EMBEDDINGS:
        embeddings = import_embeddings(checkpoint, out)
        to_stdout(
            f"{out}: {len(embeddings.utt_ids):,} embeddings of {embeddings.embeddings.shape[1]} numbers"
        )
        return
    model = import_checkpoint(checkpoint, out, arch, frontend=frontend, spk2utt=spk2utt, epoch=epoch)
    arch = str(model.config["imported"]["arch"])
    num_parameters = sum(parameter.numel() for parameter in model.network.parameters())
    to_stdout(f"{out}: {arch}, {num_parameters:,} parameters, embeddings of {model.embedding_dim} numbers")


def export(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    to: Literal["onnx", "ffsvc"] = "onnx",
) -> None:
    """Write a model as one ONNX file, which runs without torch; or as the FFSVC2022 baseline's code loads it.

    The ONNX file is only written if onnxruntime computes from it what torch computes. It carries the model's
    card, and every command that takes a MODEL takes it.

    Args:
        model: a model folder, a run dir (its last epoch), RUN_DIR@37 or a name of the zoo; of embeddings
            their folder.
        out: the file to write: .onnx; for the baseline .pkl (model_37.pkl) or, of embeddings, .npy.
        to: the form.
    """
    if to == "ffsvc":
        from farvox.zoo import export_checkpoint, export_embeddings, find_model

        if out.suffix == ".npy":
            from farvox.datadir.embeddings import EmbeddingSet

            export_embeddings(EmbeddingSet.load(model), out)
        else:
            export_checkpoint(find_model(model), out)
        to_stdout(str(out))
        return
    from farvox.zoo import find_model, load_model, read_card
    from farvox.zoo.model import require_torch

    require_torch()
    from farvox.zoo.export import export_onnx, refuse_name, require_export
    from farvox.zoo.onnx_backend import EXPORTED

    require_export()
    refuse_name(out, EXPORTED)
    folder = find_model(model)
    report = export_onnx(load_model(folder), read_card(model), out)
    worst = report.worst
    to_stdout(
        f"{out}: {report.num_bytes / 1e6:.1f} MB, opset {report.opset}; waveforms from {report.min_samples} "
        f"samples at {report.sample_rate} Hz\n"
        f"onnxruntime against torch, {len(report.parities)} signals: embeddings differ by "
        f"{worst.absolute:.1e} at most, {worst.relative:.1e} of an embedding's largest number; "
        f"1 - cosine {worst.angular:.1e}"
    )


def replay(
    folder: Annotated[Positional[Path], arg(metavar="RUN_DIR/replay/STEP")],
    device: str = "auto",
    save_audio: Annotated[Path | None, arg(metavar="DIR")] = None,
) -> int:
    """Run a training step that was not finite again: the same batch, with the weights of before it.

    Prints a line on each example by itself, then loss and gradient norm of the batch; nothing is updated. The
    status is 1 if they are not finite again, and 0 if they are finite now.

    Args:
        folder: the folder that the training's message names.
        device: auto, cpu, cuda or mps.
        save_audio: write the chunks as the network gets them there, POSITION.wav.
    """
    from farvox.pipelines.train import replay as run_again

    found = run_again(folder, device=device, save_audio=save_audio)
    for finding in found.findings:
        to_stdout(str(finding))
    figures = f"loss {found.loss:.4g}, gradient norm {found.grad_norm:.4g}"
    again = "finite now" if found.is_finite else "not finite again"
    to_stdout(f"epoch {found.epoch}, step {found.step + 1}: {figures}: {again}")
    return 0 if found.is_finite else 1


def average(
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL...")],
    weights: tuple[float, ...] = (),
) -> None:
    """Average the weights of models of one architecture: the last epochs of a run, or several fine-tunings.

    Args:
        out: the model folder to write.
        models: two or more; RUN_DIR@30..37 stands for the epochs 30 to 37 of a run.
        weights: share of each, in any unit (default: all alike).
    """
    from farvox.zoo import average_models

    to_stdout(f"{out}: the average of {average_models(out, models, weights)} models")


def _card(card: Card) -> str:
    """A card in lines."""
    rows = {
        "model": f"{card.name}: {card.title}" if card.title else card.name,
        "licence": card.licence,
        "published by": card.publisher,
        "training data": card.training_data,
        "features": card.features,
    }
    if card.threshold is not None:
        rows["threshold"] = f"{card.threshold:g}; {card.threshold_note}"
    if card.threshold_interval:
        of = f"95 % interval, {card.threshold_speakers:,} speakers"
        rows["  within"] = f"{plain_span(card.threshold_interval)} ({of})"
    if card.calibration:
        fitted = card.calibration
        rows["calibration"] = f"llr = {fitted.scale:g} x score {fitted.offset:+g}; {fitted.note}"
        rows["  quality"] = f"\n{'':<15}".join(str(x) for x in fitted.terms if x.weight)
        if fitted.threshold is not None:
            rows["  threshold"] = f"llr {fitted.threshold:.4f}, which decides"
    if card.sequential:
        test = card.sequential
        errors = f"{100 * test.false_acceptance:g} and {100 * test.false_rejection:g} %"
        rows["listen"] = f"decides within {len(test.same)} s of speech, errors up to {errors}; {test.note}"
    lines = [f"{key:<14} {value}" for key, value in rows.items() if value]
    for figure in card.figures:
        trials = figure.num_trials
        measured = f"EER {rounded(figure.eer, trials, '%')}, minDCF {rounded(figure.min_dcf, trials)}"
        lines += [
            f"{'measured':<14} {measured}, {trials:,} trials: {figure.data}",
            f"{'':<14} $ {figure.command}",
        ]
    return "\n".join(lines) or "this model has no card"


def cluster(
    embeddings: Annotated[Positional[Path], arg(metavar="EMBEDDINGS"), FROM_STORE],
    out: Annotated[Positional[Path], arg(metavar="OUT_DIR")],
    clustering: ClusterOptions = ClusterOptions(),
    data: Annotated[Path | None, arg(metavar="DIR")] = None,
    truth: Annotated[Path | None, arg(metavar="UTT2SPK")] = None,
    seed: int = 0,
    plot: Annotated[Path | None, arg(metavar="FILE.png|.svg|.pdf")] = None,
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
    from farvox.cli.score import refuse_plot

    refuse_plot(plot, (truth,))
    from farvox.pipelines.cluster import cluster as run_clustering
    from farvox.progress import to_stderr
    from farvox.report.text import cluster_lines

    facts = run_clustering(
        embeddings, out, clustering, data=data, truth=truth, seed=seed, plot=plot, note=to_stderr
    )
    to_stdout("\n".join(cluster_lines(facts)))


def extract(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    data_dir: Annotated[Positional[Path], arg(metavar="DIR"), FROM_STORE],
    out: Annotated[Positional[Path], arg(metavar="OUT"), TO_STORE],
    device: str = "auto",
    threads: int = 0,
    quality: FlagCreatePairsOff[bool] = False,
    skip_bad: FlagCreatePairsOff[bool] = False,
    remote: FlagCreatePairsOff[bool] = False,
    channel: Annotated[str, arg(metavar="N|most-speech")] = "0",
    band: Band = "full",
    precision: Precision = "fp32",
    backend: Backend = "auto",
    shard: ShardFlag = None,
    place: EngineOptions = EngineOptions(),
    part_rows: Annotated[int | None, AtLeast(1)] = None,
) -> int:
    """Turn a data dir into embeddings: OUT/{embeddings.npy,utt_ids.txt,meta.json}.

    Args:
        model: a model folder, a run dir (its last epoch), RUN_DIR@37, a name of the zoo or an .onnx file.
        data_dir: a data dir; only its wav.scp is needed. It may lie in an object store: s3://bucket/data.
        out: folder to write, also of an object store; it appears whole or not at all. An extraction that was
            killed goes on where it stopped: what is done is kept in OUT.unfinished until all is.
        device: auto, cpu, cuda or mps.
        threads: utterances read and embedded at a time; 0: one per core.
        quality: also measure each recording: its signal-to-noise ratio (OUT/utt2quality), which "farvox score
            --channels best" and "weighted" need, and what "farvox calibrate --quality" needs
            (OUT/utt2measures).
        skip_bad: leave out utterances that cannot be embedded, and list them in OUT/rejected.tsv; by default
            OUT is not written then, but what is done is kept.
        remote: reach audio on other machines (URLs in DIR/wav.scp), which is refused otherwise.
        channel: the one that is taken of recordings with several, from 0, or the one with the most speech.
        band: narrow: leave nothing above 4 kHz, as recordings by telephone have no more. Such embeddings are
            compared with one another only.
        precision: what the network multiplies in: fp32, or bf16, which torch and openvino have.
        backend: torch, or onnxruntime (onnx) or OpenVINO, which compute from a graph of the model that is
            made once; auto: onnxruntime in fp32 on a CPU, where it is installed, else torch.
        shard: do only shard I of N, I from 1 to N; "farvox join OUT" joins them when all are done.
        place: where it is done.
        part_rows: write OUT/part-00000.npy and so on, of about so many rows each (a multiple of 1024), in the
            place of one file.
    """
    from farvox.datadir.kaldi import DataDir
    from farvox.pipelines.extract import extract as run_extraction
    from farvox.zoo import open_embedder

    if channel != "most-speech" and not channel.isdecimal():
        raise UsageError(f"--channel {channel}: it is most-speech or a number from 0")
    if threads < 0:
        raise UsageError(f"threads = {threads}; it must be at least 0")
    taken: int | Literal["most-speech"] = int(channel) if channel.isdecimal() else "most-speech"
    embedder = open_embedder(model, device, precision=precision, backend=backend, band=band)
    opened = DataDir.open(data_dir, remote=remote)
    run = partial(run_extraction, threads=threads, quality=quality, skip_bad=skip_bad, note=to_stderr)
    with work_of(out, shard, place):
        run(embedder, opened, channel=taken, out=out, part_rows=part_rows)
    return 0
