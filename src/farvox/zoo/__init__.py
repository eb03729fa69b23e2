"""Trained models: save, load, and read what other toolkits saved. Nothing that is read is ever executed."""

from farvox.zoo.foreign import FOREIGN_CHECKPOINTS, import_checkpoint, import_embeddings
from farvox.zoo.model import (
    Model,
    fill,
    find_model,
    load_model,
    read_config,
    read_weights,
    require_torch,
    save_model,
    write_weights,
)

__all__ = [
    "FOREIGN_CHECKPOINTS",
    "Model",
    "fill",
    "find_model",
    "import_checkpoint",
    "import_embeddings",
    "load_model",
    "read_config",
    "read_weights",
    "require_torch",
    "save_model",
    "write_weights",
]
