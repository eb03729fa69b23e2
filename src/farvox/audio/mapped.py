"""Many audio files in one memory-mapped file: a crop of any of them costs as much as copying it.

The file lies in the cache (`farvox.cache`), is written once, and is shared by all processes of the machine:
the system keeps in memory the parts that are used, and frees that memory where it is needed.

Shape suffixes: N audio file, T sample of all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farvox.audio.files import Wave, open_audio
from farvox.audio.remote import is_remote
from farvox.audio.shards import PackedFile, states_of
from farvox.cache import cached_folder
from farvox.errors import AudioError, CacheError
from farvox.parsing import read_array
from farvox.progress import Progress, to_stderr

_SAMPLES, _ENDS = "samples.raw", "ends.npy"
_KINDS: dict[str, np.dtype[Any]] = {"int16": np.dtype("<i2"), "float32": np.dtype("<f4")}
_SPARE_BYTES = 1 << 30  # left free on the disk of the cache


@dataclass(frozen=True)
class MappedAudio:
    """The samples of many audio files behind one another."""

    folder: Path  # of the cache
    kind: str  # "int16" or "float32"
    samples_T: NDArray[Any]  # memory-mapped
    bounds: NDArray[np.int64]  # [N + 1]: file n is samples_T[bounds[n] : bounds[n + 1]]

    @classmethod
    def open(cls, folder: Path, kind: str) -> MappedAudio:
        """Map the files that `map_audio` wrote."""
        samples_T = np.memmap(folder / _SAMPLES, _KINDS[kind], "r")
        return cls(folder, kind, np.asarray(samples_T), np.append(0, read_array(folder / _ENDS)))

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedAudio.open, (self.folder, self.kind)

    def length(self, index: int) -> int:
        """Samples of a file."""
        return int(self.bounds[index + 1] - self.bounds[index])

    def crop(self, index: int, start: int = 0, num_samples: int | None = None) -> Wave:
        """Samples of a file, float32; a float32 pack gives a view, which is not to be written to."""
        begin, end = int(self.bounds[index]) + start, int(self.bounds[index + 1])
        crop_T = self.samples_T[begin : end if num_samples is None else min(end, begin + num_samples)]
        if self.kind == "float32":
            return crop_T
        scaled_T: Wave = crop_T.astype(np.float32)
        scaled_T *= np.float32(1 / 32768)
        return scaled_T


def map_audio(paths: Sequence[str], *, sample_rate: int, kind: str = "int16") -> MappedAudio | None:
    """Pack the first channels of some files in the cache, unless they are there already.

    Args:
        paths: the files.
        sample_rate: of the pack, Hz.
        kind: "int16" (clipped to [-1, 1]) or "float32" (as they are).

    Returns:
        None where reading the files is as quick (int16 at this rate, in shards on this machine), or where the
        cache cannot be written or is full, which a line on stderr reports.

    Raises:
        AudioError: a file cannot be read.
    """
    if kind == "int16":
        packed = [PackedFile.parse(path) for path in paths]
        here = [file.member for file in packed if file is not None and not is_remote(file.shard)]
        plain = [member for member in here if (member.kind, member.sample_rate) == ("wav", sample_rate)]
        if len(plain) == len(paths):
            return None

    def build(folder: Path) -> None:
        lengths = []
        with (folder / _SAMPLES).open("wb") as out, Progress("packing", len(paths)) as progress:
            for path in paths:
                with open_audio(path) as audio:
                    if shutil.disk_usage(folder).free < 4 * audio.info.num_samples + _SPARE_BYTES:
                        raise CacheError(
                            f"{folder.parent}: the disk is full; set FARVOX_CACHE to a folder on another"
                        )
                    wav_T = audio.read(sample_rate=sample_rate)
                if kind == "int16":
                    wav_T = np.clip(np.rint(wav_T * 32768), -32768, 32767)
                out.write(wav_T.astype(_KINDS[kind], copy=False).tobytes())
                lengths.append(len(wav_T))
                progress.advance()
        np.save(folder / _ENDS, np.cumsum(lengths, dtype=np.int64))

    try:
        state_of = dict(zip(paths, states_of(paths), strict=True)).__getitem__
        folder = cached_folder("banks", f"{kind} at {sample_rate} Hz", paths, build, state_of=state_of)
    except FileNotFoundError as error:
        raise AudioError(
            f"{error.filename}: no such file; bring it back, or leave it out of its data dir"
        ) from None
    except CacheError as error:
        to_stderr(f"noise and RIRs are read from their files, not packed: {error}")
        return None
    return MappedAudio.open(folder, kind)
