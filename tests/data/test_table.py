import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.data.table import StringTable, TrainingTable
from farvox.errors import DataDirError


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
