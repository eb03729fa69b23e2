"""What is done to a recording before a model hears it."""

import dataclasses
import json

import numpy as np
import pytest

from farvox.audio.conditioning import Conditioning
from farvox.audio.files import Wave
from farvox.audio.levels import bandwidth, loud_level
from farvox.errors import ModelError
from farvox.synthetic.voice import draw_sentence, draw_voice, synthesise

RATE = 16000
ON = Conditioning(longest_pause=1.0, level=-20.0)


def speech(seconds: float = 3.0, seed: int = 0) -> Wave:
    rng = np.random.default_rng(seed)
    wav_T = synthesise(draw_voice(rng), draw_sentence(rng, seconds), rng)
    return np.resize(wav_T, int(seconds * RATE)).astype(np.float32)


def hiss(seconds: float, level: float, seed: int = 1) -> Wave:
    rng = np.random.default_rng(seed)
    return (10 ** (level / 20) * rng.standard_normal(int(seconds * RATE))).astype(np.float32)


def test_nothing_is_done_by_default_and_the_digest_is_that_of_the_model() -> None:
    wav_T = speech()
    assert Conditioning().apply(wav_T, RATE) is wav_T
    assert Conditioning().digest("a" * 64) == "a" * 64
    others = [ON, dataclasses.replace(ON, band="narrow"), dataclasses.replace(ON, level=-21.0)]
    assert len({each.digest("a" * 64) for each in others} | {ON.digest("b" * 64), "a" * 64}) == 5


@pytest.mark.parametrize("gain", [1.0, 0.03, 0.01, 4.0])
def test_the_loudest_tenth_of_a_second_has_the_level_whatever_it_had(gain: float) -> None:
    wav_T = speech()
    conditioned_T = ON.apply(np.float32(gain) * wav_T, RATE)
    assert loud_level(conditioned_T, RATE) == pytest.approx(-20, abs=0.05)
    np.testing.assert_allclose(conditioned_T, ON.apply(wav_T, RATE), atol=1e-5)


@pytest.mark.parametrize("level", [-200, -80, -60, -45])
@pytest.mark.parametrize("where", ["before", "behind", "between"])
def test_a_long_stretch_without_speech_is_shortened_to_the_longest_pause(level: float, where: str) -> None:
    one_T, other_T, pause_T = speech(2.0, 1), speech(2.0, 2), hiss(20, level)
    parts = {"before": [pause_T, one_T], "behind": [one_T, pause_T], "between": [one_T, pause_T, other_T]}
    parts_T = parts[where]
    seconds = len(ON.apply(np.concatenate(parts_T), RATE)) / RATE
    spoken = 2.0 * (len(parts_T) - 1)
    assert spoken <= seconds + 0.3 and seconds <= spoken + 1.0 + 0.6


def test_pauses_of_usual_length_stay_and_so_does_what_is_all_steady() -> None:
    wav_T = np.concatenate([speech(2.0, 1), hiss(0.8, -70), speech(2.0, 2)])
    assert len(ON.apply(wav_T, RATE)) == len(wav_T)
    steady_T = hiss(5, -30)
    assert len(ON.apply(steady_T, RATE)) == len(steady_T)
    silent_T = np.zeros(RATE, np.float32)
    np.testing.assert_array_equal(ON.apply(silent_T, RATE), silent_T)
    assert len(ON.apply(silent_T[:0], RATE)) == 0


@pytest.mark.parametrize("rate", [16000, 44100])
def test_of_a_narrow_band_nothing_above_4_khz_is_left(rate: int) -> None:
    wav_T = hiss(3, -30)
    narrow_T = Conditioning(band="narrow").apply(wav_T, rate)
    assert len(narrow_T) == len(wav_T) and bandwidth(narrow_T, rate) < 4300
    assert bandwidth(wav_T, rate) > 0.45 * rate
    again_T = Conditioning(band="narrow").apply(narrow_T, rate)
    assert np.std(again_T - narrow_T) < 0.05 * np.std(narrow_T)


def test_it_is_kept_as_json_and_what_is_unknown_is_refused() -> None:
    kept = json.loads(json.dumps(dataclasses.asdict(ON)))
    assert Conditioning.from_dict(kept, "card") == ON
    for change in (
        {"detector": "energy/2"}, {"band": "wide"}, {"level": "loud"}, {"level": 3.0}, {"longest_pause": 0},
        {"level": float("nan")}, {"level": True}, {"denoise": True},
    ):  # fmt: skip
        with pytest.raises(
            ModelError, match=r"card: conditioning that this farvox does not know.*update farvox"
        ):
            Conditioning.from_dict({**kept, **change}, "card")
    with pytest.raises(ModelError, match="not a table"):
        Conditioning.from_dict([1], "card")
