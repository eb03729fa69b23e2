"""``farvox extract``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

if TYPE_CHECKING:
    from farvox.datadir.kaldi import DataDir
    from farvox.zoo import Embedder


def extract(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    data_dir: Annotated[Positional[Path], arg(metavar="DIR")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    device: str = "auto",
    threads: int = 0,
    quality: FlagCreatePairsOff[bool] = False,
    precision: Literal["fp32", "bf16"] = "fp32",
    backend: Literal["auto", "torch", "onnx", "openvino"] = "auto",
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
        backend: what computes: torch (auto), or for an .onnx file onnx (auto) or openvino.
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
