"""The waveform itself as features, for networks that learn their own (WavLM).

A frame is the next ``num_mels`` samples: frames do not overlap, so that the network can put the waveform
together again, and everything that counts in frames (chunks, the shortest utterance) goes on as it is.

Shape suffixes: B utterance, T sample, F frame, M sample of a frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farvox.features.frontend import FrontEndConfig

_EPSILON = 1e-7  # of the variance, as in the feature extractor that WavLM is published with


class Waveform(nn.Module):
    """Samples in frames; what is left after the last whole frame is dropped.

    With ``mean = "utterance"`` the waveform is brought to zero mean and unit variance first, which WavLM
    Large was trained with; ``none`` leaves it in [-1, 1], as WavLM Base and Base+ had it.

    Args:
        config: a `FrontEndConfig` of kind "waveform".
    """

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, wav_BT: Tensor) -> Tensor:
        """Frames of a batch of waveforms of one length.

        Args:
            wav_BT: samples in [-1, 1]; computed in float32 whatever its type, also under autocast.

        Returns:
            feats_BFM float32.

        Raises:
            AudioError: the waveforms are too short for one frame.
        """
        self.config.refuse_too_short(wav_BT.shape[-1])
        size = self.config.num_mels
        with torch.autocast(wav_BT.device.type, enabled=False):
            wav_BT = wav_BT[:, : wav_BT.shape[-1] // size * size].float()
            if self.config.mean == "utterance":
                centred_BT = wav_BT - wav_BT.mean(dim=-1, keepdim=True)
                variance_B1 = centred_BT.square().mean(dim=-1, keepdim=True)
                wav_BT = centred_BT * torch.rsqrt(variance_B1 + _EPSILON)
            return wav_BT.reshape(len(wav_BT), -1, size)
