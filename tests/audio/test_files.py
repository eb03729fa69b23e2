import gzip
import io
import math
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.audio.files import (
    Content,
    Wave,
    audio_info,
    read_audio,
    read_channels,
    read_recording,
    resample,
    write_audio,
)
from farvox.audio.headers import AudioInfo
from farvox.errors import AudioError, MissingExtraError


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


def test_a_pipe_that_a_shell_opens_is_read_whole(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(1000))
    end, other = os.pipe()
    writer = threading.Thread(
        target=Path(f"/dev/fd/{other}").write_bytes, args=((tmp_path / "a.wav").read_bytes(),)
    )
    writer.start()
    threading.Timer(0.2, os.close, (other,)).start()
    np.testing.assert_array_equal(read_channels(f"/dev/fd/{end}"), read_channels(tmp_path / "a.wav"))
    writer.join()
    os.close(end)


@pytest.mark.parametrize(
    "name", ["pipe.wav", "pipe.mp3", "pipe:0", "pipe#t=0,1", "pipe.tar:wav:44:200:100:16000:1"]
)
def test_a_named_pipe_is_refused_at_once_and_copied_as_its_message_says(tmp_path: Path, name: str) -> None:
    write_audio(tmp_path / "a.wav", noise(1000))
    pipe = tmp_path / re.split("[:#]", name)[0]
    os.mkfifo(pipe)
    began = time.monotonic()
    with pytest.raises(AudioError, match=r"pipe.*: a named pipe, .*`cat .* > FILE`") as raised:
        read_audio(tmp_path / name)
    assert time.monotonic() - began < 20
    command = re.findall("`(.*)`", str(raised.value))[0].replace("FILE", str(tmp_path / "b.wav"))
    writer = threading.Thread(target=pipe.write_bytes, args=((tmp_path / "a.wav").read_bytes(),))
    writer.start()
    subprocess.run(command, shell=True, check=True)
    writer.join()
    np.testing.assert_array_equal(read_audio(tmp_path / "b.wav"), read_audio(tmp_path / "a.wav"))


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


