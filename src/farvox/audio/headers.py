"""Headers of audio files: the length they promise, and the place of the samples in plain 16-bit wav files.

libsndfile and FFmpeg silently read a file that ends too early. Here its size is compared with its header, of
which only a few kilobytes are read. A few formats promise no length, so that nothing can be
missed: an mp3 without a Xing header, an Ogg or Matroska stream cut between two pages or recorded by a pipe.

Nor is a length believed that the bytes of the file belie: that of an mp3 which goes on after the end that its
Xing header gives, that of a wav file whose recorder crashed before it wrote a size, that of the first of
several files that were joined.

Opening a wav file with libsndfile takes several times as long as reading two seconds of it. `pcm_header`
finds the samples of plain 16-bit files directly. Any other file (other encodings, long headers, a length that
a pipe left open, truncated) is left to the other readers and their messages.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import stat
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from farvox.errors import AudioError

HEAD_BYTES = 4096  # at the beginning of a wav file, which `pcm_header` looks at
_STREAMED = 0x7F00_0000  # sizes from here on were written by a program that did not know its length
_STREAMED_64 = 1 << 62  # likewise, of formats with sizes of 64 bits
_OGG_PAGE = 27 + 255 + 255 * 255  # the longest page: header, segment table, content
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_MP3_FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]..", re.DOTALL)  # the head of a frame of layer III
_MP3_RATES = (  # kbit/s, of MPEG 2 and of MPEG 1
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_XING_SLACK = 0.01  # encoders count the bytes of an mp3 differently, by a frame or two
_SPARE_BYTES = 4096  # after the audio: a tag, or two frames of an mp3
JOINABLE = (
    re.compile(  # first bytes; of several such files in one, readers take the first, or all as if of it
        rb"caff\x00\x01\x00\x00desc|riff\x2e\x91\xcf\x11|NIST_1A\n   |0&\xb2u\x8e\x66\xcf\x11"
        rb"|\x1a\x45\xdf\xa3.{1,40}?(?:webm|matroska)|TTA[12][\x01\x02]\x00|\x00\x00\x00.ftyp",
        re.DOTALL,
    )
)
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object with the file's properties


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Length, rate and channels of an audio file, by its header."""

    num_samples: int  # at the file's own rate, per channel
    sample_rate: int  # Hz
    num_channels: int


def described_rates(rates: Mapping[int, int]) -> str:
    """List rates in Hz with their number of recordings, as ``9 at 8,000 Hz, 3 at 16,000 Hz``."""
    return ", ".join(f"{count:,} at {rate:,} Hz" for rate, count in sorted(rates.items()))


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
            whole = at + length <= file_bytes <= at + length + _SPARE_BYTES  # else see `needs_decoding`
            frames = length // (2 * channels) if channels and whole else 0
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


def needs_decoding(name: str, file: BinaryIO) -> bool:
    """Compare the size of an audio file, which can seek, with the length that its header promises.

    Returns:
        True where that length is an estimate or is belied by the bytes that follow, so that only decoding to
        the end gives it: an mp3 whose Xing header is absent or ends too early, a wav file of "0 bytes".

    Raises:
        AudioError: the file is empty, bytes are missing at its end, or many follow that its header omits.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError(f"{name}: cannot be read as audio: it is empty (0 bytes); copy it again")
    file.seek(0)
    head = file.read(1024)
    is_mp3 = begins_as_mp3(head)
    promised = _promised_bytes(file, head, size)
    if promised is None:
        return is_mp3 or head[:4] == b"caff"  # recorded by a pipe, which libsndfile does not read
    start, length = promised
    if (missing := start + length - size) > 0:
        what = f"{missing} of its {length} bytes of audio are missing"
        raise AudioError(f"{name}: truncated: {what}; copy it again")
    if is_mp3:
        return size - start - length / (1 - _XING_SLACK) > _SPARE_BYTES
    is_wav = head[8:12] == b"WAVE"
    if not is_wav and (-missing <= _SPARE_BYTES or head[:4] not in (b".snd", b"FORM")):
        return False
    if (length and -missing <= _SPARE_BYTES) or _only_chunks(file, start + length, size):
        return False
    if length:
        more = f" If they are audio, `ffmpeg -ignore_length 1 -i {quote(name)} mended.wav` reads them."
        raise AudioError(
            f"{name}: its header states {length} bytes of audio, and {-missing} more follow that are no "
            "part of it, as after a crash of the recorder or where files were joined; "
            f"`head -c {start + length} {quote(name)} > cut.{'wav' if is_wav else 'au'}` leaves them out."
            + more
            * is_wav
        )
    return True


def spare_bytes(path: str) -> int:
    """Bytes of a file after its audio that are no part of it; 0 where that is not known.

    What only the frames of an Ogg or mp3 file tell is refused here: the last page of an Ogg file is marked as
    such, and the frames of an mp3 follow one another without a gap.

    Raises:
        AudioError: the end is missing, or bytes that are no frame lie between frames.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(1024)
        if head[:4] == b"OggS":
            file.seek(-min(_OGG_PAGE, size), os.SEEK_END)
            tail = file.read()
            if not tail[tail.rfind(b"OggS\0") + 5] & 4:
                raise AudioError(
                    f"{path}: its last page is not marked as such: it was cut, or its recorder stopped; copy "
                    f"it again, or `ffmpeg -i {quote(path)} -c copy mended.ogg` keeps what is there"
                )
        if not begins_as_mp3(head):
            if (promised := _promised_bytes(file, head, size)) is None:
                return 0
            end = sum(promised)
            is_part = size - end <= 1 or (head[8:12] == b"WAVE" and _only_chunks(file, end, size))
            return 0 if is_part else size - end
        file.seek(0)
        content = file.read()
    at = 0
    while length := id3_bytes(content[at : at + 10]) or _mp3_frame_bytes(content[at : at + 4]):
        at += length
    if at > size:
        raise AudioError(f"{path}: truncated: it ends within a frame; copy it again")
    for match in _MP3_FRAME.finditer(content, at):
        length = _mp3_frame_bytes(match[0])
        if length and _mp3_frame_bytes(content[match.start() + length :][:4]):
            raise AudioError(f"{path}: damaged: from byte {at} on there is no frame; copy it again")
    return 0  # tags follow an mp3


