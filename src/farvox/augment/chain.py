"""Augmenters: functions that change a training chunk, by draws from the example's own random stream.

The augmentation of the FFSVC2022 baseline and of the HI-MIA homework is there by their own rules. They differ
from farvox's chain on purpose: a chunk gets one effect or none, never two; the ratio of speech to noise is
exponential in a tenth of the drawn number; reverberation delays the speech by its direct path.

Shape suffixes: T sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np

from farvox.augment.effects import (
    NoiseSet,
    RirSet,
    change_colour,
    change_tempo,
    change_volume,
    draw_babble,
    read_paths,
)
from farvox.datadir.conditions import CONDITIONS
from farvox.errors import RecipeError, UsageError
from farvox.farfield import Decibels
from farvox.farfield.mixing import Array, add_noise, is_silent, power
from farvox.options import AtLeast, AtMost, Options

Range = tuple[float, float]
Chance = Annotated[float | None, AtLeast(0), AtMost(1)]

EFFECTS = dict(reverb=("rirs", 0.5), noise=("noise", 0.4), music=("music", 0.2), babble=("speech", 0.2))
"""Data dirs that each effect of "farvox" is drawn from, and its chance by default."""
TEMPO_FACTORS = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(Options):
    """``[augment]``: the augmentation of training chunks.

    Raises:
        UsageError: the kind needs data dirs that are not given, or does not use an option; or a range goes
            from the greatest to the least.
    """

    kind: Literal["none", "farvox", "ffsvc", "homework"] = "none"
    """Augmentation: "none"; "farvox" (reverberation, noise, music and babble, each by its own chance, aligned
    on the direct path and at an exact ratio); "ffsvc" (the FFSVC2022 baseline's mixture, by its own rules);
    "homework" (the HI-MIA homework's: the baseline's with volume and tempo)."""
    noise: tuple[Path, ...] = ()
    """Data dirs or folders of noise."""
    music: tuple[Path, ...] = ()
    """Data dirs or folders of music."""
    speech: tuple[Path, ...] = ()
    """Data dirs or folders of speech, for babble."""
    rirs: tuple[Path, ...] = ()
    """Data dirs or folders of room impulse responses."""
    clean_probability: Annotated[float, AtLeast(0), AtMost(1)] = 0.0
    """Of "farvox" alone, as are all that follow up to num_talkers (the other kinds have rules of their own):
    share of the chunks that are left entirely as they are; the other chances are those of the rest."""
    colour_db: Annotated[float, AtLeast(0), AtMost(30)] = 0.0
    """Colour of the reverberated speech, as of a loudspeaker and a microphone: standard deviation of the
    gain from one octave to the next, dB; 0: none."""
    reverb_probability: Chance = None
    """Chance of reverberation; by default 0.5 with rirs and 0 without."""
    noise_probability: Chance = None
    """Chance of noise; by default 0.4 with data dirs of noise and 0 without."""
    music_probability: Chance = None
    """Chance of music; by default 0.2 with data dirs of music and 0 without."""
    babble_probability: Chance = None
    """Chance of babble; by default 0.2 with data dirs of speech and 0 without."""
    noise_snr_db: tuple[Decibels, Decibels] = (0.0, 15.0)
    """Range of the speech-to-noise power ratio."""
    music_snr_db: tuple[Decibels, Decibels] = (5.0, 15.0)
    """Range of the speech-to-music power ratio."""
    babble_snr_db: tuple[Decibels, Decibels] = (13.0, 20.0)
    """Range of the speech-to-babble power ratio."""
    num_talkers: tuple[Annotated[int, AtLeast(1)], int] = (3, 7)
    """Fewest and most talkers in babble."""
    rir_t60: Range | None = None
    """Least and greatest T60 in seconds of the RIRs that are drawn, by their utt2cond; of every kind."""
    rir_drr: Range | None = None
    """The same of the direct-to-reverberant ratio, dB."""
    rir_distance: Range | None = None
    """The same of the distance, metres."""
    pack: bool = True
    """Of every kind: keep the recordings and RIRs in files in the cache that all processes share, each
    written once, so that a draw opens no file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "none":
            return
        for field in fields(self):
            value = getattr(self, field.name)
            is_range = isinstance(value, tuple) and len(value) == 2 and not isinstance(value[0], Path)
            if is_range and value[0] > value[1]:
                raise UsageError(f"{field.name} goes from the least to the greatest, not {list(value)}")
        if self.kind == "farvox":
            if not any([self.chance(effect) for effect in EFFECTS]):
                raise UsageError(
                    "kind 'farvox' has nothing to do: give data dirs of rirs, noise, music or speech, "
                    "or take 'none'"
                )
            if self.colour_db and not self.chance("reverb"):
                raise UsageError("colour_db is of reverberated speech, and there is none; give rirs")
            if self._rir_ranges and not self.chance("reverb"):
                raise UsageError(
                    f"rir_{next(iter(self._rir_ranges))} chooses among RIRs, and none are used; give rirs"
                )
            return
        for name in ("noise", "music", "rirs"):
            if not getattr(self, name):
                raise UsageError(
                    f"kind '{self.kind}' needs data dirs of noise, music and rirs; {name} has none"
                )
        for field in fields(self):
            used = field.name.startswith("rir") or field.name in ("kind", "noise", "music", "speech", "pack")
            if not used and getattr(self, field.name) != field.default:
                raise UsageError(
                    f"kind '{self.kind}' has rules of its own and does not use {field.name}; leave it out, "
                    "or take 'farvox'"
                )

    def chance(self, effect: str) -> float:
        """The chance of one of `EFFECTS`.

        Raises:
            UsageError: it is above 0, and there are no data dirs to draw from.
        """
        dirs, default = EFFECTS[effect]
        chance = getattr(self, f"{effect}_probability")
        if chance and not getattr(self, dirs):
            raise UsageError(f"{effect}_probability is {chance}, but no data dirs of {dirs} are given")
        if chance is None:
            return default if getattr(self, dirs) else 0.0
        return float(chance)

    def inputs(self) -> tuple[str, ...]:
        """The files that the augmentation depends on: audio, and conditions by which RIRs are chosen.

        Raises:
            DataDirError: a data dir cannot be read.
            AudioError: its first file cannot be opened.
        """
        if self.kind == "none":
            return ()
        names = ["noise", "music", "rirs"]
        if self.kind == "farvox":
            names = [dirs for effect, (dirs, _) in EFFECTS.items() if self.chance(effect)]
        conditions = [str(folder / CONDITIONS) for folder in self.rirs if self._rir_ranges]
        return (*read_paths(folder for name in names for folder in getattr(self, name)), *conditions)

    @property
    def _rir_ranges(self) -> dict[str, Range]:
        """The ranges that RIRs are chosen by: condition -> least and greatest."""
        ranges = {"t60": self.rir_t60, "drr": self.rir_drr, "distance": self.rir_distance}
        return {name: limits for name, limits in ranges.items() if limits is not None}


class Augmenter(Protocol):
    """A function that augments a chunk: picklable, without state that a draw could depend on."""

    def __call__(self, wav_T: Array, rng: np.random.Generator) -> Array:
        """An augmented chunk, float32 and as long as ``wav_T``; a silent chunk comes back as it is."""


def build_augmenter(options: AugmentOptions, sample_rate: int = 16000) -> Augmenter:
    """Open the recordings and RIRs and build an augmenter for chunks at ``sample_rate`` Hz.

    Raises:
        RecipeError: there are fewer files of speech than talkers in babble.
        DataDirError: a data dir cannot be read or has no files, or no RIR is in the ranges asked for.
        AudioError: a file cannot be read (without ``pack``: the first of a data dir).
    """
    recordings = partial(NoiseSet.open, sample_rate=sample_rate, pack=options.pack)
    rirs = partial(
        RirSet.open, options.rirs, sample_rate=sample_rate, within=options._rir_ranges, pack=options.pack
    )
    if options.kind == "none":
        return _unchanged
    if options.kind == "ffsvc":
        return BaselineMixture(recordings(options.noise), recordings(options.music), rirs())
    if options.kind == "homework":
        return HomeworkMixture(recordings(options.noise), recordings(options.music), rirs(), sample_rate)
    additions = [
        Addition(recordings(dirs), options.chance(effect), snr_db, talkers)
        for effect, dirs, snr_db, talkers in (
            ("noise", options.noise, options.noise_snr_db, None),
            ("music", options.music, options.music_snr_db, None),
            ("babble", options.speech, options.babble_snr_db, options.num_talkers),
        )
        if options.chance(effect) > 0
    ]
    reverb_chance = options.chance("reverb")
    rirs_used = rirs() if reverb_chance > 0 else None
    return FarvoxChain(
        rirs_used, reverb_chance, tuple(additions), options.clean_probability, options.colour_db, sample_rate
    )


def _unchanged(wav_T: Array, rng: np.random.Generator) -> Array:
    return wav_T


@dataclass(frozen=True)
class Addition:
    """One kind of noise of a chain; its speech-to-noise power ratio is drawn from a range, uniformly.

    ``num_talkers`` are the fewest and most talkers of babble; None takes one crop of the recordings as it is.
    """

    recordings: NoiseSet
    probability: float
    snr_db: Range
    num_talkers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.num_talkers and len(self.recordings) < self.num_talkers[0]:
            raise RecipeError(
                f"babble of {self.num_talkers[0]} talkers needs as many files of speech, not "
                f"{len(self.recordings)}"
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
    """Reverberation, then each kind of noise, every one by its own chance, or nothing at all."""

    rirs: RirSet | None
    reverb_probability: float
    additions: tuple[Addition, ...]
    clean_probability: float = 0.0
    colour_db: float = 0.0
    sample_rate: int = 16000

    def __call__(self, wav_T: Array, rng: np.random.Generator) -> Array:
        """The augmented chunk."""
        if is_silent(wav_T) or (self.clean_probability > 0 and rng.random() < self.clean_probability):
            return wav_T
        if self.rirs is not None and rng.random() < self.reverb_probability:
            wav_T = self.rirs.reverberate(wav_T, self.rirs.draw(rng))
            if self.colour_db:
                wav_T = change_colour(wav_T, rng, self.colour_db, self.sample_rate)
        for addition in self.additions:
            if rng.random() < addition.probability:
                wav_T = addition(wav_T, rng)
        return wav_T


@dataclass(frozen=True)
class BaselineMixture:
    """The FFSVC2022 baseline's: a quarter with noise or music, a quarter reverberated, half clean.

    The baseline takes MUSAN's noise and music, and the simulated rooms of RIRS_NOISES.
    """

    noise: NoiseSet
    music: NoiseSet
    rirs: RirSet
    num_choices: ClassVar[int] = 4

    def __call__(self, wav_T: Array, rng: np.random.Generator) -> Array:
        """The augmented chunk."""
        return wav_T if is_silent(wav_T) else self._changed(wav_T, rng, int(rng.integers(self.num_choices)))

    def _changed(self, wav_T: Array, rng: np.random.Generator, choice: int) -> Array:
        """The chunk after one of the effects, or as it is."""
        if choice == 0:
            return add_baseline_noise(wav_T, self.noise, self.music, rng)
        if choice == 1:
            return self.rirs.reverberate(wav_T, self.rirs.draw(rng), aligned=False)
        return wav_T


@dataclass(frozen=True)
class HomeworkMixture(BaselineMixture):
    """The HI-MIA homework's: an eighth each of noise, reverberation, volume and tempo, half clean.

    Volume is an amplitude ratio from 5 to 20, so that most speech clips. A chunk at another tempo is cut at a
    random place, or repeated, to its former length.
    """

    sample_rate: int = 16000
    num_choices: ClassVar[int] = 8

    def _changed(self, wav_T: Array, rng: np.random.Generator, choice: int) -> Array:
        """The chunk after one of the effects, or as it is."""
        if choice == 2:
            return change_volume(wav_T, 20 * math.log10(rng.uniform(5, 20)))
        if choice == 3:
            factor = TEMPO_FACTORS[rng.integers(len(TEMPO_FACTORS))]
            changed_T = change_tempo(wav_T, factor, sample_rate=self.sample_rate)
            start = int(rng.integers(max(0, len(changed_T) - len(wav_T)) + 1))
            return np.resize(changed_T[start : start + len(wav_T)], len(wav_T))
        return super()._changed(wav_T, rng, choice)


def add_baseline_noise(wav_T: Array, noise: NoiseSet, music: NoiseSet, rng: np.random.Generator) -> Array:
    """Add noise or music, half and half, by the baseline's rule.

    With x drawn from [0, 20], the speech is scaled so that its L2 norm is exp(x / 10) times that of the
    noise, and the two are averaged, at the level of the noise: a power ratio of 0 to 17.37 dB. A silent crop
    changes nothing.
    """
    recordings = noise if rng.random() < 0.5 else music
    noise_T = recordings.draw(rng, len(wav_T))
    ratio = math.exp(rng.uniform(0, 20) / 10)
    if is_silent(noise_T):
        return wav_T
    scale = ratio * math.sqrt(power(noise_T) / power(wav_T))  # the ratio of norms: lengths are equal
    return (np.float32(scale) * wav_T + noise_T) / np.float32(2)
