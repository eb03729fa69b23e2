from dataclasses import replace

import numpy as np
import pytest

from farvox.synthetic.voice import (
    PHONES,
    SAMPLE_RATE,
    draw_occasion,
    draw_sentence,
    draw_voice,
    make_lexicon,
    synthesise,
)


def steady_vowel(seed=1, **changes):
    voice = replace(draw_voice(np.random.default_rng(seed)), liveliness=0.0, jitter=0.0, **changes)
    return synthesise(voice, ["a"] * 10, np.random.default_rng(0))


def spectrum(wav):
    return np.abs(np.fft.rfft(wav[2000:10192] * np.hanning(8192))), np.fft.rfftfreq(8192, 1 / SAMPLE_RATE)


@pytest.mark.parametrize("pitch", [100.0, 220.0])
def test_a_vowel_repeats_at_its_pitch(pitch):
    wav = steady_vowel(pitch=pitch)[2000:6000].astype(float)
    lags = np.arange(40, 250)
    likeness = [np.corrcoef(wav[lag:], wav[:-lag])[0, 1] for lag in lags]
    period = lags[np.argmax(likeness)]
    assert max(likeness) > 0.8
    assert SAMPLE_RATE / period == pytest.approx(pitch, rel=0.12)


def test_a_shorter_tract_has_more_of_its_energy_at_high_frequencies():
    def centre_of_energy(factor):
        magnitude, hz = spectrum(steady_vowel(pitch=120.0, formant_factors=np.full(6, factor)))
        return np.sum(hz * magnitude**2) / np.sum(magnitude**2)

    assert centre_of_energy(1.25) > 1.1 * centre_of_energy(0.85)


def test_formants_are_where_the_tract_puts_them():
    plain = {"formant_factors": np.ones(6), "vowel_offsets": np.zeros((8, 3)), "tilt": 0.0, "breath": 0.02}
    magnitude, hz = spectrum(steady_vowel(pitch=90.0, **plain))
    level = np.convolve(magnitude, np.hanning(91), mode="same")
    valley = level[(hz > 1600) & (hz < 2000)].min()
    assert level[(hz > 600) & (hz < 850)].max() > 3 * valley
    assert level[(hz > 2300) & (hz < 2600)].max() > 1.5 * valley


def test_a_fricative_is_loud_where_a_vowel_is_weak():
    voice = draw_voice(np.random.default_rng(2))
    vowel, hiss = (synthesise(voice, [phone] * 12, np.random.default_rng(0)) for phone in ("a", "s"))

    def high_part(wav):
        magnitude, hz = spectrum(np.resize(wav, 12000))
        return np.sum(magnitude[hz > 4000] ** 2) / np.sum(magnitude**2)

    assert high_part(hiss) > 0.8
    assert high_part(vowel) < 0.1


def test_the_same_stream_says_the_same_and_another_take_differs():
    voice = draw_voice(np.random.default_rng(3))
    once, again, other = (
        synthesise(voice, [" ", "m", "a", " "], np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert np.array_equal(once, again)
    assert once.dtype == np.float32
    assert np.abs(once).max() == pytest.approx(0.5)
    assert len(other) != len(once) or not np.array_equal(other, once)


def test_an_occasion_moves_a_speaker_less_than_speakers_differ():
    voices = [draw_voice(np.random.default_rng(seed)) for seed in range(200)]
    takes = [draw_occasion(voices[0], np.random.default_rng(seed)) for seed in range(200)]

    def spread(found):
        return np.std([np.log(voice.formant_factors).mean() for voice in found])

    assert 0 < spread(takes) < 0.3 * spread(voices)


def test_a_fast_take_is_shorter():
    voice, phones = draw_voice(np.random.default_rng(4)), ["a", "m", "i"] * 5
    fast, slow = (
        synthesise(replace(voice, rate=rate), phones, np.random.default_rng(0)) for rate in (1.3, 0.8)
    )
    assert len(fast) < 0.75 * len(slow)


def test_every_word_can_be_said_and_a_sentence_lasts_as_long_as_asked():
    assert all(phone in PHONES for word in make_lexicon() for phone in word)
    phones = draw_sentence(np.random.default_rng(0), 2.0)
    assert 2.0 <= sum(PHONES[phone].seconds for phone in phones) < 3.2
    assert phones[0] == phones[-1] == " "
