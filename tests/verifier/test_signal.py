"""What a verifier accepts as audio, warns of, and refuses."""

import io
import os
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import farvox.audio.speech
from farvox.audio.conditioning import Conditioning
from farvox.audio.files import Wave, read_channels, resample
from farvox.audio.levels import bandwidth
from farvox.errors import AudioError, FarvoxError, NoSpeechError, TooShortError, UsageError
from farvox.synthetic.voice import draw_sentence, draw_voice, synthesise
from farvox.verifier.signal import Signal, clipped_share, read_signal, still_true

RATE = 16000


def speech(seconds: float = 3.0, seed: int = 0) -> Wave:
    """A synthetic voice, peak 0.5."""
    rng = np.random.default_rng(seed)
    wav_T = synthesise(draw_voice(rng), draw_sentence(rng, seconds), rng)
    return np.resize(wav_T, int(seconds * RATE)).astype(np.float32)


def write_by_ffmpeg(path: Path, wav_T: Wave, codec: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(wav_T[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        to_codec = av.AudioResampler(stream.format, "mono", RATE, stream.codec_context.frame_size)
        for part in (*to_codec.resample(frame), *to_codec.resample(None), None):
            container.mux(stream.encode(part))


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    return tmp_path / "a.wav"


def test_clean_speech_is_handed_on_unchanged_and_without_a_warning(wav: Path) -> None:
    signal = read_signal(wav)
    np.testing.assert_array_equal(signal.channels_CT, read_channels(wav))
    assert signal.channels_CT.dtype == np.float32
    assert (signal.name, signal.num_channels, signal.sample_rate, signal.seconds) == (str(wav), 1, RATE, 3.0)
    assert signal.warnings == ()
    assert signal.speech_seconds is not None and 1 < signal.speech_seconds <= 3


def test_a_path_a_file_object_and_an_array_are_the_same_audio(wav: Path) -> None:
    wav_CT = read_channels(wav)
    with open(wav, "rb") as file:
        audios = [str(wav), wav, file, io.BytesIO(wav.read_bytes()), (wav_CT, RATE), (wav_CT[0], RATE)]
        signals = [read_signal(audio) for audio in audios]
    for signal in signals:
        np.testing.assert_array_equal(signal.channels_CT, wav_CT)
        assert signal.speech_seconds == signals[0].speech_seconds
    names = [str(wav)] * 3 + ["<file object>", "<array>", "<array>"]
    assert [signal.name for signal in signals] == names


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_every_common_format_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "m4a":
        write_by_ffmpeg(path, speech(), "aac")
    else:
        soundfile.write(path, speech(), RATE)
    signal = read_signal(path)
    assert abs(signal.seconds - 3) < 0.1
    assert signal.warnings == ()


# Arrays.


@pytest.mark.parametrize(("dtype", "scale"), [(np.int16, 2**15), (np.int32, 2**31)])
def test_integers_are_scaled_by_their_full_range(dtype: type, scale: int) -> None:
    integers_T = (speech().astype(np.float64) * (scale - 1)).astype(dtype)
    np.testing.assert_array_equal(
        read_signal((integers_T, RATE)).channels_CT[0], (integers_T / scale).astype(np.float32)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_of_any_width_are_taken(dtype: str) -> None:
    wav_T = speech().astype(dtype)
    np.testing.assert_array_equal(read_signal((wav_T, RATE)).channels_CT[0], wav_T.astype(np.float32))


def test_a_tensor_on_the_cpu_is_taken_as_an_array() -> None:
    torch = pytest.importorskip("torch")
    tensor_T = torch.from_numpy(speech())
    np.testing.assert_array_equal(read_signal((tensor_T, RATE)).channels_CT[0], tensor_T.numpy())
    with pytest.raises(AudioError, match=r"cannot be taken as an array: .*requires grad"):
        read_signal((tensor_T.requires_grad_(), RATE))


def test_an_array_is_not_changed_and_not_shared_when_it_is_resampled() -> None:
    wav_T = speech()
    before_T = wav_T.copy()
    read_signal((wav_T, RATE), vad="trim")
    np.testing.assert_array_equal(wav_T, before_T)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ((speech().astype(np.uint8), RATE), "samples of type uint8; they are floats"),
        ((speech() > 0, RATE), "samples of type bool"),
        ((speech().astype(np.int64), RATE), "samples of type int64"),
        ((speech().astype(complex), RATE), "samples of type complex128"),
        ((np.array(["a"] * 9000), RATE), "samples of type <U1"),
        ((np.zeros((3, 3, 9000)), RATE), "3 dimensions"),
        ((np.float32(0.5), RATE), "is one number; the array comes first"),
        (([[1.0], [1.0, 2.0]], RATE), "cannot be taken as an array"),
        ((np.zeros(0), RATE), "holds no samples"),
        ((np.zeros((2, 0)), RATE), "holds no samples"),
        ((np.stack([speech()] * 2, axis=1), RATE), r"shape \(48000, 2\) reads as .*give array\.T"),
        ((np.zeros((65, 48000)), RATE), r"65 channels of 48000 samples.*give array\.T"),
        ((speech(), 0), "a rate of 0 Hz"),
        ((speech(), -16000), "a rate of -16000 Hz"),
        ((speech(), 16), "a rate of 16 Hz"),
        ((speech(), 16000.5), "the rate is 16000.5; it is a whole number of Hz"),
        ((speech(), True), "the rate is True"),
        ((speech(), "16000"), "the rate is '16000'"),
        ((speech(),), "1 things in a tuple"),
        (speech(), r"ndarray: audio is a path, a binary file object or \(array, rate\)"),
        (None, "NoneType: audio is a path"),
    ],
)
def test_an_array_of_another_kind_is_refused_with_the_fix(audio: object, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        read_signal(audio)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int16]),
        st.one_of(st.integers(0, 9000), st.tuples(st.integers(0, 4), st.integers(0, 9000))),
        fill=st.nothing(),
        elements=st.sampled_from([0, 1, -1]),
    )
    | hnp.arrays(np.float64, st.integers(4000, 6000), elements=st.floats(width=64)),
    st.sampled_from([8000, 16000, 44100]),
)
def test_any_array_is_a_signal_or_an_error_of_farvox(array: np.ndarray, rate: int) -> None:
    try:
        signal = read_signal((array, rate), vad="off")
    except FarvoxError:
        return
    assert signal.channels_CT.shape[1] > 0 and np.isfinite(signal.channels_CT).all()


