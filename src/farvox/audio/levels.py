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
NARROW_SHARE = 0.58  # of half the rate of a model: a `bandwidth` below it is narrow (ffmpeg leaks up to 0.57)
LIMITED_SHARE = 0.8  # likewise: below it is less than the model expects
_AT_ONCE = 16  # spectra: 64 KB, which stay in the cache of a processor and are no new memory
_LOUD_FRAMES = 10  # 0.1 s
_CUT_DB = 28.0  # least fall at a cut-off, which rooms, distances and clothes do not have
_STEADY_DB, _MOVING_DB, _FLOOR_DB = 2.2, 8.0, 25.0  # see `bandwidth`


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


def bandwidth(wav_T: Wave, sample_rate: int, own_rate: int = 0, every: int = 1) -> float:
    """Frequency above which there is nothing of a voice in a recording, Hz; half the rate if it has no end.

    Looked at are the frames of 64 ms at most 30 dB below the loudest, or one in ``every``. There is an end

    - at half of the rate that the file has, ``own_rate``, if that is given;
    - where what lies above has less than -61 dB of the power, if the spectrum falls there by 28 dB, from
      0.75-0.9 to 1.05-1.25 of that frequency. A cut-off does (codecs and resampling: 29 to 82 dB, but for one
      of twenty at 11.025 kHz), the slope of a room or of a cloth before the microphone does not (low passes
      of the first to third order: 28 dB at most in nine of ten);
    - at half of the band, if the level above 0.58 of it moves no more than that of steady noise (2.2 dB
      between the 5th and the 99th percentile of the frames) and lies 25 dB below the loudest frames, while
      the level from 0.25 to 0.475 of the band moves by 8 dB, as a voice does. Telephone lines have such a
      floor. With white noise 20 to 60 dB below it, telephone speech moves by 2.0 dB at most there; speech by
      17 dB at least, and by 2.1 in white noise 25 dB below it.

    The mean is no sound and does not count. Measured on 100 utterances of speechocean762 each way.
    """
    half = sample_rate / 2
    most = min(half, own_rate / 2 if own_rate else half)
    hop = max(1, round(0.032 * sample_rate))
    window = 2 * hop
    wav_T = np.asarray(wav_T, np.float32) - np.float32(np.mean(wav_T, dtype=np.float64))
    if len(wav_T) < window:
        wav_T = np.pad(wav_T, (0, window - len(wav_T)))
    wav_T /= np.abs(wav_T).max() or 1  # samples of 1e30 have squares, too
    taper_T = np.hanning(window).astype(np.float32)
    halves_HT = wav_T[: len(wav_T) // hop * hop].reshape(-1, hop)
    energy_HK = np.square(halves_HT) @ np.square(taper_T).reshape(2, hop).T  # as first half, as second
    energy_F = energy_HK[:-1, 0] + energy_HK[1:, 1]
    loud = float(np.sort(energy_F)[-min(4, len(energy_F))])
    rows_F = np.flatnonzero(energy_F >= loud * 1e-3)[::every]

    def bins(low: float, high: float) -> slice:
        begin = max(1, int(low * window / sample_rate))
        return slice(begin, max(begin + 1, int(high * window / sample_rate)))

    high, middle = bins(NARROW_SHARE * half, 0.975 * half), bins(0.25 * half, 0.475 * half)
    sum_B, high_F, middle_F = np.zeros(window // 2 + 1), [], []
    for begin in range(0, len(rows_F), _AT_ONCE):
        part_F = rows_F[begin : begin + _AT_ONCE]
        frames_FT = np.concatenate([halves_HT[part_F], halves_HT[part_F + 1]], axis=1)
        spectrum_FB = np.fft.rfft(frames_FT * taper_T)
        power_FB = np.square(spectrum_FB.real) + np.square(spectrum_FB.imag)
        sum_B += power_FB.sum(axis=0)
        high_F.append(power_FB[:, high].sum(axis=1))
        middle_F.append(power_FB[:, middle].sum(axis=1))
    above_B = np.cumsum(sum_B[::-1])[::-1]
    end = float(np.searchsorted(-above_B, -(10**-6.1) * above_B[0]) * sample_rate / window)
    if end < min(most, 0.9 * half):
        below, beyond = bins(0.75 * end, 0.9 * end), bins(1.05 * end, min(1.25 * end, 0.99 * half))
        if sum_B[below].mean() >= 10 ** (_CUT_DB / 10) * sum_B[beyond].mean():
            most = end
    high_db, middle_db = (10 * np.log10(np.concatenate(parts) + 1e-20) for parts in (high_F, middle_F))
    moves = [float(np.ptp(np.percentile(each, (5, 99)))) for each in (high_db, middle_db)]
    distance = 10 * np.log10(window / 2 * loud + 1e-20) - float(np.median(high_db))
    if moves[0] <= _STEADY_DB and moves[1] >= _MOVING_DB and distance >= _FLOOR_DB:
        most = min(most, half / 2)
    return most


def is_narrow(wav_T: Wave, sample_rate: int, own_rate: int) -> bool:
    """True where a recording holds nothing of a voice above 4 kHz, for a model of 16 kHz: see `bandwidth`.

    One frame in three shows it of most recordings that do not.
    """
    most = NARROW_SHARE * sample_rate / 2
    return all(bandwidth(wav_T, sample_rate, own_rate, every) < most for every in (3, 1))
