import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.audio.files import write_audio
from farvox.augment.noise import NoiseSet, draw_babble
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.errors import AudioError, DataDirError
from farvox.farfield.mixing import add_noise, is_silent, power
from farvox.rng import rng_for


def achieved_snr_db(mixed_T, speech_T):
    return 10 * np.log10(power(speech_T) / np.mean((mixed_T.astype(np.float64) - speech_T) ** 2))


@settings(max_examples=200, deadline=None)
@given(
    snr_db=st.floats(-10, 30),
    speech_level=st.floats(1e-3, 1.0),
    noise_level=st.floats(1e-3, 1.0),
    num_samples=st.integers(400, 20000),
    seed=st.integers(0, 2**32),
)
def test_the_ratio_is_the_one_asked_for(snr_db, speech_level, noise_level, num_samples, seed):
    rng = np.random.default_rng(seed)
    speech_T = (speech_level * rng.standard_normal(num_samples)).astype(np.float32)
    noise_T = (noise_level * rng.standard_normal(num_samples)).astype(np.float32)
    mixed_T = add_noise(speech_T, noise_T, snr_db)
    assert mixed_T.dtype == np.float32
    assert abs(achieved_snr_db(mixed_T, speech_T) - snr_db) < 1e-4


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 13.7, 20.0])
def test_the_ratio_is_exact_on_real_recordings(real_speech, real_dirs, snr_db):
    bank = NoiseSet.open(real_dirs["noise"])
    for position in range(10):
        mixed_T = add_noise(real_speech, bank.draw(rng_for(0, 0, position), len(real_speech)), snr_db)
        assert abs(achieved_snr_db(mixed_T, real_speech) - snr_db) < 1e-4


def test_a_ratio_to_silence_is_an_error(speech):
    silence = np.zeros_like(speech)
    for pair in ((speech, silence), (silence, speech)):
        with pytest.raises(AudioError, match="silent"):
            add_noise(*pair, 10.0)


def test_signals_of_different_lengths_are_an_error(speech):
    with pytest.raises(AudioError, match="8000 samples of speech with 7999"):
        add_noise(speech, speech[1:], 10.0)


def test_a_crop_of_a_pack_is_the_crop_of_the_file(real_dirs):
    packed = NoiseSet.open(real_dirs["music"])
    on_disk = NoiseSet.open(real_dirs["music"], pack=False)
    assert packed.packed is not None and on_disk.packed is None
    for position in range(30):
        crops = [bank.draw(rng_for(1, 0, position), 30000) for bank in (packed, on_disk)]
        np.testing.assert_array_equal(*crops)


def test_a_crop_is_a_piece_of_a_file(made_dirs):
    from farvox.audio.files import read_audio

    bank = NoiseSet.open(made_dirs["noise"])
    crop_T = bank.draw(rng_for(0, 0, 0), 15000, index=2)
    whole_T = read_audio(bank.paths[2])
    start = int(np.argmax(np.correlate(whole_T, crop_T, "valid")))
    np.testing.assert_array_equal(crop_T, whole_T[start : start + 15000])


def test_a_short_file_is_repeated(made_dirs):
    bank = NoiseSet.open(made_dirs["noise"])
    crop_T = bank.draw(rng_for(0, 0, 0), 12000, index=0)
    assert len(crop_T) == 12000
    np.testing.assert_array_equal(crop_T[:5000], crop_T[5000:10000])


def test_a_file_at_another_rate_is_cropped_at_the_banks_rate(tmp_path):
    tone_T = np.sin(2 * np.pi * 440 / 48000 * np.arange(96000)).astype(np.float32)
    write_audio(tmp_path / "a.wav", tone_T, 48000)
    write_data_dir(tmp_path / "bank", [Utterance("a", str(tmp_path / "a.wav"))])
    crop_T = NoiseSet.open([tmp_path / "bank"]).draw(rng_for(0, 0, 0), 16000)
    peak_hz = np.argmax(np.abs(np.fft.rfft(crop_T * np.hanning(16000))))
    assert len(crop_T) == 16000 and peak_hz == 440


def test_silent_crops_are_drawn_again(tmp_path):
    """Half of the file is silent: one crop in two at the first try, one in 32 after five."""
    wav_T = np.zeros(40000, dtype=np.float32)
    wav_T[20000:] = 0.1 * np.random.default_rng(0).standard_normal(20000)
    write_audio(tmp_path / "a.wav", wav_T)
    write_data_dir(tmp_path / "bank", [Utterance("a", str(tmp_path / "a.wav"), None, 40000)])
    bank = NoiseSet.open([tmp_path / "bank"])
    silent = sum(is_silent(bank.draw(rng_for(0, 0, i), 100)) for i in range(400))
    assert 0 < silent < 400 * 0.5**5 * 2.5


