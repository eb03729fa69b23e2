import io
import pickle
import re
import subprocess
import sys
from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from farvox import Verdict, Verifier
from farvox.audio.files import read_audio, write_audio
from farvox.audio.quality import QualityTerm
from farvox.errors import (
    AudioError,
    MixedSpeakersError,
    ModelError,
    NoSpeechError,
    StoreError,
    TooShortError,
    UsageError,
)
from farvox.farfield.mixing import convolve_rir
from farvox.verifier import Signal, SqliteStore, read_signal
from farvox.zoo import Calibration, Card, TorchEmbedder, load_model, open_embedder


@pytest.fixture
def verifier(model_folder, tmp_path):
    """With the small model without a calibration, and a store of its own; without detection of speech."""
    store = SqliteStore(tmp_path / "speakers.sqlite")
    found = Verifier.from_pretrained(model_folder, store=store, vad="off")
    found.embedder.card = replace(found.card, calibration=None)
    return found


def test_a_verdict_unpacks_as_score_and_same(verifier, voices):
    verdict = verifier.verify(voices / "a0.wav", voices / "a1.wav")
    score, same = verdict
    assert isinstance(verdict, Verdict) and (score, same) == (verdict.score, verdict.same)
    assert bool(verdict) is same and copy(verdict) == verdict == pickle.loads(pickle.dumps(verdict))
    assert -1 <= score <= 1 and same == (score >= 0.5) and verdict.threshold == 0.5


def test_the_score_is_the_cosine_of_the_two_embeddings(verifier, voices):
    a_E, b_E = (verifier.embedder.embed(read_audio(voices / name)) for name in ("a0.wav", "b0.wav"))
    expected = a_E @ b_E / np.linalg.norm(a_E) / np.linalg.norm(b_E)
    assert verifier.verify(voices / "a0.wav", voices / "b0.wav").score == pytest.approx(expected, abs=1e-6)


def test_a_recording_is_the_same_speaker_as_itself(verifier, voices):
    score, same = verifier.verify(voices / "a0.wav", voices / "a0.wav")
    assert score == pytest.approx(1.0, abs=1e-6) and score <= 1 and same is True


def test_the_same_recording_may_come_as_a_path_a_file_an_array_or_a_signal(verifier, voices):
    path = voices / "a0.wav"
    wav_T = read_audio(path)
    with path.open("rb") as file:
        ways = [
            path, str(path), file, io.BytesIO(path.read_bytes()), (wav_T, 16000), (wav_T[None], 16000),
            (wav_T.astype(np.float64), 16000), ((wav_T * 32768).round().astype(np.int16), 16000),
            read_signal(path, vad="off"),
        ]  # fmt: skip
        embeddings = [verifier.embed(audio) for audio in ways]
    for emb_E in embeddings[1:]:
        np.testing.assert_allclose(emb_E, embeddings[0], atol=1e-6)


def test_an_embedding_has_length_one_and_a_list_gives_a_row_each(verifier, voices):
    emb_E = verifier.embed(voices / "a0.wav")
    assert emb_E.shape == (16,) and emb_E.dtype == np.float32
    assert np.linalg.norm(emb_E) == pytest.approx(1.0, abs=1e-6)
    assert verifier.embed([voices / "a0.wav"]).shape == (1, 16)


def test_an_embedding_does_not_depend_on_how_many_files_are_given_at_once(verifier, voices):
    paths = [voices / f"{name}.wav" for name in ("a0", "b1", "a2", "b0", "a1", "b2")]
    together_NE = verifier.embed(paths)
    for path, emb_E in zip(paths, together_NE, strict=True):
        np.testing.assert_allclose(verifier.embed(path), emb_E, atol=1e-5)


def test_the_channels_of_a_recording_are_fused(verifier, voices, tmp_path):
    rows = [read_audio(voices / f"a{take}.wav")[:16000] for take in range(3)]
    write_audio(tmp_path / "three.wav", np.stack(rows))
    alone_NE = np.stack([verifier.embed((row, 16000)) for row in rows])
    expected_E = alone_NE.mean(axis=0)
    found_E = verifier.embed(tmp_path / "three.wav")
    np.testing.assert_allclose(found_E, expected_E / np.linalg.norm(expected_E), atol=1e-5)


