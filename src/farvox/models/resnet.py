"""ResNet34 for speaker embeddings (He et al., 2016, without the first max-pooling and at narrow widths).

Shape suffixes: B utterance, C channel, M frequency, F frame, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as fn
from torch.nn.utils import fuse_conv_bn_eval

from farvox.models.base import EmbeddingNetwork
from farvox.models.options import ResNet34Options
from farvox.models.pooling import build_pooling, pooling_of


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a short cut; the stride is of both axes, or (frequency, time)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int | tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, M, F] to [B, C', M / stride, F / stride]."""
        y = fn.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return fn.relu(y + self.downsample(x))


class ResNetTrunk(nn.Module):
    """The convolutions of a ResNet: four groups of blocks, the last three of which halve both axes."""

    def __init__(self, channels: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = _group(channels, channels, blocks[0], stride=1)
        self.layer2 = _group(channels, 2 * channels, blocks[1], stride=2)
        self.layer3 = _group(2 * channels, 4 * channels, blocks[2], stride=2)
        self.layer4 = _group(4 * channels, 8 * channels, blocks[3], stride=2)
        self.out_channels = 8 * channels

    def forward(self, x_BMF: Tensor) -> Tensor:
        """[B, M, F] to [B, 8C, M / 8, F / 8], sizes rounded up."""
        x = fn.relu(self.bn1(self.conv1(x_BMF.unsqueeze(1))))
        x = self.layer2(self.layer1(x))
        out: Tensor = self.layer4(self.layer3(x))
        return out


def _group(in_channels: int, out_channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))


def fold_batch_norms(network: nn.Module) -> int:
    """Fold each batch norm into the two-dimensional convolution before it, in place.

    For evaluation only, and equal up to rounding. Pairs are found by their names, ``conv1`` and ``bn1``, or
    as the two layers of a short cut; their number is returned.
    """
    folded = 0
    for block in list(network.modules()):
        names = [(f"conv{n}", f"bn{n}") for n in (1, 2)]
        if isinstance(block, nn.Sequential) and len(block) == 2:
            names = [("0", "1")]
        for conv_name, norm_name in names:
            conv, norm = getattr(block, conv_name, None), getattr(block, norm_name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(block, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(block, norm_name, nn.Identity())
                folded += 1
    return folded


class ResNet34(EmbeddingNetwork):
    """ResNet34 with statistics over time for every channel and frequency, as in WeSpeaker."""

    def __init__(self, options: ResNet34Options = ResNet34Options()) -> None:
        super().__init__(options)
        self.front = ResNetTrunk(options.channels, options.blocks)
        self.pool = build_pooling(options.pooling, self.front.out_channels * -(-options.num_mels // 8))
        self.embedding = nn.Linear(self.pool.num_statistics, options.embedding_dim)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, feats_BFM: Tensor) -> Tensor:
        """Embed features: [B, F, M] to [B, E]."""
        emb_BE: Tensor = self.dropout(self.embedding(self.pool(self.front(self.mels_first(feats_BFM)))))
        return emb_BE


def resnet34_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keyword arguments of `ResNet34` that weights were made with.

    The weights are the same for up to seven mels fewer; the multiple of eight is returned.
    """
    channels = weights["front.conv1.weight"].shape[0]
    embedding_dim, num_statistics = weights["embedding.weight"].shape
    groups = [f"front.layer{group}." for group in range(1, 5)]
    return {
        "num_mels": num_statistics // (2 * channels),
        "channels": channels,
        "blocks": [len({n.split(".")[2] for n in weights if n.startswith(group)}) for group in groups],
        "embedding_dim": embedding_dim,
        "pooling": pooling_of(weights),
    }
