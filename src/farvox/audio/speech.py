"""Detection of speech in a recording: by energy alone, or by silero-vad where that is installed.

The energy gate looks at frames of 25 ms every 10 ms, each without its mean. The loud level of a recording is
that of its loudest 0.1 s, so that a click does not set it. A recording whose loud level is below `SILENCE_DB`
is silence. In any other, the frames within 30 dB of the loud level (40 dB where 30 give less than
`ENOUGH_SECONDS`) count as speech. The gate does not distinguish speech from other sounds.

silero-vad is a small recurrent network (Silero Team, https://github.com/snakers4/silero-vad). Its package
imports torch, so only the ONNX file in it is used, with onnxruntime, one thread. It is given a copy at 16 kHz
without its mean and with its loud level at `SILERO_DB`, because it misses faint speech; and 0.3 s of zeros
before a recording of less than 1 s, because it misses the beginning of speech. Speech begins at a probability
of 0.5 and goes on above 0.35. Where that gives less than `ENOUGH_SECONDS`, 0.07 and 0.035 are tried, because
reverberation and noise lower the probability of true speech that far.

Neither refuses any of the 2500 utterances of speechocean762 (speakers 1-100 of 125 chose the thresholds)
and the 948 of AN4, unchanged, at 30 dB less, in measured rooms (rirs_gtu) with noise_esc10 at 5-10 dB,
or both. Of the 160 files of noise_esc10 and music_sonicpi silero-vad refuses 108, the energy gate none.

A recording of 1 s or more whose level does not move, as that of hiss or hum, holds no speech: between the
quietest tenth and the loudest twentieth of its frames lie less than 4 dB. Of 400 utterances of speechocean762
in white noise at 5 dB the least range is 9.7 dB; hiss has 1.3 dB at most.

Of several channels the one with the most speech decides, not a dead or noisy microphone in an array: that
whose length found, times the square of `spectral_change`, is greatest. Another holds speech, too, if the
detector finds as much in it as a recording needs, its level moves, and that follows the level of the first
(correlation 0.3; of speech in white noise at 0 dB with itself 0.5 at least) or its spectrum changes as that
of another voice: by 4 dB, and 0.6 of the change in the first. Speech has 5.5 to 7.9 dB; hum, clicks, crackle
and bursts of noise have 3 dB at most, music 1.9 to 9 dB, and without silero-vad cries of animals pass for
speech. The verifier leaves out a channel that does not score as the first does.

Shape suffixes: C channel, T sample, F frame or window.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from farvox.audio.files import Wave, resample
from farvox.audio.levels import SILENCE_DB, Levels, frame_levels, frame_sizes, loudest
from farvox.errors import MissingExtraError
from farvox.machine import is_installed

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Probabilities = NDArray[np.float32]
Region = tuple[int, int]

ENOUGH_SECONDS = 0.3  # of speech
SILERO_DB = -20.0  # of full scale
_RANGES_DB = (30.0, 40.0)  # below the loud level; the second where the first finds too little
_THRESHOLDS = ((0.5, 0.35), (0.07, 0.035))  # silero's probability where speech begins, and where it goes on
_LEAST_RANGE_DB, _LEAST_CORRELATION = 4.0, 0.3  # of the levels of a channel with speech
_LEAST_CHANGE_DB = 4.0  # of the spectrum of another voice
_CHANGE_SHARE = 0.6  # of the change in the channel with the most speech
_EDGES = (100, 200, 300, 400, 510, 630, 770, 920, 1080, 1270, 1480, 1720, 2000, 2320, 2700, 3150, 3700)
"""Edges of the critical bands of hearing, Hz (Zwicker, J. Acoust. Soc. Am. 33, 248, 1961)."""
_LAG_FRAMES = 10  # 0.1 s
_STEADY_SECONDS = 1.0
_GAP_SECONDS = 0.1  # a pause shorter than this belongs to the speech around it
_WINDOW, _CONTEXT, _RATE = 512, 64, 16000  # samples and Hz of the input of silero's network
_WARM_UP, _SHORT_SECONDS = 10, 1.0  # windows of zeros; of longer recordings, they would let noise pass
_FILES = ("silero_vad_16k_op15.onnx", "silero_vad.onnx")  # the first opens in half the time


@dataclass(frozen=True, slots=True)
class Speech:
    """The speech found in a recording."""

    detector: str  # "energy", or "silero-vad" with its version
    seconds: float  # of all of it
    regions: tuple[Region, ...]  # (first, last + 1) samples of the stretches of speech, in order and apart
    channels: tuple[int, ...]  # those that hold speech
    most: int  # the one with the most


def find_speech(wav_CT: Wave, sample_rate: int) -> Speech:
    """Find speech in samples in [-1, 1] with the best detector that is installed."""
    return find_by_energy(wav_CT, sample_rate) if silero() is None else find_by_silero(wav_CT, sample_rate)


def find_by_energy(wav_CT: Wave, sample_rate: int) -> Speech:
    """Find sound that is loud enough for speech; the rule is at the top of the module."""
    (window, hop), gap = frame_sizes(sample_rate), round(_GAP_SECONDS * sample_rate)
    level_CF = [frame_levels(wav_T, sample_rate) for wav_T in wav_CT]

    def loud_regions(level_F: Levels, range_db: float) -> list[Region]:
        loud = loudest(level_F)
        frames = runs(level_F >= loud - range_db) if loud >= SILENCE_DB else []
        return joined([(begin * hop, (end - 1) * hop + window) for begin, end in frames], gap)

    tries = ([loud_regions(level_F, range_db) for level_F in level_CF] for range_db in _RANGES_DB)
    return _speech("energy", tries, wav_CT, level_CF, sample_rate)


def find_by_silero(wav_CT: Wave, sample_rate: int) -> Speech:
    """Find speech with silero-vad; the rule is at the top of the module.

    Raises:
        MissingExtraError: silero-vad or onnxruntime is not installed.
    """
    detector = silero()
    if detector is None:
        raise MissingExtraError("silero-vad is not installed: pip install 'farvox[vad]'")
    scaled, level_CF = [], [frame_levels(wav_T, sample_rate) for wav_T in wav_CT]
    for wav_T, level_F in zip(wav_CT, level_CF, strict=True):
        gain = 10 ** ((SILERO_DB - max(loudest(level_F), SILENCE_DB)) / 20)
        scaled.append(np.clip(gain * (wav_T - np.mean(wav_T, dtype=np.float64)), -1, 1).astype(np.float32))
    input_CT = resample(np.stack(scaled), sample_rate, _RATE)
    zeros = _WARM_UP if input_CT.shape[1] < _SHORT_SECONDS * _RATE else 0
    input_CT = np.pad(input_CT, ((0, 0), (zeros * _WINDOW, 0)))
    probability_CF = detector.probabilities(input_CT)[:, zeros:]
    window, gap = _WINDOW * sample_rate / _RATE, round(_GAP_SECONDS * sample_rate)

    def likely_regions(probability_F: Probabilities, enter: float, stay: float) -> list[Region]:
        stretches = runs(probability_F >= stay)
        likely = [(begin, end) for begin, end in stretches if probability_F[begin:end].max() >= enter]
        return joined([(round(begin * window), round(end * window)) for begin, end in likely], gap)

    tries = ([likely_regions(chance_F, *each) for chance_F in probability_CF] for each in _THRESHOLDS)
    return _speech(detector.name, tries, wav_CT, level_CF, sample_rate)


def padded(regions: tuple[Region, ...], pad: int, num_samples: int) -> tuple[Region, ...]:
    """Regions grown by ``pad`` samples at both ends, joined where they meet, inside the recording."""
    grown = [(max(0, begin - pad), min(num_samples, end + pad)) for begin, end in regions]
    return tuple(joined(grown, 0))


class Silero:
    """The network of silero-vad, opened once; ``name`` is that of the detector in results."""

    def __init__(self, path: Path, name: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.name = name
        cpu = ["CPUExecutionProvider"]
        self._session: InferenceSession = onnxruntime.InferenceSession(path, options, providers=cpu)

    def probabilities(self, wav_CT: Wave) -> Probabilities:
        """Probability of speech in each window of 32 ms at 16 kHz, [C, F].

        The network reads 512 samples at a time after the last 64 of the window before, and carries a
        state from one to the next; the last window is filled up with zeros.
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
    """Open silero-vad on first use; None where it or onnxruntime is not installed."""
    if not (is_installed("silero_vad") and is_installed("onnxruntime")):
        return None
    spec = importlib.util.find_spec("silero_vad")
    folders = [Path(folder) / "data" for folder in (spec and spec.submodule_search_locations) or ()]
    for path in (folder / name for name in _FILES for folder in folders):
        if path.is_file():
            return Silero(path, f"silero-vad {version('silero-vad')}")
    return None