def test_a_silent_channel_is_left_out(verifier, voices):
    wav_T = read_audio(voices / "a0.wav")
    found_E = verifier.embed((np.stack([wav_T, np.zeros_like(wav_T)]), 16000))
    np.testing.assert_allclose(found_E, verifier.embed((wav_T, 16000)), atol=1e-6)


def test_several_recordings_are_one_side(verifier, voices):
    enrol = [voices / "a0.wav", voices / "a1.wav"]
    verdict = verifier.verify(enrol, voices / "a2.wav")
    mean_E = verifier.embed(enrol).mean(axis=0)
    expected = mean_E @ verifier.embed(voices / "a2.wav") / np.linalg.norm(mean_E)
    assert verdict.score == pytest.approx(expected, abs=1e-6)
    assert [signal.name for signal in verdict.enrol] == [str(path) for path in enrol]
    for nobody in ([], ()):
        with pytest.raises(AudioError, match="a side has no recordings"):
            verifier.verify(nobody, voices / "a0.wav")


def test_a_tuple_of_recordings_is_a_side_and_a_tuple_with_a_rate_is_not(verifier, voices):
    pair = (voices / "a0.wav", str(voices / "a1.wav"))
    verdict = verifier.verify(pair, voices / "a2.wav")
    assert len(verdict.enrol) == 2
    assert verifier.verify(verdict.enrol, verdict.test).score == verdict.score
    array = (read_audio(voices / "a0.wav"), 16000)
    assert verifier.embed(array).shape == (16,)
    assert verifier.embed((array, array)).shape == (2, 16)
    with pytest.raises(AudioError, match=r"the array comes first"):
        verifier.verify(array[::-1], array)


@pytest.mark.parametrize("threshold", [float("nan"), 45, "many", -1.5])
def test_a_threshold_that_is_no_cosine_is_refused(model_folder, threshold):
    with pytest.raises(UsageError, match="is no cosine"):
        Verifier.from_pretrained(model_folder, threshold=threshold)


def test_a_probability_comes_with_a_calibration_only(model_folder, voices):
    model = load_model(model_folder)
    bare = Verifier(TorchEmbedder(model, Card(threshold=0.4)), vad="off")
    assert bare.verify(voices / "a0.wav", voices / "b0.wav").probability is None
    card = Card(threshold=0.4, calibration=Calibration(10.0, -4.0))
    verdict = Verifier(TorchEmbedder(model, card), vad="off").verify(voices / "a0.wav", voices / "b0.wav")
    assert verdict.probability == pytest.approx(1 / (1 + np.exp(-(10 * verdict.score - 4))))


def test_a_model_without_threshold_decides_nothing_until_it_is_given_one(model_folder, voices):
    embedder = TorchEmbedder(load_model(model_folder))
    with pytest.raises(ModelError, match=r"no threshold.*--threshold.*farvox calibrate"):
        Verifier(embedder, vad="off").verify(voices / "a0.wav", voices / "a1.wav")
    assert Verifier(embedder, vad="off", threshold=-1.0).verify(voices / "a0.wav", voices / "b0.wav").same


def test_a_recording_without_speech_is_refused_not_scored(model_folder, voices):
    verifier = Verifier.from_pretrained(model_folder)
    with pytest.raises(NoSpeechError, match="silence"):
        verifier.verify(voices / "a0.wav", (np.zeros(32000, np.float32), 16000))
    with pytest.raises(TooShortError):
        verifier.verify(voices / "a0.wav", (read_audio(voices / "a0.wav")[:1600], 16000))


def test_speakers_are_enrolled_identified_and_forgotten(verifier, voices):
    enrolled = verifier.enrol("ann", [voices / "a0.wav", voices / "a1.wav"])
    verifier.enrol("bob", voices / "b0.wav")
    assert enrolled.num_recordings == 2 and enrolled.model_name == "small"
    found = verifier.identify(voices / "a0.wav", top=5)
    name, score = found
    assert name == "ann" and score == found.candidates[0][1] and found.num_speakers == 2
    expected_E = verifier.embed([voices / "a0.wav", voices / "a1.wav"]).mean(axis=0)
    expected_E /= np.linalg.norm(expected_E)
    assert score == pytest.approx(float(expected_E @ verifier.embed(voices / "a0.wav")), abs=1e-6)
    assert [name for name, _ in found.candidates] == ["ann", "bob"]
    assert verifier.forget("ann") == 1
    assert verifier.identify(voices / "a0.wav").candidates[0][0] == "bob"


