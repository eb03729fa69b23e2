import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.audio.files import write_audio
from farvox.augment.reverb import RirSet
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.errors import AudioError, DataDirError
from farvox.farfield.mixing import convolve_rir, direct_path, power


def lag(late_T, early_T):
    """Samples by which ``late_T`` comes after ``early_T``: the peak of their cross-correlation."""
    return int(np.argmax(np.correlate(late_T, early_T, "full"))) - (len(early_T) - 1)


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(1, 3000),
    length=st.integers(1, 2000),
    aligned=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_reverberation_is_a_convolution(num_samples, length, aligned, seed):
    rng = np.random.default_rng(seed)
    speech_T = rng.standard_normal(num_samples).astype(np.float32)
    rir_R = rng.standard_normal(length).astype(np.float32)
    full = np.convolve(speech_T.astype(np.float64), rir_R)
    start = direct_path(rir_R) if aligned else 0
    expected_T = full[start : start + num_samples]
    if aligned:
        expected_T = expected_T * np.sqrt(np.mean(speech_T.astype(np.float64) ** 2) / np.mean(expected_T**2))
    wet_T = convolve_rir(speech_T, rir_R, aligned=aligned)
    assert wet_T.dtype == np.float32
    np.testing.assert_allclose(wet_T, expected_T, atol=1e-4 * np.abs(expected_T).max())


def test_what_is_said_does_not_shift(made_dirs):
    bank = RirSet.open(made_dirs["rirs"])
    dry_T = np.random.default_rng(1).standard_normal(8000).astype(np.float32)
    delays = [direct_path(bank.rir(index)) for index in range(len(bank))]
    assert [lag(bank.reverberate(dry_T, i), dry_T) for i in range(len(bank))] == [0, 0, 0]
    assert [lag(bank.reverberate(dry_T, i, aligned=False), dry_T) for i in range(len(bank))] == delays
    assert delays == [0, 40, 300]


def test_a_click_in_a_real_room_is_loudest_where_it_was(real_dirs):
    """Clicks, since the reflections of these rooms are nearly as strong as what arrives first."""
    bank, click_T = RirSet.open(real_dirs["rirs"]), np.zeros(48000, dtype=np.float32)
    click_T[10000] = 0.5
    for index in range(len(bank)):
        assert np.argmax(np.abs(bank.reverberate(click_T, index))) == 10000
        late_T = bank.reverberate(click_T, index, aligned=False)
        assert np.argmax(np.abs(late_T)) == 10000 + direct_path(bank.rir(index)) > 10000


def test_real_rooms_change_the_speech_and_keep_its_power(real_dirs, real_speech):
    bank = RirSet.open(real_dirs["rirs"])
    for index in range(len(bank)):
        wet_T = bank.reverberate(real_speech, index)
        assert len(wet_T) == len(real_speech)
        assert power(wet_T) == pytest.approx(power(real_speech), rel=1e-5)
        assert np.abs(wet_T - real_speech).max() > 0.01


def test_the_direct_path_is_found_whatever_its_sign():
    rir_R = np.zeros(100, dtype=np.float32)
    rir_R[[30, 60]] = -0.9, 0.5
    assert direct_path(rir_R) == 30


def test_a_unit_impulse_is_a_room_without_walls(speech):
    np.testing.assert_allclose(convolve_rir(speech, np.float32([0, 0, -0.3])), -speech, atol=1e-6)


def test_speech_that_a_room_would_swallow_comes_back(speech):
    """Speech that ends before the direct path arrives, under a convolution that is all zeros."""
    silence = np.zeros_like(speech)
    np.testing.assert_array_equal(convolve_rir(silence, np.float32([0.5, 0.2])), silence)
    assert len(convolve_rir(speech[:0], np.float32([1.0]))) == 0


@pytest.mark.parametrize("rir_R", [np.float32([]), np.float32([1.0, np.nan])])
def test_an_rir_without_samples_or_not_finite_is_an_error(speech, rir_R):
    with pytest.raises(AudioError, match="impulse response"):
        convolve_rir(speech, rir_R)


