"""Embeddings for names: random, nearer to one another within a speaker; the same ones anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet

DIM = 24


def embeddings_of(names: Sequence[str], speakers: Sequence[str]) -> NDArray[np.float32]:
    """One embedding a name (N utterance, E embedding), which depends on the order of the names."""
    rng = np.random.default_rng(2022)
    known, speaker_N = np.unique(np.asarray(speakers), return_inverse=True)
    centres_SE = rng.standard_normal((len(known), DIM))
    noise_NE = rng.standard_normal((len(names), DIM)) * rng.uniform(0.5, 2, (len(names), 1))
    return (centres_SE[speaker_N] + noise_NE).astype(np.float32)


def save(folder: Path, names: Sequence[str], speakers: Sequence[str]) -> None:
    """Write `embeddings_of` the names as an embedding set."""
    EmbeddingSet(list(names), embeddings_of(names, speakers), {}).save(folder)


def evaluated(capsys, *words: object) -> tuple[float, float]:
    """EER and minDCF by ``farvox evaluate``."""
    capsys.readouterr()
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    return report["eer"], report["min_dcf"]
