import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from scipy.signal import fftconvolve

from farvox.audio.files import read_channels
from farvox.datadir.check import check_data_dir
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import AudioError, FarvoxError, JobError, MissingExtraError, UsageError
from farvox.farfield import Enhancement
from farvox.farfield.enhance import dereverberate, enhance_take, enhance_takes
from farvox.farfield.rooms import Room, circular_array, simulate_rirs
from farvox.farfield.takes import takes_by_condition, takes_by_file, takes_by_name
from farvox.synthetic.voice import draw_sentence, draw_voice, synthesise

PATTERN = r"ann_(?P<channel>\d)_\d"
SUM = Enhancement(beamform="delay-and-sum")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Without processes, which take longer to start than to do the work of a test."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def source(tmp_path):
    """Two takes of three channels, each 3 samples after the one before, and a close-talk utterance."""
    rows = []
    for take in (1, 2):
        wav = np.random.default_rng(take).standard_normal(6000) * 0.1
        for channel in range(3):
            path = tmp_path / f"{take}{channel}.wav"
            soundfile.write(path, np.roll(wav, 3 * channel), 16000, subtype="PCM_16")
            rows.append(Utterance(f"ann_{channel}_{take}", str(path), "ann", 6000))
    soundfile.write(tmp_path / "near.wav", wav[:4000], 16000, subtype="PCM_16")
    rows.append(Utterance("ann-near", str(tmp_path / "near.wav"), "ann", 4000))
    rows.sort(key=lambda row: row.utt_id)
    conditions = [f"{row.utt_id}\t{row.utt_id[4]}\thall\n" for row in rows]
    files = {
        "utt2cond": "utt_id\tchannel\troom\n" + "".join(conditions),
        "spk2gender": "ann f\n",
        "utt2quality": "ann_0_1 7\nann_1_1 8\n",
    }
    return write_data_dir(tmp_path / "data", rows, files=files)


def made(source, out, how=SUM, jobs=1):
    return enhance_takes(source, out, takes_by_name(source, PATTERN), how, jobs=jobs)


