"""``results.json``: figures as data, in full precision, with what made them."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import farvox
from farvox.atomic import FileKind, sha256_of, write_json
from farvox.score.scores import read_score_meta

RESULTS = FileKind("results of farvox", rb'\{\s*"command": ".*?"versions": \{\s*"farvox": ')
PACKAGES = ("numpy", "scipy", "polars", "torch", "onnxruntime", "openvino")
"""Packages that can change a digit of a figure; those that are loaded are named with their versions."""


def write_results(
    path: str | Path, results: Mapping[str, Any], *, trials: Iterable[Path], scores: Iterable[Path]
) -> None:
    """Write the `provenance` of ``results`` and these as one JSON object, whole or not at all."""
    write_json(path, {**provenance(trials, scores), **results}, RESULTS)


def provenance(trials: Iterable[Path], scores: Iterable[Path]) -> dict[str, Any]:
    """The command, versions and digests that figures come from.

    Args:
        trials: trial lists.
        scores: score files; one with a ``SCORES.meta.json`` also names its model.

    Returns:
        ``command`` of this process; ``versions`` of farvox, Python and the packages that it has loaded;
        ``trials``: path -> SHA-256; ``scores``: path -> ``sha256``, ``model`` and ``model_digest``, which are
        None where they are not known.

    Raises:
        TrialError: the metadata of a score file are damaged.
        OSError: a file cannot be read.
    """
    program = Path(sys.argv[0])
    name = "farvox" if program.name in ("farvox", "__main__.py") else str(program)
    loaded = {each: str(sys.modules[each].__version__) for each in PACKAGES if each in sys.modules}
    of_scores = {}
    for path in dict.fromkeys(scores):
        meta = read_score_meta(path)
        digests = {"model": meta.get("model"), "model_digest": meta.get("digest")}
        of_scores[str(path)] = {"sha256": meta.get("sha256") or sha256_of(path), **digests}
    return {
        "command": shlex.join([name, *sys.argv[1:]]),
        "versions": {"farvox": farvox.__version__, "python": platform.python_version(), **loaded},
        "trials": {str(path): sha256_of(path) for path in dict.fromkeys(trials)},
        "scores": of_scores,
    }
