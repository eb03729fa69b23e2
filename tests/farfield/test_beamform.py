import numpy as np
import pytest
from scipy.signal import fftconvolve

from farvox.audio.files import read_audio
from farvox.errors import AudioError
from farvox.farfield.beamform import delay_and_sum, energy_masks, estimate_delays, istft, mvdr, stft
from farvox.farfield.rooms import Room, circular_array, simulate_rirs
from farvox.synthetic.voice import draw_sentence, draw_voice, synthesise


@pytest.fixture(scope="module")
def speech():
    rng = np.random.default_rng(5)
    wav = synthesise(draw_voice(rng), draw_sentence(rng, 3.0), rng).astype(np.float64)
    return wav / np.sqrt(np.mean(wav**2))


def delayed(wav, delays):
    """Copies of a signal, each later by so many samples, exactly."""
    size = 2 ** int(np.ceil(np.log2(len(wav) + 400)))
    spectrum, cycles = np.fft.rfft(wav, size), np.fft.rfftfreq(size)
    turned = spectrum * np.exp(-2j * np.pi * np.outer(delays, cycles))
    return np.fft.irfft(turned, size)[:, : len(wav) + 100]


def in_room(wav, source, microphones, t60):
    pytest.importorskip("pyroomacoustics", reason="needs the extra sim")
    rirs = simulate_rirs(Room((6.5, 4.5, 2.8), t60), source, microphones)
    return np.stack([fftconvolve(wav, rir) for rir in rirs])


def snr(wav, talker):
    """dB of what is like the talker over the rest, whatever its level."""
    like = talker * np.dot(wav, talker) / np.dot(talker, talker)
    return 10 * np.log10(np.sum(like**2) / np.sum((wav - like) ** 2))


@pytest.mark.parametrize("num_channels", [2, 4, 16])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_delays_are_found_within_a_tenth_of_a_sample(speech, num_channels, seed):
    true = np.random.default_rng(seed).uniform(0, 30, num_channels)
    found = estimate_delays(delayed(speech, true))
    np.testing.assert_allclose(found.delay_C, true - true[found.reference], atol=0.1)
    assert found.used_C.all()


def test_the_delays_of_an_array_in_a_room_are_those_of_its_geometry(speech):
    talker, microphones = np.array([1.2, 1.5, 1.6]), circular_array((4.0, 2.5, 1.0))
    found = estimate_delays(in_room(speech, talker, microphones, 0.2))
    true = np.linalg.norm(microphones - talker, axis=1) / 343 * 16000
    assert np.abs(found.delay_C - (true - true[found.reference])).max() < 1.0
    assert np.median(np.abs(found.delay_C - (true - true[found.reference]))) < 0.3


@pytest.mark.parametrize("num_channels", [4, 16])
def test_delay_and_sum_lowers_white_noise_by_10_log10_of_the_channels(speech, num_channels):
    rng = np.random.default_rng(3)
    clean = delayed(speech, rng.uniform(0, 20, num_channels))
    noisy = clean + 0.5 * rng.standard_normal(clean.shape)
    delays = estimate_delays(noisy)
    talker = clean[delays.reference]
    gain = snr(delay_and_sum(noisy, delays), talker) - snr(noisy[delays.reference], talker)
    assert gain == pytest.approx(10 * np.log10(num_channels), abs=0.3)


@pytest.mark.parametrize(("num_channels", "t60"), [(4, 0.15), (16, 0.15), (4, 0.3), (16, 0.3)])
def test_mvdr_beats_delay_and_sum_against_one_source_of_noise(speech, num_channels, t60):
    rng = np.random.default_rng(4)
    microphones = circular_array((4.0, 2.5, 1.0), num=num_channels)
    clean = in_room(speech, (1.2, 1.5, 1.6), microphones, t60)
    noise = in_room(rng.standard_normal(len(speech)), (4.5, 4.0, 1.2), microphones, t60)
    noisy = clean + noise * np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * 10 ** (-5 / 20)
    delays = estimate_delays(noisy)
    talker = clean[delays.reference]
    assert snr(delay_and_sum(noisy, delays), talker) > snr(noisy[delays.reference], talker)
    assert snr(mvdr(noisy, delays), talker) > snr(delay_and_sum(noisy, delays), talker) + 1


