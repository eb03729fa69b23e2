"""A talker's places around an array in a room: drawn, simulated, measured.

Shape suffixes: C channel (microphone), T sample, 3 the axes x, y, z in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farvox.errors import AudioError
from farvox.farfield.arrays import circular_array, linear_array
from farvox.farfield.rooms import Room, Samples, draw_room, measure_drr, measure_t60, simulate_rirs

ARRAYS = {"single": 1, "circular16": 16, "circular4": 4, "linear4": 4, "adhoc4": 4}
"""Array -> microphones. The circles have a radius of 5 cm, the line a spacing of 5 cm; those of ``adhoc4``
stand about the room, and its middle is its first one."""

FARTHEST = 5.0  # metres, what fits into every room that is drawn
LEAST_T60 = 0.15  # seconds; by Sabine's formula the largest room that is drawn has 0.146 s without any echo

Floats = NDArray[np.float64]


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


def draw_scene(
    rng: np.random.Generator,
    *,
    sources: int,
    array: str = "single",
    channels: Sequence[int] | None = None,
    t60: tuple[float, float] = (0.3, 0.8),
    distance: tuple[float, float] = (1.0, FARTHEST),
    sample_rate: int = 16000,
) -> Scene:
    """Draw a room, an array near one of its walls and sources before it, and simulate the responses.

    Args:
        rng: source of randomness.
        sources: how many.
        array: one of `ARRAYS`.
        channels: which of its microphones; None for all.
        t60: range of the reverberation time, seconds.
        distance: range of the distance from the array to a source, metres.
        sample_rate: Hz.

    Raises:
        AudioError: no such array, channel or distance, or no wall can be absorbent enough for the T60.
        MissingExtraError: pyroomacoustics is not installed.
    """
    refuse_scene(array, channels, t60, distance)
    room = draw_room(rng, t60=t60)
    centre_3 = np.array([rng.uniform(0.5, 1.0), rng.uniform(0.5, room.size[1] - 0.5), rng.uniform(0.7, 1.5)])
    if array.startswith("adhoc"):
        array_C3 = _scattered(rng, room, centre_3, ARRAYS[array])
    else:
        array_C3 = _array(array, centre_3, rng.uniform(0, 2 * np.pi))
    if channels is not None:
        array_C3 = array_C3[list(channels)]
    places = [_place(rng, room, centre_3, rng.uniform(*distance)) for _ in range(sources)]
    rirs = [
        simulate_rirs(room, place_3, array_C3, sample_rate=sample_rate, tail_seed=int(rng.integers(2**32)))
        for place_3 in places
    ]
    return Scene(room, tuple(float(np.linalg.norm(place_3 - centre_3)) for place_3 in places), tuple(rirs))


def refuse_scene(
    array: str,
    channels: Sequence[int] | None,
    t60: tuple[float, float],
    distance: tuple[float, float],
) -> None:
    """What `draw_scene` refuses, before any work.

    Raises:
        AudioError: see there.
    """
    if array not in ARRAYS:
        raise AudioError(f"no array is called '{array}'; there are {', '.join(ARRAYS)}")
    for channel in channels or ():
        if not 0 <= channel < ARRAYS[array]:
            raise AudioError(f"{array} has no channel {channel}; it has {ARRAYS[array]}, counted from 0")
    if not LEAST_T60 <= t60[0] <= t60[1] < np.inf:
        raise AudioError(
            f"a T60 goes from the least ({LEAST_T60:g} s, what walls can do in the largest room) to the "
            f"greatest, not {t60[0]} to {t60[1]}"
        )
    if not 0.5 <= distance[0] <= distance[1] <= FARTHEST:
        raise AudioError(
            f"a distance goes from the least (0.5 m) to the greatest ({FARTHEST:g} m), "
            f"not {distance[0]} to {distance[1]}"
        )


def measured(rir_T: Samples, sample_rate: int = 16000) -> tuple[float | None, float | None]:
    """T60 in seconds and DRR in dB of an impulse response; None where it does not show one.

    The T60 is that of a decay of 30 dB, or of 20 dB where noise in the recording hides the rest.
    """
    t60 = drr = None
    for decay_db in (20.0, 30.0):
        with suppress(AudioError):
            t60 = measure_t60(rir_T, sample_rate, decay_db=decay_db)
    with suppress(AudioError):
        drr = measure_drr(rir_T, sample_rate)
    return t60, drr


def _array(name: str, centre_3: Floats, turn: float) -> Floats:
    if name == "single":
        return centre_3[None]
    if name.startswith("circular"):
        return circular_array(centre_3, num=ARRAYS[name], turn=turn)
    return linear_array(centre_3, num=ARRAYS[name], turn=turn)


def _scattered(rng: np.random.Generator, room: Room, first_3: Floats, num: int) -> Floats:
    """Microphones on tables anywhere in the room, half a metre and more from its walls."""
    size_3 = np.array(room.size)
    least_3, most_3 = np.array([0.5, 0.5, 0.7]), np.array([size_3[0] - 0.5, size_3[1] - 0.5, 1.5])
    return np.concatenate([first_3[None], rng.uniform(least_3, most_3, (num - 1, 3))])


def _place(rng: np.random.Generator, room: Room, centre_3: Floats, distance: float) -> Floats:
    """A place at that distance, at any bearing that stays in the room; straight ahead always does."""
    height = float(np.clip(rng.uniform(1.1, 1.8), centre_3[2] - 0.9 * distance, centre_3[2] + 0.9 * distance))
    across = np.sqrt(distance**2 - (height - centre_3[2]) ** 2)
    for bearing in (*rng.uniform(-np.pi / 2, np.pi / 2, 50), 0.0):
        way_3 = np.array([across * np.cos(bearing), across * np.sin(bearing), height - centre_3[2]])
        place_3 = centre_3 + way_3
        if np.all(place_3 > 0.15) and np.all(place_3 < np.array(room.size) - 0.15):
            break
    return np.asarray(place_3, dtype=np.float64)
