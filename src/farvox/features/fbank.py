"""The modules that turn waveforms into features, batched and on the device of the waveform.

`KaldiFbank` follows Kaldi's ``compute-fbank-feats`` (Povey et al., 2011), `FfsvcMel` the mel spectrogram of
the FFSVC2022 baseline, `SpeechBrainFbank` the filterbank of SpeechBrain's recipes. All share the steps
frames -> window -> power spectrum -> mel filters -> log. `Waveform` passes the samples on, for networks that
learn their own features (WavLM).

Shape suffixes: B utterance, T sample, F frame, N sample of a frame, K frequency bin, M mel.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from farvox.errors import ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.features.kiss import KissPower

_EPSILON = float(np.finfo(np.float32).eps)
_FAINT = math.log(1e7)  # so far below the loudest filter of its frame
_CACHED_FRAMES = 256  # a CPU is twice as fast when what it works on stays in its cache
_VARIANCE_EPSILON = 1e-7  # as in the feature extractor that WavLM is published with
_BANDS = 4  # the mel filters in groups, each multiplied with the frequencies it hears only


class _LogMel(nn.Module):
    """What the front-ends share; a subclass says how frames and logarithm are made."""

    window_N: Tensor
    mel_KM: Tensor

    def __init__(self, config: FrontEndConfig, window_N: np.ndarray, mel_KM: np.ndarray) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window_N", torch.from_numpy(window_N.astype(np.float32)), persistent=False)
        self.register_buffer("mel_KM", torch.from_numpy(mel_KM.astype(np.float32)), persistent=False)
        self.bands = _bands(self.mel_KM)

    def forward(self, wav_BT: Tensor) -> Tensor:
        """Features of a batch of waveforms of one length.

        Args:
            wav_BT: samples in [-1, 1]; computed in float32 whatever its type, also under autocast.

        Returns:
            feats_BFM float32.

        Raises:
            AudioError: the waveforms are too short for one frame.
        """
        self.config.refuse_too_short(wav_BT.shape[-1])
        with torch.autocast(wav_BT.device.type, enabled=False):
            raw_BFN = self.cut(wav_BT.float())
            log_mel_BFM = self._in_cache(raw_BFN) if _is_plain(raw_BFN) else self.log_mel(raw_BFN)
            return self.levelled(self.refined(log_mel_BFM, raw_BFN))

    def cut(self, wav_BT: Tensor) -> Tensor:
        """Frames that overlap, a view: wav_BT -> raw_BFN."""
        raise TypeError(f"{type(self).__name__} does not say how a waveform is cut into frames")

    def windowed(self, raw_BFN: Tensor) -> Tensor:
        """What the FFT is taken of, each frame by itself: raw_BFN -> frames_BFN."""
        raise TypeError(f"{type(self).__name__} does not say how a frame is prepared")

    def prepare_(self, raw_FN: Tensor, frames_FN: Tensor, scratch_FN: Tensor) -> None:
        """`windowed` of one utterance's frames into ``frames_FN``, with the same roundings."""
        raise TypeError(f"{type(self).__name__} does not say how a frame is prepared")

    def _in_cache(self, raw_BFN: Tensor) -> Tensor:
        """`log_mel` on a CPU: one utterance at a time, in memory that is used again and again."""
        num_utts, num_frames, num_samples = raw_BFN.shape
        scratch = _Scratch.of_this_thread(num_samples, _fft_size(self.config))
        out_BFM = raw_BFN.new_empty(num_utts, num_frames, self.config.num_mels)
        for raw_FN, out_FM in zip(raw_BFN, out_BFM, strict=True):
            for start in range(0, num_frames, _CACHED_FRAMES):
                part_FN = raw_FN[start : start + _CACHED_FRAMES]
                count = len(part_FN)
                self.prepare_(part_FN, scratch.padded_FN[:count, :num_samples], scratch.frames_FN[:count])
                power_FK = scratch.power(count)
                for mels, bins, filters_KM in self.bands:
                    torch.mm(power_FK[:, bins], filters_KM, out=out_FM[start : start + count, mels])
        return self.log(out_BFM)

    def log(self, power: Tensor) -> Tensor:
        """Logarithm of the power in mel filters."""
        raise TypeError(f"{type(self).__name__} does not say how its logarithm is taken")

    def refined(self, log_mel_BFM: Tensor, raw_BFN: Tensor) -> Tensor:
        """Better values for the frames that ask for them: none, unless a subclass knows how."""
        return log_mel_BFM

    def log_mel(self, raw_BFN: Tensor) -> Tensor:
        """Features of each frame by itself: raw_BFN -> log_mel_BFM."""
        spectrum_BFK = torch.fft.rfft(self.windowed(raw_BFN), n=_fft_size(self.config))
        squares_BFK2 = torch.view_as_real(spectrum_BFK).square()
        return self.log(torch.matmul(squares_BFK2[..., 0] + squares_BFK2[..., 1], self.mel_KM))

    def levelled(self, log_mel_BFM: Tensor) -> Tensor:
        """What takes all frames of an utterance: the mean over time goes, unless it is to stay."""
        if self.config.mean == "none":
            return log_mel_BFM
        return log_mel_BFM - log_mel_BFM.mean(dim=1, keepdim=True)


