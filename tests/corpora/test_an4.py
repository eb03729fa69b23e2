import pytest

from farvox.corpora.an4 import prepare_an4
from farvox.errors import CorpusError


def test_both_parts_have_ids_that_begin_with_the_speaker(tmp_path, record, notes):
    path = record(tmp_path / "an4/wav/an4_clstk/mkem/an190-mkem-b.wav")
    record(tmp_path / "an4/wav/an4test_clstk/fcaw/an406-fcaw-b.wav")
    train, test = prepare_an4(tmp_path / "an4", tmp_path / "out", note=notes.append)
    assert train.table.row(0) == ("mkem-an190-mkem-b", str(path), "mkem", 800)
    assert (test.path.name, test.speaker_ids.to_list()) == ("test", ["fcaw"])


def test_sphere_files_are_read_unless_they_were_converted(tmp_path, record, notes):
    record(tmp_path / "an4/wav/an4_clstk/fash/an251-fash-b.sph")
    record(tmp_path / "an4/wav/an4_clstk/fash/an253-fash-b.sph")
    record(tmp_path / "an4/wav/an4_clstk/fash/an253-fash-b.wav")
    (train,) = prepare_an4(tmp_path / "an4", tmp_path / "out", note=notes.append)
    assert [path.rsplit(".", 1)[1] for path in train.wav_paths] == ["sph", "wav"]
    assert train.num_samples.to_list() == [800, 800]


def test_the_folder_above_will_do_and_an_absent_part_is_a_note(tmp_path, record, notes):
    record(tmp_path / "downloads/an4/wav/an4_clstk/fash/an251-fash-b.wav")
    (train,) = prepare_an4(tmp_path / "downloads", tmp_path / "out", note=notes.append)
    assert len(train) == 1
    assert any("no part 'test'" in note for note in notes)


def test_a_part_of_raw_files_only_is_refused_with_what_was_expected(tmp_path, notes):
    raw = tmp_path / "an4/wav/an4_clstk/fash/an251-fash-b.raw"
    raw.parent.mkdir(parents=True)
    raw.write_bytes(bytes(100))
    with pytest.raises(CorpusError, match=r"an4_clstk: no audio found; expected <speaker>/\*\.wav or"):
        prepare_an4(tmp_path / "an4", tmp_path / "out", note=notes.append)


def test_another_tree_is_refused_with_what_was_expected(tmp_path, record, notes):
    record(tmp_path / "corpus/a.wav")
    with pytest.raises(CorpusError, match="not the AN4 corpus; expected wav/an4_clstk"):
        prepare_an4(tmp_path / "corpus", tmp_path / "out", note=notes.append)


def test_the_real_corpus_has_948_utterances_of_74_speakers(corpora, tmp_path, notes):
    (train,) = prepare_an4(corpora / "an4", tmp_path / "out", note=notes.append)
    assert (len(train), train.speaker_ids.n_unique()) == (948, 74)
    assert train.num_samples.sum() / 16000 / 3600 == pytest.approx(0.707, abs=0.001)
