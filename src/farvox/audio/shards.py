"""Packed corpora: many recordings behind one another in few large files, each read from its middle.

A shard is a tar file of plain 16-bit wav or flac files, as WebDataset has them; ``tar xf`` unpacks them.
`wav.scp` is the index: it gives for each utterance its shard, and the beginning and the format of its file
there, so that a chunk is one read of a shard, without any other index or a header:

    SHARD.tar:wav:START:BYTES:SAMPLES:RATE:CHANNELS

The flac files begin with a table of their frames (a quarter of a second each at 16 kHz), of which only those
of the chunk are read and decoded. The table is flac's own seek table, with a point for each frame, so that
any program reads the files. Each frame is decoded without those before it, and its checksum is compared. A
shard is read by its path, or by a URL (`farvox.audio.remote`).

Shards are not mapped into memory: a read of the system is as fast, asks a network disk for the chunk in one
piece, and turns the failure of a disk into an error, where a map would kill the process.

Shape suffixes: C channel, P frame of a flac file, T sample.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from farvox.audio.headers import float_frames, refuse_named_pipe
from farvox.audio.remote import is_remote, read_range, read_whole, size_of, version_of, without_scheme
from farvox.audio.stretches import file_of
from farvox.cache import file_state
from farvox.errors import AudioError
from farvox.jobs import digest
from farvox.parsing import parse_json

WAV_HEAD = 44  # bytes of a wav file before its samples
ADDRESS = (
    r"^(?P<shard>.+\.tar):(?P<kind>wav|flac):(?P<start>\d{1,15}):(?P<bytes>\d{1,15})"
    r":(\d{1,15}):(\d{1,15}):(\d{1,15})$"
)
"""Pattern of the audio path in a packed `wav.scp`."""

_ADDRESS = re.compile(ADDRESS)
_SMALL = 1 << 20  # a remote flac file of fewer bytes is read in one request rather than in two
_MOST_OPEN = 256  # shards
_MOST_REQUESTS = 16  # at a time
_STREAMINFO = 34  # bytes, after 8 of "fLaC" and the head of the block
_TABLE_AT = 8 + _STREAMINFO + 4  # in the file
_POINT = np.dtype([("sample", ">u8"), ("byte", ">u8"), ("count", ">u2")])


class DamagedFlacError(Exception):
    """Frames of a flac file cannot be decoded, or fail their checksums."""


class Member(NamedTuple):
    """A file in a shard: its format, and where it begins."""

    kind: str  # "wav" or "flac"
    start: int  # byte of the shard
    num_bytes: int
    num_samples: int  # per channel
    sample_rate: int  # Hz
    num_channels: int  # interleaved


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A recording in a shard. ``str()`` gives its audio path in `wav.scp`."""

    shard: str  # path or URL of the tar file
    member: Member

    @classmethod
    def parse(cls, path: str) -> PackedFile | None:
        """Parse an audio path of `wav.scp`; None where it is no packed file."""
        if ".tar:" not in path or (found := _ADDRESS.match(path)) is None:
            return None
        shard, kind, *numbers = found.groups()
        return cls(without_scheme(shard), Member(kind, *map(int, numbers)))

    def __str__(self) -> str:
        return ":".join((self.shard, *map(str, self.member)))

    def read(self, start: int, count: int) -> npt.NDArray[np.float32]:
        """Read frames [T, C] in [-1, 1] from ``start``, fewer where the recording ends.

        Raises:
            AudioError: the shard is not there, cannot be read, is cut short or is damaged.
        """
        num_samples, num_channels = self.member.num_samples, self.member.num_channels
        start = min(start, num_samples)
        if not (count := min(count, num_samples - start)):
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
            elif len(content := _opened(os.path.abspath(shard)).read(at, count)) < count:
                content = Handle(shard).read(at, count)  # the file of an open handle may have been replaced
        except FileNotFoundError:
            raise AudioError(f"{shard}: no such file (relative paths start at {os.getcwd()})") from None
        except OSError as error:
            raise AudioError(f"{shard}: cannot be read: {error.strerror or error}") from None
        if len(content) < count:
            raise AudioError(f"{self}: the shard is cut short: it ends before this utterance; copy it again")
        return content


class Entry(NamedTuple):
    """An utterance in the table of a shard."""

    utt_id: str  # when it was packed
    member: Member
    crc32: int  # of the file's bytes
    rounded: int  # 1 where the recording was not 16-bit, and was rounded to it
    clipped: int  # samples that lay outside [-1, 1]


