"""A model folder, run by torch.

Shape suffixes: T sample, E embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property

from farvox.zoo.card import Card
from farvox.zoo.embedder import Embedding, Wave, refuse_short
from farvox.zoo.model import Model


class TorchEmbedder:
    """A `Model` as an `Embedder`."""

    def __init__(self, model: Model, card: Card | None = None) -> None:
        self._model = model
        self.card = card or Card()
        self.config = model.config
        self.sample_rate = model.frontend_config.sample_rate
        self.min_samples = model.min_samples
        self.embedding_dim = model.embedding_dim

    @property
    def backend(self) -> str:
        """Torch with its version, and the device."""
        import torch

        return f"torch {torch.__version__} on {self._model.device}"

    @cached_property
    def digest(self) -> str:
        """See `Embedder`."""
        return model_digest(self._model)

    def embed(self, wav_T: Wave) -> Embedding:
        """See `Embedder`."""
        import torch

        refuse_short(len(wav_T), self.min_samples)
        emb_E: Embedding = self._model.embed(torch.from_numpy(wav_T)[None])[0].float().cpu().numpy()
        return emb_E

    @contextmanager
    def side_by_side(self, workers: int = 0) -> Iterator[ThreadPoolExecutor]:
        """See `Embedder`."""
        import torch

        own_threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(workers or own_threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(own_threads)


def model_digest(model: Model) -> str:
    """SHA-256 of front-end, architecture and weights, the same wherever and however they are stored."""
    digest = hashlib.sha256(
        json.dumps([model.config["frontend"], model.config["model"]], sort_keys=True).encode()
    )
    for name, tensor in sorted(model.network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
