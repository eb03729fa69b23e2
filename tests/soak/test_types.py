"""The types of an installed farvox as pyright sees them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONSUMER = Path(__file__).parents[1] / "project/consumer.py"
INNER = re.compile(
    r"farvox\.(models|features|training|metrics\.(bootstrap|resample)|cli|options|zoo\.unpickle|"
    r"audio\.shards|__main__)\b"
)
"""Modules that the documentation does not name; the layers of their networks have no annotation."""


@pytest.fixture
def pyright(installed, tmp_path):
    """A function that runs pyright with some words, where the wheel is installed; gives status and output."""
    pytest.importorskip("pyright", reason="needs pyright")
    path = f"{installed.parents[2] / 'bin'}:/usr/bin:/bin"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": ""}

    def pyright(*words):
        command = [sys.executable, "-m", "pyright", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return pyright


def test_pyright_knows_the_types_of_an_installed_farvox(pyright):
    status, output = pyright(str(CONSUMER))
    assert status == 0, output


def test_every_type_of_a_documented_module_is_known(pyright, installed, tell):
    _, output = pyright("--verifytypes", "farvox", "--ignoreexternal")
    assert str(installed) in output, output
    (share,) = re.findall(r"Type completeness score: ([\d.]+)%", output)
    found = re.findall(r"^(farvox\.\S+)\n", output, re.MULTILINE)
    tell("types of farvox that pyright knows", share=f"{share} %")
    assert [name for name in found if not INNER.match(name)] == []
