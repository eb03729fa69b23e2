"""Which parts of a recording are speech, by energy and by silero-vad."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.audio import speech as detectors
from farvox.audio.files import Wave, read_audio, resample
from farvox.audio.levels import loud_level
from farvox.audio.speech import (
    ENOUGH_SECONDS,
    SILENCE_DB,
    Speech,
    find_by_energy,
    find_by_silero,
    find_speech,
    frame_levels,
    padded,
    silero,
)
from farvox.farfield.mixing import add_noise, convolve_rir
from farvox.synthetic.voice import draw_sentence, draw_voice, synthesise

RATE = 16000
needs_silero = pytest.mark.skipif(silero() is None, reason="silero-vad is not installed")
needs_corpora = pytest.mark.skipif("FARVOX_CORPORA" not in os.environ, reason="set FARVOX_CORPORA")


def speech(seconds: float = 2.0, seed: int = 0) -> Wave:
    rng = np.random.default_rng(seed)
    wav_T = synthesise(draw_voice(rng), draw_sentence(rng, seconds), rng)
    return np.resize(wav_T, int(seconds * RATE)).astype(np.float32)


def hiss(seconds: float, rms: float) -> Wave:
    return np.float32(rms) * np.random.default_rng(1).standard_normal(int(seconds * RATE)).astype(np.float32)


def covered(found: Speech, begin: int, end: int) -> float:
    """Share of the samples from ``begin`` to ``end`` that were found."""
    return sum(max(0, min(last, end) - max(first, begin)) for first, last in found.regions) / (end - begin)


# Levels.


def test_a_tone_has_its_level_whatever_its_offset() -> None:
    tone_T = np.sin(2 * np.pi * 400 / RATE * np.arange(RATE)).astype(np.float32)
    for offset in (0.0, 0.5):
        level_F = frame_levels(0.1 * tone_T + np.float32(offset), RATE)
        np.testing.assert_allclose(level_F[:-1], -23.01, atol=0.01)
        assert len(level_F) == 99
        assert -24 < level_F[-1] < -23  # filled up
    assert len(frame_levels(tone_T[:100], RATE)) == 1


def test_a_click_does_not_set_the_loud_level() -> None:
    wav_T = hiss(2, 1e-5)
    wav_T[5000:5100] = 0.9
    assert loud_level(wav_T, RATE) < SILENCE_DB


@pytest.mark.parametrize("offset", [0.0, 0.7])
def test_silence_hiss_and_an_offset_are_below_the_level_of_silence(offset: float) -> None:
    dither_T = np.random.default_rng(0).integers(-1, 2, RATE) / 32768 + offset
    for wav_T in (np.zeros(RATE), np.full(RATE, offset), dither_T):
        assert loud_level(wav_T.astype(np.float32), RATE) < SILENCE_DB
        assert find_by_energy(wav_T[None].astype(np.float32), RATE) == Speech("energy", 0.0, (), (0,), 0)


# Regions.

REGIONS = st.lists(st.integers(0, 5000), max_size=12, unique=True).map(
    lambda ends: tuple(zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False))
)


@given(REGIONS, st.integers(0, 700))
def test_padded_regions_are_in_order_apart_and_hold_the_old_ones(
    regions: tuple[tuple[int, int], ...], pad: int
) -> None:
    grown = padded(regions, pad, 5000)
    is_in_T = np.zeros(5000, bool)
    for begin, end in regions:
        is_in_T[max(0, begin - pad) : end + pad] = True
    is_grown_T = np.zeros(5000, bool)
    for begin, end in grown:
        assert 0 <= begin < end <= 5000
        is_grown_T[begin:end] = True
    np.testing.assert_array_equal(is_grown_T, is_in_T)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(grown))


DETECTORS = [find_by_energy, pytest.param(find_by_silero, marks=needs_silero)]


@pytest.mark.parametrize("find", DETECTORS)
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_speech_between_two_pauses_is_found_where_it_is(find: type, rate: int) -> None:
    wav_T = resample(np.concatenate([hiss(2, 1e-4), speech(3.0), hiss(2, 1e-4)]), RATE, rate)
    found = find(wav_T[None], rate)
    assert covered(found, 2 * rate, 5 * rate) > 0.6
    assert covered(found, 0, 19 * rate // 10) == covered(found, 51 * rate // 10, 7 * rate) == 0
    assert found.seconds == pytest.approx(sum(last - first for first, last in found.regions) / rate)


@pytest.mark.parametrize("find", DETECTORS)
@pytest.mark.parametrize("gain_db", [-50, -20, 0, 5])
@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_neither_level_nor_offset_hides_speech(find: type, gain_db: float, offset: float) -> None:
    wav_T = np.float32(10 ** (gain_db / 20)) * speech() + np.float32(offset)
    assert find(wav_T[None], RATE).seconds == pytest.approx(find(speech()[None], RATE).seconds, abs=0.2)


@pytest.mark.parametrize("find", DETECTORS)
def test_the_best_of_several_channels_decides(find: type) -> None:
    wav_T = speech()
    dead_T = np.zeros_like(wav_T)
    alone = find(wav_T[None], RATE)
    for wav_CT in (np.stack([dead_T, wav_T]), np.stack([wav_T, hiss(2, 1e-6)])):
        assert find(wav_CT, RATE).seconds == pytest.approx(alone.seconds, abs=1e-6)


@pytest.mark.parametrize("find", DETECTORS)
def test_0_3_seconds_out_of_the_middle_of_speech_are_enough(find: type) -> None:
    wav_T = speech()
    assert find(wav_T[None, 8000:12800], RATE).seconds >= ENOUGH_SECONDS


@needs_silero
def test_a_loud_noise_in_one_channel_does_not_hide_the_speech_of_another() -> None:
    wav_CT = np.stack([hiss(2, 0.3), np.float32(0.05) * speech()])
    assert find_by_silero(wav_CT, RATE).seconds > 1


@needs_silero
def test_steady_noise_is_no_speech_to_silero() -> None:
    tone_T = (0.3 * np.sin(2 * np.pi * 440 / RATE * np.arange(2 * RATE))).astype(np.float32)
    for wav_T in (hiss(2, 0.1), tone_T, tone_T + hiss(2, 0.01)):
        assert find_by_silero(wav_T[None], RATE).seconds < ENOUGH_SECONDS


@needs_silero
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3000), st.integers(1, 3))
def test_any_length_has_a_probability_for_each_window(num_samples: int, num_channels: int) -> None:
    detector = silero()
    assert detector is not None
    wav_CT = np.stack([speech(1.0, seed=channel)[:num_samples] for channel in range(num_channels)])
    together_CF = detector.probabilities(wav_CT)
    assert together_CF.shape == (num_channels, -(-num_samples // 512))
    for wav_T, probability_F in zip(wav_CT, together_CF, strict=True):
        np.testing.assert_allclose(detector.probabilities(wav_T[None])[0], probability_F, atol=1e-5)


@needs_silero
def test_probabilities_are_those_of_the_package_itself(tmp_path: Path) -> None:
    code = """
