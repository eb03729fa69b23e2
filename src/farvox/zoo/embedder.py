"""What turns a waveform into an embedding, whatever computes it: the one thing that extraction and the
verifier know of a model.

Shape suffixes: T sample, E embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from farvox.errors import AudioError
from farvox.zoo.card import Card
from farvox.zoo.find import find_model
from farvox.zoo.model import Model, load_folder, require_torch
from farvox.zoo.table import zoo_models

Wave = npt.NDArray[np.float32]
Embedding = npt.NDArray[np.float32]
ONNX_SUFFIX = ".onnx"


class Embedder(Protocol):
    """A model in evaluation mode: one waveform in, one embedding out."""

    @property
    def backend(self) -> str:
        """What computes: ``torch`` or ``onnxruntime``, with its version."""

    @property
    def config(self) -> dict[str, Any]:
        """The content of the model's ``config.json``."""

    @property
    def card(self) -> Card:
        """The model card; empty where there is none."""

    @property
    def digest(self) -> str:
        """SHA-256 of front-end, architecture and weights: embeddings of equal digests can be compared."""

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""

    @property
    def min_samples(self) -> int:
        """Samples in the shortest waveform that can be embedded."""

    @property
    def embedding_dim(self) -> int:
        """Numbers per embedding."""

    def embed(self, wav_T: Wave) -> Embedding:
        """Embed a waveform.

        Args:
            wav_T: float32 samples in [-1, 1] at `sample_rate`.

        Returns:
            emb_E: float32, as the network gives it: not length-normalised.

        Raises:
            AudioError: it is shorter than `min_samples`.
        """

    def side_by_side(self, workers: int = 0) -> AbstractContextManager[ThreadPoolExecutor]:
        """A pool of ``workers`` threads, 0 for one a core, in each of which `embed` takes one CPU thread."""


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


def open_embedder(spec: str | Path, device: str = "cpu") -> Embedder:
    """Open any MODEL: a model folder, a run dir, ``RUN_DIR@37``, a name of the zoo, or an exported ``.onnx``.

    Args:
        spec: the model. An ``.onnx`` file needs onnxruntime, everything else torch.
        device: where torch computes; onnxruntime computes on the CPU.

    Raises:
        ModelError: there is no such model, or its description is not usable.
        CheckpointError: the weights are damaged or do not fit the network.
        MissingExtraError: torch or onnxruntime is not installed.
    """
    if Path(spec).suffix == ONNX_SUFFIX:
        from farvox.zoo.onnx import OnnxEmbedder

        return OnnxEmbedder(spec)
    require_torch(spec)
    folder = find_model(spec)
    return TorchEmbedder(load_folder(folder, device), Card.load(folder))


def read_card(spec: str | Path) -> Card:
    """The card of any MODEL, see `open_embedder`; empty where it has none. Nothing is fetched.

    Raises:
        ModelError: there is no such model, or its card is damaged.
    """
    if Path(spec).suffix == ONNX_SUFFIX:
        return open_embedder(spec).card
    if not Path(spec).exists() and str(spec) in zoo_models():
        return zoo_models()[str(spec)].card
    return Card.load(find_model(spec))


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


def refuse_short(num_samples: int, min_samples: int) -> None:
    """Refuse a waveform that a network cannot see as a whole.

    Raises:
        AudioError: there are fewer than ``min_samples``.
    """
    if num_samples < min_samples:
        raise AudioError(f"{num_samples} samples are too few: the model needs at least {min_samples}")
