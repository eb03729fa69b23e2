"""Audio in and out: float32 samples in [-1, 1].

Plain 16-bit wav files, which most corpora are, are read by their header alone; libsndfile (through
soundfile) reads other wav files, flac, ogg, mp3 and NIST sphere; FFmpeg (through PyAV) reads
what libsndfile does not know, such as the m4a files of VoxCeleb2; packed files are read where they lie in
their shard (`farvox.audio.shards`). Resampling is soxr's.

What is read is a path, an entry of a packed `wav.scp`, a URL or a binary file object. Of a URL or a file
object the whole content is read into memory, from its beginning wherever it stands (from where it stands if
it cannot seek), so the same object can be read twice; a named pipe is read whole in the same way. Messages
call it by its ``name``, or "<file object>".

Shape suffixes: C channel, T sample.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from farvox.atomic import atomic_file
from farvox.audio.headers import HEAD_BYTES, PcmHeader, pcm_header, refuse_truncated
from farvox.audio.remote import is_remote, read_whole
from farvox.audio.shards import PackedFile
from farvox.errors import AudioError

if TYPE_CHECKING:
    from av.container import InputContainer

Wave = npt.NDArray[np.float32]
AudioSource: TypeAlias = "str | os.PathLike[str] | BinaryIO"

_UNKNOWN_FORMAT = (1, 7)  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT, and what is no mp3 though it began so
_TRUSTED_SUFFIXES = (".mp3", ".raw")  # libsndfile goes by these names whatever the file holds
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's SF_COUNT_MAX: a flac file written by a pipe
_SHORTFALL_SECONDS = 0.25  # what codecs may leave out at the ends of a file that is whole
_MOST_FLAC_CHANNELS = 8
_EDGE_SECONDS = 0.1  # context that soxr is given on either side of a part, longer than its filter


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What the header of an audio file says.

    Attributes:
        num_samples: length at the file's own rate, per channel.
        sample_rate: Hz.
        num_channels: 1 for mono.
    """

    num_samples: int
    sample_rate: int
    num_channels: int


def audio_info(audio: AudioSource) -> AudioInfo:
    """Length, rate and channels of an audio file.

    Raises:
        AudioError: no such file, no audio, or shorter than its header says.
    """
    with open_audio(audio) as file:
        return file.info


def read_audio(
    audio: AudioSource,
    *,
    start: int = 0,
    num_samples: int | None = None,
    sample_rate: int = 16000,
    channel: int = 0,
) -> Wave:
    """Read one channel of an audio file, or a part of it; only that part is read from disk.

    ``read_audio(path, start=s, num_samples=n)`` is ``read_audio(path)[s:s + n]``, so it is shorter
    than ``n`` where the file ends before. Where the file's rate differs, a part is resampled with 0.1 s
    of context on either side, and equals the slice of the whole to about 1e-4.

    Args:
        audio: a path or a binary file object.
        start: first sample, counted at ``sample_rate``.
        num_samples: how many samples at ``sample_rate``; None for all that follow.
        sample_rate: of the result, Hz.
        channel: which channel, from 0.

    Returns:
        wav_T: float32 in [-1, 1].

    Raises:
        AudioError: no such file, not audio, damaged, shorter than its header says, empty, or with
            samples that are not finite.
    """
    with open_audio(audio) as file:
        return file.read(start=start, num_samples=num_samples, sample_rate=sample_rate, channel=channel)


@contextmanager
def open_audio(audio: AudioSource) -> Iterator[OpenAudio]:
    """An audio file to be looked at and read from in one go.

    Args:
        audio: a path or a binary file object.

    Raises:
        AudioError: as `audio_info`.
    """
    source = _as_source(audio)
    with ExitStack() as stack:
        yield _opened(source, stack)


