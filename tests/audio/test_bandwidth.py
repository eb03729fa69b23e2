"""`bandwidth` on real speech: what ends at 4 kHz is told, and what only has little above it is not."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import read_audio, resample, write_audio
from farvox.audio.levels import LIMITED_SHARE, bandwidth, is_narrow
from farvox.farfield.mixing import add_noise, convolve_rir

RATE = 16000
pytestmark = pytest.mark.skipif("FARVOX_CORPORA" not in os.environ, reason="set FARVOX_CORPORA")


@pytest.fixture(scope="module")
def utterances() -> list[np.ndarray]:
    corpora = Path(os.environ["FARVOX_CORPORA"])
    paths = sorted((corpora / "an4").rglob("*.flac"))[::50]
    return [read_audio(path) for path in paths + sorted((corpora / "speechocean762").rglob("*.flac"))[::100]]


def narrow_share(recordings: list[np.ndarray], own_rate: int = RATE) -> float:
    return float(np.mean([is_narrow(wav_T, RATE, own_rate) for wav_T in recordings]))


def test_speech_as_recorded_and_in_rooms_is_not_narrow(utterances) -> None:
    corpora = Path(os.environ["FARVOX_CORPORA"])
    rirs = [read_audio(path) for path in sorted((corpora / "rirs_gtu").glob("*.wav"))]
    noises = [read_audio(path) for path in sorted((corpora / "noise_esc10" / "rain").glob("*.*"))]
    far = [convolve_rir(wav_T, rirs[n % len(rirs)]) for n, wav_T in enumerate(utterances)]
    noisy = [
        add_noise(wav_T, np.resize(noises[n % len(noises)], len(wav_T)), 10) for n, wav_T in enumerate(far)
    ]
    for recordings in (utterances, far, noisy):
        assert narrow_share(recordings) <= 0.02
        limited = [bandwidth(wav_T, RATE) < LIMITED_SHARE * RATE / 2 for wav_T in recordings]
        assert sum(limited) <= 1, np.flatnonzero(limited)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("cut", [2000, 3000])
def test_a_voice_behind_a_cloth_is_not_taken_for_a_narrow_one(utterances, order: int, cut: int) -> None:
    def muffled(wav_T: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(wav_T)
        freq = np.fft.rfftfreq(len(wav_T), 1 / RATE)
        spectrum /= (1 + (freq / cut) ** 2) ** (order / 2)  # the magnitude of `order` low passes
        return np.fft.irfft(spectrum, len(wav_T)).astype(np.float32)

    recordings = [muffled(wav_T) for wav_T in utterances]
    assert narrow_share(recordings) <= 0.05, narrow_share(recordings)


def test_a_file_of_8_khz_is_narrow_by_its_rate(utterances, tmp_path) -> None:
    for wav_T in utterances[:5]:
        assert is_narrow(wav_T, RATE, 8000) and bandwidth(wav_T, RATE, 8000) == 4000
    assert narrow_share([resample(resample(wav_T, RATE, 8000), 8000, RATE) for wav_T in utterances]) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw", "g722"])
def test_what_ffmpeg_sent_over_a_telephone_is_narrow_also_on_a_line_with_noise(
    utterances, tmp_path, codec
) -> None:
    heard = []
    rate = "16000" if codec == "g722" else "8000"
    for wav_T in utterances[::2]:
        write_audio(tmp_path / "full.wav", wav_T)
        for words in (
            ["-i", "full.wav", "-ar", rate, "-c:a", codec, "sent.wav"],
            ["-i", "sent.wav", "-ar", "16000", "-c:a", "pcm_s16le", "heard.wav"],
        ):
            subprocess.run(
                ["ffmpeg", "-loglevel", "error", "-y", *words],
                cwd=tmp_path,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        heard.append(read_audio(tmp_path / "heard.wav"))
    if codec == "g722":  # 16 kHz wide
        assert narrow_share(heard) == 0
        return
    assert narrow_share(heard) == 1
    rng = np.random.default_rng(0)
    for floor_db, least in ((-70, 0.95), (-60, 0.9)):
        noisy = [
            wav_T + 10 ** (floor_db / 20) * rng.standard_normal(len(wav_T)).astype(np.float32)
            for wav_T in heard
        ]
        assert narrow_share(noisy) >= least, (floor_db, narrow_share(noisy))
