import shutil

import pytest

from farvox.cli.main import main
from farvox.zoo import load_model


def test_models_are_averaged_by_one_command(model_folder, tmp_path, capsys):
    shutil.copytree(model_folder, tmp_path / "other")
    words = ["average", str(tmp_path / "out"), str(model_folder), str(tmp_path / "other")]
    assert main([*words, "--weights", "3", "1"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: the average of 2 models\n"
    assert load_model(tmp_path / "out").config["average"]["weights"] == pytest.approx([0.75, 0.25])


def test_one_model_is_no_average(model_folder, tmp_path, capsys):
    assert main(["average", str(tmp_path / "out"), str(model_folder)]) == 1
    assert "two models or more" in capsys.readouterr().err
