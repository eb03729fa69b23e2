"""A data dir whose audio lies in a few large files: for network disks and object stores.

The shards are those of `farvox.audio.shards`. The name of each holds a digest of what went into it, so that
one that is there is whole and is not made again, and an entry of an older `wav.scp` never means other audio.

Shape suffixes: C channel, T sample.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
import polars as pl

from farvox.atomic import atomic_file, refuse_to_replace_foreign, write_text
from farvox.audio.files import read_headers, read_recording
from farvox.audio.headers import AudioInfo
from farvox.audio.remote import put_file, size_of
from farvox.audio.shards import (
    Entry,
    Member,
    PackedFile,
    ShardTable,
    encode,
    size_of_file,
    state_of,
    table_of,
)
from farvox.cache import file_lock
from farvox.datadir.derive import further_texts
from farvox.datadir.kaldi import CORE_FILES, DataDir, write_data_dir
from farvox.errors import AudioError, DataDirError, UnreachableError
from farvox.jobs import Job
from farvox.progress import Note

SHARDS, REJECTED = "shards", "rejected.tsv"
SHARD_BYTES = 10**9
_LAYOUT = "farvox-pack/1"  # part of every digest
_NAME = re.compile(r"\d{5,}-[0-9a-f]{12}\.(tar|json)|\.tmp-.*")
_BLOCK = 512  # of a tar file


@dataclass(frozen=True)
class Shard:
    """A shard that is whole; where utterances are rejected and none may be left out, one that is not there.

    Attributes:
        address: path or URL.
        table: what is in it, and what could not be packed.
    """

    address: str
    table: ShardTable


@dataclass(frozen=True)
class Packer:
    """Makes shards; it is sent to the processes that do.

    Attributes:
        folder: where tables, and shards that stay, are written.
        codec: "wav" or "flac".
        exact: refuse recordings that 16 bits do not hold.
        skip_bad: leave out what cannot be packed.
        at: URL of the folder that shards are moved to; None: they stay.
    """

    folder: Path
    codec: str
    exact: bool
    skip_bad: bool
    at: str | None

    def __call__(self, part: tuple[int, Sequence[tuple[str, str]]]) -> Shard:
        """The shard of a number and its utterances (id, path), unless it is there already."""
        number, utterances = part
        name = f"{number:05d}-{self._digest(utterances)}.tar"
        address = f"{self.at or self.folder}/{name}"
        known = ShardTable.read(str(self.folder / name))
        if known is not None and known.num_bytes == size_of_file(address):
            return Shard(address, known)
        try:
            with self._moved(name) if self.at else atomic_file(address) as path, path.open("wb") as file:
                table = self._write(file, utterances)
                if table.rejected and not self.skip_bad:
                    raise _RejectedError
        except _RejectedError:
            return Shard(address, table)
        self._write_table(address, name, table)
        return Shard(address, table)

    def _digest(self, utterances: Sequence[tuple[str, str]]) -> str:
        """Of all that decides what a shard holds; files are known by path, size and time of change."""
        found = sha256(f"{_LAYOUT} {self.codec} {self.exact}\n".encode())
        for utt_id, path in utterances:
            try:
                state = state_of(path)
            except OSError as error:  # to be told of when it is read
                state = str(error.strerror)
            found.update(f"{utt_id}\t{path}\t{state}\n".encode(errors="surrogateescape"))
        return found.hexdigest()[:12]

    @contextmanager
    def _moved(self, name: str) -> Iterator[Path]:
        with TemporaryDirectory(dir=self.folder, prefix=".tmp-") as aside:
            yield Path(aside, name)
            put_file(str(Path(aside, name)), f"{self.at}/{name}")

    def _write_table(self, address: str, name: str, table: ShardTable) -> None:
        path = table_of(str(self.folder / name))
        if self.at:
            with self._moved(Path(path).name) as beside:
                beside.write_text(table.text(), "utf-8")
        write_text(path, table.text())

    def _write(self, file: BinaryIO, utterances: Sequence[tuple[str, str]]) -> ShardTable:
        entries: list[Entry] = []
        rejected: dict[str, str] = {}
        for utt_id, path in utterances:
            try:
                entry, content = self._encoded(utt_id, path)
            except UnreachableError:  # the recording may be as good as any
                raise
            except AudioError as error:
                rejected[utt_id] = str(error)
                continue
            member = tarfile.TarInfo(f"{utt_id}.{self.codec}")
            member.size = len(content)
            file.write(member.tobuf())
            entries.append(entry._replace(member=entry.member._replace(start=file.tell())))
            file.write(content + bytes(-len(content) % _BLOCK))
        file.write(bytes(2 * _BLOCK))
        return ShardTable(file.tell(), entries, rejected)

    def _encoded(self, utt_id: str, path: str) -> tuple[Entry, bytes]:
        wav_CT, sample_rate = read_recording(path)
        pcm_CT = np.rint(wav_CT * np.float32(32768))
        clipped = int(np.count_nonzero((pcm_CT < -32768) | (pcm_CT > 32767)))
        pcm_CT = np.clip(pcm_CT, -32768, 32767, out=pcm_CT)
        rounded = not np.array_equal(pcm_CT * np.float32(1 / 32768), wav_CT)
        if rounded and self.exact:
            raise AudioError(f"{path}: is not 16-bit; without --exact it is rounded to the nearest")
        try:
            content = encode(np.ascontiguousarray(pcm_CT.T.astype(np.int16)), sample_rate, self.codec)
        except AudioError as error:
            raise AudioError(f"{path}: {error}") from None
        member = Member(self.codec, 0, len(content), wav_CT.shape[1], sample_rate, len(wav_CT))
        return Entry(utt_id, member, zlib.crc32(content), int(rounded), clipped), content


class _RejectedError(Exception):
    """A shard is given up, and what was written of it goes."""


def pack(
    path: str | Path, out: str | Path, *, note: Note, codec: str = "wav", shard_bytes: int = SHARD_BYTES,
    exact: bool = False, skip_bad: bool = False, at: str | None = None, jobs: int | None = None,
) -> DataDir:  # fmt: skip
    """Write a data dir as one whose audio lies in shards; what is there of it already is not done again.

    Samples of 16-bit recordings stay what they are, whatever the format of their files. Others are
    rounded to 16 bits, and clipped where they leave [-1, 1]; how many is noted. All channels, and the rate
    of each, are kept; so are all further text files of the data dir.

    Args:
        path: the data dir to read.
        out: the data dir to write; another one.
        note: is told what happens.
        codec: "wav", or "flac" for half the bytes.
        shard_bytes: of the recordings of a shard, as 16-bit samples of one channel.
        exact: refuse recordings that are not 16-bit.
        skip_bad: leave out utterances that cannot be packed.
        at: URL of a folder, such as ``s3://bucket/corpus``: shards are moved there one by one, and ``out``
            names them there; its text files are copied there as well.
        jobs: processes; as many as there are processors by default.

    Raises:
        AudioError: utterances cannot be packed; they are listed in ``out/rejected.tsv``.
        DataDirError: no data dir, or ``out`` is ``path``.
        FarvoxError: ``out`` holds other things or cannot be written.
    """
    source, out = DataDir.open(path), Path(out)
    if out.resolve() == source.path.resolve():
        raise DataDirError(f"{out}: is the data dir itself; choose another OUT")
    refuse_to_replace_foreign(out, ("wav.scp", SHARDS))
    folder = out / SHARDS
    if at:
        at = at.rstrip("/")
        size_of(f"{at}/wav.scp")  # raises now, not after hours, where the store cannot be used
    with file_lock(folder / ".lock"):
        for unfinished in folder.glob(".tmp-*"):
            _remove(unfinished)
        packer = Packer(folder, codec, exact, skip_bad, at)
        shards = _made(packer, source, shard_bytes, note, jobs)
        rejected = {utt_id: why for shard in shards for utt_id, why in shard.table.rejected.items()}
        _list_rejected(out, source, rejected, skip_bad, note)
        packed = _write_dir(out, source, shards, at)
        names = {Path(shard.address).name for shard in shards}
        for other in folder.iterdir():
            if _NAME.fullmatch(other.name) and f"{other.stem}.tar" not in names:
                _remove(other)
    _note_rounding(shards, note)
    return packed


def _made(packer: Packer, source: DataDir, shard_bytes: int, note: Note, jobs: int | None) -> list[Shard]:
    table = source.table
    num_bytes = 2 * _lengths(source, note)
    numbers = (np.cumsum(num_bytes) - num_bytes) // shard_bytes
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    pairs = list(zip(table["utt_id"], table["wav_path"], strict=True))
    ends = [*starts[1:].tolist(), len(pairs)]
    parts = [(number, pairs[start:end]) for number, (start, end) in enumerate(zip(starts, ends, strict=True))]
    job = Job(what="utterances packed", note=note, jobs=jobs, kept=packer.folder)
    return list(job.run(packer, parts, count=lambda part: len(part[1])))


def _lengths(source: DataDir, note: Note) -> np.ndarray:
    """Samples of every utterance, 0 where that cannot be found out; they decide where shards are cut."""
    if source.num_samples.null_count() == 0:
        return source.num_samples.to_numpy()
    headers = read_headers(source.wav_paths.to_list(), note)
    return np.array([each.num_samples if isinstance(each, AudioInfo) else 0 for each in headers], np.int64)


def _write_dir(out: Path, source: DataDir, shards: Sequence[Shard], at: str | None) -> DataDir:
    rows = [
        (entry.utt_id, str(PackedFile(shard.address, entry.member)), entry.member.num_samples)
        for shard in shards
        for entry in shard.table.entries
    ]
    packed = pl.DataFrame(rows, schema=["utt_id", "wav_path", "num_samples"], orient="row")
    speakers = source.table.select("utt_id", "speaker_id")
    table = packed.join(speakers, on="utt_id", how="left", maintain_order="left")
    files = _other_texts(source.path) | further_texts(source, table)
    written = write_data_dir(out, table, files=files)
    if at:
        for name in (*files, *(name for name in CORE_FILES if (out / name).is_file())):
            put_file(str(out / name), f"{at}/{name}")
    return written


def _other_texts(folder: Path) -> dict[str, str]:
    """The text files beside those that every data dir has: trial lists, maps of enrolment."""
    texts = {}
    for path in folder.iterdir():
        if path.name.startswith((".", *CORE_FILES, "utt2", "spk2")) or path.suffix == ".json":
            continue
        if path.name == REJECTED or not path.is_file():
            continue
        with path.open("rb") as file:
            if b"\0" not in (head := file.read(_BLOCK)):  # as there is in audio
                try:
                    texts[path.name] = (head + file.read()).decode()
                except UnicodeDecodeError:
                    continue
    return texts


def _list_rejected(
    out: Path, source: DataDir, rejected: Mapping[str, str], skip_bad: bool, note: Note
) -> None:
    """List what cannot be packed, or remove the list of an earlier run."""
    if not rejected:
        (out / REJECTED).unlink(missing_ok=True)
        return
    lines = [f"{utt_id}\t{' '.join(why.split())}\n" for utt_id, why in sorted(rejected.items())]
    write_text(out / REJECTED, "utt_id\treason\n" + "".join(lines))
    said = f"{len(rejected):,} of {len(source):,} utterances cannot be packed"
    if skip_bad and len(rejected) < len(source):
        note(f"{said} and were left out; {out / REJECTED} names each with the reason")
        return
    utt_id, why = next(iter(rejected.items()))
    raise AudioError(
        f"{out}: {said}; {out / REJECTED} names each, the first is '{utt_id}': {why}. Mend them, or leave "
        "them out with --skip-bad; what is packed is kept"
    )


def _note_rounding(shards: Sequence[Shard], note: Note) -> None:
    entries = [entry for shard in shards for entry in shard.table.entries]
    rounded = [entry for entry in entries if entry.rounded]
    clipped = [entry for entry in rounded if entry.clipped]
    if rounded:
        louder = (
            f"; {len(clipped):,} of them (such as '{clipped[0].utt_id}') left [-1, 1] and were clipped"
            if clipped
            else ""
        )
        note(f"{len(rounded):,} of {len(entries):,} utterances are not 16-bit and were rounded{louder}")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
