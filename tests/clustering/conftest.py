"""Embeddings whose speakers are known."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def blobs():
    """A function: unit embeddings around random directions, and the number of each one's speaker."""

    def draw(num_speakers, takes, *, spread=0.8, dimension=64, seed=0):
        rng = np.random.default_rng(seed)
        centres = rng.standard_normal((num_speakers, dimension))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        truth = rng.permutation(np.repeat(np.arange(num_speakers), takes))
        noise = spread / np.sqrt(dimension) * rng.standard_normal((len(truth), dimension))
        embeddings = centres[truth] + noise
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings.astype(np.float32), truth

    return draw