class _Scratch(threading.local):
    """Memory of one thread for frames on their way to power: new memory would cost as much as the FFT.

    Attributes:
        padded_FN: frames, followed by zeros up to the size of the FFT.
        frames_FN: room for a second copy.
    """

    def __init__(self, num_samples: int, n_fft: int) -> None:  # runs again in every thread
        num_bins = n_fft // 2 + 1
        with torch.inference_mode(False):  # tensors made in it could not be written to outside
            self.padded_FN = torch.zeros(_CACHED_FRAMES, n_fft)
            self.frames_FN = torch.empty(_CACHED_FRAMES, num_samples)
            self.spectrum_FK = torch.empty(_CACHED_FRAMES, num_bins, dtype=torch.complex64)
            self.power_FK = torch.empty(_CACHED_FRAMES, num_bins)
        # numpy squares parts of complex numbers faster than torch does.
        self.squares_FK = np.empty((_CACHED_FRAMES, num_bins), np.float32)

    @staticmethod
    @cache
    def of_this_thread(num_samples: int, n_fft: int) -> _Scratch:
        """The one for frames of this length."""
        return _Scratch(num_samples, n_fft)

    def power(self, count: int) -> Tensor:
        """Power spectrum of the first ``count`` rows of `padded_FN`."""
        spectrum_FK, power_FK = self.spectrum_FK[:count], self.power_FK[:count]
        torch.fft.rfft(self.padded_FN[:count], out=spectrum_FK)
        complex_FK, squares_FK, out_FK = spectrum_FK.numpy(), self.squares_FK[:count], power_FK.numpy()
        np.square(complex_FK.real, out=out_FK)
        np.square(complex_FK.imag, out=squares_FK)
        np.add(out_FK, squares_FK, out=out_FK)
        return power_FK


