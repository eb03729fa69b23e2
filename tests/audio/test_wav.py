import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.audio.files import open_audio, read_audio, read_channels
from farvox.audio.wav import HEAD_BYTES, pcm_header
from farvox.errors import AudioError


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
    assert (header.num_frames, header.sample_rate, header.num_channels) == (3000, rate, channels)
    theirs_TC, _ = soundfile.read(path, dtype="float32", always_2d=True)
    for channel in range(channels):
        ours_T = read_audio(path, start=start, num_samples=count, sample_rate=rate, channel=channel)
        np.testing.assert_array_equal(ours_T, theirs_TC[start : start + count, channel])
    np.testing.assert_array_equal(read_channels(path, sample_rate=rate), theirs_TC.T)


def test_other_chunks_before_the_samples_are_stepped_over():
    plain = wav_bytes(NOISE)
    junk = b"LIST" + struct.pack("<I", 5) + b"abcde\0"
    header = header_of(plain[:12] + junk + plain[12:])
    assert header.num_frames == 3000 and header.data_start == header_of(plain).data_start + len(junk)


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
def test_what_is_not_plain_is_left_to_others(content):
    assert header_of(content) is None


def test_a_header_longer_than_what_was_read_is_left_to_others(tmp_path):
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
