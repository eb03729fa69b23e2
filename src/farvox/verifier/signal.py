"""What a verifier accepts as audio, and what it refuses.

`read_signal` turns a path, a file object or ``(array, rate)`` into a `Signal`: the samples a model hears, and
what is to be said about them. It refuses by a named error what cannot be judged, and warns of what can be
judged less well.

Shape suffixes: C channel, T sample.
"""

from __future__ import annotations

import operator
import os
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from farvox.audio.files import audio_name, read_recording, resample
from farvox.errors import AudioError, NoSpeechError, TooShortError
from farvox.verifier.speech import (
    ENOUGH_SECONDS,
    SILENCE_DB,
    Speech,
    find_speech,
    loud_level,
    padded,
)

Wave = NDArray[np.float32]
AudioArgument: TypeAlias = "str | os.PathLike[str] | BinaryIO | tuple[NDArray[Any], int]"
Vad: TypeAlias = Literal["check", "trim", "off"]

MIN_SECONDS = 0.3  # of signal; as much of it must be speech
TRIM_PAD_SECONDS = 0.1  # kept on either side of detected speech
MAX_CHANNELS = 64  # of an array; more are samples
_RATES = (1000, 1_000_000)  # Hz
_FULL_SCALE = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}
_OVERSHOOT = 1.1  # lossy codecs pass full scale by a few percent where nothing is wrong
_CLIP_RUN = 3  # samples in a row at the extreme
_CLIP_SHARE = 1e-5  # of all samples: one run in 20 s at 16 kHz
_CLIP_LEVEL = 0.01  # of full scale: below it a few steps of 16 bits make plateaus of their own


@dataclass(frozen=True, slots=True)
class Signal:
    """A recording that can be judged.

    Attributes:
        name: the path, the name of the file object, or "<array>"; for messages.
        channels_CT: float32 at the model's rate, the channels that hold a signal; with ``vad="trim"`` only
            the speech in them.
        num_channels: as recorded.
        sample_rate: as recorded, Hz.
        seconds: as recorded.
        speech_seconds: how much speech was found; None with ``vad="off"``.
        detector: what found it: "silero-vad" with its version, "energy", or "off".
        warnings: what makes the judgement less sure, a sentence each, without the name.
    """

    name: str
    channels_CT: Wave
    num_channels: int
    sample_rate: int
    seconds: float
    speech_seconds: float | None
    detector: str
    warnings: tuple[str, ...]


def read_signal(
    audio: AudioArgument, *, sample_rate: int = 16000, min_samples: int = 0, vad: Vad = "check"
) -> Signal:
    """Read a recording and refuse it unless it can be judged.

    Args:
        audio: a path; a binary file object; or ``(array, rate)`` with the array [T] or [C, T] of floats
            in [-1, 1] or of int16 or int32, which are scaled by their full range.
        sample_rate: what the model expects, Hz.
        min_samples: the least the model can embed, at ``sample_rate``.
        vad: "check" only makes sure that there is enough speech and cuts nothing; "trim" keeps the speech
            alone; "off" takes any sound that is no silence for speech.

    Raises:
        NoSpeechError: silence, or less than 0.3 s of speech.
        TooShortError: less than 0.3 s of signal, or less than ``min_samples``.
        AudioError: missing, unreadable, no audio, damaged, truncated, empty, samples that are not finite,
            or an array of another kind.
    """
    if vad not in ("check", "trim", "off"):
        raise ValueError(f'vad is "check", "trim" or "off", not {vad!r}')
    name, wav_CT, own_rate = _read(audio)
    seconds = wav_CT.shape[1] / own_rate
    if seconds < MIN_SECONDS:
        raise TooShortError(f"{name}: {seconds:.2f} s of signal; at least {MIN_SECONDS:g} s are needed")
    alive_CT, left_out = _alive(name, wav_CT, own_rate)
    warnings = _sample_warnings(alive_CT) + _rate_warnings(own_rate, sample_rate)
    channels_CT = resample(alive_CT, own_rate, sample_rate)
    speech_seconds, detector = None, "off"
    if vad != "off":
        speech = find_speech(channels_CT, sample_rate)
        _refuse_without_speech(name, speech)
        speech_seconds, detector = speech.seconds, speech.detector
    if vad == "trim":
        channels_CT = _trimmed(channels_CT, speech, sample_rate)
        if detector == "energy":
            left_out += ("trimmed by energy alone: install farvox[vad] to keep only what is speech",)
    if channels_CT.shape[1] < min_samples:
        found = f"{channels_CT.shape[1] / sample_rate:.2f} s of {'speech' if vad == 'trim' else 'signal'}"
        raise TooShortError(f"{name}: {found}; this model needs {min_samples / sample_rate:.2f} s")
    return Signal(
        name,
        np.ascontiguousarray(channels_CT),
        len(wav_CT),
        own_rate,
        seconds,
        speech_seconds,
        detector,
        warnings + left_out,
    )


