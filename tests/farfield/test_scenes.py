import numpy as np
import pytest

from farvox.errors import AudioError
from farvox.farfield.mixing import convolve_array, direct_path
from farvox.farfield.scenes import ARRAYS, draw_scene, measured


@pytest.mark.parametrize("array", ARRAYS)
def test_a_scene_has_a_response_for_each_microphone(array: str) -> None:
    scene = draw_scene(np.random.default_rng(1), sources=2, array=array, t60=(0.25, 0.3))
    assert [len(rirs_CT) for rirs_CT in scene.rirs_CT] == 2 * [ARRAYS[array]]


def test_sources_stand_at_the_distance_that_was_asked_for() -> None:
    scene = draw_scene(np.random.default_rng(2), sources=4, t60=(0.25, 0.3), distance=(2.0, 2.5))
    assert all(2.0 <= distance <= 2.5 for distance in scene.distances)
    for rirs_CT, distance in zip(scene.rirs_CT, scene.distances, strict=True):
        first = int(np.argmax(np.abs(rirs_CT[0]) > 0.3 / distance))
        assert first == pytest.approx(distance / 343 * 16000, abs=4)


def test_microphones_about_the_room_are_at_different_distances() -> None:
    scene = draw_scene(np.random.default_rng(3), sources=1, array="adhoc4", t60=(0.25, 0.3))
    arrivals = [int(np.argmax(np.abs(rir_T) > 0.5 * np.abs(rir_T).max())) for rir_T in scene.rirs_CT[0]]
    assert max(arrivals) - min(arrivals) > 16000 * 0.5 / 343


def test_a_response_that_does_not_decay_has_no_t60() -> None:
    assert measured(np.ones(100, np.float32))[0] is None


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"array": "round"}, "no array is called 'round'"),
        ({"array": "linear4", "channels": (4,)}, "linear4 has no channel 4"),
        ({"t60": (0.5, 0.3)}, "T60 goes from the least"),
        ({"t60": (0.1, 0.3)}, "T60 goes from the least"),
        ({"t60": (0.3, np.inf)}, "T60 goes from the least"),
        ({"distance": (1.0, 9.0)}, "distance goes from the least"),
    ],
)
def test_what_no_scene_can_have_is_refused(wrong: dict[str, object], what: str) -> None:
    with pytest.raises(AudioError, match=what):
        draw_scene(np.random.default_rng(0), sources=1, **wrong)  # type: ignore[arg-type]


def test_an_array_keeps_the_delays_between_its_microphones() -> None:
    rirs_CR = np.zeros((2, 50), np.float32)
    rirs_CR[0, 10], rirs_CR[1, 13] = 1.0, 0.5
    wav_T = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    heard_CT = convolve_array(wav_T, rirs_CR)
    np.testing.assert_allclose(heard_CT[0], wav_T, atol=1e-5)
    np.testing.assert_allclose(heard_CT[1, 3:], 0.5 * wav_T[:-3], atol=1e-5)
    assert direct_path(rirs_CR[1]) - direct_path(rirs_CR[0]) == 3
