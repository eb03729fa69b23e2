"""Rooms and noise put on a signal.

Shape suffixes: T sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farvox.errors import AudioError

Samples = NDArray[np.float32]


def convolve(wav_T: Samples, rir_T: Samples) -> Samples:
    """``wav_T`` as heard through ``rir_T``; the same length, the tail of the room cut off."""
    from scipy import fft

    num_fft = fft.next_fast_len(len(wav_T) + len(rir_T) - 1, real=True)
    spectrum = fft.rfft(wav_T.astype(np.float32), num_fft) * fft.rfft(rir_T.astype(np.float32), num_fft)
    return np.asarray(fft.irfft(spectrum, num_fft)[: len(wav_T)], dtype=np.float32)


def mix_at_snr(speech_T: Samples, noise_T: Samples, snr_db: float) -> Samples:
    """Add noise so that 10 log10(speech power / noise power) over the whole signal is ``snr_db``.

    Args:
        speech_T: samples.
        noise_T: the same length.
        snr_db: power ratio, dB.

    Raises:
        AudioError: one of the signals is silent, or the lengths differ.
    """
    if len(speech_T) != len(noise_T):
        raise AudioError(f"cannot mix {len(speech_T)} samples of speech with {len(noise_T)} of noise")
    speech_power = float(np.mean(np.square(speech_T, dtype=np.float64)))
    noise_power = float(np.mean(np.square(noise_T, dtype=np.float64)))
    if speech_power == 0 or noise_power == 0:
        raise AudioError("cannot set a signal-to-noise ratio: one of the signals is silent")
    gain = np.sqrt(speech_power / noise_power) * 10 ** (-snr_db / 20)
    return (speech_T + np.float32(gain) * noise_T).astype(np.float32)


def set_level(wav_T: Samples, level_db: float, *, peak: float = 0.95) -> Samples:
    """Scale to a root-mean-square level in dB of full scale, or less where the peak would pass ``peak``.

    Raises:
        AudioError: the signal is silent.
    """
    rms = float(np.sqrt(np.mean(np.square(wav_T, dtype=np.float64))))
    if rms == 0:
        raise AudioError("cannot set the level of a silent signal")
    gain = min(10 ** (level_db / 20) / rms, peak / float(np.abs(wav_T).max()))
    return (wav_T * np.float32(gain)).astype(np.float32)
