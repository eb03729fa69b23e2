"""Where the samples of a plain 16-bit wav file lie, so that a chunk is one read of the file.

Opening such a file with libsndfile takes several times as long as reading two seconds of it. Whatever is
not plain (other encodings, headers of more than a few kilobytes, lengths that a pipe left open, files that
are cut short) is left to the readers that know, and to their messages.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

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
