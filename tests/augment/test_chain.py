import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from farvox.audio.files import write_audio
from farvox.augment import AugmentOptions, build_augmenter
from farvox.augment.chain import (
    TEMPO_FACTORS,
    BaselineMixture,
    HomeworkMixture,
    add_baseline_noise,
)
from farvox.augment.effects import NoiseSet, RirSet, change_tempo
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import DataDirError, RecipeError, UsageError
from farvox.farfield.mixing import power
from farvox.rng import rng_for

KINDS = ["none", "farvox", "ffsvc", "homework"]


def augmenter_of(kind, **options):
    return build_augmenter(AugmentOptions(kind=kind, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_depends_on_its_stream_and_on_nothing_else(kind, made_dirs, speech):
    augmenter = augmenter_of(kind, **made_dirs)
    forwards = [augmenter(speech, rng_for(1, 0, i)).tobytes() for i in range(60)]
    other = pickle.loads(pickle.dumps(augmenter_of(kind, **made_dirs)))
    order = np.random.default_rng(0).permutation(60)
    shuffled = {int(i): other(speech, rng_for(1, 0, int(i))).tobytes() for i in order}
    assert forwards == [shuffled[i] for i in range(60)]
    assert len(set(forwards)) > 1 or kind == "none"


def test_a_share_of_the_chunks_is_left_entirely_clean(made_dirs, speech):
    certain = {"reverb_probability": 1.0, "noise_probability": 1.0}
    banks = {"rirs": made_dirs["rirs"], "noise": made_dirs["noise"]}
    augmenter = augmenter_of("farvox", **banks, **certain, clean_probability=0.3)
    clean = sum(augmenter(speech, rng_for(0, 0, position)) is speech for position in range(500))
    assert clean == pytest.approx(150, abs=50)
    every = augmenter_of("farvox", **banks, **certain)
    none = augmenter_of("farvox", **banks, **certain, clean_probability=0.0)
    assert (none(speech, rng_for(0, 0, 1)) == every(speech, rng_for(0, 0, 1))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_chunk_given_is_left_as_it_was(kind, made_dirs, speech):
    before = speech.copy()
    augmenter = augmenter_of(kind, **made_dirs)
    for position in range(30):
        augmenter(speech, rng_for(0, 0, position))
    np.testing.assert_array_equal(speech, before)


@pytest.mark.parametrize("kind", KINDS)
def test_real_recordings_give_finite_chunks_of_the_same_length(kind, real_dirs, real_speech):
    augmenter = augmenter_of(kind, **real_dirs)
    for position in range(60):
        augmented_T = augmenter(real_speech, rng_for(0, 0, position))
        assert augmented_T.dtype == np.float32 and augmented_T.shape == real_speech.shape
        assert np.isfinite(augmented_T).all()
        assert power(augmented_T) > 1e-8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_samples", [0, 1, 4000])
def test_silence_comes_back_as_it_is(kind, num_samples, made_dirs):
    augmenter = augmenter_of(kind, **made_dirs)
    silence = np.zeros(num_samples, dtype=np.float32)
    for position in range(20):
        np.testing.assert_array_equal(augmenter(silence, rng_for(0, 0, position)), silence)


@pytest.mark.parametrize("kind", ["farvox", "ffsvc", "homework"])
def test_noise_that_is_silent_throughout_adds_nothing(kind, tmp_path, made_dirs, speech):
    write_audio(tmp_path / "void.wav", np.zeros(20000, dtype=np.float32))
    voids = [Utterance(f"void{i}", str(tmp_path / "void.wav"), None, 20000) for i in range(4)]
    void = [write_data_dir(tmp_path / "void", voids).path]
    banks = {"noise": void, "music": void, "speech": void, "rirs": made_dirs["rirs"]}
    augmenter = augmenter_of(kind, **banks)
    for position in range(60):
        augmented_T = augmenter(speech, rng_for(0, 0, position))
        assert np.isfinite(augmented_T).all() and power(augmented_T) > 1e-6


def test_noise_is_at_a_ratio_from_its_range(made_dirs, speech):
    augmenter = augmenter_of(
        "farvox", noise=made_dirs["noise"], noise_probability=1.0, noise_snr_db=(3.0, 8.0)
    )
    achieved_db = []
    for position in range(200):
        noise_T = augmenter(speech, rng_for(0, 0, position)) - speech
        achieved_db.append(10 * np.log10(power(speech) / power(noise_T)))
    assert 3 - 1e-3 < min(achieved_db) < 3.3
    assert 7.7 < max(achieved_db) < 8 + 1e-3


def test_each_effect_comes_as_often_as_asked(made_dirs, speech):
    for name, probability in (("reverb", 0.3), ("noise", 0.6), ("music", 0.1), ("babble", 0.5)):
        bank = {"reverb": "rirs", "babble": "speech"}.get(name, name)
        options = {bank: made_dirs[bank], f"{name}_probability": probability}
        augmenter = augmenter_of("farvox", **options)
        changed = sum(not np.array_equal(augmenter(speech, rng_for(0, 0, i)), speech) for i in range(500))
        assert changed == pytest.approx(500 * probability, abs=55)


def test_reverberation_keeps_the_power_of_the_speech(made_dirs, speech):
    augmenter = augmenter_of("farvox", rirs=made_dirs["rirs"], reverb_probability=1.0)
    for position in range(10):
        assert power(augmenter(speech, rng_for(0, 0, position))) == pytest.approx(power(speech), rel=1e-5)


def test_banks_that_are_not_given_are_not_used(made_dirs, speech):
    only_rooms = augmenter_of("farvox", rirs=made_dirs["rirs"])
    with_noise_off = augmenter_of("farvox", **made_dirs, noise_probability=0.0, music_probability=0,
                                     babble_probability=0.0)  # fmt: skip
    for position in range(30):
        rng, same = rng_for(0, 0, position), rng_for(0, 0, position)
        np.testing.assert_array_equal(only_rooms(speech, rng), with_noise_off(speech, same))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("farvo", {}, "did you mean 'farvox'"),
        ("farvox", {}, "nothing to do"),
        ("farvox", {"noise_probability": 0.5}, "no data dirs of noise"),
        ("farvox", {"babble_probability": 0.5}, "no data dirs of speech"),
        ("farvox", {"noise": ["n"], "babble_probability": 0.5}, "no data dirs of speech"),
        ("farvox", {"reverb_probability": 1.5}, "reverb_probability = 1.5; it must be at most 1"),
        ("farvox", {"clean_probability": -0.1}, "clean_probability = -0.1; it must be at least 0"),
        ("farvox", {"noise": ["n"], "noise_snr_db": (15.0, 0.0)}, "noise_snr_db goes from the least"),
        ("farvox", {"noise": ["n"], "num_talkers": (4, 3)}, "num_talkers goes from the least"),
        ("farvox", {"noise": ["n"], "num_talkers": (0, 3)}, "num_talkers = 0; it must be at least 1"),
        ("farvox", {"rirs": ["r"], "rir_t60": (0.8, 0.3)}, "rir_t60 goes from the least"),
        ("farvox", {"noise": ["n"], "rir_drr": (-5, 5)}, "rir_drr chooses among RIRs, and none are used"),
        ("ffsvc", {"noise": ["n"], "rirs": ["r"]}, "music has none"),
        ("homework", {"noise": ["n"], "music": ["m"]}, "rirs has none"),
    ],
)
def test_what_is_missing_is_said_before_training(kind, options, message):
    with pytest.raises(UsageError, match=message):
        AugmentOptions(kind=kind, **options)


def test_babble_needs_as_many_files_as_talkers(made_dirs):
    with pytest.raises(RecipeError, match="5 talkers needs as many files of speech, not 4"):
        augmenter_of("farvox", **made_dirs, num_talkers=(5, 6))


def test_a_data_dir_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataDirError):
        augmenter_of("farvox", noise=[tmp_path / "nowhere"])


