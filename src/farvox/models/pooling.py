"""Pooling: from a sequence of frames to one vector of statistics.

Shape suffixes: B utterance, C channel, M frequency, F frame, S = 2C statistic. The statistics are
computed in float32 even where autocast made the activations narrower, and their gradient is finite
on a constant signal.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from farvox.errors import ModelError

VARIANCE_FLOOR = 1e-7


def widen(x: Tensor) -> Tensor:
    """A half-precision tensor in float32; any other as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def mean_over_frames(x_BCF: Tensor) -> Tensor:
    """Mean over the last axis, in float32 for a half-precision tensor and without a wide copy of it."""
    half = x_BCF.dtype in (torch.float16, torch.bfloat16)
    return x_BCF.mean(dim=-1, dtype=torch.float32 if half else x_BCF.dtype)


def unbiased_variance(x_BCF: Tensor) -> Tensor:
    """Variance over the last axis with Bessel's correction; zero, not NaN, for a single frame.

    In two passes, which is four times as fast as torch's one. The squares do not change with the mean, to
    first order, so that its gradient need not be followed.
    """
    squares_BC = (x_BCF - x_BCF.mean(dim=-1, keepdim=True).detach()).square().sum(dim=-1)
    # Not max, so that a graph has it, too.
    count: int = torch.sym_max(1, x_BCF.shape[-1] - 1)  # type: ignore[no-untyped-call]
    return squares_BC / count


def weighted_statistics(x_BCF: Tensor, alpha_BCF: Tensor, floor: float = VARIANCE_FLOOR) -> Tensor:
    """Weighted mean and standard deviation over frames; [B, 2C]. The variance is at least ``floor``."""
    mean_BC1 = (alpha_BCF * x_BCF).sum(dim=-1, keepdim=True)
    variance_BC = (alpha_BCF * (x_BCF - mean_BC1).square()).sum(dim=-1)
    return torch.cat([mean_BC1.squeeze(-1), variance_BC.clamp(min=floor).sqrt()], dim=1)


class TemporalStatistics(nn.Module):
    """Mean and standard deviation over time of every channel at every frequency.

    The statistics pooling of x-vectors (Snyder et al., 2018), which WeSpeaker calls TSTP. The floor is added
    to the variance; 0 gives the plain standard deviation.
    """

    def __init__(self, channels: int, variance_floor: float = VARIANCE_FLOOR) -> None:
        super().__init__()
        self.num_statistics: int = 2 * channels
        self.variance_floor = variance_floor

    def forward(self, x: Tensor) -> Tensor:
        """Pool [B, C, F] or [B, C, M, F] to [B, 2C] or [B, 2CM]."""
        x = widen(x)
        std = (unbiased_variance(x) + self.variance_floor).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
        return torch.cat([x.mean(dim=-1).flatten(1), std.flatten(1)], dim=1)


class GlobalStatistics(TemporalStatistics):
    """Mean and standard deviation of each channel over frequency and time together.

    The pooling of the FFSVC2022 baseline's ResNet34 (Cai, Chen and Li, "Exploring the encoding layer
    and loss function in end-to-end speaker and language recognition system", 2018).
    """

    def forward(self, x_BCMF: Tensor) -> Tensor:
        """Pool [B, C, M, F] to [B, 2C]."""
        return super().forward(x_BCMF.flatten(start_dim=2))


class AttentiveStatistics(nn.Module):
    """Channel- and context-dependent attentive statistics (ECAPA-TDNN, Desplanques et al., 2020, eq. 1-3).

    Every channel weighs the frames in its own way. With ``context`` the weights also see the mean and
    standard deviation of the whole utterance; adding a projection of those is the same as appending
    them to every frame, and cheaper.
    """

    def __init__(self, channels: int, bottleneck: int = 128, context: bool = True) -> None:
        super().__init__()
        self.num_statistics: int = 2 * channels
        self.hidden = nn.Conv1d(channels, bottleneck, kernel_size=1)
        self.context = nn.Linear(2 * channels, bottleneck, bias=False) if context else None
        self.weights = nn.Conv1d(bottleneck, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool [B, C, F] or [B, C, M, F] to [B, 2C] or [B, 2CM]."""
        x_BCF = widen(x).flatten(1, -2)
        hidden = widen(self.hidden(x_BCF))
        if self.context is not None:
            std = (unbiased_variance(x_BCF) + VARIANCE_FLOOR).sqrt()
            hidden = hidden + widen(self.context(torch.cat([x_BCF.mean(dim=-1), std], dim=1))).unsqueeze(-1)
        alpha_BCF = fn.softmax(widen(self.weights(hidden.tanh())), dim=-1)
        return weighted_statistics(x_BCF, alpha_BCF)


Pooling = TemporalStatistics | AttentiveStatistics


def pooling_of(weights: Mapping[str, Tensor]) -> str:
    """Name of the pooling ``pool`` of a network with these weights: ``tstp``, ``asp`` or ``asp-local``."""
    if "pool.hidden.weight" not in weights:
        return "tstp"
    return "asp" if "pool.context.weight" in weights else "asp-local"


def build_pooling(name: str, channels: int, bottleneck: int = 128) -> Pooling:
    """A pooling by name.

    ``tstp`` (temporal statistics), ``stats`` (the same without a floor of the variance), ``asp``
    (attentive statistics) or ``asp-local`` (the same, with an attention that only sees the frame it weighs).

    Raises:
        ModelError: the name is unknown.
    """
    if name in ("tstp", "stats"):
        return TemporalStatistics(channels, VARIANCE_FLOOR if name == "tstp" else 0.0)
    if name in ("asp", "asp-local"):
        return AttentiveStatistics(channels, bottleneck, context=name == "asp")
    raise ModelError(f"unknown pooling '{name}': tstp, stats, asp or asp-local")