def audio_of(folder):
    files = sorted((folder / "audio").rglob("*.*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_columns_of_conditions_may_have_any_name(source, tmp_path):
    names = "take", "wav_path", "num_samples", "key", "channel_right"
    rows = [(id_, id_[4:5] if "_" in id_ else "", id_[6:] or "0") for id_ in source.utt_ids]
    lines = [f"{id_}\t{channel}" + f"\t{take}" * len(names) + "\n" for id_, channel, take in rows]
    (source.path / "utt2cond").write_text("utt_id\tchannel\t" + "\t".join(names) + "\n" + "".join(lines))
    for name in names:
        takes = takes_by_condition(source, [name])
        assert sorted(set(takes.table["take"])) == ["ann_0_1", "ann_0_2"]
        out = enhance_takes(source, tmp_path / f"out-{name}", takes, SUM, jobs=1)
        text = (out.path / "utt2cond").read_text()
        assert text.splitlines()[2] == "ann_0_1\tmixed" + "\t1" * len(names)
        assert text.count("\n") == 4


def test_a_take_becomes_one_utterance_and_what_is_no_take_stays(source, tmp_path):
    out = made(source, tmp_path / "out")
    assert out.utt_ids.to_list() == ["ann-near", "ann_0_1", "ann_0_2"]
    assert list(check_data_dir(tmp_path / "out")) == []
    assert out.num_samples.to_list() == [4000, 6000, 6000]
    assert out.wav_paths[0] == str(tmp_path / "near.wav")
    assert out.wav_paths[1] == str(tmp_path / "out/audio/ann/ann_0_1.flac")
    wav, first = read_channels(out.wav_paths[1])[0], read_channels(tmp_path / "10.wav")[0]
    alike = [np.corrcoef(np.roll(first, shift)[100:-100], wav[100:-100])[0, 1] for shift in (0, 3, 6)]
    assert max(alike) > 0.999  # whichever of the three is the reference


def test_further_files_are_carried_and_conditions_say_where_the_channels_differed(source, tmp_path):
    made(source, tmp_path / "out")
    assert (tmp_path / "out/utt2cond").read_text() == (
        "utt_id\tchannel\troom\nann-near\tn\thall\nann_0_1\tmixed\thall\nann_0_2\tmixed\thall\n"
    )
    assert (tmp_path / "out/spk2gender").read_text() == "ann f\n"
    assert (tmp_path / "out/utt2quality").read_text() == "ann_0_1 7\n"


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(source, tmp_path, monkeypatch):
    how = Enhancement(beamform="mvdr")
    made(source, tmp_path / "here", how, jobs=1)
    monkeypatch.delenv("OMP_NUM_THREADS")
    made(source, tmp_path / "one", how, jobs=1)
    made(source, tmp_path / "two", how, jobs=2)
    assert audio_of(tmp_path / "here") == audio_of(tmp_path / "one") == audio_of(tmp_path / "two")


def test_what_is_done_is_kept_and_what_is_missing_or_damaged_is_made(source, tmp_path):
    out = tmp_path / "out"
    made(source, out)
    whole = audio_of(out)
    kept, damaged = (out / f"audio/ann/ann_0_{take}.flac" for take in (1, 2))
    before = kept.stat().st_mtime_ns
    damaged.write_bytes(b"fLaC")
    (out / "wav.scp").unlink()
    made(source, out)
    assert audio_of(out) == whole
    assert kept.stat().st_mtime_ns == before
    assert len(DataDir.open(out)) == 3


def test_a_take_whose_recording_was_replaced_is_enhanced_again(source, tmp_path):
    kept, changed = (tmp_path / f"out/audio/ann/ann_0_{take}.flac" for take in (1, 2))
    made(source, tmp_path / "out")
    before = kept.stat().st_mtime_ns, changed.read_bytes()
    soundfile.write(tmp_path / "21.wav", np.zeros(5990), 16000, subtype="PCM_16")
    found = made(source, tmp_path / "out")
    assert kept.stat().st_mtime_ns == before[0] and changed.read_bytes() != before[1]
    assert audio_of(tmp_path / "out") == audio_of(made(source, tmp_path / "anew").path)
    assert found.num_samples.to_list() == [4000, 6000, 5990]


def test_other_settings_or_a_foreign_folder_are_not_mixed_in(source, tmp_path):
    made(source, tmp_path / "out")
    with pytest.raises(JobError, match=r'out: was begun with .* \(beamform "delay-and-sum", now "mvdr"\)'):
        made(source, tmp_path / "out", Enhancement(beamform="mvdr"))
    with pytest.raises(FarvoxError, match="holds other things"):
        made(source, source.path)
    (tmp_path / "out/enhance.json").write_text("{")
    with pytest.raises(JobError, match=r"enhance\.json: cannot be read"):
        made(source, tmp_path / "out")


def test_channels_of_unequal_length_are_cut_to_the_shortest_within_the_tolerance(source, tmp_path):
    wav, _ = soundfile.read(tmp_path / "21.wav")
    soundfile.write(tmp_path / "21.wav", wav[:5000], 16000, subtype="PCM_16")
    assert made(source, tmp_path / "out").num_samples.to_list() == [4000, 6000, 5000]
    with pytest.raises(
        AudioError, match=r"take 'ann_0_2': its channels are 0.31 s \(.*21.wav\) to 0.38 s .* --tolerance"
    ):
        made(source, tmp_path / "strict", Enhancement(beamform="delay-and-sum", tolerance=0.05))
    assert not (tmp_path / "strict/wav.scp").exists()


def test_takes_that_cannot_be_enhanced_are_listed_and_the_others_are_kept(source, tmp_path):
    out, notes = tmp_path / "out", []
    (tmp_path / "10.wav").write_text("no audio")
    with pytest.raises(AudioError, match=r"1 of 2 takes cannot be enhanced; .*rejected\.tsv .*--skip-bad"):
        enhance_takes(source, out, takes_by_name(source, PATTERN), SUM, jobs=1, note=notes.append)
    assert not (out / "wav.scp").exists() and "'ann_0_1'" in notes[-1] and "10.wav" in notes[-1]
    kept = out / "audio/ann/ann_0_2.flac"
    before = kept.stat().st_mtime_ns
    found = enhance_takes(source, out, takes_by_name(source, PATTERN), SUM, jobs=1, skip_bad=True)
    assert found.utt_ids.to_list() == ["ann-near", "ann_0_2"] and found.num_samples.to_list() == [4000, 6000]
    assert list(check_data_dir(out)) == [] and kept.stat().st_mtime_ns == before
    assert (out / "rejected.tsv").read_text().splitlines()[1].startswith("ann_0_1\t")
    assert "ann_0_1" not in (out / "utt2cond").read_text() + (out / "utt2quality").read_text()
    soundfile.write(tmp_path / "10.wav", soundfile.read(tmp_path / "11.wav")[0], 16000)
    assert len(made(source, out)) == 3 and not (out / "rejected.tsv").exists()
    for path in tmp_path.glob("[12]?.wav"):
        soundfile.write(path, np.zeros(6000), 16000)
    with pytest.raises(AudioError, match="2 of 2 takes"):
        enhance_takes(source, tmp_path / "none", takes_by_name(source, PATTERN), SUM, jobs=1, skip_bad=True)


def test_a_file_that_cannot_be_read_is_a_take_that_cannot_be_enhanced(tmp_path):
    wav = np.random.default_rng(0).standard_normal(5000) * 0.1
    soundfile.write(tmp_path / "a.wav", np.stack([wav, np.roll(wav, 4)], axis=1), 16000)
    soundfile.write(tmp_path / "w.wav", np.stack([wav] * 9, axis=1), 16000)
    (tmp_path / "b.wav").write_text("no audio")
    rows = [Utterance(name, str(tmp_path / f"{name}.wav")) for name in "abw"]
    source = write_data_dir(tmp_path / "data", rows[:2])
    found = enhance_takes(source, tmp_path / "out", takes_by_file(source, print), SUM, jobs=1, skip_bad=True)
    assert found.utt_ids.to_list() == ["a"]
    assert "b.wav: cannot be read" in (tmp_path / "out/rejected.tsv").read_text()
    with pytest.raises(AudioError, match=r"b\.wav: cannot be read"):
        takes_by_file(write_data_dir(tmp_path / "bad", rows[1:2]), print)
    wide = write_data_dir(tmp_path / "wide", [rows[2]])
    with pytest.raises(AudioError, match="flac holds 8 channels at most, not 9; write"):
        enhance_takes(wide, tmp_path / "far", takes_by_file(wide, print), Enhancement(wpe=True), jobs=1)


def test_a_microphone_that_is_the_wrong_way_round_is_turned_over(source, tmp_path):
    pair = takes_by_name(source, r"ann_(?P<channel>[01])_1")
    turned = -soundfile.read(tmp_path / "11.wav", dtype="int16")[0]
    soundfile.write(tmp_path / "11.wav", turned, 16000)
    with pytest.raises(AudioError, match=r"1 of 1 .* 'ann_0_1': .*polarity.*: `sox IN OUT vol -1` turns"):
        enhance_takes(source, tmp_path / "out", pair, SUM, jobs=1)
    if shutil.which("sox"):
        subprocess.run(["sox", tmp_path / "11.wav", tmp_path / "IN.wav", "vol", "-1"], check=True)
        (tmp_path / "IN.wav").rename(tmp_path / "11.wav")
    else:
        soundfile.write(tmp_path / "11.wav", -turned, 16000)
    assert "ann_0_1" in enhance_takes(source, tmp_path / "out", pair, SUM, jobs=1).utt_ids.to_list()


def test_with_wpe_alone_the_channels_stay(source, tmp_path):
    pytest.importorskip("nara_wpe", reason="needs the extra wpe")
    out = made(source, tmp_path / "out", Enhancement(wpe=True))
    assert out.utt_ids.to_list() == source.utt_ids.to_list()
    assert (tmp_path / "out/utt2cond").read_text() == (source.path / "utt2cond").read_text()
    assert out.num_samples.to_list() == [4000, *[6000] * 6]
    assert json.loads((tmp_path / "out/enhance.json").read_text())["wpe"] is True


def test_a_file_of_several_channels_is_a_take(tmp_path):
    wav = np.random.default_rng(0).standard_normal(5000) * 0.1
    soundfile.write(tmp_path / "a.wav", np.stack([wav, np.roll(wav, 4)], axis=1), 16000)
    source = write_data_dir(tmp_path / "data", [Utterance("a", str(tmp_path / "a.wav"))])
    out = enhance_takes(source, tmp_path / "out", takes_by_file(source, print), SUM, jobs=1)
    assert out.utt_ids.to_list() == ["a"]
    assert read_channels(out.wav_paths[0]).shape == (1, 5000)


def test_nothing_to_do_is_refused():
    with pytest.raises(UsageError, match="nothing to do"):
        Enhancement()


def test_what_would_be_clipped_is_made_quieter_and_one_channel_is_left_as_it_is():
    wav = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)
    assert np.abs(enhance_take(np.stack([wav[0], wav[0]]), SUM)).max() == pytest.approx(0.99)
    quiet = 0.1 * wav[:1]
    np.testing.assert_allclose(enhance_take(quiet, SUM), quiet)


pytest.importorskip("nara_wpe", reason="needs the extra wpe")


def early_to_late(wav, early):
    """dB of what is like the first 50 ms of the room over the rest."""
    like = early * np.dot(wav, early) / np.dot(early, early)
    return 10 * np.log10(np.sum(like**2) / np.sum((wav - like) ** 2))


@pytest.mark.parametrize(("num_channels", "gain"), [(2, 0.5), (4, 1.0), (16, 0.5)])
def test_late_echoes_become_weaker(num_channels, gain):
    pytest.importorskip("pyroomacoustics", reason="needs the extra sim")
    rng = np.random.default_rng(0)
    speech = synthesise(draw_voice(rng), draw_sentence(rng, 3.5), rng).astype(np.float64)
    microphones = circular_array((4.0, 2.5, 1.0), num=num_channels)
    rirs = simulate_rirs(Room((6.5, 4.5, 2.8), 0.6), (1.2, 1.5, 1.6), microphones)
    begin = int(np.argmax(np.abs(rirs[0]) >= 0.25 * np.abs(rirs[0]).max()))
    heard = np.stack([fftconvolve(speech, rir) for rir in rirs])
    early = fftconvolve(speech, np.where(np.arange(rirs.shape[1]) < begin + 800, rirs[0], 0))
    left = dereverberate(heard)
    assert left.shape == heard.shape
    assert early_to_late(left[0], early) > early_to_late(heard[0], early) + gain


def test_a_dead_channel_stays_dead_and_changes_nothing_for_the_others():
    wav = np.random.default_rng(0).standard_normal((3, 4000))
    wav[1] = 0
    left = dereverberate(wav)
    assert not left[1].any()
    np.testing.assert_array_equal(left[[0, 2]], dereverberate(wav[[0, 2]]))


def test_silence_is_refused():
    with pytest.raises(AudioError, match="silent"):
        dereverberate(np.zeros((2, 1000)))


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "nara_wpe.wpe", None)
    with pytest.raises(MissingExtraError, match=r"farvox\[wpe\]"):
        dereverberate(np.ones((2, 1000)))