@pytest.mark.parametrize("amplitude, silent", [(0.9e-5, True), (1.1e-5, False), (0.1, False)])
@pytest.mark.parametrize("sounding", [slice(None), slice(0, 10_000), slice(20_000, None)])
def test_silence_is_below_100_db_wherever_the_sound_is(amplitude, silent, sounding):
    wav_T = np.zeros(30_000, dtype=np.float32)
    wav_T[sounding] = 1
    wav_T *= amplitude * np.sqrt(len(wav_T) / wav_T.sum())
    assert is_silent(wav_T) == silent and is_silent(wav_T[:0])


def test_a_bank_of_no_data_dirs_is_an_error():
    with pytest.raises(DataDirError, match="at least one data dir"):
        NoiseSet.open([])


def test_a_corpus_that_was_moved_is_found_out_before_training(tmp_path):
    write_data_dir(tmp_path / "bank", [Utterance("a", str(tmp_path / "gone.wav"), None, 16000)])
    with pytest.raises(AudioError, match=r"gone\.wav"):
        NoiseSet.open([tmp_path / "bank"])


def test_a_bank_travels_without_its_memory(made_dirs):
    bank = NoiseSet.open(made_dirs["noise"])
    crop_T = bank.draw(rng_for(4, 0, 0), 4000)
    travelled = pickle.loads(pickle.dumps(bank))
    assert travelled == bank
    assert len(pickle.dumps(bank)) < 2000
    np.testing.assert_array_equal(travelled.draw(rng_for(4, 0, 0), 4000), crop_T)


def test_babble_is_several_talkers_at_one_level(tmp_path):
    """Talkers that are tones of different levels: each is found again at the same power, and but once."""
    t = np.arange(16000) / 16000
    for i in range(8):
        tone_T = 0.02 * (i + 1) * np.sin(2 * np.pi * 200 * (i + 1) * t)
        write_audio(tmp_path / f"{i}.wav", tone_T.astype(np.float32))
    talkers = [Utterance(str(i), str(tmp_path / f"{i}.wav"), None, 16000) for i in range(8)]
    bank = NoiseSet.open([write_data_dir(tmp_path / "bank", talkers).path])
    counts = set()
    for position in range(60):
        spectrum = np.abs(np.fft.rfft(draw_babble(rng_for(0, 0, position), bank, 16000)))[200:1601:200]
        heard = spectrum > 1000
        np.testing.assert_allclose(spectrum[heard], 8000 * np.sqrt(2), rtol=1e-2)
        counts.add(int(heard.sum()))
    assert counts == {3, 4, 5, 6, 7}


def test_babble_of_a_small_bank_has_no_talker_twice(made_dirs):
    bank = NoiseSet.open(made_dirs["speech"])
    babble_T = draw_babble(rng_for(0, 0, 1), bank, 4000, (4, 7))
    assert abs(power(babble_T) - 4) < 0.5


@pytest.mark.parametrize(
    ("codec", "rate", "banked"), [("wav", 16000, False), ("wav", 8000, True), ("flac", 16000, True)]
)
def test_a_packed_data_dir_gives_the_same_crops_and_is_banked_only_where_that_is_quicker(
    tmp_path, codec, rate, banked
):
    from farvox.datadir import PackOptions
    from farvox.datadir.pack import pack

    noise = 0.2 * np.random.default_rng(0).standard_normal((3, 9000))
    for number, wav_T in enumerate(noise):
        write_audio(tmp_path / f"{number}.wav", wav_T)
    rows = [Utterance(str(number), str(tmp_path / f"{number}.wav")) for number in range(3)]
    folder = write_data_dir(tmp_path / "noise", rows).path
    packed = pack(folder, tmp_path / "packed", PackOptions(codec=codec, jobs=1)).path
    bank = NoiseSet.open([packed], sample_rate=rate)
    assert (bank.packed is not None) == banked
    for position in range(9):
        crops = [
            each.draw(rng_for(0, 0, position), 2000)
            for each in (bank, NoiseSet.open([folder], sample_rate=rate))
        ]
        np.testing.assert_array_equal(*crops)