def _read(audio: AudioArgument) -> tuple[str, Wave, int]:
    """Name, channels and rate of an audio argument of any kind."""
    if isinstance(audio, tuple):
        name = "<array>"
        wav_CT, rate = _from_array(name, audio)
    elif isinstance(audio, str | os.PathLike) or hasattr(audio, "read"):
        name = audio_name(audio)
        wav_CT, rate = read_recording(audio)
    else:
        raise AudioError(
            f"{type(audio).__name__}: audio is a path, a binary file object or (array, rate), the rate in Hz"
        )
    if not _RATES[0] <= rate <= _RATES[1]:
        raise AudioError(f"{name}: a rate of {rate} Hz; between {_RATES[0]} and {_RATES[1]} are used")
    return name, wav_CT, rate


def _from_array(name: str, audio: tuple[Any, ...]) -> tuple[Wave, int]:
    if len(audio) != 2:
        raise AudioError(f"{name}: {len(audio)} things in a tuple; it is (array, rate)")
    try:
        wav = np.asarray(audio[0])
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a GPU, a ragged list
        raise AudioError(f"{name}: cannot be taken as an array: {error}") from None
    _refuse_shape(name, wav)
    wav_CT = _to_float(name, np.atleast_2d(wav))
    if not np.isfinite(wav_CT).all():
        raise AudioError(f"{name}: holds samples that are not finite (NaN or infinite)")
    return wav_CT, _to_rate(name, audio[1])


def _refuse_shape(name: str, wav: NDArray[Any]) -> None:
    if wav.ndim == 0:
        raise AudioError(f"{name}: {wav!r} is one number; the array comes first: (array, rate)")
    if wav.ndim > 2:
        raise AudioError(f"{name}: {wav.ndim} dimensions; an array is [samples] or [channels, samples]")
    if wav.size == 0:
        raise AudioError(f"{name}: holds no samples (shape {wav.shape})")
    if wav.ndim == 2 and (len(wav) > wav.shape[1] or len(wav) > MAX_CHANNELS):
        raise AudioError(
            f"{name}: shape {wav.shape} reads as {len(wav)} channels of {wav.shape[1]} samples; "
            "an array is [channels, samples]: give array.T"
        )


