"""Recordings for a verifier: read, checked and brought to the rate of the model.

`read_signal` turns a path, a file object or ``(array, rate)`` into a `Signal`: the samples that the model is
given, and warnings about them. A recording that cannot be judged is refused with an error of its own class;
one that can be judged less well has a warning.

Shape suffixes: C channel, T sample.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from farvox.audio.conditioning import Conditioning
from farvox.audio.files import Wave, audio_name, check_rate, read_recording, resample
from farvox.audio.levels import (
    LIMITED_SHARE,
    NARROW_SHARE,
    SILENCE_DB,
    Levels,
    bandwidth,
    frame_levels,
    loud_level,
    loudest,
)
from farvox.audio.speech import ENOUGH_SECONDS, find_by_energy, find_speech, padded
from farvox.errors import AudioError, NoSpeechError, TooShortError
from farvox.options import not_a_choice
from farvox.reprs import short_repr

AudioArgument: TypeAlias = "str | os.PathLike[str] | BinaryIO | tuple[NDArray[Any], int]"
Vad: TypeAlias = Literal["check", "trim", "off"]

MIN_SECONDS = 0.3  # of signal; as much of it must be speech
TRIM_PAD_SECONDS = 0.1  # kept on either side of detected speech
MAX_CHANNELS = 64  # of an array; more are samples
_FULL_SCALE = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}
_OVERSHOOT = 1.1  # lossy codecs exceed full scale by a few percent in a flawless recording
_SHORT_SECONDS, _LITTLE_SHARE = 1.0, 0.4  # of speech; of the recording
_NOISY_DB = 18.0  # from the quietest tenth of the frames to the loudest 0.1 s; clean speech has 26 at least
_FAINT_DB = -50.0  # of full scale, of the loudest 0.1 s
_CLIP_RUN = 3  # samples in a row at the extreme
_CLIP_SHARE = 1e-5  # of all samples: one run in 20 s at 16 kHz
_CLIP_COSTS = 0.02  # from here on the note is serious: see docs/verify.md
_CLIP_LEVEL = 0.01  # of full scale: below it, quantisation to 16 bits makes such runs


Channel: TypeAlias = "int | Literal['all', 'most-speech']"
WORDS_OF_CHANNELS = ("all", "most-speech")


class CodedNote(str):
    """A reason why a judgement is less certain: a sentence.

    Attributes:
        code: a word that stays the same in all versions.
        serious: False for what hardly costs anything.
    """

    code: str
    serious: bool

    def __new__(cls, text: str, code: str = "", serious: bool = False) -> CodedNote:
        """Make a note of its sentence."""
        note = super().__new__(cls, text)
        note.code, note.serious = code, serious
        return note


@dataclass(frozen=True, slots=True)
class Signal:
    """A recording that can be judged.

    Attributes:
        name: the path, the name of the file object, or "<array>"; for messages.
        channels_CT: float32 at the model's rate, the channels that hold speech (with ``vad="off"``, a
            signal); with ``vad="trim"`` only the speech in them.
        channel_numbers: theirs in the recording, from 0.
        num_channels: as recorded.
        sample_rate: as recorded, Hz.
        seconds: as recorded.
        speech_seconds: length of the speech that was found; None with ``vad="off"``.
        detector: of the speech: "silero-vad" with its version, "energy", or "off".
        warnings: reasons why the judgement is less certain, each without the name.
        most_speech: the row of ``channels_CT`` with the most speech.
    """

    name: str
    channels_CT: Wave = field(repr=False, compare=False)
    channel_numbers: tuple[int, ...]
    num_channels: int
    sample_rate: int
    seconds: float
    speech_seconds: float | None
    detector: str
    warnings: tuple[CodedNote, ...]
    most_speech: int = 0

    __repr__ = short_repr


def refuse_other_reading(vad: object, channel: object) -> None:
    """Refuse ways of reading that `read_signal` does not have.

    Raises:
        UsageError: one of them is none of its words.
    """
    if vad not in get_args(Vad):
        raise not_a_choice("vad", vad, get_args(Vad))
    if not isinstance(channel, int) and channel not in WORDS_OF_CHANNELS:
        raise not_a_choice("channel", channel, (*WORDS_OF_CHANNELS, "a number from 0"))


def read_signal(
    audio: AudioArgument,
    *,
    sample_rate: int = 16000,
    min_samples: int = 0,
    vad: Vad = "check",
    channel: Channel = "all",
    array_name: str = "<array>",
) -> Signal:
    """Read a recording and refuse it unless it can be judged.

    Args:
        audio: a path; a binary file object; or ``(array, rate)`` with the array [T] or [C, T] of floats
            in [-1, 1] or of int16 or int32, which are scaled by their full range.
        sample_rate: of the model, Hz.
        min_samples: fewest samples that the model can embed, at ``sample_rate``.
        vad: "check" makes sure that there is enough speech and cuts nothing; "trim" keeps only the speech;
            "off" accepts any sound that is not silence.
        channel: "all" that hold speech, the one with "most-speech", or a number from 0.
        array_name: that of an array in messages.

    Raises:
        NoSpeechError: silence, or less than 0.3 s of speech.
        TooShortError: less than 0.3 s of signal, or less than ``min_samples``.
        AudioError: missing, unreadable, no audio, damaged, truncated, empty, samples that are not finite,
            or an array of another kind.
    """
    refuse_other_reading(vad, channel)
    if isinstance(audio, tuple):
        name = array_name
        wav_CT, own_rate = _from_array(name, audio)
    elif isinstance(audio, str | os.PathLike) or hasattr(audio, "read"):
        name = audio_name(audio)
        wav_CT, own_rate = read_recording(audio)
    else:
        raise AudioError(
            f"{type(audio).__name__}: audio is a path, a binary file object or (array, rate), the rate in "
            "Hz; several recordings are a list of such"
        )
    check_rate(name, own_rate)
    seconds = wav_CT.shape[1] / own_rate
    if seconds < MIN_SECONDS:
        raise TooShortError(f"{name}: {seconds:.2f} s of signal; at least {MIN_SECONDS:g} s are needed")
    if isinstance(channel, int) and not 0 <= channel < len(wav_CT):
        raise AudioError(f"{name}: has no channel {channel}; it has {len(wav_CT)}, counted from 0")
    used, notes = _used_channels(name, wav_CT, own_rate, channel)

    used_CT = wav_CT[used] if len(used) < len(wav_CT) else wav_CT
    channels_CT = resample(used_CT, own_rate, sample_rate)
    speech_seconds, detector, loud_CT, most_speech = None, "off", channels_CT, 0
    if vad == "off" and len(used) > 1:
        most_speech = find_by_energy(channels_CT, sample_rate).most
    if vad != "off":
        speech = find_speech(channels_CT, sample_rate)
        speech_seconds, detector = speech.seconds, speech.detector
        if speech_seconds < ENOUGH_SECONDS:
            found = f"{speech_seconds:.2f} s of speech found by {detector}"
            raise NoSpeechError(
                f"{name}: {found}; at least {ENOUGH_SECONDS:g} s are needed; "
                'if it is speech all the same, give vad="off" (--vad off)'
            )
        kept = list(speech.channels) if channel == "all" else [speech.most]
        most_speech = kept.index(speech.most)
        if len(kept) < len(used):
            others = [used[n] for n in range(len(used)) if n not in kept]
            why = "without speech" if channel == "all" else "with less speech"
            notes.append(_left_out(wav_CT, others, why, "silent-channel"))
            used, used_CT, channels_CT = [used[n] for n in kept], used_CT[kept], channels_CT[kept]
        regions = padded(speech.regions, round(TRIM_PAD_SECONDS * sample_rate), channels_CT.shape[1])
        loud_CT = np.concatenate([channels_CT[:, begin:end] for begin, end in regions], axis=1)
        notes += _notes_on_speech(speech_seconds, seconds, vad == "trim")
    peak = float(np.abs(used_CT).max())
    if peak > _OVERSHOOT:
        text = f"samples reach {peak:.3g}, beyond full scale (1); used as they are"
        notes.append(CodedNote(text, "beyond-full-scale"))
    share = max(clipped_share(wav_T) for wav_T in used_CT)
    if share > _CLIP_SHARE:
        text = f"clipped: {100 * share:.2g} % of its samples are cut off; record at a lower level"
        if share >= _CLIP_COSTS:
            text += (
                ". With 3, 10 or 30 % on one side 1, 2 or 42 % of same-speaker pairs are rejected; "
                "on both sides 3, 10 or 22 % of strangers are accepted"
            )
        notes.append(CodedNote(text, "clipped", share >= _CLIP_COSTS))
    band = min(bandwidth(wav_T, sample_rate, own_rate) for wav_T in channels_CT)
    if band < NARROW_SHARE * sample_rate / 2:
        text = f"nothing above {band / 1000:.1f} kHz is in it, as from a telephone; the model expects"
        cost = (
            "against a full-band recording the score falls, and strangers on two such ones score higher; "
            "--band narrow compares both sides alike"
        )
        notes.append(CodedNote(f"{text} {sample_rate / 2000:g} kHz: {cost}", "narrow-band", True))
    elif band < LIMITED_SHARE * sample_rate / 2:
        text = f"nothing above {band / 1000:.1f} kHz is in it; the model expects {sample_rate / 2000:g} kHz"
        cost = (
            "with 5 to 6.5 kHz on one side 8 to 4 % of same-speaker pairs are rejected, on both sides "
            "4 to 5 % of strangers accepted; with --band narrow 4 % and 0.4 %"
        )
        notes.append(CodedNote(f"{text}: {cost}", "band-limited", True))
    if vad != "off":
        notes += _notes_on_level([frame_levels(wav_T, sample_rate) for wav_T in channels_CT])
    if vad == "trim":
        channels_CT = loud_CT
        if detector == "energy":
            text = "trimmed by energy alone: install farvox[vad] to keep only what is speech"
            notes.append(CodedNote(text, "trimmed-by-energy"))
    if channels_CT.shape[1] < min_samples:
        found = f"{channels_CT.shape[1] / sample_rate:.2f} s of {'speech' if vad == 'trim' else 'signal'}"
        raise TooShortError(f"{name}: {found}; this model needs {min_samples / sample_rate:.2f} s")
    channels_CT = np.ascontiguousarray(channels_CT)
    return Signal(
        name,
        channels_CT,
        tuple(used),
        len(wav_CT),
        own_rate,
        seconds,
        speech_seconds,
        detector,
        tuple(notes),
        most_speech,
    )


def _notes_on_speech(speech_seconds: float, seconds: float, is_trimmed: bool) -> list[CodedNote]:
    notes = []
    if speech_seconds < _SHORT_SECONDS:
        cost = "with less than 1 s, 22 to 92 % of same-speaker pairs are rejected"
        notes.append(CodedNote(f"{speech_seconds:.2f} s of speech: {cost}", "short-speech", True))
    if speech_seconds < _LITTLE_SHARE * seconds and not is_trimmed:
        text = f"{speech_seconds:.1f} of its {seconds:.1f} s are speech: what is none lowers the score;"
        notes.append(CodedNote(f"{text} --vad trim leaves it out", "little-speech", True))
    return notes


def _notes_on_level(level_CF: list[Levels]) -> list[CodedNote]:
    notes = []
    distance = max(loudest(level_F) - float(np.percentile(level_F, 10)) for level_F in level_CF)
    if distance < _NOISY_DB:
        text = f"its noise or reverberation lies only {distance:.0f} dB below the speech"
        cost = (
            "of near speech at a signal-to-noise ratio of 10 dB 6 % of same-speaker pairs are rejected, at "
            "5 dB 12 %; of far-field recordings as noisy half and more"
        )
        notes.append(CodedNote(f"{text}: {cost}", "noisy", True))
    if (level := max(map(loudest, level_CF))) < _FAINT_DB:
        text = f"its speech lies {-level:.0f} dB below full scale: record at a higher level"
        notes.append(CodedNote(text, "low-level", True))
    return notes


def still_true(notes: tuple[CodedNote, ...], conditioning: Conditioning) -> tuple[CodedNote, ...]:
    """The notes but for those of what conditioning mends before the model hears the recording.

    A narrow band remains a note, on what was done, which is not serious.
    """
    mended = {
        "little-speech": conditioning.longest_pause is not None,
        "low-level": conditioning.level is not None,
        "narrow-band": conditioning.band == "narrow",
        "band-limited": conditioning.band == "narrow",
    }
    below = CodedNote("nothing above 4 kHz is in it: both sides are compared below that", "narrow-band")
    told = (below if note.code == below.code and mended[note.code] else note for note in notes)
    return tuple(note for note in told if note is below or not mended.get(note.code))


def _from_array(name: str, audio: tuple[Any, ...]) -> tuple[Wave, int]:
    """Channels as float32 and the rate of an ``(array, rate)``."""
    if len(audio) != 2:
        raise AudioError(f"{name}: {len(audio)} things in a tuple; it is (array, rate)")
    try:
        wav = np.asarray(audio[0])
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a GPU, a ragged list
        raise AudioError(f"{name}: cannot be taken as an array: {error}") from None
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
    wav_CT = np.atleast_2d(scaled(name, wav))
    if not np.isfinite(wav_CT).all():
        raise AudioError(f"{name}: holds samples that are not finite (NaN or infinite)")
    rate = audio[1]
    try:
        if isinstance(rate, bool | np.bool_):
            raise TypeError
        return wav_CT, int(rate) if isinstance(rate, float) and rate.is_integer() else operator.index(rate)
    except TypeError:
        raise AudioError(f"{name}: the rate is {rate!r}; it is a whole number of Hz") from None


def scaled(name: str, wav: NDArray[Any]) -> Wave:
    """Samples as float32, integers by their full range; values beyond float32 become infinite.

    Raises:
        AudioError: they are neither floats nor int16 or int32. The message begins with ``name``.
    """
    if wav.dtype in _FULL_SCALE:
        wav = wav / _FULL_SCALE[wav.dtype]
    elif wav.dtype.kind != "f":
        raise AudioError(f"{name}: samples of type {wav.dtype}; they are floats in [-1, 1], int16 or int32")
    with np.errstate(over="ignore"):
        return wav.astype(np.float32)


def _used_channels(name: str, wav_CT: Wave, rate: int, channel: Channel) -> tuple[list[int], list[CodedNote]]:
    """The channels that hold a signal, each once, or the one that is asked for; and notes on the others."""
    asked = [channel] if isinstance(channel, int) else list(range(len(wav_CT)))
    used = [number for number in asked if loud_level(wav_CT[number], rate) >= SILENCE_DB]
    if not used:
        raise NoSpeechError(f"{name}: silence: nothing in it is louder than {SILENCE_DB:g} dB of full scale")
    notes = []
    if len(used) < len(asked):
        silent = [number for number in asked if number not in used]
        notes.append(_left_out(wav_CT, silent, "as silent", "silent-channel"))
    if len(used) > 1 and all(np.array_equal(wav_CT[used[0]], wav_CT[number]) for number in used[1:]):
        notes.append(
            CodedNote(f"{len(used)} channels are one and the same; it is used once", "same-channels")
        )
        used = used[:1]
    return used, notes


def _left_out(wav_CT: Wave, channels: Sequence[int], why: str, code: str) -> CodedNote:
    numbers = ", ".join(map(str, channels))
    return CodedNote(f"{len(wav_CT)} channels: left out {why}: {numbers} (counted from 0)", code)


def clipped_share(wav_T: Wave) -> float:
    """Share of the samples that are in runs of three or more at the highest or the lowest value.

    A clipped signal stays at one value while it would have gone beyond; any other touches its highest value
    once. speechocean762, AN4 and noise_esc10 have no such run. Amplified by 12 dB and cut at full scale,
    98.7 % of the utterances that exceed it by 3.5 dB have one. A signal below 1 % of full scale is not looked
    at: so few steps of 16 bits repeat on their own. Lossy codecs hide the runs.
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
