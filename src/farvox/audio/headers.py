"""Headers of audio files: the length they promise, and the place of the samples in plain 16-bit wav files.

libsndfile and FFmpeg silently read a file that ends too early. Here its size is compared with its header, of
which only a few kilobytes are read. A few formats promise no length, so that nothing can be
missed: an mp3 without a Xing header, an Ogg or Matroska stream cut between two pages or recorded by a pipe.

Opening a wav file with libsndfile takes several times as long as reading two seconds of it. `pcm_header`
finds the samples of plain 16-bit files directly. Any other file (other encodings, long headers, a length that
a pipe left open, truncated) is left to the other readers and their messages.
"""

from __future__ import annotations

import math
import os
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from farvox.errors import AudioError

HEAD_BYTES = 4096  # at the beginning of a wav file, which `pcm_header` looks at
_STREAMED = 0x7FFF_F000  # wav sizes from here on were written by a pipe that did not know its length
_OGG_PAGE = 27 + 255 + 255 * 255  # the longest page: header, segment table, content
_XING_SLACK = 0.01  # encoders count the bytes of an mp3 differently, by a frame or two


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Length, rate and channels of an audio file, by its header."""

    num_samples: int  # at the file's own rate, per channel
    sample_rate: int  # Hz
    num_channels: int


def pcm_header(head: bytes, file_bytes: int) -> tuple[AudioInfo, int] | None:
    """Read the header of a plain 16-bit wav file, and the byte at which its samples begin.

    None for anything else. ``head`` is the first `HEAD_BYTES` of the file's ``file_bytes``.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at, channels, rate = 12, 0, 0
    while at + 8 <= len(head):
        name, length = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        at += 8
        if name == b"data":
            frames = length // (2 * channels) if channels and at + length <= file_bytes else 0
            return (AudioInfo(frames, rate, channels), at) if frames else None
        if name == b"fmt ":
            if length < 16 or at + 16 > len(head):
                return None
            encoding, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", head, at)
            if (encoding, bits, frame_bytes) != (1, 16, 2 * channels) or not channels or not rate:
                return None
        at += length + length % 2
    return None


def float_frames(content: bytes, num_channels: int) -> npt.NDArray[np.float32]:
    """Interleaved 16-bit samples as frames [T, C] in [-1, 1]."""
    frames_T = np.frombuffer(content, "<i2").astype(np.float32)
    frames_T *= np.float32(1 / 32768)
    return frames_T.reshape(-1, num_channels)


def refuse_truncated(name: str, file: BinaryIO) -> None:
    """Compare the size of an audio file, which can seek, with the length that its header promises.

    Raises:
        AudioError: the file is empty, or bytes are missing at its end.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError(f"{name}: cannot be read as audio: it is empty (0 bytes)")
    file.seek(0)
    start, length = _promised_bytes(file, size)
    if (missing := start + length - size) > 0:
        what = f"{missing} of its {length} bytes of audio are missing"
        raise AudioError(f"{name}: truncated: {what}; copy it again")


def _promised_bytes(file: BinaryIO, size: int) -> tuple[int, int]:
    """Start and length of the audio in a file, in bytes; (0, 0) where the header does not give them."""
    head = file.read(1024)
    if head[:4] in (b"RIFF", b"RF64"):
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data" and head[:4] == b"RF64":  # the chunk ds64 comes first and has its length
                return file.tell(), int.from_bytes(head[28:36], "little") if head[12:16] == b"ds64" else 0
            if chunk[:4] == b"data":
                return file.tell(), length if length < _STREAMED else 0
            file.seek(length + length % 2, os.SEEK_CUR)
        return 0, 0
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
    if head[:4] == b"OggS":  # the header of the last page gives its length (RFC 3533, section 6)
        begin = max(0, size - _OGG_PAGE)
        file.seek(begin)
        tail = file.read(_OGG_PAGE)
        at = tail.rfind(b"OggS\x00")
        page = tail[at:] if at >= 0 else b""
        return (begin + at, 27 + page[26] + sum(page[27 : 27 + page[26]])) if len(page) >= 27 else (0, 0)
    if head[:4] == b"\x1a\x45\xdf\xa3":  # Matroska or WebM: a header, then the segment (RFC 8794)
        at = sum(_matroska_size(head, 4))
        return _matroska_size(head, at + 4) if head[at : at + 4] == b"\x18\x53\x80\x67" else (0, 0)
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        start = 0
        if head[:3] == b"ID3" and len(head) >= 10:
            digits = zip(head[6:10], (21, 14, 7, 0), strict=True)
            start = 10 + sum((byte & 0x7F) << shift for byte, shift in digits)
        file.seek(start)
        frame = file.read(256)
        at = max(frame.find(b"Xing"), frame.find(b"Info"))
        # Flags 1 and 2: both the number of frames and that of bytes are given.
        if at >= 0 and len(frame) >= at + 16 and int.from_bytes(frame[at + 4 : at + 8], "big") & 3 == 3:
            length = int.from_bytes(frame[at + 12 : at + 16], "big")
            return start, int(length * (1 - _XING_SLACK))
    return 0, 0


def _matroska_size(head: bytes, at: int) -> tuple[int, int]:
    """Start and length of the content of a Matroska element; length 0 where it is left open."""
    first = head[at : at + 1]
    if first in (b"", b"\x00"):
        return at, 0
    width = 9 - first[0].bit_length()
    value = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    return at + width, value if value != (1 << 7 * width) - 1 else 0
