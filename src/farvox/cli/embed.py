"""The verbs from recordings to pseudo-speakers: extract and cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from farvox.cli.score import refuse_plot_name
from farvox.clustering import ClusterOptions
from farvox.zoo.embedder import Backend, Precision

if TYPE_CHECKING:
    from farvox.datadir.kaldi import DataDir
    from farvox.zoo import Embedder


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
    from farvox.report.text import cluster_lines

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
