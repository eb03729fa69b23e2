"""Readers of foreign and damaged files, fed by atheris for ``FARVOX_FUZZ_SECONDS`` each (60)."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
READERS = runpy.run_path(str(HERE.parent / "readers.py"))["READERS"]
SECONDS = os.environ.get("FARVOX_FUZZ_SECONDS", "60")


@pytest.mark.parametrize("name", READERS)
def test_only_messages_leave_a_reader_whatever_atheris_finds(name, tmp_path, tell):
    pytest.importorskip("atheris", reason="needs atheris, which 'make soak' installs")
    words = [sys.executable, str(HERE / "fuzz.py"), name, str(tmp_path), SECONDS]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    found = sorted((tmp_path / "found").rglob("*--*"))
    tell(f"atheris: {name}", inputs=runs[1] if runs else "?", seconds=SECONDS, failures=len(found))
    assert done.returncode == 0, f"{found}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
