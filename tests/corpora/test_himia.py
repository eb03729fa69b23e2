import shutil
import subprocess
from pathlib import Path

import pytest

from farvox.corpora.himia import NAME_CONDITIONS as CONDITIONS
from farvox.corpora.himia import parse_names, prepare_himia
from farvox.datadir.check import check_data_dir
from farvox.datadir.conditions import read_conditions
from farvox.datadir.kaldi import DataDir
from farvox.errors import CorpusError

TRIALS = (
    "SV0299_7_01_S0096.wav SV0333_2_{}_N0124.wav nontarget\n"
    "SV0333_7_01_N0001.wav SV0333_2_{}_N0124.wav target\n"
)

# The steps of the homework's README: paths; utterance -> path; utterance -> folder; speaker -> utterances.
LIST_WAVS = """find "$1" -name "*.wav" """
WAV_SCP = """awk -F / '{print $NF,$0}' | sed 's/\\.wav//1'"""
UTT2SPK = """awk -F / '{print $NF,$(NF-1)}' | sed 's/\\.wav//1'"""
SPK2UTT = """perl -ane 'push @{$utts{$F[1]}}, $F[0]; END {print "$_ @{$utts{$_}}\\n" for sort keys %utts}'"""
TRIAL_KEYS = """sed 's/nontarget/0/' "$1" | sed 's/target/1/'"""


def shell(script: str, argument: Path) -> set[str]:
    done = subprocess.run(["sh", "-c", script, "sh", argument], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def lines_of(path: Path) -> set[str]:
    return set(path.read_text().splitlines())


@pytest.fixture
def himia(tmp_path, record) -> Path:
    """Three speakers in train, one in dev, two in test_v2, named and nested as the archives unpack."""
    root = tmp_path / "HIMIA"
    for part, speakers in (("train", ("SV0219", "SV0001", "SV0042")), ("dev", ("SV0255",))):
        for speaker in speakers:
            for number, take in enumerate(("2_10_S0056", "5_16_N1779", "6_09_F3787", "7_01_N0002")):
                record(root / part / "SPEECHDATA/wav" / speaker / f"{speaker}_{take}.wav", 800 + number)
    for name in (
        "SV0299_7_01_S0096",
        "SV0333_7_01_N0001",
        *(f"SV0333_2_{mic:02}_N0124" for mic in range(16)),
    ):
        record(root / "test_v2/wav" / f"{name}.wav")
    (root / "test_v2/trials_mic").write_text(TRIALS)
    (root / "test_v2/trials_1m").write_text(TRIALS.replace("_7_01_", "_2_{}_"))
    return root


@pytest.mark.skipif(
    not all(map(shutil.which, ("find", "awk", "sed", "perl"))), reason="needs find awk sed perl"
)
@pytest.mark.parametrize("part", ["train", "dev"])
def test_the_lists_are_those_of_the_homeworks_shell_lines(himia, tmp_path, notes, part):
    prepare_himia(himia, tmp_path / "out", note=notes.append)
    made = tmp_path / "out" / part
    assert lines_of(made / "wav.scp") == shell(f"{LIST_WAVS} | {WAV_SCP}", himia / part)
    assert lines_of(made / "utt2spk") == shell(f"{LIST_WAVS} | {UTT2SPK}", himia / part)
    expected = shell(f"{LIST_WAVS} | {UTT2SPK} | {SPK2UTT}", himia / part)
    assert {frozenset(line.split()) for line in lines_of(made / "spk2utt")} == {
        frozenset(line.split()) for line in expected
    }


@pytest.mark.skipif(not all(map(shutil.which, ("find", "awk", "sed"))), reason="needs find awk sed")
def test_the_evaluation_part_is_that_of_the_homeworks_shell_lines(himia, tmp_path, notes):
    prepare_himia(himia, tmp_path / "out", note=notes.append)
    made = tmp_path / "out/test_v2"
    assert lines_of(made / "wav.scp") == shell(f"{LIST_WAVS} | {WAV_SCP}", himia / "test_v2")
    for name in ("trials_mic", "trials_1m"):
        assert shell(TRIAL_KEYS, made / name) == shell(TRIAL_KEYS, himia / "test_v2" / name)
        assert (made / name).read_bytes() == (himia / "test_v2" / name).read_bytes()


def test_each_part_found_becomes_a_data_dir_with_lengths(himia, tmp_path, notes):
    train, dev, test = prepare_himia(himia, tmp_path / "out", note=notes.append, jobs=1)
    assert [made.path.name for made in (train, dev, test)] == ["train", "dev", "test_v2"]
    assert (len(train), train.speaker_ids.n_unique(), len(test)) == (12, 3, 18)
    assert dev.table.row(0) == (
        "SV0255_2_10_S0056", str(himia / "dev/SPEECHDATA/wav/SV0255/SV0255_2_10_S0056.wav"), "SV0255", 800,
    )  # fmt: skip
    assert DataDir.open(tmp_path / "out/train").table.equals(train.table)
    assert set(test.speaker_ids) == {"SV0299", "SV0333"}


def test_absent_parts_and_lists_are_a_note(himia, tmp_path, notes):
    shutil.rmtree(himia / "dev")
    (himia / "test_v2/trials_1m").unlink()
    made = prepare_himia(himia, tmp_path / "out", note=notes.append)
    assert [each.path.name for each in made] == ["train", "test_v2"]
    assert any("no folder dev" in note for note in notes)
    assert any("no trials_1m" in note for note in notes)


def test_the_damaged_archive_is_named_where_only_its_part_is_there(himia, tmp_path, notes):
    (himia / "test_v2").rename(himia / "test")
    prepare_himia(himia, tmp_path / "out", note=notes.append)
    assert any("test.tar.gz is damaged" in note for note in notes)


def test_parts_one_folder_down_are_found(himia, tmp_path, notes):
    made = prepare_himia(himia.parent, tmp_path / "out", note=notes.append)
    assert [each.path.name for each in made] == ["train", "dev", "test_v2"]


def test_two_corpora_side_by_side_are_not_taken_for_one(himia, tmp_path, record, notes):
    record(tmp_path / "another/train/a.wav")
    with pytest.raises(
        CorpusError, match=r"several folders have such parts, .*HIMIA and .*another; name the one"
    ):
        prepare_himia(tmp_path, tmp_path / "out", note=notes.append)


def test_no_part_at_all_is_refused_with_what_was_expected(tmp_path, notes):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"empty: not the HI-MIA corpus; expected train/, dev/ or test_v2/"):
        prepare_himia(tmp_path / "empty", tmp_path / "out", note=notes.append)


