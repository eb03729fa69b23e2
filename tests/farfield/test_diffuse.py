import numpy as np
import pytest
from scipy.signal import csd, welch

from farvox.farfield.arrays import circular_array, linear_array
from farvox.farfield.diffuse import diffuse_coherence, diffuse_noise
from farvox.farfield.rooms import Room, simulate_rirs

RATE = 16000


def measured_coherence(one_T, other_T):
    """Real part of the complex coherence, which is all of it in a field from all around, and its bins."""
    settings = {"fs": RATE, "nperseg": 256}
    frequency_K, cross_K = csd(one_T, other_T, **settings)
    power_K = welch(one_T, **settings)[1] * welch(other_T, **settings)[1]
    return frequency_K, cross_K / np.sqrt(power_K)


@pytest.mark.parametrize("spacing", [0.02, 0.05, 0.15])
def test_noise_from_all_around_is_as_coherent_as_a_diffuse_field(spacing):
    microphones = linear_array(num=3, spacing=spacing)
    noise = diffuse_noise(np.random.default_rng(1), microphones, 400_000, RATE)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        frequency, found = measured_coherence(noise[one], noise[other])
        expected = diffuse_coherence((other - one) * spacing, frequency)
        assert np.abs(found.real - expected)[2:].max() < 0.08
        assert np.abs(found.imag)[2:].max() < 0.08


def test_every_microphone_hears_white_noise_of_power_1():
    noise = diffuse_noise(np.random.default_rng(2), circular_array(num=16), 100_000, RATE)
    assert np.mean(noise**2, axis=1) == pytest.approx(np.ones(16), rel=0.03)
    powers = welch(noise, fs=RATE, nperseg=128)[1][:, 2:-2] * RATE / 2
    assert powers.mean(axis=0) == pytest.approx(np.ones(powers.shape[1]), rel=0.1)


def test_one_microphone_hears_the_noise_that_is_drawn():
    alone = diffuse_noise(np.random.default_rng(3), np.zeros((1, 3)), 1000, RATE)
    assert np.array_equal(alone, np.random.default_rng(3).standard_normal((1, 1000)))


def test_tails_of_a_simulated_room_are_coherent_between_close_microphones():
    room, microphones = Room((7.1, 4.4, 2.9), 0.8), linear_array((4.0, 2.0, 1.2), num=2, spacing=0.05)
    tails = []
    for seed in range(60):
        rirs = simulate_rirs(room, (0.9, 2.1, 1.6), microphones, tail_seed=seed)
        decay = 10 ** (-3 * np.arange(rirs.shape[1]) / (room.t60 * RATE))
        tails.append((rirs / decay)[:, 3000:12000])
    frequency, found = measured_coherence(*np.concatenate(tails, axis=1))
    expected = diffuse_coherence(0.05, frequency)
    assert np.abs(found - expected)[2:].max() < 0.08
    assert found[5].real > 0.9  # 312 Hz, where independent tails would have none
    assert np.abs(found[frequency > 3500]).mean() < 0.2
