"""Reverberation: speech convolved with room impulse responses (RIRs).

Shape suffixes: T sample, R sample of the RIR.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.fft import rfft

from farvox.acoustics.mixing import Array, Spectrum, convolve_rir, fft_size
from farvox.augment.noise import read_paths
from farvox.errors import AudioError, DataDirError
from farvox.io.audio import read_audio
from farvox.io.conditions import CONDITIONS, read_conditions
from farvox.io.kaldi import DataDir

_MAX_SPECTRA = 256


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
    def open(
        cls,
        dirs: Iterable[str | Path],
        *,
        sample_rate: int = 16000,
        within: Mapping[str, tuple[float, float]] | None = None,
    ) -> RirBank:
        """Bank of the files of some data dirs (``wav.scp`` is enough).

        Args:
            dirs: the data dirs.
            sample_rate: rate the RIRs are read at, in Hz.
            within: condition of ``utt2cond`` -> least and greatest value; an RIR is kept if all are known of
                it and in range.

        Raises:
            DataDirError: a data dir cannot be read or has no files; it has no such condition, or no RIR
                of any of them is in range.
            AudioError: the first file of a data dir cannot be opened.
        """
        dirs = list(dirs)
        paths = read_paths(dirs)
        return cls(_within(dirs, within) if within else paths, sample_rate)

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


def _within(dirs: Iterable[str | Path], within: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """The paths of the RIRs whose conditions are in range."""
    kept: list[str] = []
    for folder in dirs:
        if not (Path(folder) / CONDITIONS).exists():
            raise DataDirError(
                f"{folder}: has no {CONDITIONS}, so the {', '.join(within)} of its RIRs is not known; "
                f"measure them: farvox rirs OUT --measured {folder}"
            )
        known = read_conditions(folder)
        for condition in within:
            if condition not in known.columns:
                raise DataDirError(f"{folder}: has no condition '{condition}' in {CONDITIONS}")
        in_range = [
            pl.col(condition).cast(pl.Float64, strict=False).is_between(*limits)
            for condition, limits in within.items()
        ]
        wanted = known.filter(*in_range)["utt_id"]
        table = DataDir.open(folder).table
        kept += table.filter(pl.col("utt_id").is_in(wanted.implode()))["wav_path"].to_list()
    if not kept:
        ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in within.items())
        raise DataDirError(f"{', '.join(map(str, dirs))}: no RIR has {ranges}; widen the range")
    return tuple(kept)
