import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from farvox.audio.files import read_audio, write_audio
from farvox.cli import data
from farvox.cli.main import main
from farvox.corpora.registry import PREPARERS
from farvox.datadir.conditions import read_conditions
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.options import merge


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """A data dir of four speakers A to D with three utterances of one audio file each."""
    write_audio(tmp_path / "x.wav", 0.1 * np.sin(np.arange(1600.0)))
    ids = [f"{speaker}-{take}" for speaker in "ABCD" for take in range(3)]
    write_data_dir(tmp_path / "train", [Utterance(i, str(tmp_path / "x.wav"), i[0], 1600) for i in ids])
    return tmp_path / "train"


def test_a_sound_data_dir_passes_the_check(train: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(train)]) == 0
    assert capsys.readouterr().out == f"{train}: 12 utterances of 4 speakers\n"


def test_faults_are_plain_lines_on_stdout(train: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (train / "utt2spk").read_text()
    (train / "utt2spk").write_text(text.replace("B-1 B", "B-1 C"))
    assert main(["check", str(train)]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{train}/utt2spk:5: 'B-1' is of speaker 'C' here, of 'B' in spk2utt\n"
    assert printed.err == f"'farvox check {train} --fix OUT' writes what has no fault\n"


def test_fix_lists_what_it_drops_and_fails_unless_drops_are_allowed(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fixed"
    assert main(["check", str(train), "--fix", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 12 utterances of 4 speakers; 0 of 12 dropped\n"
    (train / "utt2spk").write_text((train / "utt2spk").read_text().replace("B-1 B\n", ""))
    (train / "spk2utt").unlink()
    out = tmp_path / "others"
    assert main(["check", str(train), "--fix", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"{train}/wav.scp:5: 'B-1' is not in utt2spk",
        "dropped: B-1",
        f"{out}: 11 utterances of 4 speakers; 1 of 12 dropped",
    ]
    assert "--allow-drops" in printed.err
    assert main(["check", str(train), "--fix", str(out), "--allow-drops"]) == 1
    assert "is a data dir already" in capsys.readouterr().err
    assert main(["check", str(train), "--fix", str(tmp_path / "again"), "--allow-drops"]) == 0
    assert main(["check", str(tmp_path / "again")]) == 0


def test_lines_out_of_order_are_noted_and_no_fault(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The baseline's data dirs are not sorted, and have no spk2utt."""
    (train / "spk2utt").unlink()
    for name in ("wav.scp", "utt2spk"):
        lines = (train / name).read_text().splitlines(keepends=True)
        (train / name).write_text("".join(reversed(lines)))
    assert main(["check", str(train)]) == 0
    *notes, last = capsys.readouterr().out.splitlines()
    assert [note.split(":")[:3] for note in notes] == [
        ["note", f" {train}/{name}", "2"] for name in ("wav.scp", "utt2spk")
    ]
    assert "farvox combine" in notes[0] and last == f"{train}: 12 utterances of 4 speakers"
    assert main(["combine", str(tmp_path / "sorted"), str(train)]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path / "sorted")]) == 0
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("num_faults", "last"), [(100, None), (101, "1 more fault"), (250, "150 more faults")]
)
def test_at_most_a_hundred_faults_are_printed_and_then_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], num_faults: int, last: str | None
) -> None:
    far_away = f"/absent/{'long' * 60}.wav"
    write_data_dir(tmp_path / "data", [Utterance(f"u{i:03}", far_away) for i in range(num_faults)])
    assert main(["check", str(tmp_path / "data")]) == 1
    lines = capsys.readouterr().out.splitlines()
    expected = [f"{tmp_path}/data/wav.scp:{n}: no such audio file: {far_away}" for n in range(1, 101)]
    assert lines == (expected if last is None else [*expected, f"... and {last}"])


@pytest.mark.parametrize("what", ["nowhere", ""])
def test_what_is_no_data_dir_fails_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    assert main(["check", str(tmp_path / what)]) == 1
    assert str(tmp_path / what) in capsys.readouterr().err


def test_combine_and_subset_are_each_others_inverse(train: Path, tmp_path: Path) -> None:
    for name, speakers in (("ab", "1-2"), ("cd", "3-4")):
        assert main(["subset", str(train), str(tmp_path / name), "--speakers", speakers]) == 0
    assert main(["combine", *(str(tmp_path / name) for name in ("both", "ab", "cd"))]) == 0
    assert DataDir.open(tmp_path / "both").table.equals(DataDir.open(train).table)


def test_a_part_is_chosen_by_its_conditions(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    utt_ids = DataDir.open(train).utt_ids.to_list()
    far = {utt_id: f"{1 + 2 * (row % 2)}M\t{'PCM' if row < 3 else 'I'}" for row, utt_id in enumerate(utt_ids)}
    rows = "".join(f"{utt_id}\t{values}\n" for utt_id, values in far.items())
    (train / "utt2cond").write_text(f"utt_id\tdistance\tdevice\n{rows}")
    assert main(["check", str(train)]) == 0
    out = tmp_path / "out"
    assert main(["subset", str(train), str(out), "--where", "distance=3M", "--where", "device=PCM,I"]) == 0
    assert DataDir.open(out).utt_ids.to_list() == utt_ids[1::2]
    assert main(["subset", str(train), str(out), "--where", "distance=3M", "--where", "device=PCM"]) == 0
    assert DataDir.open(out).utt_ids.to_list() == utt_ids[1:2]
    assert main(["subset", str(train), str(tmp_path / "none"), "--where", "room=hall"]) == 1
    assert "has no condition 'room'; it has distance, device" in capsys.readouterr().err


def test_trials_are_written_label_first(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trials", str(train), str(tmp_path / "trials"), "--all-pairs"]) == 0
    lines = (tmp_path / "trials").read_text().splitlines()
    assert lines[:3] == ["1 A-0 A-1", "1 A-0 A-2", "0 A-0 B-0"]
    assert capsys.readouterr().out == f"{tmp_path}/trials: 66 trials, 12 target, 54 non-target\n"


def test_trials_take_patterns_a_number_and_a_seed(train: Path, tmp_path: Path) -> None:
    words = ["--enrol", "*-0", "--test", "*-[12]", "--num-nontarget", "10", "--seed", "3"]
    digests = set()
    for name in ("x", "y"):
        assert main(["trials", str(train), str(tmp_path / name), *words]) == 0
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    fields = [line.split(" ") for line in (tmp_path / "x").read_text().splitlines()]
    assert {(enrol[-1], test[-1]) for _, enrol, test in fields} == {("0", "1"), ("0", "2")}
    assert sorted(label for label, _, _ in fields) == ["0"] * 10 + ["1"] * 8


def test_a_vast_list_has_to_be_asked_for(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MOST_PAIRS_UNASKED", 65)
    assert main(["trials", str(train), str(tmp_path / "trials")]) == 1
    assert "has 66 pairs; give --num-nontarget N, or --all-pairs" in capsys.readouterr().err
    assert main(["trials", str(train), str(tmp_path / "trials"), "--all-pairs"]) == 0


def test_trials_need_speakers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data_dir(tmp_path / "noise", [Utterance("n1", "/n1.wav"), Utterance("n2", "/n2.wav")])
    assert main(["trials", str(tmp_path / "noise"), str(tmp_path / "trials")]) == 1
    assert f"{tmp_path}/noise: has neither utt2spk nor spk2utt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["trials", "DIR", "OUT", "--all-pairs", "--num-nontarget", "5"],
        ["subset", "DIR", "OUT"],
        ["subset", "DIR", "OUT", "--where", "distance"],
        ["combine", "OUT"],
        ["check", "DIR", "--allow-drops"],
        ["prepare", "voxcelebrity", "DIR", "OUT"],
    ],
)
def test_wrong_usage_is_status_2_and_writes_nothing(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    places = {"DIR": str(train), "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word) for word in words]) == 2
    assert f"farvox {words[0]}: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_corpus_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "voxcelebrity", "a", "b"]) == 2
    listed = capsys.readouterr().err
    assert all(f"\n  {name} " in listed for name in PREPARERS)
    assert data.prepare.__doc__ is not None
    assert all(name in data.prepare.__doc__ for name in PREPARERS)


def test_prepare_makes_data_dirs_that_pass_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for speaker in ("ann", "bob"):
        for take in range(2):
            write_audio(tmp_path / "mine" / speaker / f"{take}.wav", np.full(1600, 0.1))
    assert main(["prepare", "folder", str(tmp_path / "mine"), str(tmp_path / "out")]) == 0
    assert "4 utterances, 2 speakers" in capsys.readouterr().out
    (made,) = [path.parent for path in (tmp_path / "out").glob("*/wav.scp")]
    assert main(["check", str(made)]) == 0


def test_an_option_that_a_corpus_does_not_take_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "folder", str(tmp_path), str(tmp_path / "out"), "--convert", "flac"]) == 1
    assert "--convert means nothing to the corpus folder" in capsys.readouterr().err


def test_a_trial_list_is_looked_for_in_a_data_dir_before_extraction(tmp_path, capsys):
    wav_path = tmp_path / "a.wav"
    write_audio(wav_path, np.ones(100, np.float32) / 2, 16_000)
    utt_ids = ["close", *(f"{take}_{mic}" for take in "ab" for mic in range(3))]
    (tmp_path / "trials").write_text("close a_{} target\nclose b_{} nontarget\n")
    for missing, status in (("", 0), ("b_1", 1)):
        kept = [
            Utterance(utt, str(wav_path), "t" if utt[0] == "b" else "s", 100)
            for utt in utt_ids
            if utt != missing
        ]
        write_data_dir(tmp_path / "data", kept)
        assert main(["check", str(tmp_path / "data"), "--trials", str(tmp_path / "trials")]) == status
    said = capsys.readouterr()
    assert "2 ids with {} read as their microphones (3 each); 7 of 7 utterances needed" in said.out
    assert "trials:2: 'b_{}' lacks channel 1, which others have" in said.err


def test_pack_gives_a_data_dir_that_other_verbs_take(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "packed"
    assert main(["pack", str(train), str(out), "--codec", "flac", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == f"{out}: 12 utterances of 4 speakers\n"
    assert main(["check", str(out), "--audio"]) == 0
    assert main(["subset", str(out), str(tmp_path / "part"), "--speakers", "2-3"]) == 0
    assert DataDir.open(tmp_path / "part").wav_paths[0] == DataDir.open(out).wav_paths[3]


def test_check_with_audio_finds_what_cannot_be_decoded(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "y.wav").write_bytes(b"no audio")
    text = (train / "wav.scp").read_text()
    (train / "wav.scp").write_text(text.replace(f"B-1 {tmp_path}/x.wav", f"B-1 {tmp_path}/y.wav"))
    assert main(["check", str(train)]) == 0
    assert main(["check", str(train), "--audio"]) == 1
    assert f"{train}/wav.scp:5: 'B-1': {tmp_path}/y.wav: cannot be read as audio" in capsys.readouterr().out


def test_pack_refuses_sizes_that_mean_nothing(train: Path, tmp_path: Path) -> None:
    assert main(["pack", str(train), str(tmp_path / "packed"), "--shard-size", "0"]) == 2


def test_responses_are_made_and_speech_is_copied_through_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(8000))
    write_data_dir(tmp_path / "near", [Utterance("A-1", str(tmp_path / "a.wav"), "A", 8000)])
    bank, far = str(tmp_path / "bank"), str(tmp_path / "far")
    options = ["--rooms", "1", "--per-room", "2", "--t60", "0.25", "0.3", "--jobs", "1"]
    assert main(["rirs", bank, *options]) == 0
    assert (
        main(["simulate", str(tmp_path / "near"), far, "--rirs", bank, "--copies", "2", "--jobs", "1"]) == 0
    )
    assert capsys.readouterr().out.endswith(f"{far}: 2 utterances\n")
    assert read_conditions(far)["utt_id"].to_list() == ["A-1_1_00", "A-1_2_00"]
    assert main(["check", far]) == 0


def test_a_wrong_range_is_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rirs", str(tmp_path / "rirs"), "--distance", "1", "40"]) == 2
    assert "distance = 40.0; it must be at most 5" in capsys.readouterr().err
    assert main(["simulate", str(tmp_path), str(tmp_path / "far"), "--snr", "20", "5"]) == 2
    assert "snr goes from the least to the greatest, not 20.0 to 5.0" in capsys.readouterr().err


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """Data dirs of two speakers: ``near``, an utterance each, and ``far``, one with a pause in noise."""
    rng = np.random.default_rng(0)
    t = np.arange(24000) / 16000
    for part in ("near", "far"):
        utterances = []
        for speaker, pitch in (("A", 120), ("B", 210)):
            buzz_T = 0.05 * sum(np.sin(2 * np.pi * pitch * k * t + rng.uniform(0, 6)) for k in range(1, 9))
            gain = 0.01 if part == "far" else 1e-4
            wav_T = np.where(t < 0.7, buzz_T, 0) + gain * rng.standard_normal(len(t))
            path = tmp_path / f"{speaker}-{part}.wav"
            write_audio(path, wav_T.astype(np.float32))
            utterances.append(Utterance(f"{speaker}-{part}", str(path), speaker, len(t)))
        write_data_dir(tmp_path / part, utterances)
    return tmp_path


def test_an_enrolment_and_its_copies_in_the_background_of_the_test_are_one_side(
    spoken: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The enrolment augmentation of the HI-MIA paper, composed of verbs, and the same by hand."""

    def farvox(*words: object) -> None:
        assert main([str(word) for word in words]) == 0

    near, far, noise, copies = (spoken / name for name in ("near", "far", "noise", "copies"))
    farvox("noises", far, noise, "--jobs", 1)
    assert "background of 2 of 2 recordings\nspeech over noise: half of them" in capsys.readouterr().out
    farvox("rirs", spoken / "rirs", "--rooms", 1, "--per-room", 2, "--t60", 0.25, 0.3, "--jobs", 1)
    farvox("simulate", near, copies, "--rirs", spoken / "rirs", "--noise", noise, "--copies", 2, "--jobs", 1)
    assert set(read_conditions(copies)["noise"]) <= {"A-far", "B-far"}
    cpu = ("--device", "cpu", "--threads", 1)
    for name in ("near", "far", "copies"):
        farvox("extract", model_folder, spoken / name, spoken / f"{name}-emb", *cpu)
    pairs = [(enrol, test) for enrol in "AB" for test in "AB"]
    (spoken / "trials").write_text("".join(f"{e}-near.wav {t}-far.wav\n" for e, t in pairs))
    embeddings = [spoken / f"{name}-emb" for name in ("near", "far", "copies")]
    enrolled = ("--enrol-map", copies / "enrol_map")
    farvox("score", spoken / "trials", *embeddings, *enrolled, "--out", spoken / "scores")
    unit_of = {}
    for emb in map(EmbeddingSet.load, embeddings):
        unit_NE = emb.embeddings / np.linalg.norm(emb.embeddings, axis=1, keepdims=True)
        unit_of |= dict(zip(emb.utt_ids, unit_NE.astype(np.float64), strict=True))
    assert len(unit_of) == 8
    for line, (enrol, test) in zip((spoken / "scores").read_text().splitlines(), pairs, strict=True):
        names = [f"{enrol}-near", f"{enrol}-near_1_00", f"{enrol}-near_2_00"]
        mean_E = sum(unit_of[name] for name in names) / 3
        by_hand = float(mean_E @ unit_of[f"{test}-far"] / np.linalg.norm(mean_E))
        assert float(line.split()[2]) == pytest.approx(by_hand, abs=1e-6)


GROUP = r"SV\d+_[256]_(?P<channel>\d+)_.*"


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def himia(tmp_path, one_thread):
    rng, rows = np.random.default_rng(0), []
    for name in ("SV0333_2_{:02}_N0124", "SV0299_2_{:02}_N0001"):
        wav = 0.1 * rng.standard_normal(5000)
        for channel in range(4):
            path = tmp_path / f"{name.format(channel)}.wav"
            soundfile.write(path, np.roll(wav, 2 * channel), 16000)
            rows.append(Utterance(path.stem, str(path), path.stem[:6], 5000))
    path = tmp_path / "SV0299_7_01_S0096.wav"
    soundfile.write(path, wav, 16000)
    rows.append(Utterance(path.stem, str(path), "SV0299", 5000))
    write_data_dir(tmp_path / "data", rows)
    (tmp_path / "trials_mic").write_text(
        "SV0299_7_01_S0096.wav SV0333_2_{}_N0124.wav nontarget\n"
        "SV0299_7_01_S0096.wav SV0299_2_{}_N0001.wav target\n"
    )
    return tmp_path


def test_takes_are_enhanced_and_the_trial_list_fits_with_and_without_renaming(himia, capsys, sides_of_trials):
    from farvox.score.trials import read_trials

    words = ["--beamform", "mvdr", "--group", GROUP, "--trials", str(himia / "trials_mic"), "--jobs", "1"]
    assert main(["enhance", str(himia / "data"), str(himia / "out"), *words]) == 0
    printed = capsys.readouterr()
    assert "2 takes of 4 utterances each; 1 utterances are of none" in printed.err
    assert f"{himia / 'out'}: 3 utterances of 2 speakers" in printed.out
    out = DataDir.open(himia / "out")
    assert (himia / "out/trials_mic").read_text() == (
        "0 SV0299_7_01_S0096 SV0333_2_00_N0124\n1 SV0299_7_01_S0096 SV0299_2_00_N0001\n"
    )
    before, after = (
        sides_of_trials(read_trials(path).resolve(out.utt_ids))
        for path in (himia / "trials_mic", himia / "out/trials_mic")
    )
    assert before == after


def test_a_missing_channel_is_an_error_unless_it_is_allowed(himia, capsys):
    scp = himia / "data/wav.scp"
    scp.write_text(
        "".join(line for line in scp.read_text().splitlines(True) if not line.startswith("SV0333_2_02"))
    )
    words = [
        "enhance",
        str(himia / "data"),
        str(himia / "out"),
        "--beamform",
        "delay-and-sum",
        "--group",
        GROUP,
    ]
    assert main([*words, "--jobs", "1"]) == 1
    assert "'SV0333_2_00_N0124' has no channel 02" in capsys.readouterr().err
    assert not (himia / "out").exists()
    words += ["--jobs", "1", "--trials", str(himia / "trials_mic"), "--allow-missing-channels"]
    assert main(words) == 0
    assert "SV0333_2_00_N0124" in (himia / "out/trials_mic").read_text()


def test_nothing_to_do_and_two_ways_to_group_are_wrong_usage(himia, capsys):
    words = ["enhance", str(himia / "data"), str(himia / "out")]
    assert main(words) == 2
    assert "choose a --beamform, or --wpe" in capsys.readouterr().err
    assert main([*words, "--beamform", "mvdr", "--group", GROUP, "--by", "room"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main([*words, "--beamform", "mvdr"]) == 1
    assert "no file has several channels" in capsys.readouterr().err


def test_labels_that_contradict_utt2spk_are_refused_by_line(corpus, tmp_path, capsys):
    lines = (corpus / "dev/trials").read_text().splitlines()
    label, *pair = lines[4].split()
    lines[4] = " ".join(["10"[int(label)], *pair])
    (tmp_path / "trials").write_text("\n".join([*lines, f"1 {pair[0]} {pair[0]}"]) + "\n")
    assert main(["check", str(corpus / "dev"), "--trials", str(tmp_path / "trials")]) == 1
    assert "trials:5: labelled" in capsys.readouterr().err
    lines[4] = " ".join([label, *pair])
    (tmp_path / "trials").write_text("\n".join([*lines, f"1 {pair[0]} {pair[0]}"]) + "\n")
    words = ["check", str(corpus / "dev"), "--trials", str(tmp_path / "trials")]
    assert main(words) == 1
    assert (
        f"trials:{len(lines) + 1}: '{pair[0]}'" in (said := capsys.readouterr().err)
        and "--allow-self" in said
    )
    assert main([*words, "--allow-self"]) == 0
    assert "1 such trials" in capsys.readouterr().out


@pytest.fixture
def copied(tmp_path):
    """Two speakers with two recordings each, a far-field copy of each, and a copy of a copy."""
    wav_path = tmp_path / "a.wav"
    write_audio(wav_path, np.ones(100, np.float32) / 2, 16_000)
    copies = {f"{speaker}{n}": ("", "close") for speaker in "ab" for n in "12"}
    copies |= {f"{name}_0_0": (name, "far") for name in copies}
    copies |= {"a1_0_0_x": ("a1_0_0", "phone")}
    write_data_dir(tmp_path / "data", [Utterance(name, str(wav_path), name[0], 100) for name in copies])
    rows = [f"{name}\t{source}\t{place}\n" for name, (source, place) in sorted(copies.items())]
    (tmp_path / "data/utt2cond").write_text("".join(["utt_id\tsource\tplace\n", *rows]))
    return tmp_path


def test_trials_are_drawn_by_conditions_and_never_of_a_recording_with_its_copy(copied, capsys):
    words = ["trials", str(copied / "data"), str(copied / "trials")]
    assert main([*words, "--enrol-where", "place=close", "--test-where", "place=far,phone"]) == 0
    drawn = [line.split() for line in (copied / "trials").read_text().splitlines()]
    tests = [f"{name}_0_0" for name in ("a1", "a2", "b1", "b2")] + ["a1_0_0_x"]
    expected = [
        [str(int(enrol[0] == test[0])), enrol, test]
        for enrol in ("a1", "a2", "b1", "b2")
        for test in sorted(tests)
        if enrol != test[:2]
    ]
    assert drawn == expected
    assert "15 trials, 5 target, 10 non-target" in capsys.readouterr().out
    assert main(["check", str(copied / "data"), "--trials", str(copied / "trials")]) == 0
    assert main(words) == 0  # all pairs: copies of one recording never meet either
    pairs = [line.split()[1:] for line in (copied / "trials").read_text().splitlines()]
    assert len(pairs) == 9 * 8 // 2 - 3 - 3 * 1 and all(one[:2] != other[:2] for one, other in pairs)
    assert main([*words, "--enrol-where", "place"]) == 2
    assert "--enrol-where place: expected CONDITION=VALUE" in capsys.readouterr().err
    assert main([*words, "--test-where", "place=phones"]) == 1
    assert "did you mean 'phone'" in capsys.readouterr().err


@pytest.mark.parametrize("pair", ["a1 a1_0_0", "a1_0_0_x a1", "a1_0_0 a1_0_0_x"])
def test_a_recording_against_its_copy_is_refused_by_check(copied, capsys, pair):
    (copied / "trials").write_text(f"1 a1 a2\n1 {pair}\n0 a1 b1\n")
    words = ["check", str(copied / "data"), "--trials", str(copied / "trials")]
    assert main(words) == 1
    assert "trials:2:" in (said := capsys.readouterr().err) and "copies of one" in said
    assert main([*words, "--allow-self"]) == 0


def test_check_reports_a_test_utterance_inside_its_own_enrolment(copied, capsys):
    (copied / "map").write_text("m a1 a2\nn b1\n")
    (copied / "trials").write_text("1 m a1_0_0\n0 n a1\n")
    words = ["check", str(copied / "data"), "--trials", str(copied / "trials")]
    assert main(words) == 1
    capsys.readouterr()
    assert main([*words, "--enrol-map", str(copied / "map")]) == 0
    said = capsys.readouterr().out
    assert "1 trials have a test utterance" in said and "trials:1, 'a1_0_0'" in said
    assert main([*words[:2], "--enrol-map", str(copied / "map")]) == 2
    assert "--trials" in capsys.readouterr().err


def test_a_source_that_several_speakers_share_names_no_recording(copied):
    table = (copied / "data/utt2cond").read_text().splitlines()
    kind = [line.split("\t")[0] + "\ttelevision\tclose" for line in table[1:]]
    (copied / "data/utt2cond").write_text("\n".join([table[0], *kind]) + "\n")
    assert main(["trials", str(copied / "data"), str(copied / "trials")]) == 0
    assert len((copied / "trials").read_text().splitlines()) == 9 * 8 // 2


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(
        st.text("./~a%\x1b\x9b\u202e<'\";", min_size=1, max_size=6), min_size=4, max_size=4, unique=True
    )
)
def test_no_verb_prints_what_a_terminal_acts_on(tmp_path_factory, capsys, ids):
    folder = tmp_path_factory.mktemp("hostile")
    write_audio(folder / "a.wav", np.sin(np.arange(1000.0)), 16_000)
    speakers = [ids[0], ids[0], ids[1], ids[1]]
    pairs = zip(ids, speakers, strict=True)
    write_data_dir(folder / "data", [Utterance(each, str(folder / "a.wav"), who) for each, who in pairs])
    (folder / "ids").write_text(ids[0] + "\n")
    (folder / "missing").write_text(f"{ids[0]} {ids[1]}x\n")
    data, trials = str(folder / "data"), str(folder / "trials")
    for words, status in (
        (["check", data, "--audio"], 0),
        (["trials", data, trials], 0),
        (["check", data, "--trials", trials], 0),
        (["check", data, "--trials", str(folder / "missing")], 1),
        (["subset", data, str(folder / "part"), "--utterances", str(folder / "ids")], 0),
        (["subset", data, str(folder / "none"), "--where", f"{ids[0]}=x"], 1),
        (["combine", str(folder / "both"), data, str(folder / "part")], 0),
    ):
        assert main(words) == status
        said = capsys.readouterr()
        assert not set(said.out + said.err) & set("\x1b\x9b\u202e")


@pytest.mark.slow
def test_every_verb_does_with_segments_what_it_does_with_the_stretches_as_files(
    tmp_path: Path, corpus: Path, tiny_recipe: dict[str, Any], model_folder: Path
) -> None:
    joined, cut = tmp_path / "joined", tmp_path / "cut"
    utterances, lines, wav_scp = [], [], []
    all_of = DataDir.open(corpus / "train").table.sort("utt_id")
    for (speaker,), part in all_of.group_by("speaker_id", maintain_order=True):
        wavs: list[np.ndarray] = []
        for begin, (utt_id, path) in enumerate(part.select("utt_id", "wav_path").iter_rows()):
            pause_T = 1e-4 * np.random.default_rng(begin).standard_normal(12800)
            wav_T = np.append(np.resize(read_audio(path), 19200), pause_T)
            wavs.append(wav_T)
            write_audio(tmp_path / "wavs" / f"{utt_id}.wav", wav_T)
            utterances.append(Utterance(utt_id, str(tmp_path / "wavs" / f"{utt_id}.wav"), speaker))
            lines.append(f"{utt_id} {speaker}-rec {2 * begin:.2f} {2 * begin + 2:.2f}\n")
        write_audio(tmp_path / "wavs" / f"{speaker}.wav", np.concatenate(wavs))
        wav_scp.append(f"{speaker}-rec {tmp_path}/wavs/{speaker}.wav\n")
    write_data_dir(cut, utterances)
    joined.mkdir()
    (joined / "segments").write_text("".join(sorted(lines)))
    (joined / "wav.scp").write_text("".join(sorted(wav_scp)))
    (joined / "utt2spk").write_text((cut / "utt2spk").read_text())
    for name in ("text", "utt2dur", "spk2gender"):
        keys = (joined / "utt2spk").read_text().splitlines()
        index = int(name.startswith("spk"))
        rows = sorted({line.split()[index] for line in keys})
        (joined / name).write_text("".join(f"{key} m\n" for key in rows))

    def farvox(*words: object) -> None:
        assert main([str(word) for word in words]) == 0, words

    bank = tmp_path / "bank"
    farvox("rirs", bank, "--rooms", 1, "--per-room", 2, "--t60", 0.25, 0.3, "--jobs", 1)
    found: dict[str, list[object]] = {}
    for data_dir in (joined, cut):
        out = tmp_path / f"of-{data_dir.name}"
        farvox("check", data_dir, "--audio")
        farvox("check", data_dir, "--fix", out / "fixed")
        farvox("subset", data_dir, out / "part", "--per-speaker", 2)
        farvox("combine", out / "both", out / "part", data_dir)
        farvox("pack", data_dir, out / "packed")
        farvox("simulate", out / "part", out / "far", "--rirs", bank, "--copies", 1, "--jobs", 1)
        farvox("noises", data_dir, out / "noise", "--jobs", 1)
        group = ".*(?P<channel>[0-9])"  # utterances of a speaker as if of one take
        farvox("enhance", out / "both", out / "enhanced", "--wpe", "--group", group, "--jobs", 1)
        farvox("trials", out / "part", out / "trials", "--all-pairs")
        farvox("extract", model_folder, data_dir, out / "emb")
        farvox("cluster", out / "emb", out / "clusters", "--clusters", 3, "--data", data_dir)
        farvox("extract", model_folder, out / "clusters", out / "again")
        farvox("score", out / "trials", out / "emb", "--out", out / "scores")
        table = merge(
            tiny_recipe,
            {
                "run_dir": str(out / "exp"),
                "data": {"train": [str(data_dir)]},
                "schedule": {"epochs": 1},
                "prepare": [f"combine {out}/run-data {data_dir}"],
                "evaluate": [{"name": "e", "data": f"{out}/run-data", "trials": str(out / "trials")}],
            },
        )
        (out / "r.toml").write_text(tomli_w.dumps(table))
        farvox("run", out / "r.toml")
        del table["prepare"], table["data"]["train"]
        table["run_dir"] = str(out / "self")
        table["init"] = {"model": str(out / "exp/train")}
        table["selftrain"] = {
            "data": str(data_dir),
            "rounds": 1,
            "clusters": "3:4",
            "stable": 2,
            "min_size": 1,
        }
        (out / "s.toml").write_text(tomli_w.dumps(table))
        farvox("selftrain", out / "s.toml")
        sound = [
            read_audio(path)
            for name in ("fixed", "part", "both", "packed", "far", "noise", "enhanced", "clusters")
            for path in DataDir.open(out / name).wav_paths
        ]
        rows = [EmbeddingSet.load(out / name).embeddings for name in ("emb", "again")]
        models = sorted([*(out / "exp").rglob("*.safetensors"), *(out / "self").rglob("*.safetensors")])
        weights = [array for path in models for _, array in sorted(load_file(path).items())]
        assert len(models) >= 2
        texts = [(out / name).read_text() for name in ("trials", "scores")]
        found[data_dir.name] = [*sound, *rows, *texts, *weights]
    for one, other in zip(found["joined"], found["cut"], strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("fixed", "part", "both", "clusters"):
        of_joined = tmp_path / "of-joined" / name
        assert (of_joined / "segments").is_file() and "#" not in (of_joined / "wav.scp").read_text()
    assert (tmp_path / "of-joined" / "part" / "spk2gender").is_file()


NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.fixture
def odd_names(voices, model_folder, tmp_path, monkeypatch):
    """The current folder: audio files, folders and a data dir whose names are not UTF-8."""
    for name in (
        "in/ann/0.wav",
        f"in/ann/{NOT_UTF8}.wav",
        f"in/{NOT_UTF8}/0.wav",
        f"{NOT_UTF8}.wav",
        "x.wav",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(voices / "a0.wav", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    write_data_dir("good", [Utterance("a", str(tmp_path / "x.wav"), "ann")])
    shutil.copytree("good", NOT_UTF8)
    shutil.copytree(model_folder, "small")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("prepare folder in out --jobs 1", 1), ("prepare folder in out --jobs 1 --skip-bad", 0),
        ("prepare folder in BAD2", 1), ("prepare synthetic tiny BAD2", 1), ("prepare voxceleb2 in BAD2", 1),
        ("check BAD --audio", 0), ("check BAD --fix out", 0), ("combine out BAD", 0),
        ("pack BAD out --jobs 1", 0),
        ("subset BAD BAD2 --per-speaker 1", 1), ("pack good BAD2", 1), ("simulate good BAD2 --jobs 1", 1),
        ("simulate BAD out --rirs in --jobs 1", 1), ("simulate good out --noise in --jobs 1", 1),
        ("noises good BAD2", 1), ("rirs BAD2 --rooms 1", 1), ("rirs out --measured in", 1),
        ("extract small BAD out --threads 1", 0), ("extract small good BAD2 --threads 1", 1),
        ("verify BAD.wav x.wav --model small", 0), ("verify BAD2.wav x.wav --model small", 2),
        ("enrol ann BAD.wav --model small --store BAD2", 0), ("trials BAD BAD2", 1),
        ("enrol BAD x.wav --model small --store s", 1), ("score BAD2 good --out out", 1),
    ],
)  # fmt: skip
def test_a_name_that_is_not_utf8_is_read_or_refused_and_leaves_nothing_behind(
    odd_names, capsys, command, status
):
    words = [NOT_UTF8.join(word.split("BAD")) for word in command.split()]
    before = set(os.listdir())
    assert main(words) == status, capsys.readouterr().err
    if status:
        made = set(os.listdir()) - before
        assert not made & {f"{NOT_UTF8}2", "s"} and not Path("out/wav.scp").exists()
        err = capsys.readouterr().err
        assert "\\udce9" in err or "rejected.tsv" in err
    elif command.startswith("prepare"):
        rejected = Path("out/rejected.tsv").read_text()
        assert rejected.count("not UTF-8") == 2 and r"caf\xe9.wav" in rejected
    elif command.startswith("enrol"):
        assert main(["identify", *words[2:]]) == 0 and "ann" in capsys.readouterr().out