def runs(is_in_F: NDArray[np.bool_]) -> list[Region]:
    """(first, last + 1) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_in_F, [False]))))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def joined(regions: list[Region], gap: int) -> list[Region]:
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


def spectral_change(wav_T: Wave, sample_rate: int, level_F: Levels) -> float:
    """Mean difference of the shapes of the spectrum 0.1 s apart, dB a critical band.

    The shape is the level of each band without the mean over the bands; frames more than 30 dB below the loud
    level (``level_F`` are the levels) are left out.
    """
    window, hop = frame_sizes(sample_rate)
    edges = np.asarray(_EDGES) * window // sample_rate
    loud_F = np.flatnonzero(level_F >= loudest(level_F) - _RANGES_DB[0])
    wav_T = np.pad(wav_T, (0, max(0, (len(level_F) - 1) * hop + window - len(wav_T))))
    frames_FT = np.lib.stride_tricks.sliding_window_view(wav_T, window)[::hop]
    taper_T, parts = np.hanning(window), []
    for begin in range(0, len(loud_F), 4096):  # so that no copy of a long recording is made
        power_FN = np.abs(np.fft.rfft(frames_FT[loud_F[begin : begin + 4096]] * taper_T)) ** 2
        parts.append(np.add.reduceat(power_FN[:, : edges[-1]], edges[:-1], axis=1))
    band_FB = 10 * np.log10(np.maximum(np.concatenate(parts), 1e-20))
    band_FB = np.maximum(band_FB, band_FB.max() - 60)
    shape_FB = band_FB - band_FB.mean(axis=1, keepdims=True)
    difference_FB = np.abs(shape_FB[_LAG_FRAMES:] - shape_FB[:-_LAG_FRAMES])
    return float(difference_FB.mean()) if len(difference_FB) else 0.0


def _speech(
    detector: str,
    tries: Iterable[list[list[Region]]],
    wav_CT: Wave,
    level_CF: list[Levels],
    sample_rate: int,
) -> Speech:
    """The speech of the channel that has the most, in the first try that finds enough or else the last."""
    numbers, num_samples = range(len(wav_CT)), wav_CT.shape[1]
    moves_C = [True]
    if len(wav_CT) > 1 or num_samples >= _STEADY_SECONDS * sample_rate:
        moves_C = [float(np.ptp(np.percentile(level_F, (10, 95)))) >= _LEAST_RANGE_DB for level_F in level_CF]
    change_C, alike_C = [1.0], np.ones(1)
    if len(wav_CT) > 1:
        change_C = [spectral_change(wav_CT[n], sample_rate, level_CF[n]) for n in numbers]
    for regions_C in tries:
        length_C = [_length(regions) for regions in regions_C]
        enough_C = [moves_C[n] and length_C[n] >= ENOUGH_SECONDS * sample_rate for n in numbers]
        most = max(numbers, key=lambda n: (enough_C[n], length_C[n] * change_C[n] ** 2))
        if enough_C[most]:
            break
    if not moves_C[most]:
        return Speech(detector, 0.0, (), (most,), most)
    inside = [(begin, min(end, num_samples)) for begin, end in regions_C[most] if begin < num_samples]
    if len(wav_CT) > 1:
        with np.errstate(invalid="ignore"):  # a channel of one level has no correlation
            alike_C = np.nan_to_num(np.atleast_2d(np.corrcoef(level_CF))[most])
    least_change = max(_LEAST_CHANGE_DB, _CHANGE_SHARE * change_C[most])
    holds_C = [
        enough_C[n] and (alike_C[n] >= _LEAST_CORRELATION or change_C[n] >= least_change) for n in numbers
    ]
    channels = tuple(n for n in numbers if n == most or holds_C[n])
    return Speech(detector, _length(inside) / sample_rate, tuple(inside), channels, most)
