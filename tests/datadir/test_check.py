import os
from collections.abc import Callable
from pathlib import Path

import pytest

from farvox.datadir.check import check_data_dir
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import DataDirError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Utterances a1 a2 of speaker A, b1 b2 of speaker B, without a fault."""
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    utterances = [
        Utterance(f"{s.lower()}{take}", str(tmp_path / "x.wav"), s, 9) for s in "AB" for take in "12"
    ]
    write_data_dir(tmp_path / "data", utterances)
    return tmp_path / "data"


def edit(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


def faults_of(data: Path) -> list[str]:
    return [str(fault).replace(f"{data}{os.sep}", "") for fault in check_data_dir(data)]


def test_a_sound_data_dir_has_no_fault_though_its_utterances_share_a_file(data: Path) -> None:
    assert faults_of(data) == []


@pytest.mark.parametrize("absent", ["utt2spk", "spk2utt", "utt2num_samples"])
def test_an_optional_file_may_be_absent(data: Path, absent: str) -> None:
    (data / absent).unlink()
    assert faults_of(data) == []


def test_windows_line_ends_are_no_fault(data: Path) -> None:
    for name in ("wav.scp", "utt2spk", "spk2utt", "utt2num_samples"):
        edit(data / name, lambda text: text.replace(b"\n", b"\r\n"))
    assert faults_of(data) == []


def test_a_disagreement_about_a_speaker_is_named_at_its_line_of_utt2spk(data: Path) -> None:
    edit(data / "utt2spk", lambda text: text.replace(b"b1 B", b"b1 A"))
    assert faults_of(data) == ["utt2spk:3: 'b1' is of speaker 'A' here, of 'B' in spk2utt"]


def test_an_utterance_missing_from_spk2utt_is_named_at_its_line_of_utt2spk(data: Path) -> None:
    edit(data / "spk2utt", lambda text: text.replace(b" b2", b""))
    assert faults_of(data) == ["utt2spk:4: 'b2' is not in spk2utt"]


def test_an_utterance_of_two_speakers_is_named_at_its_line_of_utt2spk(data: Path) -> None:
    edit(data / "spk2utt", lambda text: text.replace(b"A a1", b"A a1 b1"))
    assert faults_of(data) == ["utt2spk:3: 'b1' is of speaker 'B' here, of 'A' in spk2utt"]


def test_spk2utt_may_neither_repeat_nor_invent_utterances(data: Path) -> None:
    edit(data / "spk2utt", lambda text: text.replace(b"B b1", b"B b1 b1 b9"))
    assert faults_of(data) == [
        "spk2utt:2: 'b1' is listed twice for speaker 'B'",
        "spk2utt:2: 'b9' is not in utt2spk",
    ]


@pytest.mark.parametrize("name", ["utt2spk", "utt2num_samples"])
def test_files_name_the_same_utterances(data: Path, name: str) -> None:
    edit(data / name, lambda text: text.replace(b"a2", b"a3"))
    (data / "spk2utt").unlink()
    assert faults_of(data) == [f"wav.scp:2: 'a2' is not in {name}", f"{name}:2: 'a3' is not in wav.scp"]


def test_spk2utt_stands_in_for_an_absent_utt2spk(data: Path) -> None:
    (data / "utt2spk").unlink()
    edit(data / "spk2utt", lambda text: text.replace(b"a2", b"a3"))
    assert faults_of(data) == ["wav.scp:2: 'a2' is not in spk2utt", "spk2utt:1: 'a3' is not in wav.scp"]


def test_an_audio_file_that_is_not_there_is_named_for_every_utterance(data: Path) -> None:
    edit(data / "wav.scp", lambda text: text.replace(b"x.wav\nb1", b"y.wav\nb1"))
    path = data.parent / "y.wav"
    assert faults_of(data) == [f"wav.scp:2: no such audio file: {path}"]


def test_a_relative_path_starts_at_the_current_directory(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "wav.scp").write_text("a1 x.wav\na2 x.wav\nb1 x.wav\nb2 x.wav\n")
    monkeypatch.chdir(data.parent)
    assert faults_of(data) == []
    monkeypatch.chdir(data)
    first = faults_of(data)[0]
    assert first.startswith(
        "wav.scp:1: no such audio file: x.wav (relative paths start at the current directory"
    )
    assert first.endswith(f"it would be found from {data.parent})")


def test_an_audio_command_is_a_fault(data: Path) -> None:
    edit(data / "wav.scp", lambda text: text.replace(b"x.wav\nb1", b"x.wav |\nb1"))
    (fault,) = faults_of(data)
    assert fault.startswith("wav.scp:2: the audio of 'a2' is a command")


def test_order_is_by_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    lines = [f"{utt_id} {tmp_path / 'x.wav'}\n" for utt_id in ("B-1", "B1", "a1", "é1")]
    (tmp_path / "wav.scp").write_text("".join(lines), "utf-8")
    assert faults_of(tmp_path) == []
    (tmp_path / "wav.scp").write_text("".join(lines[i] for i in (2, 0, 3, 1)), "utf-8")
    (fault,) = faults_of(tmp_path)
    assert fault.startswith("note: wav.scp:2: not sorted in C order: 'B-1' comes after 'a1' (so do 1 more")


def test_an_id_given_twice_names_both_lines(data: Path) -> None:
    edit(data / "utt2num_samples", lambda text: text.replace(b"b1 9\n", b"b1 9\nb1 9\n"))
    assert faults_of(data) == ["utt2num_samples:4: 'b1' is there already, in line 3"]


def test_malformed_lines_are_all_named(data: Path) -> None:
    edit(data / "utt2num_samples", lambda text: text + b"c\xff 1\n\nd\n")
    edit(data / "utt2num_samples", lambda text: text.replace(b"a1 9", b"a1 9.5").replace(b"a2 9", b"a2 -9"))
    edit(data / "utt2spk", lambda text: text.replace(b"b2 B", b"b2 B B"))
    assert faults_of(data) == [
        "utt2spk:4: more than two fields: 'b2 B B'",
        "utt2spk:4: 'b2' is of speaker 'B B' here, of 'B' in spk2utt",
        "utt2num_samples:1: '9.5' is not a number of samples",
        "utt2num_samples:2: '-9' is not a number of samples",
        "utt2num_samples:5: not UTF-8 text",
        "utt2num_samples:6: empty line",
        "utt2num_samples:7: 'd' has no second field",
    ]


def test_a_list_of_noises_without_speakers_is_a_data_dir(data: Path) -> None:
    for name in ("utt2spk", "spk2utt", "utt2num_samples"):
        (data / name).unlink()
    assert faults_of(data) == []


def test_a_folder_that_is_no_data_dir_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match=r"has no wav\.scp"):
        list(check_data_dir(tmp_path))
    with pytest.raises(DataDirError, match="no such data dir"):
        list(check_data_dir(tmp_path / "nowhere"))


def test_an_empty_list_of_audio_is_a_fault(data: Path) -> None:
    edit(data / "wav.scp", lambda _: b"")
    assert faults_of(data)[0] == "wav.scp:1: no utterance; the file is empty"


def test_two_speakers_of_an_utterance_are_named_in_spk2utt_where_it_is_all_there_is(data: Path) -> None:
    (data / "utt2spk").unlink()
    edit(data / "spk2utt", lambda text: text.replace(b"B b1", b"B a2 b1"))
    assert faults_of(data) == ["spk2utt:2: 'a2' is of speaker 'B' here, of 'A' before"]
    with pytest.raises(DataDirError, match=r"spk2utt:2: 'a2' is there twice"):
        DataDir.open(data)


def test_the_faults_of_conditions_are_named_by_line(data: Path) -> None:
    (data / "utt2cond").write_text("utt_id\tdistance\na2\t1M\na1\t\nb1\nq\t3M\na2\t1M\n")
    assert faults_of(data) == [
        "note: utt2cond:3: not sorted in C order: 'a1' comes after 'a2' (so do 1 more lines); "
        "'farvox combine OUT DIR' sorts",
        "utt2cond:4: 1 fields between tabs, the header has 2: 'b1'",
        "utt2cond:5: 'q' is not in wav.scp",
        "utt2cond:6: 'a2' is there twice",
    ]


def test_an_utterance_without_conditions_is_no_fault(data: Path) -> None:
    (data / "utt2cond").write_text("utt_id\tdistance\tdevice\na2\t1M\t\n")
    assert faults_of(data) == []


def test_conditions_without_a_header_are_a_fault_of_the_first_line(data: Path) -> None:
    (data / "utt2cond").write_bytes(b"a1\t1M\na2\t\xff\n")
    assert [fault.split("; ")[0] for fault in faults_of(data)] == [
        "utt2cond:1: 'a1\t1M'",
        "utt2cond:2: not UTF-8 text",
    ]
