"""Background noise: coloured noise, mains hum, machines and the babble of synthetic voices.

Shape suffixes: T sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farvox.synthetic.phones import draw_sentence
from farvox.synthetic.voice import SAMPLE_RATE, draw_voice, synthesise

Samples = NDArray[np.float32]
KINDS = ("coloured", "hum", "machine", "babble")


def draw_noise(kind: str, seconds: float, rng: np.random.Generator) -> Samples:
    """Noise of one kind, root mean square 0.1.

    Args:
        kind: one of `KINDS`.
        seconds: duration.
        rng: source of randomness.

    Returns:
        wav_T at 16 kHz.
    """
    num_samples = int(seconds * SAMPLE_RATE)
    makers = {"coloured": _coloured, "hum": _hum, "machine": _machine, "babble": _babble}
    wav_T = makers[kind](num_samples, rng)
    return np.asarray(0.1 * _unit(wav_T), dtype=np.float32)


def _coloured(num_samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise whose level falls by 0 to 9 dB per octave (3 dB: pink)."""
    return _shaped(num_samples, rng.uniform(0, 9), rng)


def _shaped(num_samples: int, fall_db: float, rng: np.random.Generator) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    octave = np.log2(np.maximum(np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE), 60) / 60)
    return np.fft.irfft(spectrum * 10 ** (-fall_db * octave / 20), num_samples)


def _hum(num_samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Harmonics of the mains over a bed of coloured noise."""
    time_T = np.arange(num_samples) / SAMPLE_RATE
    mains = rng.choice([50.0, 60.0])
    wav_T = 0.3 * _unit(_coloured(num_samples, rng))
    for harmonic in range(1, 13):
        amplitude = np.exp(rng.normal(-0.25 * harmonic, 0.7))
        wav_T += amplitude * np.sin(2 * np.pi * (mains * harmonic * time_T + rng.random()))
    return wav_T


def _machine(num_samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A fan or a motor: noise with a few resonances, its level swinging with the rotation."""
    spectrum = np.fft.rfft(_shaped(num_samples, rng.uniform(1, 6), rng))
    hz = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE)
    for centre in np.exp(rng.uniform(np.log(120), np.log(5000), 4)):
        spectrum *= 1 + rng.uniform(1, 6) * np.exp(-0.5 * ((hz - centre) / (0.08 * centre)) ** 2)
    swing = rng.uniform(0, 0.5) * np.sin(
        2 * np.pi * rng.uniform(2, 15) * np.arange(num_samples) / SAMPLE_RATE
    )
    return np.asarray(np.fft.irfft(spectrum, num_samples) * (1 + swing))


def _babble(num_samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Four to seven synthetic speakers at once, each repeating themselves."""
    wav_T = np.zeros(num_samples)
    for _ in range(rng.integers(4, 8)):
        phones = draw_sentence(rng, 0.6 * num_samples / SAMPLE_RATE)
        spoken_T = synthesise(draw_voice(rng), phones, rng)
        wav_T += _unit(np.resize(spoken_T, num_samples)) * rng.uniform(0.5, 1.0)
    return wav_T


def _unit(wav_T: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(wav_T / np.sqrt(np.mean(np.square(wav_T, dtype=np.float64))), dtype=np.float64)
