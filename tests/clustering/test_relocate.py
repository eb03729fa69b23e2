"""Centres that share a cluster go where clusters share a centre, and the clusters get better by it."""

import numpy as np
import pytest

from farvox.clustering.kmeans import kmeans, nearest
from farvox.clustering.lloyd import Assignment
from farvox.clustering.relocate import relocated


def speakers(number, each, spread, seed=0, dimension=32):
    """Unit embeddings [N, E], and the directions [K, E] they are drawn around."""
    rng = np.random.default_rng(seed)
    truth_KE = rng.standard_normal((number, dimension)).astype(np.float32)
    emb_NE = np.repeat(truth_KE, each, axis=0)
    emb_NE += spread * rng.standard_normal(emb_NE.shape).astype(np.float32)
    return (of / np.linalg.norm(of, axis=1, keepdims=True) for of in (emb_NE, truth_KE))


def assigned(unit_NE, centres_KE):
    return Assignment(*nearest(unit_NE, centres_KE), centres_KE)


def test_a_centre_moves_from_the_cluster_of_two_to_the_two_of_one():
    unit_NE, truth_KE = speakers(6, 50, 0.3)
    centres_KE = truth_KE.copy()
    centres_KE[1] = unit_NE[3]  # the first speaker has two, the second none
    before = assigned(unit_NE, centres_KE)
    better_KE, moved = relocated(unit_NE, before)
    after = assigned(unit_NE, better_KE)
    assert moved == 1
    assert np.array_equal(np.bincount(after.labels_N), np.full(6, 50))
    assert after.cosine_N.sum() > before.cosine_N.sum() + 5


def test_where_each_cluster_has_its_centre_none_moves():
    unit_NE, truth_KE = speakers(6, 50, 0.3)
    found = assigned(unit_NE, truth_KE)
    centres_KE, moved = relocated(unit_NE, found)
    assert moved == 0 and np.array_equal(centres_KE, truth_KE)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_clusters_empty_ones_and_lone_utterances_are_no_trouble(number):
    unit_NE, truth_KE = speakers(3, 4, 0.1)
    centres_KE = truth_KE[:number].copy()
    if number == 3:
        centres_KE[2] = -unit_NE.sum(axis=0) / np.linalg.norm(unit_NE.sum(axis=0))  # nobody's
    better_KE, moved = relocated(unit_NE, assigned(unit_NE, centres_KE))
    assert np.allclose(np.linalg.norm(better_KE, axis=1), 1, atol=1e-5) and moved <= 1
    assert assigned(unit_NE, better_KE).cosine_N.sum() >= nearest(unit_NE, centres_KE)[1].sum() - 1e-4
    alone_NE = unit_NE[:number]
    assert relocated(alone_NE, assigned(alone_NE, alone_NE.copy()))[1] == 0


@pytest.mark.parametrize("seed", range(5))
def test_clusters_that_lie_apart_are_all_found_whatever_is_drawn_first(seed):
    unit_NE, truth_KE = speakers(100, 30, 0.5, seed=seed, dimension=64)
    best = nearest(unit_NE, truth_KE)[1].mean()
    found = kmeans(unit_NE, 100, seed=seed, iterations=20, per_cluster=0)
    assert found.cosine_N.mean() >= best - 1e-4
    assert np.array_equal(found.sizes_K, np.full(100, 30))
