"""Agreement of two labellings, against values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.errors import FarvoxError
from farvox.metrics.clustering import (
    contingency,
    mutual_agreement,
    normalised_mutual_information,
    purity,
)

TRUTH = [0, 0, 0, 1, 1, 1]
FOUND = [0, 0, 1, 1, 2, 2]
labels = st.lists(st.integers(0, 4), min_size=1, max_size=40)


def test_nmi_of_a_small_example_is_what_comes_out_by_hand():
    # H(truth) = ln 2; H(found) = ln 3; of the six, two pairs meet 2 x and two 1 x:
    # I = 2 * (1/3) ln((1/3) / (1/2 * 1/3)) + 2 * (1/6) ln((1/6) / (1/2 * 1/3)) = (2/3) ln 2
    assert normalised_mutual_information(FOUND, TRUTH) == pytest.approx(
        2 * (2 / 3) * np.log(2) / (np.log(2) + np.log(3)), abs=1e-12
    )


def test_purity_of_a_small_example_is_what_comes_out_by_hand():
    assert purity(FOUND, TRUTH) == pytest.approx((2 + 1 + 2) / 6)
    assert purity(TRUTH, FOUND) == pytest.approx((2 + 2) / 6)


def test_labels_that_are_names_are_compared_by_what_they_group():
    assert normalised_mutual_information(["x", "x", "y"], [7, 7, -1]) == pytest.approx(1)
    assert purity(["x", "x", "y"], [7, 7, -1]) == 1


def test_independent_labellings_share_no_information():
    assert normalised_mutual_information([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(0, abs=1e-12)


def test_one_cluster_of_everything_is_the_same_partition_as_itself():
    assert normalised_mutual_information([1, 1, 1], [4, 4, 4]) == 1
    assert normalised_mutual_information([1, 1, 1], [0, 1, 2]) == pytest.approx(0, abs=1e-12)


def test_clusters_are_matched_so_that_the_most_agree():
    first, second = [0, 0, 0, 1, 1, 2], [5, 5, 6, 6, 6, 6]
    assert mutual_agreement(first, second).tolist() == [True, True, False, True, True, False]


def test_the_table_holds_only_the_pairs_that_meet():
    pairs, counts = contingency([3, 3, 9], ["b", "a", "a"])
    assert sorted((*pair, count) for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)) == [
        (0, 0, 1), (0, 1, 1), (1, 0, 1)
    ]  # fmt: skip


@given(labels, st.permutations(range(5)))
def test_the_numbers_of_clusters_mean_nothing(first, names):
    second = [names[label] for label in first]
    assert normalised_mutual_information(first, second) == pytest.approx(1)
    assert purity(first, second) == 1
    assert mutual_agreement(first, second).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_nmi_is_symmetric_and_lies_between_0_and_1(pairs):
    first, second = zip(*pairs, strict=True)
    value = normalised_mutual_information(first, second)
    assert 0 <= value <= 1
    assert value == pytest.approx(normalised_mutual_information(second, first), abs=1e-9)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1, 2], [1]), ([[1]], [[1]])])
def test_what_cannot_be_compared_is_refused(first, second):
    with pytest.raises(FarvoxError, match="cannot be compared"):
        purity(first, second)