@dataclass(frozen=True)
class ShardTable:
    """Table of contents of a shard; kept beside it as JSON, and written after it."""

    num_bytes: int  # of the shard
    entries: list[Entry]  # in order
    rejected: dict[str, str]  # utterances that were left out, with the reason

    @classmethod
    def read(cls, shard: str) -> ShardTable | None:
        """Read the table of the shard of this path or URL; None where there is none that can be read.

        Raises:
            AudioError: a store does not answer.
        """
        path = table_of(shard)
        try:
            fields = parse_json(read_whole(path) if is_remote(path) else Path(path).read_bytes())
            entries = [Entry(utt_id, Member(*each), *rest) for utt_id, each, *rest in fields["utterances"]]
            return cls(fields["bytes"], entries, fields["rejected"])
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
    location = without_scheme(location)
    return os.path.getsize(location) if os.path.isfile(location) else None


def state_of(path: str) -> str:
    """The `file_state` of the file of an audio path; of a URL what its store tells (`version_of`).

    Of an entry of a shard it is the name of the shard, which follows from its content, and the place in it.
    A URL is asked for as it is when the audio is read: whether a data dir may name it is decided when that is
    opened (`farvox.audio.remote.why_refused`).

    Raises:
        OSError: there is no such file.
        AudioError: the same of a URL, or the store does not answer.
    """
    path = file_of(path)
    if packed := PackedFile.parse(path):
        return f"{packed.shard.rpartition('/')[2]}\t{packed.member}"
    return version_of(path) if is_remote(path) else file_state(without_scheme(path))


def states_of(paths: Sequence[str], ask: Callable[[str], str] = state_of) -> list[str]:
    """The states of some audio paths, in order; those of URLs are asked for side by side. Errors as `ask`."""
    urls = [path for path in dict.fromkeys(paths) if is_remote(file_of(path)) and not PackedFile.parse(path)]
    known: dict[str, str] = {}
    if len(urls) > 1:
        with ThreadPoolExecutor(_MOST_REQUESTS) as pool:
            known = dict(zip(urls, pool.map(ask, urls), strict=True))
    return [known[path] if path in known else ask(path) for path in paths]


def fingerprint(paths: Iterable[str]) -> str:
    """Digest of the states of some audio files, wherever they lie; a missing one has a state of its own."""

    def ask(path: str) -> str:
        try:
            return state_of(path)
        except OSError as error:
            return error.strerror or str(error)
        except AudioError as error:
            return str(error)

    return digest(states_of(list(paths), ask))


def encode(pcm_TC: npt.NDArray[np.int16], sample_rate: int, kind: str) -> bytes:
    """Encode 16-bit samples as a wav or flac file, as shards hold it.

    Raises:
        AudioError: too many channels or samples for a file of this kind, or a rate that flac does not have.
    """
    if kind == "flac":
        return encode_flac(pcm_TC, sample_rate)
    count, channels = pcm_TC.nbytes, pcm_TC.shape[1]
    if count + WAV_HEAD > 0xFFFFFFFF:
        raise AudioError("is longer than a wav file can be (4 GB); use flac, or cut it")
    layout = (16, 1, channels, sample_rate, sample_rate * 2 * channels, 2 * channels, 16)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", count + 36, b"WAVE", b"fmt ", *layout, b"data", count)
    return head + pcm_TC.astype("<i2", copy=False).tobytes()


