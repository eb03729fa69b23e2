"""An exported model (``farvox export``), run by onnxruntime: what a device needs that has no torch."""

from __future__ import annotations

from pathlib import Path

from farvox.errors import ModelError


class OnnxEmbedder:
    """An ``.onnx`` file as an `farvox.zoo.embedder.Embedder`."""

    def __init__(self, path: str | Path) -> None:
        raise ModelError(f"{path}: cannot be run yet")