# The twelve kinds of bad input.


def test_silence_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(2 * RATE), RATE)
    for vad in ("check", "trim", "off"):
        with pytest.raises(NoSpeechError, match=r"a\.wav: silence: nothing in it is louder than"):
            read_signal(tmp_path / "a.wav", vad=vad)


@pytest.mark.parametrize("offset", [0.0, 0.25, -0.9])
def test_neither_faint_hiss_nor_an_offset_makes_silence_a_signal(offset: float) -> None:
    hiss_T = 3e-5 * np.random.default_rng(0).standard_normal(2 * RATE) + offset
    with pytest.raises(NoSpeechError, match="silence"):
        read_signal((hiss_T, RATE), vad="off")


def test_a_tenth_of_a_second_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech()[:1600], RATE)
    for vad in ("check", "trim", "off"):
        with pytest.raises(TooShortError, match=r"a\.wav: 0\.10 s of signal; at least 0\.3 s"):
            read_signal(tmp_path / "a.wav", vad=vad)


def test_0_3_seconds_are_enough_of_a_signal_and_a_sample_less_is_not() -> None:
    wav_T = speech()[8000:]
    assert read_signal((wav_T[:4800], RATE), vad="off").seconds == 0.3
    with pytest.raises(TooShortError):
        read_signal((wav_T[:4799], RATE), vad="off")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read as audio: it is empty"):
        read_signal(tmp_path / "a.wav")


def test_a_header_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    with pytest.raises(AudioError, match=r"a\.wav: holds no audio"):
        read_signal(tmp_path / "a.wav")
    soundfile.write(tmp_path / "a.flac", speech(), RATE)
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:42])
    with pytest.raises(AudioError, match=r"a\.flac: damaged audio"):
        read_signal(tmp_path / "a.flac")


