"""The augmentation of the FFSVC2022 baseline and of the HI-MIA homework built on it, by their own rules.

They differ from farvox's chain on purpose: a chunk gets one effect or none, never two; the ratio of speech to
noise is exponential in a tenth of the drawn number; reverberation delays the speech by its direct path.

Shape suffixes: T sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from farvox.augment.noise import NoiseSet
from farvox.augment.reverb import RirSet
from farvox.augment.speed import change_tempo, change_volume
from farvox.farfield.mixing import Array, is_silent, power

TEMPO_FACTORS = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)


@dataclass(frozen=True)
class BaselineMixture:
    """The FFSVC2022 baseline's: a quarter with noise or music, a quarter reverberated, half clean.

    Attributes:
        noise: MUSAN's noise.
        music: MUSAN's music.
        rirs: the simulated rooms of RIRS_NOISES.
    """

    noise: NoiseSet
    music: NoiseSet
    rirs: RirSet

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

    noise: NoiseSet
    music: NoiseSet
    rirs: RirSet
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
            changed_T = change_tempo(wav_T, factor, sample_rate=self.sample_rate)
            start = int(rng.integers(max(0, len(changed_T) - len(wav_T)) + 1))
            return np.resize(changed_T[start : start + len(wav_T)], len(wav_T))
        return wav_T


def add_baseline_noise(wav_T: Array, noise: NoiseSet, music: NoiseSet, rng: np.random.Generator) -> Array:
    """Add noise or music, half and half, by the baseline's rule.

    With x drawn from [0, 20], the speech is scaled so that its L2 norm is exp(x / 10) times that of the
    noise, and the two are averaged: a power ratio of 0 to 17.37 dB.

    Returns:
        float32 samples at the level of the noise; the chunk itself when the crop was silent.
    """
    recordings = noise if rng.random() < 0.5 else music
    noise_T = recordings.draw(rng, len(wav_T))
    ratio = math.exp(rng.uniform(0, 20) / 10)
    if is_silent(noise_T):
        return wav_T
    scale = ratio * math.sqrt(power(noise_T) / power(wav_T))  # the ratio of norms: lengths are equal
    return (np.float32(scale) * wav_T + noise_T) / np.float32(2)
