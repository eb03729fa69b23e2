import numpy as np
import pytest

from farvox.errors import UsageError
from farvox.farfield import ARRAYS, RoomOptions
from farvox.farfield.scenes import draw_scene


@pytest.mark.parametrize("array", ARRAYS)
def test_a_scene_has_a_response_for_each_microphone(array: str) -> None:
    scene = draw_scene(np.random.default_rng(1), RoomOptions(array=array, t60=(0.25, 0.3)), sources=2)
    assert [len(rirs_CT) for rirs_CT in scene.rirs_CT] == 2 * [ARRAYS[array]]


def test_sources_stand_at_the_distance_that_was_asked_for() -> None:
    scene = draw_scene(np.random.default_rng(2), RoomOptions(t60=(0.25, 0.3), distance=(2.0, 2.5)), sources=4)
    assert all(2.0 <= distance <= 2.5 for distance in scene.distances)
    for rirs_CT, distance in zip(scene.rirs_CT, scene.distances, strict=True):
        first = int(np.argmax(np.abs(rirs_CT[0]) > 0.3 / distance))
        assert first == pytest.approx(distance / 343 * 16000, abs=4)


def test_microphones_about_the_room_are_at_different_distances() -> None:
    scene = draw_scene(np.random.default_rng(3), RoomOptions(array="adhoc4", t60=(0.25, 0.3)), sources=1)
    arrivals = [int(np.argmax(np.abs(rir_T) > 0.5 * np.abs(rir_T).max())) for rir_T in scene.rirs_CT[0]]
    assert max(arrivals) - min(arrivals) > 16000 * 0.5 / 343


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"array": "round"}, "array = 'round'; it must be one of single, circular16"),
        ({"array": "linear4", "channels": (4,)}, "linear4 has no channel 4"),
        ({"array": "linear4", "channels": (1, 1)}, "one is named twice"),
        ({"t60": (0.5, 0.3)}, "t60 goes from the least to the greatest, not 0.5 to 0.3"),
        ({"t60": (0.1, 0.3)}, "t60 = 0.1; it must be at least 0.15"),
        ({"t60": (0.3, np.inf)}, "t60 goes from the least"),
        ({"distance": (1.0, 9.0)}, "distance = 9.0; it must be at most 5"),
    ],
)
def test_what_no_scene_can_have_is_refused(wrong: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        draw_scene(np.random.default_rng(0), RoomOptions(**wrong), sources=1)  # type: ignore[arg-type]
