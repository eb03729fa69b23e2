"""Noise from the pauses of recordings."""

import numpy as np
import pytest

from farvox.audio.files import read_audio, write_audio
from farvox.datadir.conditions import read_conditions
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import AudioError, CorpusError, DataDirError, JobError
from farvox.farfield.backgrounds import cut_backgrounds
from farvox.farfield.mixing import power


def quiet(line):
    """Nobody reads what is noted."""


@pytest.fixture
def spoken(tmp_path):
    """Two recordings of a tone that pauses, in noise 20 and 10 dB below it, and one that is all noise."""
    rng = np.random.default_rng(0)
    t = np.arange(32000) / 16000
    tone_T = np.where((t > 0.5) & (t < 1.0), np.sqrt(2) * np.sin(2 * np.pi * 200 * t), 0)
    utterances = []
    for name, gain in (("A-1", 0.1), ("A-2", 0.1**0.5), ("B-1", 0)):
        wav_T = (tone_T if gain else 0) + (gain or 1) * rng.standard_normal(len(t))
        write_audio(tmp_path / f"{name}.wav", (0.1 * wav_T).astype(np.float32))
        utterances.append(Utterance(name, str(tmp_path / f"{name}.wav"), name[0], len(t)))
    return write_data_dir(tmp_path / "data", utterances).path


def test_the_pauses_become_a_data_dir_of_noise_that_says_how_loud_it_was(spoken, tmp_path):
    made, ratios_db, looked_at = cut_backgrounds(spoken, tmp_path / "noise", note=quiet, jobs=1)
    assert made.utt_ids.to_list() == ["A-1", "A-2"] and made.speaker_ids.null_count() == 2 and looked_at == 3
    found = read_conditions(made.path)["snr"].cast(float).to_numpy()
    np.testing.assert_allclose(found, [20, 10], atol=1.5)
    assert ratios_db == pytest.approx(np.percentile(found, [25, 50, 75]), abs=0.01)
    for path, num_samples in zip(made.wav_paths, made.num_samples, strict=True):
        noise_T = read_audio(path)
        assert len(noise_T) == num_samples and 1.3 < num_samples / 16000 < 1.6
        assert 10 * np.log10(power(noise_T)) == pytest.approx(-26, abs=0.1)
        tone = np.abs(np.fft.rfft(noise_T[:16000]))[195:206] ** 2
        assert tone.max() < 30 * (np.abs(np.fft.rfft(noise_T[:16000])) ** 2).mean()


def test_an_interrupted_run_goes_on_and_other_settings_are_refused(spoken, tmp_path):
    first, *_ = cut_backgrounds(spoken, tmp_path / "noise", note=quiet, jobs=1)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")}
    again, *_ = cut_backgrounds(spoken, tmp_path / "noise", note=quiet, jobs=1)
    assert again.table.equals(first.table)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")} == stamps
    with pytest.raises(JobError, match=r"noise: was begun with other settings \(least 0.5, now 1.0\)"):
        cut_backgrounds(spoken, tmp_path / "noise", note=quiet, least=1.0, jobs=1)


def test_what_cannot_be_used_is_named(spoken, tmp_path):
    with pytest.raises(CorpusError, match="give a time above 0"):
        cut_backgrounds(spoken, tmp_path / "a", note=quiet, least=0)
    with pytest.raises(DataDirError, match="no recording has 5 s without speech"):
        cut_backgrounds(spoken, tmp_path / "b", note=quiet, least=5, jobs=1)
    (DataDir.open(spoken).path.parent / "A-2.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match="utterance 'A-2'"):
        cut_backgrounds(spoken, tmp_path / "c", note=quiet, jobs=1)
