"""What every network that turns features into an embedding has in common.

Shape suffixes: B utterance, F frame, M mel, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from farvox.errors import AudioError, ModelError


class EmbeddingNetwork(nn.Module):
    """A network ``feats_BFM -> emb_BE``.

    Attributes:
        num_mels: features per frame that it takes.
        embedding_dim: numbers per embedding that it gives.
        min_frames: the shortest utterance, in frames, that it can embed.
        channels_last: see `use_channels_last`.
    """

    channels_last = False

    def __init__(self, *, num_mels: int, embedding_dim: int, min_frames: int = 1) -> None:
        super().__init__()
        for name, size in (("num_mels", num_mels), ("embedding_dim", embedding_dim)):
            if size < 1:
                raise ModelError(f"{name} must be at least 1, not {size}")
        self.num_mels = num_mels
        self.embedding_dim = embedding_dim
        self.min_frames = min_frames

    def mels_first(self, feats_BFM: Tensor) -> Tensor:
        """Check features and give them as a convolution wants them: [B, M, F], a view.

        Raises:
            ModelError: another number of mels than the network was built for.
            AudioError: fewer frames than the network needs.
        """
        if feats_BFM.ndim != 3 or feats_BFM.shape[2] != self.num_mels:
            raise ModelError(
                f"features of shape {tuple(feats_BFM.shape)} given to a network that takes "
                f"[utterances, frames, {self.num_mels}]"
            )
        if feats_BFM.shape[1] < self.min_frames:
            raise AudioError(
                f"an utterance of {feats_BFM.shape[1]} frames is too short: "
                f"the network needs at least {self.min_frames}"
            )
        return feats_BFM.transpose(1, 2)

    def use_channels_last(self) -> None:
        """Keep all channels of a place side by side in memory: the quicker order in bf16."""
        self.channels_last = True
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def stages(self) -> list[nn.Module]:
        """The repeated parts, in order: what the outermost lists and sequences of modules hold."""

        def below(module: nn.Module) -> list[nn.Module]:
            found: list[nn.Module] = []
            for child in module.children():
                is_list = isinstance(child, nn.Sequential | nn.ModuleList)
                found += child.children() if is_list else below(child)
            return found

        return below(self)

    def kwargs_to_save(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments that build this network again, anywhere.

        Args:
            kwargs: what it was built with; a network that read a file then says what it found there instead.
        """
        return dict(kwargs)