def test_an_rir_file_of_zeros_is_an_error_with_its_name(tmp_path, speech):
    write_audio(tmp_path / "void.wav", np.zeros(500, dtype=np.float32))
    write_data_dir(tmp_path / "rirs", [Utterance("void", str(tmp_path / "void.wav"))])
    with pytest.raises(AudioError, match=r"void\.wav: not an impulse response"):
        RirSet.open([tmp_path / "rirs"]).reverberate(speech, 0)


def test_what_is_remembered_does_not_change_the_result(made_dirs, speech):
    bank = RirSet.open(made_dirs["rirs"])
    forgetful = RirSet(bank.paths)
    for length in (8000, 5000, 8000):
        for index in (2, 0, 1, 2):
            wet_T = bank.reverberate(speech[:length], index)
            np.testing.assert_array_equal(wet_T, forgetful.reverberate(speech[:length], index))
            np.testing.assert_array_equal(wet_T, convolve_rir(speech[:length], bank.rir(index)))


def test_a_bank_travels_without_its_memory(made_dirs, speech):
    bank = RirSet.open(made_dirs["rirs"])
    wet_T = bank.reverberate(speech, 1)
    travelled = pickle.loads(pickle.dumps(bank))
    assert len(pickle.dumps(bank)) < 2000
    np.testing.assert_array_equal(travelled.reverberate(speech, 1), wet_T)


def test_a_packed_bank_gives_what_its_files_give(made_dirs, real_dirs, speech):
    for dirs in (made_dirs["rirs"], real_dirs["rirs"]):
        packed, on_disk = RirSet.open(dirs), RirSet.open(dirs, pack=False)
        assert packed.packed is not None and on_disk.packed is None
        for index in range(len(packed)):
            np.testing.assert_array_equal(
                packed.reverberate(speech, index), on_disk.reverberate(speech, index)
            )


def conditioned(folder, t60s):
    """A data dir of RIRs with these T60s in its utt2cond."""
    utterances = []
    for number in range(len(t60s)):
        write_audio(folder / f"{number}.wav", np.eye(1, 100)[0])
        utterances.append(Utterance(f"r{number}", str(folder / f"{number}.wav"), None, 100))
    lines = [f"r{number}\t{t60}\n" for number, t60 in enumerate(t60s)]
    write_data_dir(folder, utterances, files={"utt2cond": "utt_id\tt60\n" + "".join(lines)})
    return folder


def test_rirs_are_chosen_by_what_is_known_of_them(tmp_path):
    folder = conditioned(tmp_path / "bank", ["0.30", "0.50", "", "0.70"])
    bank = RirSet.open([folder], within={"t60": (0.4, 0.7)})
    assert [path.rsplit("/", 1)[1] for path in bank.paths] == ["1.wav", "3.wav"]


def test_a_choice_that_leaves_no_rir_is_refused(tmp_path):
    folder = conditioned(tmp_path / "bank", ["0.30"])
    with pytest.raises(DataDirError, match=r"no RIR has t60 0\.4 to 0\.7"):
        RirSet.open([folder], within={"t60": (0.4, 0.7)})
    with pytest.raises(DataDirError, match="has no condition 'drr'"):
        RirSet.open([folder], within={"drr": (0, 9)})
    (folder / "utt2cond").unlink()
    with pytest.raises(DataDirError, match="has no utt2cond"):
        RirSet.open([folder], within={"t60": (0.4, 0.7)})


def test_banks_whose_rirs_are_called_alike_are_all_drawn_from(tmp_path):
    folders = [conditioned(tmp_path / name, ["0.30", "0.50"]) for name in ("one", "other")]
    assert len(set(RirSet.open(folders).paths)) == 4
    kept = RirSet.open(folders, within={"t60": (0.4, 0.6)}).paths
    assert kept == tuple(str(folder / "1.wav") for folder in folders)
