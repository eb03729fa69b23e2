"""The training table, and the order in which the epochs draw from it.

A million utterances are a few memory-mapped arrays that all workers and ranks share, not a million Python
objects that each of them copies.

The order is arithmetic: the utterance at a position of an epoch is a function of (seed, epoch), and the
positions of a batch are a slice. There is no state, so that any number of workers and ranks gets the same
global batches, and resuming is starting at another number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from farvox.audio.remote import is_asked
from farvox.cache import cached_folder
from farvox.datadir.audit import read_checked
from farvox.datadir.kaldi import AUDIO_FILES, CHECKED, DataDir, wav_scp_of
from farvox.datadir.strings import StringTable
from farvox.errors import CacheError, DataDirError
from farvox.parsing import read_array
from farvox.rng import rng_for

Index = npt.NDArray[np.int64]
Draw = tuple[int, int, int]
"""Epoch, position in the epoch, row of the training table."""

UNLABELLED = "unlabelled"
"""Name of the speaker of utterances without one, where none is needed."""
ORDER_STREAM = 1
"""Stream of `rng_for` that draws an epoch's order; stream 0 belongs to the examples."""

_ARRAYS = ("utt_ids", "utt_id_ends", "wav_paths", "wav_path_ends", "speakers", "domains")
_SPEAKERS = "speakers.txt"