def encode_flac(pcm_TC: npt.NDArray[np.int16], sample_rate: int) -> bytes:
    """Encode 16-bit samples as libsndfile does, with the table in the place of its comments."""
    if pcm_TC.shape[1] > 8:
        raise AudioError(f"flac holds 8 channels at most, not {pcm_TC.shape[1]}; use wav")
    written = io.BytesIO()
    try:
        soundfile.write(written, pcm_TC, sample_rate, format="FLAC", subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise AudioError(f"cannot be flac ({error.error_string}); use wav") from None
    content = written.getvalue()
    block = int.from_bytes(content[8:10])  # samples of each frame but the last
    at, is_last = 4, False
    while not is_last:  # over the blocks of metadata
        is_last, at = bool(content[at] & 0x80), at + 4 + int.from_bytes(content[at + 1 : at + 4])
    starts: list[int] = []
    for number in range(-(-len(pcm_TC) // block)):
        coded = _as_utf8(number)
        while content[at + 4 : at + 4 + len(coded)] != coded or not _is_frame_head(content, at, len(coded)):
            at = content.find(b"\xff\xf8", at + 1)
            if at < 0:
                raise AudioError(f"the flac encoder left out frame {number}; use wav")
        starts.append(at)
    points_P = np.zeros(len(starts), _POINT)
    points_P["sample"] = np.arange(len(starts)) * block
    points_P["byte"] = np.array(starts) - starts[0]
    points_P["count"] = np.minimum(block, len(pcm_TC) - np.arange(len(starts)) * block)
    info = b"fLaC" + struct.pack(">I", _STREAMINFO) + content[8 : 8 + _STREAMINFO]
    table = struct.pack(">I", 0x83 << 24 | points_P.nbytes) + points_P.tobytes()  # 3: a table, 0x80: the last
    return info + table + content[starts[0] :]


def read_frames(
    bytes_of: Callable[[int, int], bytes], num_bytes: int, num_samples: int, start: int, count: int
) -> npt.NDArray[np.float32]:
    """Read samples ``start`` to ``start + count`` of a file that `encode_flac` made; [T, C], in [-1, 1].

    There is at least one, and all are in the file. ``bytes_of`` gives a part of it by start and length.

    Raises:
        DamagedFlacError: they cannot be decoded.
    """
    head = bytes_of(0, _TABLE_AT)
    block = int.from_bytes(head[8:10])
    if head[:4] != b"fLaC" or not block:
        raise DamagedFlacError
    num_frames, point = -(-num_samples // block), _POINT.itemsize
    first, last = start // block, (start + count - 1) // block
    points = bytes_of(_TABLE_AT + first * point, (min(last + 2, num_frames) - first) * point)
    bytes_P = np.frombuffer(points, _POINT)["byte"] + np.uint64(_TABLE_AT + num_frames * point)
    begin, end = int(bytes_P[0]), num_bytes if last + 1 == num_frames else int(bytes_P[-1])
    if not begin < end <= num_bytes:
        raise DamagedFlacError
    # The frames are decoded as a file of their own: its header has their number of samples, and no digest.
    held = min((last + 1) * block, num_samples) - first * block
    rates = int.from_bytes(head[18:26]) >> 36 << 36  # the last 36 bits are the number of samples
    info = head[8:18] + (rates | held).to_bytes(8) + bytes(16)
    content = b"fLaC" + struct.pack(">I", 0x80 << 24 | _STREAMINFO) + info + bytes_of(begin, end - begin)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            decoded_TC: npt.NDArray[np.float32] = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        raise DamagedFlacError from None
    if len(decoded_TC) != held:
        raise DamagedFlacError
    return decoded_TC[start - first * block :][:count]


class Handle:
    """An open file, closed when no reference to it is left; threads and forked processes may share it."""

    def __init__(self, path: str) -> None:
        refuse_named_pipe(path, os.stat(path).st_mode)  # to open one waits for its program
        self.path, self.handle = path, os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)

    def read(self, start: int, count: int) -> bytes:
        """Read ``count`` bytes from ``start``, fewer where the file ends."""
        if not hasattr(os, "pread"):  # Windows
            with open(self.path, "rb") as file:
                file.seek(start)
                return file.read(count)
        content, count = b"", min(count, max(0, os.fstat(self.handle).st_size - start))
        while more := os.pread(self.handle, count - len(content), start + len(content)):
            content += more
        return content


_opened = lru_cache(_MOST_OPEN)(Handle)


def _is_frame_head(content: bytes, at: int, num_coded: int) -> bool:
    """True where the header of a frame, whose number takes ``num_coded`` bytes, ends with its CRC-8."""
    size, rate = content[at + 2] >> 4, content[at + 2] & 15
    end = at + 4 + num_coded + {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    checksum = 0
    for byte in content[at:end]:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum << 1 ^ 0x107 if checksum & 0x80 else checksum << 1
    return content[end : end + 1] == bytes([checksum])


def _as_utf8(number: int) -> bytes:
    """Code of a frame number: that of a character in UTF-8, surrogates or not, up to 36 bits."""
    if number < 0x80:
        return bytes([number])
    tail: list[int] = []
    while number >= 0x40 >> len(tail):
        tail.append(0x80 | number & 0x3F)
        number >>= 6
    lead = 0xFF00 >> (len(tail) + 1) & 0xFF
    return bytes([lead | number, *reversed(tail)])
