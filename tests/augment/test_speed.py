from fractions import Fraction

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.augment.chain import TEMPO_FACTORS
from farvox.augment.speed import (
    LARGEST,
    change_speed,
    change_tempo,
    change_volume,
    num_samples_before_speed,
    resample,
)
from farvox.errors import AudioError
from farvox.farfield.mixing import power

FACTORS = st.sampled_from([0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3])


def loudest_hz(wav_T):
    """Frequency of the largest spectral line, at 16 kHz."""
    spectrum = np.abs(np.fft.rfft(wav_T * np.hanning(len(wav_T)), 2**18))
    return np.argmax(spectrum) * 16000 / 2**18


def tone(hz, num_samples=32000):
    return (0.5 * np.sin(2 * np.pi * hz / 16000 * np.arange(num_samples))).astype(np.float32)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_scales_length_and_pitch(factor):
    fast_T = change_speed(tone(1000), factor)
    assert fast_T.dtype == np.float32
    assert len(fast_T) == round(32000 / factor)
    assert loudest_hz(fast_T) == pytest.approx(1000 * factor, abs=0.5)
    exact_T = tone(1000 * factor, len(fast_T))
    np.testing.assert_allclose(fast_T[300:-300], exact_T[300:-300], atol=1e-4)


def test_speed_does_not_fold_what_no_longer_fits():
    assert power(change_speed(tone(7800), 1.1)) < 1e-6 * power(tone(7800))


@settings(max_examples=100, deadline=None)
@given(num_samples=st.integers(0, 5000), factor=FACTORS)
def test_speed_and_tempo_give_the_length_they_promise(num_samples, factor):
    wav_T = np.random.default_rng(0).standard_normal(num_samples).astype(np.float32)
    for change in (change_speed, change_tempo):
        changed_T = change(wav_T, factor)
        assert abs(len(changed_T) - num_samples / factor) <= 0.5 + 1e-9
        assert np.isfinite(changed_T).all()


@settings(max_examples=100, deadline=None)
@given(num_samples=st.integers(1, 10**6), factor=FACTORS)
def test_enough_is_read_before_a_change_of_speed(num_samples, factor):
    read = num_samples_before_speed(num_samples, factor)
    assert num_samples <= round(read / factor) <= num_samples + 1
    assert (read - 1) / factor < num_samples


@pytest.mark.parametrize("factor", TEMPO_FACTORS)
def test_tempo_keeps_the_pitch_and_the_level(factor):
    slow_T = change_tempo(tone(437), factor)
    assert slow_T.dtype == np.float32
    assert len(slow_T) == round(32000 / factor)
    assert loudest_hz(slow_T) == pytest.approx(437, abs=0.5)
    assert power(slow_T) == pytest.approx(power(tone(437)), rel=0.02)


@pytest.mark.parametrize("factor", TEMPO_FACTORS)
def test_tempo_moves_events_to_their_new_time(factor):
    """Three bursts of noise: each begins where the factor puts it, within the reach of the search."""
    wav_T = np.zeros(48000, dtype=np.float32)
    for start in (8000, 20000, 36000):
        wav_T[start : start + 4000] = np.random.default_rng(start).standard_normal(4000)
    changed_T = change_tempo(wav_T, factor)
    sounding = np.abs(changed_T) > 1e-3
    begins = [int(i) for i in np.flatnonzero(sounding) if not sounding[max(0, i - 1500) : i].any()]
    np.testing.assert_allclose(begins, np.array([8000, 20000, 36000]) / factor, atol=1000)


def test_tempo_has_no_clicks():
    steepest = np.abs(np.diff(tone(200))).max()
    for factor in TEMPO_FACTORS:
        assert np.abs(np.diff(change_tempo(tone(200), factor))).max() < 1.2 * steepest


def test_tempo_of_real_speech_keeps_its_spectrum(real_speech):
    def long_term(wav_T):
        frames = np.lib.stride_tricks.sliding_window_view(wav_T, 512)[::256] * np.hanning(512)
        bands = (np.abs(np.fft.rfft(frames)) ** 2).mean(0)[:256].reshape(16, 16).sum(1)
        return 10 * np.log10(bands / bands.sum())

    for factor in TEMPO_FACTORS:
        difference_db = long_term(change_tempo(real_speech, factor)) - long_term(real_speech)
        assert np.abs(difference_db).max() < 2


