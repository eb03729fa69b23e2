import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.errors import DataDirError
from farvox.training.table import StringTable, TrainingTable


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_a_string_table_gives_back_its_strings(strings):
    table = StringTable.of(pl.Series(strings))
    assert [table[row] for row in range(len(table))] == strings


def test_a_table_has_the_rows_of_its_dirs_in_order_and_one_list_of_speakers(corpus):
    table = TrainingTable.open([corpus / "train", corpus / "more"])
    assert table.speaker_names == ("a0", "s0", "s1", "s2", "s3", "s4", "s5", "t9")
    assert len(table) == 34 and (np.bincount(table.domains_N) == [24, 10]).all()
    for row in range(len(table)):
        assert table.utt_ids[row].startswith(table.speaker_names[table.speakers_N[row]])
        assert table.wav_paths[row].endswith(f"/{table.utt_ids[row]}.wav")


def test_a_table_is_read_once_and_then_mapped(corpus):
    dirs = [corpus / "train", corpus / "more"]
    first, again, read = TrainingTable.open(dirs), TrainingTable.open(dirs), TrainingTable.read(dirs, True)
    assert first.folder == again.folder is not None and read.folder is None
    assert first.fingerprint() == again.fingerprint() == read.fingerprint()
    assert first.speaker_names == read.speaker_names
    assert [first.wav_paths[row] for row in range(34)] == [read.wav_paths[row] for row in range(34)]


def test_a_mapped_table_travels_by_its_name(corpus):
    table = TrainingTable.open([corpus / "train"])
    content = pickle.dumps(table)
    assert len(content) < 500 < len(pickle.dumps(TrainingTable.read([corpus / "train"], True)))
    assert pickle.loads(content).fingerprint() == table.fingerprint()


def test_a_data_dir_that_changed_is_read_again(tmp_path, make_corpus):
    make_corpus(tmp_path, speakers=["a", "b"], takes=2)
    before = TrainingTable.open([tmp_path])
    lines = (tmp_path / "utt2spk").read_text().replace(" a", " c")
    (tmp_path / "utt2spk").write_text(lines)
    (tmp_path / "spk2utt").unlink()
    assert TrainingTable.open([tmp_path]).speaker_names == ("b", "c")
    assert before.speaker_names == ("a", "b") and before.utt_ids[3] == "b_1"


def test_without_a_cache_the_table_is_in_memory(corpus, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "file"))
    table = TrainingTable.open([corpus / "train"])
    assert table.folder is None and len(table) == 24
    assert pickle.loads(pickle.dumps(table)).fingerprint() == table.fingerprint()


def test_a_fingerprint_changes_with_the_utterances_and_their_speakers(corpus):
    train, more = corpus / "train", corpus / "more"
    prints = [
        TrainingTable.open(dirs).fingerprint() for dirs in ([train], [train], [train, more], [more, train])
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_a_dir_that_does_not_say_who_speaks_is_refused(tmp_path):
    (tmp_path / "wav.scp").write_text("a /a.wav\nb /b.wav\n")
    with pytest.raises(DataDirError, match=r"'a' has no speaker \(2 of 2.*farvox check"):
        TrainingTable.open([tmp_path])
    assert TrainingTable.open([tmp_path], labelled=False).speaker_names == ("unlabelled",)
    with pytest.raises(DataDirError, match=r"set data\.train"):
        TrainingTable.open([])
