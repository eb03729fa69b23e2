"""Reverberation: speech convolved with room impulse responses (RIRs).

Shape suffixes: T sample, R sample of the RIR.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from farvox.augment.noise import Array, power, read_paths
from farvox.errors import AudioError
from farvox.io.audio import read_audio

Spectrum = NDArray[np.complex64]

_MAX_SPECTRA = 256


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


def direct_path(rir_R: Array) -> int:
    """Place of the direct sound in an RIR: its largest sample, which is Kaldi's rule too."""
    return int(np.argmax(np.abs(rir_R)))


def fft_size(num_samples: int, rir_length: int) -> int:
    """A fast FFT length that holds the whole convolution."""
    return int(next_fast_len(num_samples + rir_length - 1, real=True))


@dataclass(frozen=True)
class RirBank:
    """Room impulse responses to draw from.

    RIRs of a bank of at most ``max_cached`` samples stay in memory once read, and so do the spectra last
    used, since chunks of one length need the same ones again and again. A pickled bank travels empty.

    Attributes:
        paths: the RIR files; the first channel is used.
        sample_rate: rate the RIRs are read at, in Hz.
        max_cached: samples kept in memory.
    """

    paths: tuple[str, ...]
    sample_rate: int = 16000
    max_cached: int = 16_000_000
    _rirs: dict[int, Array] = field(default_factory=dict, repr=False, compare=False)
    _spectra: OrderedDict[tuple[int, int], Spectrum] = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    @classmethod
    def open(cls, dirs: Iterable[str | Path], *, sample_rate: int = 16000) -> RirBank:
        """Bank of every file of some data dirs (``wav.scp`` is enough).

        Raises:
            DataDirError: a data dir cannot be read or has no files.
            AudioError: the first file of a data dir cannot be opened.
        """
        return cls(read_paths(dirs), sample_rate)

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rirs": {}, "_spectra": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def rir(self, index: int) -> Array:
        """One RIR.

        Raises:
            AudioError: the file cannot be read, or holds only zeros or something not finite.
        """
        if index in self._rirs:
            return self._rirs[index]
        rir_R = read_audio(self.paths[index], sample_rate=self.sample_rate)
        if not np.isfinite(rir_R).all() or not rir_R.any():
            raise AudioError(f"{self.paths[index]}: not an impulse response (all zeros, or not finite)")
        if sum(map(len, self._rirs.values())) + len(rir_R) <= self.max_cached:
            self._rirs[index] = rir_R
        return rir_R

    def reverberate(self, speech_T: Array, index: int, *, aligned: bool = True) -> Array:
        """`convolve_rir` with one RIR of the bank."""
        rir_R = self.rir(index)
        spectrum = self._spectrum(index, rir_R, fft_size(len(speech_T), len(rir_R)))
        return convolve_rir(speech_T, rir_R, aligned=aligned, rir_spectrum=spectrum)

    def draw(self, rng: np.random.Generator) -> int:
        """Index of a random RIR."""
        return int(rng.integers(len(self.paths)))

    def _spectrum(self, index: int, rir_R: Array, size: int) -> Spectrum:
        key = (index, size)
        if key not in self._spectra:
            self._spectra[key] = rfft(rir_R, size)
            if len(self._spectra) > _MAX_SPECTRA:
                self._spectra.popitem(last=False)
        self._spectra.move_to_end(key)
        return self._spectra[key]