class KaldiFbank(_LogMel):
    """Kaldi's log-mel filterbank: whole frames only (``snip_edges``), no energy, floor at float32 epsilon.

    With ``dither`` the noise added is the same for every utterance, so that features remain a function of
    the waveform alone (Kaldi draws anew at every call).

    A filter with less than a ten-millionth of the loudest one's power is made of rounding. Frames with such a
    filter (one in twenty of real speech) are computed again with the roundings of kaldi-native-fbank; then
    every value of 16-bit audio is within 1e-3 of it. (Finer samples have no exact sum in float32, so that the
    DC removed differs in its last digits, and with it the faintest filters.)

    Args:
        config: a `FrontEndConfig` of kind "kaldi-fbank".
        exact: compute frames with a faint filter again.

    Raises:
        ModelError: there are more filters than the frequencies can tell apart.
    """

    def __init__(self, config: FrontEndConfig, *, exact: bool = True) -> None:
        super().__init__(config, _kaldi_window(config), _kaldi_mel_filters(config))
        self.exact = exact
        self.kiss_power = KissPower(_fft_size(config))

    def cut(self, wav_BT: Tensor) -> Tensor:
        """Whole frames of the scaled, perhaps dithered waveform."""
        scaled_BT = self._dithered(wav_BT * self.config.sample_scale)
        return scaled_BT.unfold(-1, self.config.frame_length, self.config.frame_shift)

    def windowed(self, raw_BFN: Tensor) -> Tensor:
        """DC removed, pre-emphasised (the first sample by itself), windowed: in this order, like Kaldi."""
        sum_BF1 = _exact_sum(raw_BFN) if self.exact else raw_BFN.sum(dim=-1, keepdim=True)
        frames_BFN = raw_BFN - sum_BF1 / self.config.frame_length
        previous_BFN = self.config.preemphasis * frames_BFN
        frames_BFN[..., 1:] -= previous_BFN[..., :-1]
        frames_BFN[..., :1] -= previous_BFN[..., :1]
        return frames_BFN.mul_(self.window_N)

    def prepare_(self, raw_FN: Tensor, frames_FN: Tensor, scratch_FN: Tensor) -> None:
        """`windowed`, step for step if exact."""
        if not self.exact and raw_FN.stride(1) == 1:
            self._prepare_quickly_(raw_FN, frames_FN)
            return
        torch.sub(raw_FN, _sum_of_overlapping(raw_FN) / self.config.frame_length, out=frames_FN)
        torch.mul(frames_FN, self.config.preemphasis, out=scratch_FN)
        frames_FN[:, 1:] -= scratch_FN[:, :-1]
        frames_FN[:, :1] -= scratch_FN[:, :1]
        frames_FN *= self.window_N

    def _prepare_quickly_(self, raw_FN: Tensor, frames_FN: Tensor) -> None:
        """`windowed` in half the passes: pre-emphasis comes first, and then goes what it left of the DC."""
        (num_frames, length), (shift, _) = raw_FN.shape, raw_FN.stride()
        left = 1 - self.config.preemphasis
        wav_T = raw_FN.as_strided(((num_frames - 1) * shift + length,), (1,))
        emphasised_T = torch.sub(wav_T[1:], wav_T[:-1], alpha=self.config.preemphasis)
        level_F1 = raw_FN.mean(dim=-1, keepdim=True) * left
        torch.sub(
            emphasised_T.as_strided((num_frames, length - 1), (shift, 1)), level_F1, out=frames_FN[:, 1:]
        )
        torch.sub(left * raw_FN[:, :1], level_F1, out=frames_FN[:, :1])
        frames_FN *= self.window_N

    def log(self, power: Tensor) -> Tensor:
        """Natural logarithm, not below that of float32 epsilon."""
        return power.clamp_min(_EPSILON).log()

    def refined(self, log_mel_BFM: Tensor, raw_BFN: Tensor) -> Tensor:
        """Frames with a faint filter computed again by `KissPower`."""
        if not self.exact:
            return log_mel_BFM
        faint_BF = log_mel_BFM.amax(dim=-1) - log_mel_BFM.amin(dim=-1) > _FAINT
        frames_SN = self.windowed(raw_BFN[faint_BF])
        if len(frames_SN) == 0:
            return log_mel_BFM
        padding = _fft_size(self.config) - self.config.frame_length
        padded_NS = nn.functional.pad(frames_SN.T, (0, 0, 0, padding))
        if _is_plain(raw_BFN):
            power_KS = torch.from_numpy(self.kiss_power.of_array(padded_NS.numpy()))
        else:
            power_KS = self.kiss_power(padded_NS)
        return log_mel_BFM.index_put((faint_BF,), self.log(torch.matmul(power_KS.T, self.mel_KM[:-1])))

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

    def cut(self, wav_BT: Tensor) -> Tensor:
        """Centred frames of the waveform at zero mean and unit deviation."""
        centred_BT = wav_BT - wav_BT.mean(dim=-1, keepdim=True)
        wav_BT = centred_BT / wav_BT.std(dim=-1, keepdim=True).clamp_min(1e-6)
        n_fft = _fft_size(self.config)
        padded_BT = nn.functional.pad(wav_BT, (n_fft // 2, n_fft // 2), mode="reflect")
        return padded_BT.unfold(-1, n_fft, self.config.frame_shift)

    def windowed(self, raw_BFN: Tensor) -> Tensor:
        """Frames times window."""
        return raw_BFN * self.window_N

    def prepare_(self, raw_FN: Tensor, frames_FN: Tensor, scratch_FN: Tensor) -> None:
        """Frames times window."""
        torch.mul(raw_FN, self.window_N, out=frames_FN)

    def log(self, power: Tensor) -> Tensor:
        """Logarithm of power + 1e-6."""
        return (power + 1e-6).log()


class SpeechBrainFbank(_LogMel):
    """SpeechBrain's ``Fbank``: decibels of a power spectrogram, at most 80 below the utterance's loudest.

    Frames are centred, with zeros beyond the edges, so that n samples give 1 + n // 160 frames; the FFT is no
    longer than a frame. Window and filters are rounded to float32 where SpeechBrain rounds them.

    Args:
        config: a `FrontEndConfig` of kind "speechbrain-fbank".
    """

    def __init__(self, config: FrontEndConfig) -> None:
        window_N = torch.hamming_window(config.frame_length, periodic=True).numpy()
        super().__init__(config, window_N, _speechbrain_mel_filters(config))

    def cut(self, wav_BT: Tensor) -> Tensor:
        """Centred frames of the waveform."""
        n_fft = _fft_size(self.config)
        padded_BT = nn.functional.pad(wav_BT, (n_fft // 2, n_fft // 2))
        return padded_BT.unfold(-1, n_fft, self.config.frame_shift)

    def windowed(self, raw_BFN: Tensor) -> Tensor:
        """Frames times window."""
        return raw_BFN * self.window_N

    def prepare_(self, raw_FN: Tensor, frames_FN: Tensor, scratch_FN: Tensor) -> None:
        """Frames times window."""
        torch.mul(raw_FN, self.window_N, out=frames_FN)

    def log(self, power: Tensor) -> Tensor:
        """Decibels, not below -100."""
        return 10 * power.clamp_min(1e-10).log10()

    def levelled(self, log_mel_BFM: Tensor) -> Tensor:
        """Decibels raised to 80 below the utterance's loudest, then the mean over time removed."""
        lowest_B11 = log_mel_BFM.amax(dim=(1, 2), keepdim=True) - 80
        return super().levelled(torch.maximum(log_mel_BFM, lowest_B11))


class Waveform(nn.Module):
    """The samples themselves in frames that do not overlap; the rest after the last whole frame is dropped.

    A frame is the next ``num_mels`` samples, so that the network can put the waveform together again, and
    chunks and the shortest utterance are counted in frames as for any front-end. With ``mean = "utterance"``
    the waveform is brought to zero mean and unit variance first, which WavLM Large was trained with; ``none``
    leaves it in [-1, 1], as WavLM Base and Base+ had it.

    Args:
        config: a `FrontEndConfig` of kind "waveform".
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


def build_frontend(config: FrontEndConfig, *, exact: bool = True) -> nn.Module:
    """Build the module that computes the features.

    Args:
        config: a front-end, in full.
        exact: let Kaldi's features agree with Kaldi's own roundings in filters that hold next to nothing.
            Training does without: at a speed below 1 every frame has such filters.

    Returns:
        a module without parameters and with an empty state dict: wav_BT (samples in [-1, 1], all of one
        length) -> feats_BFM float32 (B utterance, F frame, M mel, or sample of a frame).
    """
    kinds: dict[str, Callable[[FrontEndConfig], nn.Module]] = {
        "kaldi-fbank": partial(KaldiFbank, exact=exact),
        "ffsvc-mel": FfsvcMel,
        "speechbrain-fbank": SpeechBrainFbank,
        "waveform": Waveform,
    }
    return kinds[config.kind](config)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it lies in this computer's memory and nobody asks for its gradient."""
    return tensor.is_cpu and not (torch.is_grad_enabled() and tensor.requires_grad)


def _exact_sum(raw_BFN: Tensor) -> Tensor:
    """Sum of each frame [B, F, 1], rounded once, so that no order of additions shows in faint filters."""
    if raw_BFN.device.type == "mps":  # which has no float64
        return raw_BFN.sum(dim=-1, keepdim=True)
    return raw_BFN.sum(dim=-1, keepdim=True, dtype=torch.float64).float()


def _sum_of_overlapping(raw_FN: Tensor) -> Tensor:
    """`_exact_sum` of frames that overlap: what they share is summed once."""
    num_frames, length = raw_FN.shape
    shift, part = raw_FN.stride(0), math.gcd(length, raw_FN.stride(0))
    if raw_FN.stride(1) != 1 or part < 16:
        return _exact_sum(raw_FN)
    num_parts = ((num_frames - 1) * shift + length) // part
    sum_P = raw_FN.as_strided((num_parts, part), (part, 1)).sum(dim=-1, dtype=torch.float64)
    return sum_P.unfold(0, length // part, shift // part).sum(dim=-1, keepdim=True).float()


def _fft_size(config: FrontEndConfig) -> int:
    """The power of two that holds a frame; SpeechBrain takes the frame as it is."""
    if config.kind == "speechbrain-fbank":
        return config.frame_length
    return 1 << (config.frame_length - 1).bit_length()


def _bands(mel_KM: Tensor) -> list[tuple[slice, slice, Tensor]]:
    """Groups of filters: which, the frequencies that any of them hears, and their part of ``mel_KM``."""
    edges = np.linspace(0, mel_KM.shape[1], min(_BANDS, mel_KM.shape[1]) + 1).astype(int)
    bands = []
    for first, last in itertools.pairwise(edges.tolist()):
        heard = torch.nonzero(mel_KM[:, first:last].any(dim=1)).flatten().tolist() or [0]
        low, high = heard[0], heard[-1] + 1
        bands.append((slice(first, last), slice(low, high), mel_KM[low:high, first:last].contiguous()))
    return bands


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
    hz_K, corners_hz = _htk_mel_points(config)
    return _triangles(hz_K, corners_hz)


def _speechbrain_mel_filters(config: FrontEndConfig) -> np.ndarray:
    """The same triangles, but for their right sides, which mirror the left ones; in float32."""
    hz_K, corners_hz = _htk_mel_points(config)
    slope_KM = (hz_K[:, None] - corners_hz[1:-1]) / (corners_hz[1:-1] - corners_hz[:-2])
    filters_KM: np.ndarray = np.maximum(0, np.minimum(slope_KM + 1, 1 - slope_KM))
    return filters_KM


def _htk_mel_points(config: FrontEndConfig) -> tuple[np.ndarray, np.ndarray]:
    """Hz of every frequency bin, and of the corners of the filters."""
    nyquist = config.sample_rate / 2
    hz_K = torch.linspace(0, nyquist, _fft_size(config) // 2 + 1)
    corners_mel = torch.linspace(0, 2595 * math.log10(1 + nyquist / 700), config.num_mels + 2)
    return hz_K.numpy(), (700 * (10 ** (corners_mel / 2595) - 1)).numpy()


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
