"""Time-delay networks: the x-vector (Snyder et al., ICASSP 2018) and ECAPA-TDNN (Desplanques et al., 2020).

ECAPA-TDNN is as in the paper, and as SpeechBrain publishes it.

SpeechBrain's (``spkrec-ecapa-voxceleb``) departs from the paper: convolutions reflect the frames at the
edges, the first chunk of a Res2 convolution is the one left as it is, the aggregation and the attention have
a batch norm, and the embedding has none.

Shape suffixes: B utterance, C channel, M mel, F frame, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from farvox.models.base import EmbeddingNetwork
from farvox.models.options import EcapaOptions, SpeechBrainEcapaOptions, XVectorOptions
from farvox.models.pooling import build_pooling, pooling_of, weighted_statistics, widen

SPEECHBRAIN_DILATIONS = (2, 3, 4)
SPEECHBRAIN_FLOOR = 1e-12  # of a variance


class ConvReluNorm(nn.Module):
    """Convolution over time, ReLU, batch norm: the order of the paper.

    Beyond the edges are zeros, or, with ``reflect``, the frames before them once more.
    """

    def __init__(
        self, width_in: int, width_out: int, kernel_size: int = 1, dilation: int = 1, reflect: bool = False
    ) -> None:
        super().__init__()
        pad = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv1d(
            width_in, width_out, kernel_size, 1, pad, dilation, padding_mode="reflect" if reflect else "zeros"
        )
        self.norm = nn.BatchNorm1d(width_out)

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to [B, C', F]."""
        out: Tensor = self.norm(fn.relu(self.conv(x_BCF)))
        return out


class Res2Conv(nn.Module):
    """The hierarchical convolution of Res2Net: all chunks but one pass one after the other.

    The last chunk is left as it is (the paper's); with ``reflect``, SpeechBrain's way, the first.
    """

    def __init__(
        self, channels: int, kernel_size: int, dilation: int, scale: int, reflect: bool = False
    ) -> None:
        super().__init__()
        width = channels // scale
        self.scale, self.reflect = scale, reflect
        convs = (ConvReluNorm(width, width, kernel_size, dilation, reflect) for _ in range(scale - 1))
        self.convs = nn.ModuleList(convs)

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to the same shape."""
        chunks = list(x_BCF.chunk(self.scale, dim=1))
        untouched = chunks.pop(0 if self.reflect else -1)
        outs = [self.convs[0](chunks[0])]
        for conv, chunk in zip(self.convs[1:], chunks[1:], strict=True):
            outs.append(conv(outs[-1] + chunk))
        return torch.cat([untouched, *outs] if self.reflect else [*outs, untouched], dim=1)


class SqueezeExcitation(nn.Module):
    """A gate for every channel, computed from the mean over the utterance."""

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

    def __init__(
        self, channels: int, dilation: int, scale: int, bottleneck: int, reflect: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvReluNorm(channels, channels),
            Res2Conv(channels, 3, dilation, scale, reflect),
            ConvReluNorm(channels, channels),
            SqueezeExcitation(channels, bottleneck),
        )

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to the same shape."""
        out: Tensor = x_BCF + self.layers(x_BCF)
        return out


