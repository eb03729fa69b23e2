import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import resample, write_audio
from farvox.datadir.check import check_audio, check_data_dir, fix_data_dir
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


class TestFixDataDir:
    def test_what_is_only_unsorted_or_absent_is_written_sorted_and_drops_nothing(self, data: Path) -> None:
        out = data.parent / "out"
        for name in ("wav.scp", "utt2spk"):
            edit(data / name, lambda text: b"".join(reversed(text.splitlines(keepends=True))))
        (data / "spk2utt").unlink()
        (data / "trials").write_text("1 a1 a2\n0 a1 b1\n")
        made, faults, dropped = fix_data_dir(data, out)
        assert [fault.is_note for fault in faults] == [True, True]
        assert dropped == []
        assert made.utt_ids.to_list() == ["a1", "a2", "b1", "b2"]
        assert (out / "spk2utt").read_text() == "A a1 a2\nB b1 b2\n"
        assert (out / "utt2num_samples").read_text() == "a1 9\na2 9\nb1 9\nb2 9\n"
        assert (out / "trials").read_text() == "1 a1 a2\n0 a1 b1\n"
        assert faults_of(out) == []

    def test_utterances_without_audio_or_speaker_and_further_lines_of_an_id_are_dropped(
        self, data: Path
    ) -> None:
        wav = data.parent / "x.wav"
        wav_scp = f"a1 {wav}\na1 {wav}2\na2 {data}/none.wav\nb1 {wav}\nb2 {wav}\nc1 {wav}\nc2 sox {wav} |\n"
        (data / "wav.scp").write_text(wav_scp)
        (data / "utt2spk").write_text("a1 A\na2 A\nb1 B\nb2 B\nb2 A\nq Q\n")
        (data / "utt2dur").write_text("a1 1.5\na2 1.5\nb1 2\nb2 2\n")
        (data / "utt2cond").write_text("utt_id\tdistance\na1\t1M\na2\t3M\nb1\n")
        (data / "text").write_text("a1 one two\na2 three\nb2 four\n")
        (data / "spk2gender").write_text("A f\nB m\n")
        (data / "enrol_map").write_text("a1 a1 a2\n")
        (data / "frame_shift").write_text("0.01\n")
        said: list[str] = []
        made, faults, dropped = fix_data_dir(data, data.parent / "out", note=said.append)
        assert dropped == ["a2", "c1", "c2", "q"]
        assert [str(fault) for fault in faults] == said[: len(faults)]
        assert {f"dropped: {utt_id}" for utt_id in dropped} < set(said)
        assert "copied whole: enrol_map, which may name utterances that are gone" in said
        assert any(line.startswith("left out: frame_shift") for line in said)
        assert (data.parent / "out" / "text").read_text() == "a1 one two\nb2 four\n"
        assert (data.parent / "out" / "spk2gender").read_text() == "A f\nB m\n"
        assert made.table.select("utt_id", "wav_path", "speaker_id").rows() == [
            ("a1", str(wav), "A"), ("b1", str(wav), "B"), ("b2", str(wav), "B"),
        ]  # fmt: skip
        assert (data.parent / "out" / "utt2dur").read_text() == "a1 1.5\nb1 2\nb2 2\n"
        assert (data.parent / "out" / "utt2cond").read_text() == "utt_id\tdistance\na1\t1M\n"
        named = {str(fault).removeprefix(f"{data}{os.sep}").split(": ")[0] for fault in faults}
        assert named >= {"wav.scp:2", "wav.scp:3", "wav.scp:6", "wav.scp:7", "utt2spk:5", "utt2spk:6"}
        assert faults_of(data.parent / "out") == []

    def test_utt2spk_is_right_where_spk2utt_disagrees(self, data: Path) -> None:
        edit(data / "spk2utt", lambda _: b"A a1 b1\nB a2 b2\n")
        made, faults, dropped = fix_data_dir(data, data.parent / "out")
        assert (len(faults), dropped) == (2, [])
        assert made.speaker_ids.to_list() == ["A", "A", "B", "B"]

    def test_spk2utt_alone_gives_the_speakers(self, data: Path) -> None:
        (data / "utt2spk").unlink()
        edit(data / "spk2utt", lambda _: b"B b1 b2 b9 a1\nA a1\n")
        made, _, dropped = fix_data_dir(data, data.parent / "out")
        assert made.table.select("utt_id", "speaker_id").rows() == [("a1", "B"), ("b1", "B"), ("b2", "B")]
        assert dropped == ["a2", "b9"]  # of no audio file

    def test_a_length_that_is_missing_drops_no_utterance(self, data: Path) -> None:
        edit(data / "utt2num_samples", lambda text: text.replace(b"b1 9", b"b1 nine"))
        said: list[str] = []
        made, _, dropped = fix_data_dir(data, data.parent / "out", note=said.append)
        assert dropped == []
        assert len(made) == 4
        assert said[-1] == "left out: utt2num_samples, which has no length of 'b1'"
        assert not (data.parent / "out" / "utt2num_samples").exists()

    def test_every_utterance_of_a_missing_shard_is_dropped(self, data: Path) -> None:
        shard = f"{data}/00000-0123456789ab.tar"
        edit(data / "wav.scp", lambda text: text + f"c1 {shard}:wav:512:99:9:16000:1\n".encode())
        edit(data / "wav.scp", lambda text: text + f"c2 {shard}:wav:912:99:9:16000:1\n".encode())
        (data / "utt2spk").write_text("a1 A\na2 A\nb1 B\nb2 B\nc1 C\nc2 C\n")
        assert fix_data_dir(data, data.parent / "out")[2] == ["c1", "c2"]

    def test_audio_that_cannot_be_decoded_is_dropped_when_audio_is_read(self, data: Path) -> None:
        write_audio(data.parent / "y.wav", 0.5 * np.sin(np.arange(800.0)))
        edit(data / "wav.scp", lambda text: text.replace(b"x.wav\nb", b"y.wav\nb", 1))
        edit(data / "utt2num_samples", lambda text: text.replace(b"a2 9", b"a2 800"))
        _, faults, dropped = fix_data_dir(data, data.parent / "out", audio=True)
        assert dropped == ["a1", "b1", "b2"]
        assert [fault.line for fault in faults] == [1, 3, 4]

    def test_an_id_with_a_blank_character_is_a_fault_and_dropped(self, data: Path) -> None:
        for name in ("wav.scp", "utt2spk", "utt2num_samples"):
            edit(data / name, lambda text: text.replace(b"a1 ", "a\N{NO-BREAK SPACE}1 ".encode()))
        (data / "spk2utt").unlink()
        assert "wav.scp:1: the id 'a\N{NO-BREAK SPACE}1' holds a blank character" in faults_of(data)
        assert fix_data_dir(data, data.parent / "out")[2] == ["a\N{NO-BREAK SPACE}1"]

    def test_neither_the_data_dir_itself_nor_an_empty_one_is_written(self, data: Path) -> None:
        before = (data / "wav.scp").read_bytes()
        with pytest.raises(DataDirError, match="is a data dir already"):
            fix_data_dir(data, data.parent / "data" / ".." / "data")
        edit(data / "utt2spk", lambda _: b"z Z\n")
        with pytest.raises(DataDirError, match="no utterance"):
            fix_data_dir(data, data.parent / "out")
        assert (data / "wav.scp").read_bytes() == before
        assert not (data.parent / "out" / "wav.scp").exists()


