"""The curve of a sweep on disk."""

import numpy as np
import pytest

from farvox.clustering.curve import SavedCurve

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


def test_another_sweep_begins_anew(tmp_path, unit):
    SavedCurve.open(tmp_path / "sweep", unit, SETTINGS).add(2, 0.5)
    assert SavedCurve.open(tmp_path / "sweep", unit, SETTINGS | {"seed": 4}).values == {}
    SavedCurve.open(tmp_path / "sweep", unit, SETTINGS).add(2, 0.5)
    unit[7, 3] += 1e-6
    assert SavedCurve.open(tmp_path / "sweep", unit, SETTINGS).values == {}
