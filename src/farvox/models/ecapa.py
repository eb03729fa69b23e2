"""ECAPA-TDNN (Desplanques, Thienpondt and Demuynck, Interspeech 2020).

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
from farvox.models.pooling import build_pooling, widen


class ConvReluNorm(nn.Module):
    """Convolution over time, ReLU, batch norm: the order of the paper.

    Beyond the edges are zeros, or, with ``reflect``, the frames before them once more.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        dilation: int = 1,
        reflect: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            padding_mode="reflect" if reflect else "zeros",
        )
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to [B, C', F]."""
        out: Tensor = self.norm(fn.relu(self.conv(x_BCF)))
        return out


class Res2Conv(nn.Module):
    """The hierarchical convolution of Res2Net: all chunks but the last pass one after the other."""

    def __init__(
        self, channels: int, kernel_size: int, dilation: int, scale: int, reflect: bool = False
    ) -> None:
        super().__init__()
        width = channels // scale
        self.scale = scale
        self.convs = nn.ModuleList(
            ConvReluNorm(width, width, kernel_size, dilation, reflect) for _ in range(scale - 1)
        )

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to the same shape."""
        *chunks, untouched = x_BCF.chunk(self.scale, dim=1)
        outs = [self.convs[0](chunks[0])]
        for conv, chunk in zip(self.convs[1:], chunks[1:], strict=True):
            outs.append(conv(outs[-1] + chunk))
        return torch.cat([*outs, untouched], dim=1)


class SqueezeExcitation(nn.Module):
    """Rescales every channel by what the utterance as a whole looks like."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, bottleneck)
        self.excite = nn.Linear(bottleneck, channels)

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to the same shape."""
        gate_BC = torch.sigmoid(self.excite(fn.relu(self.squeeze(widen(x_BCF).mean(dim=2)))))
        return x_BCF * gate_BC.unsqueeze(-1)


class SERes2Block(nn.Module):
    """1x1, Res2, 1x1, squeeze and excitation, around which the input is added."""

    def __init__(self, channels: int, dilation: int, scale: int, bottleneck: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvReluNorm(channels, channels),
            Res2Conv(channels, 3, dilation, scale),
            ConvReluNorm(channels, channels),
            SqueezeExcitation(channels, bottleneck),
        )

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to the same shape."""
        out: Tensor = x_BCF + self.layers(x_BCF)
        return out


class EcapaTdnn(EmbeddingNetwork):
    """ECAPA-TDNN with the frame-level features of every block aggregated.

    Args:
        num_mels: features per frame.
        channels: width of the convolutions (512 or 1024 in the paper).
        aggregate_channels: width after the aggregation; by default the paper's 1536, or three times
            ``channels`` where that is less.
        embedding_dim: size of the embedding.
        scale: chunks of the Res2 convolutions; divides ``channels``.
        bottleneck: width of the squeeze-excitation and attention bottlenecks.
        dilations: one block for each.
        summed_inputs: a block takes the sum of the outputs of all layers before it (the paper's
            section 3.3), not only the last one's (WeSpeaker, SpeechBrain).
        pooling: ``asp`` (attentive, the paper's), ``asp-local`` (WeSpeaker's without global context) or
            ``tstp``.
        embedding_norm: whether a batch norm ends the network (the paper's; an option in WeSpeaker).
        dropout: share of the embedding dropped in training.
    """

    def __init__(
        self,
        *,
        num_mels: int = 80,
        channels: int = 512,
        aggregate_channels: int | None = None,
        embedding_dim: int = 192,
        scale: int = 8,
        bottleneck: int = 128,
        dilations: tuple[int, ...] = (2, 3, 4),
        summed_inputs: bool = True,
        pooling: str = "asp",
        embedding_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_mels=num_mels, embedding_dim=embedding_dim)
        if scale < 2 or channels % scale:
            raise ModelError(
                f"channels = {channels} cannot be cut into scale = {scale} equal chunks (2 or more)"
            )
        aggregate = aggregate_channels or min(1536, 3 * channels)
        self.summed_inputs = summed_inputs
        self.first = ConvReluNorm(num_mels, channels, kernel_size=5)
        self.blocks = nn.ModuleList(SERes2Block(channels, d, scale, bottleneck) for d in dilations)
        self.aggregate = nn.Conv1d(len(dilations) * channels, aggregate, kernel_size=1)
        self.pool = build_pooling(pooling, aggregate, bottleneck)
        self.pool_norm = nn.BatchNorm1d(self.pool.num_statistics)
        self.embedding = nn.Linear(self.pool.num_statistics, embedding_dim)
        self.embedding_norm = nn.BatchNorm1d(embedding_dim) if embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, feats_BFM: Tensor) -> Tensor:
        """Embed features: [B, F, M] to [B, E]."""
        outs = [self.first(self.mels_first(feats_BFM))]
        block_input = outs[0]
        for block in self.blocks:
            outs.append(block(block_input))
            block_input = block_input + outs[-1] if self.summed_inputs else outs[-1]
        x_BCF = fn.relu(self.aggregate(torch.cat(outs[1:], dim=1)))
        stats = self.pool_norm(self.pool(x_BCF))
        emb_BE: Tensor = self.dropout(self.embedding_norm(self.embedding(stats)))
        return emb_BE


def ecapa_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keyword arguments of `EcapaTdnn` that weights were made with, but for ``summed_inputs``.

    Raises:
        KeyError: a weight that tells a size is absent.
    """
    channels, num_mels, _ = weights["first.conv.weight"].shape
    pooling = "tstp"
    if "pool.hidden.weight" in weights:
        pooling = "asp" if "pool.context.weight" in weights else "asp-local"
    return {
        "num_mels": num_mels,
        "channels": channels,
        "aggregate_channels": weights["aggregate.weight"].shape[0],
        "embedding_dim": weights["embedding.weight"].shape[0],
        "scale": channels // weights["blocks.0.layers.1.convs.0.conv.weight"].shape[0],
        "bottleneck": weights["blocks.0.layers.3.squeeze.weight"].shape[0],
        "pooling": pooling,
        "embedding_norm": "embedding_norm.weight" in weights,
    }
