import numpy as np
import pytest

from farvox.errors import AudioError
from farvox.farfield.mixing import add_noise, convolve_array, convolve_rir, direct_path, energy_snr, set_level

RATE = 16_000
RNG = np.random.default_rng(5)
SPEECH = RNG.standard_normal(5000).astype(np.float32)
NOISE = 7 * RNG.standard_normal(5000).astype(np.float32)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_is_added_at_the_exact_ratio(snr_db):
    added = add_noise(SPEECH, NOISE, snr_db).astype(float) - SPEECH
    assert 10 * np.log10(np.mean(SPEECH**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=1e-3)


def test_no_ratio_is_set_for_silence_or_for_different_lengths():
    with pytest.raises(AudioError, match="silent"):
        add_noise(SPEECH, 0 * NOISE, 10)
    with pytest.raises(AudioError, match="5000 samples of speech with 10 of noise"):
        add_noise(SPEECH, NOISE[:10], 10)


def test_convolution_equals_its_definition_and_keeps_the_length():
    rir = RNG.standard_normal(300).astype(np.float32)
    wet = convolve_rir(SPEECH, rir, aligned=False)
    assert wet.shape == SPEECH.shape
    assert np.allclose(wet, np.convolve(SPEECH, rir)[:5000], atol=1e-3)


def test_the_level_is_set_unless_the_peak_would_clip():
    quiet = set_level(SPEECH, -40)
    assert 20 * np.log10(np.sqrt(np.mean(quiet**2))) == pytest.approx(-40, abs=1e-3)
    assert np.abs(set_level(SPEECH, 0)).max() == pytest.approx(0.95)
    with pytest.raises(AudioError, match="silent"):
        set_level(0 * SPEECH, -20)


def test_an_array_keeps_the_delays_between_its_microphones() -> None:
    rirs_CR = np.zeros((2, 50), np.float32)
    rirs_CR[0, 10], rirs_CR[1, 13] = 1.0, 0.5
    wav_T = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    wet_CT = convolve_array(wav_T, rirs_CR)
    np.testing.assert_allclose(wet_CT[0], wav_T, atol=1e-5)
    np.testing.assert_allclose(wet_CT[1, 3:], 0.5 * wav_T[:-3], atol=1e-5)
    assert direct_path(rirs_CR[1]) - direct_path(rirs_CR[0]) == 3


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
