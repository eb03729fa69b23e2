"""Whether an audio file is as long as its header says; libsndfile and FFmpeg silently read what there is.

Only container headers are looked at, a few kilobytes of a file of any length. What a format does not
promise cannot be missed: an mp3 without a Xing header, an Ogg or Matroska stream cut between two pages
or recorded by a pipe.
"""

from __future__ import annotations

import math
import os
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from farvox.errors import AudioError

_STREAMED = 0x7FFF_F000  # wav sizes from here on were written by a pipe that did not know its length
_OGG_PAGE = 27 + 255 + 255 * 255  # the longest page: header, segment table, content
_XING_SLACK = 0.01  # encoders count the bytes of an mp3 differently, by a frame or two


def refuse_truncated(name: str, file: BinaryIO) -> None:
    """Compare the size of an audio file with what its header promises.

    Args:
        name: what messages call the file.
        file: open at its beginning; can seek. Its position afterwards is anywhere.

    Raises:
        AudioError: the file is empty, or bytes are missing at its end.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError(f"{name}: cannot be read as audio: it is empty (0 bytes)")
    file.seek(0)
    start, length = _promised_bytes(file, size)
    missing = start + length - size
    if missing > 0:
        what = f"{missing} of its {length} bytes of audio are missing"
        raise AudioError(f"{name}: truncated: {what}; copy it again")


def _promised_bytes(file: BinaryIO, size: int) -> tuple[int, int]:
    """Where the audio of a file begins and how long it is, in bytes; (0, 0) where the header does not say."""
    head = file.read(1024)
    if head[:4] in (b"RIFF", b"RF64"):
        return _riff_bytes(file, head)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return 8, int.from_bytes(head[4:8], "big") - 1  # the last byte may be padding that was left out
    if head[:4] == b".snd":
        length = int.from_bytes(head[8:12], "big")
        return int.from_bytes(head[4:8], "big"), length if length != 0xFFFF_FFFF else 0
    if head[:4] == b"riff":  # Sony's wav with 64-bit sizes, a GUID in front of each
        return 0, int.from_bytes(head[16:24], "little")
    if head[:7] == b"NIST_1A" and b"shorten" not in head:
        sizes = dict(re.findall(rb"(sample_count|sample_n_bytes|channel_count) -i (\d+)", head))
        if len(sizes) == 3 and head[8:16].strip().isdigit():
            return int(head[8:16]), math.prod(int(size) for size in sizes.values())
    if head[:4] == b"OggS":
        return _last_ogg_page(file, size)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_bytes(head)
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        return _mp3_bytes(file, head)
    return 0, 0


def _riff_bytes(file: BinaryIO, head: bytes) -> tuple[int, int]:
    """The data chunk of a wav file; an RF64 file has its length in the chunk ds64, which comes first."""
    file.seek(12)
    while len(chunk := file.read(8)) == 8:
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data" and head[:4] == b"RF64":
            return file.tell(), int.from_bytes(head[28:36], "little") if head[12:16] == b"ds64" else 0
        if chunk[:4] == b"data":
            return file.tell(), length if length < _STREAMED else 0
        file.seek(length + length % 2, os.SEEK_CUR)
    return 0, 0


def _last_ogg_page(file: BinaryIO, size: int) -> tuple[int, int]:
    """The last page of an Ogg file, whose header gives its length (RFC 3533, section 6)."""
    begin = max(0, size - _OGG_PAGE)
    file.seek(begin)
    tail = file.read(_OGG_PAGE)
    at = tail.rfind(b"OggS\x00")
    page = tail[at:] if at >= 0 else b""
    if len(page) < 27:
        return 0, 0
    table = page[27 : 27 + page[26]]
    return begin + at, 27 + page[26] + sum(table)


def _matroska_bytes(head: bytes) -> tuple[int, int]:
    """The segment of a Matroska or WebM file (RFC 8794: sizes of variable length follow four-byte names)."""
    header, length = _matroska_size(head, 4)
    at = header + length
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return 0, 0
    return _matroska_size(head, at + 4)


def _matroska_size(head: bytes, at: int) -> tuple[int, int]:
    """Where the content of an element begins and how long it is; 0 where the size is left open."""
    first = head[at : at + 1]
    if first in (b"", b"\x00"):
        return at, 0
    width = 9 - first[0].bit_length()
    value = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    return at + width, value if value != (1 << 7 * width) - 1 else 0


def _mp3_bytes(file: BinaryIO, head: bytes) -> tuple[int, int]:
    """The frames of an mp3 file, which the Xing or Info header in the first of them counts."""
    start = 0
    if head[:3] == b"ID3" and len(head) >= 10:
        start = 10 + sum(
            (byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)
        )
    file.seek(start)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16:
        return 0, 0
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    if flags & 3 != 3:  # both the number of frames and that of bytes are given
        return 0, 0
    length = int.from_bytes(frame[at + 12 : at + 16], "big")
    return start, int(length * (1 - _XING_SLACK))


HEAD_BYTES = 4096
"""Of the file, enough for the header."""


@dataclass(frozen=True, slots=True)
class PcmHeader:
    """What the header of a 16-bit wav file says.

    Attributes:
        data_start: the byte at which the samples begin.
        num_frames: samples of each channel.
        sample_rate: Hz.
        num_channels: interleaved channels.
    """

    data_start: int
    num_frames: int
    sample_rate: int
    num_channels: int


def pcm_header(head: bytes, file_bytes: int) -> PcmHeader | None:
    """The header of a plain 16-bit wav file; None when it is anything else.

    Args:
        head: the first `HEAD_BYTES` of the file.
        file_bytes: how long the file is.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at, channels, rate = 12, 0, 0
    while at + 8 <= len(head):
        name, length = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        at += 8
        if name == b"data":
            frames = length // (2 * channels) if channels and at + length <= file_bytes else 0
            return PcmHeader(at, frames, rate, channels) if frames else None
        if name == b"fmt ":
            if length < 16 or at + 16 > len(head):
                return None
            encoding, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", head, at)
            if (encoding, bits, frame_bytes) != (1, 16, 2 * channels) or not channels or not rate:
                return None
        at += length + length % 2
    return None
