import pytest

from farvox.corpora.threedspeaker import prepare_3dspeaker
from farvox.datadir.check import check_data_dir
from farvox.datadir.conditions import read_conditions
from farvox.errors import CorpusError
from farvox.score.trials import read_trials

NAMES = ("001_Device03_Distance00_Dialect00", "001_Device06_Distance07_Dialect02")
TRIALS = f"3D_SPK_06154_{NAMES[0]} 3D_SPK_06154_{NAMES[1]} target\n"


@pytest.fixture
def corpus(tmp_path, record):
    """Two parts by speaker, and the lists in a folder of their own."""
    root = tmp_path / "raw/3dspeaker"
    for part, speakers in (("train", ("3D_SPK_00001", "3D_SPK_00002")), ("test", ("3D_SPK_06154",))):
        for speaker in speakers:
            for name in NAMES:
                record(root / part / speaker / f"{speaker}_{name}.wav")
    (root / "files").mkdir()
    for kind in ("device", "distance", "dialect"):
        (root / f"files/trials_cross_{kind}").write_text(TRIALS)
    return tmp_path / "raw"


def test_both_parts_have_speakers_and_conditions(corpus, tmp_path, notes):
    train, test = prepare_3dspeaker(corpus, tmp_path / "out", note=notes.append)
    assert (len(train), sorted(set(train.speaker_ids))) == (4, ["3D_SPK_00001", "3D_SPK_00002"])
    assert set(test.speaker_ids) == {"3D_SPK_06154"}
    table = read_conditions(test.path)
    assert table.columns == ["utt_id", "utterance", "device", "distance", "dialect"]
    assert [row[1:] for row in table.rows()] == [("001", "03", "00", "00"), ("001", "06", "07", "02")]
    assert [fault for made in (train, test) for fault in check_data_dir(made.path)] == []


def test_trial_lists_are_copied_to_the_test_part(corpus, tmp_path, notes):
    train, test = prepare_3dspeaker(corpus, tmp_path / "out", note=notes.append)
    for kind in ("device", "distance", "dialect"):
        assert read_trials(test.path / f"trials_cross_{kind}").resolve(test.utt_ids).target.tolist() == [1]
    assert not list(train.path.glob("trials*"))


def test_absent_parts_and_lists_are_a_note(corpus, tmp_path, notes):
    (corpus / "3dspeaker/files/trials_cross_device").unlink()
    (corpus / "3dspeaker/train").rename(corpus / "elsewhere")
    (made,) = prepare_3dspeaker(corpus, tmp_path / "out", note=notes.append)
    assert made.path.name == "test"
    assert any("no folder train" in note for note in notes)
    assert any("no trials_cross_device" in note for note in notes)


def test_another_corpus_is_refused(corpus, tmp_path, record, notes):
    with pytest.raises(CorpusError, match="not the 3D-Speaker corpus; expected train/ or test/"):
        prepare_3dspeaker(corpus / "3dspeaker/files", tmp_path / "out", note=notes.append)
    record(corpus / "3dspeaker/test/a/x.wav")
    with pytest.raises(CorpusError, match=r"x\.wav: not a name of 3D-Speaker; expected"):
        prepare_3dspeaker(corpus, tmp_path / "out", note=notes.append)
    (tmp_path / "packed/test").mkdir(parents=True)
    with pytest.raises(CorpusError, match=r"no \.wav file at any depth"):
        prepare_3dspeaker(tmp_path / "packed", tmp_path / "out", note=notes.append)