def test_nobody_is_found_where_nobody_is_near_enough(model_folder, voices, tmp_path):
    store = SqliteStore(tmp_path / "s.sqlite")
    strict = Verifier.from_pretrained(model_folder, store=store, vad="off", threshold=1.0)
    with pytest.raises(StoreError, match="nobody is enrolled with this model"):
        strict.identify(voices / "a0.wav")
    strict.enrol("bob", voices / "b0.wav")
    found = strict.identify(voices / "a0.wav")
    assert found.name is None and found.candidates[0][0] == "bob" and not found


def test_a_name_is_enrolled_once_unless_it_is_to_be_replaced(verifier, voices):
    verifier.enrol("ann", voices / "b0.wav")
    with pytest.raises(StoreError, match="ann"):
        verifier.enrol("ann", voices / "a0.wav")
    verifier.enrol("ann", voices / "a0.wav", replace=True)
    assert verifier.identify(voices / "a0.wav").score == pytest.approx(1.0, abs=1e-6)


def test_speakers_of_another_model_are_counted_and_not_compared(verifier, voices, tmp_path, model_folder):
    verifier.enrol("ann", voices / "a0.wav")
    other = load_model(model_folder)
    other.network.embedding.weight.data.mul_(-1)
    stranger = Verifier(TorchEmbedder(other, Card(threshold=0.5)), store=verifier.store, vad="off")
    with pytest.raises(StoreError, match="nobody is enrolled with this model"):
        stranger.identify(voices / "a0.wav")
    stranger.enrol("bob", voices / "b0.wav")
    found = stranger.identify(voices / "a0.wav")
    assert (found.num_speakers, found.num_others, len(found.candidates)) == (1, 1, 1)


def test_recordings_are_not_kept(verifier, voices):
    verifier.enrol("ann", voices / "a0.wav")
    stored = verifier.store.path.read_bytes()
    assert (read_audio(voices / "a0.wav") * 32768).astype(np.int16)[:2000].tobytes() not in stored
    assert len(stored) < 100_000


def test_an_unread_signal_is_not_read_again(verifier, voices):
    signal = verifier.signal(voices / "a0.wav")
    assert isinstance(signal, Signal) and verifier.signal(signal) is signal


def test_importing_the_verifier_does_not_import_torch():
    code = "import sys; from farvox import Verifier; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_real_speech_is_told_apart(campplus, corpora):
    verifier = Verifier.from_pretrained(campplus)
    first, second = sorted((corpora / "speechocean762/WAVE/SPEAKER0001").iterdir())[:2]
    other = min((corpora / "speechocean762/WAVE/SPEAKER0005").iterdir())
    assert verifier.verify(first, second).same
    assert not verifier.verify(first, other).same


@pytest.mark.slow
def test_an_embedding_of_real_speech_does_not_depend_on_its_batch(campplus, corpora):
    """Of the pretrained model: one at a time, two workers, and as one tensor of two."""
    import torch

    embedder = open_embedder(campplus)
    embedder.card = Card()  # without its conditioning
    paths = sorted((corpora / "speechocean762/WAVE").rglob("*.flac"))[::300]
    verifier = Verifier(embedder, vad="off")
    together_NE = verifier.embed(list(paths))
    alone_NE = np.stack([verifier.embed(path) for path in paths])
    np.testing.assert_allclose(together_NE, alone_NE, atol=1e-5)
    wavs = [read_audio(path)[:24000] for path in paths]
    model = load_model(campplus)
    batch_BE = model.embed(torch.from_numpy(np.stack(wavs))).numpy()
    single_BE = np.stack([embedder.embed(wav_T) for wav_T in wavs])
    np.testing.assert_allclose(batch_BE, single_BE, atol=1e-5 * np.abs(single_BE).max())


