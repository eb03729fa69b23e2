"""The short-time Fourier transform and its exact inverse.

Shape suffixes: C channel, F frame, K frequency bin, T sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Spectra = NDArray[np.complex128]
Floats = NDArray[np.float64]


def stft(wav_CT: NDArray[np.floating], size: int, hop: int) -> Spectra:
    """Spectra of overlapping frames under a square-root Hann window.

    The signal is padded by a frame at either end, so that every sample lies in as many frames as any other.

    Args:
        wav_CT: samples.
        size: samples a frame.
        hop: samples from a frame to the next; a divisor of ``size``, at most half of it.

    Returns:
        spectra_CFK, K = size / 2 + 1.
    """
    num_samples = wav_CT.shape[-1]
    num_frames = -(-(num_samples + size) // hop)
    padded_CT = np.zeros((len(wav_CT), num_frames * hop + size))
    padded_CT[:, size : size + num_samples] = wav_CT
    frames_CFT = np.lib.stride_tricks.sliding_window_view(padded_CT, size, axis=1)[:, ::hop]
    return np.asarray(np.fft.rfft(frames_CFT * _window(size), axis=-1), dtype=np.complex128)


def istft(spectra_CFK: Spectra, num_samples: int, size: int, hop: int) -> Floats:
    """The signal of `stft`, by overlap and add (Griffin & Lim 1984).

    Args:
        spectra_CFK: as `stft` gives it, perhaps changed.
        num_samples: length of the signal that `stft` was given.
        size: as in `stft`.
        hop: as in `stft`.

    Returns:
        wav_CT.
    """
    frames_CFT = np.fft.irfft(spectra_CFK, size, axis=-1) * _window(size)
    num_channels, num_frames = frames_CFT.shape[:2]
    wav_CT = np.zeros((num_channels, (num_frames - 1) * hop + size))
    parts = size // hop
    for part in range(parts):  # frames that do not overlap are laid side by side
        laid_CT = frames_CFT[:, part::parts].reshape(num_channels, -1)
        wav_CT[:, part * hop : part * hop + laid_CT.shape[1]] += laid_CT
    return wav_CT[:, size : size + num_samples] * (2 * hop / size)


def _window(size: int) -> Floats:
    """Root of a periodic Hann window, whose square and its shifts sum to a constant."""
    return np.asarray(np.sin(np.pi * np.arange(size) / size), dtype=np.float64)