def test_augmentation_works_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import farvox.augment; assert sys.modules['torch'] is None"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["ffsvc", "homework"])
def test_the_kinds_with_laws_of_their_own_choose_their_rirs_too(kind, made_dirs, tmp_path, speech):
    """One RIR of three is in range: it is as if the others were not there."""
    source = DataDir.open(made_dirs["rirs"][0])
    lines = "utt_id\tt60\n" + "".join(f"{name}\t0.{n}\n" for n, name in enumerate(source.utt_ids))
    known = write_data_dir(tmp_path / "known", source.table, files={"utt2cond": lines}).path
    only = write_data_dir(tmp_path / "only", source.table[1:2]).path
    chosen = augmenter_of(kind, **(made_dirs | {"rirs": [known]}), rir_t60=(0.05, 0.15))
    alone = augmenter_of(kind, **(made_dirs | {"rirs": [only]}))
    for position in range(30):
        rng, same = rng_for(0, 0, position), rng_for(0, 0, position)
        np.testing.assert_array_equal(chosen(speech, rng), alone(speech, same))


@pytest.mark.parametrize("kind", ["ffsvc", "homework"])
def test_an_option_that_a_kind_has_no_use_for_is_refused(kind, made_dirs):
    for option in ({"noise_snr_db": [5.0, 20.0]}, {"clean_probability": 0.2}, {"reverb_probability": 0.5}):
        with pytest.raises(UsageError, match=f"{kind}.*{next(iter(option))}"):
            augmenter_of(kind, **made_dirs, **option)


RATE = 16000


@pytest.fixture(scope="module")
def banks(made_dirs):
    noise, music = NoiseSet.open(made_dirs["noise"]), NoiseSet.open(made_dirs["music"])
    return noise, music, RirSet.open(made_dirs["rirs"])


def replay(rng, num_samples, noise, music):
    """The baseline's draws, made by hand: the noise crop and the ratio of norms."""
    bank = noise if rng.random() < 0.5 else music
    return bank.draw(rng, num_samples), math.e ** (20 * rng.random() / 10)


