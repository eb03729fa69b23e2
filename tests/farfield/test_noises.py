"""Noise from the pauses of recordings."""

from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import read_audio, write_audio
from farvox.datadir.conditions import read_conditions
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import AudioError, DataDirError, JobError, UsageError
from farvox.farfield import NoisesOptions
from farvox.farfield.mixing import power
from farvox.farfield.noises import background, make_noises

RATE = 16000
ONE = NoisesOptions(jobs=1)


def spoken(snr_db, noise_T, words=((0.5, 1.0), (1.6, 2.2))):
    """A loud buzz in the places of ``words`` (seconds) over noise."""
    t = np.arange(len(noise_T)) / RATE
    buzz_T = sum(np.sin(2 * np.pi * 140 * k * t + k) for k in range(1, 15))
    says_T = np.any([(t >= begin) & (t < end) for begin, end in words], axis=0)
    buzz_T = buzz_T / np.sqrt(power(buzz_T)) * np.sqrt(power(noise_T)) * 10 ** (snr_db / 20)
    return (noise_T + says_T * buzz_T).astype(np.float32)


@pytest.fixture
def hiss():
    return (0.01 * np.random.default_rng(0).standard_normal(3 * RATE)).astype(np.float32)


@pytest.mark.parametrize("snr_db", [8, 15, 30])
def test_the_pauses_are_kept_and_the_words_are_not(hiss, snr_db):
    found_T = background(spoken(snr_db, hiss), RATE)
    assert 1.6 < len(found_T) / RATE <= 1.9  # of 1.9 s
    assert 10 * np.log10(power(found_T) / power(hiss)) == pytest.approx(0, abs=0.3)
    spectrum = np.abs(np.fft.rfft(found_T[:RATE])) ** 2
    assert spectrum[138:143].max() < 30 * spectrum.mean()  # no buzz at 140 Hz


def test_a_recording_that_is_one_stretch_comes_back_in_one_piece(hiss):
    found_T = background(spoken(20, hiss, words=((2.0, 3.0),)), RATE)
    np.testing.assert_array_equal(found_T, spoken(20, hiss, words=((2.0, 3.0),))[: len(found_T)])
    assert len(found_T) == pytest.approx(1.98 * RATE, abs=320)


def test_no_pause_no_background(hiss):
    assert len(background(hiss, RATE)) == 0
    assert len(background(np.zeros(RATE, np.float32), RATE)) == 0
    assert len(background(hiss[:500], RATE)) == 0
    gated_T = np.where(np.abs(spoken(30, hiss)) > 0.03, spoken(30, hiss), 0).astype(np.float32)
    assert len(background(gated_T, RATE)) == 0  # digital silence is no background


def test_a_stop_in_a_word_is_no_pause(hiss):
    stops = [(n * 0.15, n * 0.15 + 0.09) for n in range(20)]  # 60 ms of nothing, again and again
    assert len(background(spoken(20, hiss, words=stops), RATE)) == 0


@pytest.fixture
def recordings(tmp_path):
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


def test_the_pauses_become_a_data_dir_of_noise_that_says_how_loud_it_was(recordings, tmp_path):
    notes: list[str] = []
    made = make_noises(recordings, tmp_path / "noise", ONE, note=notes.append)
    assert made.utt_ids.to_list() == ["A-1", "A-2"] and made.speaker_ids.null_count() == 2
    found = read_conditions(made.path)["snr"].cast(float).to_numpy()
    np.testing.assert_allclose(found, [20, 10], atol=1.5)
    low, middle, high = np.percentile(found, [25, 50, 75])
    assert notes == [
        f"{made.path}: background of 2 of 3 recordings",
        f"speech over noise: half of them between {low:.0f} and {high:.0f} dB, median {middle:.0f} dB",
    ]
    for path, num_samples in zip(made.wav_paths, made.num_samples, strict=True):
        noise_T = read_audio(path)
        assert len(noise_T) == num_samples and 1.3 < num_samples / 16000 < 1.6
        assert 10 * np.log10(power(noise_T)) == pytest.approx(-26, abs=0.1)
        tone = np.abs(np.fft.rfft(noise_T[:16000]))[195:206] ** 2
        assert tone.max() < 30 * (np.abs(np.fft.rfft(noise_T[:16000])) ** 2).mean()


def test_an_interrupted_run_goes_on_and_other_settings_are_refused(recordings, tmp_path):
    first = make_noises(recordings, tmp_path / "noise", ONE)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")}
    again = make_noises(recordings, tmp_path / "noise", ONE)
    assert again.table.equals(first.table)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")} == stamps
    with pytest.raises(JobError, match=r"noise: was begun with other settings \(least 0.5, now 1.0\)"):
        make_noises(recordings, tmp_path / "noise", NoisesOptions(least=1, jobs=1))


def test_the_background_of_a_recording_that_was_replaced_is_made_again(recordings, tmp_path):
    first = make_noises(recordings, tmp_path / "noise", ONE)
    path = DataDir.open(recordings).wav_paths[0]
    write_audio(path, 0.5 * read_audio(path)[:30000])
    Path(first.wav_paths[1]).unlink()
    notes: list[str] = []
    again = make_noises(recordings, tmp_path / "noise", ONE, note=notes.append)
    assert "3 of 3 are done again" in notes[0]
    anew = make_noises(recordings, tmp_path / "anew", ONE)
    assert again.num_samples.equals(anew.num_samples) and not again.num_samples.equals(first.num_samples)
    for paths in zip(again.wav_paths, anew.wav_paths, strict=True):
        assert len({Path(path).read_bytes() for path in paths}) == 1


def test_what_cannot_be_used_is_named(recordings, tmp_path):
    with pytest.raises(UsageError, match=r"least = 0\.0; it must be above 0"):
        NoisesOptions(least=0)
    with pytest.raises(DataDirError, match="no recording has 5 s without speech"):
        make_noises(recordings, tmp_path / "b", NoisesOptions(least=5, jobs=1))
    (DataDir.open(recordings).path.parent / "A-2.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match="utterance 'A-2'"):
        make_noises(recordings, tmp_path / "c", ONE)


def test_nothing_is_written_outside_whatever_the_ids(hiss, tmp_path):
    write_audio(tmp_path / "a.wav", spoken(20, hiss))
    ids = ["../../x", "/tmp/x", "a/b", "a%2Fb", ".."]
    source = write_data_dir(
        tmp_path / "in" / "data", [Utterance(each, str(tmp_path / "a.wav"), each) for each in ids]
    )
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    made = make_noises(source.path, tmp_path / "out" / "noise", ONE)
    assert made.utt_ids.to_list() == sorted(ids)
    audio = [path for path in tmp_path.rglob("*.flac")]
    assert len(audio) == 5 and set(map(str, audio)) == set(made.wav_paths)
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.resolve().is_relative_to(tmp_path / "out" / "noise") for path in new)
