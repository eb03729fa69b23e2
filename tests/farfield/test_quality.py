"""The estimated ratio follows the true one."""

import numpy as np
import pytest

from farvox.farfield.mixing import add_noise
from farvox.farfield.quality import energy_snr

RATE = 16_000


@pytest.fixture(scope="module")
def speech_T():
    """Tones that come and go: half a second each, with pauses as long."""
    time_T = np.arange(6 * RATE) / RATE
    return (0.1 * np.sin(2 * np.pi * 200 * time_T) * (time_T % 1 < 0.5)).astype(np.float32)


@pytest.fixture(scope="module")
def noise_T():
    return np.random.default_rng(0).standard_normal(6 * RATE).astype(np.float32)


@pytest.mark.parametrize("snr_db", [0, 5, 10, 15, 20, 30])
def test_the_estimate_is_near_the_ratio_while_someone_speaks(speech_T, noise_T, snr_db):
    estimate = energy_snr(add_noise(speech_T, noise_T, snr_db), RATE)
    assert estimate == pytest.approx(snr_db + 10 * np.log10(2), abs=2)  # speech is half of the time


def test_the_level_of_a_recording_and_its_offset_do_not_matter(speech_T, noise_T):
    wav_T = add_noise(speech_T, noise_T, 10)
    assert energy_snr(wav_T * 0.01, RATE) == pytest.approx(energy_snr(wav_T, RATE), abs=1e-3)
    assert energy_snr(wav_T + np.float32(0.2), RATE) == pytest.approx(energy_snr(wav_T, RATE), abs=1e-3)


def test_what_has_no_ratio_gets_an_end_of_the_range(speech_T):
    assert energy_snr(np.zeros(RATE, np.float32), RATE) == -20
    assert energy_snr(speech_T[:100], RATE) == -20
    assert energy_snr(np.zeros(0, np.float32), RATE) == -20
    assert 70 < energy_snr(speech_T, RATE) <= 100
