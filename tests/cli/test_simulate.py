from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import write_audio
from farvox.cli.main import main
from farvox.datadir.conditions import read_conditions
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import Utterance, write_data_dir


def test_a_bank_is_made_and_speech_is_copied_through_it(
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
    assert main(["rirs", str(tmp_path / "bank"), "--distance", "1", "40"]) == 1
    assert "a distance goes from the least (0.5 m) to the greatest (5 m)" in capsys.readouterr().err


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
