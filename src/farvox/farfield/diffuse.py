"""Sound from all around, as microphones close to one another hear it.

Shape suffixes: C channel (microphone), G point of a coarse grid of frequencies, K frequency bin, T sample,
3 the axes x, y, z in metres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRID = 513  # frequencies at which the matrix is rooted; between them the roots are all but linear


def diffuse_coherence(distance: Floats, frequency: Floats, speed_of_sound: float = 343.0) -> Floats:
    """Coherence of two microphones in a field that comes from all directions alike: sinc(2 f d / c).

    Args:
        distance: between the microphones, metres.
        frequency: Hz; the two are broadcast against each other.
        speed_of_sound: m/s.
    """
    return np.asarray(np.sinc(2 * frequency * distance / speed_of_sound), dtype=np.float64)


def diffuse_noise(
    rng: np.random.Generator, microphones_C3: Floats, num_samples: int, sample_rate: int
) -> Floats:
    """White Gaussian noise of power 1 in every microphone, coherent as in a diffuse field.

    Independent noises are mixed in the frequency domain by the symmetric root of the matrix of coherences
    (Habets & Gannot 2007, who root it by Cholesky), which turns no phases and prefers no microphone. One
    microphone gets the noise as it is drawn.

    Args:
        rng: source of randomness.
        microphones_C3: positions.
        num_samples: length.
        sample_rate: Hz.

    Returns:
        noise_CT.
    """
    noise_CT = rng.standard_normal((len(microphones_C3), num_samples))
    if len(microphones_C3) == 1:
        return noise_CT
    roots_GCC = _roots(microphones_C3, np.linspace(0, sample_rate / 2, GRID))
    spectra_CK = np.fft.rfft(noise_CT)
    place_K = np.linspace(0, GRID - 1, spectra_CK.shape[1])
    below_K = np.minimum(place_K.astype(int), GRID - 2)
    part_K11 = (place_K - below_K)[:, None, None]
    roots_KCC = roots_GCC[below_K] * (1 - part_K11) + roots_GCC[below_K + 1] * part_K11
    roots_KCC /= np.linalg.norm(roots_KCC, axis=2, keepdims=True)  # what lies between two grid points is less
    mixed_CK = np.matmul(roots_KCC, spectra_CK.T[:, :, None])[:, :, 0].T
    return np.asarray(np.fft.irfft(mixed_CK, num_samples), dtype=np.float64)


def _roots(microphones_C3: Floats, frequency_G: Floats) -> Floats:
    """[G, C, C] symmetric roots of the coherence matrices."""
    distance_CC = np.linalg.norm(microphones_C3[:, None] - microphones_C3[None], axis=2)
    power_GC, vectors_GCC = np.linalg.eigh(diffuse_coherence(distance_CC, frequency_G[:, None, None]))
    scaled_GCC = vectors_GCC * np.sqrt(np.maximum(power_GC, 0))[:, None]  # rounding leaves some below 0
    return np.asarray(scaled_GCC @ vectors_GCC.transpose(0, 2, 1), dtype=np.float64)
