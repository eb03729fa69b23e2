"""Rooms and noise put on a signal; what augmentation and simulation share.

Shape suffixes: C channel (microphone), T sample, R sample of a room impulse response (RIR).
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
    """Whether a waveform is too weak to say anything: below -100 dB of full scale, or empty."""
    first_T = wav_T[:_BLOCK]
    if np.dot(first_T, first_T) > 2 * _SILENT_POWER * len(wav_T):  # most speech: no need to hear it all
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
    """Speech as heard in the room of an RIR; as long as it was.

    Args:
        speech_T: samples.
        rir_R: the impulse response, at the same rate.
        aligned: start at the direct path (the RIR's largest sample), so that the speech does not shift, and
            keep the power. Otherwise give the first samples of the convolution as they are, which is what
            the FFSVC2022 baseline does.
        rir_spectrum: `spectrum_of_rir` for speech of this length where it is known already.

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
    if rir_spectrum is None:
        rir_spectrum = spectrum_of_rir(rir_R, num_samples)
    wet_T = _overlap_save(speech_T, rir_spectrum, len(rir_R), direct_path(rir_R) if aligned else 0)
    if not aligned:
        return wet_T
    wet_power = power(wet_T)
    if wet_power > 0:
        wet_T *= np.float32(np.sqrt(power(speech_T) / wet_power))
        return wet_T
    return speech_T


def spectrum_of_rir(rir_R: Array, num_samples: int) -> Spectrum:
    """What `convolve_rir` needs of an RIR, for speech of ``num_samples``."""
    spectrum: Spectrum = rfft(rir_R, _blocks(num_samples, len(rir_R))[2])
    return spectrum


def _blocks(num_samples: int, rir_length: int) -> tuple[int, int, int]:
    """How speech is cut to be convolved: number of blocks, samples of each, size of their FFTs.

    pocketfft transforms four signals at once in little more time than one (SIMD), so four blocks that overlap
    by the RIR cost less than one transform of everything, unless the RIR is much the longer of the two.
    """
    count = _LANES if rir_length < 1.25 * num_samples else 1
    block = -(-num_samples // count)
    tail = -(-(rir_length - 1) // _STEP) * _STEP  # few different sizes: pocketfft keeps the plans of sixteen
    return count, block, int(next_fast_len(block + tail, real=True))


def _overlap_save(speech_T: Array, rir_spectrum: Spectrum, rir_length: int, delay: int) -> Array:
    """Samples ``delay .. delay + T`` of the convolution."""
    num_samples = len(speech_T)
    count, block, size = _blocks(num_samples, rir_length)
    before = rir_length - 1 - delay
    padded = np.zeros((count - 1) * block + size, dtype=np.float32)
    padded[before : before + num_samples] = speech_T
    blocks = as_strided(padded, (count, size), (block * padded.itemsize, padded.itemsize), writeable=False)
    spectra = rfft(blocks, axis=1)
    spectra *= rir_spectrum
    wet: Array = irfft(spectra, size, axis=1, overwrite_x=True)[:, rir_length - 1 : rir_length - 1 + block]
    return wet.reshape(-1)[:num_samples]


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
    size = int(next_fast_len(len(wav_T) + rirs_CR.shape[1] - 1, real=True))
    delay = min(direct_path(rir_R) for rir_R in rirs_CR)
    spectrum = rfft(wav_T, size)
    heard = [irfft(spectrum * rfft(rir_R, size), size)[delay : delay + len(wav_T)] for rir_R in rirs_CR]
    return np.stack(heard).astype(np.float32)


def direct_path(rir_R: Array) -> int:
    """Place of the direct sound in an RIR: its largest sample, which is Kaldi's rule too."""
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
