import sys

import numpy as np
import pytest

from farvox.errors import AudioError, MissingExtraError
from farvox.farfield.arrays import circular_array
from farvox.farfield.rooms import SPEED_OF_SOUND, Room, draw_room, measure_drr, measure_t60, simulate_rirs

TALKER = (0.9, 2.1, 1.6)


def decaying_noise(t60, sample_rate=16000):
    num_samples = int(1.2 * t60 * sample_rate)
    noise = np.random.default_rng(0).standard_normal(num_samples)
    return noise * 10 ** (-3 * np.arange(num_samples) / (t60 * sample_rate))


@pytest.mark.parametrize("t60", [0.25, 0.6, 1.0])
def test_t60_of_exponentially_decaying_noise_is_that_of_its_decay(t60):
    assert measure_t60(decaying_noise(t60)) == pytest.approx(t60, rel=0.03)


def test_t60_is_refused_for_silence_and_for_a_response_that_is_cut_off():
    with pytest.raises(AudioError, match="silent"):
        measure_t60(np.zeros(100))
    with pytest.raises(AudioError, match="does not decay by 35 dB"):
        measure_t60(np.ones(16))


def test_noise_and_the_end_of_a_recording_are_not_taken_for_the_room():
    noise = np.random.default_rng(1).standard_normal(32000)
    decay = noise * 10 ** (-3 * np.arange(32000) / (0.5 * 16000))
    recorded = decay + 0.01 * np.random.default_rng(2).standard_normal(32000)  # noise at -40 dB
    assert measure_t60(recorded, decay_db=20) == pytest.approx(0.5, rel=0.05)
    with pytest.raises(AudioError, match="35 dB before it ends or noise covers it"):
        measure_t60(recorded)
    for cut_off in (decaying_noise(1.0)[:4000], np.pad(decaying_noise(1.0)[:4000], (0, 16000))):
        with pytest.raises(AudioError, match="before it ends"):
            measure_t60(cut_off, decay_db=20)


def test_drr_is_the_ratio_of_the_first_arrival_to_the_rest():
    rir = np.zeros(8000)
    rir[100], rir[1000], rir[1001] = 1.0, 1.5, 0.5
    assert measure_drr(rir) == pytest.approx(10 * np.log10(1 / 2.5))
    with pytest.raises(AudioError, match="only one of the two parts"):
        measure_drr(rir[:200])


@pytest.mark.parametrize("t60", [0.3, 0.5, 0.8])
def test_a_simulated_room_has_the_t60_it_was_asked_for(t60):
    room = Room((7.1, 4.4, 2.9), t60)
    rirs = simulate_rirs(room, TALKER, circular_array((3.8, 2.6, 1.0))[::4])
    assert rirs.dtype == np.float32
    assert rirs.shape == (4, int(t60 * 16000))
    for rir in rirs:
        assert measure_t60(rir) == pytest.approx(t60, rel=0.1)


@pytest.mark.parametrize("arrival", [47, 140, 233])  # samples: about 1, 3 and 5 m
def test_the_direct_path_arrives_when_it_should_and_as_loud_as_it_should(arrival):
    distance = arrival / 16000 * SPEED_OF_SOUND
    microphone = np.add(TALKER, [distance, 0.0, 0.0])
    (rir,) = simulate_rirs(Room((7.1, 4.4, 2.9), 0.4), TALKER, microphone)
    assert rir[arrival] == pytest.approx(1 / distance, rel=0.05)
    assert np.abs(rir[: arrival - 41]).max() < 0.05 * rir[arrival]


def test_the_direct_to_reverberant_ratio_falls_with_distance_and_with_t60():
    def drr(distance, t60):
        microphone = np.add(TALKER, [distance, 0.1, -0.5])
        return measure_drr(simulate_rirs(Room((7.1, 4.4, 2.9), t60), TALKER, microphone)[0])

    assert drr(1, 0.3) > drr(3, 0.3) + 3
    assert drr(1, 0.3) > drr(1, 0.8) + 3


def test_the_tail_starts_after_the_early_echoes_and_is_set_by_its_seed():
    room, microphone = Room((7.1, 4.4, 2.9), 0.8), (4.0, 2.0, 1.2)
    one, same, other = (simulate_rirs(room, TALKER, microphone, tail_seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert np.array_equal(one[:1000], other[:1000])
    assert not np.array_equal(one[-1000:], other[-1000:])


def test_a_position_outside_the_room_is_named():
    with pytest.raises(AudioError, match=r"\[9.0, 1.0, 1.0\] is outside the room"):
        simulate_rirs(Room((4.0, 4.0, 3.0), 0.3), (9, 1, 1), (1, 1, 1))


def test_a_room_that_cannot_be_damped_that_much_is_refused():
    with pytest.raises(AudioError, match=r"cannot have a T60 of 0\.05 s"):
        simulate_rirs(Room((9.0, 6.0, 3.0), 0.05), (1, 1, 1), (2, 1, 1))


def test_without_pyroomacoustics_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(MissingExtraError, match=r"farvox\[sim\]"):
        simulate_rirs(Room((4.0, 4.0, 3.0), 0.3), (1, 1, 1), (2, 1, 1))


def test_a_drawn_room_has_space_for_an_array_at_five_metres():
    for seed in range(20):
        room = draw_room(np.random.default_rng(seed))
        assert 6.5 <= room.size[0] <= 9.0
        assert 0.3 <= room.t60 <= 0.8
        assert room.volume == pytest.approx(np.prod(room.size))