def test_a_text_file_named_wav_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("This is not a recording.\n" * 200)
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read as audio: .*no audio at all"):
        read_signal(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    wav_T = speech()
    wav_T[100] = value
    soundfile.write(tmp_path / "a.wav", wav_T, RATE, subtype="FLOAT")
    for audio in (tmp_path / "a.wav", (wav_T, RATE)):
        with pytest.raises(AudioError, match="not finite"):
            read_signal(audio)


def test_the_eight_channels_of_an_array_are_all_handed_on(tmp_path: Path) -> None:
    wav_CT = np.stack([np.roll(speech(), 7 * channel) for channel in range(8)])
    soundfile.write(tmp_path / "a.wav", wav_CT.T, RATE)
    signal = read_signal(tmp_path / "a.wav")
    assert signal.channels_CT.shape == (8, 48000)
    assert (signal.num_channels, signal.warnings) == (8, ())


def test_8_khz_is_used_and_the_missing_band_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", resample(speech(), RATE, 8000), 8000)
    signal = read_signal(tmp_path / "a.wav")
    assert signal.channels_CT.shape == (1, 48000)
    assert (signal.sample_rate, signal.seconds) == (8000, 3.0)
    assert re.match(r"nothing above (3\.[5-9]|4\.0) kHz is in it", signal.warnings[0])
    assert (signal.warnings[0].code, signal.warnings[0].serious) == ("narrow-band", True)
    assert read_signal(tmp_path / "a.wav", sample_rate=8000).warnings == ()


def test_96_khz_is_resampled_without_a_note(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", resample(speech(), RATE, 96000), 96000)
    signal = read_signal(tmp_path / "a.wav")
    assert signal.channels_CT.shape == (1, 48000)
    assert signal.warnings == ()


@pytest.mark.parametrize("own_rate", [8000, 16000, 48000])
def test_clipped_speech_is_used_and_named(tmp_path: Path, own_rate: int) -> None:
    loud_T = np.clip(4 * resample(speech(), RATE, own_rate), -1, 1)
    for subtype in ("PCM_16", "FLOAT"):
        soundfile.write(tmp_path / "a.wav", loud_T, own_rate, subtype=subtype)
        warnings = read_signal(tmp_path / "a.wav").warnings
        assert [warning for warning in warnings if warning.startswith("clipped: ")]


def test_a_cut_off_file_is_refused(wav: Path) -> None:
    wav.write_bytes(wav.read_bytes()[: wav.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"a\.wav: truncated"):
        read_signal(wav)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"/no\.wav: no such file"):
        read_signal(tmp_path / "no.wav")


def test_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="cannot be read: it is a directory"):
        read_signal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named(wav: Path) -> None:
    wav.chmod(0)
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read: Permission denied"):
        read_signal(wav)


# Levels.


def test_a_model_that_needs_more_refuses_what_is_shorter() -> None:
    wav_T = speech()
    assert read_signal((wav_T, RATE), min_samples=48000).channels_CT.shape == (1, 48000)
    with pytest.raises(TooShortError, match=r"<array>: 3\.00 s of signal; this model needs 3\.12 s"):
        read_signal((wav_T, RATE), min_samples=50000)
    with pytest.raises(TooShortError, match=r"s of speech; this model needs 3\.75 s"):
        read_signal((np.pad(wav_T, (16000, 16000)), RATE), min_samples=60000, vad="trim")


def test_samples_beyond_full_scale_are_used_as_they_are(tmp_path: Path) -> None:
    wav_T = speech() * (np.float32(2.5) / np.abs(speech()).max())
    soundfile.write(tmp_path / "a.wav", wav_T, RATE, subtype="FLOAT")
    signal = read_signal(tmp_path / "a.wav")
    np.testing.assert_array_equal(signal.channels_CT[0], wav_T)
    assert signal.warnings == ("samples reach 2.5, beyond full scale (1); used as they are",)


def test_an_offset_stays_in_the_samples_and_out_of_the_decision() -> None:
    wav_T = speech()
    signal = read_signal((wav_T + np.float32(0.3), RATE))
    np.testing.assert_array_equal(signal.channels_CT[0], wav_T + np.float32(0.3))
    assert signal.speech_seconds == pytest.approx(read_signal((wav_T, RATE)).speech_seconds, abs=0.1)


# Channels.


@pytest.mark.parametrize("dead", [0.0, 0.5])
def test_dead_channels_are_left_out_and_named(dead: float) -> None:
    wav_T = speech()
    wav_CT = np.stack([np.full_like(wav_T, dead), wav_T, np.roll(wav_T, 3), np.zeros_like(wav_T)])
    signal = read_signal((wav_CT, RATE))
    np.testing.assert_array_equal(signal.channels_CT, wav_CT[1:3])
    assert signal.num_channels == 4
    assert signal.warnings == ("4 channels: left out as silent: 0, 3 (counted from 0)",)


def test_mono_on_two_channels_is_used_once() -> None:
    signal = read_signal((np.stack([speech()] * 2), RATE))
    np.testing.assert_array_equal(signal.channels_CT[0], speech())
    assert signal.channels_CT.shape == (1, 48000)
    assert signal.warnings == ("2 channels are one and the same; it is used once",)


# Clipping.


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 6), st.floats(0.02, 1.0), st.floats(2.0, 10.0))
def test_a_signal_is_clipped_at_whatever_level_it_was_cut(seed: int, level: float, gain: float) -> None:
    wav_T = np.float32(2) * speech(1.0, seed=seed)
    wav_T = wav_T / np.abs(wav_T).max()
    assert clipped_share(np.float32(level) * np.clip(np.float32(gain) * wav_T, -1, 1)) > 1e-4
    assert clipped_share(np.float32(level) * wav_T) == 0