@dataclass(frozen=True)
class TrainingTable:
    """The utterances of one or more data dirs, row by row, in the order of the dirs.

    Attributes:
        speakers_N: speaker number of every row, an index into ``speaker_names``.
        domains_N: number of the data dir of every row.
        speaker_names: all speakers, C-sorted.
        folder: of the cache, where the arrays lie; None where they are in memory only.
    """

    utt_ids: StringTable
    wav_paths: StringTable
    speakers_N: Index
    domains_N: Index
    speaker_names: tuple[str, ...]
    folder: Path | None = field(default=None, compare=False)

    @classmethod
    def open(cls, paths: Sequence[str | Path], *, labelled: bool = True) -> TrainingTable:
        """Read data dirs for training, without the utterances that a check of the audio found at fault.

        If ``labelled``, every utterance must have a speaker; otherwise those without one share the name
        `UNLABELLED`.

        Raises:
            DataDirError: an utterance has no speaker, or there is no dir.
        """
        if not paths:
            raise DataDirError("no data dir to train on: set data.train")
        files = [wav_scp_of(Path(path)) for path in paths]
        names = (*AUDIO_FILES[1:], "utt2spk", "spk2utt", CHECKED)
        files += [Path(path, name) for path in paths for name in names]
        present = [file for file in files if file.is_file()]

        def build(folder: Path) -> None:
            cls.read(paths, labelled).write(folder)

        try:
            name = f"labelled: {labelled}" + "; remote" * is_asked()  # else it is not read, but refused
            return cls.mapped(cached_folder("tables", name, present, build))
        except CacheError:
            return cls.read(paths, labelled)

    @classmethod
    def read(cls, paths: Sequence[str | Path], labelled: bool) -> TrainingTable:
        """The table in memory; see `open`."""
        tables = []
        for path in paths:
            table = DataDir.open(path).table.select("utt_id", "wav_path", "speaker_id")
            faulty = read_checked(path).filter(pl.col("fault") != "")
            table = table.join(faulty, on="utt_id", how="anti", maintain_order="left")
            if not labelled:
                table = table.with_columns(pl.col("speaker_id").fill_null(UNLABELLED))
            unnamed = table.filter(pl.col("speaker_id").is_null())
            if len(unnamed):
                raise DataDirError(
                    f"{path}: utterance '{unnamed['utt_id'][0]}' has no speaker ({len(unnamed)} of "
                    f"{len(table)} have none); training needs utt2spk or spk2utt: run 'farvox check' on it"
                )
            if not len(table):
                raise DataDirError(
                    f"{path}: no utterance is left: the last check of its audio found a fault in each, as "
                    f"{CHECKED} says; put these files right, and check it again"
                )
            tables.append(table)
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
        arrays = [np.asarray(read_array(folder / f"{name}.npy", mapped=True)) for name in _ARRAYS]
        names = (folder / _SPEAKERS).read_bytes().decode().split("\n")
        utt_ids, wav_paths = StringTable(arrays[0], arrays[1]), StringTable(arrays[2], arrays[3])
        return cls(utt_ids, wav_paths, arrays[4], arrays[5], tuple(names), folder)

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
        """A mapped table is pickled as the name of its folder."""
        if self.folder is not None:
            return TrainingTable.mapped, (self.folder,)
        values = (self.utt_ids, self.wav_paths, self.speakers_N, self.domains_N, self.speaker_names)
        return TrainingTable, values

    def __len__(self) -> int:
        return len(self.utt_ids)

    def shared_by_dirs(self, paths: Sequence[str | Path]) -> list[str]:
        """One warning on the speakers of one name in several of the data dirs; none where there are none."""
        pairs = np.unique(np.stack([self.speakers_N, self.domains_N]), axis=1)
        speakers, num_dirs = np.unique(pairs[0], return_counts=True)
        shared = [name for n in speakers[num_dirs > 1] if (name := self.speaker_names[n]) != UNLABELLED]
        if not shared:
            return []
        first = pairs[1][pairs[0] == self.speaker_names.index(shared[0])]
        return [
            f"warning: {len(shared):,} of the {len(speakers):,} speakers are in several training dirs, each"
            f" of them taken for one person ('{shared[0]}' in {' and '.join(str(paths[n]) for n in first)}):"
            " rename them in one utt2spk if they are not"
        ]

    def fingerprint(self) -> str:
        """A digest of the rows and speakers: tables that differ in one have different digests."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.utt_ids.text, self.utt_ids.ends_N, self.speakers_N, self.domains_N):
            digest.update(array.tobytes())
        digest.update("\n".join(self.speaker_names).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class EpochPlan:
    """The row of the training table at every position of every epoch.

    Attributes:
        speakers_N: speaker number of every row.
        batch_size: examples of one optimiser step, over all ranks.
        sampling: ``utterance`` (rows in random order) or ``speaker`` (speakers equally often).
        domains_N: domain number of every row; None: one domain.
        domain_weights: share of each domain in every batch; empty: no balancing.
        epoch_size: positions in an epoch; 0: as many as there are rows, each ``copies`` times.
        copies: positions in a row that have one row of the table; a rank reads all of them.
    """

    seed: int
    speakers_N: Index
    batch_size: int
    sampling: str = "utterance"
    domains_N: Index | None = None
    domain_weights: Sequence[float] = ()
    epoch_size: int = 0
    copies: int = 1
    _cache: dict[int, Index] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.speakers_N) == 0:
            raise DataDirError("there is no utterance to train on")
        if self.steps_per_epoch == 0:
            raise DataDirError(
                f"an epoch of {self._num_positions} examples is smaller than one batch of {self.batch_size}: "
                "lower optim.batch_size or raise data.epoch_size"
            )

    @property
    def _num_positions(self) -> int:
        return self.epoch_size or len(self.speakers_N) * self.copies

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; what is left over is dropped, as in the baseline."""
        return self._num_positions // self.batch_size

    def rows(self, epoch: int) -> Index:
        """Row of the training table at every position of ``epoch``; shape [_num_positions]."""
        if epoch in self._cache:
            return self._cache[epoch]
        rng = rng_for(self.seed, epoch, 0, ORDER_STREAM)
        length = -(-self._num_positions // self.copies)
        if not self.domain_weights:
            rows = _sequence(rng, self.speakers_N, length, self.sampling)
        else:
            assert self.domains_N is not None
            # Domain of every position: the same share in each batch, shuffled within it.
            counts = examples_per_domain(self.domain_weights, self.batch_size // self.copies)
            pattern = np.repeat(np.arange(len(counts)), counts)
            num_batches = -(-length // len(pattern))
            slots = rng.permuted(np.tile(pattern, (num_batches, 1)), axis=1).ravel()[:length]
            rows = np.empty(length, dtype=np.int64)
            for domain in range(len(counts)):
                members = np.flatnonzero(self.domains_N == domain)
                here = np.flatnonzero(slots == domain)
                if len(here) and not len(members):
                    raise DataDirError(
                        f"data dir {domain + 1} of data.train has no utterance, but a domain weight"
                    )
                if len(here):
                    rows[here] = members[_sequence(rng, self.speakers_N[members], len(here), self.sampling)]
        rows = np.repeat(rows, self.copies)[: self._num_positions]
        self._cache.clear()
        self._cache[epoch] = rows
        return rows

    def batch(self, epoch: int, step: int, rank: int = 0, world_size: int = 1) -> list[Draw]:
        """The draws that ``rank`` reads for a step: the ranks' shares interleave in one global batch."""
        first, rows, copies = step * self.batch_size, self.rows(epoch), self.copies
        firsts = range(first + rank * copies, first + self.batch_size, world_size * copies)
        return [(epoch, each + n, int(rows[each + n])) for each in firsts for n in range(copies)]


def examples_per_domain(domain_weights: Sequence[float], batch_size: int) -> Index:
    """Examples of each domain in a batch: the weights' shares, by largest remainder."""
    weights = np.asarray(domain_weights, dtype=np.float64)
    shares = weights / weights.sum() * batch_size
    counts: Index = np.floor(shares).astype(np.int64)
    counts[np.argsort(counts - shares, kind="stable")[: batch_size - counts.sum()]] += 1
    return counts


def _sequence(rng: np.random.Generator, speakers_N: Index, length: int, sampling: str) -> Index:
    """``length`` row numbers: rounds over all rows, or rounds over all speakers with a random row of each."""
    if sampling == "utterance":
        rounds = -(-length // len(speakers_N))
        return np.concatenate([rng.permutation(len(speakers_N)) for _ in range(rounds)])[:length]
    order = np.argsort(speakers_N, kind="stable")
    _, starts, counts = np.unique(speakers_N[order], return_index=True, return_counts=True)
    rounds = -(-length // len(starts))
    picked = np.concatenate([rng.permutation(len(starts)) for _ in range(rounds)])[:length]
    within = np.floor(rng.random(length) * counts[picked]).astype(np.int64)
    rows: Index = order[starts[picked] + within]
    return rows


@dataclass(frozen=True)
class StepBatches:
    """The batches of one rank, from step ``first_step`` of ``first_epoch`` on, for a data loader.

    A batch of ``accumulate`` micro-batches is yielded as that many lists.
    """

    plan: EpochPlan
    first_epoch: int
    first_step: int
    last_epoch: int
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    def __iter__(self) -> Iterator[list[Draw]]:
        for epoch in range(self.first_epoch, self.last_epoch):
            start = self.first_step if epoch == self.first_epoch else 0
            for step in range(start, self.plan.steps_per_epoch):
                batch = self.plan.batch(epoch, step, self.rank, self.world_size)
                size = len(batch) // self.accumulate
                for micro in range(self.accumulate):
                    yield batch[micro * size : (micro + 1) * size]

    def __len__(self) -> int:
        steps = (self.last_epoch - self.first_epoch) * self.plan.steps_per_epoch - self.first_step
        return steps * self.accumulate
