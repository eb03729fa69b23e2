import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.audio.files import audio_info, read_audio, read_channels
from farvox.audio.shards import Entry, Member, PackedFile, ShardTable, encode, state_of, table_of
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


def test_files_have_a_state_and_entries_have_none(tmp_path):
    (tmp_path / "a").write_bytes(b"12")
    assert state_of(str(tmp_path / "a")).startswith("2\t")
    assert state_of("away.tar:wav:0:1000:100:16000:1") == state_of("s3://bucket/a.wav") == ""
    with pytest.raises(FileNotFoundError):
        state_of(str(tmp_path / "b"))
