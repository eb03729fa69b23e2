"""The mixtures of the FFSVC2022 baseline and of the HI-MIA homework built on it, by their own laws.

They differ from farvox's chain on purpose: a draw is one thing or another, never two; the ratio of speech to
noise is exponential in a tenth of the drawn number; reverberation delays the speech by its direct path.

Shape suffixes: T sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from farvox.augment.noise import NoiseBank
from farvox.augment.reverb import RirBank
from farvox.augment.speed import change_tempo, change_volume
from farvox.farfield.mixing import Array, is_silent, power

TEMPO_FACTORS = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)


@dataclass(frozen=True)
class BaselineMixture:
    """The FFSVC2022 baseline's: a quarter noise or music, a quarter reverberated, half clean.

    Attributes:
        noise: MUSAN's noise.
        music: MUSAN's music.
        rirs: the simulated rooms of RIRS_NOISES.
    """

    noise: NoiseBank
    music: NoiseBank
    rirs: RirBank

    def __call__(self, wav_T: Array, rng: np.random.Generator) -> Array:
        """The augmented chunk."""
        if is_silent(wav_T):
            return wav_T
        choice = rng.integers(4)
        if choice == 0:
            return add_baseline_noise(wav_T, self.noise, self.music, rng)
        if choice == 1:
            return self.rirs.reverberate(wav_T, self.rirs.draw(rng), aligned=False)
        return wav_T


@dataclass(frozen=True)
class HomeworkMixture:
    """The HI-MIA homework's: an eighth each of noise, reverberation, volume and tempo, half clean.

    Volume is an amplitude ratio from 5 to 20, so that most speech clips. A chunk at another tempo is cut at a
    random place, or repeated, to its former length.

    Attributes:
        noise: MUSAN's noise.
        music: MUSAN's music.
        rirs: the simulated rooms of RIRS_NOISES.
        sample_rate: of the chunks, in Hz.
    """

    noise: NoiseBank
    music: NoiseBank
    rirs: RirBank
    sample_rate: int = 16000

    def __call__(self, wav_T: Array, rng: np.random.Generator) -> Array:
        """The augmented chunk."""
        if is_silent(wav_T):
            return wav_T
        choice = rng.integers(8)
        if choice == 0:
            return add_baseline_noise(wav_T, self.noise, self.music, rng)
        if choice == 1:
            return self.rirs.reverberate(wav_T, self.rirs.draw(rng), aligned=False)
        if choice == 2:
            return change_volume(wav_T, 20 * math.log10(rng.uniform(5, 20)))
        if choice == 3:
            factor = TEMPO_FACTORS[rng.integers(len(TEMPO_FACTORS))]
            return _fit(change_tempo(wav_T, factor, sample_rate=self.sample_rate), len(wav_T), rng)
        return wav_T


def add_baseline_noise(wav_T: Array, noise: NoiseBank, music: NoiseBank, rng: np.random.Generator) -> Array:
    """Noise or music, half and half, by the baseline's law.

    With x drawn from [0, 20], the speech is scaled so that its L2 norm is exp(x / 10) times that of the
    noise, and the two are averaged: a power ratio of 0 to 17.37 dB.

    Returns:
        float32 samples at the level of the noise; the chunk itself when the crop was silent.
    """
    bank = noise if rng.random() < 0.5 else music
    noise_T = bank.draw(rng, len(wav_T))
    ratio = math.exp(rng.uniform(0, 20) / 10)
    if is_silent(noise_T):
        return wav_T
    scale = ratio * math.sqrt(power(noise_T) / power(wav_T))  # the ratio of norms: lengths are equal
    return (np.float32(scale) * wav_T + noise_T) / np.float32(2)


def _fit(wav_T: Array, num_samples: int, rng: np.random.Generator) -> Array:
    """Cut at a random place, or repeat, to ``num_samples``."""
    start = int(rng.integers(max(0, len(wav_T) - num_samples) + 1))
    cut_T = wav_T[start : start + num_samples]
    return cut_T if len(cut_T) == num_samples else np.resize(cut_T, num_samples)
