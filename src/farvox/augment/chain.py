"""Augmenters: functions that change a training chunk, by draws from the example's own random stream.

Shape suffixes: T sample.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from farvox.augment.baseline import BaselineMixture, HomeworkMixture
from farvox.augment.noise import NoiseSet, draw_babble
from farvox.augment.reverb import RirSet
from farvox.errors import RecipeError
from farvox.farfield.mixing import Array, add_noise, is_silent

KINDS = ("none", "farvox", "ffsvc", "homework")

Dirs = Sequence[str | Path]
Range = tuple[float, float]


class Augmenter(Protocol):
    """A function that augments a chunk: picklable, without state that a draw could depend on."""

    def __call__(self, wav_T: Array, rng: np.random.Generator) -> Array:
        """An augmented chunk, float32 and as long as ``wav_T``; a silent chunk comes back as it is."""
        ...


def build_augmenter(
    kind: str,
    *,
    noise: Dirs = (),
    music: Dirs = (),
    speech: Dirs = (),
    rirs: Dirs = (),
    clean_probability: float = 0.0,
    reverb_probability: float | None = None,
    noise_probability: float | None = None,
    music_probability: float | None = None,
    babble_probability: float | None = None,
    noise_snr_db: Range = (0.0, 15.0),
    music_snr_db: Range = (5.0, 15.0),
    babble_snr_db: Range = (13.0, 20.0),
    num_talkers: tuple[int, int] = (3, 7),
    rir_t60: Range | None = None,
    rir_drr: Range | None = None,
    rir_distance: Range | None = None,
    pack: bool = True,
    sample_rate: int = 16000,
) -> Augmenter:
    """Open the recordings and RIRs and build an augmenter.

    Args:
        kind: "none"; "farvox" (reverberation, noise, music and babble, each by its own chance, aligned on
            the direct path and at an exact ratio); "ffsvc" (the FFSVC2022 baseline's mixture, by its own
            rules); "homework" (the HI-MIA homework's: the baseline's with volume and tempo).
        noise: data dirs of noise.
        music: data dirs of music.
        speech: data dirs of speech, for babble.
        rirs: data dirs of room impulse responses.
        clean_probability: of "farvox" alone, as are all options that follow up to ``num_talkers`` (the other
            kinds have rules of their own): share of the chunks that are left entirely as they are; the other
            chances are those of the rest.
        reverb_probability: chance of reverberation. A probability left None takes its default where its data
            dirs are given (reverberation 0.5, noise 0.4, music 0.2, babble 0.2), and is 0 where they are not.
        noise_probability: chance of noise.
        music_probability: chance of music.
        babble_probability: chance of babble.
        noise_snr_db: range of the speech-to-noise power ratio.
        music_snr_db: range of the speech-to-music power ratio.
        babble_snr_db: range of the speech-to-babble power ratio.
        num_talkers: fewest and most talkers in babble.
        rir_t60: least and greatest T60 in seconds of the RIRs that are drawn, by their ``utt2cond``; of
            every kind.
        rir_drr: the same of the direct-to-reverberant ratio, dB.
        rir_distance: the same of the distance, metres.
        pack: of every kind: keep the recordings and RIRs in files in the cache that all processes share, each
            written once, so that a draw opens no file.
        sample_rate: of the chunks, in Hz.

    Returns:
        a callable: (wav_T float32, generator) -> wav_T.

    Raises:
        RecipeError: the kind is unknown, needs data dirs that are not given or does not use an option; or an
            option is out of range.
        DataDirError: a data dir cannot be read or has no files, or no RIR is in the ranges asked for.
        AudioError: a file cannot be read (without ``pack``: the first of a data dir).
    """
    options = dict(locals())
    if kind not in KINDS:
        nearest = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise RecipeError(f"unknown augmentation {kind!r}{hint}; choose from {', '.join(KINDS)}")
    if kind == "none":
        return Unchanged()
    within: dict[str, Range] = {}
    for name, limits in (("t60", rir_t60), ("drr", rir_drr), ("distance", rir_distance)):
        if limits is not None:
            if len(limits) != 2 or not limits[0] <= limits[1]:
                raise RecipeError(f"rir_{name} goes from the least to the greatest, not {list(limits)}")
            within[name] = (float(limits[0]), float(limits[1]))

    if kind in ("ffsvc", "homework"):
        for name, parameter in inspect.signature(build_augmenter).parameters.items():
            if name.startswith("rir") or name in ("kind", "noise", "music", "speech", "pack", "sample_rate"):
                continue
            value = tuple(options[name]) if isinstance(options[name], list) else options[name]
            if value != parameter.default:
                raise RecipeError(
                    f"augmentation {kind!r} has rules of its own and does not use {name} = {options[name]!r}"
                    "; leave it out, or take 'farvox'"
                )
        for name, dirs in (("noise", noise), ("music", music), ("rirs", rirs)):
            if not dirs:
                raise RecipeError(
                    f"augmentation {kind!r} needs data dirs of noise, music and rirs; {name} has none"
                )
        noise_set = NoiseSet.open(noise, sample_rate=sample_rate, pack=pack)
        music_set = NoiseSet.open(music, sample_rate=sample_rate, pack=pack)
        rir_set = RirSet.open(rirs, sample_rate=sample_rate, within=within, pack=pack)
        if kind == "ffsvc":
            return BaselineMixture(noise_set, music_set, rir_set)
        return HomeworkMixture(noise_set, music_set, rir_set, sample_rate)

    reverb_chance = _probability("reverb", reverb_probability, 0.5, rirs, "rirs")
    noise_chance = _probability("noise", noise_probability, 0.4, noise, "noise")
    music_chance = _probability("music", music_probability, 0.2, music, "music")
    babble_chance = _probability("babble", babble_probability, 0.2, speech, "speech")
    if not 0 <= clean_probability <= 1:
        raise RecipeError(f"clean_probability must be in [0, 1], not {clean_probability}")
    if reverb_chance == noise_chance == music_chance == babble_chance == 0:
        raise RecipeError(
            "augmentation 'farvox' has nothing to do: give data dirs of rirs, noise, music or speech, "
            "or take 'none'"
        )
    additions = [
        Addition(NoiseSet.open(dirs, sample_rate=sample_rate, pack=pack), chance, snr_db, talkers)
        for dirs, chance, snr_db, talkers in (
            (noise, noise_chance, noise_snr_db, None),
            (music, music_chance, music_snr_db, None),
            (speech, babble_chance, babble_snr_db, num_talkers),
        )
        if chance > 0
    ]
    if within and reverb_chance == 0:
        raise RecipeError(f"rir_{next(iter(within))} chooses among RIRs, and none are used; give rirs")
    rirs_used = None
    if reverb_chance > 0:
        rirs_used = RirSet.open(rirs, sample_rate=sample_rate, within=within, pack=pack)
    return FarvoxChain(rirs_used, reverb_chance, tuple(additions), clean_probability)


@dataclass(frozen=True)
class Unchanged:
    """Leaves every chunk as it is."""

    def __call__(self, wav_T: Array, rng: np.random.Generator) -> Array:
        """The chunk itself."""
        return wav_T


@dataclass(frozen=True)
class Addition:
    """One kind of noise of a chain.

    Attributes:
        recordings: crops are drawn from them.
        probability: the chance that it is added.
        snr_db: range the speech-to-noise power ratio is drawn from, uniformly.
        num_talkers: for babble, the fewest and most talkers; None takes one crop as it is.

    Raises:
        RecipeError: a range is upside down, or there are too few recordings for the talkers.
    """

    recordings: NoiseSet
    probability: float
    snr_db: Range
    num_talkers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        lowest, highest = self.snr_db
        if not (math.isfinite(lowest) and math.isfinite(highest) and lowest <= highest):
            raise RecipeError(f"a range of ratios goes from the lowest to the highest, not {self.snr_db}")
        if self.num_talkers is None:
            return
        fewest, most = self.num_talkers
        if not 1 <= fewest <= most:
            raise RecipeError(
                f"num_talkers goes from the fewest (at least 1) to the most, not {fewest}, {most}"
            )
        if len(self.recordings) < fewest:
            raise RecipeError(
                f"babble of {fewest} talkers needs as many files of speech, not {len(self.recordings)}"
            )

    def __call__(self, wav_T: Array, rng: np.random.Generator) -> Array:
        """The chunk with the noise in it, or itself when the crop was silent."""
        snr_db = rng.uniform(*self.snr_db)
        if self.num_talkers is None:
            noise_T = self.recordings.draw(rng, len(wav_T))
        else:
            noise_T = draw_babble(rng, self.recordings, len(wav_T), self.num_talkers)
        return wav_T if is_silent(noise_T) else add_noise(wav_T, noise_T, snr_db)


@dataclass(frozen=True)
class FarvoxChain:
    """Reverberation, then each kind of noise, every one by its own chance.

    Attributes:
        rirs: room impulse responses, or None for no reverberation.
        reverb_probability: the chance that a chunk is reverberated.
        additions: kinds of noise, in the order they are added.
        clean_probability: the chance that a chunk is left entirely as it is.
    """

    rirs: RirSet | None
    reverb_probability: float
    additions: tuple[Addition, ...]
    clean_probability: float = 0.0

    def __call__(self, wav_T: Array, rng: np.random.Generator) -> Array:
        """The augmented chunk."""
        if is_silent(wav_T):
            return wav_T
        if self.clean_probability > 0 and rng.random() < self.clean_probability:
            return wav_T
        if self.rirs is not None and rng.random() < self.reverb_probability:
            wav_T = self.rirs.reverberate(wav_T, self.rirs.draw(rng))
        for addition in self.additions:
            if rng.random() < addition.probability:
                wav_T = addition(wav_T, rng)
        return wav_T


def _probability(name: str, value: float | None, default: float, dirs: Dirs, dirs_name: str) -> float:
    """The chance of an effect; where none is given, ``default`` with data dirs of it and 0 without."""
    if value is None:
        return default if dirs else 0.0
    if not 0 <= value <= 1:
        raise RecipeError(f"{name}_probability must be in [0, 1], not {value}")
    if value > 0 and not dirs:
        raise RecipeError(f"{name}_probability is {value}, but no data dirs of {dirs_name} are given")
    return value
