"""Conditioning: what is done to a recording before a model hears it, as the model's card declares it.

A network scores recordings like those that it was trained on: cut to speech, at a usual level, of the full
band. What differs is brought there, in this order:

1. ``band = "narrow"``: to 8 kHz and back, so that nothing above 4 kHz is left of either side.
2. ``longest_pause``: longer stretches without speech are shortened to it, half of it stays at either end.
   ``detector`` names the rule by which a frame (25 ms every 10 ms, without its mean) is speech: `is_speech`.
3. ``level``: a gain brings the loud level, that of the loudest 0.1 s, to it.

Shape suffixes: T sample, F frame.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from farvox.audio.files import Wave, resample
from farvox.audio.levels import SILENCE_DB, Levels, frame_levels, frame_sizes, loudest
from farvox.audio.speech import joined, runs
from farvox.errors import AudioError, ModelError

Band = Literal["full", "narrow"]
DETECTOR = "energy/1"
NARROW_RATE = 8000  # Hz
_RANGE_DB = 30.0  # below the loud level begins what is no speech
_STEADY_FRAMES, _STEADY_STEP = 100, 25  # 1 s, every 0.25 s
_STEADY_DB, _BELOW_DB = 4.0, 6.0  # least range of the levels of 1 s of speech; distance from the loud level


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Changes that are made to a waveform; the default makes none.

    Attributes:
        detector: the rule that finds speech; only `DETECTOR` is known.
        longest_pause: in seconds; None leaves every pause.
        level: of the loudest 0.1 s, dB of full scale; None leaves the level.
        band: "narrow" leaves nothing above 4 kHz.
    """

    detector: str = DETECTOR
    longest_pause: float | None = None
    level: float | None = None
    band: Band = "full"

    def __bool__(self) -> bool:
        return self != Conditioning()

    @classmethod
    def from_dict(cls, values: object, where: str) -> Conditioning:
        """The conditioning of a table of fields, as JSON has it.

        Raises:
            ModelError: a field or value is unknown, so that this farvox would compute other embeddings.
        """
        try:
            if not isinstance(values, Mapping):
                raise TypeError("it is not a table of fields")
            found = cls(**values)
            if found.detector != DETECTOR or found.band not in get_args(Band):
                raise ValueError(f"detector {found.detector!r}, band {found.band!r}")
            for value, least, most in ((found.longest_pause, 0.1, 60.0), (found.level, -60.0, 0.0)):
                if value is not None and not (type(value) in (int, float) and least <= value <= most):
                    raise ValueError(f"{value!r} is not from {least:g} to {most:g}")
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"{where}: conditioning that this farvox does not know ({error}): update farvox"
            ) from None
        return found

    def digest(self, model_digest: str) -> str:
        """The digest of a model whose input is conditioned so; that of the model where nothing is done."""
        if not self:
            return model_digest
        described = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(f"{model_digest} {described}".encode()).hexdigest()

    def apply(self, wav_T: Wave, sample_rate: int) -> Wave:
        """Condition float32 samples; a recording in which no speech is found keeps its pauses.

        Raises:
            AudioError: they are of several channels, or of whole numbers.
        """
        if wav_T.ndim != 1 or wav_T.dtype.kind != "f":
            given = f"{wav_T.dtype} {list(wav_T.shape)}"
            raise AudioError(f"samples are {given}; a model embeds one channel, [T], of floats in [-1, 1]")
        if self.band == "narrow" and sample_rate > NARROW_RATE:
            narrow_T = resample(resample(wav_T, sample_rate, NARROW_RATE), NARROW_RATE, sample_rate)
            wav_T = np.pad(narrow_T, (0, max(0, len(wav_T) - len(narrow_T))))[: len(wav_T)]
        if (self.longest_pause is None and self.level is None) or not len(wav_T):
            return wav_T
        level_F = frame_levels(wav_T, sample_rate)
        loud = loudest(level_F)
        if self.longest_pause is not None:
            wav_T = _shortened(wav_T, is_speech(level_F), sample_rate, self.longest_pause)
        if self.level is not None and loud >= SILENCE_DB:
            wav_T = wav_T * np.float32(10 ** ((self.level - loud) / 20))
        return wav_T


def is_speech(level_F: Levels) -> NDArray[np.bool_]:
    """The frames that may be speech, by the rule "energy/1".

    They are at most 30 dB below the loudest 0.1 s, and not in a second of steady sound: one in which the
    levels of the frames have a range (5 to 95 %) below 4 dB and stay 6 dB below the loudest 0.1 s. Such is
    hiss, whatever its level; speech has a range of 9.7 dB at least, also in white noise at 5 dB.
    """
    loud = loudest(level_F)
    speech_F = level_F >= loud - _RANGE_DB
    if len(level_F) >= _STEADY_FRAMES:
        seconds_NF = np.lib.stride_tricks.sliding_window_view(level_F, _STEADY_FRAMES)[::_STEADY_STEP]
        lowest_N, highest_N = np.percentile(seconds_NF, (5, 95), axis=1)
        steady_N = (highest_N - lowest_N < _STEADY_DB) & (highest_N < loud - _BELOW_DB)
        for n in np.flatnonzero(steady_N).tolist():
            speech_F[n * _STEADY_STEP : n * _STEADY_STEP + _STEADY_FRAMES] = False
    return speech_F


def _shortened(wav_T: Wave, speech_F: NDArray[np.bool_], sample_rate: int, longest_pause: float) -> Wave:
    (window, hop), pad = frame_sizes(sample_rate), round(longest_pause * sample_rate / 2)
    grown = [
        (max(0, begin * hop - pad), min(len(wav_T), (end - 1) * hop + window + pad))
        for begin, end in runs(speech_F)
    ]
    kept = joined(grown, 0)
    if not kept or kept == [(0, len(wav_T))]:
        return wav_T
    return np.concatenate([wav_T[begin:end] for begin, end in kept])
