"""Spherical k-means and what it is made of."""

import numpy as np
import pytest

from farvox.clustering.kmeans import (
    Assignment,
    UnitRows,
    by_size,
    cosines_to,
    kmeans,
    lloyd,
    mean_directions,
    merged_clusters,
    nearest,
    relocated,
    spectral_clusters,
)
from farvox.datadir.embeddings import EmbeddingSet
from farvox.errors import DataDirError, FarvoxError
from farvox.metrics.clustering import normalised_mutual_information


def test_separate_speakers_are_found(blobs):
    unit, truth = blobs(30, 20)
    found = kmeans(unit, 30, restarts=3)
    assert normalised_mutual_information(found.labels_N, truth) > 0.97


def test_the_same_seed_gives_the_same_clusters_and_another_seed_others(blobs):
    unit, _ = blobs(20, 20, spread=2.0)
    first, again, other = (kmeans(unit, 15, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.labels_N, again.labels_N)
    np.testing.assert_array_equal(first.centres_KE, again.centres_KE)
    assert np.any(first.labels_N != other.labels_N)


def test_clusters_are_numbered_by_size_and_none_is_empty(blobs):
    unit, _ = blobs(5, 12)
    found = kmeans(unit, 9)
    assert np.all(np.diff(found.sizes_K) <= 0) and found.sizes_K.min() >= 1
    assert found.sizes_K.sum() == 60
    np.testing.assert_allclose(np.linalg.norm(found.centres_KE, axis=1), 1, atol=1e-5)


def test_every_utterance_is_with_its_nearest_centre(blobs):
    unit, _ = blobs(6, 15, spread=2.0)
    found = kmeans(unit, 6)
    cosines = unit @ found.centres_KE.T
    np.testing.assert_array_equal(cosines.argmax(axis=1), found.labels_N)
    np.testing.assert_allclose(cosines.max(axis=1), found.cosine_N, atol=1e-5)


def test_copies_of_one_embedding_are_one_cluster_whatever_is_asked():
    unit = np.tile(np.float32([[1, 0, 0, 0]]), (20, 1))
    found = kmeans(unit, 1)
    assert found.wccs() == pytest.approx(1) and len(found.centres_KE) == 1
    assert kmeans(unit, 3).wccs() == pytest.approx(1, abs=1e-3)


def test_the_intra_class_cosine_is_a_mean_of_clusters_or_of_samples():
    found = by_size(np.array([0, 0, 0, 1]), np.float32([1, 1, 1, 0.5]), np.eye(2, dtype=np.float32))
    assert found.wccs() == pytest.approx(0.75)
    assert found.wccs(over_samples=True) == pytest.approx(3.5 / 4)


def test_blocks_are_put_together_as_if_there_were_none(blobs, monkeypatch):
    unit, truth = blobs(4, 25)
    whole = mean_directions(unit, truth, 4), nearest(unit, unit[:4]), cosines_to(unit, truth, unit[:4])
    monkeypatch.setattr("farvox.clustering.kmeans.ROWS", 7)
    monkeypatch.setattr("farvox.clustering.kmeans.CELLS", 9)
    np.testing.assert_allclose(mean_directions(unit, truth, 4), whole[0], atol=1e-6)
    np.testing.assert_array_equal(nearest(unit, unit[:4])[0], whole[1][0])
    np.testing.assert_allclose(cosines_to(unit, truth, unit[:4]), whole[2], atol=1e-6)


def test_embeddings_are_scaled_to_unit_length_and_bad_ones_are_named():
    good = EmbeddingSet(["a", "b"], np.float32([[3, 4], [0, 2]]))
    np.testing.assert_allclose(UnitRows(good)[:], [[0.6, 0.8], [0, 1]], atol=1e-7)
    for bad in (0, np.nan, np.inf):
        with pytest.raises(DataDirError, match="embedding of 'b' is zero or not finite"):
            UnitRows(EmbeddingSet(["a", "b"], np.float32([[3, 4], [0, bad]])))


@pytest.mark.parametrize("number", [0, 11])
def test_more_clusters_than_utterances_are_refused(number, blobs):
    with pytest.raises(FarvoxError, match=f"{number} clusters of 10 utterances"):
        kmeans(blobs(2, 5)[0], number)


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
        centres_KE[2] = -unit_NE.sum(axis=0) / np.linalg.norm(unit_NE.sum(axis=0))  # no utterance is near it
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


@pytest.mark.parametrize("clusters", [merged_clusters, spectral_clusters])
def test_separate_speakers_are_found_at_the_true_number(clusters, blobs):
    unit, truth = blobs(20, 25)
    few, right = clusters(unit, [5, 20], most=20)
    assert len(few.centres_KE) == 5 and len(right.centres_KE) == 20
    assert normalised_mutual_information(right.labels_N, truth) > 0.95


def test_a_sample_stands_for_all(blobs, monkeypatch):
    monkeypatch.setattr("farvox.clustering.kmeans.SAMPLE", 150)
    unit, truth = blobs(10, 60)
    (found,) = spectral_clusters(unit, [10], most=10)
    assert len(found.labels_N) == 600
    assert normalised_mutual_information(found.labels_N, truth) > 0.95


def test_merging_finds_clusters_of_unequal_size(blobs):
    unit, truth = blobs(8, 40)
    kept = np.concatenate(
        [np.flatnonzero(truth == 0), *(np.flatnonzero(truth == n)[:6] for n in range(1, 8))]
    )
    (found,) = merged_clusters(unit[kept], [8], most=8)
    assert normalised_mutual_information(found.labels_N, truth[kept]) > 0.95


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
    monkeypatch.setattr("farvox.clustering.kmeans.CELLS", 1000)  # several blocks
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


def test_a_centre_without_members_starts_anew():
    unit = np.float32([[1, 0], [1, 0], [0, 1], [0.1, 0.995]])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = lloyd(unit, np.float32([[1, 0], [-1, 0]]), 10)
    assert found.labels_N.tolist() == [0, 0, 1, 1]
