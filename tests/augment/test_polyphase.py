"""The resampler of speed perturbation, against what it stands for: a pure tone at other times."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from farvox.augment.polyphase import LARGEST, resample

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
