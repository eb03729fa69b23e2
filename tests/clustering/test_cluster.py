"""The number of speakers, and the labels that are kept."""

import numpy as np
import pytest

from farvox.clustering import ClusterOptions
from farvox.clustering import cluster as module
from farvox.clustering.cluster import cluster, confident
from farvox.clustering.kmeans import by_size
from farvox.datadir.embeddings import EmbeddingSet
from farvox.errors import FarvoxError, UsageError
from farvox.metrics.clustering import normalised_mutual_information


@pytest.fixture
def speakers(blobs):
    """A function: embeddings, and the number of each one's speaker."""

    def draw(*shape, **settings):
        unit_NE, truth_N = blobs(*shape, **settings)
        return EmbeddingSet([f"u{n}" for n in range(len(unit_NE))], unit_NE), truth_N

    return draw


@pytest.mark.parametrize("method", ["kmeans", "ahc", "spectral"])
def test_the_elbow_recovers_the_number_of_speakers_within_a_tenth(method, speakers):
    embeddings, truth_N = speakers(20, 40)
    found = cluster(embeddings, ClusterOptions(clusters="2:60:2", method=method), truth_N=truth_N)
    assert 18 <= len(found.clustering.centres_KE) <= 22
    assert normalised_mutual_information(found.clustering.labels_N, truth_N) > 0.95
    assert found.elbow is not None and not found.elbow.at_edge
    assert found.truth is not None and found.truth.speakers == 20 and found.truth.nmi > 0.95
    assert found.facts["clusters"] == found.chosen and found.facts["kept"] == found.facts["utterances"] == 800


def test_one_number_is_taken_as_it_is(speakers):
    found = cluster(speakers(6, 20)[0], ClusterOptions(clusters="9"))
    assert len(found.clustering.centres_KE) == found.chosen == 9 and found.elbow is None
    assert found.wccs_C == pytest.approx([found.clustering.wccs()])


def test_the_same_seed_gives_the_same_labels(speakers):
    embeddings, _ = speakers(10, 20, spread=1.5)
    first, again = (cluster(embeddings, ClusterOptions(clusters="4:20:2"), seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.wccs_C, again.wccs_C)
    np.testing.assert_array_equal(first.clustering.labels_N, again.clustering.labels_N)


def test_more_restarts_never_give_worse_clusters_and_leave_the_curve_alone(speakers):
    embeddings, _ = speakers(12, 15, spread=1.8)
    one, many = (cluster(embeddings, ClusterOptions(clusters="6:18:4", restarts=n), seed=1) for n in (1, 12))
    np.testing.assert_array_equal(one.wccs_C, many.wccs_C)
    assert many.clustering.cosine_N.mean() >= one.clustering.cosine_N.mean()
    assert (one.clustering.labels_N != many.clustering.labels_N).any()


@pytest.mark.parametrize("method", ["kmeans", "ahc", "spectral"])
def test_an_interrupted_clustering_goes_on_to_the_same_end(method, speakers, tmp_path, monkeypatch):
    embeddings, _ = speakers(10, 20, spread=1.5)
    options, saved = ClusterOptions(clusters="4:20:2", method=method), tmp_path / "curve"
    whole = cluster(embeddings, options, saved=saved)
    lines = saved.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + len(options.numbers)
    saved.write_text("".join(lines[:4]))
    added, notes = [], []
    add = module.SavedCurve.add
    monkeypatch.setattr(
        module.SavedCurve, "add", lambda self, number, wccs: (added.append(number), add(self, number, wccs))
    )
    rest = cluster(embeddings, options, saved=saved, note=notes.append)
    assert added == [10, 12, 14, 16, 18] and "".join(lines) == saved.read_text()
    assert notes == [f"3 of 8 numbers of clusters are known: {saved}"]
    np.testing.assert_array_equal(rest.wccs_C, whole.wccs_C)
    np.testing.assert_array_equal(rest.clustering.labels_N, whole.clustering.labels_N)


def test_more_clusters_than_utterances_are_refused_before_anything_is_done(speakers, tmp_path):
    with pytest.raises(FarvoxError, match="60 clusters of 50 utterances"):
        cluster(speakers(5, 10)[0], ClusterOptions(clusters="10:70:10"), saved=tmp_path / "curve")
    assert not (tmp_path / "curve").exists()


@pytest.mark.parametrize(
    ("text", "numbers"), [("120", (120,)), ("2:5", (2, 3, 4)), ("10:40:10", (10, 20, 30))]
)
def test_numbers_of_clusters_are_read_as_ranges(text, numbers):
    assert ClusterOptions(clusters=text).numbers == numbers


@pytest.mark.parametrize(
    "text", ["", "ten", "5:5", "0:4", "10:2", "1:2:3:4", "-3", "3:5", "2:20:0", "9" * 5000]
)
def test_what_is_no_range_is_refused(text):
    with pytest.raises(UsageError, match=f"clusters = '{text}'"):
        ClusterOptions(clusters=text)


@pytest.fixture
def clustering():
    """Clusters of 4, 3 and 1."""
    labels = np.array([0, 1, 0, 1, 0, 2, 0, 1])
    cosine = np.float32([0.9, 0.8, 0.5, 0.3, 0.7, 0.9, 0.2, 0.6])
    return by_size(labels, cosine, np.eye(3, dtype=np.float32))


def test_everything_is_kept_by_default(clustering):
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


def test_utterances_whose_clusters_are_no_partners_are_dropped(clustering):
    earlier = np.array([7, 1, 7, 1, 7, 1, 1, 1], np.int32)
    assert np.flatnonzero(confident(clustering, ClusterOptions(), earlier)).tolist() == [0, 1, 2, 3, 4, 7]


@pytest.mark.parametrize(
    ("name", "value"), [("min_size", 0), ("min_cosine", 1.5), ("keep", 0.0), ("keep", 1.1), ("iterations", 0)]
)
def test_conditions_that_mean_nothing_are_refused(name, value):
    with pytest.raises(UsageError, match=f"{name} = {value}"):
        ClusterOptions(**{name: value})
