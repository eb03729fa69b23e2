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


def test_a_model_that_is_no_average_of_these_is_not_replaced(model_folder, tmp_path, capsys):
    one, other = (shutil.copytree(model_folder, tmp_path / name) for name in ("one", "other"))
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    assert main(["average", str(other), str(one), str(other)]) == 1
    assert "other: holds a model that was not made so (average: models" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before
    for weights in ("1", "2"):
        words = ["average", str(tmp_path / "out"), str(one), str(other)]
        assert main([*words, "--weights", weights, "3"]) == 0
    assert main(["average", str(tmp_path / "out"), str(one), str(model_folder)]) == 1
    (tmp_path / "out/config.json").write_text("{")
    assert main(words) == 1
    assert capsys.readouterr().err.count("out: holds a model that was not made so") == 2


def test_one_model_is_no_average(model_folder, tmp_path, capsys):
    assert main(["average", str(tmp_path / "out"), str(model_folder)]) == 1
    assert "two models or more" in capsys.readouterr().err
