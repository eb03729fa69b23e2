"""Packed corpora: many recordings behind one another in few large files, each read from its middle.

A shard is a tar file of plain 16-bit wav or flac files, as WebDataset has them; ``tar xf`` unpacks them.
`wav.scp` is the index: it gives for each utterance its shard, and the beginning and the format of its file
there, so that a chunk is one read of a shard, without any other index or a header:

    SHARD.tar:wav:START:BYTES:SAMPLES:RATE:CHANNELS

The flac files begin with a table of their frames (a quarter of a second each at 16 kHz), of which only
those of the chunk are read and decoded. A shard is read by its path, or by a URL (`farvox.audio.remote`).

Shards are not mapped into memory: a read of the system is as fast, asks a network disk for the chunk in one
piece, and turns the failure of a disk into an error, where a map would kill the process.

Shape suffixes: C channel, T sample.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from farvox.audio.flac import DamagedFlacError, encode_flac, read_frames
from farvox.audio.headers import float_frames
from farvox.audio.remote import is_remote, read_range, read_whole, size_of
from farvox.cache import file_state
from farvox.errors import AudioError

WAV_HEAD = 44
"""Bytes of a wav file before its samples."""

ADDRESS = r"^(?P<shard>.+\.tar):(?P<kind>wav|flac):(?P<start>\d+):(?P<bytes>\d+):(\d+):(\d+):(\d+)$"
"""Pattern of the audio path in a packed `wav.scp`."""

_ADDRESS = re.compile(ADDRESS)
_SMALL = 1 << 20  # a remote flac file of fewer bytes is read in one request rather than in two
_MOST_OPEN = 256  # shards


class Member(NamedTuple):
    """A file in a shard: its format, and where it begins.

    Attributes:
        kind: "wav" or "flac".
        start: byte of the shard at which the file begins.
        num_bytes: of the file.
        num_samples: per channel.
        sample_rate: Hz.
        num_channels: interleaved.
    """

    kind: str
    start: int
    num_bytes: int
    num_samples: int
    sample_rate: int
    num_channels: int


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A recording in a shard. ``str()`` gives its audio path in `wav.scp`.

    Attributes:
        shard: path or URL of the tar file.
        member: its format, and where it lies in the shard.
    """

    shard: str
    member: Member

    @classmethod
    def parse(cls, path: str) -> PackedFile | None:
        """Parse an audio path of `wav.scp`; None where it is no packed file."""
        if ".tar:" not in path or (found := _ADDRESS.match(path)) is None:
            return None
        shard, kind, *numbers = found.groups()
        return cls(shard, Member(kind, *map(int, numbers)))

    def __str__(self) -> str:
        return ":".join((self.shard, *map(str, self.member)))

    def read(self, start: int, count: int) -> npt.NDArray[np.float32]:
        """Read frames [T, C] in [-1, 1] from ``start``, fewer where the recording ends.

        Raises:
            AudioError: the shard is not there, cannot be read, is cut short or is damaged.
        """
        num_samples, num_channels = self.member.num_samples, self.member.num_channels
        start = min(start, num_samples)
        count = min(count, num_samples - start)
        if not count:
            return np.zeros((0, num_channels), np.float32)
        if self.member.kind == "wav":
            frame_bytes = 2 * num_channels
            content = self._bytes(WAV_HEAD + start * frame_bytes, count * frame_bytes)
            return float_frames(content, num_channels)
        whole = self.content() if is_remote(self.shard) and self.member.num_bytes < _SMALL else None

        def bytes_of(at: int, length: int) -> bytes:
            return self._bytes(at, length) if whole is None else whole[at : at + length]

        try:
            return read_frames(bytes_of, self.member.num_bytes, num_samples, start, count)
        except DamagedFlacError:
            raise AudioError(
                f"{self}: damaged audio; 'farvox check --audio' finds all that is: copy the shard again"
            ) from None

    def content(self) -> bytes:
        """The whole file, as it was packed. Errors as `read`."""
        return self._bytes(0, self.member.num_bytes)

    def _bytes(self, start: int, count: int) -> bytes:
        shard, at = self.shard, self.member.start + start
        try:
            if is_remote(shard):
                content = read_range(shard, at, count)
            elif len(content := _opened(shard).read(at, count)) < count:
                content = _Handle(shard).read(at, count)  # the file of an open handle may have been replaced
        except FileNotFoundError:
            raise AudioError(f"{shard}: no such file (relative paths start at {os.getcwd()})") from None
        except OSError as error:
            raise AudioError(f"{shard}: cannot be read: {error.strerror or error}") from None
        if len(content) < count:
            raise AudioError(f"{self}: the shard is cut short: it ends before this utterance; copy it again")
        return content


