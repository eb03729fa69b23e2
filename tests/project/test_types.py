"""The types that someone sees who installs farvox: `consumer.py`, checked in an environment of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONSUMER = Path(__file__).with_name("consumer.py")


@pytest.mark.slow
def test_mypy_knows_the_types_of_an_installed_farvox(installed, tmp_path):
    python = installed.parents[2] / "bin/python"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python),
         "--cache-dir", str(tmp_path / "cache"), "--config-file", os.devnull, str(CONSUMER)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