def test_two_persons_on_one_side_are_named_with_their_score_and_not_enrolled(verifier, voices):
    one, other = read_audio(voices / "a0.wav"), read_audio(voices / "b0.wav")
    size = min(len(one), len(other))
    call = (np.stack([one[:size], other[:size]]), 16000)
    one_E, other_E = (verifier.embed((wav_T[:size], 16000)) for wav_T in (one, other))
    cosine = float(one_E @ other_E)
    careful = Verifier(verifier.embedder, threshold=cosine + 0.001, store=verifier.store, vad="off")
    verdict = careful.verify(call, voices / "a1.wav")
    (note,) = verdict.notes
    assert note.code == "two-speakers" and note.serious
    assert note.startswith(f"channel 0 and channel 1 score {cosine:.3f} against one another")
    (kept,) = verdict.enrol[0].channel_numbers  # the one with more speech; the other is not fused
    assert f"left out: {1 - kept} (counted from 0), as channel {kept} holds more speech" in note
    np.testing.assert_allclose(careful.embed(call), (one_E, other_E)[kept], atol=1e-6)
    for mixed in (call, [voices / "a0.wav", voices / "b0.wav"]):
        with pytest.raises(MixedSpeakersError, match="--allow-mixed"):
            careful.enrol("both", mixed)
    careful.enrol("both", call, allow_mixed=True)
    lenient = Verifier(verifier.embedder, threshold=cosine - 0.001, store=verifier.store, vad="off")
    assert lenient.verify(call, voices / "a1.wav").notes == ()
    np.testing.assert_allclose(
        lenient.embed(call) @ ((one_E + other_E) / np.linalg.norm(one_E + other_E)), 1, atol=1e-5
    )


def test_one_recording_of_five_that_is_of_another_person_is_named(verifier, voices):
    wav_T, other_T = read_audio(voices / "a0.wav"), read_audio(voices / "b0.wav")
    cosine = float(verifier.embed((wav_T, 16000)) @ verifier.embed((other_T, 16000)))
    careful = Verifier(verifier.embedder, threshold=cosine + 0.001, store=verifier.store, vad="off")
    same = [(gain * wav_T, 16000) for gain in (1.0, 0.9, 0.8, 0.7)]
    for place in range(5):
        side = [*same[:place], (other_T, 16000), *same[place:]]
        verdict = careful.verify(side, same[0])
        assert [n for n, each in enumerate(verdict.enrol) if each.warnings] == [place]
        assert verdict.enrol[place].warnings[0].code == "two-speakers"
        with pytest.raises(MixedSpeakersError, match="may be two persons"):
            careful.enrol("five", side)


def test_recordings_that_are_as_likely_of_one_person_are_enrolled_below_the_threshold(
    voices, tmp_path, model_folder
):
    model, side = load_model(model_folder), [voices / "a0.wav", voices / "b0.wav"]
    one_E, other_E = Verifier(TorchEmbedder(model), vad="off").embed(side)
    cosine = float(one_E @ other_E)
    for bar in (cosine - 0.001, cosine + 0.001):
        card = Card(threshold=cosine + 0.002, calibration=Calibration(20.0, -20.0 * bar))
        careful = Verifier(TorchEmbedder(model, card), vad="off", store=SqliteStore(tmp_path / f"{bar}"))
        note = next(x for x in careful.verify(side, voices / "a1.wav").notes if x.code == "two-speakers")
        text = f"it and '{side[0]}' score {cosine:.3f} against one another"
        assert note.startswith(text) and note.serious is (bar > cosine)
        if bar < cosine:
            enrolment = careful.enrol("ann", side)
            assert enrolment.num_recordings == 2 and enrolment.signals[1].warnings == (note,)
            continue
        with pytest.raises(MixedSpeakersError, match=re.escape(f"b0.wav: {text}")):
            careful.enrol("ann", side)
        lenient = Verifier(careful.embedder, threshold=cosine - 0.001, vad="off")
        assert "two-speakers" not in {x.code for x in lenient.verify(side, voices / "a1.wav").notes}
    terms = (QualityTerm("speech", "lower", -5.0, 0.1, 10.0),)  # which shift the bar: the threshold is it
    fitted = Calibration(20.0, -20.0 * (cosine - 0.001), terms=terms)
    careful = Verifier(TorchEmbedder(model, Card(threshold=cosine + 0.002, calibration=fitted)), vad="off")
    with pytest.raises(MixedSpeakersError):
        careful.enrol("ann", side)


