"""How many speakers there are, and whose labels are kept."""

import numpy as np
import pytest

from farvox.clustering.cluster import ClusterOptions, cluster, confident, numbers_of_clusters
from farvox.clustering.kmeans import by_size
from farvox.errors import FarvoxError, UsageError
from farvox.metrics.clustering import normalised_mutual_information


@pytest.mark.parametrize("method", ["kmeans", "ahc", "spectral"])
def test_the_elbow_recovers_the_number_of_speakers_within_a_tenth(method, blobs):
    unit, truth = blobs(20, 40)
    sweep = cluster(unit, ClusterOptions(clusters="2:60:2", method=method))
    assert 18 <= len(sweep.clustering.centres_KE) <= 22
    assert normalised_mutual_information(sweep.clustering.labels_N, truth) > 0.95
    assert sweep.elbow is not None and not sweep.elbow.at_edge


def test_one_number_is_taken_as_it_is(blobs):
    sweep = cluster(blobs(6, 20)[0], ClusterOptions(clusters="9"))
    assert len(sweep.clustering.centres_KE) == 9 and sweep.elbow is None
    assert sweep.wccs_C == pytest.approx([sweep.clustering.wccs()])


def test_the_same_seed_gives_the_same_sweep(blobs):
    unit, _ = blobs(10, 20, spread=1.5)
    first, again = (cluster(unit, ClusterOptions(clusters="4:20:2"), seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.wccs_C, again.wccs_C)
    np.testing.assert_array_equal(first.clustering.labels_N, again.clustering.labels_N)


def test_progress_is_shown_for_each_number(blobs):
    shown = []
    options = ClusterOptions(clusters="2:8:2")
    cluster(blobs(5, 10)[0], options, progress=lambda *each: shown.append(each[:2]))
    assert shown == [(1, 2), (2, 4), (3, 6)]


@pytest.mark.parametrize("method", ["kmeans", "ahc", "spectral"])
def test_a_sweep_goes_on_from_what_is_known_to_the_same_end(method, blobs):
    unit, _ = blobs(10, 20, spread=1.5)
    options = ClusterOptions(clusters="4:20:2", method=method)
    whole, found = cluster(unit, options), []
    known = {number: float(whole.wccs_C[n]) for n, number in enumerate((4, 6, 8))}
    rest = cluster(unit, options, known=known, progress=lambda *each: found.append(each[:2]))
    assert found == [(4, 10), (5, 12), (6, 14), (7, 16), (8, 18)]
    np.testing.assert_array_equal(rest.wccs_C, whole.wccs_C)
    np.testing.assert_array_equal(rest.clustering.labels_N, whole.clustering.labels_N)


def test_more_clusters_than_utterances_are_refused_before_anything_is_done(blobs):
    with pytest.raises(FarvoxError, match="60 clusters of 50 utterances"):
        cluster(blobs(5, 10)[0], ClusterOptions(clusters="10:70:10"))


@pytest.mark.parametrize(
    ("text", "numbers"), [("120", (120,)), ("2:5", (2, 3, 4)), ("10:40:10", (10, 20, 30))]
)
def test_numbers_of_clusters_are_read_as_ranges(text, numbers):
    assert numbers_of_clusters(text) == numbers


@pytest.mark.parametrize("text", ["", "ten", "5:5", "0:4", "10:2", "1:2:3:4", "-3"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(FarvoxError, match="number of clusters"):
        numbers_of_clusters(text)


@pytest.fixture
def clustering():
    """Clusters of 4, 3 and 1."""
    labels = np.array([0, 1, 0, 1, 0, 2, 0, 1])
    cosine = np.float32([0.9, 0.8, 0.5, 0.3, 0.7, 0.9, 0.2, 0.6])
    return by_size(labels, cosine, np.eye(3, dtype=np.float32))


def test_every_label_is_kept_by_default(clustering):
    assert confident(clustering, ClusterOptions()).all()


def test_far_utterances_are_dropped_and_then_small_clusters(clustering):
    assert np.flatnonzero(confident(clustering, ClusterOptions(min_cosine=0.55))).tolist() == [0, 1, 4, 5, 7]
    assert np.flatnonzero(confident(clustering, ClusterOptions(min_size=2))).tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert np.flatnonzero(confident(clustering, ClusterOptions(min_cosine=0.65, min_size=2))).tolist() == [
        0,
        4,
    ]


def test_a_share_of_each_cluster_is_kept_nearest_first(clustering):
    assert np.flatnonzero(confident(clustering, ClusterOptions(keep=0.5))).tolist() == [0, 1, 4, 5, 7]


def test_a_share_of_a_round_number_of_utterances_is_exact():
    many = by_size(np.zeros(100, int), np.linspace(0, 1, 100, dtype=np.float32), np.eye(1, dtype=np.float32))
    assert confident(many, ClusterOptions(keep=0.07)).sum() == 7


def test_utterances_that_changed_company_are_dropped(clustering):
    earlier = np.array([7, 1, 7, 1, 7, 1, 1, 1], np.int32)
    assert np.flatnonzero(confident(clustering, ClusterOptions(), earlier)).tolist() == [0, 1, 2, 3, 4, 7]


@pytest.mark.parametrize("wrong", [{"min_size": 0}, {"min_cosine": 1.5}, {"keep": 0.0}, {"keep": 1.1}])
def test_conditions_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ClusterOptions(**wrong)
