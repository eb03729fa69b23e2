"""Trained models: save, load, and read what other toolkits saved. Nothing that is read is ever executed."""

from farvox.manifest import read_weights
from farvox.zoo.card import Calibration, Card, Figure
from farvox.zoo.embedder import Embedder
from farvox.zoo.find import (
    average_models,
    copy_with_card,
    find_model,
    is_zoo_name,
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
    import_wavlm,
)
from farvox.zoo.model import (
    Model,
    fill,
    load_all,
    pick_device,
    read_config,
    require_torch,
    save_model,
    write_weights,
)
from farvox.zoo.pretrained import DEFAULT_MODEL, is_address, is_pulled, pull, pull_address, zoo_models
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
    "fill",
    "find_model",
    "import_checkpoint",
    "import_embeddings",
    "import_wavlm",
    "is_address",
    "is_pulled",
    "is_zoo_name",
    "load_all",
    "load_model",
    "open_embedder",
    "pick_device",
    "pull",
    "pull_address",
    "read_card",
    "read_config",
    "read_weights",
    "require_torch",
    "save_model",
    "write_weights",
    "zoo_models",
]
