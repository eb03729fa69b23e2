"""Flac files that are read from the middle: they begin with a table of their frames.

They are plain flac files (the table is flac's own seek table, with a point for each frame), so that any
program reads them. Each frame is decoded without those before it, and its checksum is compared.

Shape suffixes: C channel, P frame of the file, T sample.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import soundfile

from farvox.errors import AudioError

_STREAMINFO = 34  # bytes, after 8 of "fLaC" and the head of the block
_TABLE_AT = 8 + _STREAMINFO + 4  # in the file
_POINT = np.dtype([("sample", ">u8"), ("byte", ">u8"), ("count", ">u2")])


class DamagedFlacError(Exception):
    """Frames cannot be decoded, or fail their checksums."""


def encode_flac(pcm_TC: npt.NDArray[np.int16], sample_rate: int) -> bytes:
    """Encode 16-bit samples as libsndfile does, with the table in the place of its comments.

    Raises:
        AudioError: too many channels, or a rate that flac does not have.
    """
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

    Args:
        bytes_of: (start, length) -> that part of the file.
        num_bytes: of the file.
        num_samples: of the file, per channel.
        start: first sample.
        count: number of samples; at least one, and all in the file.

    Raises:
        DamagedFlacError: they cannot be decoded.
    """
    head = bytes_of(0, _TABLE_AT)
    block = int.from_bytes(head[8:10])
    if head[:4] != b"fLaC" or not block:
        raise DamagedFlacError
    num_frames = -(-num_samples // block)
    first, last = start // block, (start + count - 1) // block
    points = bytes_of(
        _TABLE_AT + first * _POINT.itemsize, (min(last + 2, num_frames) - first) * _POINT.itemsize
    )
    bytes_P = np.frombuffer(points, _POINT)["byte"] + np.uint64(_TABLE_AT + num_frames * _POINT.itemsize)
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
