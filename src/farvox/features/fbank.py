"""The modules that turn waveforms into features, batched and on the device of the waveforms.

`KaldiFbank` follows Kaldi's ``compute-fbank-feats`` (Povey et al., 2011), `FfsvcMel` the mel spectrogram of
the FFSVC2022 baseline, `SpeechBrainFbank` the filterbank of SpeechBrain's recipes. All three compute frames
-> window -> power spectrum -> mel filters -> logarithm -> mean over time, in float32. `Waveform` passes the
samples on, for networks that learn their own features (WavLM).

Extraction, training and exported graphs compute the same way. Only the Fourier transform has a second form,
a product with a matrix, for graphs.

Shape suffixes: B utterance, T sample, F frame, N sample of a frame, K frequency bin, L real and imaginary
part of every bin in turn (2 K), M mel.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from farvox.errors import ModelError
from farvox.features.frontend import FrontEndConfig

_EPSILON = float(np.finfo(np.float32).eps)
_VARIANCE_EPSILON = 1e-7  # as in the feature extractor that WavLM is published with
_BLOCK = 256  # frames computed at a time on a CPU, twice as fast when they stay in its cache
_GROUPS = 4  # of mel filters, each multiplied only with the frequencies that it covers


class _LogMel(nn.Module, ABC):
    """The steps that the log-mel front-ends share; K - 1 is half the length of the Fourier transform."""

    window_N: Tensor
    mel_LM: Tensor

    def __init__(self, config: FrontEndConfig, window_N: np.ndarray, mel_KM: np.ndarray) -> None:
        super().__init__()
        self.config = config
        self.n_fft: int = 2 * (len(mel_KM) - 1)
        mel_LM = np.repeat(mel_KM.astype(np.float32), 2, axis=0)
        self.register_buffer("window_N", torch.from_numpy(window_N.astype(np.float32)), persistent=False)
        self.register_buffer("mel_LM", torch.from_numpy(mel_LM), persistent=False)
        self.groups: list[tuple[slice, slice]] = []
        for mels in np.array_split(np.arange(config.num_mels), min(_GROUPS, config.num_mels)):
            covered = np.flatnonzero(mel_LM[:, mels].any(axis=1)).tolist() or [0]
            self.groups.append((slice(covered[0], covered[-1] + 1), slice(int(mels[0]), int(mels[-1]) + 1)))

    def forward(self, wav_BT: Tensor) -> Tensor:
        """Compute feats_BFM float32 of a batch of waveforms of one length.

        Args:
            wav_BT: samples in [-1, 1]; computed in float32 whatever its type, also under autocast.

        Raises:
            AudioError: the waveforms are too short for one frame.
        """
        self.config.refuse_too_short(wav_BT.shape[-1])
        with torch.autocast(wav_BT.device.type, enabled=False):
            raw_BFN = self._frames(wav_BT.float())
            if not wav_BT.is_cpu:
                return self._normalised(self._log_mel(raw_BFN))
            num_utts, num_frames, _ = raw_BFN.shape
            log_mel_BFM = raw_BFN.new_empty(num_utts, num_frames, self.config.num_mels)
            for n, start in itertools.product(range(num_utts), range(0, num_frames, _BLOCK)):
                block = (n, slice(start, start + _BLOCK))
                log_mel_BFM[block] = self._log_mel(raw_BFN[block])
            return self._normalised(log_mel_BFM)

    def _log_mel(self, raw_BFN: Tensor) -> Tensor:
        """Compute the features of each frame by itself: raw_BFN -> log_mel_BFM."""
        squares_BFL = self._spectrum(self._windowed(raw_BFN)).square_()
        power = [squares_BFL[..., bins] @ self.mel_LM[bins, mels] for bins, mels in self.groups]
        return self._log(torch.cat(power, dim=-1))

    @abstractmethod
    def _frames(self, wav_BT: Tensor) -> Tensor:
        """Cut waveforms into frames that overlap, a view: wav_BT -> raw_BFN."""

    def _windowed(self, raw_BFN: Tensor) -> Tensor:
        """Prepare each frame by itself for the Fourier transform: raw_BFN -> frames_BFN."""
        return raw_BFN * self.window_N

    def _spectrum(self, frames_BFN: Tensor) -> Tensor:
        """Fourier transform of each frame, as real numbers: frames_BFN -> spectrum_BFL.

        A graph takes a product instead: onnxruntime's transform is ten times as slow, and loses digits that
        faint filters consist of (a filter of speechbrain-fbank was 0.17 dB off).
        """
        if isinstance(frames_BFN, Tensor):
            return torch.view_as_real(torch.fft.rfft(frames_BFN, n=self.n_fft)).flatten(-2)
        turns_NK = np.outer(np.arange(len(self.window_N)), np.arange(self.n_fft // 2 + 1)) / self.n_fft
        dft_NK = np.exp(-2j * np.pi * (turns_NK % 1)).astype(np.complex64)
        return frames_BFN @ torch.from_numpy(dft_NK.view(np.float32))

    @abstractmethod
    def _log(self, power: Tensor) -> Tensor:
        """Logarithm of the power in mel filters."""

    def _normalised(self, log_mel_BFM: Tensor) -> Tensor:
        """Subtract the mean over time, unless the config keeps it."""
        if self.config.mean == "none":
            return log_mel_BFM
        return log_mel_BFM - log_mel_BFM.mean(dim=1, keepdim=True)


class KaldiFbank(_LogMel):
    """Kaldi's log-mel filterbank: whole frames only (``snip_edges``), no energy, floor at float32 epsilon.

    With ``dither`` the noise added is the same for every utterance, so that features remain a function of
    the waveform alone (Kaldi draws anew at every call).

    Raises:
        ModelError: there are more filters than the frequencies can tell apart.
    """

    def __init__(self, config: FrontEndConfig) -> None:
        turn_N = np.arange(config.frame_length) / (config.frame_length - 1)
        hann_N = 0.5 - 0.5 * np.cos(2 * np.pi * turn_N)
        window_N = {"hann": hann_N, "hamming": 0.08 + 0.92 * hann_N, "povey": hann_N**0.85}[config.window]
        n_fft = 1 << (config.frame_length - 1).bit_length()
        mel_K = _kaldi_mel(np.arange(n_fft // 2 + 1) * config.sample_rate / n_fft)
        lowest, highest = _kaldi_mel(np.array([config.low_freq, config.top_freq]))
        step = (highest - lowest) / np.float32(config.num_mels + 1)
        mel_KM = _triangles(mel_K, lowest + np.arange(config.num_mels + 2, dtype=np.float32) * step)
        mel_KM[-1] = 0  # Kaldi leaves the Nyquist bin out
        if not mel_KM.any(axis=0).all():
            raise ModelError(
                f"front-end: {config.num_mels} mel filters are too many, some would cover no frequency at "
                "all; lower num_mels"
            )
        super().__init__(config, window_N, mel_KM)

    def _frames(self, wav_BT: Tensor) -> Tensor:
        """Whole frames of the scaled, perhaps dithered waveform."""
        wav_BT = wav_BT * self.config.sample_scale
        if self.config.dither:
            generator = torch.Generator(device=wav_BT.device).manual_seed(0)
            noise_T = torch.randn(wav_BT.shape[-1], generator=generator, device=wav_BT.device)
            wav_BT = wav_BT + self.config.dither * noise_T
        return wav_BT.unfold(-1, self.config.frame_length, self.config.frame_shift)

    def _windowed(self, raw_BFN: Tensor) -> Tensor:
        """DC removed, pre-emphasised (the first sample by itself), windowed: in this order, like Kaldi."""
        frames_BFN = raw_BFN - raw_BFN.mean(dim=-1, keepdim=True)
        previous_BFN = torch.cat([frames_BFN[..., :1], frames_BFN[..., :-1]], dim=-1)
        return frames_BFN.sub_(previous_BFN.mul_(self.config.preemphasis)).mul_(self.window_N)

    def _log(self, power: Tensor) -> Tensor:
        """Natural logarithm, not below that of float32 epsilon."""
        return power.clamp_min(_EPSILON).log_()


class FfsvcMel(_LogMel):
    """The FFSVC2022 baseline's feature: log mel spectrogram of the waveform at zero mean and unit deviation.

    Frames are centred (reflected edges), so that n samples give 1 + n // 160 frames. Window and filters are
    rounded to float32 where the baseline rounds them: the features then agree to the last digits.
    """

    def __init__(self, config: FrontEndConfig) -> None:
        window_N = np.pad(torch.hann_window(config.frame_length, periodic=True).numpy(), 56)
        super().__init__(config, window_N, _triangles(*_htk_mel_points(config, n_fft=512)))

    def _frames(self, wav_BT: Tensor) -> Tensor:
        """Centred frames of the waveform at zero mean and unit deviation."""
        centred_BT = wav_BT - wav_BT.mean(dim=-1, keepdim=True)
        wav_BT = centred_BT / wav_BT.std(dim=-1, keepdim=True).clamp_min(1e-6)
        padded_BT = nn.functional.pad(wav_BT, (self.n_fft // 2, self.n_fft // 2), mode="reflect")
        return padded_BT.unfold(-1, self.n_fft, self.config.frame_shift)

    def _log(self, power: Tensor) -> Tensor:
        """Logarithm of power + 1e-6."""
        return (power + 1e-6).log_()


class SpeechBrainFbank(_LogMel):
    """SpeechBrain's ``Fbank``: decibels of a power spectrogram, at most 80 below the utterance's loudest.

    Frames are centred, with zeros beyond the edges, so that n samples give 1 + n // 160 frames; the Fourier
    transform is no longer than a frame. Window and filters are rounded to float32 where SpeechBrain rounds
    them. The right sides of its filters mirror the left ones.
    """

    def __init__(self, config: FrontEndConfig) -> None:
        window_N = torch.hamming_window(config.frame_length, periodic=True).numpy()
        hz_K, corners_hz = _htk_mel_points(config, n_fft=config.frame_length)
        slope_KM = (hz_K[:, None] - corners_hz[1:-1]) / (corners_hz[1:-1] - corners_hz[:-2])
        super().__init__(config, window_N, np.maximum(0, np.minimum(slope_KM + 1, 1 - slope_KM)))

    def _frames(self, wav_BT: Tensor) -> Tensor:
        """Centred frames of the waveform."""
        padded_BT = nn.functional.pad(wav_BT, (self.n_fft // 2, self.n_fft // 2))
        return padded_BT.unfold(-1, self.n_fft, self.config.frame_shift)

    def _log(self, power: Tensor) -> Tensor:
        """Decibels, not below -100."""
        return power.clamp_min(1e-10).log10_().mul_(10)

    def _normalised(self, log_mel_BFM: Tensor) -> Tensor:
        """Raise decibels to 80 below the utterance's loudest, then subtract the mean over time."""
        lowest_B11 = log_mel_BFM.amax(dim=(1, 2), keepdim=True) - 80
        return super()._normalised(torch.maximum(log_mel_BFM, lowest_B11))


