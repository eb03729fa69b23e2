import io
import math
import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.audio.files import (
    Wave,
    audio_info,
    read_audio,
    read_channels,
    read_recording,
    resample,
    write_audio,
)
from farvox.audio.headers import AudioInfo
from farvox.errors import AudioError


def noise(num_samples: int, num_channels: int | None = None) -> Wave:
    shape = num_samples if num_channels is None else (num_channels, num_samples)
    return np.random.default_rng(0).uniform(-0.9, 0.9, shape).astype(np.float32)


def tone(num_samples: int, rate: int) -> Wave:
    return (0.5 * np.sin(2 * math.pi * 440 / rate * np.arange(num_samples))).astype(np.float32)


def write_m4a(path: Path, wav_T: Wave, rate: int, **options: str) -> None:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(wav_T[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        fifo = av.AudioFifo()
        fifo.write(frame)
        while (part := fifo.read(1024, partial=True)) is not None:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    for suffix in (".wav", ".flac"):
        write_audio(folder / f"mono{suffix}", noise(5000))
    soundfile.write(folder / "48k.wav", noise(48000), 48000, subtype="FLOAT")
    soundfile.write(folder / "44k1.flac", noise(44100), 44100)
    soundfile.write(folder / "8k.wav", noise(8000), 8000)
    return folder


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_written_audio_is_read_back_to_half_a_step_of_16_bits(tmp_path: Path, suffix: str) -> None:
    wav_T = noise(4000)
    write_audio(tmp_path / f"a{suffix}", wav_T)
    read_T = read_audio(tmp_path / f"a{suffix}")
    assert read_T.dtype == np.float32
    assert np.abs(read_T - wav_T).max() <= 0.5 / 32768
    assert audio_info(tmp_path / f"a{suffix}") == AudioInfo(4000, 16000, 1)


def test_16_bit_audio_survives_conversion_unchanged(tmp_path: Path) -> None:
    every_value = np.arange(-32768, 32768).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", every_value, 16000)
    write_audio(tmp_path / "b.flac", read_audio(tmp_path / "a.wav"))
    converted, _ = soundfile.read(tmp_path / "b.flac", dtype="int16")
    np.testing.assert_array_equal(converted, every_value)


def test_samples_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.array([-3.0, -1.0, 0.0, 1.0, 3.0]))
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav") * 32768, [-32768, -32768, 0, 32767, 32767])


def test_channels_are_read_one_by_one_or_together(tmp_path: Path) -> None:
    wav_CT = noise(3000, 4)
    write_audio(tmp_path / "array.wav", wav_CT)
    read_CT = read_channels(tmp_path / "array.wav")
    assert read_CT.shape == (4, 3000)
    assert np.abs(read_CT - wav_CT).max() <= 0.5 / 32768
    np.testing.assert_array_equal(read_audio(tmp_path / "array.wav", channel=2), read_CT[2])
    with pytest.raises(AudioError, match=r"array\.wav: has no channel 4; it has 4"):
        read_audio(tmp_path / "array.wav", channel=4)


def test_more_channels_than_flac_holds_are_refused(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", np.zeros((8, 100)))
    with pytest.raises(AudioError, match=r"a\.flac: flac holds 8 channels at most, not 9"):
        write_audio(tmp_path / "a.flac", np.zeros((9, 100)))


@pytest.mark.parametrize("name", ["mono.wav", "mono.flac"])
@settings(deadline=None)
@given(start=st.integers(0, 5500), num_samples=st.none() | st.integers(0, 5500))
def test_a_part_is_the_slice_of_the_whole(
    folder: Path, name: str, start: int, num_samples: int | None
) -> None:
    part_T = read_audio(folder / name, start=start, num_samples=num_samples)
    stop = None if num_samples is None else start + num_samples
    np.testing.assert_array_equal(part_T, read_audio(folder / name)[start:stop])


@pytest.mark.parametrize("name", ["48k.wav", "44k1.flac", "8k.wav"])
@settings(deadline=None, max_examples=50)
@given(start=st.integers(0, 16500), num_samples=st.none() | st.integers(0, 9000))
def test_a_part_at_another_rate_is_the_slice_of_the_whole(
    folder: Path, name: str, start: int, num_samples: int | None
) -> None:
    whole_T = read_audio(folder / name)
    assert len(whole_T) == 16000
    part_T = read_audio(folder / name, start=start, num_samples=num_samples)
    stop = None if num_samples is None else start + num_samples
    np.testing.assert_allclose(part_T, whole_T[start:stop], atol=1e-4)


def test_resampling_keeps_a_tone(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(48000, 48000), 48000, subtype="FLOAT")
    np.testing.assert_allclose(
        read_audio(tmp_path / "a.wav")[500:-500], tone(16000, 16000)[500:-500], atol=1e-3
    )


def test_m4a_is_read_by_ffmpeg(tmp_path: Path) -> None:
    write_m4a(tmp_path / "a.m4a", tone(50000, 16000), 16000)
    read_T = read_audio(tmp_path / "a.m4a")
    assert 50000 <= len(read_T) <= 50000 + 1024
    assert audio_info(tmp_path / "a.m4a") == AudioInfo(len(read_T), 16000, 1)
    np.testing.assert_allclose(read_T[2000:40000], tone(50000, 16000)[2000:40000], atol=0.01)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.m4a", start=700, num_samples=90), read_T[700:790])
    np.testing.assert_array_equal(read_channels(tmp_path / "a.m4a"), read_T[None])


def test_m4a_at_another_rate_is_resampled(tmp_path: Path) -> None:
    write_m4a(tmp_path / "a.m4a", tone(88200, 44100), 44100)
    np.testing.assert_allclose(
        read_audio(tmp_path / "a.m4a")[4000:28000], tone(32000, 16000)[4000:28000], atol=0.02
    )


@pytest.mark.parametrize("kept", [0.97, 0.5, 0.03])
@pytest.mark.parametrize("suffix", ["wav", "flac", "m4a", "sph"])
def test_a_truncated_file_is_refused_and_never_shortened(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "m4a":
        write_m4a(path, noise(160000), 16000, movflags="faststart")
    elif suffix == "sph":
        soundfile.write(path, noise(160000), 16000, format="NIST")
        assert len(read_audio(path)) == 160000
    else:
        write_audio(path, noise(160000))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(AudioError, match=rf"a\.{suffix}: "):
        read_audio(path)


def test_a_truncated_wav_is_refused_even_where_the_wanted_part_is_there(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(16000))
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:-100])
    for read in (
        lambda: read_audio(tmp_path / "a.wav", num_samples=10),
        lambda: audio_info(tmp_path / "a.wav"),
    ):
        with pytest.raises(AudioError, match=r"truncated: 100 of its 32000 bytes"):
            read()


def test_an_m4a_cut_between_two_packets_is_refused(tmp_path: Path) -> None:
    write_m4a(tmp_path / "a.m4a", noise(160000), 16000, movflags="faststart")
    with av.open(str(tmp_path / "a.m4a")) as container:
        middle = [packet.pos for packet in container.demux(audio=0) if packet.size][80]
    (tmp_path / "a.m4a").write_bytes((tmp_path / "a.m4a").read_bytes()[:middle])
    with pytest.raises(AudioError, match=r"a\.m4a: "):
        read_audio(tmp_path / "a.m4a")


def test_a_wav_from_a_pipe_does_not_know_its_length_and_is_read_to_its_end(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(1000))
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "a.wav")) == 1000