import sys, numpy as np, silero_vad, torch
wav = torch.from_numpy(np.load(sys.argv[1]))
np.save(sys.argv[2], silero_vad.load_silero_vad(onnx=True).audio_forward(wav, 16000).numpy())
"""
    pytest.importorskip("torch")
    np.save(tmp_path / "wav.npy", speech(2.03))
    paths = [str(tmp_path / name) for name in ("wav.npy", "theirs.npy")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
    theirs_F = np.load(tmp_path / "theirs.npy")[0]
    detector = silero()
    assert detector is not None
    np.testing.assert_allclose(detector.probabilities(speech(2.03)[None])[0], theirs_F, atol=1e-5)


@needs_silero
def test_silero_is_heard_without_torch_and_named_with_its_version() -> None:
    code = (
        "import sys, numpy as np; from farvox.audio.speech import find_speech;"
        "print(find_speech(np.zeros((1, 16000), np.float32), 16000).detector);"
        "assert not {'torch', 'silero_vad'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("silero-vad 6")
    assert done.stderr == ""


def test_without_silero_the_energy_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors.importlib.util, "find_spec", lambda name: None)
    silero.cache_clear()
    try:
        assert find_speech(speech()[None], RATE) == find_by_energy(speech()[None], RATE)
    finally:
        silero.cache_clear()


# Real speech.


@needs_corpora
@pytest.mark.slow
@pytest.mark.parametrize("gain_db", [0, -30])
def test_real_speech_is_speech_near_and_far(gain_db: float) -> None:
    corpora = Path(os.environ["FARVOX_CORPORA"])
    rirs = [read_audio(path) for path in sorted((corpora / "rirs_gtu").glob("*.wav"))]
    noises = [read_audio(path) for path in sorted((corpora / "noise_esc10").glob("rain/*.*"))]
    utterances = sorted((corpora / "an4").rglob("*.flac"))[::40]
    utterances += sorted((corpora / "speechocean762" / "WAVE").rglob("*.flac"))[::100]
    gain = np.float32(10 ** (gain_db / 20))
    for index, path in enumerate(utterances):
        wav_T = read_audio(path)
        noise_T = np.resize(noises[index % len(noises)], len(wav_T))
        far_T = add_noise(convolve_rir(wav_T, rirs[index % len(rirs)]), noise_T, 5 + index % 6)
        for heard_T in (wav_T, far_T):
            for find in (find_by_energy, find_speech):
                assert find(gain * heard_T[None], RATE).seconds >= ENOUGH_SECONDS, path


@needs_corpora
@needs_silero
def test_most_of_what_is_no_speech_is_refused() -> None:
    corpora = Path(os.environ["FARVOX_CORPORA"])
    others = sorted((corpora / "noise_esc10").glob("*/*.*"))[::5] + sorted(
        (corpora / "music_sonicpi").glob("*.flac")
    )
    found = [find_by_silero(read_audio(path)[None], RATE).seconds for path in others]
    assert np.mean(np.array(found) < ENOUGH_SECONDS) > 0.6