def may_be_joined(file: BinaryIO) -> bool:
    """True where a file, which can seek, may hold more after the length that it states, or states none.

    `JOINABLE` then tells where others begin. Ogg has pages for that, see `ogg_links`.
    """
    file.seek(0)
    if not JOINABLE.match(head := file.read(1024)):
        return False
    size = file.seek(0, os.SEEK_END)
    promised = _promised_bytes(file, head, size)
    return promised is None or size - sum(promised) > _SPARE_BYTES


def refuse_named_pipe(path: str, mode: int) -> None:
    """Refuse a pipe that waits on disk for a program; one that a shell opened for this process is none.

    Raises:
        AudioError: the mode (``st_mode``) is that of a pipe.
    """
    if stat.S_ISFIFO(mode) and not os.path.realpath(path).startswith(("/dev/fd/", "/proc/")):
        raise AudioError(
            f"{path}: a named pipe, which can be read once only; copy it into a file "
            f"(`cat {quote(path)} > FILE`), and name that"
        )


def refuse_joined_flac(name: str, content: bytes | mmap.mmap) -> None:
    """Refuse flac files that were joined: decoders end with the first of them.

    Raises:
        AudioError: it names the byte at which the second begins.
    """
    if second := re.compile(rb"fLaC[\x00\x80]\x00\x00\x22").search(content, 4):
        first, rest = f"head -c {second.start()}", f"tail -c +{second.start() + 1}"
        raise AudioError(
            f"{name}: another flac file begins within it; `{first} {quote(name)} > first.flac` and "
            f"`{rest} {quote(name)} > rest.flac` part them"
        )


def begins_as_mp3(head: bytes) -> bool:
    """True where a file begins with an ID3 tag or a frame of MPEG audio."""
    return head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")


def id3_bytes(content: bytes) -> int:
    """Length of the ID3 tag with which some bytes begin; 0 where there is none."""
    if content[:3] != b"ID3" or len(content) < 10:
        return 0
    digits = zip(content[6:10], (21, 14, 7, 0), strict=True)
    return 10 + sum((byte & 0x7F) << shift for byte, shift in digits)


def ogg_links(name: str, content: bytes | mmap.mmap) -> list[tuple[int, int]]:
    """Begin (byte) and number of streams of each link of an Ogg file; several where files were joined.

    The streams of a link are played together, and all their first pages come before any other.

    Raises:
        AudioError: a page fails its checksum. Libraries leave it out without a word.
    """
    links: list[tuple[int, int]] = []
    at, may_begin = 0, True
    while True:
        page = content[at : at + _OGG_PAGE]
        page = page[: _page_bytes(page)]
        # The checksum is a CRC-32 whose bits go the other way than those of zlib.
        plain = page[:22] + bytes(4) + page[26:]
        found = zlib.crc32(plain.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
        if page[:4] != b"OggS" or page[22:26] != found.to_bytes(4).translate(_REVERSED_BITS):
            raise AudioError(f"{name}: damaged: the Ogg page at byte {at} fails its checksum; copy it again")
        if page[5] & 2:  # it begins a stream (RFC 3533, section 6)
            begin, count = links.pop() if links and may_begin else (at, 0)
            links.append((begin, count + 1))
        may_begin = bool(page[5] & 2)
        at += len(page)
        if content[at : at + 4] != b"OggS" and content.find(b"OggS\0", at) < 0:  # nothing, or no part of it
            return links


def _page_bytes(page: bytes) -> int:
    """Length of an Ogg page, by its header; 0 where that is cut off."""
    return 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) >= 27 else 0


