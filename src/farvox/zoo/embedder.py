"""Waveform in, embedding out: the one thing that extraction and the verifier know of a model.

There are three, by what computes: `torch_backend`, `onnx_backend` and `openvino_backend`.

Shape suffixes: T sample, E embedding.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from farvox.errors import AudioError
from farvox.zoo.card import Card

Wave = npt.NDArray[np.float32]
Embedding = npt.NDArray[np.float32]
PRECISIONS = ("fp32", "bf16")


class Embedder(Protocol):
    """A model in evaluation mode: one waveform in, one embedding out."""

    @property
    def backend(self) -> str:
        """What computes: ``torch``, ``onnxruntime`` or ``openvino``, with its version."""

    @property
    def precision(self) -> str:
        """Of the multiplications: ``fp32`` or ``bf16``."""

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


def refuse_short(num_samples: int, min_samples: int) -> None:
    """Refuse a waveform that a network cannot see as a whole.

    Raises:
        AudioError: there are fewer than ``min_samples``.
    """
    if num_samples < min_samples:
        raise AudioError(f"{num_samples} samples are too few: the model needs at least {min_samples}")
