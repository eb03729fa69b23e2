import sys

import numpy as np
import pytest
from scipy.signal import csd, welch

from farvox.audio.files import read_channels, resample, write_audio
from farvox.cli.main import main
from farvox.datadir.kaldi import DataDir
from farvox.errors import AudioError, MissingExtraError, UsageError
from farvox.farfield import ARRAYS, RoomOptions
from farvox.farfield.rooms import (
    SPEED_OF_SOUND,
    Room,
    circular_array,
    diffuse_coherence,
    diffuse_noise,
    draw_room,
    draw_scene,
    is_room_response,
    linear_array,
    measure_drr,
    measure_rir,
    measure_t60,
    refuse_other_sounds,
    simulate_rirs,
)

RATE = 16000
TALKER = (0.9, 2.1, 1.6)


def decaying_noise(t60, sample_rate=16000):
    num_samples = int(1.2 * t60 * sample_rate)
    noise = np.random.default_rng(0).standard_normal(num_samples)
    return noise * 10 ** (-3 * np.arange(num_samples) / (t60 * sample_rate))


@pytest.mark.parametrize("t60", [0.25, 0.6, 1.0])
def test_t60_of_exponentially_decaying_noise_is_that_of_its_decay(t60):
    assert measure_t60(decaying_noise(t60)) == pytest.approx(t60, rel=0.03)


def test_t60_is_refused_for_silence_and_for_a_response_that_is_cut_off():
    with pytest.raises(AudioError, match="silent"):
        measure_t60(np.zeros(100))
    with pytest.raises(AudioError, match="does not decay by 35 dB"):
        measure_t60(np.ones(16))


def test_noise_and_the_end_of_a_recording_are_not_taken_for_the_room():
    noise = np.random.default_rng(1).standard_normal(32000)
    decay = noise * 10 ** (-3 * np.arange(32000) / (0.5 * 16000))
    recorded = decay + 0.01 * np.random.default_rng(2).standard_normal(32000)  # noise at -40 dB
    assert measure_t60(recorded, decay_db=20) == pytest.approx(0.5, rel=0.05)
    with pytest.raises(AudioError, match="35 dB before it ends or noise covers it"):
        measure_t60(recorded)
    for cut_off in (decaying_noise(1.0)[:4000], np.pad(decaying_noise(1.0)[:4000], (0, 16000))):
        with pytest.raises(AudioError, match="before it ends"):
            measure_t60(cut_off, decay_db=20)


def test_drr_is_the_ratio_of_the_first_arrival_to_the_rest():
    rir = np.zeros(8000)
    rir[100], rir[1000], rir[1001] = 1.0, 1.5, 0.5
    assert measure_drr(rir) == pytest.approx(10 * np.log10(1 / 2.5))
    with pytest.raises(AudioError, match="only one of the two parts"):
        measure_drr(rir[:200])


@pytest.mark.parametrize("t60", [0.3, 0.5, 0.8])
def test_a_simulated_room_has_the_t60_it_was_asked_for(t60):
    room = Room((7.1, 4.4, 2.9), t60)
    rirs = simulate_rirs(room, TALKER, circular_array((3.8, 2.6, 1.0))[::4])
    assert rirs.dtype == np.float32
    assert rirs.shape == (4, int(t60 * 16000))
    for rir in rirs:
        assert measure_t60(rir) == pytest.approx(t60, rel=0.1)


@pytest.mark.parametrize("arrival", [47, 140, 233])  # samples: about 1, 3 and 5 m
def test_the_direct_path_arrives_when_it_should_and_as_loud_as_it_should(arrival):
    distance = arrival / 16000 * SPEED_OF_SOUND
    microphone = np.add(TALKER, [distance, 0.0, 0.0])
    (rir,) = simulate_rirs(Room((7.1, 4.4, 2.9), 0.4), TALKER, microphone)
    assert rir[arrival] == pytest.approx(1 / distance, rel=0.05)
    assert np.abs(rir[: arrival - 41]).max() < 0.05 * rir[arrival]


def test_the_direct_to_reverberant_ratio_falls_with_distance_and_with_t60():
    def drr(distance, t60):
        microphone = np.add(TALKER, [distance, 0.1, -0.5])
        return measure_drr(simulate_rirs(Room((7.1, 4.4, 2.9), t60), TALKER, microphone)[0])

    assert drr(1, 0.3) > drr(3, 0.3) + 3
    assert drr(1, 0.3) > drr(1, 0.8) + 3