class EcapaTdnn(EmbeddingNetwork):
    """ECAPA-TDNN with the frame-level features of every block aggregated."""

    def __init__(self, options: EcapaOptions = EcapaOptions()) -> None:
        super().__init__(options)
        channels, scale, bottleneck = options.channels, options.scale, options.bottleneck
        aggregate = options.aggregate_channels or min(1536, 3 * channels)
        self.summed_inputs = options.summed_inputs
        self.first = ConvReluNorm(options.num_mels, channels, kernel_size=5)
        self.blocks = nn.ModuleList(SERes2Block(channels, d, scale, bottleneck) for d in options.dilations)
        self.aggregate = nn.Conv1d(len(options.dilations) * channels, aggregate, kernel_size=1)
        self.pool = build_pooling(options.pooling, aggregate, bottleneck)
        self.pool_norm = nn.BatchNorm1d(self.pool.num_statistics)
        self.embedding = nn.Linear(self.pool.num_statistics, options.embedding_dim)
        norm = nn.BatchNorm1d if options.embedding_norm else nn.Identity
        self.embedding_norm = norm(options.embedding_dim)
        self.dropout = nn.Dropout(options.dropout)

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
    """The keyword arguments of `EcapaTdnn` that weights were made with, but for ``summed_inputs``."""
    channels, num_mels, _ = weights["first.conv.weight"].shape
    return {
        "num_mels": num_mels,
        "channels": channels,
        "aggregate_channels": weights["aggregate.weight"].shape[0],
        "embedding_dim": weights["embedding.weight"].shape[0],
        "scale": channels // weights["blocks.0.layers.1.convs.0.conv.weight"].shape[0],
        "bottleneck": weights["blocks.0.layers.3.squeeze.weight"].shape[0],
        "pooling": pooling_of(weights),
        "embedding_norm": "embedding_norm.weight" in weights,
    }


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
        context = widen(self.context(weighted_statistics(x_BCF, even_BCF, SPEECHBRAIN_FLOOR))).unsqueeze(-1)
        hidden = self.hidden_norm(fn.relu(widen(self.hidden(x_BCF)) + context))
        alpha_BCF = fn.softmax(widen(self.weights(hidden.tanh())), dim=-1)
        return weighted_statistics(x_BCF, alpha_BCF, SPEECHBRAIN_FLOOR)


class SpeechBrainEcapa(EmbeddingNetwork):
    """SpeechBrain's ECAPA-TDNN."""

    def __init__(self, options: SpeechBrainEcapaOptions = SpeechBrainEcapaOptions()) -> None:
        # Frames to reflect at an edge must be there: as many as the widest dilation, and the edge itself.
        super().__init__(options, min_frames=1 + max(SPEECHBRAIN_DILATIONS))
        channels, scale, bottleneck = options.channels, options.scale, options.bottleneck
        aggregate = options.aggregate_channels or 3 * channels
        self.first = ConvReluNorm(options.num_mels, channels, kernel_size=5, reflect=True)
        blocks = (SERes2Block(channels, d, scale, bottleneck, reflect=True) for d in SPEECHBRAIN_DILATIONS)
        self.blocks = nn.ModuleList(blocks)
        self.aggregate = ConvReluNorm(len(SPEECHBRAIN_DILATIONS) * channels, aggregate)
        self.pool = NormedAttentiveStatistics(aggregate, options.attention_channels)
        self.pool_norm = nn.BatchNorm1d(self.pool.num_statistics)
        self.embedding = nn.Linear(self.pool.num_statistics, options.embedding_dim)
        self.dropout = nn.Dropout(options.dropout)

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
    """The keyword arguments of `SpeechBrainEcapa` that weights were made with."""
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


# (frames spanned by the kernel, dilation) of the five frame-level layers: table 1 of the paper.
CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))


class XVector(EmbeddingNetwork):
    """Five time-delay layers, statistics over time, one affine layer.

    The embedding is the affine output of the first layer after the pooling, as in the paper; the
    layers the paper puts between it and the softmax are the business of a head here. As in Kaldi, a
    layer is affine, ReLU, batch norm without scale and offset. The layers do not pad: the network sees
    15 frames at once, and needs that many.
    """

    def __init__(self, options: XVectorOptions = XVectorOptions()) -> None:
        span = 1 + sum(dilation * (kernel - 1) for kernel, dilation in CONTEXTS)
        super().__init__(options, min_frames=span)
        widths = (options.num_mels, *4 * [options.channels], options.pooled_channels)
        self.frames = nn.Sequential()
        for width_in, width_out, (kernel, dilation) in zip(widths, widths[1:], CONTEXTS, strict=False):
            conv = nn.Conv1d(width_in, width_out, kernel, dilation=dilation)
            self.frames.append(nn.Sequential(conv, nn.ReLU(), nn.BatchNorm1d(width_out, affine=False)))
        self.pool = build_pooling(options.pooling, options.pooled_channels)
        self.embedding = nn.Linear(self.pool.num_statistics, options.embedding_dim)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, feats_BFM: Tensor) -> Tensor:
        """Embed features: [B, F, M] to [B, E]."""
        emb_BE: Tensor = self.dropout(self.embedding(self.pool(self.frames(self.mels_first(feats_BFM)))))
        return emb_BE
