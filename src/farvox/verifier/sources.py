"""Sources of samples to listen to: a microphone, a file, standard input, or a socket.

Shape suffixes: C channel, T sample.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from farvox.audio.files import open_audio
from farvox.errors import AudioError, MissingExtraError, UsageError
from farvox.options import AtLeast, AtMost, Options
from farvox.progress import to_stderr
from farvox.verifier.signal import MAX_CHANNELS

Block = tuple[NDArray[Any], float]
"""Samples [C, T], and the time when the last of them came, by `time.monotonic`."""
BLOCK_SECONDS = 0.1
Encoding = Literal["s16le", "s32le", "f32le"]
_TYPES = {"s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Options):
    """A source of samples, and how they come."""

    source: str = "microphone"
    """microphone, or microphone:N of those that `python -m sounddevice` lists; an audio file; or raw samples:
    - for standard input, tcp:HOST:PORT for a socket that gives them."""
    rate: Annotated[int, AtLeast(1000), AtMost(1_000_000)] = 16000
    """Samples a second of a microphone or of raw samples; a file has its own."""
    channels: Annotated[int, AtLeast(1), AtMost(MAX_CHANNELS)] = 1
    """Channels of a microphone or of raw samples, a sample of each in turn; a file has its own."""
    encoding: Encoding = "s16le"
    """Of raw samples: whole numbers of 16 or 32 bits, or floats, the low byte first."""
    real_time: bool = False
    """Take a file as fast as it was recorded, not as fast as possible."""


class SampleSource(NamedTuple):
    """An open source: samples in blocks of 0.1 s or less."""

    name: str
    sample_rate: int
    num_channels: int
    blocks: Iterator[Block]


@contextmanager
def open_source(options: SourceOptions) -> Iterator[SampleSource]:
    """Open a source.

    Raises:
        AudioError: a file, see `farvox.audio.files.open_audio`; a microphone or a socket that cannot be had.
        MissingExtraError: sounddevice, for a microphone, is not installed.
        UsageError: no number of a microphone or of a port.
    """
    kind, _, place = options.source.partition(":")
    size = round(BLOCK_SECONDS * options.rate)
    if options.source == "-":
        blocks = _raw("<stdin>", partial(os.read, sys.stdin.fileno()), options)
        yield SampleSource("<stdin>", options.rate, options.channels, blocks)
    elif kind == "tcp":
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal():
            raise UsageError(f"--source {options.source}: a socket is tcp:HOST:PORT")
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
        except (OSError, OverflowError) as error:
            raise AudioError(f"{options.source}: {error}; start what gives the samples first") from None
        with connection:
            connection.settimeout(None)
            blocks = _raw(options.source, connection.recv, options)
            yield SampleSource(options.source, options.rate, options.channels, blocks)
    elif kind == "microphone":
        with _microphone(place, size, options) as blocks:
            yield SampleSource(options.source, options.rate, options.channels, blocks)
    else:
        with open_audio(options.source) as file:
            rate = file.info.sample_rate
            blocks = _of_file(file.frames_of, file.info.num_samples, rate, options.real_time)
            yield SampleSource(file.name, rate, file.info.num_channels, blocks)


def _of_file(
    frames_of: Callable[[int, int], NDArray[np.float32]], num_samples: int, rate: int, in_real_time: bool
) -> Iterator[Block]:
    size, start = max(1, round(BLOCK_SECONDS * rate)), time.monotonic()
    for begin in range(0, num_samples, size):
        block_CT = frames_of(begin, size).T
        due = start + (begin + block_CT.shape[1]) / rate
        if in_real_time:
            time.sleep(max(0.0, due - time.monotonic()))
        yield block_CT, due if in_real_time else time.monotonic()


def whole_samples(content: bytes, encoding: Encoding, num_channels: int) -> tuple[NDArray[Any], bytes]:
    """The samples [C, T] that raw bytes hold of all channels, and the bytes that are left."""
    kind = np.dtype(_TYPES[encoding])
    frame = kind.itemsize * num_channels
    end = len(content) // frame * frame
    return np.frombuffer(content[:end], kind).reshape(-1, num_channels).T, content[end:]


def _raw(name: str, read: Callable[[int], bytes], options: SourceOptions) -> Iterator[Block]:
    """Samples of what ``read`` gives, until it gives nothing."""
    frame = np.dtype(_TYPES[options.encoding]).itemsize * options.channels
    most, rest = max(1, round(BLOCK_SECONDS * options.rate)) * frame, b""
    while True:
        try:
            content = read(most)
        except OSError as error:
            raise AudioError(f"{name}: broke off: {error.strerror or error}") from None
        if not content:
            return
        samples_CT, rest = whole_samples(rest + content, options.encoding, options.channels)
        if samples_CT.size:
            yield samples_CT, time.monotonic()


@contextmanager
def _microphone(number: str, size: int, options: SourceOptions) -> Iterator[Iterator[Block]]:
    try:
        import sounddevice
    except ImportError:
        raise MissingExtraError("a microphone needs sounddevice: pip install 'farvox[listen]'") from None
    except OSError as error:
        raise AudioError(f"{error}: a microphone needs PortAudio: `apt install libportaudio2`") from None
    if number and not number.isdecimal():
        raise UsageError(f"--source {options.source}: `python -m sounddevice` lists the numbers")
    came: queue.SimpleQueue[Block | None] = queue.SimpleQueue()

    def take(samples_TC: NDArray[np.float32], count: int, at: object, status: object) -> None:
        if status:
            to_stderr(f"farvox listen: note: {options.source}: {status}")
        came.put((samples_TC.T.copy(), time.monotonic()))

    try:
        with sounddevice.InputStream(
            samplerate=options.rate,
            blocksize=size,
            device=int(number) if number else None,
            channels=options.channels,
            dtype="float32",
            callback=take,
            finished_callback=lambda: came.put(None),
        ):
            yield iter(came.get, None)
    except sounddevice.PortAudioError as error:
        raise AudioError(f"{options.source}: {error}; `python -m sounddevice` lists what there is") from None