def program(name: str) -> str:
    return shutil.which(name) or pytest.skip(f"{name} is not installed (Debian: apt-get install {name})")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6.03 s at 16 kHz, three of them near silence, so that the first frames do not tell the bit rate."""
    path = tmp_path_factory.mktemp("spoken") / "a b.wav"
    write_audio(path, np.concatenate([noise(48000) * 1e-3, noise(48480) * 0.5]))
    return path


def made(source: Path, command: str) -> Path:
    """The file ``out.SUFFIX`` that a command makes of IN, in a folder of its own."""
    words = [str(source) if word == "IN" else word for word in command.split()]
    folder = source.parent / "-".join(command.split()).replace("/", "_")
    folder.mkdir(exist_ok=True)
    words[0] = program(words[0])
    words[1:1] = ["-v", "error", "-y"] if command.startswith("ffmpeg") else []
    to_pipe = words[-1].startswith("|")
    out = folder / words[-1].removeprefix("|")
    words[-1] = "-" if to_pipe else str(out)
    done = subprocess.run(words, capture_output=True, check=True)
    if to_pipe:
        out.write_bytes(done.stdout)
    return out


def seconds_of(path: Path) -> float:
    wav_CT, rate = read_recording(path)
    assert audio_info(path) == AudioInfo(wav_CT.shape[1], rate, len(wav_CT))
    return wav_CT.shape[1] / rate


@pytest.mark.parametrize(
    "command",
    [
        "lame --quiet -V5 IN out.mp3",
        "lame --quiet -V5 -t IN out.mp3",
        "lame --quiet -V5 IN |out.mp3",
        "lame --quiet -b 64 -t IN out.mp3",
        "ffmpeg -i IN -q:a 4 out.mp3",
        "ffmpeg -i IN -q:a 4 -write_xing 0 out.mp3",
        "ffmpeg -i IN -q:a 4 -f mp3 |out.mp3",
        "ffmpeg -i IN -c:a libmp3lame -f wav out.wav",
        "ffmpeg -i IN -f wav |out.wav",
        "ffmpeg -i IN -f aiff |out.aiff",
        "ffmpeg -i IN -f au |out.au",
        "ffmpeg -i IN -f caf |out.caf",
        "ffmpeg -i IN -f w64 |out.w64",
        "ffmpeg -i IN -f flac |out.flac",
        "sox IN -t wav |out.wav",
        "sox IN -t flac |out.flac",
        "sox IN -t ogg |out.ogg",
        "sox IN -t aiff |out.aiff",
    ],
)
def test_a_length_that_a_pipe_could_not_write_is_that_of_the_audio(spoken: Path, command: str) -> None:
    made_of = made(spoken, command)
    assert seconds_of(made_of) == pytest.approx(6.03, abs=0.12)  # codecs add up to two frames
    level_T = np.abs(read_audio(made_of))
    assert level_T[50000:90000].mean() > 20 * level_T[5000:40000].mean()  # quiet, then loud to the end


def test_an_mp3_that_libsndfile_wrote_is_read_to_its_end(tmp_path: Path) -> None:
    wav_T = np.concatenate([noise(80000) * 1e-3, noise(80000)])
    soundfile.write(tmp_path / "a.mp3", wav_T, 16000)
    content = (tmp_path / "a.mp3").read_bytes()
    assert b"Xing" in content or b"Info" in content
    assert seconds_of(tmp_path / "a.mp3") == pytest.approx(10, abs=0.1)
    (tmp_path / "open.mp3").write_bytes(content.replace(b"Xing", b"\0\0\0\0").replace(b"Info", b"\0\0\0\0"))
    assert seconds_of(tmp_path / "open.mp3") == pytest.approx(10, abs=0.2)
    (tmp_path / "two.mp3").write_bytes(content + content)
    assert seconds_of(tmp_path / "two.mp3") == pytest.approx(20, abs=0.2)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("riff", [0, 36, None])
def test_a_wav_whose_recorder_crashed_is_read_to_its_end(
    tmp_path: Path, subtype: str, riff: int | None
) -> None:
    soundfile.write(tmp_path / "a.wav", noise(10000), 16000, subtype=subtype)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = bytes(4)
    if riff is not None:
        content[4:8] = struct.pack("<I", riff)
    (tmp_path / "b.wav").write_bytes(content)
    np.testing.assert_array_equal(
        read_recording(tmp_path / "b.wav")[0], read_recording(tmp_path / "a.wav")[0]
    )


def test_tags_at_the_ends_of_joined_mp3s_are_no_audio(spoken: Path, tmp_path: Path) -> None:
    content = made(spoken, "lame --quiet -V5 -t IN out.mp3").read_bytes()
    tags = b"ID3\x04\x00\x00\x00\x00\x10\x00" + b"TIT2" + bytes(2044), b"TAG" + b"name".ljust(125, b"\0")
    alone = seconds_of(made(spoken, "lame --quiet -V5 -t IN out.mp3"))
    for parts, times in ([content, tags[0]], 1), ([content, tags[1]], 1), ([content, tags[0], content], 2):
        (tmp_path / "a.mp3").write_bytes(b"".join(parts))
        assert seconds_of(tmp_path / "a.mp3") == pytest.approx(times * alone, abs=0.04)


def test_an_empty_wav_with_a_note_behind_it_is_empty(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    note = b"LIST" + struct.pack("<I", 9000) + bytes(range(1, 251)) * 36
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes() + note)
    assert audio_info(tmp_path / "a.wav").num_samples == 0


def test_a_wav_whose_size_is_that_of_an_earlier_moment_is_refused(tmp_path: Path) -> None:
    write_audio(tmp_path / "a b.wav", noise(20000))
    content = bytearray((tmp_path / "a b.wav").read_bytes())
    content[40:44] = struct.pack("<I", 10000)
    (tmp_path / "a b.wav").write_bytes(content)
    with pytest.raises(AudioError, match="states 10000 bytes of audio, and 30000 more follow") as error:
        read_audio(tmp_path / "a b.wav")
    leave_out, mend = str(error.value).split("`")[1::2]
    subprocess.run(leave_out, shell=True, check=True, cwd=tmp_path)
    program("ffmpeg")
    subprocess.run(mend + " -v error", shell=True, check=True, cwd=tmp_path)
    assert audio_info(tmp_path / "mended.wav").num_samples == 20000
    assert (tmp_path / "cut.wav").stat().st_size == 10044


@pytest.mark.parametrize(("suffix", "subtype"), [("ogg", "VORBIS"), ("ogg", "OPUS")])
@pytest.mark.parametrize("same", [True, False])
def test_ogg_files_that_were_joined_are_one_recording(
    tmp_path: Path, suffix: str, subtype: str, same: bool
) -> None:
    lengths = [30000, 30000 if same else 20000]
    for name, length in zip("ab", lengths, strict=True):
        soundfile.write(tmp_path / f"{name}.{suffix}", noise(length), 16000, subtype=subtype)
    parts = [tmp_path / f"{name}.{suffix}" for name in ("a", "a" if same else "b")]
    (tmp_path / "c.ogg").write_bytes(b"".join(part.read_bytes() for part in parts))
    expected_T = np.concatenate([read_audio(part) for part in parts])
    np.testing.assert_array_equal(read_audio(tmp_path / "c.ogg"), expected_T)
    assert audio_info(io.BytesIO((tmp_path / "c.ogg").read_bytes())).num_samples == sum(lengths)
    (tmp_path / "c.ogg").write_bytes((tmp_path / "c.ogg").read_bytes()[:-50])
    with pytest.raises(AudioError, match=r"c\.ogg: truncated"):
        read_audio(tmp_path / "c.ogg")


def test_joined_ogg_files_of_two_rates_are_refused_and_can_be_parted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.ogg", noise(16000), 16000)
    soundfile.write(tmp_path / "b.ogg", noise(44100, 2).T, 44100)
    (tmp_path / "c.ogg").write_bytes((tmp_path / "a.ogg").read_bytes() + (tmp_path / "b.ogg").read_bytes())
    with pytest.raises(AudioError, match=r"at 1\.00 s from 16000 Hz with 1 .* to 44100 Hz with 2") as error:
        read_audio(tmp_path / "c.ogg")
    subprocess.run(str(error.value).split("`")[1], shell=True, check=True, cwd=tmp_path)
    assert audio_info(tmp_path / "rest.ogg") == AudioInfo(44100, 44100, 2)


JOINABLE = [
    "ffmpeg -i IN -c:a aac out.m4a",
    "ffmpeg -i IN -c:a aac -movflags +frag_keyframe+empty_moov -f mp4 |out.mp4",
    "ffmpeg -i IN -c:a alac out.mov",
    "ffmpeg -i IN -c:a flac out.mkv",
    "ffmpeg -i IN -c:a libopus -live 1 -f webm |out.webm",
    "ffmpeg -i IN -c:a wmav2 out.wma",
    "ffmpeg -i IN out.tta",
    "sox IN out.caf",
    "sox IN out.w64",
    "sox IN out.sph",
]


@pytest.mark.parametrize("command", JOINABLE)
def test_files_of_other_formats_that_were_joined_are_one_recording(
    spoken: Path, tmp_path: Path, command: str
) -> None:
    first = made(spoken, command)
    both = tmp_path / first.name
    both.write_bytes(first.read_bytes() * 2)
    wav_CT, _ = read_recording(first)
    np.testing.assert_array_equal(read_recording(both)[0], np.concatenate([wav_CT, wav_CT], axis=1))
    assert audio_info(both).num_samples == 2 * audio_info(first).num_samples
    if command.startswith("ffmpeg") and "opus" not in command:
        other = made(spoken, command.replace("IN ", "IN -ar 8000 ", 1))
        both.write_bytes(first.read_bytes() + other.read_bytes())
        with pytest.raises(AudioError, match=r"changes at 6\.\d\d s from 16000 Hz .* to 8000 Hz") as error:
            read_recording(both)
        subprocess.run(str(error.value).split("`")[1], shell=True, check=True, cwd=tmp_path)
        assert audio_info(tmp_path / f"rest{both.suffix}") == audio_info(other)


def test_joined_flac_files_are_refused_and_can_be_parted(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", noise(10000))
    (tmp_path / "b.flac").write_bytes((tmp_path / "a.flac").read_bytes() * 2)
    with pytest.raises(AudioError, match="another flac file begins within it") as error:
        read_audio(tmp_path / "b.flac")
    for command in str(error.value).split("`")[1::2]:
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    for part in ("first.flac", "rest.flac"):
        np.testing.assert_array_equal(read_audio(tmp_path / part), read_audio(tmp_path / "a.flac"))


FORMATS = [
    ("flac", "oga", 16000), ("libspeex", "spx", 16000), ("alac", "caf", 16000), ("libopus", "caf", 48000),
    ("g722", "wav", 16000), ("g726 -b:a 32k", "wav", 8000), ("g723_1 -b:a 6300", "wav", 8000),
    ("adpcm_ms", "wav", 16000), ("adpcm_ima_wav", "wav", 16000), ("adpcm_yamaha", "wav", 16000),
    ("wmav2", "wma", 16000), ("ac3", "ac3", 48000), ("eac3", "eac3", 48000), ("aac", "3gp", 16000),
    ("aac", "mov", 16000), ("aac", "mkv", 16000), ("libvorbis", "mka", 16000), ("aac", "ts", 16000),
    ("mp2", "mp2", 16000), ("wavpack", "wv", 16000), ("tta", "tta", 16000), ("libvorbis", "ogv", 16000),
    ("pcm_s16le", "avi", 16000), ("aac", "flv", 16000), ("flac", "mp4", 16000), ("libopus", "webm", 48000),
    ("flac -f ogg", "ogg", 16000), ("wmav1", "wma", 16000), ("adpcm_ima_qt", "aifc", 16000),
    ("alac", "m4a", 16000), ("aac -movflags +faststart", "mp4", 16000), ("aac -live 1", "mkv", 16000),
    ("libopus -live 1", "webm", 48000), ("flac", "mkv", 16000), ("pcm_s16le", "mov", 16000),
    ("pcm_s16le -rf64 always", "wav", 16000), ("aac -mpegts_flags latm", "ts", 16000),
    ("mp2", "mpg", 16000), ("libmp3lame", "mp4", 16000),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "suffix", "rate"), FORMATS)
def test_whatever_libsndfile_refuses_is_read_by_ffmpeg(
    spoken: Path, codec: str, suffix: str, rate: int
) -> None:
    path = made(spoken, f"ffmpeg -i IN -strict -2 -c:a {codec} -ar {rate} out.{suffix}")
    assert seconds_of(path) == pytest.approx(6.03, abs=0.13)
    assert audio_info(path).sample_rate == rate
    read_T = read_audio(path)
    level_T = np.abs(read_T)
    assert level_T[50000:90000].mean() > 20 * level_T[5000:40000].mean()  # quiet, then loud
    if codec.split()[0] in ("flac", "alac", "wavpack", "tta", "pcm_s16le"):
        np.testing.assert_array_equal(read_T, read_audio(spoken))


@pytest.mark.parametrize(("codec", "suffix", "rate"), FORMATS)
def test_what_ffmpeg_reads_is_the_speech_that_was_written(
    voices: Path, tmp_path: Path, codec: str, suffix: str, rate: int
) -> None:
    source = Path(shutil.copy(voices / "a0.wav", tmp_path))
    path = made(source, f"ffmpeg -i IN -strict -2 -c:a {codec} -ar {rate} out.{suffix}")
    speech_T, read_T = read_audio(voices / "a0.wav"), read_audio(path)
    assert len(speech_T) - 2048 <= len(read_T) <= len(speech_T) + 2048  # at most two frames of a codec
    size = len(speech_T) + len(read_T)
    products_T = np.fft.irfft(np.fft.rfft(read_T, size) * np.fft.rfft(speech_T, size).conj(), size)
    delay = int(products_T.argmax())
    delay -= size * (delay > size // 2)
    shared_T, spoken_T = read_T[max(0, delay) :], speech_T[max(0, -delay) :]
    length = min(len(shared_T), len(spoken_T))
    assert abs(delay) <= 1200 and np.corrcoef(shared_T[:length], spoken_T[:length])[0, 1] > 0.8


@pytest.mark.parametrize("suffix", ["oga", "spx", "caf", "wav", "mov", "mkv", "wma", "avi", "wv", "tta"])
def test_a_cut_file_of_these_formats_is_refused(spoken: Path, tmp_path: Path, suffix: str) -> None:
    codec = next(codec for codec, own, _ in FORMATS if own == suffix)
    whole = made(spoken, f"ffmpeg -i IN -strict -2 -c:a {codec} -ar 16000 out.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match=rf"a\.{suffix}: "):
        read_recording(tmp_path / f"a.{suffix}")


def test_a_telephone_recording_without_its_pauses_is_read(spoken: Path) -> None:
    narrow = made(spoken, "sox IN -r 8000 out.wav")
    path = made(narrow, "sox IN -t amr-nb out.amr")  # sox leaves pauses out, as telephones do
    assert seconds_of(path) == pytest.approx(6.03, abs=0.05)


def test_several_audio_tracks_are_refused_and_one_can_be_taken_out(spoken: Path) -> None:
    for suffix in ("m4a", "mkv", "ogg"):
        path = made(spoken, f"ffmpeg -i IN -i IN -map 0:a -map 1:a -strict -2 out.{suffix}")
        with pytest.raises(AudioError, match="2 audio tracks") as error:
            read_recording(path)
        subprocess.run(
            str(error.value).split("`")[1] + " -v error -y", shell=True, check=True, cwd=path.parent
        )
        assert seconds_of(path.parent / "track.wav") == pytest.approx(6.03, abs=0.07)


@pytest.mark.parametrize(
    ("command", "change"),
    [
        ("lame --quiet -t -m m IN out.mp3", "--resample 44.1"),
        ("lame --quiet -t -m m IN out.mp3", "-m s"),
        ("ffmpeg -i IN -c:a mp2 out.ts", "-ar 44100"),
        ("ffmpeg -i IN -c:a mp2 out.ts", "-ac 2"),
        ("ffmpeg -i IN out.aac", "-ar 44100"),
        ("ffmpeg -i IN out.aac", "-ac 2"),
    ],
)
def test_a_rate_or_layout_that_changes_is_refused_and_can_be_mended(
    spoken: Path, tmp_path: Path, command: str, change: str
) -> None:
    program("ffmpeg")
    suffix = command[-3:].strip(".")
    stereo = made(spoken, "ffmpeg -i IN -ac 2 out.wav") if change == "-m s" else spoken
    *words, out = command.split()
    first, second = made(spoken, command), made(stereo, " ".join([*words, *change.split(), out]))
    (tmp_path / f"a.{suffix}").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(AudioError, match=r"changes at 6\.\d\d s from 16000 Hz with 1") as error:
        read_recording(tmp_path / f"a.{suffix}")
    subprocess.run(str(error.value).split("`")[1] + " -v error", shell=True, check=True, cwd=tmp_path)
    assert seconds_of(tmp_path / "mended.wav") == pytest.approx(12.06, abs=0.3)


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 4_000_000_000])
def test_a_rate_that_no_audio_has_is_refused_and_can_be_mended(tmp_path: Path, rate: int) -> None:
    write_audio(tmp_path / "a b.wav", noise(20000))
    content = bytearray((tmp_path / "a b.wav").read_bytes())
    content[24:28] = struct.pack("<I", rate)
    (tmp_path / "a b.wav").write_bytes(content)
    for read in (audio_info, read_audio, read_recording):
        with pytest.raises(AudioError, match=f"a rate of {rate} Hz") as error:
            read(tmp_path / "a b.wav")
    program("sox")
    subprocess.run(str(error.value).split("`")[1], shell=True, check=True, cwd=tmp_path)
    assert audio_info(tmp_path / "mended.wav") == AudioInfo(20000, 16000, 1)


def test_without_pyav_the_message_names_it_and_what_libsndfile_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_m4a(tmp_path / "a.m4a", tone(16000, 16000), 16000)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"a\.m4a: .*libsndfile.*pip install av"):
        read_audio(tmp_path / "a.m4a")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_by_name(data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(["wav", "flac", "ogg", "mp3", "caf", "aiff", "w64", "au"]))
    file = io.BytesIO()
    soundfile.write(file, noise(4000), 16000, format=suffix)
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, min(len(content), 400) - 1))
        content[at] = data.draw(st.integers(0, 255))
    try:
        read_recording(io.BytesIO(content))
    except AudioError as error:
        assert str(error).startswith("<file object>: ")


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes of the header set, the end cut off, a block put in or zeroed."""
    damaged = bytearray(content)
    kind, at = rng.choice(["flip", "header", "cut", "insert", "zero"]), rng.randrange(len(content))
    if kind == "flip":
        for place in rng.choices(range(len(content)), k=rng.randint(1, 20)):
            damaged[place] ^= 1 << rng.randrange(8)
    elif kind == "header":
        for place in rng.choices(range(min(512, len(content))), k=rng.randint(1, 8)):
            damaged[place] = rng.choice([0, 127, 128, 255])
    elif kind == "cut":
        del damaged[at + 1 :]
    elif kind == "insert":
        damaged[at:at] = rng.randbytes(rng.randint(1, 3000))
    else:
        begin = at % 4096
        damaged[begin : begin + 600] = bytes(len(damaged[begin : begin + 600]))
    return bytes(damaged)


