import pickle

import numpy as np
import pytest

import farvox.audio.mapped
from farvox.audio.files import read_audio, write_audio
from farvox.audio.mapped import map_audio
from farvox.errors import AudioError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    for name, length in (("a.wav", 5000), ("b.flac", 300), ("c.wav", 8001)):
        write_audio(tmp_path / name, 0.2 * rng.standard_normal(length))
    return [str(tmp_path / name) for name in ("b.flac", "c.wav", "a.wav")]


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_crops_are_those_of_the_files(kind, paths):
    packed = map_audio(paths, sample_rate=16000, kind=kind)
    assert [packed.length(index) for index in range(3)] == [300, 8001, 5000]
    for index, path in enumerate(paths):
        np.testing.assert_array_equal(packed.crop(index), read_audio(path))
        np.testing.assert_array_equal(
            packed.crop(index, 100, 50), read_audio(path, start=100, num_samples=50)
        )
        np.testing.assert_array_equal(packed.crop(index, 200, 9000), read_audio(path)[200:])


def test_files_of_another_rate_are_resampled_whole(paths):
    packed = map_audio(paths, sample_rate=8000, kind="float32")
    np.testing.assert_array_equal(packed.crop(1), read_audio(paths[1], sample_rate=8000))


def test_floats_beyond_one_are_kept_as_floats_and_clipped_as_integers(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "loud.wav", np.float32([0.5, -3.0, 3.0]), 16000, subtype="FLOAT")
    loud = [str(tmp_path / "loud.wav")]
    assert list(map_audio(loud, sample_rate=16000, kind="float32").crop(0)) == [0.5, -3.0, 3.0]
    assert list(map_audio(loud, sample_rate=16000).crop(0)) == pytest.approx([0.5, -1.0, 1.0], abs=1e-4)


def test_a_pack_travels_by_its_name(paths):
    packed = map_audio(paths, sample_rate=16000)
    content = pickle.dumps(packed)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).crop(1), packed.crop(1))


def test_a_file_that_changed_is_packed_again(paths):
    before = map_audio(paths, sample_rate=16000)
    write_audio(paths[0], np.full(400, 0.25))
    after = map_audio(paths, sample_rate=16000)
    assert after.length(0) == 400 and after.folder != before.folder
    assert before.length(0) == 300, "who has the old one open keeps it"


def test_a_file_that_cannot_be_read_is_named(paths, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    for path, fault in ((tmp_path / "bad.wav", "cannot be read"), (tmp_path / "no.wav", "no such file")):
        with pytest.raises(AudioError, match=rf"{path.name}: {fault}"):
            map_audio([*paths, str(path)], sample_rate=16000)


def test_without_room_there_is_no_pack(paths, monkeypatch, capsys):
    monkeypatch.setattr(farvox.audio.mapped, "_SPARE_BYTES", 1 << 62)
    assert map_audio(paths, sample_rate=16000) is None
    assert "not packed: " in capsys.readouterr().err


def test_without_a_cache_there_is_no_pack(paths, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "file"))
    assert map_audio(paths, sample_rate=16000) is None
    assert "cannot be written" in capsys.readouterr().err
