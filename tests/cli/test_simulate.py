from pathlib import Path

import numpy as np
import pytest

from farvox.cli.main import main
from farvox.io.audio import write_audio
from farvox.io.conditions import read_conditions
from farvox.io.kaldi import write_data_dir
from farvox.types import Utterance


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