@pytest.mark.slow
def test_mutated_files_of_all_formats_are_finite_audio_or_refused_in_a_line(
    spoken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(0)
    for codec, suffix, rate in FORMATS:
        whole = made(spoken, f"ffmpeg -i IN -strict -2 -c:a {codec} -ar {rate} out.{suffix}").read_bytes()
        path = tmp_path / f"a.{suffix}"
        for _ in range(8):
            path.write_bytes(mutated(whole, rng))
            began = time.process_time()
            for audio in (path, io.BytesIO(path.read_bytes())):
                try:
                    wav_CT, own_rate = read_recording(audio)
                    assert np.isfinite(wav_CT).all() and 1000 <= own_rate <= 1_000_000
                    assert wav_CT.nbytes < 1e9
                except AudioError as error:
                    assert re.fullmatch(r"(.*/a\.\w+|<file object>): [^\n]{1,700}", str(error)), error
            assert time.process_time() - began < 20
    assert capfd.readouterr() == ("", "")


def test_a_size_that_no_file_can_have_is_no_exception_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.caf", noise(1000), 16000)
    content = bytearray((tmp_path / "a.caf").read_bytes())
    content[12:20] = b"\xff" * 8  # of the first chunk
    (tmp_path / "a.caf").write_bytes(content)
    for audio in (tmp_path / "a.caf", io.BytesIO(content)):
        with pytest.raises(AudioError, match=r"(a\.caf|object>): "):
            read_recording(audio)
    assert capfd.readouterr() == ("", "")


def test_an_impossible_place_in_damaged_content_is_no_exception_of_its_own():
    content = Content(b"0123456789")
    assert content.seek(4) == 4 and content.seek(-3) == 4 and content.tell() == 4
    assert content.seek(-2, io.SEEK_END) == 8


def test_a_gzipped_file_is_named_with_the_command_that_unpacks_it(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000))
    (tmp_path / "a.wav.gz").write_bytes(gzip.compress((tmp_path / "a.wav").read_bytes()))
    with pytest.raises(AudioError, match="it is compressed: `gzip -dc") as refused:
        read_audio(tmp_path / "a.wav.gz")
    command = str(refused.value).split("`")[1]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    np.testing.assert_array_equal(read_audio(tmp_path / "audio.wav"), read_audio(tmp_path / "a.wav"))


def test_samples_without_a_header_get_one_by_the_command_that_is_named(tmp_path: Path) -> None:
    program("ffmpeg")
    pcm_T = (3000 * np.random.default_rng(0).standard_normal(16000)).astype("<i2")
    (tmp_path / "a b.raw").write_bytes(pcm_T.tobytes())
    with pytest.raises(AudioError, match=r"a b\.raw: cannot be read as audio: .*without a header") as refused:
        read_audio(tmp_path / "a b.raw")
    command = str(refused.value).split("`")[1]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
    np.testing.assert_array_equal(read_audio(tmp_path / "audio.wav"), pcm_T / np.float32(32768))
