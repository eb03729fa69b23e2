"""Trained models: save, load, and read what other toolkits saved. Nothing that is read is ever executed."""

from farvox.zoo.foreign import FOREIGN_CHECKPOINTS, import_checkpoint, import_embeddings
from farvox.zoo.model import Model, find_model, load_model, require_torch, save_model

__all__ = [
    "FOREIGN_CHECKPOINTS",
    "Model",
    "find_model",
    "import_checkpoint",
    "import_embeddings",
    "load_model",
    "require_torch",
    "save_model",
]
