"""The folder of what was published."""

import os
import runpy
from pathlib import Path

import pytest

FILES = runpy.run_path(str(Path(__file__).with_name("files.py")))


@pytest.fixture(scope="session")
def published():
    """A folder of the files in files.py, each of which is the one that was published."""
    if "FARVOX_PUBLISHED" not in os.environ:
        pytest.skip("needs the publishers' files: see tests/published/files.py, and set FARVOX_PUBLISHED")
    folder = Path(os.environ["FARVOX_PUBLISHED"])
    for name, (_, sha256) in FILES["FILES"].items():
        FILES["check"](folder / name, sha256)
    return folder