@pytest.mark.skipif("FARVOX_CORPORA" not in os.environ, reason="set FARVOX_CORPORA")
def test_real_speech_is_clipped_only_when_it_is() -> None:
    corpora = Path(os.environ["FARVOX_CORPORA"])
    utterances = sorted((corpora / "speechocean762" / "WAVE").rglob("*.flac"))[::50]
    num_cut, num_warned = 0, 0
    for path in utterances:
        signal = read_signal(path)
        assert {note.code for note in signal.warnings} <= {"short-speech", "band-limited", "little-speech"}
        if np.abs(signal.channels_CT).max() > 0.375:  # 12 dB more pass full scale by 3.5 dB
            warnings = read_signal((np.clip(4 * signal.channels_CT, -1, 1), RATE)).warnings
            num_cut += 1
            num_warned += any(warning.startswith("clipped") for warning in warnings)
    assert num_cut > 20
    assert num_warned >= 0.95 * num_cut


# Trimming.


def test_trim_keeps_the_speech_with_a_margin_and_the_same_of_each_channel() -> None:
    wav_T = speech()
    wav_CT = np.stack([np.pad(wav_T, (32000, 48000)), np.pad(wav_T, (32000, 48000)) * np.float32(0.3)])
    signal = read_signal((wav_CT, RATE), vad="trim")
    assert signal.speech_seconds is not None
    assert signal.speech_seconds * RATE <= signal.channels_CT.shape[1]
    assert signal.channels_CT.shape[1] <= 48000 + 2 * (1600 + 512)  # a margin, and a window of silero-vad
    assert signal.seconds == 8.0
    np.testing.assert_array_equal(signal.channels_CT[1], signal.channels_CT[0] * np.float32(0.3))


def test_off_takes_any_sound_for_speech() -> None:
    hum_T = 0.1 * np.sin(np.arange(2 * RATE) / 20)
    signal = read_signal((hum_T, RATE), vad="off")
    assert (signal.detector, signal.speech_seconds) == ("off", None)


def test_an_unknown_vad_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(UsageError, match="vad = 'on'; it must be one of check, trim, off"):
        read_signal((speech(), RATE), vad="on")  # type: ignore[arg-type]


def test_reading_twice_gives_the_same_bits(wav: Path) -> None:
    first, second = (read_signal(wav, vad="trim") for _ in range(2))
    assert isinstance(first, Signal)
    np.testing.assert_array_equal(first.channels_CT, second.channels_CT)
    assert first.speech_seconds == second.speech_seconds


