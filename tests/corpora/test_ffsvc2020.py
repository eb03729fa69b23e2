import shutil
from pathlib import Path

import pytest

from farvox.corpora.ffsvc2020 import prepare_ffsvc2020
from farvox.datadir.check import check_data_dir
from farvox.datadir.conditions import read_conditions
from farvox.errors import CorpusError
from farvox.score.trials import read_trials

CELLS = (
    "I0.25M_1", "MIC_Tr2", "PCM1M_recorded2", "PCML3M_recorded6", "PCM-1.5M_recorded14", "PAD5M_1",
)  # fmt: skip
TRIALS = (
    "F0549_549I0.25M_1_0001_normal.wav S0549_549PCM1M_recorded2_0001_normal.wav target\n"
    "F0549_549I0.25M_1_0001_normal.wav S0550_550PCM1M_recorded2_0001_normal.wav nontarget\n"
)


def record_speakers(record, folder: Path, speakers, visits="FS") -> None:
    for speaker in speakers:
        for visit in visits:
            for cell in CELLS:
                cell_folder = folder / f"{visit}{speaker}/{speaker[1:]}{cell.split('_')[0]}"
                record(cell_folder / f"{visit}{speaker}_{speaker[1:]}{cell}_0001_normal.wav")


@pytest.fixture
def ffsvc(tmp_path, record) -> Path:
    """The corpus as it unpacks: wav/dev/T0549/549PCM5M/..., the supplement by visit beside it."""
    root = tmp_path / "ffsvc"
    record_speakers(record, root / "ffsvc2020_data/wav/train", ("0001", "0002"))
    record_speakers(record, root / "ffsvc2020_data/wav/dev", ("0549", "0550"))
    for name in ("enrol_1", "test_1"):
        record(root / f"ffsvc2020_data/wav/eval/{name}.wav")
    for visit in "FST":
        record_speakers(record, root / f"FFSVC2020_supplement/{visit}", ("0344",), visit)
    (root / "ffsvc2020_data/trials/task1").mkdir(parents=True)
    (root / "ffsvc2020_data/trials/task1/trials_dev_keys").write_text(TRIALS)
    (root / "ffsvc2020_data/wav/eval/trials.txt").write_text("enrol_1.wav test_1.wav\n")
    return root


def test_each_part_becomes_a_data_dir_of_its_own(ffsvc, tmp_path, notes):
    made = prepare_ffsvc2020(ffsvc, tmp_path / "out", note=notes.append)
    assert [each.path.name for each in made] == ["train", "dev", "eval", "supplement"]
    assert [len(each) for each in made] == [24, 24, 2, 18]
    assert [sorted(set(each.speaker_ids.drop_nulls())) for each in made] == [
        ["0001", "0002"], ["0549", "0550"], [], ["0344"],
    ]  # fmt: skip
    for each in made:
        assert list(check_data_dir(each.path)) == []


def test_the_conditions_are_those_of_the_names(ffsvc, tmp_path, notes):
    prepare_ffsvc2020(ffsvc, tmp_path / "out", note=notes.append)
    table = read_conditions(tmp_path / "out/supplement")
    assert table.columns == [
        "utt_id", "visit", "speaker", "device", "distance", "channel", "utterance", "text_dependence",
        "speed",
    ]  # fmt: skip
    assert len(table) == 18
    rows = {row[0]: row[1:] for row in table.rows()}
    assert rows["F0344_344PCML3M_recorded6_0001_normal"] == (
        "F", "0344", "PCM", "L3M", "recorded6", "0001", "TD", "normal",
    )  # fmt: skip
    assert not (tmp_path / "out/eval/utt2cond").exists()
    assert any("eval: its names are not of the form" in note for note in notes)


def test_trial_lists_are_copied_to_their_part_as_they_are(ffsvc, tmp_path, notes):
    _, dev, evaluation, _ = prepare_ffsvc2020(ffsvc, tmp_path / "out", note=notes.append)
    assert (dev.path / "trials_dev_keys").read_text() == TRIALS
    resolved = read_trials(dev.path / "trials_dev_keys").resolve(dev.utt_ids)
    assert resolved.target.tolist() == [1, 0]
    assert len(read_trials(evaluation.path / "trials.txt").resolve(evaluation.utt_ids)) == 1


def test_lists_of_one_name_are_told_apart_by_their_folder(ffsvc, tmp_path, notes):
    for task in ("task1", "task2"):
        (ffsvc / f"dev/{task}").mkdir(parents=True)
        (ffsvc / f"dev/{task}/trials").write_text(TRIALS)
    prepare_ffsvc2020(ffsvc, tmp_path / "out", note=notes.append)
    assert {path.name for path in (tmp_path / "out/dev").glob("*trials*")} == {
        "trials_dev_keys", "task1_trials", "task2_trials",
    }  # fmt: skip


def test_one_part_may_be_prepared_alone(ffsvc, tmp_path, notes):
    (made,) = prepare_ffsvc2020(ffsvc / "FFSVC2020_supplement", tmp_path / "out", note=notes.append)
    assert (made.path.name, len(made)) == ("supplement", 18)
    assert any("no part 'train'" in note for note in notes)


def test_a_folder_train_in_the_supplement_is_still_the_supplement(ffsvc, tmp_path, notes):
    supplement = ffsvc / "FFSVC2020_supplement"
    shutil.move(supplement / "F", supplement / "train")
    made = prepare_ffsvc2020(supplement, tmp_path / "out", note=notes.append)
    assert [(each.path.name, len(each)) for each in made] == [("supplement", 18)]


def test_a_stray_file_among_named_ones_is_refused(ffsvc, tmp_path, record, notes):
    record(ffsvc / "ffsvc2020_data/wav/train/noise.wav")
    with pytest.raises(CorpusError, match=r"train/noise\.wav: its name is not of the form .*24 files"):
        prepare_ffsvc2020(ffsvc, tmp_path / "out", note=notes.append)


def test_audio_in_no_part_is_refused(ffsvc, tmp_path, record, notes):
    record(ffsvc / "more/a.wav")
    with pytest.raises(CorpusError, match=r"a\.wav: lies in no folder named after a part; expected folders"):
        prepare_ffsvc2020(ffsvc, tmp_path / "out", note=notes.append)


def test_a_folder_without_audio_is_refused_with_what_was_expected(tmp_path, notes):
    (tmp_path / "train").mkdir()
    with pytest.raises(CorpusError, match="not the FFSVC2020 corpus; expected folders named train"):
        prepare_ffsvc2020(tmp_path, tmp_path / "out", note=notes.append)


def test_a_trial_list_of_no_part_is_a_note(ffsvc, tmp_path, notes):
    (ffsvc / "trials_all").write_text(TRIALS)
    prepare_ffsvc2020(ffsvc, tmp_path / "out", note=notes.append)
    assert any("trials_all: neither its name nor its folder" in note for note in notes)
