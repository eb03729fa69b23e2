import numpy as np
import pytest

from farvox.farfield.arrays import circular_array, linear_array


def test_a_circular_array_has_its_microphones_on_the_circle_at_equal_angles():
    centre = np.array([1.0, 2.0, 0.8])
    offsets = circular_array(centre, num=16, radius=0.05, turn=0.3) - centre
    assert np.allclose(np.linalg.norm(offsets, axis=1), 0.05)
    neighbours = np.linalg.norm(np.diff(offsets, axis=0), axis=1)
    assert np.allclose(neighbours, 2 * 0.05 * np.sin(np.pi / 16))
    assert np.allclose(np.arctan2(offsets[0, 1], offsets[0, 0]), 0.3)


def test_a_linear_array_is_centred_and_equally_spaced():
    positions = linear_array((1.0, 1.0, 1.0), num=4, spacing=0.1, turn=np.pi / 2)
    assert np.allclose(positions.mean(axis=0), 1.0)
    assert np.allclose(np.diff(positions[:, 1]), 0.1)
    assert positions[:, 0] == pytest.approx(1.0)
