"""Levels of a recording, and the rule by which it is silence.

Levels are those of frames of 25 ms every 10 ms, each without its mean. Shape suffixes: T sample, F frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farvox.audio.files import Wave
from farvox.errors import NoSpeechError

Levels = NDArray[np.float64]
SILENCE_DB = -80.0  # of full scale
NARROW_SHARE = 0.53  # of half the rate of a model: a `bandwidth` below it is narrow
LIMITED_SHARE = 0.8  # likewise: below it is less than the model expects
_LOUD_FRAMES = 10  # 0.1 s


def refuse_silence(wav_T: Wave, sample_rate: int, name: str) -> None:
    """Refuse a recording without sound, such as a constant; ``name`` begins the message.

    Raises:
        NoSpeechError: its loud level is below `SILENCE_DB`.
    """
    first_T = wav_T[:sample_rate]  # most speech: no need to look at all of it
    if not len(wav_T) or all(loud_level(each_T, sample_rate) < SILENCE_DB for each_T in (first_T, wav_T)):
        raise NoSpeechError(f"{name}: silence: nothing in it is louder than {SILENCE_DB:g} dB of full scale")


def loud_level(wav_T: Wave, sample_rate: int) -> float:
    """Level of the loudest 0.1 s, dB of full scale (a square wave at full scale has 0)."""
    return loudest(frame_levels(wav_T, sample_rate))


def frame_levels(wav_T: Wave, sample_rate: int) -> Levels:
    """Level of each frame without its mean, dB of full scale, at least -200 dB.

    The last frame is padded with the mean of the recording, so that each sample is in a frame.
    """
    window, hop = frame_sizes(sample_rate)
    wide_T = np.asarray(wav_T, np.float64) - np.mean(wav_T, dtype=np.float64)
    num_hops = max(0, -(-(len(wide_T) - window) // hop))
    wide_T = np.pad(wide_T, (0, num_hops * hop + window - len(wide_T)))
    frames_FT = np.lib.stride_tricks.sliding_window_view(wide_T, window)[::hop]
    blocks = range(0, len(frames_FT), 4096)  # so that no copy of a long recording is made
    power_F = np.concatenate([frames_FT[begin : begin + 4096].var(axis=1) for begin in blocks])
    return np.asarray(10 * np.log10(np.maximum(power_F, 1e-20)))


def frame_sizes(sample_rate: int) -> tuple[int, int]:
    """Samples of a frame of 25 ms, and between the beginnings of two, 10 ms."""
    return max(1, round(0.025 * sample_rate)), max(1, round(0.010 * sample_rate))


def loudest(level_F: Levels) -> float:
    """Level of the quietest of the ten loudest frames: that of the loudest 0.1 s."""
    return float(np.sort(level_F)[-min(_LOUD_FRAMES, len(level_F))])


def bandwidth(wav_T: Wave, sample_rate: int) -> float:
    """Frequency above which nothing is in a recording, Hz.

    What lies above it has less than -61 dB of the power of the louder half of the frames of 64 ms. Of 600
    utterances of speechocean762 and AN4 none has less than -58 dB above 4.3 kHz; brought to 8 kHz and back in
    16 bits, none has more than -64 dB. The mean is no sound and does not count.
    """
    wav_T = wav_T - np.float32(np.mean(wav_T, dtype=np.float64))
    window = max(2, round(0.064 * sample_rate))
    wav_T = np.pad(wav_T, (0, max(0, window - len(wav_T))))
    frames_FT = np.lib.stride_tricks.sliding_window_view(wav_T, window)[:: window // 2]
    power_FB = np.abs(np.fft.rfft(frames_FT * np.hanning(window), axis=1)) ** 2
    loud_F = power_FB.sum(axis=1)
    power_B = power_FB[loud_F >= np.median(loud_F)].sum(axis=0)
    above_B = np.cumsum(power_B[::-1])[::-1]
    return float(np.searchsorted(-above_B, -(10**-6.1) * above_B[0]) * sample_rate / window)
