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

from farvox.audio.files import read_audio
from farvox.audio.mapped import MappedAudio, map_audio
from farvox.augment.noise import read_paths
from farvox.datadir.conditions import CONDITIONS, read_conditions
from farvox.datadir.kaldi import DataDir
from farvox.errors import AudioError, DataDirError
from farvox.farfield.mixing import Array, Spectrum, convolve_rir, spectrum_of_rir

_SPECTRA_BYTES = 32_000_000


@dataclass(frozen=True)
class RirSet:
    """Room impulse responses to draw from.

    The spectra used last are kept, at most 32 MB of them, since chunks of one length need those of a small
    set again and again. They are not pickled.

    Attributes:
        paths: the RIR files; the first channel is used.
        sample_rate: rate the RIRs are read at, in Hz.
        packed: the same RIRs in one memory-mapped file; None to read the files.
    """

    paths: tuple[str, ...]
    sample_rate: int = 16000
    packed: MappedAudio | None = field(default=None, compare=False)
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
        pack: bool = True,
    ) -> RirSet:
        """The RIRs of some data dirs (``wav.scp`` is enough).

        Args:
            dirs: the data dirs.
            sample_rate: rate the RIRs are read at, in Hz.
            within: condition of ``utt2cond`` -> least and greatest value; an RIR is kept if all are known of
                it and in range.
            pack: keep the RIRs in one file in the cache, so that drawing one opens no file.

        Raises:
            DataDirError: a data dir cannot be read or has no files; it has no such condition, or no RIR
                of any of them is in range.
            AudioError: a file cannot be read.
        """
        dirs = list(dirs)
        paths = read_paths(dirs)
        if within:
            kept: list[str] = []
            for folder in dirs:
                if not (Path(folder) / CONDITIONS).exists():
                    raise DataDirError(
                        f"{folder}: has no {CONDITIONS}, so the {', '.join(within)} of its RIRs is not known"
                        f"; measure them: farvox rirs OUT --measured {folder}"
                    )
                known = read_conditions(folder)
                in_range = []
                for condition, limits in within.items():
                    if condition not in known.columns:
                        raise DataDirError(f"{folder}: has no condition '{condition}' in {CONDITIONS}")
                    in_range.append(pl.col(condition).cast(pl.Float64, strict=False).is_between(*limits))
                wanted = known.filter(*in_range)["utt_id"]
                table = DataDir.open(folder).table
                kept += table.filter(pl.col("utt_id").is_in(wanted.implode()))["wav_path"].to_list()
            if not kept:
                ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in within.items())
                raise DataDirError(f"{', '.join(map(str, dirs))}: no RIR has {ranges}; widen the range")
            paths = tuple(kept)
        return cls(
            paths, sample_rate, map_audio(paths, sample_rate=sample_rate, kind="float32") if pack else None
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_spectra": OrderedDict()}

    def rir(self, index: int) -> Array:
        """One RIR.

        Raises:
            AudioError: the file cannot be read, or holds only zeros or something not finite.
        """
        if self.packed is not None:
            rir_R = self.packed.crop(index)
        else:
            rir_R = read_audio(self.paths[index], sample_rate=self.sample_rate)
        if not np.isfinite(rir_R).all() or not rir_R.any():
            raise AudioError(f"{self.paths[index]}: not an impulse response (all zeros, or not finite)")
        return rir_R

    def reverberate(self, speech_T: Array, index: int, *, aligned: bool = True) -> Array:
        """`convolve_rir` with one RIR of the set."""
        rir_R = self.rir(index)
        key = (index, len(speech_T))
        spectrum = self._spectra.pop(key, None)
        if spectrum is None:
            spectrum = spectrum_of_rir(rir_R, len(speech_T))
        self._spectra[key] = spectrum  # the one used last stands last
        if len(self._spectra) * spectrum.nbytes > _SPECTRA_BYTES:
            self._spectra.popitem(last=False)
        return convolve_rir(speech_T, rir_R, aligned=aligned, rir_spectrum=spectrum)

    def draw(self, rng: np.random.Generator) -> int:
        """Index of a random RIR."""
        return int(rng.integers(len(self.paths)))
