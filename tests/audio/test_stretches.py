import io
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from farvox.audio.files import OpenAudio, _part, audio_info, read_audio, read_channels
from farvox.audio.headers import AudioInfo
from farvox.audio.shards import state_of
from farvox.audio.stretches import ArkEntry, Stretch, file_of, recording_of
from farvox.errors import AudioError

RATE = 16000
NOISE = np.random.default_rng(3).integers(-9000, 9000, (40000, 2), dtype=np.int16)


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """2.5 s of two channels."""
    soundfile.write(tmp_path / "a b.wav", NOISE, RATE)
    return str(tmp_path / "a b.wav")


def encoded(pcm_TC: np.ndarray, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    written = io.BytesIO()
    soundfile.write(written, pcm_TC, RATE, format=kind, subtype=subtype)
    return written.getvalue()


@pytest.mark.parametrize(
    ("fragment", "begin", "end", "channels"),
    [
        ("#t=0.5,1.25", 8000, 20000, [0, 1]),
        ("#t=1.2", 19200, 40000, [0, 1]),
        ("#t=0.0,1e-2&channel=1", 0, 160, [1]),
        ("#t=2,2.99", 32000, 40000, [0, 1]),  # an overshoot, as in Kaldi
        ("#side=1", 0, 40000, [1]),
        ("#channel=1#t=1,2", 16000, 32000, [1]),
    ],
)
def test_a_stretch_is_that_part_of_its_recording(recording, fragment, begin, end, channels):
    part_CT = read_channels(recording + fragment)
    np.testing.assert_array_equal(part_CT, NOISE[begin:end, channels].T / np.float32(32768))
    assert audio_info(recording + fragment).num_samples == end - begin
    np.testing.assert_array_equal(
        read_audio(recording + fragment, start=100, num_samples=10**9), part_CT[0, 100:]
    )


def test_a_stretch_that_is_resampled_hears_nothing_of_what_lies_beside_it(recording, tmp_path):
    soundfile.write(tmp_path / "alone.wav", NOISE[8000:24000], RATE)
    of_stretch = read_audio(f"{recording}#t=0.5,1.5", sample_rate=8000, start=3000, num_samples=900)
    alone = read_audio(tmp_path / "alone.wav", sample_rate=8000, start=3000, num_samples=900)
    np.testing.assert_array_equal(of_stretch, alone)


def test_only_the_stretch_is_read(recording):
    asked = []

    def frames_of(start, count):
        asked.append((start, count))
        return NOISE[start : start + count] / np.float32(32768)

    whole = OpenAudio(AudioInfo(len(NOISE), RATE, 2), recording, frames_of)
    _part(whole, Stretch.parse(f"{recording}#t=1,2"), "part").read(start=4000, num_samples=50000)
    assert asked == [(20000, 12000)]


def test_a_mono_recording_is_either_side(tmp_path):
    soundfile.write(tmp_path / "m.wav", NOISE[:, 0], RATE)
    np.testing.assert_array_equal(read_audio(tmp_path / "m.wav#side=1"), read_audio(tmp_path / "m.wav"))


@pytest.mark.parametrize(
    ("fragment", "complaint"),
    [
        ("#t=2.5,2.9", r"begins at 2.5 s, but its recording at 2.50 s"),
        ("#t=1,3.0", r"ends at 3 s, but its recording at 2.50 s"),
        ("#t=1,2&channel=2", r"has no such channel; there are 2"),
        ("#side=2", r"has no such channel"),
    ],
)
def test_what_lies_outside_the_recording_is_refused(recording, fragment, complaint):
    with pytest.raises(AudioError, match=complaint) as refused:
        read_audio(recording + fragment)
    assert str(refused.value).startswith(recording + fragment)


@pytest.mark.parametrize(
    "part",
    [
        "\0", "#t=1e999", "#t=0,1e308", "#t=5e299", f"#t={'9' * 5000}", f"#channel={'9' * 30}", "#t=0" * 1500,
        ":" + "9" * 17, ":" + "9" * 5000, ".tar:wav:0:10:10:16000:" + "9" * 5000,
        ".tar:wav:999999999999999:10:10:16000:1", ".tar:wav:0:1:999999999999999:16000:99999",
        ".tar:flac:0:1:999999999999999:16000:1",
    ],
)  # fmt: skip
def test_parts_that_no_file_has_are_refused_however_large_their_numbers(recording, part, tmp_path):
    shutil.copy(recording, f"{recording}.tar")
    with pytest.raises(AudioError):
        read_audio(f"{recording}{part}")


def test_names_that_look_like_parts_are_files_where_they_exist(tmp_path):
    for name in ("a.wav#t=1,2", "a.wav:12"):
        shutil.copy(__file__, tmp_path / name)
        path = str(tmp_path / name)
        assert Stretch.parse(path) is ArkEntry.parse(path) is None
        assert file_of(path) == path
    assert Stretch.parse("a#b.wav") is Stretch.parse("a.wav#t=1.2.3") is Stretch.parse("a#") is None
    assert ArkEntry.parse("s.tar:wav:0:1000:100:16000:1") is None


def test_parts_have_the_state_of_their_file(recording):
    assert state_of(f"{recording}#t=1,2") == state_of(f"{recording}:12") == state_of(recording)
    assert recording_of("x.ark:12#channel=1#t=1,2") == "x.ark:12"
    assert file_of("x.ark:12#channel=1#t=1,2") == "x.ark"


class TestArk:
    @pytest.fixture
    def ark(self, tmp_path):
        """An ark, and the byte and samples of each entry."""
        contents = {
            "plain": encoded(NOISE),
            "law": encoded(NOISE[:9000], subtype="ULAW"),
            "deep": encoded(NOISE[:5000], subtype="PCM_24"),
            "adpcm": encoded(NOISE[:8000, :1], subtype="IMA_ADPCM"),
            "last": encoded(NOISE[20000:]),
        }
        for kind in ("FLAC", "OGG"):  # as kaldiio writes them
            audio = encoded(NOISE, kind, {"FLAC": "PCM_16", "OGG": "VORBIS"}[kind])
            width = -(-len(audio).bit_length() // 8)
            contents[kind] = b"AUDIO" + bytes([width]) + len(audio).to_bytes(width, "little") + audio
        written, at = b"", {}
        for key, content in contents.items():
            written += f"{key} ".encode()
            at[key] = len(written)
            written += content
        (tmp_path / "raw.ark").write_bytes(written)
        return tmp_path / "raw.ark", at, contents

    @pytest.mark.parametrize("key", ["plain", "law", "deep", "adpcm", "last", "FLAC", "OGG"])
    def test_an_entry_is_read_as_the_file_alone(self, ark, tmp_path, key):
        path, at, contents = ark
        audio = contents[key]
        if audio.startswith(b"AUDIO"):
            audio = audio[6 + audio[5] :]
        (tmp_path / "alone").write_bytes(audio)
        np.testing.assert_array_equal(read_channels(f"{path}:{at[key]}"), read_channels(tmp_path / "alone"))
        part = read_audio(f"{path}:{at[key]}#t=0.1,0.2")
        np.testing.assert_array_equal(part, read_audio(tmp_path / "alone", start=1600, num_samples=1600))

    def test_faults_name_the_ark_and_the_byte(self, ark, tmp_path):
        path, at, _ = ark
        whole = path.read_bytes()
        for place, reason in ((3, "is no wav file"), (len(whole) + 9, "is no wav file")):
            with pytest.raises(AudioError, match=f"raw.ark:{place}: .*{reason}"):
                read_audio(f"{path}:{place}")
        path.write_bytes(whole[:-100])
        with pytest.raises(AudioError, match=f"raw.ark:{at['OGG']}: truncated: 100 of its"):
            read_audio(f"{path}:{at['OGG']}")
        path.write_bytes(whole[: at["plain"] + 5000])
        with pytest.raises(AudioError, match=f"raw.ark:{at['plain']}: truncated"):
            read_audio(f"{path}:{at['plain']}")
        path.write_bytes(b"u \0BFM \4" + bytes(99))
        with pytest.raises(AudioError, match="is a matrix, such as features"):
            read_audio(f"{path}:2")
        with pytest.raises(AudioError, match=r"none.ark:2: no such file"):
            read_audio(tmp_path / "none.ark:2")

    def test_a_wav_file_without_a_length_is_refused_with_a_way_out_that_works(self, tmp_path):
        streamed = bytearray(encoded(NOISE))
        streamed[4:8] = streamed[40:44] = struct.pack("<I", 0x7FFFFFFF)
        path = tmp_path / "all of it.ark"
        path.write_bytes(b"u " + streamed)
        with pytest.raises(AudioError, match="states no length") as refused:
            read_audio(f"{path}:2")
        command = str(refused.value).split("`")[1]
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        np.testing.assert_array_equal(read_channels(tmp_path / "audio.wav").T, NOISE / np.float32(32768))

    def test_arks_of_kaldis_own_library_are_read_alike(self, ark, tmp_path):
        kaldi = pytest.importorskip("kaldi_native_io", reason="pip install kaldi-native-io")
        path, at, _ = ark
        (tmp_path / "wav.scp").write_text(f"plain {path}:{at['plain']}\nlast {path}:{at['last']}\n")
        with kaldi.SequentialWaveReader(f"scp:{tmp_path / 'wav.scp'}") as reader:
            for key, wave in reader:
                ours = read_channels(f"{path}:{at[key]}") * 32768
                np.testing.assert_array_equal(ours, np.asarray(wave.data.numpy()))
