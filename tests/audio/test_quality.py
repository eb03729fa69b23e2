import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.audio.quality import MEASURES, SIDES, QualityTerm, measure, quality_llr

RATE = 16000


def bursts(t60, seconds=4.0, noise=0.0, seed=0):
    """White noise that starts again every 0.4 s and falls by 60 dB in ``t60`` seconds."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE % 0.4
    wav_T = rng.standard_normal(len(time)) * 10 ** (-3 * time / t60)
    return (0.1 * wav_T + noise * rng.standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize("t60", [0.2, 0.3, 0.5, 0.8])
def test_the_decay_is_that_of_the_reverberation(t60):
    _, decay, _ = measure(bursts(t60), RATE, RATE)
    assert decay == pytest.approx(0.05 * 60 / t60, abs=2.5)  # dB in 50 ms, and the spread of noise


def test_noise_lowers_the_decay():
    quiet, noisy = (measure(bursts(0.3, noise=noise), RATE, RATE)[1] for noise in (0.0, 0.03))
    assert noisy < quiet - 3


def test_the_speech_is_its_seconds_and_the_rest_is_none():
    wav_T = np.concatenate([bursts(5.0, 2.0), np.zeros(3 * RATE, np.float32)])
    assert measure(wav_T, RATE, RATE)[0] == pytest.approx(2.0, abs=0.05)


def test_a_file_of_8_khz_is_narrow():
    assert [measure(bursts(0.3), RATE, own_rate)[2] for own_rate in (16000, 8000)] == [0, 1]


@given(st.floats(-30, 0))
def test_the_measures_do_not_depend_on_the_level(gain_db):
    wav_T = bursts(0.3, 2.0)
    gain = np.float32(10 ** (gain_db / 20))
    assert measure(gain * wav_T, RATE, RATE) == pytest.approx(measure(wav_T, RATE, RATE), rel=1e-3)


@pytest.mark.parametrize("num_samples", [1, 400, 900])
def test_a_recording_of_a_frame_or_two_has_measures(num_samples):
    found = measure(np.ones(num_samples, np.float32), RATE, RATE)
    assert np.isfinite(found).all() and (found >= 0).all()


TERMS = (QualityTerm("speech", "lower", -0.5, 1.0, 8.0), QualityTerm("narrow", "higher", 2.0, 0.0, 1.0))


def test_terms_add_what_their_formula_says():
    enrol_M, test_M = np.array([3.0, 9, 0, 7]), np.array([5.0, 4, 1, 8])
    assert quality_llr(TERMS, enrol_M, test_M) == pytest.approx(-0.5 * np.log(4) + 2 * np.log(2))
    short_M = np.array([0.2, 9, 0, 7])  # below what was seen: as 1 s
    assert quality_llr(TERMS, short_M, test_M) == pytest.approx(-0.5 * np.log(2) + 2 * np.log(2))
    assert quality_llr((), np.ones((5, 4)), np.ones((5, 4))).tolist() == [0] * 5


@given(
    st.lists(st.lists(st.floats(0, 100), min_size=4, max_size=4), min_size=2, max_size=2),
    st.sampled_from(MEASURES),
    st.sampled_from(SIDES),
    st.floats(-5, 5),
)
def test_terms_are_symmetric_and_bounded(sides, name, side, weight):
    enrol_M, test_M = map(np.array, sides)
    terms = [QualityTerm(name, side, weight, 0.5, 10.0)]
    added = float(quality_llr(terms, enrol_M, test_M))
    assert added == float(quality_llr(terms, test_M, enrol_M))
    low, high = sorted((weight * np.log1p(0.5), weight * np.log1p(10)))
    assert low - 1e-12 <= added <= high + 1e-12
