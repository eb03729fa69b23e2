"""ERes2NetV2 (Chen et al., "ERes2NetV2: Boosting short-duration speaker verification performance with
computational efficiency", Interspeech 2024), as in 3D-Speaker.

Shape suffixes: B utterance, C channel, M frequency, F frame, E embedding.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from farvox.models.base import EmbeddingNetwork
from farvox.models.options import ERes2NetV2Options
from farvox.models.pooling import TemporalStatistics

# As published; the floor is of the variance.
REDUCTION, FLOOR = 4, 1e-8
bounded_relu = partial(fn.hardtanh, min_val=0.0, max_val=20.0)


class AttentionalFusion(nn.Module):
    """A weighted sum of two maps; the weights, in (0, 2) and together 2, follow from both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, channels // REDUCTION, 1)
        self.bn1 = nn.BatchNorm2d(channels // REDUCTION)
        self.conv2 = nn.Conv2d(channels // REDUCTION, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two of [B, C, M, F] to one."""
        hidden = fn.silu(self.bn1(self.conv1(torch.cat([x, y], dim=1))))
        return x + y + torch.tanh(self.bn2(self.conv2(hidden))) * (x - y)


class Res2Block(nn.Module):
    """Convolutions of chunks of channels, one after the other, between two convolutions of all channels.

    A chunk is added to the result of the chunk before; or, ``fused``, joined to it by attention.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, options: ERes2NetV2Options, fused: bool
    ) -> None:
        super().__init__()
        scale, width = options.scale, channels * options.base_width // 64
        out_channels = channels * options.expansion
        self.conv1 = nn.Conv2d(in_channels, width * scale, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width * scale)
        self.chunks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
            for _ in range(scale)
        )
        self.fusions: Iterable[Callable[[Tensor, Tensor], Tensor]] = [operator.add] * (scale - 1)
        if fused:
            self.fusions = nn.ModuleList(AttentionalFusion(width) for _ in self.fusions)
        self.conv2 = nn.Conv2d(width * scale, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, M, F] to [B, C', M / stride, F / stride]."""
        first, *parts = bounded_relu(self.bn1(self.conv1(x))).chunk(len(self.chunks), dim=1)
        done = [bounded_relu(self.chunks[0](first))]
        for part, fuse, convolve in zip(parts, self.fusions, self.chunks[1:], strict=True):
            done.append(bounded_relu(convolve(fuse(done[-1], part))))
        return bounded_relu(self.bn2(self.conv2(torch.cat(done, dim=1))) + self.downsample(x))


def _stage(number: int, options: ERes2NetV2Options) -> nn.Sequential:
    """One of four stages: all but the first halve both axes, the last two join their chunks by attention."""
    channels, stage = options.channels * 2**number, nn.Sequential()
    in_channels, stride = (channels // 2 * options.expansion, 2) if number else (channels, 1)
    for _ in range(options.blocks[number]):
        stage.append(Res2Block(in_channels, channels, stride, options, fused=number > 1))
        in_channels, stride = channels * options.expansion, 1
    return stage


class ERes2NetV2(EmbeddingNetwork):
    """ERes2NetV2: a Res2Net whose last stage is joined with the third by attention, and their statistics."""

    def __init__(self, options: ERes2NetV2Options = ERes2NetV2Options()) -> None:
        super().__init__(options)
        self.conv1 = nn.Conv2d(1, options.channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(options.channels)
        self.layer1, self.layer2, self.layer3, self.layer4 = (_stage(n, options) for n in range(4))
        out_channels = 8 * options.channels * options.expansion
        self.shrink = nn.Conv2d(out_channels // 2, out_channels, 3, stride=2, padding=1, bias=False)
        self.fusion = AttentionalFusion(out_channels)
        self.pool = TemporalStatistics(out_channels * -(-options.num_mels // 8), FLOOR)
        self.embedding = nn.Linear(self.pool.num_statistics, options.embedding_dim)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, feats_BFM: Tensor) -> Tensor:
        """Embed features: [B, F, M] to [B, E]."""
        x = fn.relu(self.bn1(self.conv1(self.mels_first(feats_BFM).unsqueeze(1))))
        third = self.layer3(self.layer2(self.layer1(x)))
        fused = self.fusion(self.layer4(third), self.shrink(third))
        emb_BE: Tensor = self.dropout(self.embedding(self.pool(fused)))
        return emb_BE


def eres2netv2_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keyword arguments of `ERes2NetV2` that weights were made with.

    The weights are the same for up to seven mels fewer; the multiple of eight is returned.
    """
    channels, out_channels = weights["conv1.weight"].shape[0], weights["shrink.weight"].shape[0]
    embedding_dim, num_statistics = weights["embedding.weight"].shape
    stages = [f"layer{number}." for number in range(1, 5)]
    chunks = {name.split(".")[3] for name in weights if name.startswith("layer1.0.chunks.")}
    return {
        "num_mels": 4 * num_statistics // out_channels,
        "channels": channels,
        "blocks": [len({n.split(".")[1] for n in weights if n.startswith(stage)}) for stage in stages],
        "base_width": -(-8 * weights["layer4.0.chunks.0.0.weight"].shape[0] // channels),
        "scale": len(chunks),
        "expansion": out_channels // (8 * channels),
        "embedding_dim": embedding_dim,
    }