def test_noise_follows_the_published_formula(banks, speech):
    noise, music, _ = banks
    for position in range(40):
        noise_T, ratio = replay(rng_for(0, 0, position), len(speech), noise, music)
        wide = speech.astype(np.float64)
        scaled = wide * ratio * math.sqrt(sum(noise_T.astype(np.float64) ** 2) / sum(wide**2))
        mixed_T = add_baseline_noise(speech, noise, music, rng_for(0, 0, position))
        assert mixed_T.dtype == np.float32
        np.testing.assert_allclose(mixed_T, (scaled + noise_T) / 2, atol=1e-6)


def test_the_true_ratio_spreads_from_0_to_17_db(banks, speech):
    """exp instead of a power of ten, on norms instead of powers: 8.686 dB for every 10 drawn."""
    noise, music, _ = banks
    achieved_db = []
    for position in range(400):
        noise_T, _ = replay(rng_for(0, 1, position), len(speech), noise, music)
        mixed_T = add_baseline_noise(speech, noise, music, rng_for(0, 1, position))
        clean_power = power(2 * mixed_T - noise_T)
        achieved_db.append(10 * math.log10(clean_power / power(noise_T)))
    top_db = 20 * 20 * math.log10(math.e) / 10
    assert -1e-3 < min(achieved_db) < 0.5
    assert top_db - 0.5 < max(achieved_db) < top_db + 1e-3
    assert np.mean(achieved_db) == pytest.approx(top_db / 2, abs=1)


def test_a_quarter_is_noisy_a_quarter_reverberated_and_half_clean(banks, speech):
    chain = BaselineMixture(*banks)
    reverberated = [banks[2].reverberate(speech, i, aligned=False).tobytes() for i in range(len(banks[2]))]
    counts = {"clean": 0, "reverb": 0, "noise": 0}
    for position in range(800):
        augmented = chain(speech, rng_for(0, 0, position)).tobytes()
        kind = "clean" if augmented == speech.tobytes() else "noise"
        counts["reverb" if augmented in reverberated else kind] += 1
    assert counts["clean"] == pytest.approx(400, abs=60)
    assert counts["noise"] == pytest.approx(200, abs=50)
    assert counts["reverb"] == pytest.approx(200, abs=50)


def test_reverberation_is_the_start_of_the_plain_convolution(banks, speech):
    for index in range(len(banks[2])):
        expected = np.convolve(speech.astype(np.float64), banks[2].rir(index))[: len(speech)]
        wet_T = banks[2].reverberate(speech, index, aligned=False)
        np.testing.assert_allclose(wet_T, expected, atol=1e-6)


def test_the_homework_draws_an_eighth_of_each_and_half_clean(banks, speech):
    chain = HomeworkMixture(*banks)
    reverberated = [banks[2].reverberate(speech, i, aligned=False).tobytes() for i in range(len(banks[2]))]
    tempos = [change_tempo(speech, factor) for factor in TEMPO_FACTORS]
    counts = dict.fromkeys(("clean", "volume", "reverb", "tempo", "noise"), 0)
    for position in range(1600):
        augmented_T = chain(speech, rng_for(0, 0, position))
        assert augmented_T.shape == speech.shape and augmented_T.dtype == np.float32
        counts[kind_of(augmented_T, speech, reverberated, tempos)] += 1
    assert counts["clean"] == pytest.approx(800, abs=90)
    for kind in ("volume", "reverb", "tempo", "noise"):
        assert counts[kind] == pytest.approx(200, abs=60)


def kind_of(augmented_T, speech, reverberated, tempos):
    if np.array_equal(augmented_T, speech):
        return "clean"
    if augmented_T.tobytes() in reverberated:
        return "reverb"
    quiet = np.abs(speech) < 0.04  # does not clip at a gain of up to 20
    gain = augmented_T[quiet] @ speech[quiet] / (speech[quiet] @ speech[quiet])
    if 5 <= gain <= 20 and np.allclose(augmented_T, np.clip(gain * speech, -1, 1), atol=1e-4):
        return "volume"
    if any(augmented_T[:2000].tobytes() in tempo_T.tobytes() for tempo_T in tempos):
        return "tempo"
    return "noise"


def test_reverberated_chunks_are_coloured_and_others_are_not(made_dirs, speech):
    plain, coloured = (
        augmenter_of("farvox", rirs=made_dirs["rirs"], reverb_probability=0.5, colour_db=colour_db)
        for colour_db in (0.0, 3.0)
    )
    same = [(plain(speech, rng_for(0, 0, n)) == coloured(speech, rng_for(0, 0, n))).all() for n in range(100)]
    left = [plain(speech, rng_for(0, 0, n)) is speech for n in range(100)]
    assert same == left and 25 < sum(left) < 75
    with pytest.raises(UsageError, match="colour_db is of reverberated speech, and there is none; give rirs"):
        augmenter_of("farvox", noise=made_dirs["noise"], colour_db=3.0)
    with pytest.raises(UsageError, match="does not use colour_db"):
        augmenter_of("ffsvc", **made_dirs, colour_db=3.0)
