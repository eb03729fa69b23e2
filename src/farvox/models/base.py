"""The base class of all networks, and layers over frames in either order of memory.

Shape suffixes: B utterance, F frame, M mel, C channel, E embedding.

torch has a channels-last order, all channels of a frame side by side, for images only; over frames its
convolutions and batch norms copy such an input, or walk it with long strides. `FrameConv`, `FrameNorm`,
`chunk_channels` and `cat_channels` take it for an image of one row and keep its order. In bf16 that is the
quicker order on a CPU, see docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from farvox.errors import AudioError, ModelError
from farvox.machine import has_bf16
from farvox.models.options import ModelOptions


class EmbeddingNetwork(nn.Module):
    """A network ``feats_BFM -> emb_BE``.

    Attributes:
        num_mels: features per frame that it takes.
        embedding_dim: numbers per embedding that it gives.
        min_frames: the shortest utterance, in frames, that it can embed.
        channels_last: see `use_channels_last`.
    """

    channels_last: bool = False

    def __init__(self, options: ModelOptions, min_frames: int = 1) -> None:
        super().__init__()
        self.num_mels: int = options.num_mels
        self.embedding_dim: int = options.embedding_dim
        self.trained_mean: str | None = None  # ``mean`` of the front-end that pretrained weights want
        self.min_frames = min_frames

    def mels_first(self, feats_BFM: Tensor) -> Tensor:
        """Check features and transpose them for a convolution: [B, M, F], a view.

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
        """Keep all channels of a frame side by side in memory: the quicker order in bf16."""
        self.channels_last = True
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def is_faster_in_channels_last(self, device: torch.device, precision: str) -> bool:
        """True where a training step was measured to be faster after `use_channels_last`.

        Two-dimensional convolutions are on CPUs with bf16: a ResNet34 gains a third of its step in bf16, a
        fifth in fp32; with AVX2 alone it would lose a tenth. GPUs were not measured.
        """
        return bool(_convolutions(self)) and device.type == "cpu" and has_bf16(device)

    def crashes_in_channels_last(self, device: torch.device) -> bool:
        """True where a training step after `use_channels_last` would end the process, now and then.

        On CPUs, torch 2.13 writes beyond its memory in the gradient of a strided convolution of 1 x 1 with
        fewer than 16 channels, in fp32 and in bf16.
        """
        return device.type == "cpu" and any(
            each.kernel_size == (1, 1) and each.stride != (1, 1) and each.in_channels < 16
            for each in _convolutions(self)
        )

    def subtract(self, centre_E: Tensor) -> None:
        """Subtract a vector from every embedding from now on, in the layer that gives them.

        Raises:
            ModelError: there is no such layer, or it has no place for one.
        """
        given: list[tuple[nn.Module, Tensor]] = []

        def look(module: nn.Module, _: object, out_BE: Tensor) -> None:
            given.append((module, out_BE))

        hooks = [
            module.register_forward_hook(look)
            for module in self.modules()
            if isinstance(module, nn.Linear | nn.modules.batchnorm._BatchNorm)
        ]
        is_training = self.training
        self.eval()
        weight = next(self.parameters())
        with torch.no_grad():
            emb_BE = self(torch.zeros(1, max(self.min_frames, 100), self.num_mels, device=weight.device))
            for hook in hooks:
                hook.remove()
            self.train(is_training)
            last = given[-1][0] if given else None
            if last is None or not torch.equal(given[-1][1], emb_BE):
                raise ModelError(f"{type(self).__name__} has no layer at its end that could hold a centre")
            centre_E = centre_E.to(weight)
            if isinstance(last.bias, nn.Parameter):
                last.bias.sub_(centre_E)
            elif isinstance(last, nn.modules.batchnorm._BatchNorm) and last.running_mean is not None:
                assert last.running_var is not None
                last.running_mean += centre_E * torch.sqrt(last.running_var + last.eps)
            else:
                raise ModelError(
                    f"{type(self).__name__}: its last layer has no bias that could hold a centre"
                )

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
        """Those that build this network again, also where a file that it read when it was built is absent."""
        return dict(kwargs)


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


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
        if input.ndim != 4:
            super()._check_input_dim(input)


def chunk_channels(x_BCF: Tensor, count: int) -> list[Tensor]:
    """Cut into parts of as many channels; their gradients are joined in the memory order of ``x_BCF``."""
    if not _is_channels_last(x_BCF):
        return list(x_BCF.chunk(count, dim=1))
    return [part_BC1F.squeeze(2) for part_BC1F in x_BCF.unsqueeze(2).chunk(count, dim=1)]


def cat_channels(parts: Sequence[Tensor]) -> Tensor:
    """Join the channels of all parts, in the memory order of the parts."""
    if not _is_channels_last(parts[0]):
        return torch.cat(list(parts), dim=1)
    return torch.cat([part_BCF.unsqueeze(2) for part_BCF in parts], dim=1).squeeze(2)


def _is_channels_last(x_BCF: Tensor) -> bool:
    return x_BCF.ndim == 3 and x_BCF.stride(1) == 1 and x_BCF.stride(2) != 1
