"""farvox: far-field speaker verification.

from farvox import Verifier

score, same = Verifier.from_pretrained().verify("a.wav", "b.wav")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farvox.verifier import Verdict, Verifier

__version__ = "0.1.0"

__all__ = ["Verdict", "Verifier", "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``farvox --help`` is quick."""
    if name in ("Verdict", "Verifier"):
        return getattr(importlib.import_module("farvox.verifier"), name)
    raise AttributeError(f"module 'farvox' has no attribute '{name}'")
