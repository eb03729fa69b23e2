"""Which features a model hears: the part of its ``config.json`` that turns samples into a front-end.

Kaldi-style toolkits differ in details that change embeddings (WeSpeaker multiplies samples by 32768,
3D-Speaker leaves them in [-1, 1]), so the front-end belongs to the model, and every command takes it
from there.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from farvox.errors import AudioError, ModelError

if TYPE_CHECKING:
    from torch import nn

KINDS = ("kaldi-fbank", "ffsvc-mel", "speechbrain-fbank", "waveform")
WINDOWS = ("povey", "hamming", "hann")
MEANS = ("utterance", "none")

_KALDI_ONLY = ("sample_scale", "dither", "window", "preemphasis", "low_freq", "high_freq")


@dataclass(frozen=True, slots=True)
class FrontEndConfig:
    """A front-end, in full.

    Attributes:
        kind: "kaldi-fbank" (Kaldi's log-mel filterbank), "ffsvc-mel" (the FFSVC2022 baseline's log-mel
            spectrogram), "speechbrain-fbank" (SpeechBrain's filterbank in decibels) or "waveform" (the
            samples themselves, for WavLM); the last three fix all but the number of mels and the mean rule.
        sample_rate: in Hz.
        num_mels: filters, and so features per frame; of a waveform, samples per frame (160: 10 ms).
        sample_scale: what samples in [-1, 1] are multiplied by first.
        dither: standard deviation of the noise added to the scaled samples; 0 for none.
        window: "povey", "hamming" or "hann".
        mean: "utterance" subtracts each filter's mean over time (and brings a waveform to zero mean and unit
            variance), "none" leaves it.
        preemphasis: coefficient of the pre-emphasis; 0 for none.
        low_freq: lower edge of the lowest filter in Hz.
        high_freq: upper edge of the highest filter in Hz; 0 or below counts back from Nyquist.

    Raises:
        ModelError: a value is out of range, or is set although the kind has no use for it.
    """

    kind: str = "kaldi-fbank"
    sample_rate: int = 16000
    num_mels: int = 80
    sample_scale: float = 32768.0
    dither: float = 0.0
    window: str = "povey"
    mean: str = "utterance"
    preemphasis: float = 0.97
    low_freq: float = 20.0
    high_freq: float = 0.0

    def __post_init__(self) -> None:
        self._check_choice("kind", KINDS)
        self._check_choice("window", WINDOWS)
        self._check_choice("mean", MEANS)
        self._check_numbers()
        if self.kind != "kaldi-fbank":
            self._check_fixed()
        elif not 0 <= self.low_freq < self.top_freq <= self.sample_rate / 2:
            raise ModelError(
                f"front-end: the mel filters need 0 <= low_freq < high_freq <= {self.sample_rate / 2:g} Hz, "
                f"not low_freq {self.low_freq:g} and high_freq {self.high_freq:g}"
            )

    @property
    def frame_length(self) -> int:
        """Samples in a frame (25 ms; of a waveform, ``num_mels``)."""
        return self.num_mels if self.kind == "waveform" else self.sample_rate * 25 // 1000

    @property
    def frame_shift(self) -> int:
        """Samples from one frame to the next (10 ms; of a waveform, ``num_mels``)."""
        return self.num_mels if self.kind == "waveform" else self.sample_rate // 100

    @property
    def top_freq(self) -> float:
        """Upper edge of the highest filter in Hz, with ``high_freq <= 0`` counted from Nyquist."""
        return self.high_freq if self.high_freq > 0 else self.sample_rate / 2 + self.high_freq

    @property
    def min_samples(self) -> int:
        """Samples in the shortest waveform that has features."""
        if self.kind == "speechbrain-fbank":
            return 1
        return self.frame_length if self._has_whole_frames else 257

    def refuse_too_short(self, num_samples: int) -> None:
        """What every front-end says of a waveform that has no frame.

        Raises:
            AudioError: fewer than `min_samples`.
        """
        if num_samples < self.min_samples:
            raise AudioError(
                f"{num_samples} samples are too few for one frame of features: {self.min_samples} are needed"
            )

    def num_samples_for(self, num_frames: int) -> int:
        """Samples that give exactly ``num_frames`` frames (the smallest such number)."""
        overhang = self.frame_length if self._has_whole_frames else 0
        return max(1, (num_frames - 1) * self.frame_shift + overhang)

    def num_frames_for(self, num_samples: int) -> int:
        """Frames that ``num_samples`` samples give; 0 when there are too few for one."""
        if num_samples < self.min_samples:
            return 0
        overhang = self.frame_length if self._has_whole_frames else 0
        return 1 + (num_samples - overhang) // self.frame_shift

    @property
    def _has_whole_frames(self) -> bool:
        """Whether the frames end where the samples do; others are centred and reach beyond the edges."""
        return self.kind in ("kaldi-fbank", "waveform")

    def to_dict(self) -> dict[str, Any]:
        """The fields this kind uses, ready for JSON."""
        unused = () if self.kind == "kaldi-fbank" else _KALDI_ONLY
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in unused}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FrontEndConfig:
        """Inverse of `to_dict`; absent fields take their defaults.

        Raises:
            ModelError: a key is unknown (the nearest known name is given) or a value is refused.
        """
        known = {field.name: field for field in fields(cls)}
        for key in values:
            if key not in known:
                raise ModelError(f"front-end: unknown key {key!r}{_nearest(key, list(known))}")
        return cls(**{key: _cast(key, value, known[key].default) for key, value in values.items()})

    def _check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise ModelError(
                f"front-end: {name} is {value!r}{_nearest(str(value), list(allowed))}; "
                f"choose from {', '.join(allowed)}"
            )

    def _check_numbers(self) -> None:
        for name, lowest in (("sample_rate", 1000), ("num_mels", 1), ("dither", 0), ("preemphasis", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= lowest):
                raise ModelError(f"front-end: {name} is {value!r}; it must be at least {lowest}")
        if not (math.isfinite(self.sample_scale) and self.sample_scale > 0):
            raise ModelError(f"front-end: sample_scale is {self.sample_scale!r}; it must be positive")
        if self.preemphasis > 1:
            raise ModelError(f"front-end: preemphasis is {self.preemphasis!r}; it must be in [0, 1]")
        if not (math.isfinite(self.low_freq) and math.isfinite(self.high_freq)):
            raise ModelError("front-end: low_freq and high_freq must be finite")

    def _check_fixed(self) -> None:
        if self.sample_rate != 16000:
            raise ModelError(f"front-end: {self.kind} is defined at 16000 Hz, not {self.sample_rate}")
        for field in fields(self):
            if field.name in _KALDI_ONLY and getattr(self, field.name) != field.default:
                raise ModelError(
                    f"front-end: {self.kind} has no {field.name} (all but num_mels and mean is fixed); "
                    f"leave it out, or use kind kaldi-fbank"
                )


def build_frontend(config: FrontEndConfig, *, exact: bool = True) -> nn.Module:
    """The module that computes the features.

    Args:
        config: what they are.
        exact: let Kaldi's features agree with Kaldi's own roundings in filters that hold next to nothing.
            Training does without: at a speed below 1 every frame has such filters.

    Returns:
        a module without parameters and with an empty state dict: wav_BT (samples in [-1, 1], all of one
        length) -> feats_BFM float32 (B utterance, F frame, M mel, or sample of a frame).
    """
    from farvox.features.fbank import FfsvcMel, KaldiFbank, SpeechBrainFbank
    from farvox.features.waveform import Waveform

    kinds: dict[str, Callable[[FrontEndConfig], nn.Module]] = {
        "kaldi-fbank": partial(KaldiFbank, exact=exact),
        "ffsvc-mel": FfsvcMel,
        "speechbrain-fbank": SpeechBrainFbank,
        "waveform": Waveform,
    }
    return kinds[config.kind](config)


def _nearest(word: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _cast(key: str, value: Any, default: Any) -> Any:
    """``value`` as the type of the field's default: JSON and TOML write 32768.0 as 32768 at will."""
    if default is MISSING or (isinstance(value, type(default)) and not isinstance(value, bool)):
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise ModelError(f"front-end: {key} is {value!r}; expected {type(default).__name__}")
