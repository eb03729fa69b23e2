"""``farvox calibrate``, as it is typed."""

import numpy as np
import pytest

from farvox.cli.main import main
from farvox.zoo import Card


@pytest.fixture
def scored(tmp_path):
    """A function that writes 400 trials and their scores: (target mean, scale) -> the two paths."""

    def write(distance, scale=0.1):
        rng = np.random.default_rng(0)
        target = np.repeat([1, 0], [100, 300])
        scores = scale * (rng.standard_normal(400) + distance * target)
        (tmp_path / "trials").write_text("".join(f"{t} a{n} b{n}\n" for n, t in enumerate(target)))
        (tmp_path / "scores").write_text("".join(f"a{n} b{n} {s:.9f}\n" for n, s in enumerate(scores)))
        return str(tmp_path / "trials"), str(tmp_path / "scores")

    return write


def test_a_threshold_is_printed_and_written_into_the_card(scored, model_folder, tmp_path, capsys):
    import shutil

    shutil.copytree(model_folder, tmp_path / "model")
    assert main(["calibrate", *scored(2.0), "--far", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "100 target, 300 non-target" in out and "written" not in out
    words = ["--far", "0.05", "--model", str(tmp_path / "model"), "--note", "my trials"]
    assert main(["calibrate", *scored(2.0), *words]) == 0
    card = Card.load(tmp_path / "model")
    assert card.name == "small" and f"{card.threshold:.4f}" in out
    assert "my trials" in card.threshold_note and card.calibration.scale > 0


def test_what_cannot_be_a_card_is_refused_and_nothing_is_written(scored, model_folder, capsys):
    before = Card.load(model_folder)
    assert main(["calibrate", *scored(2.0, scale=20.0), "--far", "0.05", "--model", str(model_folder)]) == 1
    assert "these are no cosines" in capsys.readouterr().err
    assert Card.load(model_folder) == before
    assert main(["calibrate", *scored(2.0), "--model", "campplus-zh-en"]) == 2
    assert "not yours to change" in capsys.readouterr().err
    assert main(["calibrate", *scored(2.0), "--far", "0.001"]) == 1
    assert "10,000 or more" in capsys.readouterr().err