@pytest.mark.parametrize("kind", ["rain", "chainsaw"])
def test_mvdr_brings_out_real_speech_from_real_noise_in_a_room(corpora, kind):
    path = sorted((corpora / "speechocean762/WAVE").rglob("*.flac"))[0]
    wav = read_audio(path).astype(np.float64)
    noise_wav = np.resize(read_audio(sorted((corpora / "noise_esc10" / kind).glob("*.flac"))[0]), len(wav))
    microphones = circular_array((4.0, 2.5, 1.0), num=4)
    rirs = simulate_rirs(Room((6.5, 4.5, 2.8), 0.4), (1.2, 1.5, 1.6), microphones)
    clean = np.stack([fftconvolve(wav, rir) for rir in rirs])
    noise = in_room(noise_wav, (4.5, 4.0, 1.2), microphones, 0.4)
    noisy = clean + noise * np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * 10 ** (-5 / 20)
    delays = estimate_delays(noisy)
    rir = rirs[delays.reference]
    end = int(np.argmax(np.abs(rir) >= 0.25 * np.abs(rir).max())) + 800  # 50 ms after the direct path
    early = fftconvolve(wav, np.where(np.arange(len(rir)) < end, rir, 0))
    assert snr(mvdr(noisy, delays), early) > snr(noisy[delays.reference], early) + 0.5


@pytest.mark.parametrize("beamform", [delay_and_sum, mvdr])
def test_a_talker_without_noise_is_left_as_he_is(speech, beamform):
    clean = delayed(speech, np.array([0.0, 3.3, 7.9, 12.1]))
    delays = estimate_delays(clean)
    assert snr(beamform(clean, delays), clean[delays.reference]) > 25


@pytest.mark.parametrize("dead", [0, 2])
def test_a_dead_channel_is_left_out(speech, dead):
    wav = delayed(speech, np.array([0.0, 3.3, 7.9, 12.1]))
    wav[dead] = 0
    delays = estimate_delays(wav)
    assert np.flatnonzero(~delays.used_C).tolist() == [dead]
    assert snr(delay_and_sum(wav, delays), wav[delays.reference]) > 25
    assert np.isfinite(mvdr(wav, delays)).all()


def test_a_channel_that_hears_something_else_is_left_out(speech):
    wav = delayed(speech, np.array([0.0, 3.3, 7.9, 12.1, 1.5]))
    wav[3] = np.random.default_rng(0).standard_normal(wav.shape[1])
    assert np.flatnonzero(~estimate_delays(wav).used_C).tolist() == [3]


def test_digital_silence_is_neither_speech_nor_noise():
    power = np.ones((40, 5)) * np.arange(40)[:, None]
    power[:20] = 0
    speech_mask, noise_mask = energy_masks(power)
    assert not speech_mask[:17].any() and not noise_mask[:17].any()
    assert speech_mask[35:].all() and not noise_mask[35:].any()


def test_one_channel_and_silence_are_refused(speech):
    with pytest.raises(AudioError, match="at least two"):
        estimate_delays(speech[None])
    with pytest.raises(AudioError, match="nothing to beamform"):
        mvdr(np.stack([speech, np.zeros_like(speech)]))


@pytest.mark.parametrize(("size", "hop"), [(1024, 256), (512, 128), (64, 32)])
@pytest.mark.parametrize("num_samples", [1, 511, 5001])
def test_the_inverse_gives_the_signal_back(size, hop, num_samples):
    wav = np.random.default_rng(0).standard_normal((2, num_samples))
    spectra = stft(wav, size, hop)
    assert spectra.shape[0] == 2 and spectra.shape[2] == size // 2 + 1
    np.testing.assert_allclose(istft(spectra, num_samples, size, hop), wav, atol=1e-12)


@pytest.mark.parametrize("beamform", [delay_and_sum, mvdr])
def test_channels_that_would_cancel_or_have_nothing_in_common_are_refused(beamform):
    rng = np.random.default_rng(0)
    speech, other, hiss = (rng.standard_normal(8000) for _ in range(3))
    with pytest.raises(AudioError, match=r"channels 0 and 1 \(.*opposite polarity.*sox IN OUT vol -1"):
        beamform(np.stack([speech, 0.3 * hiss - speech]))
    apart = np.stack([speech, other - speech * np.dot(speech, other) / np.dot(speech, speech) - 0.1 * speech])
    with pytest.raises(AudioError, match="do not agree with one another at any delay up to 0 samples"):
        beamform(apart, estimate_delays(apart, max_delay=0))
    with pytest.raises(AudioError, match="do not agree with one another at any delay up to 48 samples"):
        beamform(np.stack([other, hiss]))