def test_a_part_that_is_still_packed_is_refused(tmp_path, notes):
    (tmp_path / "HIMIA/train").mkdir(parents=True)
    with pytest.raises(CorpusError, match=r"HIMIA/train: no \.wav file at any depth; are the archives"):
        prepare_himia(tmp_path / "HIMIA", tmp_path / "out", note=notes.append)


def test_one_name_in_two_folders_is_refused(himia, tmp_path, record, notes):
    record(himia / "train/again/SV0001_2_10_S0056.wav")
    with pytest.raises(CorpusError, match="'SV0001_2_10_S0056' is also that of"):
        prepare_himia(himia, tmp_path / "out", note=notes.append)


def test_a_filename_mapping_adds_conditions_and_changes_no_id(himia, tmp_path, notes):
    before = prepare_himia(himia, tmp_path / "before", note=notes.append)
    mapping = himia / "filename_mapping/train_filename_mapping.txt"
    mapping.parent.mkdir()
    mapping.write_text(
        "SV0219_2_10_S0056.wav\tSV0219_2_03_S0056.wav\nSV0001_7_01_N0002.wav SV0001_7_01_N0007.wav\n"
    )
    (mapping.parent / "readme.txt").write_text("prose is not read")
    after = prepare_himia(himia, tmp_path / "after", note=notes.append)
    assert [each.table.rows() for each in before] == [each.table.rows() for each in after]
    table = read_conditions(tmp_path / "after/train")
    assert table.columns == ["utt_id", "original", "point", "microphone", "speed", "utterance"]
    rows = {row[0]: row[1:] for row in table.rows()}
    assert rows["SV0001_7_01_N0002"] == ("SV0001_7_01_N0007", "7", "01", "normal", "0007")
    assert rows["SV0219_2_10_S0056"] == ("SV0219_2_03_S0056", "2", "03", "slow", "0056")
    assert rows["SV0219_6_09_F3787"] == ("", "6", "", "fast", "3787")
    assert "original" not in read_conditions(tmp_path / "after/dev").columns


def test_the_names_of_train_and_dev_do_not_tell_the_microphone_but_those_of_test_v2_do(
    himia, tmp_path, notes
):
    for made in prepare_himia(himia, tmp_path / "out", note=notes.append):
        table = read_conditions(made.path)
        assert table.columns == ["utt_id", "point", "microphone", "speed", "utterance"]
        is_test = made.path.name == "test_v2"
        assert set(table["microphone"]) == ({f"{mic:02}" for mic in range(16)} if is_test else {""})
        assert set(table["point"]) == ({"2", "7"} if is_test else {"2", "5", "6", "7"})
        assert list(check_data_dir(made.path)) == []


def test_a_file_of_another_name_has_no_conditions(himia, tmp_path, record, notes):
    record(himia / "dev/SV0300.wav")
    prepare_himia(himia, tmp_path / "out", note=notes.append)
    assert read_conditions(tmp_path / "out/dev").row(-1) == ("SV0300", "", "", "", "")


def test_a_malformed_filename_mapping_is_refused_at_its_line(himia, tmp_path, notes):
    (himia / "dev_filename_mapping.txt").write_text("a.wav b.wav\na.wav\n")
    with pytest.raises(CorpusError, match=r"dev_filename_mapping\.txt:2: 'a\.wav'; expected"):
        prepare_himia(himia, tmp_path / "out", note=notes.append)


def test_a_name_tells_point_microphone_speed_and_utterance():
    table = parse_names(["SV0299_7_01_S0096", "SV0333_2_15_N0124", "SV0333_6_00_F3787"])
    assert tuple(table.columns) == CONDITIONS
    assert table.rows() == [
        ("7", "01", "slow", "0096"), ("2", "15", "normal", "0124"), ("6", "00", "fast", "3787"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["", "SV0299", "SV0299_7_01_X0096", "SV0299_7_01_S0096_x", "T0344_344I1M_1_0307"]
)
def test_a_name_of_another_form_tells_nothing(name):
    assert parse_names([name, "SV0299_7_01_S0096"]).row(0) == (None,) * 4
