"""The front-end of a model, as its ``config.json`` holds it: how samples become features.

Kaldi-style toolkits differ in details that change embeddings (WeSpeaker multiplies samples by 32768,
3D-Speaker leaves them in [-1, 1]), so the front-end belongs to the model, and every command takes it
from there. The modules that compute the features are in `farvox.features.fbank`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from farvox.errors import AudioError, ModelError, UsageError
from farvox.options import Above, AtLeast, AtMost, Options, from_table

FrontEndKind = Literal["kaldi-fbank", "ffsvc-mel", "speechbrain-fbank", "waveform"]
KINDS: tuple[str, ...] = get_args(FrontEndKind)

_KALDI_ONLY = ("sample_scale", "dither", "window", "preemphasis", "low_freq", "high_freq")


@dataclass(frozen=True, kw_only=True)
class FrontEndConfig(Options):
    """A front-end, in full.

    Raises:
        UsageError: a value is out of range, or is set although the kind has no use for it.
    """

    kind: FrontEndKind = "kaldi-fbank"
    """Kaldi's log-mel filterbank, the FFSVC2022 baseline's log-mel spectrogram, SpeechBrain's filterbank in
    decibels, or the samples themselves (for WavLM); the last three fix all but ``num_mels`` and ``mean``."""
    sample_rate: Annotated[int, AtLeast(1000), AtMost(768_000)] = 16000
    """Hz."""
    num_mels: Annotated[int, AtLeast(1), AtMost(8192)] = 80
    """Filters, and so features per frame; of a waveform, samples per frame (160: 10 ms)."""
    sample_scale: Annotated[float, Above(0)] = 32768.0
    """Factor by which samples in [-1, 1] are multiplied first."""
    dither: Annotated[float, AtLeast(0)] = 0.0
    """Standard deviation of the noise added to the scaled samples; 0 for none."""
    window: Literal["povey", "hamming", "hann"] = "povey"
    """Window of a frame."""
    mean: Literal["utterance", "none"] = "utterance"
    """``utterance`` subtracts each filter's mean over time (and brings a waveform to zero mean and unit
    variance), ``none`` leaves it."""
    preemphasis: Annotated[float, AtLeast(0), AtMost(1)] = 0.97
    """Coefficient of the pre-emphasis; 0 for none."""
    low_freq: float = 20.0
    """Lower edge of the lowest filter in Hz."""
    high_freq: float = 0.0
    """Upper edge of the highest filter in Hz; 0 or below counts back from Nyquist."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "kaldi-fbank":
            if not 0 <= self.low_freq < self.top_freq <= self.sample_rate / 2:
                raise UsageError(
                    f"the mel filters need 0 <= low_freq < high_freq <= {self.sample_rate / 2:g} Hz, "
                    f"not low_freq {self.low_freq:g} and high_freq {self.high_freq:g}"
                )
            return
        if self.sample_rate != 16000:
            raise UsageError(f"{self.kind} is defined at 16000 Hz, not {self.sample_rate}")
        for field in fields(self):
            if field.name in _KALDI_ONLY and getattr(self, field.name) != field.default:
                raise UsageError(
                    f"{self.kind} has no {field.name} (all but num_mels and mean is fixed); leave it out, or "
                    "use kind kaldi-fbank"
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

    def num_samples_for(self, num_frames: int) -> int:
        """Samples that give exactly ``num_frames`` frames (the smallest such number)."""
        overhang = self.frame_length if self._has_whole_frames else 0
        return max(1, (num_frames - 1) * self.frame_shift + overhang)

    @property
    def _has_whole_frames(self) -> bool:
        """Frames end where the samples do; others are centred and reach beyond the edges."""
        return self.kind in ("kaldi-fbank", "waveform")

    def refuse_too_short(self, num_samples: int) -> None:
        """Refuse a waveform that has no frame, with an `AudioError`."""
        if num_samples < self.min_samples:
            raise AudioError(
                f"{num_samples} samples are too few for one frame of features: {self.min_samples} are needed"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields that this kind uses, ready for JSON."""
        unused = () if self.kind == "kaldi-fbank" else _KALDI_ONLY
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in unused}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FrontEndConfig:
        """Inverse of `to_dict`; absent fields take their defaults.

        Raises:
            ModelError: a key is unknown (the nearest known name is given) or a value is refused.
        """
        return from_table(cls, values, "front-end", ModelError)
