"""CAM++ (Wang et al., "CAM++: A fast and efficient network for speaker verification using context-aware
masking", Interspeech 2023), as in 3D-Speaker.

Shape suffixes: B utterance, C channel, M mel, F frame, S segment of frames, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from farvox.models.base import EmbeddingNetwork
from farvox.models.options import CamPlusPlusOptions
from farvox.models.pooling import build_pooling, widen
from farvox.models.resnet import BasicBlock

SEGMENT_FRAMES = 100
"""Frames that share the local part of their context: two seconds, after the halving of the frame rate."""

# Kernel and dilation of the three dense blocks: table 1 of the paper.
KERNEL, DILATIONS = 3, (1, 2, 2)


class FrequencyFront(nn.Module):
    """Two-dimensional convolutions that keep time and divide the frequencies by eight."""

    def __init__(self, num_mels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(BasicBlock(channels, channels, (2, 1)), BasicBlock(channels, channels, 1))
        self.layer2 = nn.Sequential(BasicBlock(channels, channels, (2, 1)), BasicBlock(channels, channels, 1))
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.out_channels = channels * -(-num_mels // 8)

    def forward(self, x_BMF: Tensor) -> Tensor:
        """[B, M, F] to [B, C M / 8, F], frequencies rounded up."""
        x = self.layer2(self.layer1(fn.relu(self.bn1(self.conv1(x_BMF.unsqueeze(1))))))
        return fn.relu(self.bn2(self.conv2(x))).flatten(1, 2)


class ContextMask(nn.Module):
    """A gate for every channel, from the utterance as a whole and from the two seconds around a frame."""

    def __init__(self, in_channels: int, out_channels: int, reduction: int = 2) -> None:
        super().__init__()
        self.squeeze = nn.Conv1d(in_channels, in_channels // reduction, 1)
        self.excite = nn.Conv1d(in_channels // reduction, out_channels, 1)

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to a mask [B, C', F] in (0, 1); the layers run once a segment, which has one context."""
        x_BCF = widen(x_BCF)
        means_BCS = fn.avg_pool1d(x_BCF, SEGMENT_FRAMES, ceil_mode=True, count_include_pad=False)
        context_BCS = x_BCF.mean(dim=-1, keepdim=True) + means_BCS
        mask_BCS = torch.sigmoid(self.excite(fn.relu(self.squeeze(context_BCS))))
        frames_BCF = mask_BCS.unsqueeze(-1).expand(-1, -1, -1, SEGMENT_FRAMES).flatten(2)
        return frames_BCF[..., : x_BCF.shape[-1]]


class DenseLayer(nn.Module):
    """Batch norm and ReLU before each convolution; the wide one is masked by its context."""

    def __init__(self, in_channels: int, bottleneck: int, growth: int, dilation: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm1d(in_channels)
        self.conv1 = nn.Conv1d(in_channels, bottleneck, 1, bias=False)
        self.norm2 = nn.BatchNorm1d(bottleneck)
        padding = dilation * (KERNEL - 1) // 2
        self.conv2 = nn.Conv1d(bottleneck, growth, KERNEL, padding=padding, dilation=dilation, bias=False)
        self.mask = ContextMask(bottleneck, growth)

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to [B, growth, F]."""
        hidden = fn.relu(self.norm2(self.conv1(fn.relu(self.norm1(x_BCF)))))
        out: Tensor = self.conv2(hidden) * self.mask(hidden)
        return out


class DenseBlock(nn.Module):
    """Layers that each take the outputs of all before them, then a layer that halves the channels."""

    def __init__(
        self, in_channels: int, num_layers: int, bottleneck: int, growth: int, dilation: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(in_channels + i * growth, bottleneck, growth, dilation) for i in range(num_layers)
        )
        width = in_channels + num_layers * growth
        self.norm = nn.BatchNorm1d(width)
        self.conv = nn.Conv1d(width, width // 2, 1, bias=False)
        self.out_channels = width // 2

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to [B, (C + layers * growth) / 2, F]."""
        for layer in self.layers:
            x_BCF = torch.cat([x_BCF, layer(x_BCF)], dim=1)
        out: Tensor = self.conv(fn.relu(self.norm(x_BCF)))
        return out


class CamPlusPlus(EmbeddingNetwork):
    """CAM++: a front over frequency, densely connected time-delay layers with context-aware masks."""

    def __init__(self, options: CamPlusPlusOptions = CamPlusPlusOptions()) -> None:
        super().__init__(options)
        self.front = FrequencyFront(options.num_mels, options.front_channels)
        channels, bottleneck = options.channels, options.bottleneck
        self.first = nn.Conv1d(self.front.out_channels, channels, 5, stride=2, padding=2, bias=False)
        self.first_norm = nn.BatchNorm1d(channels)
        self.blocks = nn.ModuleList()
        for num_layers, dilation in zip(options.blocks, DILATIONS, strict=True):
            block = DenseBlock(channels, num_layers, bottleneck, options.growth, dilation)
            self.blocks.append(block)
            channels = block.out_channels
        self.norm = nn.BatchNorm1d(channels)
        self.pool = build_pooling(options.pooling, channels)
        self.embedding = nn.Linear(self.pool.num_statistics, options.embedding_dim, bias=False)
        self.embedding_norm = nn.BatchNorm1d(options.embedding_dim, affine=False)
        self.dropout = nn.Dropout(options.dropout)
        for module in self.modules():  # the published initialisation
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, feats_BFM: Tensor) -> Tensor:
        """Embed features: [B, F, M] to [B, E]."""
        x_BCF = self.front(self.mels_first(feats_BFM))
        x_BCF = fn.relu(self.first_norm(self.first(x_BCF)))
        for block in self.blocks:
            x_BCF = block(x_BCF)
        stats = self.pool(fn.relu(self.norm(x_BCF)))
        emb_BE: Tensor = self.dropout(self.embedding_norm(self.embedding(stats)))
        return emb_BE


def campplus_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keyword arguments of `CamPlusPlus` that weights were made with.

    The weights are the same for up to seven mels fewer; the multiple of eight is returned.
    """
    front_channels = weights["front.conv1.weight"].shape[0]
    channels, front_out, _ = weights["first.weight"].shape
    blocks = [f"blocks.{number}.layers." for number in range(3)]
    return {
        "num_mels": 8 * front_out // front_channels,
        "front_channels": front_channels,
        "channels": channels,
        "blocks": [len({n.split(".")[3] for n in weights if n.startswith(block)}) for block in blocks],
        "growth": weights["blocks.0.layers.0.conv2.weight"].shape[0],
        "bottleneck": weights["blocks.0.layers.0.conv1.weight"].shape[0],
        "embedding_dim": weights["embedding.weight"].shape[0],
    }
