import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from farvox.audio.flac import DamagedFlacError, encode_flac, read_frames
from farvox.errors import AudioError


def noise(num_samples, num_channels=1):
    rng = np.random.default_rng(num_samples)
    swell_T = 0.02 + np.abs(np.sin(np.arange(num_samples) / 3000))
    return (rng.standard_normal((num_samples, num_channels)) * 5000 * swell_T[:, None]).astype(np.int16)


def read(content, num_samples, start, count):
    return read_frames(lambda at, n: content[at : at + n], len(content), num_samples, start, count)


@pytest.mark.parametrize("num_samples", [1, 15, 4095, 4096, 4097, 50_000])
@pytest.mark.parametrize("num_channels", [1, 2, 8])
def test_any_program_reads_the_file(num_samples, num_channels):
    pcm_TC = noise(num_samples, num_channels)
    content = encode_flac(pcm_TC, 16000)
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        assert file.samplerate == 16000
        np.testing.assert_array_equal(file.read(dtype="int16", always_2d=True), pcm_TC)
        file.seek(num_samples // 2)
        np.testing.assert_array_equal(file.read(10, "int16", always_2d=True), pcm_TC[num_samples // 2 :][:10])


@given(data=st.data(), num_samples=st.integers(1, 60_000), num_channels=st.integers(1, 2))
def test_any_part_is_that_of_the_whole(data, num_samples, num_channels):
    pcm_TC = noise(num_samples, num_channels)
    content = encode_flac(pcm_TC, 8000)
    start = data.draw(st.integers(0, num_samples - 1))
    count = data.draw(st.integers(1, num_samples - start))
    part_TC = read(content, num_samples, start, count)
    np.testing.assert_array_equal(part_TC * 32768, pcm_TC[start : start + count])


def test_frames_are_found_where_their_numbers_have_many_digits():
    """Frame numbers take one byte up to 127, two to 2047, three beyond."""
    pcm_TC = np.resize(noise(16_000), (4096 * 2060, 1))
    content = encode_flac(pcm_TC, 16000)
    for frame in (0, 126, 127, 128, 2046, 2047, 2048, 2059):
        start = frame * 4096
        np.testing.assert_array_equal(
            read(content, len(pcm_TC), start, 4096) * 32768, pcm_TC[start : start + 4096]
        )


def test_only_the_frames_of_the_part_are_read():
    pcm_TC = noise(16_000 * 60)
    content, asked = encode_flac(pcm_TC, 16000), []

    def bytes_of(at, length):
        asked.append(length)
        return content[at : at + length]

    read_frames(bytes_of, len(content), len(pcm_TC), 16_000 * 30, 32_000)
    assert sum(asked) < len(content) * 2.7 / 60


def test_every_bit_that_is_turned_in_a_frame_is_found():
    pcm_TC = noise(20_000)
    content = encode_flac(pcm_TC, 16000)
    begin = content.index(b"\xff\xf8")
    rng = np.random.default_rng(0)
    for at in rng.integers(begin, len(content), 200):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(DamagedFlacError):
            read(bytes(damaged), len(pcm_TC), 0, len(pcm_TC))


@pytest.mark.parametrize("head", [b"", b"RIFF" + bytes(42), b"fLaC" + bytes(60)])
def test_other_files_are_refused_as_damaged_flac(head):
    with pytest.raises(DamagedFlacError):
        read(head, 1000, 0, 10)


def test_nine_channels_are_too_many():
    with pytest.raises(AudioError, match="8 channels at most, not 9"):
        encode_flac(noise(100, 9), 16000)


def test_a_rate_that_flac_does_not_know_is_refused():
    with pytest.raises(AudioError, match=r"cannot be flac .*; use wav"):
        encode_flac(noise(100), 3_000_000)
