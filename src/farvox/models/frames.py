"""Layers over frames that keep the order in which their input lies in memory.

torch has a channels-last order, all channels of a frame side by side, for images only; over frames its
convolutions and batch norms copy such an input, or walk it with long strides. These take it for an image of
one row. In bf16 that is the quicker order on a CPU, see docs/performance.md.

Shape suffixes: B utterance, C channel, F frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as fn


class FrameConv(nn.Conv1d):
    """`nn.Conv1d`, with the same weights and result."""

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to [B, C', F']."""
        if not _is_channels_last(x_BCF):
            return super().forward(x_BCF)
        x_BC1F, padding = x_BCF.unsqueeze(2), int(self.padding[0])
        if self.padding_mode != "zeros" and padding:
            x_BC1F = fn.pad(x_BC1F, (padding, padding, 0, 0), mode=self.padding_mode)
            padding = 0
        out_BC1F = fn.conv2d(
            x_BC1F, self.weight.unsqueeze(2), self.bias, (1, *self.stride), (0, padding), (1, *self.dilation),
            self.groups,
        )  # fmt: skip
        return out_BC1F.squeeze(2)


class FrameNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d`, with the same weights and result."""

    def forward(self, x_BCF: Tensor) -> Tensor:
        """[B, C, F] to the same shape."""
        if not _is_channels_last(x_BCF):
            return super().forward(x_BCF)
        return super().forward(x_BCF.unsqueeze(2)).squeeze(2)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in (2, 3, 4):
            super()._check_input_dim(input)


def chunk_channels(x_BCF: Tensor, count: int) -> list[Tensor]:
    """Equally many channels each; their gradients are put together in the order of memory of ``x_BCF``."""
    if not _is_channels_last(x_BCF):
        return list(x_BCF.chunk(count, dim=1))
    return [part_BC1F.squeeze(2) for part_BC1F in x_BCF.unsqueeze(2).chunk(count, dim=1)]


def cat_channels(parts: Sequence[Tensor]) -> Tensor:
    """The channels of all parts, in the order of the parts' memory."""
    if not _is_channels_last(parts[0]):
        return torch.cat(list(parts), dim=1)
    return torch.cat([part_BCF.unsqueeze(2) for part_BCF in parts], dim=1).squeeze(2)


def _is_channels_last(x_BCF: Tensor) -> bool:
    return x_BCF.ndim == 3 and x_BCF.stride(1) == 1 and x_BCF.stride(2) != 1
