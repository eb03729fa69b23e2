"""The curve over numbers of clusters: kept on disk, and its bend."""

import numpy as np
import pytest

from farvox.clustering.elbow import SavedCurve, find_elbow
from farvox.errors import FarvoxError

SETTINGS = {"numbers": [2, 4, 6], "seed": 3}


@pytest.fixture
def unit():
    return np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)


def test_points_are_read_back_to_the_last_bit(tmp_path, unit):
    values = np.random.default_rng(1).random(3).tolist()
    curve = SavedCurve.open(tmp_path / "sweep", unit, SETTINGS)
    for number, value in zip(SETTINGS["numbers"], values, strict=True):
        curve.add(number, value)
    assert SavedCurve.open(tmp_path / "sweep", unit, SETTINGS).values == dict(
        zip([2, 4, 6], values, strict=True)
    )


def test_a_line_that_was_being_written_is_forgotten(tmp_path, unit):
    SavedCurve.open(tmp_path / "sweep", unit, SETTINGS).add(2, 0.5)
    with (tmp_path / "sweep").open("a") as file:
        file.write('{"clusters": 4, "wc')
    curve = SavedCurve.open(tmp_path / "sweep", unit, SETTINGS)
    assert curve.values == {2: 0.5}
    curve.add(4, 0.75)
    assert SavedCurve.open(tmp_path / "sweep", unit, SETTINGS).values == {2: 0.5, 4: 0.75}


def test_a_line_that_is_damaged_is_forgotten_with_those_after_it(tmp_path, unit):
    curve = SavedCurve.open(tmp_path / "sweep", unit, SETTINGS)
    for number in (2, 4, 8):
        curve.add(number, 0.5)
    text = (tmp_path / "sweep").read_text()
    (tmp_path / "sweep").write_text(text.replace('"clusters": 4', '"clusters": ' + "[" * 5000))
    assert SavedCurve.open(tmp_path / "sweep", unit, SETTINGS).values == {2: 0.5}


def test_another_sweep_begins_anew(tmp_path, unit):
    SavedCurve.open(tmp_path / "sweep", unit, SETTINGS).add(2, 0.5)
    assert SavedCurve.open(tmp_path / "sweep", unit, SETTINGS | {"seed": 4}).values == {}
    SavedCurve.open(tmp_path / "sweep", unit, SETTINGS).add(2, 0.5)
    unit[7, 3] += 1e-6
    assert SavedCurve.open(tmp_path / "sweep", unit, SETTINGS).values == {}


def curve_of(numbers, bend):
    """Steep up to the bend, flat after it, on a logarithmic axis."""
    place = np.log(numbers)
    return np.minimum(place, np.log(bend)) + 0.05 * place


@pytest.mark.parametrize("bend", [50, 120, 400])
def test_a_broken_line_bends_within_a_step_of_where_it_is_broken(bend):
    numbers = np.arange(10, 2000, 10)
    assert abs(find_elbow(numbers, curve_of(numbers, bend)).num_clusters - bend) <= 10


def test_a_little_noise_moves_the_bend_little():
    numbers = np.arange(10, 600, 10)
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(numbers))
    assert abs(find_elbow(numbers, curve_of(numbers, 120) + noise).num_clusters - 120) <= 20


def test_on_a_linear_axis_a_wider_range_moves_the_bend_up():
    """The known bias: where the bend is round, the chord follows the range."""
    found = {}
    for end in (300, 2000):
        numbers = np.arange(10, end, 10)
        wccs = 1 - 1 / (1 + numbers / 60) ** 0.7
        found[end] = {axis: find_elbow(numbers, wccs, axis=axis).num_clusters for axis in ("linear", "log")}
    assert found[2000]["linear"] > 2 * found[300]["linear"]


def test_a_straight_line_and_a_flat_one_end_at_an_edge_and_say_so():
    assert find_elbow([1, 2, 3, 4, 5], [0.5] * 5).at_edge
    assert find_elbow([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], axis="linear").at_edge
    assert not find_elbow(np.arange(10, 300, 10), curve_of(np.arange(10, 300, 10), 120)).at_edge


@pytest.mark.parametrize("numbers", [[1, 2], [3, 2, 1], [1, 1, 2]])
def test_too_few_numbers_or_unsorted_ones_are_refused(numbers):
    with pytest.raises(FarvoxError, match="at least three ascending"):
        find_elbow(numbers, np.arange(len(numbers)))
