"""The two networks of the FFSVC2022 baseline, exactly, so that its published checkpoints can be used.

Parameter names are the baseline's. Its ECAPA-TDNN differs from the paper in several ways, each kept
here and none of them in `farvox.models.tdnn`: batch norm before the ReLU, reflect padding and none
at all in the first layer, blocks that only see the block before, attention by one weight a frame, and
two defects, which ``pooling`` and ``unused_branch`` correct.

Shape suffixes: B utterance, C channel, M mel, F frame, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from farvox.machine import has_bf16, has_instructions
from farvox.models.base import EmbeddingNetwork, FrameConv, FrameNorm, cat_channels, chunk_channels
from farvox.models.options import FfsvcEcapaOptions, FfsvcResNet34Options
from farvox.models.pooling import VARIANCE_FLOOR, GlobalStatistics, mean_over_frames, widen
from farvox.models.resnet import ResNetTrunk


class FfsvcResNet34(EmbeddingNetwork):
    """The baseline's ResNet34 ("C32"): statistics over frequency and time together, heavy dropout."""

    def __init__(self, options: FfsvcResNet34Options = FfsvcResNet34Options()) -> None:
        super().__init__(options)
        self.front = ResNetTrunk(options.channels, options.blocks)
        self.pool = GlobalStatistics(self.front.out_channels, variance_floor=0.0)
        self.bottleneck = nn.Linear(self.pool.num_statistics, options.embedding_dim)
        self.drop = nn.Dropout(options.dropout)

    def forward(self, feats_BFM: Tensor) -> Tensor:
        """Embed features: [B, F, M] to [B, E]."""
        emb_BE: Tensor = self.drop(self.bottleneck(self.pool(self.front(self.mels_first(feats_BFM)))))
        return emb_BE