class Waveform(nn.Module):
    """The samples themselves in frames that do not overlap; the rest after the last whole frame is dropped.

    A frame is the next ``num_mels`` samples, so that the network can put the waveform together again, and
    chunks and the shortest utterance are counted in frames as for any front-end. With ``mean = "utterance"``
    the waveform is brought to zero mean and unit variance first, which WavLM Large was trained with; ``none``
    leaves it in [-1, 1], as WavLM Base and Base+ had it.
    """

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, wav_BT: Tensor) -> Tensor:
        """Cut a batch of waveforms of one length; see `KaldiFbank.forward` for types and errors."""
        self.config.refuse_too_short(wav_BT.shape[-1])
        size = self.config.num_mels
        with torch.autocast(wav_BT.device.type, enabled=False):
            wav_BT = wav_BT[:, : wav_BT.shape[-1] // size * size].float()
            if self.config.mean == "utterance":
                centred_BT = wav_BT - wav_BT.mean(dim=-1, keepdim=True)
                variance_B1 = centred_BT.square().mean(dim=-1, keepdim=True)
                wav_BT = centred_BT * torch.rsqrt(variance_B1 + _VARIANCE_EPSILON)
            return wav_BT.reshape(wav_BT.shape[0], -1, size)


def build_frontend(config: FrontEndConfig) -> nn.Module:
    """Build the module that computes the features.

    Returns:
        a module without parameters and with an empty state dict: wav_BT (samples in [-1, 1], all of one
        length) -> feats_BFM float32 (B utterance, F frame, M mel, or sample of a frame).
    """
    kinds = {
        "kaldi-fbank": KaldiFbank,
        "ffsvc-mel": FfsvcMel,
        "speechbrain-fbank": SpeechBrainFbank,
        "waveform": Waveform,
    }
    frontend: nn.Module = kinds[config.kind](config)
    return frontend


def _htk_mel_points(config: FrontEndConfig, n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """Hz of every frequency bin, and of the corners of filters from 0 to Nyquist, in float32."""
    nyquist = config.sample_rate / 2
    hz_K = torch.linspace(0, nyquist, n_fft // 2 + 1)
    corners_mel = torch.linspace(0, 2595 * math.log10(1 + nyquist / 700), config.num_mels + 2)
    return hz_K.numpy(), (700 * (10 ** (corners_mel / 2595) - 1)).numpy()


def _kaldi_mel(hz: np.ndarray) -> np.ndarray:
    mel: np.ndarray = np.float32(1127) * np.log(1 + hz.astype(np.float32) / np.float32(700))
    return mel


def _triangles(points_K: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Triangle m rises from ``corners[m]`` to ``corners[m + 1]`` and falls to ``corners[m + 2]``: KM."""
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising_KM = (points_K[:, None] - left) / (centre - left)
    falling_KM = (right - points_K[:, None]) / (right - centre)
    triangles_KM: np.ndarray = np.maximum(0, np.minimum(rising_KM, falling_KM))
    return triangles_KM