def test_ids_that_no_file_can_have_as_its_name_are_noted(data: Path) -> None:
    edit(data / "wav.scp", lambda text: text.replace(b"a2 ", b"../a2 ").replace(b"b2 ", b"B1 "))
    edit(data / "utt2spk", lambda _: b"../a2 /etc\nB1 B\na1 A\nb1 B\n")
    (data / "spk2utt").unlink()
    (data / "utt2num_samples").unlink()
    notes = [str(fault) for fault in check_data_dir(data) if "unusual" in fault.what]
    assert all(note.startswith("note: ") for note in notes) and len(notes) == 2
    assert (
        "wav.scp:2: unusual id '../a2': its files will be named '%2E.%2Fa2' (so are 1 more ids)" in notes[0]
    )
    assert "utt2spk:1: unusual id '/etc'" in notes[1]


def test_audio_that_extract_would_refuse_is_a_fault(data: Path) -> None:
    noise_T = np.random.default_rng(0).choice([-1.0, 1.0], 8000)
    for name, wav_T in {
        "a1": noise_T,
        "a2": noise_T / 32768,
        "b1": np.full(8000, 0.25),
        "b2": noise_T[:200],
    }.items():
        write_audio(data.parent / f"{name}.wav", 0.5 * wav_T if name == "a1" else wav_T)
    (data / "wav.scp").write_text("".join(f"{n} {data.parent / n}.wav\n" for n in ("a1", "a2", "b1", "b2")))
    (data / "utt2num_samples").unlink()
    found = [(fault.line, fault.what) for fault in check_audio(data)]
    assert [line for line, _ in found] == [2, 3, 4]
    for (_, what), reason in zip(found, ("silence", "silence", "200 samples, too few"), strict=True):
        assert reason in what


def test_rates_and_narrow_bands_are_counted_where_audio_is_decoded(tmp_path):
    rng = np.random.default_rng(0)
    wide_T = 0.1 * rng.standard_normal(16000)
    low_T = resample(wide_T[::2].astype(np.float32), 8000, 16000)  # what it holds, not the header
    kinds = {"a": (wide_T, 16000), "b": (low_T, 16000), "c": (wide_T, 48000), "d": (wide_T[:8000], 8000)}
    for name, (wav_T, rate) in kinds.items():
        write_audio(tmp_path / f"{name}.wav", wav_T, rate)
    write_audio(tmp_path / "e.wav", 0 * wide_T)
    data = write_data_dir(
        tmp_path / "data", [Utterance(name, str(tmp_path / f"{name}.wav")) for name in "abcde"]
    )
    fault, rates, narrow = map(str, check_audio(data.path))
    scp = data.path / "wav.scp"
    assert fault.startswith(f"{scp}:5: 'e'") and "silence" in fault
    assert rates == (
        f"note: {scp}:4: recordings of several rates: 1 at 8,000 Hz, 2 at 16,000 Hz, 1 at 48,000 Hz; "
        "this is the first at 8,000 Hz"
    )
    assert narrow.startswith(f"note: {scp}:2: 2 of 4 recordings hold nothing above 4 kHz")
    kept, _, dropped = fix_data_dir(data.path, tmp_path / "fixed", audio=True)
    assert len(kept) == 4 and dropped == ["e"]