@dataclass(frozen=True, slots=True)
class OpenAudio:
    """What `open_audio` gives.

    Attributes:
        info: what the header says.
        source: what it is read from.
        frames_of: (start, count) -> frames [T, C] at the file's own rate; fewer where the file ends.
    """

    info: AudioInfo
    source: _Source
    frames_of: Callable[[int, int], Wave]

    def read(
        self, *, start: int = 0, num_samples: int | None = None, sample_rate: int = 16000, channel: int = 0
    ) -> Wave:
        """Samples of one channel, as `read_audio` describes."""
        if start < 0 or (num_samples is not None and num_samples < 0):
            raise ValueError(f"start {start} and num_samples {num_samples} count from 0")
        _refuse_channel(self.source, channel, self.info.num_channels)
        return _checked(self.source, self._part(channel, start, num_samples, sample_rate))

    def _part(self, channel: int, start: int, num_samples: int | None, sample_rate: int) -> Wave:
        own_rate = self.info.sample_rate
        if own_rate == sample_rate:
            count = self.info.num_samples if num_samples is None else num_samples
            return self.frames_of(start, count)[:, channel]
        # Whole periods of both rates, so that the part falls on the same grid as the whole.
        period = math.gcd(sample_rate, own_rate)
        up, down = sample_rate // period, own_rate // period
        edge = int(_EDGE_SECONDS * sample_rate)
        first = max(0, (start - edge) // up)
        stop = None if num_samples is None else start + num_samples
        count = self.info.num_samples if stop is None else -(-(stop + edge) // up) * down - first * down
        wav_T = resample(self.frames_of(first * down, count)[:, channel], own_rate, sample_rate)
        return wav_T[start - first * up : None if stop is None else stop - first * up]


def read_channels(audio: AudioSource, *, sample_rate: int = 16000) -> Wave:
    """Read all channels of an audio file.

    Args:
        audio: a path or a binary file object.
        sample_rate: of the result, Hz.

    Returns:
        wav_CT: float32 in [-1, 1].

    Raises:
        AudioError: as `read_audio`.
    """
    wav_CT, own_rate = read_recording(audio)
    return resample(wav_CT, own_rate, sample_rate)


def read_recording(audio: AudioSource) -> tuple[Wave, int]:
    """Read all channels of an audio file as they were recorded.

    Args:
        audio: a path or a binary file object.

    Returns:
        wav_CT, float32, in [-1, 1] but for the files of floats that leave it; and its rate in Hz.

    Raises:
        AudioError: as `read_audio`.
    """
    with open_audio(audio) as file:
        wav_CT = file.frames_of(0, file.info.num_samples).T
        return _checked(file.source, wav_CT), file.info.sample_rate


def resample(wav: Wave, own_rate: int, sample_rate: int) -> Wave:
    """Bring samples to another rate (soxr, quality HQ); the same array where the rates are the same.

    Args:
        wav: wav_T or wav_CT.
        own_rate: its rate, Hz.
        sample_rate: of the result, Hz.
    """
    if own_rate == sample_rate:
        return wav
    if wav.ndim == 2:
        return np.stack([resample(wav_T, own_rate, sample_rate) for wav_T in wav])
    resampled_T: Wave = soxr.resample(wav, own_rate, sample_rate, quality="HQ")
    return resampled_T


def audio_name(audio: AudioSource) -> str:
    """What messages call a path or a file object: the path, its ``name``, or "<file object>"."""
    if isinstance(audio, str | os.PathLike):
        return os.fsdecode(audio)
    name = getattr(audio, "name", None)
    return name if isinstance(name, str) else "<file object>"


def write_audio(path: str | Path, wav_T: npt.NDArray[np.floating], sample_rate: int = 16000) -> None:
    """Write 16-bit audio, whole or not at all; the suffix (.wav or .flac) gives the format.

    Samples outside [-1, 1] are clipped. Samples that came from a 16-bit file are written unchanged.

    Args:
        path: the file.
        wav_T: samples in [-1, 1]; several channels as wav_CT.
        sample_rate: Hz.

    Raises:
        AudioError: another suffix, no samples, samples that are not finite, or more channels than flac holds.
    """
    if Path(path).suffix.lower() not in (".wav", ".flac"):
        raise AudioError(f"{path}: audio is written as .wav or .flac; choose one of these suffixes")
    wav_T = _checked(_Source(str(path)), np.asarray(wav_T))
    if wav_T.ndim == 2 and len(wav_T) > _MOST_FLAC_CHANNELS and Path(path).suffix.lower() == ".flac":
        raise AudioError(f"{path}: flac holds 8 channels at most, not {len(wav_T)}; write .wav")
    pcm_T = np.clip(np.rint(wav_T * 32768.0), -32768, 32767).astype(np.int16)
    with atomic_file(path) as temporary:
        soundfile.write(temporary, pcm_T.T, sample_rate, subtype="PCM_16")


class _ForeignFormatError(Exception):
    """libsndfile does not know the format of the file, or cannot tell its length."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Something to read from: a path, bytes that came from elsewhere, or a part of a shard."""

    name: str
    content: bytes | None = None
    packed: PackedFile | None = None

    def __str__(self) -> str:
        return self.name

    def open(self) -> BinaryIO:
        return open(self.name, "rb") if self.content is None else io.BytesIO(self.content)


def _as_source(audio: AudioSource) -> _Source:
    if not isinstance(audio, str | os.PathLike):
        return _from_file_object(audio)
    path = audio_name(audio)
    if packed := PackedFile.parse(path):
        return _Source(path, packed=packed)
    if is_remote(path):
        return _Source(path, read_whole(path))
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{path}: cannot be read: it is a directory; name the audio file")
        if stat.S_ISFIFO(mode) or path.lower().endswith(_TRUSTED_SUFFIXES):
            return _Source(path, Path(path).read_bytes())
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file (relative paths start at {os.getcwd()})") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        raise AudioError(f"{path}: cannot be read: it is a device or a socket, not a file")
    return _Source(path)


def _from_file_object(audio: BinaryIO) -> _Source:
    name = audio_name(audio)
    try:
        if audio.seekable():
            audio.seek(0)
        content = audio.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise AudioError(f"{name}: cannot be read: {error}") from None
    if not isinstance(content, bytes):
        raise AudioError(f'{name}: opened as text; audio is read from files opened with mode "rb"')
    return _Source(name, content)


def _opened(source: _Source, stack: ExitStack) -> OpenAudio:
    """Open by the quickest way that reads it: packed, 16-bit wav by its header, libsndfile, FFmpeg."""
    if packed := source.packed:
        info = AudioInfo(packed.member.num_samples, packed.member.sample_rate, packed.member.num_channels)
        return OpenAudio(info, source, packed.read)
    if source.content is None and (wav := _open_wav(source.name, stack)):
        header, handle = wav
        info = AudioInfo(header.num_frames, header.sample_rate, header.num_channels)
        return OpenAudio(info, source, partial(_read_wav, source, header, handle))
    try:
        file = stack.enter_context(_open(source))
    except _ForeignFormatError:
        wav_CT, rate = _decode(source)
        info = AudioInfo(wav_CT.shape[1], rate, wav_CT.shape[0])
        return OpenAudio(info, source, lambda start, count: wav_CT.T[start : start + count])
    info = AudioInfo(file.frames, file.samplerate, file.channels)
    return OpenAudio(info, source, partial(_read_frames, source, file))


def _open_wav(path: str, stack: ExitStack) -> tuple[PcmHeader, int] | None:
    """Header and descriptor of a plain 16-bit wav file that is whole; None for anything else."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    stack.callback(os.close, handle)
    header = pcm_header(os.read(handle, HEAD_BYTES), os.fstat(handle).st_size)
    return None if header is None else (header, handle)


def _read_wav(source: _Source, header: PcmHeader, handle: int, start: int, count: int) -> Wave:
    """Frames [T, C] of a plain 16-bit wav file, with no library between."""
    start = min(start, header.num_frames)
    count = min(count, header.num_frames - start)
    frame_bytes = 2 * header.num_channels
    try:
        content = _read_bytes(handle, header.data_start + start * frame_bytes, count * frame_bytes)
    except OSError as error:
        raise AudioError(f"{source}: cannot be read: {error.strerror or error}") from None
    if len(content) < count * frame_bytes:
        ends = start + len(content) // frame_bytes
        raise AudioError(f"{source}: truncated: ends at sample {ends} of {header.num_frames}; copy it again")
    frames_TC = np.frombuffer(content, "<i2").astype(np.float32)
    frames_TC *= np.float32(1 / 32768)
    return frames_TC.reshape(count, header.num_channels)


def _read_bytes(handle: int, start: int, count: int) -> bytes:
    os.lseek(handle, start, os.SEEK_SET)
    content = os.read(handle, count)
    while len(content) < count and (more := os.read(handle, count - len(content))):
        content += more
    return content


def _open(source: _Source) -> soundfile.SoundFile:
    """Open with libsndfile a file that is as long as it says."""
    try:
        with source.open() as content:
            refuse_truncated(source.name, content)
        file = soundfile.SoundFile(_native(source.name) if source.content is None else source.open())
    except soundfile.LibsndfileError as error:
        if error.code in _UNKNOWN_FORMAT:
            raise _ForeignFormatError from None
        raise AudioError(f"{source}: cannot be read as audio: {error.error_string}") from None
    except OSError as error:
        raise AudioError(f"{source}: cannot be read: {error.strerror or error}") from None
    if file.frames == _UNKNOWN_LENGTH:
        file.close()
        raise _ForeignFormatError
    return file


def _native(path: str) -> str | bytes:
    """A path as libsndfile is to be given it: its bytes where names are bytes, whatever they spell."""
    return os.fsencode(path) if os.name == "posix" else path


def _read_frames(source: _Source, file: soundfile.SoundFile, start: int, count: int) -> Wave:
    """Frames [T, C] from ``start``, fewer where the file ends; never fewer than its header promises."""
    if file.frames == 0:
        raise AudioError(f"{source}: holds no audio")
    start = min(start, file.frames)
    count = min(count, file.frames - start)
    try:
        if start:
            file.seek(start)
        frames_TC: Wave = file.read(count, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{source}: damaged audio: {error.error_string}; copy it again") from None
    if len(frames_TC) < count:
        raise AudioError(
            f"{source}: truncated: ends at sample {start + len(frames_TC)} of {file.frames}; copy it again"
        )
    return frames_TC


def _decode(source: _Source) -> tuple[Wave, int]:
    """All channels [C, T] and the rate of a file, by FFmpeg."""
    import av

    try:
        # A playlist is a file that names others; of what FFmpeg may open there is nothing but this file.
        with source.open() as file, av.open(file, "r", options={"protocol_whitelist": "none"}) as container:
            if not container.streams.audio:
                raise AudioError(f"{source}: holds no audio stream")
            rate = int(container.streams.audio[0].rate)
            seconds = _promised_seconds(container)
            blocks = list(_decoded_blocks(container))
    except av.FFmpegError as error:
        why = f"{error.strerror} (FFmpeg); it is damaged, or no audio at all"
        raise AudioError(f"{source}: cannot be read as audio: {why}") from None
    if not blocks:
        raise AudioError(f"{source}: holds no audio")
    wav_CT = np.concatenate(blocks, axis=1)
    if wav_CT.shape[1] < (seconds - _SHORTFALL_SECONDS) * rate:
        found = f"{wav_CT.shape[1] / rate:.2f} s of {seconds:.2f} s"
        raise AudioError(f"{source}: truncated: holds only {found}; copy it again")
    return wav_CT, rate


def _promised_seconds(container: InputContainer) -> float:
    """The length that the header states; 0 for formats in which it is only an estimate."""
    stream = container.streams.audio[0]
    if "mp4" not in container.format.name or stream.duration is None or stream.time_base is None:
        return 0.0
    return float(stream.duration * stream.time_base)


def _decoded_blocks(container: InputContainer) -> Iterator[Wave]:
    import av

    planar_float = av.AudioResampler(format="fltp")
    for frame in container.decode(audio=0):
        for block in planar_float.resample(frame):
            yield block.to_ndarray().astype(np.float32, copy=False)


def _refuse_channel(source: _Source, channel: int, num_channels: int) -> None:
    if not 0 <= channel < num_channels:
        raise AudioError(f"{source}: has no channel {channel}; it has {num_channels}, counted from 0")


def _checked(source: _Source, wav: Wave) -> Wave:
    if not np.isfinite(wav).all():
        raise AudioError(f"{source}: holds samples that are not finite (NaN or infinite)")
    return np.ascontiguousarray(wav)
