"""Small trees of audio in the shapes that the publishers ship."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="session")
def record() -> Callable[..., Path]:
    """Write a file of quiet noise at a path, in the format of its suffix."""

    def write(path: Path, num_samples: int = 800, channels: int = 1) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(num_samples)
        kind = {"format": "NIST"} if path.suffix == ".sph" else {}
        soundfile.write(
            path, 0.1 * rng.standard_normal((num_samples, channels)), 16000, subtype="PCM_16", **kind
        )
        return path

    return write


@pytest.fixture
def notes() -> list[str]:
    """What a preparation said; pass ``note=notes.append``."""
    return []


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora."""
    if not os.environ.get("FARVOX_CORPORA"):
        pytest.skip("needs real speech: set FARVOX_CORPORA to a folder with speechocean762 and an4")
    return Path(os.environ["FARVOX_CORPORA"])
