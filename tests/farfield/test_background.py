"""What is heard where nobody speaks."""

import numpy as np
import pytest

from farvox.farfield.background import background
from farvox.farfield.mixing import power

RATE = 16000


def spoken(snr_db, noise_T, words=((0.5, 1.0), (1.6, 2.2))):
    """A loud buzz in the places of ``words`` (seconds) over noise."""
    t = np.arange(len(noise_T)) / RATE
    buzz_T = sum(np.sin(2 * np.pi * 140 * k * t + k) for k in range(1, 15))
    says_T = np.any([(t >= begin) & (t < end) for begin, end in words], axis=0)
    buzz_T = buzz_T / np.sqrt(power(buzz_T)) * np.sqrt(power(noise_T)) * 10 ** (snr_db / 20)
    return (noise_T + says_T * buzz_T).astype(np.float32)


@pytest.fixture
def hiss():
    return (0.01 * np.random.default_rng(0).standard_normal(3 * RATE)).astype(np.float32)


@pytest.mark.parametrize("snr_db", [8, 15, 30])
def test_the_pauses_are_kept_and_the_words_are_not(hiss, snr_db):
    found_T = background(spoken(snr_db, hiss), RATE)
    assert 1.6 < len(found_T) / RATE <= 1.9  # of 1.9 s
    assert 10 * np.log10(power(found_T) / power(hiss)) == pytest.approx(0, abs=0.3)
    spectrum = np.abs(np.fft.rfft(found_T[:RATE])) ** 2
    assert spectrum[138:143].max() < 30 * spectrum.mean()  # no buzz at 140 Hz


def test_a_recording_that_is_one_stretch_comes_back_in_one_piece(hiss):
    found_T = background(spoken(20, hiss, words=((2.0, 3.0),)), RATE)
    np.testing.assert_array_equal(found_T, spoken(20, hiss, words=((2.0, 3.0),))[: len(found_T)])
    assert len(found_T) == pytest.approx(1.98 * RATE, abs=320)


def test_no_pause_no_background(hiss):
    assert len(background(hiss, RATE)) == 0
    assert len(background(np.zeros(RATE, np.float32), RATE)) == 0
    assert len(background(hiss[:500], RATE)) == 0
    gated_T = np.where(np.abs(spoken(30, hiss)) > 0.03, spoken(30, hiss), 0).astype(np.float32)
    assert len(background(gated_T, RATE)) == 0  # digital silence is nobody's background


def test_a_stop_in_a_word_is_no_pause(hiss):
    stops = [(n * 0.15, n * 0.15 + 0.09) for n in range(20)]  # 60 ms of nothing, again and again
    assert len(background(spoken(20, hiss, words=stops), RATE)) == 0
