"""``farvox export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def export(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    out: Annotated[Positional[Path], arg(metavar="OUT.onnx")],
) -> None:
    """Write a model as one ONNX file, which runs without torch: waveform in, embedding out.

    The file is only written if onnxruntime computes from it what torch computes. It carries the model's card,
    and every command that takes a MODEL takes it.

    Args:
        model: a model folder, a run dir (its last epoch), RUN_DIR@37 or a name of the zoo.
        out: the file to write; its name ends in .onnx.
    """
    from farvox.zoo import Card, find_model, load_model, require_torch

    require_torch()
    from farvox.zoo.export import export_onnx, refuse_name, require_export

    require_export()
    refuse_name(out)
    folder = find_model(model)
    report = export_onnx(load_model(folder), Card.load(folder), out)
    worst = report.worst
    print(
        f"{out}: {report.num_bytes / 1e6:.1f} MB, opset {report.opset}; waveforms from {report.min_samples} "
        f"samples at {report.sample_rate} Hz\n"
        f"onnxruntime against torch, {len(report.parities)} signals: embeddings differ by "
        f"{worst.absolute:.1e} at most, {worst.relative:.1e} of an embedding's largest number; "
        f"1 - cosine {worst.angular:.1e}"
    )
