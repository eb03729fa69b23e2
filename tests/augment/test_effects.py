import pickle
from fractions import Fraction

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.audio.files import write_audio
from farvox.augment.chain import TEMPO_FACTORS
from farvox.augment.effects import (
    LARGEST,
    NoiseSet,
    RirSet,
    change_colour,
    change_speed,
    change_tempo,
    change_volume,
    draw_babble,
    num_samples_before_speed,
    resample,
)
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.errors import AudioError, DataDirError
from farvox.farfield.mixing import add_noise, convolve_rir, direct_path, is_silent, power
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


def test_a_noise_set_is_pickled_without_its_memory(made_dirs):
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


def test_a_rir_set_is_pickled_without_its_memory(made_dirs, speech):
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


FACTORS = st.sampled_from([0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3])


def loudest_hz(wav_T):
    """Frequency of the largest spectral line, at 16 kHz."""
    spectrum = np.abs(np.fft.rfft(wav_T * np.hanning(len(wav_T)), 2**18))
    return np.argmax(spectrum) * 16000 / 2**18


def tone(hz, num_samples=32000):
    return (0.5 * np.sin(2 * np.pi * hz / 16000 * np.arange(num_samples))).astype(np.float32)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_scales_length_and_pitch(factor):
    fast_T = change_speed(tone(1000), factor)
    assert fast_T.dtype == np.float32
    assert len(fast_T) == round(32000 / factor)
    assert loudest_hz(fast_T) == pytest.approx(1000 * factor, abs=0.5)
    exact_T = tone(1000 * factor, len(fast_T))
    np.testing.assert_allclose(fast_T[300:-300], exact_T[300:-300], atol=1e-4)


def test_speed_does_not_fold_what_no_longer_fits():
    assert power(change_speed(tone(7800), 1.1)) < 1e-6 * power(tone(7800))


@settings(max_examples=100, deadline=None)
@given(num_samples=st.integers(0, 5000), factor=FACTORS)
def test_speed_and_tempo_give_the_length_they_promise(num_samples, factor):
    wav_T = np.random.default_rng(0).standard_normal(num_samples).astype(np.float32)
    for change in (change_speed, change_tempo):
        changed_T = change(wav_T, factor)
        assert abs(len(changed_T) - num_samples / factor) <= 0.5 + 1e-9
        assert np.isfinite(changed_T).all()


@settings(max_examples=100, deadline=None)
@given(num_samples=st.integers(1, 10**6), factor=FACTORS)
def test_enough_is_read_before_a_change_of_speed(num_samples, factor):
    read = num_samples_before_speed(num_samples, factor)
    assert num_samples <= round(read / factor) <= num_samples + 1
    assert (read - 1) / factor < num_samples


@pytest.mark.parametrize("factor", TEMPO_FACTORS)
def test_tempo_keeps_the_pitch_and_the_level(factor):
    slow_T = change_tempo(tone(437), factor)
    assert slow_T.dtype == np.float32
    assert len(slow_T) == round(32000 / factor)
    assert loudest_hz(slow_T) == pytest.approx(437, abs=0.5)
    assert power(slow_T) == pytest.approx(power(tone(437)), rel=0.02)


@pytest.mark.parametrize("factor", TEMPO_FACTORS)
def test_tempo_moves_events_to_their_new_time(factor):
    """Three bursts of noise: each begins where the factor puts it, within the reach of the search."""
    wav_T = np.zeros(48000, dtype=np.float32)
    for start in (8000, 20000, 36000):
        wav_T[start : start + 4000] = np.random.default_rng(start).standard_normal(4000)
    changed_T = change_tempo(wav_T, factor)
    sounding = np.abs(changed_T) > 1e-3
    begins = [int(i) for i in np.flatnonzero(sounding) if not sounding[max(0, i - 1500) : i].any()]
    np.testing.assert_allclose(begins, np.array([8000, 20000, 36000]) / factor, atol=1000)


def test_tempo_has_no_clicks():
    steepest = np.abs(np.diff(tone(200))).max()
    for factor in TEMPO_FACTORS:
        assert np.abs(np.diff(change_tempo(tone(200), factor))).max() < 1.2 * steepest


def test_tempo_of_real_speech_keeps_its_spectrum(real_speech):
    def long_term(wav_T):
        frames = np.lib.stride_tricks.sliding_window_view(wav_T, 512)[::256] * np.hanning(512)
        bands = (np.abs(np.fft.rfft(frames)) ** 2).mean(0)[:256].reshape(16, 16).sum(1)
        return 10 * np.log10(bands / bands.sum())

    for factor in TEMPO_FACTORS:
        difference_db = long_term(change_tempo(real_speech, factor)) - long_term(real_speech)
        assert np.abs(difference_db).max() < 2


@pytest.mark.parametrize("change", [change_speed, change_tempo])
def test_a_factor_of_one_changes_nothing(change, speech):
    np.testing.assert_array_equal(change(speech, 1.0), speech)


@pytest.mark.parametrize("change", [change_speed, change_tempo])
@pytest.mark.parametrize("factor", [0.0, -1.0, 11.0, float("nan")])
def test_an_absurd_factor_is_an_error(change, factor, speech):
    with pytest.raises(AudioError, match=r"\[0\.1, 10\]"):
        change(speech, factor)


