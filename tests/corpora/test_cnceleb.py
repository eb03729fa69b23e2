import numpy as np
import pytest

from farvox.corpora.cnceleb import prepare_cnceleb
from farvox.datadir.check import check_data_dir
from farvox.datadir.conditions import read_conditions
from farvox.errors import CorpusError
from farvox.score.sides import read_side_map
from farvox.score.trials import read_trials


@pytest.fixture
def corpus(tmp_path, record):
    """Both releases side by side, as they unpack."""
    root = tmp_path / "celeb"
    for speaker in ("id00000", "id00001", "id00800"):
        for name in ("singing-01-001", "live_broadcast-02-003"):
            record(root / f"CN-Celeb_flac/data/{speaker}/{name}.flac")
    record(root / "CN-Celeb2_flac/data/id10000/vlog-01-001.flac")
    evaluation = root / "CN-Celeb_flac/eval"
    for name in ("enroll/id00800-enroll", "enroll/id00801-enroll", "test/id00800-singing-01-005"):
        record(evaluation / f"{name}.flac")
    (evaluation / "lists").mkdir()
    (evaluation / "lists/trials.lst").write_text(
        "id00800-enroll test/id00800-singing-01-005.wav 1\nid00801-enroll test/id00800-singing-01-005.wav 0\n"
    )
    return root


def test_both_releases_and_the_evaluation_become_data_dirs(corpus, tmp_path, notes):
    made = prepare_cnceleb(corpus, tmp_path / "out", note=notes.append)
    assert [(each.path.name, len(each)) for each in made] == [
        ("cnceleb1_dev", 4), ("cnceleb2_dev", 1), ("eval", 3),
    ]  # fmt: skip
    assert set(made[0].speaker_ids) == {"id00000", "id00001"}
    assert set(made[2].speaker_ids) == {"id00800", "id00801"}
    assert any("2 files of evaluation speakers below data/ stay out" in note for note in notes)
    assert [fault for each in made for fault in check_data_dir(each.path)] == []


def test_genres_are_conditions(corpus, tmp_path, notes):
    prepare_cnceleb(corpus, tmp_path / "out", note=notes.append)
    assert read_conditions(tmp_path / "out/cnceleb1_dev").row(0) == (
        "id00000-live_broadcast-02-003", "live_broadcast", "02", "003",
    )  # fmt: skip
    assert read_conditions(tmp_path / "out/eval").row(0) == ("id00800-enroll", "", "", "")


def test_the_trials_name_utterances_of_the_data_dir(corpus, tmp_path, notes):
    evaluation = prepare_cnceleb(corpus, tmp_path / "out", note=notes.append)[2]
    assert read_trials(evaluation.path / "trials").resolve(evaluation.utt_ids).target.tolist() == [1, 0]


def test_the_averaged_protocol_takes_the_recordings_that_the_enrolments_were_joined_of(
    corpus, tmp_path, notes
):
    (corpus / "CN-Celeb_flac/eval/lists/enroll.map").write_text(
        "id00800-enroll id00800/singing-01-001.wav id00800/live_broadcast-02-003.wav\n"
    )
    made = prepare_cnceleb(corpus, tmp_path / "out", note=notes.append)
    evaluation = made[2]
    assert (len(made[0]), len(evaluation)) == (4, 5)  # neither is in the development part
    assert not any("stay out" in note for note in notes)
    trials = read_trials(evaluation.path / "trials")
    enrol_map = read_side_map(evaluation.path / "enrol_map")
    resolved = trials.resolve(evaluation.utt_ids, enrol_map=enrol_map)
    of_side = np.split(resolved.side_rows, resolved.side_offsets[1:-1])
    names = [[resolved.utt_ids[row] for row in rows] for rows in of_side]
    assert names[resolved.enrol_side[0]] == ["id00800-singing-01-001", "id00800-live_broadcast-02-003"]
    assert names[resolved.enrol_side[1]] == ["id00801-enroll"]
    assert read_side_map(corpus / "CN-Celeb_flac/eval/lists/enroll.map").keys() == enrol_map.keys()


def test_a_map_whose_recordings_are_not_there_is_noted_and_left_out(corpus, tmp_path, notes):
    enrol_map = corpus / "CN-Celeb_flac/eval/lists/enroll.map"
    enrol_map.write_text("id00800-enroll id00800/singing-09-001.wav\n")
    made = prepare_cnceleb(corpus, tmp_path / "out", note=notes.append)
    assert not (made[2].path / "enrol_map").exists()
    assert any("1 recordings of enrolments are not below data/" in note for note in notes)
    enrol_map.write_text("id00800-enroll\n")
    with pytest.raises(CorpusError, match=r"enroll\.map:1: 'id00800-enroll'; expected"):
        prepare_cnceleb(corpus, tmp_path / "out", note=notes.append)


def test_one_release_alone_is_noted_and_prepared(corpus, tmp_path, notes):
    (made,) = prepare_cnceleb(corpus / "CN-Celeb2_flac", tmp_path / "out", note=notes.append)
    assert made.path.name == "cnceleb2_dev"
    assert any("nothing for eval" in note for note in notes)


def test_what_does_not_fit_is_refused(corpus, tmp_path, record, notes):
    (corpus / "CN-Celeb_flac/eval/lists/trials.lst").write_text("id00800-enroll 1\n")
    with pytest.raises(CorpusError, match=r"trials\.lst:1: 'id00800-enroll 1'; expected"):
        prepare_cnceleb(corpus, tmp_path / "out", note=notes.append)
    record(tmp_path / "other/a.wav")
    with pytest.raises(CorpusError, match="not the CN-Celeb corpus; expected data/id00000"):
        prepare_cnceleb(tmp_path / "other", tmp_path / "out", note=notes.append)
