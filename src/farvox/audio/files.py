"""Audio in and out: float32 samples in [-1, 1].

An audio argument is a path, an entry of a packed `wav.scp`, a URL, a part of any of these
(`farvox.audio.stretches`), or a binary file object. The content of a URL, a file object or a pipe that a
shell opened (``<(sox ...)``, ``/dev/stdin``) is read whole into memory; a file object from its beginning, so
that it can be read twice (from its position if it cannot seek). A named pipe is refused. Error messages give
the path or the ``name`` of the file object.

Four readers are tried, the quickest first: entries of shards (`farvox.audio.shards`), plain 16-bit wav files
by their header alone, libsndfile (other wav files, flac, ogg, mp3, NIST sphere), and FFmpeg through PyAV
(whatever libsndfile refuses, such as the m4a files of VoxCeleb2, and files whose length only decoding gives).
FFmpeg decodes the whole file when it is opened. Files that were joined (Ogg, mp4, Matroska, ...)
are read one after the other. soxr resamples.

Shape suffixes: C channel, T sample.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from farvox.atomic import atomic_file
from farvox.audio.headers import (
    HEAD_BYTES,
    JOINABLE,
    AudioInfo,
    begins_as_mp3,
    float_frames,
    id3_bytes,
    may_be_joined,
    needs_decoding,
    ogg_links,
    pcm_header,
    refuse_joined_flac,
    refuse_named_pipe,
)
from farvox.audio.remote import is_remote, read_whole, without_scheme
from farvox.audio.shards import Handle, PackedFile
from farvox.audio.stretches import ArkEntry, Stretch
from farvox.errors import AudioError, MissingExtraError
from farvox.jobs import Job, cut, threads
from farvox.progress import Note

Wave = npt.NDArray[np.float32]
# fmt: off
AUDIO_SUFFIXES = frozenset((
    ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mp3", ".mp4",
    ".oga", ".ogg", ".opus", ".sph", ".w64", ".wav", ".webm", ".wma",
))
"""Endings, in lower case, of the files in a folder that are taken for audio."""
# fmt: on
AudioSource: TypeAlias = "str | os.PathLike[str] | BinaryIO"

_RATES = (1000, 1_000_000)  # Hz, of the audio that is read
_SUFFIX_DECIDES = (".mp3", ".raw")  # libsndfile goes by these suffixes, not by the header
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's SF_COUNT_MAX: a flac file written by a pipe
_DAMAGED = (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
_OF_LIBSNDFILE = (soundfile.SoundFileError, *_DAMAGED)  # what soundfile raises on damaged headers
_HEADERS = 64  # read at a time by a thread
_STATED = frozenset({"mp4", "flac", "tta", "wv"})  # formats (of FFmpeg) whose headers give the exact length
_FULLER_DECODERS = {"amrnb": "libopencore_amrnb"}  # FFmpeg's own do not know pauses that were left out
_SHORTFALL_SECONDS = 0.25  # codecs may leave out this much at the ends of a complete file
_MOST_FLAC_CHANNELS = 8
_EDGE_SECONDS = 0.1  # context that soxr is given on either side of a part, longer than its filter


@dataclass(frozen=True, slots=True)
class OpenAudio:
    """An open audio file."""

    info: AudioInfo
    name: str  # in messages
    frames_of: Callable[[int, int], Wave]
    """(start, count) -> frames [T, C] at the file's own rate; fewer where the file ends."""

    def read(
        self, *, start: int = 0, num_samples: int | None = None, sample_rate: int = 16000, channel: int = 0
    ) -> Wave:
        """Read samples of one channel, as `read_audio` describes."""
        if start < 0 or (num_samples is not None and num_samples < 0):
            raise ValueError(f"start {start} and num_samples {num_samples} count from 0")
        if not 0 <= channel < self.info.num_channels:
            raise AudioError(
                f"{self.name}: has no channel {channel}; it has {self.info.num_channels}, counted from 0"
            )
        own_rate = self.info.sample_rate
        if own_rate == sample_rate:
            count = self.info.num_samples if num_samples is None else num_samples
            return checked_samples(self.name, self.frames_of(start, count)[:, channel])
        # Whole periods of both rates, so that the part falls on the same grid as the whole.
        period = math.gcd(sample_rate, own_rate)
        up, down = sample_rate // period, own_rate // period
        edge = int(_EDGE_SECONDS * sample_rate)
        first = max(0, (start - edge) // up)
        stop = None if num_samples is None else start + num_samples
        count = self.info.num_samples if stop is None else -(-(stop + edge) // up) * down - first * down
        wav_T = resample(self.frames_of(first * down, count)[:, channel], own_rate, sample_rate)
        return checked_samples(
            self.name, wav_T[start - first * up : None if stop is None else stop - first * up]
        )


class _Seekable(io.IOBase):
    """Stays where it is instead of raising, where a damaged header sends a library to an impossible place."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Seek as a file does; an impossible place leaves it where it is."""
        try:
            return super().seek(offset, whence)
        except (OSError, OverflowError, ValueError):
            return self.tell()


class Content(_Seekable, io.BytesIO):
    """The content of a file, for the libraries."""


class _OnDisk(_Seekable, io.FileIO):
    """A file, for the libraries; PyAV prints a traceback where a seek raises."""


def audio_info(audio: AudioSource) -> AudioInfo:
    """Length, rate and channels of an audio file.

    Raises:
        AudioError: no such file, no audio, or shorter than its header promises.
    """
    with open_audio(audio) as file:
        return file.info


def read_headers(paths: Sequence[str], note: Note, jobs: int | None = None) -> list[AudioInfo | AudioError]:
    """Read the headers of many files, in order, by ``jobs`` threads; an error where one cannot be read."""

    def header_of(path: str) -> AudioInfo | AudioError:
        try:
            return audio_info(path)
        except AudioError as error:
            return error

    job = Job(what="audio headers read", note=note, jobs=jobs, executor=threads)
    parts = job.run(lambda part: list(map(header_of, part)), cut(paths, _HEADERS))
    return [header for part in parts for header in part]


def read_audio(
    audio: AudioSource,
    *,
    start: int = 0,
    num_samples: int | None = None,
    sample_rate: int = 16000,
    channel: int = 0,
) -> Wave:
    """Read one channel of an audio file as wav_T, float32 in [-1, 1]; of a part only that is read from disk.

    ``read_audio(path, start=s, num_samples=n)`` is ``read_audio(path)[s:s + n]``, so it is shorter
    than ``n`` where the file ends before. Where the file's rate differs, a part is resampled with 0.1 s
    of context on either side, and equals the slice of the whole to about 1e-4.

    Args:
        audio: a path or a binary file object.
        start: first sample, counted at ``sample_rate``.
        num_samples: counted likewise; None for all that follow.
        sample_rate: of the result, Hz.
        channel: from 0.

    Raises:
        AudioError: no such file, not audio, damaged, shorter than its header promises, empty, or with
            samples that are not finite.
    """
    with open_audio(audio) as file:
        return file.read(start=start, num_samples=num_samples, sample_rate=sample_rate, channel=channel)


def read_channels(audio: AudioSource, *, sample_rate: int = 16000) -> Wave:
    """Read all channels of an audio file at ``sample_rate``: wav_CT, float32 in [-1, 1].

    Raises:
        AudioError: as `read_audio`.
    """
    wav_CT, own_rate = read_recording(audio)
    return resample(wav_CT, own_rate, sample_rate)


def read_recording(audio: AudioSource) -> tuple[Wave, int]:
    """Read all channels of an audio file at its own rate, and that rate in Hz.

    wav_CT is float32, in [-1, 1] except in files of floats that exceed it.

    Raises:
        AudioError: as `read_audio`.
    """
    with open_audio(audio) as file:
        wav_CT = file.frames_of(0, file.info.num_samples).T
        return checked_samples(file.name, wav_CT), file.info.sample_rate


def resample(wav: Wave, own_rate: int, sample_rate: int) -> Wave:
    """Bring wav_T or wav_CT from one rate to another (Hz, soxr HQ); the same array where they are equal."""
    if own_rate == sample_rate:
        return wav
    if wav.ndim == 2:
        return np.stack([resample(wav_T, own_rate, sample_rate) for wav_T in wav])
    resampled_T: Wave = soxr.resample(wav, own_rate, sample_rate, quality="HQ")
    return resampled_T


def audio_name(audio: AudioSource) -> str:
    """Name of an audio argument in messages: the path, the ``name`` of the object, or "<file object>"."""
    if isinstance(audio, str | os.PathLike):
        return without_scheme(os.fsdecode(audio))
    name = getattr(audio, "name", None)
    return name if isinstance(name, str) else "<file object>"


def write_audio(path: str | Path, wav_T: npt.NDArray[np.floating], sample_rate: int = 16000) -> None:
    """Write wav_T or wav_CT as 16-bit audio, whole or not at all; the suffix (.wav or .flac) decides.

    Samples outside [-1, 1] are clipped. Samples that came from a 16-bit file are written unchanged.

    Raises:
        AudioError: another suffix, no samples, samples that are not finite, or too many channels for flac.
    """
    if Path(path).suffix.lower() not in (".wav", ".flac"):
        raise AudioError(f"{path}: audio is written as .wav or .flac; choose one of these suffixes")
    wav_T = checked_samples(str(path), np.asarray(wav_T))
    refuse_channels(path, len(wav_T) if wav_T.ndim == 2 else 1)
    pcm_T = np.clip(np.rint(wav_T * 32768.0), -32768, 32767).astype(np.int16)
    encoded = io.BytesIO()  # what libsndfile says of a full disk is "System error."
    soundfile.write(encoded, pcm_T.T, sample_rate, format=Path(path).suffix[1:], subtype="PCM_16")
    with atomic_file(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())


def refuse_channels(path: str | Path, num_channels: int) -> None:
    """Refuse more channels than a file of this suffix can hold.

    Raises:
        AudioError: it is .flac, and they are more than 8.
    """
    if num_channels > _MOST_FLAC_CHANNELS and Path(path).suffix.lower() == ".flac":
        raise AudioError(
            f"{path}: flac holds {_MOST_FLAC_CHANNELS} channels at most, not {num_channels}; write .wav"
        )


@contextmanager
def open_audio(audio: AudioSource) -> Iterator[OpenAudio]:
    """Open an audio file, to look at it and read from it several times.

    Raises:
        AudioError: as `audio_info`.
    """
    name = audio_name(audio)
    is_path = isinstance(audio, str | os.PathLike)
    if is_path and "\0" in name:
        raise AudioError(f"{name!r}: has a NUL in its name, and no file has; correct it")
    if is_path and (packed := PackedFile.parse(name)):
        member = packed.member
        info = AudioInfo(member.num_samples, member.sample_rate, member.num_channels)
        yield OpenAudio(info, name, packed.read)
        return
    if is_path and (stretch := Stretch.parse(name)):
        with open_audio(stretch.recording) as recording:
            yield _part(recording, stretch, name)
        return
    with ExitStack() as stack:
        if is_path and (entry := ArkEntry.parse(name)):
            file = _open_entry(entry, stack)
        else:
            file = _open(name, _content_in_memory(audio, name), stack)
        check_rate(name, file.info.sample_rate)
        yield file


def check_rate(name: str, sample_rate: int) -> None:
    """Refuse a rate that no audio has: outside 1,000 to 1,000,000 Hz.

    Raises:
        AudioError: it names the audio.
    """
    if not _RATES[0] <= sample_rate <= _RATES[1]:
        raise AudioError(
            f"{name}: a rate of {sample_rate} Hz; between {_RATES[0]} and {_RATES[1]} are used; where a "
            f"header is wrong, `sox -r 16000 {quote(name)} mended.wav` gives the audio another rate"
        )


def _part(recording: OpenAudio, stretch: Stretch, name: str) -> OpenAudio:
    """Audio of which only a stretch is read."""
    begin, end = stretch.samples(recording.info, name)
    channels = stretch.channels(recording.info.num_channels, name)
    num_channels = len(range(recording.info.num_channels)[channels])

    def frames_of(start: int, count: int) -> Wave:
        start = min(start, end - begin)
        return recording.frames_of(begin + start, min(count, end - begin - start))[:, channels]

    return OpenAudio(AudioInfo(end - begin, recording.info.sample_rate, num_channels), name, frames_of)


def _open_entry(entry: ArkEntry, stack: ExitStack) -> OpenAudio:
    """Open an audio file in an ark; of plain wav files only the part that is asked for will be read."""
    start, length = entry.extent()
    if not is_remote(entry.file) and (plain := _open_plain_wav(entry.file, str(entry), start, length)):
        return plain
    if len(content := entry.read(start, length)) < length:
        missing = f"{length - len(content)} of its {length} bytes are missing"
        raise AudioError(f"{entry}: truncated: {missing}; copy the ark again")
    return _open(str(entry), content, stack)


def _open(name: str, content: bytes | None, stack: ExitStack) -> OpenAudio:
    """Open a file, or its content, by the quickest reader that reads it rightly."""
    if content is None and (plain := _open_plain_wav(name, name)):
        return plain
    try:
        with _binary(name, content) as opened:
            only_decoded = needs_decoding(name, opened)
            opened.seek(0)
            head = opened.read(4)
            is_ogg = head == b"OggS"
            if is_ogg or may_be_joined(opened):
                whole = stack.enter_context(_mapped(content, opened))
                if is_ogg:
                    links = ogg_links(name, whole)
                else:
                    links = [(each.start(), 1) for each in JOINABLE.finditer(whole)]
                begins, counts = zip(*links or [(0, 1)], strict=True)
                if len(begins) > 1:
                    return _joined(name, whole, begins)
                only_decoded |= counts[0] > 1  # libsndfile takes any of them
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
    if only_decoded:
        return _decode_by_ffmpeg(name, content)
    try:
        # On POSIX names are bytes, which need not be UTF-8.
        path = os.fsencode(name) if os.name == "posix" else name
        file = stack.enter_context(soundfile.SoundFile(path if content is None else Content(content)))
    except _OF_LIBSNDFILE as error:
        return _decode_by_ffmpeg(name, content, f"{getattr(error, 'error_string', error)} (libsndfile); ")
    estimated = file.subtype.startswith("MPEG") and not (file.format == "MP3" and begins_as_mp3(head))
    if estimated or file.frames == _UNKNOWN_LENGTH:
        return _decode_by_ffmpeg(name, content)

    def frames_of(start: int, count: int) -> Wave:
        if head == b"fLaC" and start + count >= file.frames:  # all of it is read anyway
            with _binary(name, content) as opened, _mapped(content, opened) as whole:
                refuse_joined_flac(name, whole)
        if file.frames == 0:
            raise AudioError(f"{name}: holds no audio")
        start = min(start, file.frames)
        try:
            if start:
                file.seek(start)
            frames_TC: Wave = file.read(count, dtype="float32", always_2d=True)
        except MemoryError:  # no fault of the file
            raise
        except Exception as error:  # whatever a decoder raises
            why = getattr(error, "error_string", error)
            raise AudioError(f"{name}: damaged audio: {why}; copy it again") from None
        if len(frames_TC) < min(count, file.frames - start):
            ends = start + len(frames_TC)
            raise AudioError(f"{name}: truncated: ends at sample {ends} of {file.frames}; copy it again")
        return frames_TC

    return OpenAudio(AudioInfo(file.frames, file.samplerate, file.channels), name, frames_of)


def _joined(name: str, content: bytes | mmap.mmap, begins: Sequence[int]) -> OpenAudio:
    """Read files that follow one another in one file, from some bytes on, as one recording."""
    parts: list[Wave] = []
    length, first = 0, AudioInfo(0, 0, 0)
    for begin, end in pairwise((*begins, len(content))):
        with ExitStack() as stack:
            part = _open(name, content[begin:end], stack)
            first = first if parts else part.info
            rest = f"rest{Path(name).suffix}"
            way = f"`tail -c +{begin + 1} {quote(name)} > {quote(rest)}` takes out what follows"
            _refuse_change(name, length, first, part.info.sample_rate, part.info.num_channels, way)
            parts.append(part.frames_of(0, part.info.num_samples))
            length += len(parts[-1])
    return _in_memory(name, np.concatenate(parts), first.sample_rate)


def _refuse_change(
    name: str, at: int, first: AudioInfo, sample_rate: int, num_channels: int, way: str = ""
) -> None:
    """Refuse audio whose rate or number of channels changes at a sample; ``way`` is what to do about it."""
    rate, channels = first.sample_rate, first.num_channels
    if (rate, channels) != (sample_rate, num_channels):
        change = f"from {rate} Hz with {channels} channel(s) to {sample_rate} Hz with {num_channels}"
        mended = f"ffmpeg -i {quote(name)} -ar {rate} -ac {channels} mended.wav"
        way = way or f"`{mended}` brings all of it to those of its beginning"
        raise AudioError(
            f"{name}: changes at {at / rate:.2f} s {change}; a recording has one rate and one layout: {way}"
        )


def _in_memory(name: str, frames_TC: Wave, sample_rate: int) -> OpenAudio:
    """Audio that is decoded already."""
    info = AudioInfo(len(frames_TC), sample_rate, frames_TC.shape[1])
    return OpenAudio(info, name, lambda start, count: frames_TC[start : start + count])


def _content_in_memory(audio: AudioSource, name: str) -> bytes | None:
    """Content of an audio argument that is read into memory; None for a file to be read from disk."""
    if not isinstance(audio, str | os.PathLike):
        try:
            if audio.seekable():
                audio.seek(0)
            content = audio.read()
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise AudioError(f"{name}: cannot be read: {error}") from None
        if not isinstance(content, bytes):
            raise AudioError(f'{name}: opened as text; audio is read from files opened with mode "rb"')
        return content
    if is_remote(name):
        return read_whole(name)
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{name}: cannot be read: it is a directory; name the audio file")
        if stat.S_ISFIFO(mode):
            refuse_named_pipe(name, mode)
            return Path(name).read_bytes()
        if name.lower().endswith(_SUFFIX_DECIDES):
            return Path(name).read_bytes()
    except FileNotFoundError:
        raise AudioError(f"{name}: no such file (relative paths start at {os.getcwd()})") from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        raise AudioError(f"{name}: cannot be read: it is a device or a socket, not a file")
    return None


def _open_plain_wav(path: str, name: str, at: int = 0, length: int | None = None) -> OpenAudio | None:
    """Open a complete, plain 16-bit wav file, without any library; None for anything else.

    It is the file of a path, or the ``length`` bytes from byte ``at`` of it.
    """
    try:
        file = Handle(path)
    except OSError:
        return None
    size = os.fstat(file.handle).st_size - at
    if length is not None:
        size = min(size, length)
    header = pcm_header(file.read(at, min(HEAD_BYTES, size)), size) if size > 0 else None
    if header is None:
        return None
    info, data_start = header
    frame_bytes = 2 * info.num_channels

    def frames_of(start: int, count: int) -> Wave:
        start = min(start, info.num_samples)
        num_bytes = min(count, info.num_samples - start) * frame_bytes
        try:
            content = file.read(at + data_start + start * frame_bytes, num_bytes)
        except OSError as error:
            raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
        if len(content) < num_bytes:
            ends = f"{start + len(content) // frame_bytes} of {info.num_samples}"
            raise AudioError(f"{name}: truncated: ends at sample {ends}; copy it again")
        return float_frames(content, info.num_channels)

    return OpenAudio(info, name, frames_of)


def _decode_by_ffmpeg(name: str, content: bytes | None, refusal: str = "") -> OpenAudio:
    """Decode all of an audio file with FFmpeg; ``refusal`` is why libsndfile cannot, for the message."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(
            f"{name}: {refusal}FFmpeg may read it, through the package PyAV: pip install av"
        ) from error
    seconds = 0.0  # as the header states, where that is exact
    blocks: list[Wave] = []
    length, first = 0, AudioInfo(0, 0, 0)
    try:
        # A playlist names other files; without any protocol FFmpeg opens none of them.
        protocols = {"protocol_whitelist": "none"}
        with _binary(name, content) as file, av.open(file, "r", options=protocols) as opened:
            tracks = opened.streams.audio
            if not tracks:
                raise AudioError(f"{name}: holds no audio stream")
            if len(tracks) > 1:
                raise AudioError(
                    f"{name}: holds {len(tracks)} audio tracks, one of which is to be chosen: "
                    f"`ffmpeg -i {quote(name)} -map 0:a:0 track.wav` takes out the first"
                )
            if tracks[0].codec_context is None:
                raise AudioError(f"{name}: its codec is none that this FFmpeg can decode; convert it to wav")
            exact = _STATED.intersection(opened.format.name.split(","))
            if exact and tracks[0].duration is not None and tracks[0].time_base is not None:
                seconds = float(tracks[0].duration * tracks[0].time_base)
            elif "matroska" in opened.format.name and len(opened.streams) == 1:
                seconds = (opened.duration or 0) / av.time_base
            planar_float = av.AudioResampler(format="fltp")
            decoder: Any = tracks[0].codec_context
            if (fuller := _FULLER_DECODERS.get(decoder.codec.name)) in av.codecs_available:
                decoder = av.CodecContext.create(fuller, "r")
            packets: Iterator[Any] = opened.demux(tracks)
            if opened.format.name == "mp3":
                packets = (part for part in map(_without_tag, packets) if part is not None)
            for frame in chain.from_iterable(map(decoder.decode, packets)):
                channels = frame.layout.nb_channels
                first = first if blocks else AudioInfo(0, frame.sample_rate, channels)
                _refuse_change(name, length, first, frame.sample_rate, channels)
                for block in planar_float.resample(frame):
                    blocks.append(block.to_ndarray().astype(np.float32, copy=False))
                    length += block.samples
    except AudioError:
        raise
    except Exception as error:  # whatever a decoder raises
        # FFmpeg has none for a chunk of more than 2 GB, which only a damaged header states.
        if isinstance(error, MemoryError) and (blocks or not isinstance(error, av.FFmpegError)):
            raise
        with _binary(name, content) as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        named = quote(name)
        way = f"it is compressed: `gzip -dc {named} > audio.wav` writes what is in it; name that"
        bare = (
            f"samples without a header get one by `ffmpeg -f s16le -ar 16000 -ac 1 -i {named} audio.wav`"
            ", with the format, rate and channels of their recorder"
        )
        what = way if is_gzip else f"it is damaged, or no audio at all; {bare}"
        why = f"{refusal}{getattr(error, 'strerror', error)} (FFmpeg); {what}"
        raise AudioError(f"{name}: cannot be read as audio: {why}") from None
    if length < (seconds - _SHORTFALL_SECONDS) * (first.sample_rate or 1):
        found = f"{length / (first.sample_rate or 1):.2f} s of {seconds:.2f} s"
        raise AudioError(f"{name}: truncated: holds only {found}; copy it again")
    if not blocks:
        raise AudioError(f"{name}: holds no audio")
    return _in_memory(name, np.concatenate(blocks, axis=1).T, first.sample_rate)


def _without_tag(packet: Any) -> Any:
    """Cut the ID3 tag off a packet of an mp3, as between joined files; None where nothing is left."""
    import av

    tag = id3_bytes(bytes(packet)[:10])
    return packet if not tag else av.Packet(bytes(packet)[tag:]) if packet.size > tag else None


def _mapped(content: bytes | None, file: BinaryIO) -> AbstractContextManager[bytes | mmap.mmap]:
    """All bytes of a file, of which only those are read that are looked at."""
    return nullcontext(content) if content else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _binary(name: str, content: bytes | None) -> BinaryIO:
    return _OnDisk(name) if content is None else Content(content)


def checked_samples(name: str, wav: Wave) -> Wave:
    """Samples that are all finite, in one block; others are refused."""
    if not np.isfinite(wav).all():
        raise AudioError(f"{name}: holds samples that are not finite (NaN or infinite); make it anew")
    return np.ascontiguousarray(wav)
