"""Lloyd's iterations with bounds give what the plain ones give."""

import numpy as np
import pytest

from farvox.clustering import lloyd as module
from farvox.clustering.lloyd import lloyd, mean_directions


def plain(unit_NE, centres_KE, iterations):
    for _ in range(iterations):
        labels_N = (unit_NE @ centres_KE.T).argmax(axis=1)
        centres_KE = mean_directions(unit_NE, labels_N, len(centres_KE))
    return (unit_NE @ centres_KE.T).argmax(axis=1), centres_KE


def unit_noise(count, dimension, seed=0):
    noise = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return noise / np.linalg.norm(noise, axis=1, keepdims=True)


@pytest.mark.parametrize("iterations", [0, 1, 4, 30])
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0], ids=["apart", "touching", "one cloud"])
def test_the_clusters_are_those_of_the_plain_iterations(spread, iterations, monkeypatch):
    monkeypatch.setattr(module, "CELLS", 1000)  # several blocks
    speakers = unit_noise(40, 24)
    unit = speakers[np.arange(1500) % 40] + spread * unit_noise(1500, 24, seed=1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    first = unit[:60].copy()
    labels, centres = plain(unit, first, iterations)
    assert len(np.unique(labels)) == 60  # or the comparison would not be fair
    found = lloyd(unit, first, iterations)
    assert np.mean(found.labels_N == labels) > 0.999
    np.testing.assert_allclose(found.centres_KE, centres, atol=1e-2)
    np.testing.assert_allclose(
        found.cosine_N, np.einsum("ne,ne->n", unit, found.centres_KE[found.labels_N]), atol=1e-5
    )
    assert np.array_equal((unit @ found.centres_KE.T).argmax(axis=1), found.labels_N)


def test_most_products_are_left_out(monkeypatch):
    speakers = unit_noise(100, 32)
    unit = speakers[np.arange(4000) % 100] + 0.5 * unit_noise(4000, 32, seed=1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    looked = []
    look = module._State._look
    monkeypatch.setattr(
        module._State, "_look", lambda self, rows: (looked.append(len(rows)), look(self, rows))[1]
    )
    lloyd(unit, unit[np.random.default_rng(2).choice(4000, 100, replace=False)], 20)
    assert len(looked) > 5 and sum(looked) < 0.6 * len(unit) * len(looked)


def test_a_centre_without_members_starts_anew():
    unit = np.float32([[1, 0], [1, 0], [0, 1], [0.1, 0.995]])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = lloyd(unit, np.float32([[1, 0], [-1, 0]]), 10)
    assert found.labels_N.tolist() == [0, 0, 1, 1]