def test_volume_is_a_gain_in_db_that_clips():
    np.testing.assert_allclose(change_volume(np.float32([0.1, -0.2, 0.6]), 20.0), [1.0, -1.0, 1.0])
    np.testing.assert_allclose(change_volume(np.float32([0.1, -0.2]), -20.0), [0.01, -0.02], rtol=1e-6)


def test_an_odd_factor_is_left_to_soxr():
    np.testing.assert_array_equal(change_speed(tone(1000), 0.97), soxr.resample(tone(1000), 97, 100, "HQ"))


STEPS = [Fraction(9, 10), Fraction(11, 10), Fraction(17, 20), Fraction(23, 20), Fraction(1, 2), Fraction(3)]


@pytest.mark.parametrize("step", STEPS)
def test_a_tone_is_the_tone_at_the_new_times(step):
    cycles = 0.425 * min(1, 1 / float(step))  # a sample: 0.85 of the band that the output holds
    wav_T = np.sin(2 * np.pi * cycles * np.arange(20_000)).astype(np.float32)
    wanted_T = np.sin(2 * np.pi * cycles * float(step) * np.arange(len(resample(wav_T, step))))
    inside = slice(200, -200)
    np.testing.assert_allclose(resample(wav_T, step)[inside], wanted_T[inside], atol=2e-3)


@pytest.mark.parametrize("step", [step for step in STEPS if step > 1])
def test_what_the_output_cannot_hold_is_gone(step):
    cycles = 0.5 / float(step) * 1.02
    wav_T = np.sin(2 * np.pi * cycles * np.arange(20_000)).astype(np.float32)
    assert np.abs(resample(wav_T, step)[200:-200]).max() < 2e-5


@pytest.mark.parametrize("step", [step for step in STEPS if step < 1])
def test_a_slower_signal_has_no_images_above_its_band(step):
    wav_T = np.sin(2 * np.pi * 0.48 * np.arange(20_000)).astype(np.float32)
    resampled_T = resample(wav_T, step)[200:-200].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(resampled_T * np.blackman(len(resampled_T)))) / len(resampled_T)
    above = int(2 * len(spectrum) * 0.51 * float(step))
    assert spectrum[above:].max() < 1e-4 * 0.5


def test_speech_like_noise_is_that_of_soxr():
    rng = np.random.default_rng(0)
    wav_T = np.convolve(rng.standard_normal(30_000), np.hanning(9) / 4, "same").astype(np.float32)
    ours, theirs = resample(wav_T, Fraction(11, 10)), soxr.resample(wav_T, 11, 10)
    inside = slice(200, -200)
    error = ours[: len(theirs)][inside] - theirs[: len(ours)][inside]
    assert np.mean(error**2) < 2e-6 * np.mean(theirs**2)


@given(st.integers(1, 3000), st.integers(1, LARGEST), st.integers(1, LARGEST))
def test_every_ratio_gives_as_many_samples_as_there_are_times(num_samples, numerator, denominator):
    step = Fraction(numerator, denominator)
    resampled_T = resample(np.ones(num_samples, np.float32), step)
    assert resampled_T.dtype == np.float32
    assert len(resampled_T) == len(np.arange(0, num_samples * denominator, numerator))
    assert np.isfinite(resampled_T).all() and np.abs(resampled_T).max() < 1.6


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_colour_changes_the_gain_of_octaves_and_neither_power_nor_phase(rate):
    noise_T = np.random.default_rng(0).standard_normal(4 * rate).astype(np.float32)
    coloured_T = change_colour(noise_T, rng_for(1, 0, 0), 3.0, rate)
    assert power(coloured_T) == pytest.approx(power(noise_T), rel=1e-4) and coloured_T.dtype == np.float32
    gain_K = np.fft.rfft(coloured_T) / np.fft.rfft(noise_T)
    assert np.abs(gain_K.imag).max() < 1e-3 * np.abs(gain_K).max()
    decibels = 20 * np.log10(gain_K.real[np.array([1000, 500, 250, 125, 70]) * 4])
    steps = np.diff(decibels)
    assert np.abs(steps[:3]).max() > 0.3 and steps[3] < 0  # the lowest octave always falls
    assert (change_colour(noise_T, rng_for(1, 0, 0), 3.0, rate) == coloured_T).all()
    np.testing.assert_allclose(change_colour(noise_T, rng_for(1, 0, 0), 0.0, rate), noise_T, atol=1e-5)


def test_colours_have_the_deviation_that_was_asked_for():
    noise_T = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    spectrum_K = np.fft.rfft(noise_T)
    steps = []
    for position in range(200):
        gain_K = np.fft.rfft(change_colour(noise_T, rng_for(2, 0, position), 3.0)) / spectrum_K
        steps.append(np.diff(20 * np.log10(np.abs(gain_K[[250, 500, 1000, 2000, 4000]]))))
    assert np.std(steps) == pytest.approx(3.0, rel=0.1) and abs(np.mean(steps)) < 0.4
