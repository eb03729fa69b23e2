"""Log-mel features, batched and on the device of the waveform.

`KaldiFbank` follows Kaldi's ``compute-fbank-feats`` (Povey et al., 2011) and `FfsvcMel` the mel spectrogram
of the FFSVC2022 baseline. Both share one road: frames -> window -> power spectrum -> mel filters -> log.

Shape suffixes: B utterance, T sample, F frame, N sample of a frame, K frequency bin, M mel.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from farvox.errors import AudioError, ModelError
from farvox.features.frontend import FrontEndConfig

_EPSILON = float(np.finfo(np.float32).eps)
_CACHED_SAMPLES = 2**18  # a CPU is three times as fast when what it works on stays in its cache


class _LogMel(nn.Module):
    """What the two front-ends share; a subclass says how frames and logarithms are made."""

    window_N: Tensor
    mel_KM: Tensor

    def __init__(self, config: FrontEndConfig, window_N: np.ndarray, mel_KM: np.ndarray) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window_N", torch.from_numpy(window_N.astype(np.float32)), persistent=False)
        self.register_buffer("mel_KM", torch.from_numpy(mel_KM.astype(np.float32)), persistent=False)

    def forward(self, wav_BT: Tensor) -> Tensor:
        """Features of a batch of waveforms of one length.

        Args:
            wav_BT: samples in [-1, 1]; computed in float32 whatever its type, also under autocast.

        Returns:
            feats_BFM float32.

        Raises:
            AudioError: the waveforms are too short for one frame.
        """
        if wav_BT.shape[-1] < self.config.min_samples:
            raise AudioError(
                f"{wav_BT.shape[-1]} samples are too few for one frame of features: "
                f"{self.config.min_samples} are needed"
            )
        on_cpu = wav_BT.device.type == "cpu"
        block = max(1, _CACHED_SAMPLES // wav_BT.shape[-1] if on_cpu else len(wav_BT))
        return torch.cat([self.compute(part_BT) for part_BT in torch.split(wav_BT, block)])

    def compute(self, wav_BT: Tensor) -> Tensor:
        """What `forward` does, all at once and without its check."""
        with torch.autocast(wav_BT.device.type, enabled=False):
            feats_BFM = self.log_mel(wav_BT.float())
            if self.config.mean == "none":
                return feats_BFM
            return feats_BFM - feats_BFM.mean(dim=1, keepdim=True)

    def log_mel(self, wav_BT: Tensor) -> Tensor:
        """Features before mean normalisation: wav_BT -> feats_BFM."""
        raise TypeError(f"{type(self).__name__} does not say how its features are made")

    def _mel_power(self, frames_BFN: Tensor) -> Tensor:
        """Windowed frames, as long as the FFT -> power in each mel filter, BFM."""
        spectrum_BFK = torch.fft.rfft(frames_BFN)
        real_BFK, imag_BFK = spectrum_BFK.real, spectrum_BFK.imag
        power_BFK = real_BFK * real_BFK + imag_BFK * imag_BFK
        return torch.matmul(power_BFK, self.mel_KM)


class KaldiFbank(_LogMel):
    """Kaldi's log-mel filterbank: whole frames only (``snip_edges``), no energy, floor at float32 epsilon.

    With ``dither`` the noise added is the same for every utterance, so that features remain a function of
    the waveform alone (Kaldi draws anew at every call).

    A float32 FFT tells a filter's logarithm to 1e-3 where the filter holds more than a millionth of the
    frame's energy. Below that (one value in a thousand of real speech, in the lowest filters) every
    implementation has its own last digits, up to 0.06 apart.

    Args:
        config: a `FrontEndConfig` of kind "kaldi-fbank".

    Raises:
        ModelError: there are more filters than the frequencies can tell apart.
    """

    def __init__(self, config: FrontEndConfig) -> None:
        window_N = np.pad(_kaldi_window(config), (0, _fft_size(config) - config.frame_length))
        super().__init__(config, window_N, _kaldi_mel_filters(config))

    def log_mel(self, wav_BT: Tensor) -> Tensor:
        """Log-mel energies before mean normalisation.

        DC removal and pre-emphasis act on each frame alone. Written out, the sample n > 0 of a frame with
        mean m becomes (x[n] - c x[n-1]) - (1 - c) m, where the bracket does not depend on the frame, and the
        first becomes (1 - c) (x[0] - m).
        """
        length, shift, c = self.config.frame_length, self.config.frame_shift, self.config.preemphasis
        n_fft = _fft_size(self.config)
        scaled_BT = self._dithered(wav_BT * self.config.sample_scale)
        wav_BT = nn.functional.pad(scaled_BT, (0, n_fft - length))  # the window is 0 there
        raw_BFN = wav_BT.unfold(-1, n_fft, shift)
        mean_BF1 = raw_BFN[..., :length].mean(dim=-1, keepdim=True)
        emphasised_BT = torch.cat([wav_BT[:, :1], wav_BT[:, 1:] - c * wav_BT[:, :-1]], dim=1)
        frames_BFN = emphasised_BT.unfold(-1, n_fft, shift) - (1 - c) * mean_BF1
        frames_BFN[..., :1] = (1 - c) * (raw_BFN[..., :1] - mean_BF1)
        return self._mel_power(frames_BFN.mul_(self.window_N)).clamp_min(_EPSILON).log()

    def _dithered(self, wav_BT: Tensor) -> Tensor:
        if self.config.dither == 0:
            return wav_BT
        generator = torch.Generator(device=wav_BT.device).manual_seed(0)
        noise_T = torch.randn(wav_BT.shape[-1], generator=generator, device=wav_BT.device)
        return wav_BT + self.config.dither * noise_T


class FfsvcMel(_LogMel):
    """The FFSVC2022 baseline's feature: log mel spectrogram of the waveform at zero mean and unit deviation.

    Frames are centred (reflected edges), so that n samples give 1 + n // 160 frames. Window and filters are
    rounded to float32 where the baseline rounds them: the features then agree to the last digits.

    Args:
        config: a `FrontEndConfig` of kind "ffsvc-mel".
    """

    def __init__(self, config: FrontEndConfig) -> None:
        margin = (_fft_size(config) - config.frame_length) // 2
        window_N = np.pad(torch.hann_window(config.frame_length, periodic=True).numpy(), margin)
        super().__init__(config, window_N, _htk_mel_filters(config))

    def log_mel(self, wav_BT: Tensor) -> Tensor:
        """Log-mel powers before mean normalisation: log(mel + 1e-6)."""
        centred_BT = wav_BT - wav_BT.mean(dim=-1, keepdim=True)
        wav_BT = centred_BT / wav_BT.std(dim=-1, keepdim=True).clamp_min(1e-6)
        n_fft = _fft_size(self.config)
        padded_BT = nn.functional.pad(wav_BT, (n_fft // 2, n_fft // 2), mode="reflect")
        frames_BFN = padded_BT.unfold(-1, n_fft, self.config.frame_shift)
        return (self._mel_power(frames_BFN * self.window_N) + 1e-6).log()


def _fft_size(config: FrontEndConfig) -> int:
    """The power of two that holds a frame."""
    return 1 << (config.frame_length - 1).bit_length()


def _kaldi_window(config: FrontEndConfig) -> np.ndarray:
    turn_N = np.arange(config.frame_length) / (config.frame_length - 1)
    hann_N: np.ndarray = 0.5 - 0.5 * np.cos(2 * np.pi * turn_N)
    if config.window == "hamming":
        return 0.08 + 0.92 * hann_N
    return hann_N**0.85 if config.window == "povey" else hann_N


def _kaldi_mel_filters(config: FrontEndConfig) -> np.ndarray:
    """Triangles on the mel scale 1127 ln(1 + f / 700), in float32; the Nyquist bin is never heard."""
    n_fft = _fft_size(config)
    mel_K = _mel(np.arange(n_fft // 2 + 1) * config.sample_rate / n_fft)
    lowest, highest = _mel(np.array([config.low_freq, config.top_freq]))
    edges = lowest + np.arange(config.num_mels + 2, dtype=np.float32) * (
        (highest - lowest) / np.float32(config.num_mels + 1)
    )
    filters_KM = _triangles(mel_K, edges)
    filters_KM[-1] = 0
    if not filters_KM.any(axis=0).all():
        raise ModelError(
            f"front-end: {config.num_mels} mel filters are too many, some would hear no frequency at all; "
            f"lower num_mels"
        )
    return filters_KM


def _htk_mel_filters(config: FrontEndConfig) -> np.ndarray:
    """Triangles in Hz, 0 to Nyquist, with corners equally far apart on the mel scale; not normalised."""
    nyquist = config.sample_rate / 2
    hz_K = torch.linspace(0, nyquist, _fft_size(config) // 2 + 1)
    corners_mel = torch.linspace(0, 2595 * math.log10(1 + nyquist / 700), config.num_mels + 2)
    return _triangles(hz_K.numpy(), (700 * (10 ** (corners_mel / 2595) - 1)).numpy())


def _mel(hz: np.ndarray) -> np.ndarray:
    mel: np.ndarray = np.float32(1127) * np.log(1 + hz.astype(np.float32) / np.float32(700))
    return mel


def _triangles(points_K: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Triangle m rises from ``edges[m]`` to ``edges[m + 1]`` and falls to ``edges[m + 2]``: KM."""
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising_KM = (points_K[:, None] - left) / (centre - left)
    falling_KM = (right - points_K[:, None]) / (right - centre)
    triangles_KM: np.ndarray = np.maximum(0, np.minimum(rising_KM, falling_KM))
    return triangles_KM
