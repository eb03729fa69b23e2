"""The training table: all that a data-loading process needs to know, in flat arrays.

A million utterances are a few memory-mapped arrays that all workers and ranks share, not a million Python
objects that each of them copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from farvox.cache import cached_folder
from farvox.datadir.kaldi import DataDir, wav_scp_of
from farvox.errors import CacheError, DataDirError

UNLABELLED = "unlabelled"
"""Name of the speaker of utterances that say no speaker, where none is needed."""

_ARRAYS = ("utt_ids", "utt_id_ends", "wav_paths", "wav_path_ends", "speakers", "domains")
_SPEAKERS = "speakers.txt"


@dataclass(frozen=True)
class StringTable:
    """N strings in one byte array. ``table[i]`` is a str."""

    text: npt.NDArray[np.uint8]
    ends_N: npt.NDArray[np.int64]

    @classmethod
    def of(cls, strings: pl.Series) -> StringTable:
        """Pack a column of strings."""
        ends = strings.str.len_bytes().cast(pl.Int64).cum_sum().to_numpy()
        text = np.frombuffer(strings.str.join("").item().encode(), dtype=np.uint8)
        return cls(text, ends)

    def __len__(self) -> int:
        return len(self.ends_N)

    def __getitem__(self, row: int) -> str:
        start = self.ends_N[row - 1] if row else 0
        return self.text[start : self.ends_N[row]].tobytes().decode()


@dataclass(frozen=True)
class TrainingTable:
    """The utterances of one or more data dirs, row by row, in the order of the dirs.

    Attributes:
        utt_ids: name of every row.
        wav_paths: audio file of every row.
        speakers_N: speaker number of every row, an index into ``speaker_names``.
        domains_N: which data dir every row comes from.
        speaker_names: all speakers, C-sorted.
        folder: of the cache, where the arrays lie; None where they are in memory only.
    """

    utt_ids: StringTable
    wav_paths: StringTable
    speakers_N: npt.NDArray[np.int64]
    domains_N: npt.NDArray[np.int64]
    speaker_names: tuple[str, ...]
    folder: Path | None = field(default=None, compare=False)

    @classmethod
    def open(cls, paths: Sequence[str | Path], *, labelled: bool = True) -> TrainingTable:
        """Read data dirs for training.

        Args:
            paths: the data dirs.
            labelled: whether every utterance must have a speaker; otherwise those without one share
                the name `UNLABELLED`.

        Raises:
            DataDirError: a dir does not say who speaks, or there is none.
        """
        if not paths:
            raise DataDirError("no data dir to train on: set data.train")
        files = [wav_scp_of(Path(path)) for path in paths]
        files += [Path(path, name) for path in paths for name in ("utt2spk", "spk2utt")]
        present = [file for file in files if file.is_file()]

        def build(folder: Path) -> None:
            cls.read(paths, labelled).write(folder)

        try:
            return cls.mapped(cached_folder("tables", f"labelled: {labelled}", present, build))
        except CacheError:
            return cls.read(paths, labelled)

    @classmethod
    def read(cls, paths: Sequence[str | Path], labelled: bool) -> TrainingTable:
        """The table in memory; see `open`."""
        tables = [_open_dir(Path(path), labelled) for path in paths]
        table = pl.concat(tables)
        names = table["speaker_id"].unique().sort()
        numbers = pl.DataFrame({"speaker_id": names, "speaker": np.arange(len(names))})
        speakers = table.join(numbers, on="speaker_id", how="left", maintain_order="left")["speaker"]
        return cls(
            utt_ids=StringTable.of(table["utt_id"]),
            wav_paths=StringTable.of(table["wav_path"]),
            speakers_N=speakers.to_numpy().astype(np.int64),
            domains_N=np.repeat(np.arange(len(tables)), [len(one) for one in tables]),
            speaker_names=tuple(names.to_list()),
        )

    @classmethod
    def mapped(cls, folder: Path) -> TrainingTable:
        """The table that `write` left in ``folder``, memory-mapped."""
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        id_text, id_ends, path_text, path_ends, speakers, domains = map(np.asarray, arrays.values())
        names = (folder / _SPEAKERS).read_bytes().decode().split("\n")
        return cls(
            StringTable(id_text, id_ends), StringTable(path_text, path_ends), speakers, domains, tuple(names),
            folder,
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Put the arrays into files of ``folder``."""
        arrays: tuple[npt.NDArray[Any], ...] = (
            self.utt_ids.text, self.utt_ids.ends_N, self.wav_paths.text, self.wav_paths.ends_N,
            self.speakers_N, self.domains_N,
        )  # fmt: skip
        for name, array in zip(_ARRAYS, arrays, strict=True):
            np.save(folder / f"{name}.npy", array)
        (folder / _SPEAKERS).write_bytes("\n".join(self.speaker_names).encode())

    def __reduce__(self) -> tuple[Any, ...]:
        """A mapped table travels by its name."""
        if self.folder is not None:
            return TrainingTable.mapped, (self.folder,)
        values = (self.utt_ids, self.wav_paths, self.speakers_N, self.domains_N, self.speaker_names)
        return TrainingTable, values

    def __len__(self) -> int:
        return len(self.utt_ids)

    def fingerprint(self) -> str:
        """A digest of the rows and speakers: tables that differ in one have different digests."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.utt_ids.text, self.utt_ids.ends_N, self.speakers_N, self.domains_N):
            digest.update(array.tobytes())
        digest.update("\n".join(self.speaker_names).encode())
        return digest.hexdigest()


def _open_dir(path: Path, labelled: bool) -> pl.DataFrame:
    table = DataDir.open(path).table.select("utt_id", "wav_path", "speaker_id")
    if not labelled:
        table = table.with_columns(pl.col("speaker_id").fill_null(UNLABELLED))
    unnamed = table.filter(pl.col("speaker_id").is_null())
    if len(unnamed):
        raise DataDirError(
            f"{path}: utterance '{unnamed['utt_id'][0]}' has no speaker ({len(unnamed)} of {len(table)} "
            "have none); training needs utt2spk or spk2utt: run 'farvox check' on it"
        )
    if not len(table):
        raise DataDirError(f"{path}: no utterance in wav.scp")
    return table
