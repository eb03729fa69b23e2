"""Rooms and noise put on a signal; what augmentation and simulation share.

Shape suffixes: C channel (microphone), T sample, R sample of a room impulse response (RIR).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from farvox.errors import AudioError

Array = NDArray[np.float32]
Spectrum = NDArray[np.complex64]

_SILENT_POWER = 1e-10


def power(wav_T: Array) -> float:
    """Mean square of a waveform, summed in float64 whatever its level."""
    wide_T = wav_T.astype(np.float64)
    # einsum, not BLAS: its threads wait for each other in every data-loader worker
    return float(np.einsum("t,t->", wide_T, wide_T)) / max(1, len(wide_T))


def is_silent(wav_T: Array) -> bool:
    """Whether a waveform is too weak to say anything: below -100 dB of full scale, or empty."""
    return power(wav_T) < _SILENT_POWER


def add_noise(speech_T: Array, noise_T: Array, snr_db: float) -> Array:
    """Mix ``noise_T`` into ``speech_T`` so that 10 log10(Ps / Pn) equals ``snr_db``.

    Args:
        speech_T: samples in [-1, 1].
        noise_T: as many; tiled and cropped by the caller.
        snr_db: power ratio in dB, measured over the whole chunk.

    Returns:
        float32 samples: the speech at its own level plus the noise; may leave [-1, 1].

    Raises:
        AudioError: the lengths differ, or either signal is silent, so that no ratio exists.
    """
    if len(speech_T) != len(noise_T):
        raise AudioError(f"cannot mix {len(speech_T)} samples of speech with {len(noise_T)} of noise")
    speech_power, noise_power = power(speech_T), power(noise_T)
    if speech_power == 0 or noise_power == 0:
        raise AudioError("cannot set a signal-to-noise ratio: one of the signals is silent")
    gain = np.sqrt(speech_power / noise_power) * 10 ** (-snr_db / 20)
    return speech_T + np.float32(gain) * noise_T


def convolve_rir(
    speech_T: Array, rir_R: Array, *, aligned: bool = True, rir_spectrum: Spectrum | None = None
) -> Array:
    """Speech as heard in the room of an RIR; as long as it was.

    Args:
        speech_T: samples.
        rir_R: the impulse response, at the same rate.
        aligned: start at the direct path (the RIR's largest sample), so that the speech does not shift, and
            keep the power. Otherwise give the first samples of the convolution as they are, which is what
            the FFSVC2022 baseline does.
        rir_spectrum: ``rfft(rir_R, fft_size(len(speech_T), len(rir_R)))`` where it is known already.

    Returns:
        float32 [T]; the speech itself where ``aligned`` and nothing of it comes through the RIR.

    Raises:
        AudioError: the RIR is empty or not finite.
    """
    if len(rir_R) == 0 or not np.isfinite(rir_R).all():
        raise AudioError("a room impulse response must have finite samples, at least one")
    num_samples = len(speech_T)
    if num_samples == 0:
        return speech_T
    size = fft_size(num_samples, len(rir_R))
    if rir_spectrum is None:
        rir_spectrum = rfft(rir_R, size)
    delay = direct_path(rir_R) if aligned else 0
    wet_T: Array = irfft(rfft(speech_T, size) * rir_spectrum, size)[delay : delay + num_samples]
    if not aligned:
        return wet_T
    wet_power = power(wet_T)
    return wet_T * np.float32(np.sqrt(power(speech_T) / wet_power)) if wet_power > 0 else speech_T


def convolve_array(wav_T: Array, rirs_CR: Array) -> Array:
    """A signal as the microphones of an array hear it: as long as it was, with the delays between them kept.

    It begins where the direct sound reaches the first microphone. Levels are as the RIRs give them.

    Args:
        wav_T: samples.
        rirs_CR: the impulse response to each microphone, at the same rate.

    Returns:
        float32 wav_CT.

    Raises:
        AudioError: the RIRs are empty or not finite.
    """
    if rirs_CR.size == 0 or not np.isfinite(rirs_CR).all():
        raise AudioError("room impulse responses must have finite samples, at least one")
    size = fft_size(len(wav_T), rirs_CR.shape[1])
    delay = min(direct_path(rir_R) for rir_R in rirs_CR)
    spectrum = rfft(wav_T, size)
    heard = [irfft(spectrum * rfft(rir_R, size), size)[delay : delay + len(wav_T)] for rir_R in rirs_CR]
    return np.stack(heard).astype(np.float32)


def direct_path(rir_R: Array) -> int:
    """Place of the direct sound in an RIR: its largest sample, which is Kaldi's rule too."""
    return int(np.argmax(np.abs(rir_R)))


def fft_size(num_samples: int, rir_length: int) -> int:
    """A fast FFT length that holds the whole convolution."""
    return int(next_fast_len(num_samples + rir_length - 1, real=True))


def set_level(wav_T: Array, level_db: float, *, peak: float = 0.95) -> Array:
    """Scale to a root-mean-square level in dB of full scale, or less where the peak would pass ``peak``.

    Raises:
        AudioError: the signal is silent.
    """
    rms = float(np.sqrt(power(wav_T)))
    if rms == 0:
        raise AudioError("cannot set the level of a silent signal")
    gain = min(10 ** (level_db / 20) / rms, peak / float(np.abs(wav_T).max()))
    return (wav_T * np.float32(gain)).astype(np.float32)
