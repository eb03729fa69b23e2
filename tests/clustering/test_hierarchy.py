"""Merged k-means clusters, and spectral clustering of a sample."""

import numpy as np
import pytest

from farvox.clustering.hierarchy import merged_clusters, spectral_clusters
from farvox.metrics.clustering import normalised_mutual_information


@pytest.mark.parametrize("clusters", [merged_clusters, spectral_clusters])
def test_separate_speakers_are_found_at_the_true_number(clusters, blobs):
    unit, truth = blobs(20, 25)
    few, right = clusters(unit, [5, 20], most=20)
    assert len(few.centres_KE) == 5 and len(right.centres_KE) == 20
    assert normalised_mutual_information(right.labels_N, truth) > 0.95


def test_a_sample_stands_for_all(blobs, monkeypatch):
    monkeypatch.setattr("farvox.clustering.hierarchy.SAMPLE", 150)
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
