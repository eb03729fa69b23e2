"""A small language: phones with formant targets, and words made of them.

Formants are those of a neutral vocal tract of 17 cm, in the region of the published averages for
vowels (Peterson & Barney 1952) and of loci for consonants (Klatt 1980).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True, slots=True)
class Phone:
    """What the vocal tract is asked to do during one phone.

    Attributes:
        formants: F1-F3 in Hz.
        seconds: duration at normal speed.
        voicing: amplitude of the glottal source, 0-1.
        aspiration: amplitude of noise at the glottis.
        frication: amplitude of noise at a constriction.
        noise_hz: middle of the frication noise.
        noise_octaves: its width (standard deviation).
        damping: factor on the bandwidths (nasals are damped).
    """

    formants: tuple[float, float, float]
    seconds: float
    voicing: float = 1.0
    aspiration: float = 0.0
    frication: float = 0.0
    noise_hz: float = 4000.0
    noise_octaves: float = 0.5
    damping: float = 1.0


def _fricative(formants: tuple[float, float, float], noise_hz: float, loud: float, wide: float) -> Phone:
    return Phone(formants, 0.095, 0.0, 0.02, loud, noise_hz, wide)


PHONES: dict[str, Phone] = {
    "a": Phone((730, 1200, 2450), 0.115),
    "ae": Phone((660, 1700, 2420), 0.110),
    "e": Phone((500, 1850, 2500), 0.100),
    "i": Phone((290, 2250, 2950), 0.095),
    "y": Phone((300, 1800, 2200), 0.095),
    "o": Phone((500, 900, 2450), 0.110),
    "u": Phone((320, 850, 2300), 0.095),
    "uh": Phone((530, 1350, 2450), 0.075),
    "w": Phone((300, 650, 2200), 0.060, 0.7),
    "j": Phone((270, 2200, 2900), 0.055, 0.7),
    "l": Phone((360, 1200, 2700), 0.060, 0.65),
    "r": Phone((400, 1150, 1550), 0.060, 0.65),
    "m": Phone((250, 1000, 2250), 0.070, 0.45, damping=2.2),
    "n": Phone((250, 1500, 2500), 0.065, 0.45, damping=2.2),
    "ng": Phone((250, 2000, 2650), 0.070, 0.4, damping=2.2),
    "s": _fricative((320, 1500, 2600), 5800, 0.22, 0.32),
    "sh": _fricative((320, 1800, 2500), 3300, 0.24, 0.38),
    "f": _fricative((340, 1000, 2300), 5000, 0.06, 1.1),
    "x": _fricative((400, 1600, 2300), 1800, 0.10, 0.7),
    "h": Phone((500, 1400, 2450), 0.065, 0.0, 0.16),
    "z": Phone((300, 1500, 2600), 0.075, 0.4, 0.0, 0.12, 5500, 0.35),
    "v": Phone((320, 1000, 2300), 0.065, 0.45, 0.0, 0.03, 4500, 1.0),
    "p.": Phone((320, 800, 2200), 0.070, 0.0),
    "t.": Phone((320, 1700, 2600), 0.065, 0.0),
    "k.": Phone((320, 2000, 2300), 0.070, 0.0),
    "b.": Phone((250, 800, 2200), 0.050, 0.12, damping=2.0),
    "d.": Phone((250, 1700, 2600), 0.050, 0.12, damping=2.0),
    "g.": Phone((250, 2000, 2300), 0.050, 0.12, damping=2.0),
    "p": Phone((400, 1000, 2300), 0.030, 0.0, 0.10, 0.08, 900, 1.0),
    "t": Phone((400, 1700, 2600), 0.032, 0.0, 0.07, 0.20, 4200, 0.6),
    "k": Phone((400, 1900, 2300), 0.036, 0.0, 0.10, 0.16, 2000, 0.45),
    "b": Phone((350, 900, 2250), 0.015, 0.4, 0.03, 0.05, 900, 1.0),
    "d": Phone((350, 1700, 2600), 0.015, 0.4, 0.03, 0.10, 4000, 0.6),
    "g": Phone((350, 1950, 2300), 0.018, 0.4, 0.03, 0.08, 2000, 0.45),
    " ": Phone((500, 1400, 2450), 0.060, 0.0),
}
VOWELS = ("a", "ae", "e", "i", "y", "o", "u", "uh")
STOPS = ("p", "t", "k", "b", "d", "g")
CONSONANTS = ("w", "j", "l", "r", "m", "n", "ng", "s", "sh", "f", "x", "h", "z", "v", *STOPS)


@cache
def make_lexicon(num_words: int = 120) -> tuple[tuple[str, ...], ...]:
    """The words of the language: one to three syllables, always the same ones.

    Returns:
        One tuple of phones per word; a stop is its closure followed by its burst.
    """
    rng = np.random.Generator(np.random.Philox(key=1791))
    return tuple(_draw_word(rng) for _ in range(num_words))


def _draw_word(rng: np.random.Generator) -> tuple[str, ...]:
    phones: list[str] = []
    for _ in range(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2])):
        phones += _spell(str(rng.choice(CONSONANTS)))
        phones += rng.choice(VOWELS, size=rng.choice([1, 2], p=[0.8, 0.2]), replace=False).tolist()
    if rng.random() < 0.4:
        phones += _spell(str(rng.choice(CONSONANTS[4:])))
    return tuple(phones)


def _spell(consonant: str) -> list[str]:
    return [f"{consonant}.", consonant] if consonant in STOPS else [consonant]


def draw_sentence(rng: np.random.Generator, seconds: float) -> list[str]:
    """Words drawn from the lexicon until they last ``seconds`` at normal speed, pauses between some.

    Returns:
        The phones, silence at both ends.
    """
    lexicon, phones, lasting = make_lexicon(), [" ", " "], 0.0
    while lasting < seconds:
        word = [*lexicon[rng.integers(len(lexicon))], *([" "] if rng.random() < 0.25 else [])]
        phones += word
        lasting += sum(PHONES[phone].seconds for phone in word)
    return [*phones, " ", " "]
