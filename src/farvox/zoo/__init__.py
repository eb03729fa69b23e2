"""Trained models: save, load, and read what other toolkits saved. Nothing that is read is ever executed."""

from farvox.zoo.card import Calibration, Card, Figure
from farvox.zoo.embedder import Embedder, TorchEmbedder, open_embedder
from farvox.zoo.foreign import import_checkpoint, import_embeddings
from farvox.zoo.layouts import LAYOUTS
from farvox.zoo.model import (
    Model,
    fill,
    find_model,
    load_model,
    pick_device,
    read_config,
    read_weights,
    require_torch,
    save_model,
    write_weights,
)

__all__ = [
    "LAYOUTS",
    "Calibration",
    "Card",
    "Embedder",
    "Figure",
    "Model",
    "TorchEmbedder",
    "fill",
    "find_model",
    "import_checkpoint",
    "import_embeddings",
    "load_model",
    "open_embedder",
    "pick_device",
    "read_config",
    "read_weights",
    "require_torch",
    "save_model",
    "write_weights",
]
