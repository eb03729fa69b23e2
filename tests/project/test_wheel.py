"""What is installed from a wheel is whole: the recipes, the licence, the type marker."""

import os
import subprocess
import sys
import tomllib

import pytest

from farvox.pipelines.recipe import recipe_names


@pytest.mark.slow
def test_a_wheel_carries_the_recipes_and_the_page(installed):
    done = subprocess.run(
        [sys.executable, "-m", "farvox", "recipes"],
        cwd=installed, env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.split()[0] for line in done.stdout.splitlines()] == recipe_names()
    assert (installed / "farvox/recipes/voxceleb/ecapa.toml").is_file()
    assert (installed / "farvox/service/static/index.html").is_file()


@pytest.mark.slow
def test_a_wheel_carries_the_table_of_pretrained_models(installed):
    done = subprocess.run(
        [sys.executable, "-m", "farvox", "models", "campplus-zh-en"],
        cwd=installed, env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Apache-2.0" in done.stdout and "threshold" in done.stdout


@pytest.mark.slow
def test_a_wheel_carries_the_licence_and_says_that_it_is_typed(installed):
    (licences,) = installed.glob("farvox-*.dist-info/licenses")
    assert {path.name for path in licences.iterdir()} == {"LICENSE", "NOTICE"}
    assert (installed / "farvox/py.typed").is_file()


def test_every_extra_is_pinned_and_all_is_all_but_dev(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras["all"] == ["farvox[torch,train,onnx,openvino,export,vad,listen,sim,ssl,wpe,s3,ray,serve]"]
    assert set(extras) == {
        "torch", "train", "onnx", "openvino", "export", "vad", "listen", "sim", "ssl", "wpe", "s3", "ray",
        "serve", "all", "dev",
    }  # fmt: skip
    asked = [*project["dependencies"], *(each for extra in extras for each in extras[extra])]
    names = {each.split(">=")[0].split("[")[0].lower() for each in asked if not each.startswith("farvox[")}
    lines = (root / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if line and not line.startswith("#")}
    assert names <= pinned, "constraints.txt pins every direct dependency"
