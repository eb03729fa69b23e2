"""A file that was cut off is refused, whatever its format; plain wav files are read by their header alone."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.audio.files import open_audio, read_audio, read_channels, read_recording
from farvox.audio.headers import HEAD_BYTES, AudioInfo, needs_decoding, pcm_header
from farvox.errors import AudioError

SOUNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "wavex": ("WAVEX", "FLOAT"),
    "rf64": ("RF64", "PCM_24"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
FFMPEG = {"m4a": "aac", "mkv": "aac", "webm": "libopus"}
RATE = 16000


def write_by_ffmpeg(path: Path, wav_T: np.ndarray, codec: str) -> None:
    with av.open(
        str(path), "w", options={"movflags": "faststart"} if path.suffix == ".m4a" else {}
    ) as container:
        stream = container.add_stream(codec, rate=48000 if codec == "libopus" else RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(wav_T[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        to_codec = av.AudioResampler(
            stream.format, "mono", stream.rate, stream.codec_context.frame_size or 960
        )
        for part in (*to_codec.resample(frame), *to_codec.resample(None), None):
            container.mux(stream.encode(part))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    wav_T = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE)
    for suffix, (format_, subtype) in SOUNDFILE.items():
        soundfile.write(folder / f"a.{suffix}", wav_T, RATE, format=format_, subtype=subtype)
    for suffix, codec in FFMPEG.items():
        write_by_ffmpeg(folder / f"a.{suffix}", wav_T, codec)
    return {path.suffix[1:]: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [*SOUNDFILE, *FFMPEG])
def test_a_whole_file_is_read(whole: dict[str, bytes], suffix: str) -> None:
    wav_CT, rate = read_recording(io.BytesIO(whole[suffix]))
    assert abs(wav_CT.shape[1] / rate - 5) < 0.1


@pytest.mark.parametrize("kept", [0.97, 0.5, 0.1, 0.03])
@pytest.mark.parametrize("suffix", [*SOUNDFILE, *FFMPEG])
def test_a_file_that_was_cut_off_is_refused_without_noise(
    whole: dict[str, bytes], capfd: pytest.CaptureFixture[str], tmp_path: Path, suffix: str, kept: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole[suffix][: int(kept * len(whole[suffix]))])
    with pytest.raises(AudioError, match=rf"a\.{suffix}: "):
        read_recording(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["wav", "wavex", "rf64", "au", "sph", "w64"])
def test_bytes_after_the_end_of_the_audio_are_allowed(whole: dict[str, bytes], suffix: str) -> None:
    needs_decoding("a", io.BytesIO(whole[suffix] + bytes(1000)))
    with pytest.raises(AudioError, match="a: truncated"):  # so the length was found
        needs_decoding("a", io.BytesIO(whole[suffix][:-1000]))


def test_a_tag_before_the_frames_of_an_mp3_is_passed_over(whole: dict[str, bytes]) -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x10\x00" + bytes(2048)
    needs_decoding("a.mp3", io.BytesIO(tag + whole["mp3"]))
    with pytest.raises(AudioError, match=r"a\.mp3: truncated"):
        needs_decoding("a.mp3", io.BytesIO(tag + whole["mp3"][:-3000]))


def test_a_webm_stream_of_open_length_promises_nothing(whole: dict[str, bytes]) -> None:
    content = bytearray(whole["webm"])
    with pytest.raises(AudioError, match=r"a\.webm: truncated"):
        needs_decoding("a.webm", io.BytesIO(content[:-1000]))
    at = content.index(b"\x18\x53\x80\x67") + 4
    content[at : at + 8] = b"\x01" + b"\xff" * 7
    needs_decoding("a.webm", io.BytesIO(content))
    needs_decoding("a.webm", io.BytesIO(content[:-1000]))


MAGIC = st.sampled_from(
    [b"", b"RIFF", b"RF64", b"FORM", b".snd", b"riff", b"NIST_1A", b"OggS", b"ID3", b"\xff\xfb"]
)


@given(MAGIC, st.binary(max_size=300))
def test_any_bytes_are_refused_or_passed_and_never_a_crash(magic: bytes, rest: bytes) -> None:
    try:
        needs_decoding("a", io.BytesIO(magic + rest))
    except AudioError as error:
        assert str(error).startswith("a: ")


def wav_bytes(pcm_TC, rate=16000, **options):
    file = io.BytesIO()
    soundfile.write(file, pcm_TC, rate, format="WAV", **({"subtype": "PCM_16"} | options))
    return file.getvalue()


def header_of(content):
    return pcm_header(content[:HEAD_BYTES], len(content))


NOISE = np.random.default_rng(0).integers(-32768, 32768, (3000, 3)).astype(np.int16)


@settings(max_examples=50, deadline=None)
@given(
    channels=st.integers(1, 3),
    rate=st.sampled_from([8000, 16000, 44100]),
    start=st.integers(0, 3500),
    count=st.integers(0, 3500),
)
def test_samples_are_those_of_libsndfile(tmp_path_factory, channels, rate, start, count):
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    path.write_bytes(wav_bytes(NOISE[:, :channels], rate))
    header = header_of(path.read_bytes())
    assert header == (AudioInfo(3000, rate, channels), 44)
    theirs_TC, _ = soundfile.read(path, dtype="float32", always_2d=True)
    for channel in range(channels):
        ours_T = read_audio(path, start=start, num_samples=count, sample_rate=rate, channel=channel)
        np.testing.assert_array_equal(ours_T, theirs_TC[start : start + count, channel])
    np.testing.assert_array_equal(read_channels(path, sample_rate=rate), theirs_TC.T)


def test_other_chunks_before_the_samples_are_stepped_over():
    plain = wav_bytes(NOISE)
    junk = b"LIST" + struct.pack("<I", 5) + b"abcde\0"
    info, data_start = header_of(plain[:12] + junk + plain[12:])
    assert info.num_samples == 3000 and data_start == 44 + len(junk)


@pytest.mark.parametrize(
    "content",
    [
        wav_bytes(NOISE, subtype="PCM_24"),
        wav_bytes(NOISE, subtype="FLOAT"),
        wav_bytes(NOISE)[:5000],  # cut short
        wav_bytes(NOISE[:0]),
        wav_bytes(NOISE)[:30],
        b"RIFX" + wav_bytes(NOISE)[4:],
        b"",
    ],
    ids=["24 bits", "floats", "cut short", "no samples", "half a header", "big endian", "empty"],
)
def test_other_wav_files_are_left_to_libsndfile(content):
    assert header_of(content) is None


def test_a_long_header_is_left_to_libsndfile(tmp_path):
    plain = wav_bytes(NOISE)
    junk = b"LIST" + struct.pack("<I", 2 * HEAD_BYTES) + bytes(2 * HEAD_BYTES)
    path = tmp_path / "a.wav"
    path.write_bytes(plain[:12] + junk + plain[12:])
    assert header_of(path.read_bytes()) is None
    np.testing.assert_array_equal(read_audio(path, channel=1), NOISE[:, 1] / np.float32(32768))


def test_a_file_that_shrinks_while_it_is_open_is_a_fault(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(NOISE))
    with open_audio(path) as file, path.open("r+b") as same:
        same.truncate(1000)
        with pytest.raises(AudioError, match="truncated: ends at sample 159 of 3000"):
            file.read()


def test_one_opening_serves_many_reads(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(NOISE))
    with open_audio(path) as file:
        parts = [file.read(start=start, num_samples=1000) for start in (2000, 0, 1000)]
    np.testing.assert_array_equal(np.concatenate([parts[1], parts[2], parts[0]]), read_audio(path))