@pytest.mark.slow
def test_one_person_in_two_rooms_is_enrolled_and_two_persons_are_not(campplus, corpora, tmp_path):
    """One recording near, one in a measured room; at the threshold some of the twenty are refused."""
    verifier = Verifier.from_pretrained(campplus, store=SqliteStore(tmp_path / "speakers.sqlite"))
    rooms = [read_audio(path) for path in sorted((corpora / "rirs_gtu").glob("*.wav"))]
    speakers = sorted((corpora / "speechocean762/WAVE").iterdir())[100:120]
    near, far = [], []
    for n, folder in enumerate(speakers):
        first, second = (read_audio(path) for path in sorted(folder.iterdir())[:2])
        wet_T = convolve_rir(second, rooms[n % len(rooms)])[: len(second)]
        near.append(verifier.signal((first, 16000)))
        far.append(verifier.signal((wet_T, 16000)))

    def is_refused(n, other):
        try:
            verifier.enrol(f"{n}", [near[n], far[other]], replace=True)
        except MixedSpeakersError:
            return True
        return False

    assert sum(is_refused(n, n) for n in range(20)) <= 1
    assert sum(is_refused(n, (n + 1) % 20) for n in range(20)) >= 19


def test_three_persons_on_eight_channels_are_named_and_one_is_kept(verifier, voices):
    wavs = [read_audio(voices / name) for name in ("a0.wav", "b0.wav", "a0.wav")]
    size = min(map(len, wavs))
    wav_CT = np.stack([(0.9 - 0.1 * (c // 3)) * wavs[c % 3][:size] for c in range(8)]).astype(np.float32)
    one_E, other_E = (verifier.embed((wav_T[:size], 16000)) for wav_T in wavs[:2])
    careful = Verifier(
        verifier.embedder, threshold=float(one_E @ other_E) + 0.001, store=verifier.store, vad="off"
    )
    (signal,) = careful.verify((wav_CT, 16000), voices / "a0.wav").enrol
    assert signal.channel_numbers in ((0, 2, 3, 5, 6), (1, 4, 7))
    assert [note.code for note in signal.warnings] == ["two-speakers"]
    assert len(signal.channels_CT) == len(signal.channel_numbers)


def test_a_verdict_prints_as_one_line(verifier, voices):
    verdict = verifier.verify(voices / "a0.wav", voices / "a1.wav")
    assert re.fullmatch(r"(same|different) speakers?: score -?[\d.]+, threshold -?[\d.]+", str(verdict))


def test_words_that_a_verifier_does_not_have_are_refused_before_it_reads(verifier, model_folder):
    for words, told in (
        ({"vad": "on"}, "vad = 'on'; it must be one of check, trim, off"),
        ({"channel": "left"}, "channel = 'left'; it must be one of all, most-speech, a number from 0"),
        ({"band": "wide"}, "band = 'wide'; it must be one of full, narrow, auto"),
    ):
        with pytest.raises(UsageError, match=told):
            Verifier.from_pretrained(model_folder, **words)
    with pytest.raises(UsageError, match="band = 'wide'; it must be one of full, narrow"):
        open_embedder(model_folder, band="wide")
    with pytest.raises(UsageError, match=r"Verifier\.from_pretrained\('small'\)"):
        Verifier("small")


def test_a_store_may_be_named_by_its_file(verifier, voices, tmp_path):
    named = Verifier(verifier.embedder, vad="off", store=tmp_path / "named.sqlite")
    named.enrol("ann", voices / "a0.wav")
    assert [each.name for each in SqliteStore(tmp_path / "named.sqlite").listing()] == ["ann"]


@pytest.mark.parametrize("wav", [np.zeros((2, 16000), np.float32), np.zeros(16000, np.int16)])
def test_a_model_embeds_one_channel_of_floats_and_nothing_else(verifier, wav):
    with pytest.raises(AudioError, match=r"a model embeds one channel, \[T\], of floats"):
        verifier.embedder.embed(wav)
