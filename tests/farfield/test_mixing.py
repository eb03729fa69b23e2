import numpy as np
import pytest

from farvox.errors import AudioError
from farvox.farfield.mixing import add_noise, convolve_rir, set_level

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
    heard = convolve_rir(SPEECH, rir, aligned=False)
    assert heard.shape == SPEECH.shape
    assert np.allclose(heard, np.convolve(SPEECH, rir)[:5000], atol=1e-3)


def test_the_level_is_set_unless_the_peak_would_clip():
    quiet = set_level(SPEECH, -40)
    assert 20 * np.log10(np.sqrt(np.mean(quiet**2))) == pytest.approx(-40, abs=1e-3)
    assert np.abs(set_level(SPEECH, 0)).max() == pytest.approx(0.95)
    with pytest.raises(AudioError, match="silent"):
        set_level(0 * SPEECH, -20)
