import pytest

from farvox.corpora.voices import prepare_voices
from farvox.datadir.check import check_data_dir
from farvox.datadir.conditions import read_conditions
from farvox.errors import CorpusError

SAID = "sp0307-ch127535-sg0042"


@pytest.fixture
def corpus(tmp_path, record):
    """The devkit's folders: what was played, what was heard, and room responses."""
    root = tmp_path / "VOiCES_devkit"
    for split, speaker in (("train", "sp0307"), ("test", "sp0083")):
        said = SAID.replace("sp0307", speaker)
        record(root / f"source-16k/{split}/{speaker}/Lab41-SRI-VOiCES-src-{said}.wav")
        for noise in ("none", "babb"):
            name = f"Lab41-SRI-VOiCES-rm1-{noise}-{said}-mc05-stu-far-dg090"
            record(root / f"distant-16k/speech/{split}/rm1/{noise}/{speaker}/{name}.wav")
    record(root / "distant-16k/room-response/rm1/impulse/Lab41-SRI-VOiCES-rm1-impulse-mc01-stu-clo.wav")
    return root


def test_what_was_played_and_what_was_heard_become_data_dirs(corpus, tmp_path, notes):
    made = prepare_voices(corpus, tmp_path / "out", note=notes.append)
    assert [(each.path.name, len(each)) for each in made] == [
        ("distant_test", 2), ("distant_train", 2), ("source_test", 1), ("source_train", 1),
    ]  # fmt: skip
    assert set(made[1].speaker_ids) == {"sp0307"}
    assert any("1 audio files of other names (room responses, ...) were left out" in note for note in notes)
    assert [fault for each in made for fault in check_data_dir(each.path)] == []


def test_rooms_noises_and_microphones_are_conditions(corpus, tmp_path, notes):
    prepare_voices(corpus, tmp_path / "out", note=notes.append)
    table = read_conditions(tmp_path / "out/distant_train")
    assert table.columns == [
        "utt_id", "room", "noise", "chapter", "segment", "microphone", "type", "position", "angle",
    ]  # fmt: skip
    assert table.row(0)[1:] == ("rm1", "babb", "127535", "0042", "05", "stu", "far", "090")
    assert read_conditions(tmp_path / "out/source_train").row(0)[1:] == (
        "", "", "127535", "0042", "", "", "", "",
    )  # fmt: skip


def test_without_a_split_there_are_two_parts(corpus, tmp_path, record, notes):
    record(tmp_path / f"flat/a/Lab41-SRI-VOiCES-src-{SAID}.wav")
    record(tmp_path / f"flat/b/Lab41-SRI-VOiCES-rm4-tele-{SAID}-mc12-lav-beh-dg000.wav")
    made = prepare_voices(tmp_path / "flat", tmp_path / "out", note=notes.append)
    assert [each.path.name for each in made] == ["distant", "source"]


def test_another_corpus_is_refused(tmp_path, record, notes):
    record(tmp_path / "other/a.wav")
    with pytest.raises(CorpusError, match="not the VOiCES corpus; expected source-16k"):
        prepare_voices(tmp_path / "other", tmp_path / "out", note=notes.append)