class FrameAttention(nn.Module):
    """One weight for each frame: softmax over time of tanh(v . (W h + b)) (the baseline's attention)."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.lin_proj = nn.Linear(channels, bottleneck)
        self.v = nn.Parameter(torch.randn(bottleneck))

    def forward(self, x_BFC: Tensor) -> Tensor:
        """[B, F, C] to weights [B, F, 1] that sum to one over the frames."""
        hidden = widen(self.lin_proj(x_BFC))
        with torch.autocast(hidden.device.type, enabled=False):  # which would narrow the product again
            return fn.softmax(torch.tanh(hidden @ self.v), dim=1).unsqueeze(-1)


class FfsvcAttentiveStatistics(nn.Module):
    """The baseline's attentive statistics.

    Its mean of the weighted frames divides by the number of frames although the weights already sum to
    one, so an embedding depends on the length of the utterance; and its second half is a variance about
    that mean. ``mended`` gives weighted mean and standard deviation.
    """

    def __init__(self, channels: int, bottleneck: int, mended: bool) -> None:
        super().__init__()
        self.attention = FrameAttention(channels, bottleneck)
        self.mended = mended

    def forward(self, x_BCF: Tensor) -> Tensor:
        """Pool [B, C, F] to [B, 2C]."""
        weight_BF1, x_BFC = self.attention(x_BCF.transpose(1, 2)), widen(x_BCF).transpose(1, 2)
        weighted_BFC = weight_BF1 * x_BFC
        mean_BC = weighted_BFC.sum(dim=1) if self.mended else weighted_BFC.mean(dim=1)
        variance_BC = (x_BFC * weighted_BFC).sum(dim=1) - mean_BC.square()
        spread_BC = variance_BC.clamp(min=VARIANCE_FLOOR).sqrt() if self.mended else variance_BC
        return torch.cat([mean_BC, spread_BC], dim=1)


class FfsvcBlock(nn.Module):
    """The baseline's SE-Res2 block: chunk 0 passes untouched and comes last."""

    def __init__(
        self, channels: int, dilation: int, scale: int, bottleneck: int, unused_branch: bool
    ) -> None:
        super().__init__()
        self.scale = scale
        width = channels // scale
        # The branch of chunk 0 exists in the baseline but is never run.
        branches = [str(i) for i in range(0 if unused_branch else 1, scale)]
        self.conv1 = FrameConv(channels, channels, 1)
        self.bn1 = FrameNorm(channels)
        conv = partial(FrameConv, width, width, 3, 1, dilation, dilation, bias=False, padding_mode="reflect")
        self.convs = nn.ModuleDict({i: conv() for i in branches})
        self.bns = nn.ModuleDict({i: FrameNorm(width) for i in branches})
        self.conv3 = FrameConv(channels, channels, 1)
        self.bn3 = FrameNorm(channels)
        self.fc1 = nn.Linear(channels, bottleneck)
        self.fc2 = nn.Linear(bottleneck, channels)
        if unused_branch:
            # No gradient ever reaches them; so distributed training need not look for it.
            self.convs["0"].requires_grad_(False)
            self.bns["0"].requires_grad_(False)

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to the same shape."""
        untouched, *chunks = chunk_channels(fn.relu(self.bn1(self.conv1(x_BCF))), self.scale)
        outs: list[Tensor] = []
        for i, chunk in enumerate(chunks, start=1):
            branch_input = chunk + outs[-1] if outs else chunk
            outs.append(fn.relu(self.bns[str(i)](self.convs[str(i)](branch_input))))
        y_BCF = fn.relu(self.bn3(self.conv3(cat_channels([*outs, untouched]))))
        gate_BC = torch.sigmoid(self.fc2(fn.relu(self.fc1(mean_over_frames(y_BCF)))))
        return y_BCF * gate_BC.unsqueeze(-1) + x_BCF


class FfsvcEcapaTdnn(EmbeddingNetwork):
    """The baseline's ECAPA-TDNN ("C1024"), bit for bit."""

    def __init__(self, options: FfsvcEcapaOptions = FfsvcEcapaOptions()) -> None:
        # The first convolution shortens by 4 frames, and reflecting 4 frames takes 5.
        super().__init__(options, min_frames=9)
        channels, bottleneck = options.channels, options.bottleneck
        self.conv1 = FrameConv(options.num_mels, channels, 5)
        self.bn1 = FrameNorm(channels)
        self.block1, self.block2, self.block3 = (
            FfsvcBlock(channels, dilation, options.scale, bottleneck, options.unused_branch)
            for dilation in (2, 3, 4)
        )
        self.conv2 = FrameConv(3 * channels, 3 * channels, 1)
        self.ASP = FfsvcAttentiveStatistics(3 * channels, bottleneck, mended=options.pooling == "mended")
        self.bn2 = nn.BatchNorm1d(6 * channels)
        self.fc = nn.Linear(6 * channels, options.embedding_dim)
        self.bn3 = nn.BatchNorm1d(options.embedding_dim)
        self.drop = nn.Dropout(options.dropout)

    def forward(self, feats_BFM: Tensor) -> Tensor:
        """Embed features: [B, F, M] to [B, E]."""
        mels_BMF = self.mels_first(feats_BFM)  # in channels-last order, which all layers keep
        if not self.channels_last:
            mels_BMF = mels_BMF.contiguous()
        x_BCF = fn.relu(self.bn1(self.conv1(mels_BMF)))
        y1_BCF = self.block1(x_BCF)
        y2_BCF = self.block2(y1_BCF)
        y3_BCF = self.block3(y2_BCF)
        y_BCF = fn.relu(self.conv2(cat_channels([y1_BCF, y2_BCF, y3_BCF])))
        emb_BE: Tensor = self.drop(self.bn3(self.fc(self.bn2(self.ASP(y_BCF)))))
        return emb_BE

    def is_faster_in_channels_last(self, device: torch.device, precision: str) -> bool:
        """In bf16 without AMX by 8 %; with AMX it is slower by 12 %, in fp32 by 5 to 10 %."""
        is_cpu_without_amx = device.type == "cpu" and not has_instructions("amx_bf16")
        return precision == "bf16" and is_cpu_without_amx and has_bf16(device)

    def stages(self) -> list[nn.Module]:
        """The three blocks."""
        return [self.block1, self.block2, self.block3]


def resnet34_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keyword arguments of `FfsvcResNet34` that a baseline checkpoint's weights were made with.

    The baseline fixes the blocks at (3, 4, 6, 3).
    """
    return {
        "channels": weights["front.conv1.weight"].shape[0],
        "embedding_dim": weights["bottleneck.weight"].shape[0],
    }


def ecapa_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keyword arguments of `FfsvcEcapaTdnn` that a baseline checkpoint's weights were made with."""
    channels, num_mels, _ = weights["conv1.weight"].shape
    return {
        "num_mels": num_mels,
        "channels": channels,
        "embedding_dim": weights["fc.weight"].shape[0],
        "scale": channels // weights["block1.convs.1.weight"].shape[0],
        "bottleneck": weights["block1.fc1.weight"].shape[0],
    }