def _mp3_frame_bytes(head: bytes) -> int:
    """Length of a frame of MPEG audio, layer III, by its first 4 bytes; 0 where they begin none."""
    if not _MP3_FRAME.match(head):
        return 0
    version, rate, step = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate == 3 or step in (0, 15):
        return 0
    bits = 1000 * _MP3_RATES[version == 3][step]
    hertz = (44100, 48000, 32000)[rate] >> (0 if version == 3 else 1 if version == 2 else 2)
    return (144 if version == 3 else 72) * bits // hertz + (head[2] >> 1 & 1)


def _only_chunks(file: BinaryIO, at: int, size: int) -> bool:
    """True where chunks of a wav file, or nothing but zeros, fill it from a byte to its end."""
    begin = at = at + at % 2
    while at + 8 <= size:
        file.seek(at)
        chunk = file.read(8)
        length = int.from_bytes(chunk[4:], "little") if chunk[:2] != b"RI" else size  # RIFF: a further file
        at += 8 + length + length % 2
    if at - size in (0, 1) or size - begin < 8:
        return True
    file.seek(begin)
    return not any(any(part) for part in iter(lambda: file.read(1 << 20), b""))


def _promised_bytes(file: BinaryIO, head: bytes, size: int) -> tuple[int, int] | None:
    """Start and length of the audio in a file, in bytes; None where the header does not give them."""
    start, length, most = 0, 0, _STREAMED
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        start = 12
        while head[:4] != b"data":
            file.seek(start := start + length + length % 2)
            if len(head := file.read(8)) < 8:
                return None
            if head[:4] == b"ds64":  # of RF64; it comes first, and has the length of the audio
                most = int.from_bytes(file.read(16)[8:], "little")
            start, length = start + 8, int.from_bytes(head[4:], "little")
        if most != _STREAMED:
            return (start, most) if most < _STREAMED_64 else None
        return (start, length) if length < most else None
    if head[:4] == b"RIFF":  # avi
        start, length = 8, int.from_bytes(head[4:8], "little")
    elif head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC", b"8SVX"):
        start, length = 8, int.from_bytes(head[4:8], "big") - 1  # padding at the end may have been left out
    elif head[:4] == b".snd":
        start, length = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
    elif head[:19] == b"Creative Voice File" and head[26:27] in (b"\x01", b"\x09"):  # blocks of 16 MB at most
        start, length = 30, int.from_bytes(head[27:30], "little")
    elif head[:4] == b"riff":  # Sony's wav with 64-bit sizes, a GUID in front of each
        length, most = int.from_bytes(head[16:24], "little"), _STREAMED_64
    elif head[:4] == b"0&\xb2u" and (at := head.find(_ASF_FILE)) >= 0:  # wma
        length = int.from_bytes(head[at + 40 : at + 48], "little")
    elif head[:4] == b"caff":
        start, most = 8, _STREAMED_64
        while head[:4] != b"data":
            file.seek(min(start := start + length, size))
            if len(head := file.read(12)) < 12:
                return None
            start, length = start + 12, int.from_bytes(head[4:], "big")
        start, length = start + 4, length - 4  # a count of edits comes before the samples
    elif head[:7] == b"NIST_1A" and b"shorten" not in head:
        sizes = dict(re.findall(rb"(sample_count|sample_n_bytes|channel_count) -i (\d+)", head))
        if len(sizes) == 3 and head[8:16].strip().isdigit():
            start, length = int(head[8:16]), math.prod(int(size) for size in sizes.values())
    elif head[:4] == b"OggS":  # the header of the last page gives its length (RFC 3533, section 6)
        begin = max(0, size - _OGG_PAGE)
        file.seek(begin)
        tail = file.read(_OGG_PAGE)
        at = tail.rfind(b"OggS\x00")
        start, length = begin + at, _page_bytes(tail[at:]) if at >= 0 else 0
    elif head[:4] == b"\x1a\x45\xdf\xa3":  # Matroska or WebM: a header, then the segment (RFC 8794)
        at = sum(_matroska_size(head, 4))
        if head[at : at + 4] == b"\x18\x53\x80\x67":
            start, length = _matroska_size(head, at + 4)
    elif begins_as_mp3(head):
        file.seek(start := id3_bytes(head))
        frame = file.read(256)
        at = max(frame.find(b"Xing"), frame.find(b"Info"))
        # Flags 1 and 2: both the number of frames and that of bytes are given.
        if at >= 0 and len(frame) >= at + 16 and int.from_bytes(frame[at + 4 : at + 8], "big") & 3 == 3:
            length = int(int.from_bytes(frame[at + 12 : at + 16], "big") * (1 - _XING_SLACK))
    return (start, length) if 0 < length < most else None


def _matroska_size(head: bytes, at: int) -> tuple[int, int]:
    """Start and length of the content of a Matroska element; length 0 where it is left open."""
    first = head[at : at + 1]
    if first in (b"", b"\x00"):
        return at, 0
    width = 9 - first[0].bit_length()
    value = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    return at + width, value if value != (1 << 7 * width) - 1 else 0