class Entry(NamedTuple):
    """An utterance in the table of a shard.

    Attributes:
        utt_id: its name when it was packed.
        member: its format, and where it lies in the shard.
        crc32: of the file's bytes.
        rounded: 1 where the recording was not 16-bit, and was rounded to it.
        clipped: samples that lay outside [-1, 1].
    """

    utt_id: str
    member: Member
    crc32: int
    rounded: int
    clipped: int


@dataclass(frozen=True)
class ShardTable:
    """Table of contents of a shard; kept beside it as JSON, and written after it.

    Attributes:
        num_bytes: size of the shard.
        entries: its utterances, in order.
        rejected: utterances that were left out, with the reason.
    """

    num_bytes: int
    entries: list[Entry]
    rejected: dict[str, str]

    @classmethod
    def read(cls, shard: str) -> ShardTable | None:
        """Read the table of the shard of this path or URL; None where there is none that can be read.

        Raises:
            AudioError: a store does not answer.
        """
        path = table_of(shard)
        try:
            fields = json.loads(read_whole(path) if is_remote(path) else Path(path).read_bytes())
            return cls(
                fields["bytes"],
                [Entry(utt_id, Member(*member), *rest) for utt_id, member, *rest in fields["utterances"]],
                fields["rejected"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def text(self) -> str:
        """The JSON, an utterance a line."""
        rows = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in self.entries)
        rejected = json.dumps(self.rejected, ensure_ascii=False)
        return f'{{"bytes": {self.num_bytes}, "rejected": {rejected}, "utterances": [\n{rows}\n]}}\n'


def table_of(shard: str) -> str:
    """Path or URL of the table of a shard."""
    return shard.removesuffix(".tar") + ".json"


def size_of_file(location: str) -> int | None:
    """Bytes of the file of a path or URL; None where there is none. Raises as `size_of` does."""
    if is_remote(location):
        return size_of(location)
    try:
        found = os.stat(location)
    except (OSError, ValueError):  # as os.path.isfile
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def state_of(path: str) -> str:
    """The `file_state` of an audio file; empty for URLs and entries of shards.

    A shard of another content has another name.

    Raises:
        OSError: there is no such file.
    """
    return "" if PackedFile.parse(path) or is_remote(path) else file_state(path)


def encode(pcm_TC: npt.NDArray[np.int16], sample_rate: int, kind: str) -> bytes:
    """Encode 16-bit samples as a file, as shards hold it.

    Raises:
        AudioError: too many channels or too many samples for this kind of file.
    """
    if kind == "flac":
        return encode_flac(pcm_TC, sample_rate)
    count, channels = pcm_TC.nbytes, pcm_TC.shape[1]
    if count + WAV_HEAD > 0xFFFFFFFF:
        raise AudioError("is longer than a wav file can be (4 GB); use flac, or cut it")
    layout = (16, 1, channels, sample_rate, sample_rate * 2 * channels, 2 * channels, 16)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", count + 36, b"WAVE", b"fmt ", *layout, b"data", count)
    return head + pcm_TC.astype("<i2", copy=False).tobytes()


class _Handle:
    """An open file, closed when no reference to it is left; threads and forked processes may share it."""

    def __init__(self, path: str) -> None:
        self.path, self.handle = path, os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)

    def read(self, start: int, count: int) -> bytes:
        if not hasattr(os, "pread"):  # Windows
            with open(self.path, "rb") as file:
                file.seek(start)
                return file.read(count)
        content = os.pread(self.handle, count, start)
        while len(content) < count:
            if not (more := os.pread(self.handle, count - len(content), start + len(content))):
                break
            content += more
        return content


_opened = lru_cache(_MOST_OPEN)(_Handle)
