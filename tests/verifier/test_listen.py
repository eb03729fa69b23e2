"""A stream is read as the file of it would be, and its decision stays.

The small model has no detector of speech here (``vad="off"``), so every second is one of speech.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox import Verifier
from farvox.audio.files import read_audio, write_audio
from farvox.errors import AudioError, ModelError, NoSpeechError
from farvox.verifier import Listener
from farvox.verifier.listen import Stream, spoken_seconds
from farvox.zoo.card import SequentialTest

RATE = 16000
NEVER = SequentialTest(0.01, 0.05, same=(2.0,) * 3, different=(-2.0,) * 3)


@pytest.fixture(scope="module")
def verifier(model_folder):
    found = Verifier.from_pretrained(model_folder, vad="off")
    found.embedder.card = replace(found.card, sequential=NEVER)
    return found


@pytest.fixture(scope="module")
def spoken(voices):
    """Some 5 s of one speaker."""
    return np.concatenate([read_audio(voices / f"a{take}.wav") for take in range(3)])


def looks_of(listener, samples, size=1600):
    blocks = np.split(samples, range(size, samples.shape[-1], size), axis=-1)
    return [look for block in blocks for look in listener.feed(block)]


def test_there_is_a_look_after_every_second_of_speech(verifier, voices, spoken):
    listener = Listener(verifier, voices / "b0.wav", RATE)
    looks = looks_of(listener, spoken)
    assert [int(look.speech_seconds) for look in looks] == list(range(1, int(len(spoken) / RATE) + 1))
    for look in looks:
        expected = verifier.verify(voices / "b0.wav", (spoken[: round(look.seconds * RATE)], RATE))
        assert (look.score, look.probability) == pytest.approx(
            (expected.score, expected.probability), abs=1e-5
        )
        assert look.decision == "not yet"


def test_the_final_score_is_that_of_verify_on_a_file_of_the_same_audio(verifier, voices, spoken, tmp_path):
    for rate, wav in ((RATE, spoken[:-333]), (44100, np.stack([spoken, np.roll(spoken, 5)]))):
        write_audio(tmp_path / "heard.wav", wav, rate)
        listener = Listener(verifier, voices / "b0.wav", rate, wav.ndim)
        looks_of(listener, np.rint(np.clip(wav * 32768, -32768, 32767)).astype(np.int16), size=777)
        offline = verifier.verify(voices / "b0.wav", tmp_path / "heard.wav")
        verdict = listener.finish()
        assert verdict.score == pytest.approx(offline.score, abs=1e-5)
        assert verdict.test[0].channel_numbers == offline.test[0].channel_numbers
        assert [note.code for note in verdict.notes] == [note.code for note in offline.notes]


@given(cuts=st.lists(st.integers(0, 40000), max_size=8))
def test_looks_do_not_depend_on_how_the_samples_are_cut(verifier, spoken, cuts):
    whole = [signal.seconds for signal in Stream(verifier, RATE).feed(spoken[:40000])]
    stream, seconds = Stream(verifier, RATE), []
    for block in np.split(spoken[:40000], sorted(cuts)):
        seconds += [signal.seconds for signal in stream.feed(block)]
    assert seconds == whole == [1.0, 2.0]


def test_silence_adds_no_look_and_costs_no_reading(model_folder, spoken, monkeypatch):
    stream = Stream(Verifier.from_pretrained(model_folder, vad="check"), RATE)
    assert list(stream.feed(np.zeros(10 * RATE))) == []
    looks = list(stream.feed(spoken))
    assert looks and all(spoken_seconds(signal) < 7 for signal in looks)
    monkeypatch.setattr(stream, "_signal", lambda count: pytest.fail("read in silence"))
    stream._needed, stream._unheard = 1.0, 0.0
    assert list(stream.feed(1e-6 * np.ones(10 * RATE))) == []


def test_the_first_decision_stays(verifier, voices, spoken, monkeypatch):
    score = verifier.verify(voices / "b0.wav", (spoken[:RATE], RATE)).score
    for same, different, expected in (
        ((score - 0.01, 2, 2), (-2, -2, -2), ["same"] * 3),
        ((2, 2, 2), (score + 0.01, -2, -2), ["different"] * 3),
        ((2, -1, 2), (-2, -2, -2), ["not yet", "same", "same"]),
        ((2, 2, 2), (-2, -2, -2), ["not yet"] * 3),
    ):
        test = SequentialTest(0.01, 0.05, same, different)
        monkeypatch.setattr(verifier.embedder, "card", replace(verifier.card, sequential=test))
        listener = Listener(verifier, voices / "b0.wav", RATE)
        looks = looks_of(listener, spoken[: 3 * RATE])
        assert [look.decision for look in looks] == expected
        assert listener.is_over and listener.decision == expected[-1]
        assert listener.finish().score == pytest.approx(looks[-1].score, abs=1e-5)


def test_a_look_that_comes_late_is_that_of_the_second_it_has_reached(verifier, voices, spoken, monkeypatch):
    test = SequentialTest(0.01, 0.05, (2, 2, -1), (-2, -2, -2))
    monkeypatch.setattr(verifier.embedder, "card", replace(verifier.card, sequential=test))
    listener = Listener(verifier, voices / "b0.wav", RATE)
    listener.stream._target = listener.stream._needed = 3.5
    (look,) = listener.feed(spoken[: 4 * RATE - 100])
    assert look.decision == "same"


def test_a_model_without_a_test_gives_scores_and_no_decision(verifier, voices, spoken, monkeypatch):
    monkeypatch.setattr(verifier.embedder, "card", replace(verifier.card, sequential=None))
    listener = Listener(verifier, voices / "b0.wav", RATE)
    assert {look.decision for look in looks_of(listener, spoken)} == {"not yet"}
    assert not listener.is_over


def test_a_model_without_a_threshold_is_refused_before_anything_is_taken(verifier, voices, monkeypatch):
    monkeypatch.setattr(verifier, "_threshold", None)
    with pytest.raises(ModelError, match="no threshold"):
        Listener(verifier, voices / "b0.wav", RATE)


def test_a_side_that_is_embedded_once_gives_the_same_scores(verifier, voices, spoken):
    side = verifier.side([voices / "b0.wav", voices / "b1.wav"])
    ways = [Listener(verifier, each, RATE) for each in (side, [voices / "b0.wav", voices / "b1.wav"])]
    first, second = (looks_of(listener, spoken) for listener in ways)
    assert first == second
    verdict, offline = verifier.verify(side, (spoken, RATE)), ways[1].finish()
    assert verdict.score == pytest.approx(offline.score, abs=1e-6)
    assert (
        [note.code for note in verdict.notes] == [note.code for note in offline.notes] == ["single-threshold"]
    )


@pytest.mark.parametrize("fault", ["zeros", "stuck", "nan", "infinite", "one sample"])
def test_a_channel_that_drops_out_is_left_out_and_named(verifier, voices, spoken, fault):
    wav_CT = np.stack([spoken, np.roll(spoken, 7), np.roll(spoken, 11)])
    broken_CT = wav_CT.copy()
    held = {"zeros": 0.0, "stuck": 0.25, "nan": np.nan, "infinite": np.inf, "one sample": np.nan}
    end = 2 * RATE + 1 if fault == "one sample" else wav_CT.shape[1]
    broken_CT[1, 2 * RATE : end] = held[fault]
    listener = Listener(verifier, voices / "b0.wav", RATE, 3)
    looks = looks_of(listener, broken_CT)
    assert [note.code for note in looks[0].notes] == []
    (told,) = [note for note in looks[-1].notes if note.code == "dropped-channel"]
    assert "channel 1 " in told and str(listener.finish().test[0].channel_numbers) == "(0, 2)"
    expected = verifier.verify(voices / "b0.wav", (np.delete(wav_CT, 1, axis=0), RATE))
    assert listener.finish().score == pytest.approx(expected.score, abs=1e-5)


def test_faint_speech_is_looked_at_beside_a_loud_channel_that_drops_out(model_folder, spoken):
    noise_T = np.random.default_rng(1).standard_normal(len(spoken)).astype(np.float32)
    noise_T[8000:] = 0
    stream = Stream(Verifier.from_pretrained(model_folder, vad="check"), RATE, 2)
    looks = list(stream.feed(np.stack([0.003 * spoken, 0.3 * noise_T])))
    assert len(looks) >= 4 and looks[-1].channel_numbers == (0,)


def test_a_pause_in_all_channels_and_a_short_one_in_one_are_no_dropout(verifier, spoken):
    wav_CT = np.stack([spoken, np.roll(spoken, 7)])
    wav_CT[:, RATE : 3 * RATE] = 0
    wav_CT[1, 4 * RATE : 4 * RATE + 14000] = 0
    stream = Stream(verifier, RATE, 2)
    assert list(stream.feed(wav_CT)) and stream.finish().channel_numbers == (0, 1)
    assert stream.notes == []


def test_a_stream_without_a_finite_channel_is_an_error(verifier, spoken):
    wav_CT = np.stack([spoken, spoken])
    wav_CT[:, RATE] = np.nan
    with pytest.raises(AudioError, match=r"line 1: at 1\.0 s no channel has finite samples"):
        list(Stream(verifier, RATE, 2, name="line 1").feed(wav_CT))


def test_what_cannot_be_fed_is_refused(verifier, spoken):
    with pytest.raises(AudioError, match="0 channels"):
        Stream(verifier, RATE, 0)
    with pytest.raises(AudioError, match="rate of 10 Hz"):
        Stream(verifier, 10)
    stream = Stream(verifier, RATE, 2)
    for wrong in (spoken, np.zeros((3, 100)), np.zeros((1, 2, 100))):
        with pytest.raises(AudioError, match=r"they are \[2, samples\]"):
            stream.feed(wrong)
    with pytest.raises(AudioError, match="type int64"):
        stream.feed(np.zeros((2, 100), int))
    with pytest.raises(AudioError, match="nothing came"):
        stream.finish()


def test_no_more_is_taken_than_the_longest(verifier, spoken):
    stream = Stream(verifier, RATE, longest=2.05)
    list(stream.feed(spoken))
    assert stream.is_full and list(stream.feed(spoken)) == []
    signal = stream.finish()
    assert signal.seconds == 2.05 and [note.code for note in signal.warnings] == ["longest"]


def test_a_stream_without_speech_ends_as_such_a_file_does(model_folder):
    stream = Stream(Verifier.from_pretrained(model_folder), RATE)
    list(stream.feed(np.zeros(RATE)))
    with pytest.raises(NoSpeechError, match="<stream>: silence"):
        stream.finish()