def test_a_flac_from_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", noise(10000))
    whole_T = read_audio(tmp_path / "a.flac")
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.flac"), whole_T)
    assert audio_info(tmp_path / "a.flac") == AudioInfo(10000, 16000, 1)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all", b"<html>404</html>" * 100])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.m4a"])
def test_a_file_without_audio_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (audio_info, read_audio, read_channels):
        with pytest.raises(AudioError, match=name):
            read(tmp_path / name)


def test_a_missing_file_says_where_relative_paths_start() -> None:
    with pytest.raises(AudioError, match=r"no/such\.wav: no such file \(relative paths start at /"):
        read_audio("no/such.wav")


def test_a_folder_is_no_audio(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="cannot be read"):
        read_audio(tmp_path)


def test_samples_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    wav_T = noise(100)
    wav_T[50] = np.nan
    soundfile.write(tmp_path / "a.wav", wav_T, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        read_audio(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="not finite"):
        write_audio(tmp_path / "b.wav", wav_T)


def test_a_file_of_no_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    assert audio_info(tmp_path / "a.wav").num_samples == 0
    with pytest.raises(AudioError, match="holds no audio"):
        read_audio(tmp_path / "a.wav")


def test_only_wav_and_flac_are_written(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"written as \.wav or \.flac"):
        write_audio(tmp_path / "a.mp3", noise(100))


def test_a_negative_start_is_a_mistake_of_the_caller(folder: Path) -> None:
    with pytest.raises(ValueError, match="count from 0"):
        read_audio(folder / "mono.wav", start=-1)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_a_file_object_reads_as_its_file_does(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "m4a":
        write_m4a(path, noise(30000), 22050)
    else:
        soundfile.write(path, noise(30000, 2).T, 22050)
    in_memory = io.BytesIO(path.read_bytes())
    with open(path, "rb") as file:
        file.seek(100)  # it is read from its beginning all the same
        for audio in (file, in_memory, in_memory, str(path)):
            np.testing.assert_array_equal(read_channels(audio), read_channels(path))
            np.testing.assert_array_equal(read_audio(audio, start=7, num_samples=99), read_audio(path)[7:106])
            assert audio_info(audio) == audio_info(path)


def test_a_recording_keeps_its_rate_until_it_is_resampled(folder: Path) -> None:
    wav_CT, rate = read_recording(folder / "48k.wav")
    assert (wav_CT.shape, wav_CT.dtype, rate) == ((1, 48000), np.float32, 48000)
    np.testing.assert_array_equal(resample(wav_CT, rate, 16000), read_channels(folder / "48k.wav"))
    np.testing.assert_array_equal(resample(wav_CT[0], rate, 16000), read_audio(folder / "48k.wav"))
    assert resample(wav_CT, rate, rate) is wav_CT


class _Pipe(io.BytesIO):
    name = 3  # as of a pipe opened by its number

    def seekable(self) -> bool:
        return False


def test_a_file_object_that_cannot_seek_is_read_from_where_it_stands(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(1000))
    pipe = _Pipe(b"four" + (tmp_path / "a.wav").read_bytes())
    pipe.read(4)
    np.testing.assert_array_equal(read_audio(pipe), read_audio(tmp_path / "a.wav"))


def test_faults_of_a_file_object_name_it(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^<file object>: cannot be read as audio: it is empty"):
        read_channels(io.BytesIO())
    (tmp_path / "a.wav").write_text("no audio at all")
    with (
        open(tmp_path / "a.wav", "rb") as file,
        pytest.raises(AudioError, match=r"/a\.wav: cannot be read as"),
    ):
        read_channels(file)
    with pytest.raises(AudioError, match=r"/a\.wav: cannot be read: .*closed"):
        read_channels(file)
    with open(tmp_path / "a.wav") as text, pytest.raises(AudioError, match='mode "rb"'):
        read_channels(text)  # type: ignore[arg-type]


def test_a_named_pipe_is_read_whole(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(1000))
    os.mkfifo(tmp_path / "pipe")
    content = (tmp_path / "a.wav").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    np.testing.assert_array_equal(read_channels(tmp_path / "pipe"), read_channels(tmp_path / "a.wav"))
    writer.join()


def test_a_device_is_no_audio() -> None:
    with pytest.raises(AudioError, match=r"/dev/zero: cannot be read: it is a device"):
        read_audio("/dev/zero")


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    write_m4a(tmp_path / "a.m4a", tone(16000, 16000), 16000)
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{tmp_path}/a.m4a\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/a.m4a'\n")
    for name in ("list.m3u8", "list.ffconcat"):
        with pytest.raises(AudioError, match=name):
            read_audio(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"RIFF", b"ID3", b"plain text\n" * 300, bytes(5000), b"OggS", b"fLaC", b"\x1a\x45\xdf\xa3"],
)
@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.ogg", "a.raw", "a.m4a"])
def test_the_libraries_say_nothing_of_their_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    for audio in (tmp_path / name, io.BytesIO(content)):
        with pytest.raises(AudioError):
            read_recording(audio)
    assert capfd.readouterr() == ("", "")
