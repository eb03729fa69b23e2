"""Many audio files in one memory-mapped file: a crop of any of them costs what copying it costs.

The file lies in the cache (`farvox.cache`), is written once, and is shared by all processes of the
machine: the system keeps in memory what is used, and gives that memory back where it is needed.

Shape suffixes: N audio file, T sample of all of them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farvox.audio.files import Wave, open_audio
from farvox.audio.remote import is_remote
from farvox.audio.shards import PackedFile, state_of
from farvox.cache import cached_folder
from farvox.errors import AudioError, CacheError
from farvox.progress import ProgressLine

_SAMPLES, _ENDS = "samples.raw", "ends.npy"
_KINDS: dict[str, np.dtype[Any]] = {"int16": np.dtype("<i2"), "float32": np.dtype("<f4")}
_SPARE_BYTES = 1 << 30  # left free on the disk of the cache


@dataclass(frozen=True)
class MappedAudio:
    """The samples of many files behind one another.

    Attributes:
        folder: where they lie.
        kind: "int16" or "float32".
        samples_T: all samples, memory-mapped.
        ends_N: where each file ends.
    """

    folder: Path
    kind: str
    samples_T: NDArray[Any]
    ends_N: NDArray[np.int64]

    @classmethod
    def open(cls, folder: Path, kind: str) -> MappedAudio:
        """Map what `map_audio` wrote."""
        samples_T = np.memmap(folder / _SAMPLES, _KINDS[kind], "r")
        return cls(folder, kind, np.asarray(samples_T), np.load(folder / _ENDS))

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedAudio.open, (self.folder, self.kind)

    def length(self, index: int) -> int:
        """Samples of a file."""
        return int(self.ends_N[index] - self._start(index))

    def crop(self, index: int, start: int = 0, num_samples: int | None = None) -> Wave:
        """Samples of a file, float32; of a float32 pack without copying, and not to be written to."""
        begin = self._start(index) + start
        end = int(self.ends_N[index])
        crop_T = self.samples_T[begin : end if num_samples is None else min(end, begin + num_samples)]
        if self.kind == "float32":
            return crop_T
        scaled_T: Wave = crop_T.astype(np.float32)
        scaled_T *= np.float32(1 / 32768)
        return scaled_T

    def _start(self, index: int) -> int:
        return int(self.ends_N[index - 1]) if index else 0


def map_audio(paths: Sequence[str], *, sample_rate: int, kind: str = "int16") -> MappedAudio | None:
    """The first channels of some files, packed in the cache; quick where they are there already.

    Args:
        paths: the files.
        sample_rate: Hz that they are brought to.
        kind: "int16" (clipped to [-1, 1]) or "float32" (as they are).

    Returns:
        the pack; None where the files are read as quickly as it (int16 at this rate, in shards on this
        machine), or the cache cannot be written to or has no room for it, which is said on stderr.

    Raises:
        AudioError: a file cannot be read.
    """
    if kind == "int16" and all(_is_quick(PackedFile.parse(path), sample_rate) for path in paths):
        return None

    def build(folder: Path) -> None:
        ends, end = [], 0
        with (folder / _SAMPLES).open("wb") as out, ProgressLine("packing", len(paths)) as progress:
            for number, path in enumerate(paths, 1):
                with open_audio(path) as audio:
                    _refuse_full_disk(folder, audio.info.num_samples)
                    wav_T = audio.read(sample_rate=sample_rate)
                if kind == "int16":
                    wav_T = np.clip(np.rint(wav_T * 32768), -32768, 32767)
                out.write(wav_T.astype(_KINDS[kind], copy=False).tobytes())
                end += len(wav_T)
                ends.append(end)
                progress.show(number)
        np.save(folder / _ENDS, np.array(ends, dtype=np.int64))

    try:
        folder = cached_folder("banks", f"{kind} at {sample_rate} Hz", paths, build, state_of=state_of)
    except FileNotFoundError as error:
        raise AudioError(f"{error.filename}: no such file; a bank was made of it") from None
    except CacheError as error:
        print(f"noise and RIRs are read from their files, not packed: {error}", file=sys.stderr)
        return None
    return MappedAudio.open(folder, kind)


def _is_quick(file: PackedFile | None, sample_rate: int) -> bool:
    if file is None or is_remote(file.shard):
        return False
    return file.member.kind == "wav" and file.member.sample_rate == sample_rate


def _refuse_full_disk(folder: Path, num_samples: int) -> None:
    if shutil.disk_usage(folder).free < 4 * num_samples + _SPARE_BYTES:
        raise CacheError(f"{folder.parent}: has no room; FARVOX_CACHE names another place")
