"""Audio paths that name a part of a file: a stretch or a channel of a recording, an entry of Kaldi's ark.

    RECORDING#t=BEGIN,END                seconds; without END, to the end of the recording
    RECORDING#t=BEGIN,END&channel=1      of one channel, counted from 0
    RECORDING#channel=1
    RECORDING#side=1                     likewise, but a recording of one channel is that side already
    FILE.ark:OFFSET                      the audio file that begins at a byte of another file

The first four are those of the W3C's Media Fragments, with two dimensions of our own. RECORDING is any audio
path, also one of these. A file of the very name comes first. In an ark lie wav files, as Kaldi's ``wav-copy``
writes them, or files of any format that kaldiio writes, each after ``AUDIO`` and its length.
"""

from __future__ import annotations

import os
import re
from shlex import quote
from typing import NamedTuple, Self

from farvox.audio.headers import AudioInfo, refuse_named_pipe
from farvox.audio.remote import is_remote, read_range
from farvox.errors import AudioError

_SECONDS = r"[\d.]{1,30}(?:e[+-]?\d{1,3})?"
_CHANNEL = r"(?:channel|side)=\d{1,9}"
FRAGMENT = rf"(?:#(?:t={_SECONDS}(?:,{_SECONDS})?(?:&{_CHANNEL})?|{_CHANNEL}))+$"
"""Pattern of all that follows the recording in an audio path."""

_STRETCH = re.compile(
    rf"(?P<recording>.+)#(?:t=(?P<begin>{_SECONDS})(?:,(?P<end>{_SECONDS}))?(?:&(?={_CHANNEL}$)|$))?"
    r"(?:(?P<kind>channel|side)=(?P<channel>\d{1,9})|(?<=[\d.])$)"
)
_ENTRY = re.compile(r"(?P<file>.+):(?P<offset>\d{1,18})")
_OVERSHOOT = 0.5  # seconds; a stretch may end that much after its recording, as in Kaldi's extract-segments
_FOREVER = 1e12  # seconds
_MOST_PARTS = 64  # stretches of stretches
_STREAMED = 0x7F00_0000  # sizes from here on were written by a program that did not know its length
_HEAD_BYTES = 16


class Stretch(NamedTuple):
    """A part of a recording."""

    recording: str  # its audio path
    begin: float  # seconds
    end: float | None  # seconds; None: the end of the recording
    channel: int | None  # None: all
    is_side: bool  # a recording of one channel is that side

    @classmethod
    def parse(cls, path: str) -> Self | None:
        """Parse an audio path; None where it is no stretch."""
        if not 0 < path.count("#") <= _MOST_PARTS:
            return None
        if (found := _STRETCH.fullmatch(path)) is None or os.path.exists(path):
            return None
        begin, end, channel = found["begin"], found["end"], found["channel"]
        try:
            return cls(
                found["recording"],
                min(float(begin or 0), _FOREVER),
                None if end is None else min(float(end), _FOREVER),
                None if channel is None else int(channel),
                found["kind"] == "side",
            )
        except ValueError:  # "1.2.3": a name
            return None

    def samples(self, info: AudioInfo, name: str) -> tuple[int, int]:
        """First sample of the stretch, and that after its last, in a recording of which ``info`` is known.

        Seconds are rounded down to samples, as by Kaldi.

        Raises:
            AudioError: it lies beyond the end of the recording. The message begins with ``name``.
        """
        begin = int(self.begin * info.sample_rate)
        end = info.num_samples if self.end is None else int(self.end * info.sample_rate)
        is_beyond = end >= info.num_samples + int(_OVERSHOOT * info.sample_rate) and self.end is not None
        if begin >= info.num_samples or is_beyond:
            length = info.num_samples / info.sample_rate
            what = f"ends at {self.end:g} s" if is_beyond else f"begins at {self.begin:g} s"
            raise AudioError(
                f"{name}: {what}, but its recording at {length:.2f} s; correct its times, or leave it out"
            )
        return begin, max(begin, min(end, info.num_samples))

    def channels(self, num_channels: int, name: str) -> slice:
        """The channels of the stretch, in a recording of ``num_channels``.

        Raises:
            AudioError: the recording has no such channel. The message begins with ``name``.
        """
        if self.channel is None or (self.is_side and num_channels == 1):
            return slice(None)
        if self.channel >= num_channels:
            raise AudioError(f"{name}: has no such channel; there are {num_channels}, counted from 0")
        return slice(self.channel, self.channel + 1)


class ArkEntry(NamedTuple):
    """The audio file that begins at a byte of another file."""

    file: str  # path or URL of the ark
    offset: int

    @classmethod
    def parse(cls, path: str) -> Self | None:
        """Parse an audio path; None where it is no entry of an ark."""
        if not path[-1:].isdecimal() or (found := _ENTRY.fullmatch(path)) is None:
            return None
        if ".tar:" in path or os.path.exists(path):  # an entry of a shard, or a file of this name
            return None
        return cls(found["file"], int(found["offset"]))

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}"

    def extent(self) -> tuple[int, int]:
        """First byte of the audio file, and their number.

        Raises:
            AudioError: the ark cannot be read, or there is no audio file at this byte.
        """
        head, start = self.read(self.offset, _HEAD_BYTES), self.offset
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            length = 8 + int.from_bytes(head[4:8], "little")
            if not 8 < length < _STREAMED:
                taken = f"tail -c +{self.offset + 1} {quote(self.file)} > audio.wav"
                raise AudioError(
                    f"{self}: its wav file was written by a pipe and states no length: its end is not known; "
                    f"`{taken}` takes out it and all that follows"
                )
            return start, length
        if head[:5] == b"AUDIO" and 0 < head[5] <= 8:
            width = head[5]
            return start + 6 + width, int.from_bytes(head[6 : 6 + width], "little")
        what = "is a matrix, such as features" if head[:2] == b"\0B" else "is no wav file"
        raise AudioError(
            f"{self}: what begins at byte {self.offset} of the ark {what}; wav.scp names audio: copy the ark "
            "and its wav.scp again"
        )

    def read(self, start: int, count: int) -> bytes:
        """Read bytes of the ark, fewer where it ends.

        Raises:
            AudioError: the ark cannot be read.
        """
        try:
            if is_remote(self.file):
                return read_range(self.file, start, count)
            refuse_named_pipe(self.file, os.stat(self.file).st_mode)
            with open(self.file, "rb") as file:
                file.seek(start)
                return file.read(count)
        except FileNotFoundError:
            raise AudioError(f"{self}: no such file (relative paths start at {os.getcwd()})") from None
        except (OSError, OverflowError, ValueError) as error:  # a byte or a length beyond any file
            raise AudioError(f"{self}: cannot be read: {getattr(error, 'strerror', error)}") from None


def recording_of(path: str) -> str:
    """The audio path of the recording of which ``path`` names a stretch; itself where it names none."""
    while stretch := Stretch.parse(path):
        path = stretch.recording
    return path


def file_of(path: str) -> str:
    """The file, or the entry of a shard, that holds the audio of a path."""
    entry = ArkEntry.parse(path := recording_of(path))
    return path if entry is None else entry.file
