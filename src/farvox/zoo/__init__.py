"""Trained models: save, load, and read what other toolkits saved. Nothing that is read is ever executed."""

from farvox.zoo.card import Calibration, Card, Figure
from farvox.zoo.embedder import Embedder
from farvox.zoo.find import (
    average_models,
    copy_with_card,
    find_model,
    load_model,
    open_embedder,
    read_card,
)
from farvox.zoo.foreign import (
    LAYOUTS,
    export_checkpoint,
    export_embeddings,
    import_checkpoint,
    import_embeddings,
)
from farvox.zoo.model import Model, save_model
from farvox.zoo.pretrained import DEFAULT_MODEL, pull, zoo_models
from farvox.zoo.torch_backend import TorchEmbedder

__all__ = [
    "DEFAULT_MODEL",
    "LAYOUTS",
    "Calibration",
    "Card",
    "Embedder",
    "Figure",
    "Model",
    "TorchEmbedder",
    "average_models",
    "copy_with_card",
    "export_checkpoint",
    "export_embeddings",
    "find_model",
    "import_checkpoint",
    "import_embeddings",
    "load_model",
    "open_embedder",
    "pull",
    "read_card",
    "save_model",
    "zoo_models",
]
