import io
import os

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from farvox.audio.files import audio_info, read_audio, read_channels
from farvox.audio.shards import (
    DamagedFlacError,
    Entry,
    Member,
    PackedFile,
    ShardTable,
    encode,
    encode_flac,
    read_frames,
    state_of,
    table_of,
)
from farvox.errors import AudioError


@given(
    shard=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(lambda name: f"{name}.tar"),
    kind=st.sampled_from(["wav", "flac"]),
    numbers=st.lists(st.integers(0, 10**12), min_size=5, max_size=5),
)
def test_an_entry_of_wav_scp_is_read_as_it_was_written(shard, kind, numbers):
    packed = PackedFile(shard, Member(kind, *numbers))
    assert PackedFile.parse(str(packed)) == packed


@pytest.mark.parametrize(
    "path", ["a.wav", "a.tar", "a.tar:b.wav", "a.tar:wav:1:2:3:4", "a.tar:mp3:1:2:3:4:5"]
)
def test_other_paths_are_no_entries(path):
    assert PackedFile.parse(path) is None


@pytest.fixture
def placed(tmp_path):
    """A function that puts a file somewhere into a shard."""

    def place(pcm_TC, kind, rate=16000):
        content = encode(pcm_TC, rate, kind)
        number = len(os.listdir(tmp_path))
        shard = tmp_path / f"{number}.tar"
        shard.write_bytes(bytes(512) + content + bytes(1000))
        return PackedFile(str(shard), Member(kind, 512, len(content), len(pcm_TC), rate, pcm_TC.shape[1]))

    return place


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_the_reader_of_audio_reads_entries(placed, kind):
    pcm_TC = np.random.default_rng(0).integers(-9000, 9000, (10_000, 2)).astype(np.int16)
    path = str(placed(pcm_TC, kind))
    info = audio_info(path)
    assert (info.num_samples, info.sample_rate, info.num_channels) == (10_000, 16000, 2)
    np.testing.assert_array_equal(read_channels(path) * 32768, pcm_TC.T)
    np.testing.assert_array_equal(
        read_audio(path, start=7, num_samples=5000, channel=1) * 32768, pcm_TC[7:5007, 1]
    )
    assert len(read_audio(path, start=9990, num_samples=100)) == 10
    assert len(read_audio(path, start=20_000, num_samples=100)) == 0
    with pytest.raises(AudioError, match="has no channel 2"):
        read_audio(path, channel=2)


def test_another_rate_is_resampled(placed):
    pcm_TC = (3000 * np.sin(np.arange(8000)[:, None] / 10)).astype(np.int16)
    assert len(read_audio(str(placed(pcm_TC, "wav", 8000)))) == 16_000


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_shard_that_is_cut_short_is_named(placed, kind):
    packed = placed(np.random.default_rng(0).integers(-9000, 9000, (10_000, 1)).astype(np.int16), kind)
    os.truncate(packed.shard, packed.member.num_bytes // 2)
    with pytest.raises(AudioError, match=r"0\.tar:.*cut short"):
        packed.read(9000, 1000)


def test_a_shard_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AudioError, match=r"away\.tar: no such file"):
        read_audio(f"{tmp_path}/away.tar:wav:0:1000:100:16000:1")
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(AudioError, match=r"folder\.tar: cannot be read"):
        read_audio(f"{tmp_path}/folder.tar:wav:0:1000:100:16000:1")


def test_more_shards_than_are_kept_open(placed, monkeypatch):
    """Handles that are given up are closed, also while other threads read."""
    from multiprocessing.pool import ThreadPool

    files = [placed(np.full((5000, 1), number, np.int16), "wav") for number in range(300)]
    with ThreadPool(8) as pool:
        found = pool.map(lambda number: float(files[number].read(100, 50).mean()) * 32768, [*range(300)] * 4)
    assert found == [*range(300)] * 4
    assert len(os.listdir("/proc/self/fd")) < 300 if os.path.isdir("/proc/self/fd") else True


def test_a_relative_path_is_that_of_the_current_folder(tmp_path, monkeypatch):
    for number, name in enumerate(("a", "b"), 1):
        pcm_TC = np.full((4000, 1), number, np.int16)
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        (tmp_path / name / "x.tar").write_bytes(encode(pcm_TC, 16000, "wav"))
        packed = PackedFile("x.tar", Member("wav", 0, 8044, 4000, 16000, 1))
        assert read_audio(str(packed))[0] * 32768 == number


def test_a_table_is_read_as_it_was_written(tmp_path):
    shard = str(tmp_path / "x.tar")
    assert ShardTable.read(shard) is None
    member = Member("wav", 512, 100, 28, 16000, 1)
    table = ShardTable(2048, [Entry("ä", member, 123, 0, 0)], {"b": 'is "bad"'})
    (tmp_path / "x.json").write_text(table.text(), "utf-8")
    assert ShardTable.read(shard) == table
    (tmp_path / "x.json").write_text(table.text()[:-10], "utf-8")
    assert ShardTable.read(shard) is None
    assert table_of("s3://b/x.tar") == "s3://b/x.json"


def test_files_and_entries_have_a_state(tmp_path):
    """An entry has that of its shard's name, which follows from its content: nothing is looked at."""
    (tmp_path / "a").write_bytes(b"12")
    assert state_of(str(tmp_path / "a")).startswith("2\t")
    entry = ":wav:0:1000:100:16000:1"
    here, there, other = (state_of(f"{shard}{entry}") for shard in ("a.tar", "s3://bucket/a.tar", "b.tar"))
    assert here == there != other
    with pytest.raises(FileNotFoundError):
        state_of(str(tmp_path / "b"))


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