# Channels without a voice, two voices, little speech.


def two(left_T: np.ndarray, right_T: np.ndarray) -> np.ndarray:
    return np.stack([left_T, right_T]).astype(np.float32)


@pytest.mark.parametrize("level_db", [-75, -60, -50, -30])
@pytest.mark.parametrize("noisy", [0, 1])
def test_a_channel_of_hiss_is_left_out_and_named(level_db: int, noisy: int) -> None:
    wav_T = speech()
    hiss_T = 10 ** (level_db / 20) * np.random.default_rng(0).standard_normal(len(wav_T))
    sides = (hiss_T, wav_T) if noisy == 0 else (wav_T, hiss_T)
    signal = read_signal((two(*sides), RATE))
    assert signal.channel_numbers == (1 - noisy,) and len(signal.channels_CT) == 1
    (note,) = signal.warnings
    assert note == f"2 channels: left out without speech: {noisy} (counted from 0)"
    assert note.code == "silent-channel"


SECONDS_T = np.arange(3 * RATE) / RATE
NOISE_T = np.random.default_rng(3).standard_normal(3 * RATE)
NO_VOICE = {
    "hum": sum(0.02 / k * np.sin(2 * np.pi * 50 * k * SECONDS_T) for k in range(1, 12)),
    "swelling hum": 0.03 * (1 + 0.9 * np.sin(4 * SECONDS_T)) * np.sin(2 * np.pi * 100 * SECONDS_T),
    "clicks": 0.2 * NOISE_T * (np.arange(3 * RATE) % 3203 < 40),
    "crackle in hiss": 0.001 * NOISE_T + 0.1 * NOISE_T * (np.arange(3 * RATE) % 331 < 5),
    "noise in bursts": 0.05 * NOISE_T * (SECONDS_T % 0.7 < 0.3),
    "noise at a syllable's rate": 0.05 * NOISE_T * (1 + np.sin(2 * np.pi * 4 * SECONDS_T)),
    "a beep": 0.1 * np.sin(2 * np.pi * 1000 * SECONDS_T) * (SECONDS_T % 1 < 0.4),
    "a code of two tones": 0.1 * np.sign(np.sin(np.where(SECONDS_T * 30 % 2 < 1, 7540, 15080) * SECONDS_T)),
    "an offset": np.full(3 * RATE, 0.3),
    "the last bit": (NOISE_T > 0) / 32768,
}  # fmt: skip