def test_the_tail_starts_after_the_early_echoes_and_is_set_by_its_seed():
    room, microphone = Room((7.1, 4.4, 2.9), 0.8), (4.0, 2.0, 1.2)
    one, same, other = (simulate_rirs(room, TALKER, microphone, tail_seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert np.array_equal(one[:1000], other[:1000])
    assert not np.array_equal(one[-1000:], other[-1000:])


def test_a_position_outside_the_room_is_named():
    with pytest.raises(AudioError, match=r"\[9.0, 1.0, 1.0\] is outside the room"):
        simulate_rirs(Room((4.0, 4.0, 3.0), 0.3), (9, 1, 1), (1, 1, 1))


def test_a_room_that_cannot_be_damped_that_much_is_refused():
    with pytest.raises(AudioError, match=r"cannot have a T60 of 0\.05 s"):
        simulate_rirs(Room((9.0, 6.0, 3.0), 0.05), (1, 1, 1), (2, 1, 1))


def test_without_pyroomacoustics_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(MissingExtraError, match=r"farvox\[sim\]"):
        simulate_rirs(Room((4.0, 4.0, 3.0), 0.3), (1, 1, 1), (2, 1, 1))


def test_a_drawn_room_has_space_for_an_array_at_five_metres():
    for seed in range(20):
        room = draw_room(np.random.default_rng(seed))
        assert 6.5 <= room.size[0] <= 9.0
        assert 0.3 <= room.t60 <= 0.8
        assert room.volume == pytest.approx(np.prod(room.size))


def test_a_response_that_does_not_decay_has_no_t60() -> None:
    assert measure_rir(np.ones(100, np.float32))[0] is None


def test_a_circular_array_has_its_microphones_on_the_circle_at_equal_angles():
    centre = np.array([1.0, 2.0, 0.8])
    offsets = circular_array(centre, num=16, radius=0.05, turn=0.3) - centre
    assert np.allclose(np.linalg.norm(offsets, axis=1), 0.05)
    neighbours = np.linalg.norm(np.diff(offsets, axis=0), axis=1)
    assert np.allclose(neighbours, 2 * 0.05 * np.sin(np.pi / 16))
    assert np.allclose(np.arctan2(offsets[0, 1], offsets[0, 0]), 0.3)


def test_a_linear_array_is_centred_and_equally_spaced():
    positions = linear_array((1.0, 1.0, 1.0), num=4, spacing=0.1, turn=np.pi / 2)
    assert np.allclose(positions.mean(axis=0), 1.0)
    assert np.allclose(np.diff(positions[:, 1]), 0.1)
    assert positions[:, 0] == pytest.approx(1.0)


def measured_coherence(one_T, other_T):
    """Real part of the complex coherence, which is all of it in a field from all around, and its bins."""
    settings = {"fs": RATE, "nperseg": 256}
    frequency_K, cross_K = csd(one_T, other_T, **settings)
    power_K = welch(one_T, **settings)[1] * welch(other_T, **settings)[1]
    return frequency_K, cross_K / np.sqrt(power_K)


@pytest.mark.parametrize("spacing", [0.02, 0.05, 0.15])
def test_noise_from_all_around_is_as_coherent_as_a_diffuse_field(spacing):
    microphones = linear_array(num=3, spacing=spacing)
    noise = diffuse_noise(np.random.default_rng(1), microphones, 400_000, RATE)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        frequency, found = measured_coherence(noise[one], noise[other])
        expected = diffuse_coherence((other - one) * spacing, frequency)
        assert np.abs(found.real - expected)[2:].max() < 0.08
        assert np.abs(found.imag)[2:].max() < 0.08


def test_every_microphone_gets_white_noise_of_power_1():
    noise = diffuse_noise(np.random.default_rng(2), circular_array(num=16), 100_000, RATE)
    assert np.mean(noise**2, axis=1) == pytest.approx(np.ones(16), rel=0.03)
    powers = welch(noise, fs=RATE, nperseg=128)[1][:, 2:-2] * RATE / 2
    assert powers.mean(axis=0) == pytest.approx(np.ones(powers.shape[1]), rel=0.1)


def test_one_microphone_gets_the_noise_that_is_drawn():
    alone = diffuse_noise(np.random.default_rng(3), np.zeros((1, 3)), 1000, RATE)
    assert np.array_equal(alone, np.random.default_rng(3).standard_normal((1, 1000)))


def test_tails_of_a_simulated_room_are_coherent_between_close_microphones():
    room, microphones = Room((7.1, 4.4, 2.9), 0.8), linear_array((4.0, 2.0, 1.2), num=2, spacing=0.05)
    tails = []
    for seed in range(60):
        rirs = simulate_rirs(room, (0.9, 2.1, 1.6), microphones, tail_seed=seed)
        decay = 10 ** (-3 * np.arange(rirs.shape[1]) / (room.t60 * RATE))
        tails.append((rirs / decay)[:, 3000:12000])
    frequency, found = measured_coherence(*np.concatenate(tails, axis=1))
    expected = diffuse_coherence(0.05, frequency)
    assert np.abs(found - expected)[2:].max() < 0.08
    assert found[5].real > 0.9  # 312 Hz, where independent tails would have none
    assert np.abs(found[frequency > 3500]).mean() < 0.2


@pytest.mark.parametrize("array", ARRAYS)
def test_a_scene_has_a_response_for_each_microphone(array: str) -> None:
    scene = draw_scene(np.random.default_rng(1), RoomOptions(array=array, t60=(0.25, 0.3)), sources=2)
    assert [len(rirs_CT) for rirs_CT in scene.rirs_CT] == 2 * [ARRAYS[array]]


def test_sources_stand_at_the_distance_that_was_asked_for() -> None:
    scene = draw_scene(np.random.default_rng(2), RoomOptions(t60=(0.25, 0.3), distance=(2.0, 2.5)), sources=4)
    assert all(2.0 <= distance <= 2.5 for distance in scene.distances)
    for rirs_CT, distance in zip(scene.rirs_CT, scene.distances, strict=True):
        first = int(np.argmax(np.abs(rirs_CT[0]) > 0.3 / distance))
        assert first == pytest.approx(distance / 343 * 16000, abs=4)


def test_microphones_about_the_room_are_at_different_distances() -> None:
    scene = draw_scene(np.random.default_rng(3), RoomOptions(array="adhoc4", t60=(0.25, 0.3)), sources=1)
    arrivals = [int(np.argmax(np.abs(rir_T) > 0.5 * np.abs(rir_T).max())) for rir_T in scene.rirs_CT[0]]
    assert max(arrivals) - min(arrivals) > 16000 * 0.5 / 343


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"array": "round"}, "array = 'round'; it must be one of single, circular16"),
        ({"array": "linear4", "channels": (4,)}, "linear4 has no channel 4"),
        ({"array": "linear4", "channels": (1, 1)}, "one is named twice"),
        ({"t60": (0.5, 0.3)}, "t60 goes from the least to the greatest, not 0.5 to 0.3"),
        ({"t60": (0.1, 0.3)}, "t60 = 0.1; it must be at least 0.15"),
        ({"t60": (0.3, 1e30)}, "t60 = 1e.30; it must be at most 20"),
        ({"t60": (0.3, np.inf)}, "t60 = inf; it must be a finite number"),
        ({"distance": (1.0, 9.0)}, "distance = 9.0; it must be at most 5"),
    ],
)
def test_what_no_scene_can_have_is_refused(wrong: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        draw_scene(np.random.default_rng(0), RoomOptions(**wrong), sources=1)  # type: ignore[arg-type]


def test_measured_responses_that_cannot_be_used_are_listed_and_the_others_are_kept(tmp_path, capsys):
    rir_T = np.zeros(4000)
    rir_T[20:] = 0.5 * np.exp(-np.arange(3980) / 600)
    write_audio(tmp_path / "in/good.wav", rir_T)
    write_audio(tmp_path / "in/void.wav", np.zeros(4000))
    (tmp_path / "in/text.wav").write_text("no audio")
    words = ["rirs", str(tmp_path / "out"), "--measured", str(tmp_path / "in")]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert "2 of 3 utterances cannot be used" in err and "--skip-bad" in err and "Traceback" not in err
    assert main([*words, "--skip-bad"]) == 0
    assert DataDir.open(tmp_path / "out").utt_ids.to_list() == ["good"]
    listed = (tmp_path / "out/rejected.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["utt_id", "text", "void"]
    assert "all zeros" in listed[2]
    write_audio(tmp_path / "in/good.wav", rir_T[::-1][:3000])
    replaced = (tmp_path / "in/good.wav").read_bytes()
    assert main([*words, "--skip-bad"]) == 0
    assert (tmp_path / "in/good.wav").read_bytes() == replaced


SECONDS = np.arange(32000) / 16000
OTHER_SOUNDS = {
    "sine": np.sin(2 * np.pi * 440 * SECONDS),
    "noise": np.random.default_rng(0).standard_normal(32000),
    "struck bell": np.exp(-3 * SECONDS) * np.sin(2 * np.pi * 880 * SECONDS),
    "noise that comes back": (np.exp(-8 * SECONDS) + np.exp(-8 * np.abs(SECONDS - 1)))
    * np.random.default_rng(1).standard_normal(32000),
}


@pytest.mark.parametrize("t60", [0.2, 0.6, 2.0, 8.0])
@pytest.mark.parametrize("delay", [0, 4000])
def test_a_sound_that_sets_in_and_decays_is_a_response_whatever_its_room(t60, delay):
    noise_CT = np.random.default_rng(2).standard_normal((2, int(16000 * min(t60, 4))))
    rir_CT = 0.1 * noise_CT * 10 ** (-3 * np.arange(noise_CT.shape[1]) / (16000 * t60))
    rir_CT[:, 0] = 1
    rir_CT = np.pad(rir_CT, ((0, 0), (delay, 0)))
    for gain in (1, 1e-3):
        assert is_room_response(gain * rir_CT) and is_room_response(gain * rir_CT[0])
    assert is_room_response(resample(rir_CT[0].astype(np.float32), 16000, 8000), 8000)


@pytest.mark.parametrize("wav_T", OTHER_SOUNDS.values(), ids=OTHER_SOUNDS)
def test_another_sound_is_no_response(wav_T):
    assert not is_room_response(wav_T) and not is_room_response(np.stack([wav_T, 0.5 * wav_T]))


def test_real_responses_are_told_from_real_speech(corpora):
    rirs = sorted((corpora / "rirs_gtu").glob("*.wav"))
    speech = sorted((corpora / "speechocean762" / "WAVE").glob("*/*.*"))[::100]
    assert len(rirs) == 10 and all(is_room_response(read_channels(path)) for path in rirs)
    assert len(speech) > 20 and not any(is_room_response(read_channels(path)) for path in speech)


def test_a_few_other_sounds_among_responses_are_noted_and_most_are_refused():
    click_T, notes = np.eye(1, 4000)[0], []
    sounds = [click_T, click_T, OTHER_SOUNDS["sine"], OTHER_SOUNDS["noise"]]

    def look(count):
        names = [f"{n}.wav" for n in range(count)]
        refuse_other_sounds(names, lambda n: sounds[n], 16000, instead="--noise", note=notes.append)

    look(2)
    assert notes == []
    look(3)
    look(4)
    assert [note.split(";")[0] for note in notes] == [
        "1 of 3 files are no room impulse responses (2.wav)",
        "2 of 4 files are no room impulse responses (2.wav, 3.wav)",
    ]
    sounds = sounds[1:]
    with pytest.raises(AudioError, match=r"^2 of 3 files .*\(1.wav, 2.wav\).* as --noise$"):
        look(3)


def test_a_talker_who_turns_away_is_heard_by_the_echoes() -> None:
    room, source, microphone = Room((7.0, 5.0, 3.0), 0.6), (5.0, 2.5, 1.5), [(2.0, 2.5, 1.5)]
    alike, towards, away = (
        simulate_rirs(room, source, microphone, facing=facing)[0] for facing in (None, np.pi, 0.0)
    )
    arrival = round(3.0 / 343 * 16000)
    direct = [float(np.abs(rir_T[arrival - 4 : arrival + 5]).max()) for rir_T in (alike, towards, away)]
    assert direct[1] == pytest.approx(direct[0], rel=0.05) and direct[2] < 0.05 * direct[0]
    assert measure_drr(towards) > measure_drr(alike) + 1
    options = {"t60": (0.5, 0.6), "distance": (3.0, 3.0)}
    scenes = [
        draw_scene(np.random.default_rng(4), RoomOptions(**options, talker=talker), sources=1)
        for talker in ("alike", "turned", "turned")
    ]
    one, turned, again = (scene.rirs_CT[0] for scene in scenes)
    assert (turned == again).all() and scenes[0].room == scenes[1].room and one.shape == turned.shape
    assert (one != turned).any()
