"""A data dir whose audio lies in a few large files: for network disks and object stores.

The shards are those of `farvox.audio.shards`. The name of each holds a digest of its recordings, so that one
that is there is whole and is not made again, and an entry of an older `wav.scp` never means other audio.

Shape suffixes: C channel, T sample.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from farvox.atomic import (
    atomic_file,
    file_name,
    naming,
    refuse_to_replace_foreign,
    temporary_beside,
    visible,
    write_text,
)
from farvox.audio.files import read_headers, read_recording
from farvox.audio.headers import AudioInfo
from farvox.audio.remote import know_bucket, put_file, size_of, without_scheme
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
from farvox.datadir import PackOptions
from farvox.datadir.audit import note_changes
from farvox.datadir.derive import further_texts
from farvox.datadir.kaldi import CHECKED, CORE_FILES, MADE_BY, DataDir, refuse_other_data_dir, write_data_dir
from farvox.errors import AudioError, UnreachableError
from farvox.jobs import REJECTED, Job, digest, report_rejected
from farvox.progress import Note, silent
from farvox.writers import writes

SHARDS = "shards"
_LAYOUT = "farvox-pack/1"  # part of every digest
_NAME = re.compile(r"\d{5,}-[0-9a-f]{12}\.(tar|json)")
_BLOCK = 512  # of a tar file


@dataclass(frozen=True)
class Shard:
    """A shard that is whole; where utterances are rejected and none may be left out, one that is not there.

    Attributes:
        address: path or URL.
        table: its utterances, and those that could not be packed.
    """

    address: str
    table: ShardTable


@dataclass(frozen=True)
class Packer:
    """Makes shards; it is sent to the processes that do.

    Attributes:
        folder: where tables, and shards that stay, are written.
        options: of the packing.
        at: URL of the folder that shards are moved to; None: they stay.
    """

    folder: Path
    options: PackOptions
    at: str | None

    def __call__(self, part: tuple[int, Sequence[tuple[str, str]]]) -> Shard:
        """The shard of a number and its utterances (id, path), unless it is there already."""
        number, utterances = part
        codec, exact = self.options.codec, self.options.exact
        digest = sha256(f"{_LAYOUT} {codec} {exact}\n".encode())  # files are known by path, size and time
        for utt_id, path in utterances:
            try:
                state = "" if PackedFile.parse(path) else state_of(path)  # its path names a shard's content
            except (OSError, AudioError) as error:  # is reported when it is read
                state = str(getattr(error, "strerror", error))
            digest.update(f"{file_name(utt_id)}\t{path}\t{state}\n".encode(errors="surrogateescape"))
        name = f"{number:05d}-{digest.hexdigest()[:12]}.tar"
        address = f"{self.at or self.folder}/{name}"
        known = ShardTable.read(str(self.folder / name))
        if known is not None and known.num_bytes == size_of_file(address):
            return Shard(address, known)
        try:
            with self._to_store(name) if self.at else atomic_file(address) as file_path:
                with file_path.open("wb") as file:
                    table = self._write(file, utterances)
                if table.rejected and not self.options.skip_bad:
                    raise _RejectedError
        except _RejectedError:
            return Shard(address, table)
        table_path = table_of(str(self.folder / name))
        if self.at:
            with self._to_store(Path(table_path).name) as beside:
                beside.write_text(table.text(), "utf-8")
        write_text(table_path, table.text())
        return Shard(address, table)

    @contextmanager
    def _to_store(self, name: str) -> Iterator[Path]:
        """Yield a path; the file that is written there goes to the object store under ``name``."""
        with naming(self.folder), temporary_beside(self.folder / name) as aside:
            yield aside / name
            put_file(str(aside / name), f"{self.at}/{name}")

    def _write(self, file: BinaryIO, utterances: Sequence[tuple[str, str]]) -> ShardTable:
        """Write a shard."""
        codec = self.options.codec
        entries: list[Entry] = []
        rejected: dict[str, str] = {}
        for utt_id, path in utterances:
            try:
                wav_CT, sample_rate = read_recording(path)
                pcm_CT = np.rint(wav_CT * np.float32(32768))
                clipped = int(np.count_nonzero((pcm_CT < -32768) | (pcm_CT > 32767)))
                pcm_CT = np.clip(pcm_CT, -32768, 32767, out=pcm_CT)
                rounded = not np.array_equal(pcm_CT * np.float32(1 / 32768), wav_CT)
                if rounded and self.options.exact:
                    raise AudioError(f"{path}: is not 16-bit; without --exact it is rounded to the nearest")
                try:
                    content = encode(np.ascontiguousarray(pcm_CT.T.astype(np.int16)), sample_rate, codec)
                except AudioError as error:
                    raise AudioError(f"{path}: {error}") from None
            except UnreachableError:  # the recording may be as good as any
                raise
            except AudioError as error:
                rejected[utt_id] = str(error)
                continue
            head = tarfile.TarInfo(f"{file_name(utt_id)}.{codec}")
            head.size = len(content)
            file.write(head.tobuf())
            member = Member(codec, file.tell(), len(content), wav_CT.shape[1], sample_rate, len(wav_CT))
            entries.append(Entry(utt_id, member, zlib.crc32(content), int(rounded), clipped))
            file.write(content + bytes(-len(content) % _BLOCK))
        file.write(bytes(2 * _BLOCK))
        return ShardTable(file.tell(), entries, rejected)


class _RejectedError(Exception):
    """A shard is given up, and its file goes."""


@writes("out")
def pack(
    path: str | Path, out: str | Path, options: PackOptions = PackOptions(), *, note: Note = silent
) -> DataDir:
    """Write a data dir as one whose audio lies in shards; shards that are there already are not made again.

    Samples of 16-bit recordings stay what they are, whatever the format of their files. Others are
    rounded to 16 bits, and clipped where they leave [-1, 1]; how many is noted. All channels, and the rate
    of each, are kept; so are all further text files of the data dir, which are copied to ``at`` as well.

    Args:
        path: the data dir to read.
        out: the data dir to write; another one.
        options: codec, size and place of the shards.
        note: takes lines for people.

    Raises:
        AudioError: utterances cannot be packed; they are listed in ``out/rejected.tsv``.
        DataDirError: no data dir, or ``out`` is ``path``.
        FarvoxError: ``out`` holds other things or cannot be written.
        JobError: a process was killed.
    """
    source, out = DataDir.open(path, remote=options.remote), Path(out)
    refuse_to_replace_foreign(out, ("wav.scp", SHARDS, MADE_BY))
    write_text(out / MADE_BY, _record(out, source))  # now: a run that is interrupted has a record too
    folder = out / SHARDS
    at = without_scheme(options.at.rstrip("/")) if options.at else None
    if at:
        know_bucket(at)
        size_of(f"{at}/wav.scp")  # raises now, not after hours, where the store cannot be used
    note_changes(source, note)
    folder.mkdir(exist_ok=True)
    if source.num_samples.null_count():
        headers = read_headers(source.wav_paths.to_list(), note)
        known = (each.num_samples if isinstance(each, AudioInfo) else 0 for each in headers)
        lengths = np.fromiter(known, np.int64)
    else:
        lengths = source.num_samples.to_numpy()
    num_bytes = 2 * lengths
    numbers = (np.cumsum(num_bytes) - num_bytes) // round(1_000_000 * options.shard_size)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    pairs = list(zip(source.utt_ids, source.wav_paths, strict=True))
    ends = [*starts[1:].tolist(), len(pairs)]
    parts = [(number, pairs[a:b]) for number, (a, b) in enumerate(zip(starts, ends, strict=True))]
    job = Job(
        what="utterances packed",
        note=note,
        jobs=options.jobs,
        kept=folder,
        out=out,
        reads=[path for _, path in pairs[:1]],
    )
    lines = (f"{number} {utt_id} {path}" for number, part in parts for utt_id, path in part)
    settings = {"codec": options.codec, "exact": options.exact, "at": at, "utterances": digest(lines)}
    own = job.own(parts, settings)
    shards = list(job.run(Packer(folder, options, at), own, count=lambda part: len(part[1])))
    rejected = {utt_id: why for shard in shards for utt_id, why in shard.table.rejected.items()}
    job.end(rejected)
    report_rejected(
        out / REJECTED, rejected, len(source), what="packed", skip_bad=options.skip_bad, note=note
    )
    packed = _write_dir(out, source, shards, at)
    names = {Path(shard.address).name for shard in shards}
    for other in visible(folder):
        if _NAME.fullmatch(other.name) and f"{other.stem}.tar" not in names:
            other.unlink()
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
    return packed


def _write_dir(out: Path, source: DataDir, shards: Sequence[Shard], at: str | None) -> DataDir:
    """Write the text files of the packed data dir, and copy them to ``at``."""
    rows = [
        (entry.utt_id, str(PackedFile(shard.address, entry.member)), entry.member.num_samples)
        for shard in shards
        for entry in shard.table.entries
    ]
    packed = pl.DataFrame(rows, schema=["utt_id", "wav_path", "num_samples"], orient="row")
    speakers = source.table.select("utt_id", "speaker_id")
    table = packed.join(speakers, on="utt_id", how="left", maintain_order="left")
    texts = {}  # beside the files that every data dir has: trial lists, maps of enrolment
    for path in visible(source.path):
        if path.name.startswith((*CORE_FILES, "utt2", "spk2", "reco2")) or path.suffix == ".json":
            continue
        if path.name == REJECTED or not path.is_file():
            continue
        with path.open("rb") as file:
            if b"\0" not in (head := file.read(_BLOCK)):  # as there is in audio
                with suppress(UnicodeDecodeError):
                    texts[path.name] = (head + file.read()).decode()
    texts |= further_texts(source, table)
    texts.pop(CHECKED, None)  # of the files that were packed
    texts[MADE_BY] = (out / MADE_BY).read_text("utf-8")
    written = write_data_dir(out, table, files=texts)
    if at:
        names = {*texts, *(name for name in CORE_FILES if (out / name).is_file())} - {MADE_BY}
        for name in sorted(names, key=lambda name: (name == "wav.scp", name)):  # whoever finds it finds all
            put_file(str(out / name), f"{at}/{name}")
    return written


def _record(out: Path, source: DataDir) -> str:
    """The record of a packing; a packed dir of an earlier farvox, without one, is known by its utterances."""

    def is_packed(there: DataDir) -> bool:
        ids = source.utt_ids.implode()
        return (out / SHARDS).is_dir() and bool(there.utt_ids.is_in(ids).any())

    return refuse_other_data_dir(out, "pack", [source.path], unless=is_packed)
