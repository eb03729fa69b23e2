"""ECAPA-TDNN as SpeechBrain publishes it (``spkrec-ecapa-voxceleb``), where it departs from the paper.

Convolutions reflect the frames at the edges, the first chunk of a Res2 convolution is the one left as it is,
the aggregation and the attention have a batch norm, and the embedding has none.

Shape suffixes: B utterance, C channel, M mel, F frame, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from farvox.errors import ModelError
from farvox.models.base import EmbeddingNetwork
from farvox.models.ecapa import ConvReluNorm, Res2Conv, SqueezeExcitation
from farvox.models.pooling import widen

VARIANCE_FLOOR = 1e-12
DILATIONS = (2, 3, 4)


class ReflectedRes2Conv(Res2Conv):
    """The hierarchical convolution of Res2Net, its first chunk untouched; the second starts the chain."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, scale: int) -> None:
        super().__init__(channels, kernel_size, dilation, scale, reflect=True)

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to the same shape."""
        untouched, *chunks = x_BCF.chunk(self.scale, dim=1)
        outs = [self.convs[0](chunks[0])]
        for conv, chunk in zip(self.convs[1:], chunks[1:], strict=True):
            outs.append(conv(chunk + outs[-1]))
        return torch.cat([untouched, *outs], dim=1)


class ReflectedBlock(nn.Module):
    """1x1, Res2, 1x1, squeeze and excitation, around which the input is added."""

    def __init__(self, channels: int, dilation: int, scale: int, bottleneck: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvReluNorm(channels, channels),
            ReflectedRes2Conv(channels, 3, dilation, scale),
            ConvReluNorm(channels, channels),
            SqueezeExcitation(channels, bottleneck),
        )

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to the same shape."""
        out: Tensor = self.layers(x_BCF) + x_BCF
        return out


class NormedAttentiveStatistics(nn.Module):
    """Attentive statistics with a ReLU and a batch norm before the attention's hyperbolic tangent.

    As in `farvox.models.pooling.AttentiveStatistics`, mean and deviation of the utterance are projected once
    instead of being appended to every frame. Deviations here have no Bessel's correction.
    """

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.num_statistics = 2 * channels
        self.hidden = nn.Conv1d(channels, bottleneck, kernel_size=1)
        self.context = nn.Linear(2 * channels, bottleneck, bias=False)
        self.hidden_norm = nn.BatchNorm1d(bottleneck)
        self.weights = nn.Conv1d(bottleneck, channels, kernel_size=1)

    def forward(self, x_BCF: Tensor) -> Tensor:
        """Pool [B, C, F] to [B, 2C]."""
        x_BCF = widen(x_BCF)
        even_BCF = torch.full_like(x_BCF, 1 / x_BCF.shape[-1])
        context = widen(self.context(_weighted_statistics(x_BCF, even_BCF))).unsqueeze(-1)
        hidden = self.hidden_norm(fn.relu(widen(self.hidden(x_BCF)) + context))
        alpha_BCF = fn.softmax(widen(self.weights(hidden.tanh())), dim=-1)
        return _weighted_statistics(x_BCF, alpha_BCF)


def _weighted_statistics(x_BCF: Tensor, alpha_BCF: Tensor) -> Tensor:
    mean_BC1 = (alpha_BCF * x_BCF).sum(dim=-1, keepdim=True)
    variance_BC = (alpha_BCF * (x_BCF - mean_BC1).square()).sum(dim=-1)
    return torch.cat([mean_BC1.squeeze(-1), variance_BC.clamp(min=VARIANCE_FLOOR).sqrt()], dim=1)


class SpeechBrainEcapa(EmbeddingNetwork):
    """SpeechBrain's ECAPA-TDNN; the defaults are those of ``spkrec-ecapa-voxceleb``.

    Args:
        num_mels: features per frame.
        channels: width of the convolutions.
        aggregate_channels: width after the aggregation; by default three times ``channels``.
        embedding_dim: size of the embedding.
        scale: chunks of the Res2 convolutions; divides ``channels``.
        bottleneck: width of the squeeze-excitation bottlenecks.
        attention_channels: width of the attention's hidden layer.
        dropout: share of the embedding dropped in training.
    """

    def __init__(
        self,
        *,
        num_mels: int = 80,
        channels: int = 1024,
        aggregate_channels: int | None = None,
        embedding_dim: int = 192,
        scale: int = 8,
        bottleneck: int = 128,
        attention_channels: int = 128,
        dropout: float = 0.0,
    ) -> None:
        # Frames to reflect at an edge must be there: as many as the widest dilation, and the edge itself.
        super().__init__(num_mels=num_mels, embedding_dim=embedding_dim, min_frames=1 + max(DILATIONS))
        if scale < 2 or channels % scale:
            raise ModelError(
                f"channels = {channels} cannot be cut into scale = {scale} equal chunks (2 or more)"
            )
        aggregate = aggregate_channels or 3 * channels
        self.first = ConvReluNorm(num_mels, channels, kernel_size=5, reflect=True)
        self.blocks = nn.ModuleList(ReflectedBlock(channels, d, scale, bottleneck) for d in DILATIONS)
        self.aggregate = ConvReluNorm(len(DILATIONS) * channels, aggregate)
        self.pool = NormedAttentiveStatistics(aggregate, attention_channels)
        self.pool_norm = nn.BatchNorm1d(self.pool.num_statistics)
        self.embedding = nn.Linear(self.pool.num_statistics, embedding_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, feats_BFM: Tensor) -> Tensor:
        """Embed features: [B, F, M] to [B, E]."""
        x_BCF = self.first(self.mels_first(feats_BFM))
        outs = []
        for block in self.blocks:
            outs.append(x_BCF := block(x_BCF))
        stats = self.pool_norm(self.pool(self.aggregate(torch.cat(outs, dim=1))))
        emb_BE: Tensor = self.dropout(self.embedding(stats))
        return emb_BE


def speechbrain_ecapa_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keyword arguments of `SpeechBrainEcapa` that weights were made with.

    Raises:
        KeyError: a weight that tells a size is absent.
    """
    channels, num_mels, _ = weights["first.conv.weight"].shape
    return {
        "num_mels": num_mels,
        "channels": channels,
        "aggregate_channels": weights["aggregate.conv.weight"].shape[0],
        "embedding_dim": weights["embedding.weight"].shape[0],
        "scale": channels // weights["blocks.0.layers.1.convs.0.conv.weight"].shape[0],
        "bottleneck": weights["blocks.0.layers.3.squeeze.weight"].shape[0],
        "attention_channels": weights["pool.weights.weight"].shape[1],
    }
