"""A talker's places around an array in a room: drawn, simulated, measured.

Shape suffixes: C channel (microphone), T sample, 3 the axes x, y, z in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from farvox.farfield import ARRAYS, RoomOptions
from farvox.farfield.rooms import Room, Samples, circular_array, draw_room, linear_array, simulate_rirs


@dataclass(frozen=True, slots=True)
class Scene:
    """One array in one room, and sources around it.

    Attributes:
        room: the room, with the T60 that was asked for.
        distances: from each source to the middle of the array, metres.
        rirs_CT: for each source, the impulse response to each microphone.
    """

    room: Room
    distances: tuple[float, ...]
    rirs_CT: tuple[Samples, ...]


def draw_scene(rng: np.random.Generator, options: RoomOptions, *, sources: int) -> Scene:
    """Draw a room, an array near one of its walls and ``sources`` before it, and simulate the responses.

    Raises:
        AudioError: no wall can be absorbent enough for the T60.
        MissingExtraError: pyroomacoustics is not installed.
        UsageError: the array has no such channel.
    """
    options.refuse_absent_channels()
    array = options.array
    room = draw_room(rng, t60=options.t60)
    centre_3 = np.array([rng.uniform(0.5, 1.0), rng.uniform(0.5, room.size[1] - 0.5), rng.uniform(0.7, 1.5)])
    if array == "adhoc4":  # on tables anywhere in the room, half a metre and more from its walls
        least_3, most_3 = np.array([0.5, 0.5, 0.7]), np.array([room.size[0] - 0.5, room.size[1] - 0.5, 1.5])
        others_C3 = rng.uniform(least_3, most_3, (ARRAYS[array] - 1, 3))
        array_C3 = np.concatenate([centre_3[None], others_C3])
    else:
        turn = rng.uniform(0, 2 * np.pi)
        if array == "single":
            array_C3 = centre_3[None]
        elif array == "linear4":
            array_C3 = linear_array(centre_3, num=ARRAYS[array], turn=turn)
        else:
            array_C3 = circular_array(centre_3, num=ARRAYS[array], turn=turn)
    array_C3 = array_C3[list(options.microphones)]
    places = []
    for _ in range(sources):  # at any bearing that stays in the room; straight ahead always does
        distance = rng.uniform(*options.distance)
        lowest, highest = centre_3[2] - 0.9 * distance, centre_3[2] + 0.9 * distance
        height = float(np.clip(rng.uniform(1.1, 1.8), lowest, highest))
        across = np.sqrt(distance**2 - (height - centre_3[2]) ** 2)
        for bearing in (*rng.uniform(-np.pi / 2, np.pi / 2, 50), 0.0):
            way_3 = np.array([across * np.cos(bearing), across * np.sin(bearing), height - centre_3[2]])
            place_3 = centre_3 + way_3
            if np.all(place_3 > 0.15) and np.all(place_3 < np.array(room.size) - 0.15):
                break
        places.append(place_3)
    rirs = [simulate_rirs(room, place_3, array_C3, tail_seed=int(rng.integers(2**32))) for place_3 in places]
    return Scene(room, tuple(float(np.linalg.norm(place_3 - centre_3)) for place_3 in places), tuple(rirs))
