"""Levels, noise and room responses of signals: the arithmetic that augmentation and simulation share.

Shape suffixes: C channel (microphone), F frame, T sample, R sample of a room impulse response (RIR).
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from farvox.errors import AudioError

Array = NDArray[np.float32]
Spectrum = NDArray[np.complex64]

_SILENT_POWER = 1e-10
_FAINT = 1e-20
_BLOCK = 8192
_LANES, _STEP = 4, 1024

FRAME_SECONDS = 0.02
LOUD, QUIET = 95, 10
"""Percentiles of the power of the frames: speech with noise, and noise alone."""
FLOOR = 1e-10  # power of digital silence, -100 dB of full scale
SNR_RANGE_DB = (-20.0, 100.0)


def power(wav_T: Array) -> float:
    """Mean square of a waveform, to six digits whatever its level."""
    total = 0.0
    for start in range(0, len(wav_T), _BLOCK):  # so short that no BLAS uses its threads for it
        part_T = wav_T[start : start + _BLOCK]
        total += float(np.dot(part_T, part_T))
    if total < _FAINT * len(wav_T):  # squares this small are not whole in float32
        wide_T = wav_T.astype(np.float64)
        total = float(np.einsum("t,t->", wide_T, wide_T))
    return total / max(1, len(wav_T))


def is_silent(wav_T: Array) -> bool:
    """True for a waveform that is below -100 dB of full scale, or empty."""
    first_T = wav_T[:_BLOCK]
    if np.dot(first_T, first_T) > 2 * _SILENT_POWER * len(wav_T):  # most speech: no need to look at all of it
        return False
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
    """Convolve speech with an RIR; it stays as long as it was.

    Args:
        rir_R: the impulse response, at the rate of the speech.
        aligned: start at the direct path (the RIR's largest sample), so that the speech does not shift, and
            keep the power. Otherwise give the first samples of the convolution as they are, which is what
            the FFSVC2022 baseline does.
        rir_spectrum: `spectrum_of_rir` for speech of this length where it is known already.

    Returns:
        float32 [T]; the speech itself where ``aligned`` and the RIR leaves nothing of it.

    Raises:
        AudioError: the RIR is empty or not finite.
    """
    if len(rir_R) == 0 or not np.isfinite(rir_R).all():
        raise AudioError("a room impulse response must have finite samples, at least one")
    num_samples = len(speech_T)
    if num_samples == 0:
        return speech_T
    if rir_spectrum is None:
        rir_spectrum = spectrum_of_rir(rir_R, num_samples)
    count, block, size = _blocks(num_samples, len(rir_R))
    before = len(rir_R) - 1 - (direct_path(rir_R) if aligned else 0)
    padded = np.zeros((count - 1) * block + size, dtype=np.float32)
    padded[before : before + num_samples] = speech_T
    blocks = as_strided(padded, (count, size), (block * padded.itemsize, padded.itemsize), writeable=False)
    spectra = rfft(blocks, axis=1)
    spectra *= rir_spectrum
    wet: Array = irfft(spectra, size, axis=1, overwrite_x=True)[:, len(rir_R) - 1 : len(rir_R) - 1 + block]
    wet_T = wet.reshape(-1)[:num_samples]  # overlap and save
    if not aligned:
        return wet_T
    wet_power = power(wet_T)
    if wet_power > 0:
        wet_T *= np.float32(np.sqrt(power(speech_T) / wet_power))
        return wet_T
    return speech_T


def spectrum_of_rir(rir_R: Array, num_samples: int) -> Spectrum:
    """Spectrum of an RIR as `convolve_rir` takes it, for speech of ``num_samples``."""
    spectrum: Spectrum = rfft(rir_R, _blocks(num_samples, len(rir_R))[2])
    return spectrum


def _blocks(num_samples: int, rir_length: int) -> tuple[int, int, int]:
    """Blocks that speech is cut into to be convolved: their number, samples of each, size of their FFTs.

    pocketfft transforms four signals at once in little more time than one (SIMD), so four blocks that overlap
    by the RIR cost less than one transform of everything, unless the RIR is much the longer of the two.
    """
    count = _LANES if rir_length < 1.25 * num_samples else 1
    block = -(-num_samples // count)
    tail = -(-(rir_length - 1) // _STEP) * _STEP  # few different sizes: pocketfft keeps the plans of sixteen
    return count, block, int(next_fast_len(block + tail, real=True))


def convolve_array(wav_T: Array, rirs_CR: Array) -> Array:
    """Convolve a signal with the RIRs of an array: as long as it was, with the delays between them kept.

    It begins where the direct sound reaches the first microphone. Levels are as the RIRs, of the same rate,
    give them. Returns float32 wav_CT.

    Raises:
        AudioError: the RIRs are empty or not finite.
    """
    if rirs_CR.size == 0 or not np.isfinite(rirs_CR).all():
        raise AudioError("room impulse responses must have finite samples, at least one")
    size = int(next_fast_len(len(wav_T) + rirs_CR.shape[1] - 1, real=True))
    delay = min(direct_path(rir_R) for rir_R in rirs_CR)
    spectrum = rfft(wav_T, size)
    wet = [irfft(spectrum * rfft(rir_R, size), size)[delay : delay + len(wav_T)] for rir_R in rirs_CR]
    return np.stack(wet).astype(np.float32)


def direct_path(rir_R: Array) -> int:
    """Index of the direct sound in an RIR: its largest sample, which is Kaldi's rule too."""
    return int(np.argmax(np.abs(rir_R)))


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


def energy_snr(wav_T: Array, sample_rate: int) -> float:
    """Signal-to-noise ratio of a recording in dB, from the powers of its loud and quiet frames of 20 ms.

    Speech comes and goes, noise mostly stays: loud frames hold both, quiet ones noise alone. NIST's ``stnr``
    (of its Speech Quality Assurance package) goes by the same idea; it fits the noise to the lower mode of a
    histogram of frame powers, where a low percentile, which needs no fit, is taken here. Reverberation fills
    the pauses as noise does, and lowers the figure as well.

    It compares recordings of one take, such as the channels of an array. Over takes it also depends on how
    much of them is pause, and without any pause it says nothing.

    Returns:
        Between -20 and 100; -20 for what has no louder frames, or is shorter than two.
    """
    power_F, _ = frame_powers(wav_T, sample_rate)
    if len(power_F) < 2:
        return SNR_RANGE_DB[0]
    loud, quiet = np.percentile(power_F, [LOUD, QUIET])
    ratio = (loud - quiet) / quiet
    return float(np.clip(10 * np.log10(ratio), *SNR_RANGE_DB)) if ratio > 0 else SNR_RANGE_DB[0]


def frame_powers(wav_T: Array, sample_rate: int) -> tuple[NDArray[np.float64], int]:
    """Power of each frame of 20 ms, its mean taken off, at least `FLOOR`; and the samples of a frame."""
    size = max(1, round(FRAME_SECONDS * sample_rate))
    num_frames = len(wav_T) // size
    wav_FT = wav_T[: num_frames * size].reshape(num_frames, size).astype(np.float64)
    wav_FT -= wav_FT.mean(axis=1, keepdims=True)  # an offset of the microphone is no power
    return np.maximum(np.einsum("ft,ft->f", wav_FT, wav_FT) / size, FLOOR), size
