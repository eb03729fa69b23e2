import shutil
import time
from pathlib import Path

import polars as pl
import pytest

from farvox.corpora.ffsvc import NAME_CONDITIONS as CONDITIONS
from farvox.corpora.ffsvc import parse_names, prepare_ffsvc2020, prepare_ffsvc2022
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
    (tmp_path / "in/train").mkdir(parents=True)
    with pytest.raises(CorpusError, match="not the FFSVC2020 corpus; expected folders named train"):
        prepare_ffsvc2020(tmp_path / "in", tmp_path / "out", note=notes.append)


def test_a_trial_list_of_no_part_is_a_note(ffsvc, tmp_path, notes):
    (ffsvc / "trials_all").write_text(TRIALS)
    prepare_ffsvc2020(ffsvc, tmp_path / "out", note=notes.append)
    assert any("trials_all: neither its name nor its folder" in note for note in notes)


ORIGINALS = (
    "T0344_344I0.25M_1_0307_normal", "F0344_344PCM3M_recorded2_0001_fast", "S0345_345PAD1M_1_0040_slow",
)  # fmt: skip


@pytest.fixture
def ffsvc2022(tmp_path, record) -> Path:
    """Development and evaluation files, the published lists beside them."""
    root = tmp_path / "FFSVC2022"
    for number in range(3):
        record(root / f"dev/dev/ffsvc22_dev_{number:06}.wav")
        record(root / f"eval/ffsvc22_eval_{number:06}.wav")
    lines = [f"{name} ffsvc22_dev_{number:06}\n" for number, name in enumerate(ORIGINALS)]
    (root / "dev_meta_list").write_text("Original_Name FFSVC2022_Name\n" + "".join(lines))
    (root / "trials_dev_keys").write_text(
        "1 ffsvc22_dev_000000.wav ffsvc22_dev_000001.wav\n0 ffsvc22_dev_000000.wav ffsvc22_dev_000002.wav\n"
    )
    (root / "trials_dev").write_text("ffsvc22_dev_000000.wav ffsvc22_dev_000001.wav\n")
    (root / "trials_eval").write_text("ffsvc22_eval_000000.wav ffsvc22_eval_000002.wav\n")
    return root


def test_development_files_get_speakers_and_conditions_from_the_list(ffsvc2022, tmp_path, notes):
    dev, evaluation = prepare_ffsvc2022(ffsvc2022, tmp_path / "out", note=notes.append)
    assert dev.table["utt_id"].to_list() == [f"ffsvc22_dev_{number:06}" for number in range(3)]
    assert dev.speaker_ids.to_list() == ["0344", "0344", "0345"]
    assert evaluation.speaker_ids.null_count() == len(evaluation) == 3
    table = read_conditions(dev.path)
    assert table["original"].to_list() == list(ORIGINALS)
    assert table["distance"].to_list() == ["0.25M", "3M", "1M"]
    assert table["text_dependence"].to_list() == ["TI", "TD", "semi-TD"]
    assert not (evaluation.path / "utt2cond").exists()
    assert [fault for made in (dev, evaluation) for fault in check_data_dir(made.path)] == []


def test_trial_lists_are_copied_as_they_are_and_can_be_read(ffsvc2022, tmp_path, notes):
    made = prepare_ffsvc2022(ffsvc2022, tmp_path / "out", note=notes.append)
    for part, name, target in (
        (made[0], "trials_dev_keys", [1, 0]), (made[0], "trials_dev", None), (made[1], "trials_eval", None),
    ):  # fmt: skip
        assert (part.path / name).read_bytes() == (ffsvc2022 / name).read_bytes()
        resolved = read_trials(part.path / name).resolve(part.utt_ids)
        assert (None if resolved.target is None else resolved.target.tolist()) == target


def test_the_columns_of_the_list_may_be_in_either_order_with_suffixes(ffsvc2022, tmp_path, notes):
    lines = [f"ffsvc22_dev_{number:06}.wav\t{name}.wav\n" for number, name in enumerate(ORIGINALS)]
    (ffsvc2022 / "dev_meta_list").write_text("".join(lines))
    dev, _ = prepare_ffsvc2022(ffsvc2022, tmp_path / "out", note=notes.append)
    assert read_conditions(dev.path)["original"].to_list() == list(ORIGINALS)


