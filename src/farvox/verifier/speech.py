"""Where a recording holds speech: by its energy alone, or by silero-vad where that is installed.

The energy gate looks at frames of 25 ms every 10 ms, the mean of each taken off. The loud level of a
recording is the level that its loudest 0.1 s reach, so that a click does not set it. A recording whose
loud level is below `SILENCE_DB` is silence. Of any other, the frames within `LOUDNESS_RANGE_DB` of the loud
level and above `SILENCE_DB` are taken for speech. The gate cannot tell speech from other sounds.

silero-vad is a small recurrent network (Silero Team, https://github.com/snakers4/silero-vad). Its package
imports torch, so only the ONNX file in it is used, with onnxruntime, one thread. It hears a copy at 16 kHz
whose mean is taken off and whose loud level is brought to `HEARD_AT_DB`: it misses speech that is faint.

Of several channels the one with the most speech decides: a dead or noisy microphone in an array must not.

Shape suffixes: C channel, T sample, F frame or window.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from farvox.io.audio import resample

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Wave = NDArray[np.float32]
Floats = NDArray[np.float64]
Region = tuple[int, int]

SILENCE_DB = -75.0  # of full scale
LOUDNESS_RANGE_DB = 30.0
HEARD_AT_DB = -20.0  # of full scale
_LOUD_FRAMES = 10  # 0.1 s
_ENTER, _STAY = 0.5, 0.35  # silero's probability where speech begins, and above which it goes on
_GAP_SECONDS = 0.1  # a pause shorter than this belongs to the speech around it
_WINDOW, _CONTEXT, _RATE = 512, 64, 16000  # what silero's network is fed with
_FILES = ("silero_vad_16k_op15.onnx", "silero_vad.onnx")  # the first opens in half the time


@dataclass(frozen=True, slots=True)
class Speech:
    """The speech found in a recording.

    Attributes:
        detector: what found it: "energy", or "silero-vad" with its version.
        seconds: how much was found.
        regions: (first, last + 1) samples of the stretches of speech, in order and apart.
    """

    detector: str
    seconds: float
    regions: tuple[Region, ...]


def find_speech(wav_CT: Wave, sample_rate: int) -> Speech:
    """Find speech with the best detector that is installed.

    Args:
        wav_CT: samples in [-1, 1]; the channel with the most speech counts.
        sample_rate: Hz.
    """
    return find_by_energy(wav_CT, sample_rate) if silero() is None else find_by_silero(wav_CT, sample_rate)


def find_by_energy(wav_CT: Wave, sample_rate: int) -> Speech:
    """Find what is loud enough to be speech; see the head of the module for the rule.

    Args:
        wav_CT: samples in [-1, 1]; the channel with the most of it counts.
        sample_rate: Hz.
    """
    window, hop = _frame_sizes(sample_rate)
    best: list[Region] = []
    for wav_T in wav_CT:
        level_F = frame_levels(wav_T, sample_rate)
        floor = max(SILENCE_DB, _loud(level_F) - LOUDNESS_RANGE_DB)
        frames = _runs(level_F >= floor)
        regions = [(begin * hop, (end - 1) * hop + window) for begin, end in frames]
        best = max(best, _joined(regions, 0), key=_length)
    return _speech("energy", best, sample_rate)


def find_by_silero(wav_CT: Wave, sample_rate: int) -> Speech:
    """Find speech with silero-vad.

    Args:
        wav_CT: samples in [-1, 1]; the channel with the most speech counts.
        sample_rate: Hz.
    """
    detector = silero()
    assert detector is not None
    heard_CT = resample(np.stack([_heard(wav_T, sample_rate) for wav_T in wav_CT]), sample_rate, _RATE)
    best: list[Region] = []
    for probability_F in detector.probabilities(heard_CT):
        windows = _hysteresis(probability_F)
        scale = _WINDOW * sample_rate / _RATE
        regions = [(round(begin * scale), min(round(end * scale), wav_CT.shape[1])) for begin, end in windows]
        best = max(best, _joined(regions, round(_GAP_SECONDS * sample_rate)), key=_length)
    return _speech(detector.name, best, sample_rate)


def padded(regions: tuple[Region, ...], pad: int, num_samples: int) -> tuple[Region, ...]:
    """Regions grown by ``pad`` samples at both ends, joined where they meet, inside the recording."""
    grown = [(max(0, begin - pad), min(num_samples, end + pad)) for begin, end in regions]
    return tuple(_joined(grown, 0))


def loud_level(wav_T: Wave, sample_rate: int) -> float:
    """The level that the loudest 0.1 s reach, dB of full scale (a square wave at full scale has 0)."""
    return _loud(frame_levels(wav_T, sample_rate))


def frame_levels(wav_T: Wave, sample_rate: int) -> Floats:
    """Level of each frame without its mean, dB of full scale; at least one frame, at least -200 dB."""
    window, hop = _frame_sizes(sample_rate)
    wide_T = np.asarray(wav_T, np.float64) - np.mean(wav_T, dtype=np.float64)
    wide_T = np.pad(wide_T, (0, max(0, window - len(wide_T))))
    frames_FT = np.lib.stride_tricks.sliding_window_view(wide_T, window)[::hop]
    power_F = np.concatenate([part_FT.var(axis=1) for part_FT in _blocks(frames_FT)])
    return np.asarray(10 * np.log10(np.maximum(power_F, 1e-20)))


class Silero:
    """The network of silero-vad, opened once.

    Args:
        path: its ONNX file.
        name: what it is called in results.
    """

    def __init__(self, path: Path, name: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.name = name
        self._session: InferenceSession = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def probabilities(self, wav_CT: Wave) -> NDArray[np.float32]:
        """Probability of speech in each window of 32 ms, [C, F].

        The network reads 512 samples at a time after the last 64 of the window before, and carries a
        state from one to the next; the last window is filled up with zeros.

        Args:
            wav_CT: samples at 16 kHz.
        """
        num_channels, num_samples = wav_CT.shape
        num_windows = -(-num_samples // _WINDOW)
        wav_CT = np.pad(wav_CT, ((0, 0), (_CONTEXT, num_windows * _WINDOW - num_samples)))
        state: Any = np.zeros((2, num_channels, 128), np.float32)
        rate = np.array(_RATE, np.int64)
        columns = []
        for begin in range(0, num_windows * _WINDOW, _WINDOW):
            window_CT = np.ascontiguousarray(wav_CT[:, begin : begin + _CONTEXT + _WINDOW])
            column, state = self._session.run(None, {"input": window_CT, "state": state, "sr": rate})
            columns.append(column)
        return np.concatenate(columns, axis=1)


@cache
def silero() -> Silero | None:
    """silero-vad, opened on first use; None where it or onnxruntime is not installed."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or importlib.util.find_spec("onnxruntime") is None:
        return None
    folders = [Path(folder) / "data" for folder in spec.submodule_search_locations or ()]
    for path in (folder / name for name in _FILES for folder in folders):
        if path.is_file():
            return Silero(path, f"silero-vad {version('silero-vad')}")
    return None


