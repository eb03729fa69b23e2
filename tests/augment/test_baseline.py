import math

import numpy as np
import pytest

from farvox.augment.baseline import (
    TEMPO_FACTORS,
    BaselineMixture,
    HomeworkMixture,
    add_baseline_noise,
)
from farvox.augment.noise import NoiseSet
from farvox.augment.reverb import RirSet
from farvox.augment.speed import change_tempo
from farvox.farfield.mixing import power
from farvox.rng import rng_for

RATE = 16000


@pytest.fixture(scope="module")
def banks(made_dirs):
    noise, music = NoiseSet.open(made_dirs["noise"]), NoiseSet.open(made_dirs["music"])
    return noise, music, RirSet.open(made_dirs["rirs"])


def replay(rng, num_samples, noise, music):
    """The baseline's draws, made by hand: the noise crop and the ratio of norms."""
    bank = noise if rng.random() < 0.5 else music
    return bank.draw(rng, num_samples), math.e ** (20 * rng.random() / 10)


def test_noise_follows_the_published_formula(banks, speech):
    noise, music, _ = banks
    for position in range(40):
        noise_T, ratio = replay(rng_for(0, 0, position), len(speech), noise, music)
        wide = speech.astype(np.float64)
        scaled = wide * ratio * math.sqrt(sum(noise_T.astype(np.float64) ** 2) / sum(wide**2))
        mixed_T = add_baseline_noise(speech, noise, music, rng_for(0, 0, position))
        assert mixed_T.dtype == np.float32
        np.testing.assert_allclose(mixed_T, (scaled + noise_T) / 2, atol=1e-6)


def test_the_true_ratio_spreads_from_0_to_17_db(banks, speech):
    """exp instead of a power of ten, on norms instead of powers: 8.686 dB for every 10 drawn."""
    noise, music, _ = banks
    achieved_db = []
    for position in range(400):
        noise_T, _ = replay(rng_for(0, 1, position), len(speech), noise, music)
        mixed_T = add_baseline_noise(speech, noise, music, rng_for(0, 1, position))
        clean_power = power(2 * mixed_T - noise_T)
        achieved_db.append(10 * math.log10(clean_power / power(noise_T)))
    top_db = 20 * 20 * math.log10(math.e) / 10
    assert -1e-3 < min(achieved_db) < 0.5
    assert top_db - 0.5 < max(achieved_db) < top_db + 1e-3
    assert np.mean(achieved_db) == pytest.approx(top_db / 2, abs=1)


def test_a_quarter_is_noisy_a_quarter_reverberated_and_half_clean(banks, speech):
    chain = BaselineMixture(*banks)
    reverberated = [banks[2].reverberate(speech, i, aligned=False).tobytes() for i in range(len(banks[2]))]
    counts = {"clean": 0, "reverb": 0, "noise": 0}
    for position in range(800):
        augmented = chain(speech, rng_for(0, 0, position)).tobytes()
        kind = "clean" if augmented == speech.tobytes() else "noise"
        counts["reverb" if augmented in reverberated else kind] += 1
    assert counts["clean"] == pytest.approx(400, abs=60)
    assert counts["noise"] == pytest.approx(200, abs=50)
    assert counts["reverb"] == pytest.approx(200, abs=50)


def test_reverberation_is_the_start_of_the_plain_convolution(banks, speech):
    for index in range(len(banks[2])):
        expected = np.convolve(speech.astype(np.float64), banks[2].rir(index))[: len(speech)]
        wet_T = banks[2].reverberate(speech, index, aligned=False)
        np.testing.assert_allclose(wet_T, expected, atol=1e-6)


def test_the_homework_draws_an_eighth_of_each_and_half_clean(banks, speech):
    chain = HomeworkMixture(*banks)
    reverberated = [banks[2].reverberate(speech, i, aligned=False).tobytes() for i in range(len(banks[2]))]
    tempos = [change_tempo(speech, factor) for factor in TEMPO_FACTORS]
    counts = dict.fromkeys(("clean", "volume", "reverb", "tempo", "noise"), 0)
    for position in range(1600):
        augmented_T = chain(speech, rng_for(0, 0, position))
        assert augmented_T.shape == speech.shape and augmented_T.dtype == np.float32
        counts[kind_of(augmented_T, speech, reverberated, tempos)] += 1
    assert counts["clean"] == pytest.approx(800, abs=90)
    for kind in ("volume", "reverb", "tempo", "noise"):
        assert counts[kind] == pytest.approx(200, abs=60)


def kind_of(augmented_T, speech, reverberated, tempos):
    if np.array_equal(augmented_T, speech):
        return "clean"
    if augmented_T.tobytes() in reverberated:
        return "reverb"
    quiet = np.abs(speech) < 0.04  # does not clip at a gain of up to 20
    gain = augmented_T[quiet] @ speech[quiet] / (speech[quiet] @ speech[quiet])
    if 5 <= gain <= 20 and np.allclose(augmented_T, np.clip(gain * speech, -1, 1), atol=1e-4):
        return "volume"
    if any(augmented_T[:2000].tobytes() in tempo_T.tobytes() for tempo_T in tempos):
        return "tempo"
    return "noise"