def _to_float(name: str, wav_CT: NDArray[Any]) -> Wave:
    if wav_CT.dtype in _FULL_SCALE:
        return (wav_CT / _FULL_SCALE[wav_CT.dtype]).astype(np.float32)
    if wav_CT.dtype.kind != "f":
        raise AudioError(
            f"{name}: samples of type {wav_CT.dtype}; they are floats in [-1, 1], int16 or int32"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused as such
        return wav_CT.astype(np.float32)


def _to_rate(name: str, rate: Any) -> int:
    try:
        if isinstance(rate, bool | np.bool_):
            raise TypeError
        return int(rate) if isinstance(rate, float) and rate.is_integer() else operator.index(rate)
    except TypeError:
        raise AudioError(f"{name}: the rate is {rate!r}; it is a whole number of Hz") from None


def _sample_warnings(wav_CT: Wave) -> tuple[str, ...]:
    warnings = []
    peak = float(np.abs(wav_CT).max())
    if peak > _OVERSHOOT:
        warnings.append(f"samples reach {peak:.3g}, beyond full scale (1); used as they are")
    share = max(clipped_share(wav_T) for wav_T in wav_CT)
    if share > _CLIP_SHARE:
        warnings.append(f"clipped: {100 * share:.2g} % of its samples are cut off; record at a lower level")
    return tuple(warnings)


def _rate_warnings(own_rate: int, sample_rate: int) -> tuple[str, ...]:
    if own_rate < sample_rate:
        lacking = f"nothing above {own_rate / 2:g} Hz is in it, and the model expects {sample_rate / 2:g} Hz"
        return (f"{own_rate} Hz: {lacking}; scores are less sure",)
    if own_rate > sample_rate:
        return (f"{own_rate} Hz: resampled to {sample_rate} Hz",)
    return ()


def clipped_share(wav_T: Wave) -> float:
    """Share of the samples that are in runs of three or more at the highest or the lowest value.

    A signal that was cut off stays at one value while it would have gone beyond; one that was not touches
    its highest value once. No such run is in speechocean762, AN4 and noise_esc10. Amplified by 12 dB and cut
    at full scale, 98.7 % of the utterances that pass it by 3.5 dB have one. A signal that never passes 1 % of
    full scale is not looked at: so few steps of 16 bits repeat on their own. Lossy codecs hide the runs.
    """
    num_clipped = 0
    for signed_T in (wav_T, -wav_T):
        peak = signed_T.max()
        if peak < _CLIP_LEVEL:
            continue
        at = np.flatnonzero(signed_T == peak)
        edges = np.flatnonzero(np.diff(at) != 1) + 1
        lengths = np.diff(np.concatenate(([0], edges, [len(at)])))
        num_clipped += int(lengths[lengths >= _CLIP_RUN].sum())
    return num_clipped / len(wav_T)


def _alive(name: str, wav_CT: Wave, rate: int) -> tuple[Wave, tuple[str, ...]]:
    """The channels that hold a signal, each once, and a note on those left out."""
    alive = [channel for channel, wav_T in enumerate(wav_CT) if loud_level(wav_T, rate) >= SILENCE_DB]
    if not alive:
        raise NoSpeechError(f"{name}: silence: nothing in it is louder than {SILENCE_DB:g} dB of full scale")
    notes = []
    if len(alive) < len(wav_CT):
        dead = ", ".join(str(channel) for channel in range(len(wav_CT)) if channel not in alive)
        notes.append(f"{len(wav_CT)} channels: left out as silent: {dead} (counted from 0)")
    if len(alive) > 1 and all(np.array_equal(wav_CT[alive[0]], wav_CT[channel]) for channel in alive[1:]):
        notes.append(f"{len(alive)} channels are one and the same; it is used once")
        alive = alive[:1]
    return wav_CT[alive] if len(alive) < len(wav_CT) else wav_CT, tuple(notes)


def _refuse_without_speech(name: str, speech: Speech) -> None:
    if speech.seconds < ENOUGH_SECONDS:
        found = f"{speech.seconds:.2f} s of speech found by {speech.detector}"
        raise NoSpeechError(
            f"{name}: {found}; at least {ENOUGH_SECONDS:g} s are needed; "
            'if it is speech all the same, say vad="off" (--vad off)'
        )


def _trimmed(channels_CT: Wave, speech: Speech, sample_rate: int) -> Wave:
    pad = round(TRIM_PAD_SECONDS * sample_rate)
    regions = padded(speech.regions, pad, channels_CT.shape[1])
    return np.concatenate([channels_CT[:, begin:end] for begin, end in regions], axis=1)
