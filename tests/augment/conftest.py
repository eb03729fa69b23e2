import os
from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import audio_info, write_audio
from farvox.datadir.kaldi import Utterance, write_data_dir


def data_dir(folder, paths):
    """A data dir of audio files, with their lengths."""
    utterances = [
        Utterance(f"{i:03d}-{path.stem}", str(path), None, audio_info(path).num_samples)
        for i, path in enumerate(paths)
    ]
    write_data_dir(folder, utterances)
    return folder


def dir_of(folder, waves):
    """A data dir of waveforms."""
    for i, wav_T in enumerate(waves):
        (folder / "wav").mkdir(parents=True, exist_ok=True)
        write_audio(folder / "wav" / f"{i}.wav", wav_T)
    return data_dir(folder, sorted((folder / "wav").iterdir()))


def decaying_rir(rng, direct, length=4000):
    """Silence, a direct path, a reverberant tail."""
    rir_R = rng.standard_normal(length) * np.exp(-np.arange(length) / 600) * 0.05
    rir_R[:direct] = 0
    rir_R[direct] = 0.9
    return rir_R.astype(np.float32)


@pytest.fixture(scope="session")
def made_dirs(tmp_path_factory):
    """Data dirs of noise, music, speech and rirs, as `build_augmenter` takes them; small and made up."""
    root, rng = tmp_path_factory.mktemp("banks"), np.random.default_rng(5)
    lengths = (5000, 20000, 40000, 8000)
    noises = {
        name: [0.1 * rng.standard_normal(n).astype(np.float32) for n in lengths]
        for name in ("noise", "music", "speech")
    }
    rirs = [decaying_rir(rng, direct) for direct in (0, 40, 300)]
    return {name: [dir_of(root / name, waves)] for name, waves in (noises | {"rirs": rirs}).items()}


@pytest.fixture(scope="session")
def corpora():
    if "FARVOX_CORPORA" not in os.environ:
        pytest.skip("needs real recordings: set FARVOX_CORPORA")
    return Path(os.environ["FARVOX_CORPORA"])


@pytest.fixture(scope="session")
def real_dirs(corpora, tmp_path_factory):
    """Data dirs of real noise, music, speech and rirs."""
    root = tmp_path_factory.mktemp("real")
    sources = {
        "noise": sorted((corpora / "noise_esc10").rglob("*.flac")),
        "music": sorted((corpora / "music_sonicpi").rglob("*.flac")),
        "speech": sorted((corpora / "an4").rglob("*.flac"))[:40],
        "rirs": sorted((corpora / "rirs_gtu").rglob("*.wav")),
    }
    return {name: [data_dir(root / name, paths)] for name, paths in sources.items()}


@pytest.fixture(scope="session")
def real_speech(corpora):
    """Three seconds of real speech."""
    import soundfile

    path = sorted((corpora / "speechocean762" / "WAVE").rglob("*.flac"))[7]
    return np.resize(soundfile.read(path, dtype="float32")[0], 48000)


@pytest.fixture
def speech():
    """Half a second of a voice-like buzz with pauses."""
    t = np.arange(8000) / 16000
    buzz = sum(np.sin(2 * np.pi * 120 * k * t + k) / k for k in range(1, 20))
    return (0.1 * buzz * (np.sin(2 * np.pi * 3 * t) > -0.5)).astype(np.float32)