def test_absent_parts_and_lists_are_a_note(ffsvc2022, tmp_path, record, notes):
    (ffsvc2022 / "dev_meta_list").unlink()
    (ffsvc2022 / "trials_eval").unlink()
    record(ffsvc2022 / "other.wav")
    dev, _ = prepare_ffsvc2022(ffsvc2022, tmp_path / "out", note=notes.append)
    assert dev.speaker_ids.null_count() == 3
    said = "\n".join(notes)
    assert "no dev_meta_list, so 'dev' gets no speakers and no conditions" in said
    assert "no trials_eval_keys or trials_eval" in said
    assert "1 audio files of other names were left out" in said
    (made,) = prepare_ffsvc2022(ffsvc2022 / "dev", tmp_path / "alone", note=notes.append)
    assert made.path.name == "dev"
    assert any("no ffsvc22_eval_*.wav, so no part 'eval'" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.replace("dev_000001", "dev_000009"), "does not name ffsvc22_dev_000001;"),
        (lambda text: text + "a b c\n", r"dev_meta_list:5: 'a b c'; expected"),
        (
            lambda text: text.replace("_344I0.25M", "_344X"),
            "'T0344_344X_1_0307_normal', the name of ffsvc22_dev_000000, is not of the form",
        ),
    ],
)
def test_a_list_that_does_not_fit_is_refused(ffsvc2022, tmp_path, notes, change, complaint):
    meta = ffsvc2022 / "dev_meta_list"
    meta.write_text(change(meta.read_text()))
    with pytest.raises(CorpusError, match=complaint):
        prepare_ffsvc2022(ffsvc2022, tmp_path / "out", note=notes.append)


def test_a_folder_of_other_files_is_refused(tmp_path, record, notes):
    record(tmp_path / "x/a.wav")
    with pytest.raises(CorpusError, match="not the FFSVC2022 corpus; expected ffsvc22_dev_000000"):
        prepare_ffsvc2022(tmp_path / "x", tmp_path / "out", note=notes.append)


@pytest.mark.parametrize(
    ("name", "conditions"),
    [
        ("T0344_344I1M_1_0307_normal", "T 0344 I 1M 1 0307 TI normal"),
        ("F0549_549PCML3M_recorded6_0005_fast", "F 0549 PCM L3M recorded6 0005 TD fast"),
        ("S0001_001MIC_Tr2_0031_slow", "S 0001 MIC  Tr2 0031 semi-TD slow"),
        ("F0336_336I-1.5M_1_0030_fast", "F 0336 I -1.5M 1 0030 TD fast"),
        ("T0344_344PAD0.25M_1_0090_normal", "T 0344 PAD 0.25M 1 0090 semi-TD normal"),
        ("S0344_344PCMR3M_recorded14_0091_slow", "S 0344 PCM R3M recorded14 0091 TI slow"),
    ],
)
def test_a_name_tells_where_and_how_it_was_recorded(name, conditions):
    table = parse_names(pl.Series([name]))
    assert tuple(table.columns) == CONDITIONS
    assert table.rows() == [tuple(conditions.split(" "))]


@pytest.mark.parametrize(
    "name",
    ["ffsvc22_dev_000000", "", "X0344_344I1M_1_0307_normal", "T0344_344TV1M_1_0307_normal", "T0344_344I1M_1"],
)
def test_a_name_of_another_form_tells_nothing(name):
    assert parse_names(pl.Series([name, "T0344_344I1M_1_0307_normal"])).row(0) == (None,) * len(CONDITIONS)


def test_the_whole_supplement_is_parsed_in_seconds():
    count = 823_726
    names = pl.Series(
        [f"T{n % 120:04}_{n % 120:03}PCM-1.5M_recorded14_{n // 2000:04}_normal" for n in range(count)]
    )
    start = time.process_time()
    table = parse_names(names)
    assert time.process_time() - start < 5
    assert table.null_count().sum_horizontal().item() == 0
    assert table["speaker"].n_unique() == 120
    assert dict(table["text_dependence"].value_counts().iter_rows())["TI"] > count // 2