@pytest.mark.parametrize("change", [change_speed, change_tempo])
def test_a_factor_of_one_changes_nothing(change, speech):
    np.testing.assert_array_equal(change(speech, 1.0), speech)


@pytest.mark.parametrize("change", [change_speed, change_tempo])
@pytest.mark.parametrize("factor", [0.0, -1.0, 11.0, float("nan")])
def test_an_absurd_factor_is_an_error(change, factor, speech):
    with pytest.raises(AudioError, match=r"\[0\.1, 10\]"):
        change(speech, factor)


def test_volume_is_a_gain_in_db_that_clips():
    np.testing.assert_allclose(change_volume(np.float32([0.1, -0.2, 0.6]), 20.0), [1.0, -1.0, 1.0])
    np.testing.assert_allclose(change_volume(np.float32([0.1, -0.2]), -20.0), [0.01, -0.02], rtol=1e-6)


def test_an_odd_factor_is_left_to_soxr():
    np.testing.assert_array_equal(change_speed(tone(1000), 0.97), soxr.resample(tone(1000), 97, 100, "HQ"))


STEPS = [Fraction(9, 10), Fraction(11, 10), Fraction(17, 20), Fraction(23, 20), Fraction(1, 2), Fraction(3)]


@pytest.mark.parametrize("step", STEPS)
def test_a_tone_is_the_tone_at_the_new_times(step):
    cycles = 0.425 * min(1, 1 / float(step))  # a sample: 0.85 of the band that the output holds
    wav_T = np.sin(2 * np.pi * cycles * np.arange(20_000)).astype(np.float32)
    wanted_T = np.sin(2 * np.pi * cycles * float(step) * np.arange(len(resample(wav_T, step))))
    inside = slice(200, -200)
    np.testing.assert_allclose(resample(wav_T, step)[inside], wanted_T[inside], atol=2e-3)


@pytest.mark.parametrize("step", [step for step in STEPS if step > 1])
def test_what_the_output_cannot_hold_is_gone(step):
    cycles = 0.5 / float(step) * 1.02
    wav_T = np.sin(2 * np.pi * cycles * np.arange(20_000)).astype(np.float32)
    assert np.abs(resample(wav_T, step)[200:-200]).max() < 2e-5


@pytest.mark.parametrize("step", [step for step in STEPS if step < 1])
def test_a_slower_signal_has_no_images_above_its_band(step):
    wav_T = np.sin(2 * np.pi * 0.48 * np.arange(20_000)).astype(np.float32)
    resampled_T = resample(wav_T, step)[200:-200].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(resampled_T * np.blackman(len(resampled_T)))) / len(resampled_T)
    above = int(2 * len(spectrum) * 0.51 * float(step))
    assert spectrum[above:].max() < 1e-4 * 0.5


def test_speech_like_noise_is_that_of_soxr():
    rng = np.random.default_rng(0)
    wav_T = np.convolve(rng.standard_normal(30_000), np.hanning(9) / 4, "same").astype(np.float32)
    ours, theirs = resample(wav_T, Fraction(11, 10)), soxr.resample(wav_T, 11, 10)
    inside = slice(200, -200)
    error = ours[: len(theirs)][inside] - theirs[: len(ours)][inside]
    assert np.mean(error**2) < 2e-6 * np.mean(theirs**2)


@given(st.integers(1, 3000), st.integers(1, LARGEST), st.integers(1, LARGEST))
def test_every_ratio_gives_as_many_samples_as_there_are_times(num_samples, numerator, denominator):
    step = Fraction(numerator, denominator)
    resampled_T = resample(np.ones(num_samples, np.float32), step)
    assert resampled_T.dtype == np.float32
    assert len(resampled_T) == len(np.arange(0, num_samples * denominator, numerator))
    assert np.isfinite(resampled_T).all() and np.abs(resampled_T).max() < 1.6