def _frame_sizes(sample_rate: int) -> tuple[int, int]:
    return max(1, round(0.025 * sample_rate)), max(1, round(0.010 * sample_rate))


def _blocks(frames_FT: Floats) -> list[Floats]:
    """Parts of a view, so that no copy of a long recording is made."""
    return [frames_FT[begin : begin + 4096] for begin in range(0, len(frames_FT), 4096)]


def _loud(level_F: Floats) -> float:
    return float(np.sort(level_F)[-min(_LOUD_FRAMES, len(level_F))])


def _heard(wav_T: Wave, sample_rate: int) -> Wave:
    gain = 10 ** ((HEARD_AT_DB - max(loud_level(wav_T, sample_rate), SILENCE_DB)) / 20)
    heard_T: Wave = np.clip(gain * (wav_T - np.mean(wav_T, dtype=np.float64)), -1, 1).astype(np.float32)
    return heard_T


def _hysteresis(probability_F: NDArray[np.float32]) -> list[Region]:
    """Runs of windows above `_STAY` of which one is above `_ENTER`."""
    runs = _runs(probability_F >= _STAY)
    return [(begin, end) for begin, end in runs if probability_F[begin:end].max() >= _ENTER]


def _runs(is_in_F: NDArray[np.bool_]) -> list[Region]:
    """(first, last + 1) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_in_F, [False]))))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _joined(regions: list[Region], gap: int) -> list[Region]:
    """Regions in order, those that overlap or are at most ``gap`` samples apart made one."""
    joined: list[Region] = []
    for begin, end in regions:
        if joined and begin - joined[-1][1] <= gap:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _length(regions: list[Region]) -> int:
    return sum(end - begin for begin, end in regions)


def _speech(detector: str, regions: list[Region], sample_rate: int) -> Speech:
    return Speech(detector, _length(regions) / sample_rate, tuple(regions))
