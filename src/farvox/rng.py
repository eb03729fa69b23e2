"""Randomness as a function of what is drawn, never of the worker that draws it or the time."""

from __future__ import annotations

import numpy as np

from farvox.errors import UsageError


def rng_for(seed: int, epoch: int, position: int, stream: int = 0) -> np.random.Generator:
    """Random stream of one training example.

    The stream depends only on its four numbers, so it is the same in any worker, on any rank and
    after any resume.

    Args:
        seed: the run's seed.
        epoch: epoch number.
        position: place of the example in the epoch (global, over all ranks).
        stream: number of an independent use of one position (0: the example itself).

    Raises:
        UsageError: ``seed`` is negative.
    """
    if seed < 0:
        raise UsageError(f"seed {seed}: a seed is not negative")
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, stream, epoch, position]))
