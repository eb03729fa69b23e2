"""A model folder, run by torch.

For evaluation the batch norms of two-dimensional convolutions are folded into their weights. In bf16 the
network (never the front-end) multiplies in bfloat16 and adds in float32, with channels innermost.

Shape suffixes: T sample, E embedding.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from farvox.errors import ModelError, UsageError
from farvox.machine import has_bf16
from farvox.zoo.card import Card
from farvox.zoo.embedder import PRECISIONS, Embedding, Wave, pool_of, refuse_long, refuse_short, repr_of
from farvox.zoo.model import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from farvox.models.base import EmbeddingNetwork


class TorchEmbedder:
    """A `Model` as an `Embedder`; it stays as it is, but for being put into evaluation mode.

    Raises:
        ModelError: the device has no bf16, or the precision is unknown.
    """

    __repr__ = repr_of

    def __init__(self, model: Model, card: Card | None = None, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise ModelError(f"precision '{precision}' is unknown: {' or '.join(PRECISIONS)}")
        if precision == "bf16" and not has_bf16(model.device):
            which = "this CPU" if model.device.type == "cpu" else str(model.device)
            raise ModelError(f"{which} has no bf16, and imitating it is slow: leave --precision out")
        self._model = model
        self.precision: str = precision
        self._network = _for_evaluation(model.network, precision)
        self.card: Card = card or Card()
        self.config: dict[str, Any] = model.config
        self.sample_rate: int = model.frontend_config.sample_rate
        self.min_samples: int = model.min_samples
        self.embedding_dim: int = model.embedding_dim

    def __getstate__(self) -> dict[str, Any]:
        """All of it; only where it is on a CPU can the workers of a cluster have the same."""
        if self._model.device.type != "cpu":
            raise UsageError("--engine ray computes on CPUs: add --device cpu")
        return vars(self)

    @property
    def backend(self) -> str:
        """Torch with its version, and the device."""
        import torch

        return f"torch {torch.__version__} on {self._model.device}"

    @cached_property
    def digest(self) -> str:
        """See `Embedder`."""
        return self.card.conditioning.digest(model_digest(self._model))

    def embed(self, wav_T: Wave) -> Embedding:
        """See `Embedder`."""
        import torch

        wav_T = self.card.conditioning.apply(wav_T, self.sample_rate)
        refuse_short(len(wav_T), self.min_samples)
        device = self._model.device
        if device.type == "cpu":
            refuse_long(self, len(wav_T))
        with torch.no_grad():
            feats_BFM = self._model.frontend(torch.from_numpy(wav_T)[None].to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                emb_BE: Tensor = self._network(feats_BFM)
        emb_E: Embedding = emb_BE[0].float().cpu().numpy()
        return emb_E

    @contextmanager
    def side_by_side(self, workers: int = 0) -> Iterator[ThreadPoolExecutor]:
        """See `Embedder`."""
        import torch

        own_threads = torch.get_num_threads()
        try:
            with pool_of(workers or own_threads, torch.set_num_threads, 1) as pool:
                yield pool
        finally:
            torch.set_num_threads(own_threads)


def _for_evaluation(network: EmbeddingNetwork, precision: str) -> nn.Module:
    """The network, or a faster copy with batch norms folded into weights."""
    from torch import nn

    from farvox.models.resnet import fold_batch_norms

    network.eval()
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    fold_batch_norms(network)
    if precision == "bf16":
        network.use_channels_last()
    return network


def model_digest(model: Model) -> str:
    """SHA-256 of front-end, architecture and weights, the same wherever and however they are stored."""
    described = json.dumps([model.config["frontend"], model.config["model"]], sort_keys=True)
    digest = hashlib.sha256(described.encode())
    for name, tensor in sorted(model.network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