@pytest.mark.parametrize("extra", ["with silero-vad", "without it"])
@pytest.mark.parametrize("kind", NO_VOICE)
def test_a_channel_without_a_voice_is_left_out(
    kind: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if extra == "without it":
        monkeypatch.setattr(farvox.audio.speech, "silero", lambda: None)
    for order in ((0, 1), (1, 0)):
        channels = (NO_VOICE[kind], speech())
        signal = read_signal((two(*(channels[n] for n in order)), RATE))
        assert signal.channel_numbers == (order.index(1),)
        assert "silent-channel" in [note.code for note in signal.warnings]
    array_CT = np.stack(
        [NO_VOICE[kind], speech(), 0.3 * speech(), NO_VOICE[kind] + 1e-3 * NOISE_T, -speech()]
    )
    signal = read_signal((array_CT.astype(np.float32), RATE))
    assert signal.channel_numbers == (1, 2, 4)
    assert (
        "0, 3 (counted from 0)" in " ".join(signal.warnings) or "left out as silent: 0" in signal.warnings[0]
    )


@pytest.mark.parametrize("extra", ["with silero-vad", "without it"])
def test_a_recording_of_steady_sound_alone_is_no_speech(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if extra == "without it":
        monkeypatch.setattr(farvox.audio.speech, "silero", lambda: None)
    for wav_T in (0.03 * NOISE_T, NO_VOICE["hum"], NO_VOICE["a code of two tones"]):
        with pytest.raises(NoSpeechError, match="--vad off"):
            read_signal((wav_T, RATE))
        assert read_signal((wav_T, RATE), vad="off").seconds == 3


def test_the_same_voice_late_inverted_faint_or_as_crosstalk_is_kept_or_harmless() -> None:
    wav_T = speech()
    for copy_T in (np.roll(wav_T, 160), -wav_T, 0.05 * wav_T, 0.05 * wav_T + 0.0005 * NOISE_T):
        assert 1 in read_signal((two(copy_T, wav_T), RATE)).channel_numbers


def test_microphones_of_an_array_stay_though_they_are_noisy() -> None:
    wav_T = speech()
    noise_T = (
        10 ** (-5 / 20) * np.sqrt(np.mean(wav_T**2)) * np.random.default_rng(1).standard_normal(len(wav_T))
    )
    assert read_signal((two(wav_T, wav_T + noise_T), RATE)).channel_numbers == (0, 1)


def test_a_channel_is_chosen_by_its_number_or_its_speech() -> None:
    wav_T = speech()
    some_T = np.where(np.arange(len(wav_T)) < RATE, wav_T, 0)
    assert read_signal((two(some_T, wav_T), RATE), channel="most-speech").channel_numbers == (1,)
    assert read_signal((two(some_T, wav_T), RATE), channel=0).channel_numbers == (0,)
    with pytest.raises(AudioError, match="has no channel 2; it has 2"):
        read_signal((two(some_T, wav_T), RATE), channel=2)


def test_little_and_short_speech_are_named_with_their_cost() -> None:
    wav_T = speech()
    codes = [note.code for note in read_signal((np.pad(wav_T, (0, 20 * RATE)), RATE)).warnings]
    assert codes == ["little-speech"]
    assert read_signal((np.pad(wav_T, (0, 20 * RATE)), RATE), vad="trim").warnings == ()
    (note,) = read_signal((wav_T[: RATE // 2], RATE)).warnings
    assert note.code == "short-speech" and note.serious


def test_narrow_band_speech_is_named_whatever_the_header_says() -> None:
    narrow_T = resample(resample(speech(), RATE, 8000), 8000, 48000)
    (note,) = read_signal((narrow_T, 48000)).warnings
    assert (note.code, note.serious) == ("narrow-band", True)


def test_a_signal_prints_no_samples() -> None:
    assert "channels_CT" not in repr(read_signal((speech(), RATE)))


@pytest.mark.parametrize("limit", [5000, 5512, 6000])
def test_a_band_that_ends_above_4_khz_is_noted_unless_both_sides_are_compared_below_that(limit: int) -> None:
    rng = np.random.default_rng(0)
    full_T = speech() + 1e-2 * rng.standard_normal(len(speech())).astype(np.float32)  # fricatives, as it were
    limited_T = resample(resample(full_T, RATE, 2 * limit), 2 * limit, RATE)
    (note,) = (each for each in read_signal((limited_T, RATE)).warnings if "band" in each.code)
    assert (note.code, note.serious) == ("band-limited", True)
    assert still_true((note,), Conditioning(band="narrow")) == ()
    assert not [each for each in read_signal((full_T, RATE)).warnings if "band" in each.code]


def test_channels_that_take_turns_end_nowhere() -> None:
    full_T = speech(4) + 1e-2 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    turns_CT = np.stack([full_T, full_T])
    turns_CT[0, 2 * RATE :], turns_CT[1, : 2 * RATE] = 0, 0
    assert not [each for each in read_signal((turns_CT, RATE)).warnings if "band" in each.code]


def test_a_mean_hides_no_band() -> None:
    assert bandwidth(speech() + np.float32(50), RATE) == pytest.approx(bandwidth(speech(), RATE), abs=100)


@pytest.mark.parametrize(("share", "serious"), [(0.005, False), (0.05, True), (0.37, True)])
def test_clipping_is_serious_from_where_it_costs(share: float, serious: bool) -> None:
    wav_T = speech() - speech().mean()
    level = np.quantile(np.abs(wav_T), 1 - share)
    (note,) = (
        each for each in read_signal((np.clip(wav_T / level, -1, 1), RATE)).warnings if each.code == "clipped"
    )
    assert note.serious is serious
