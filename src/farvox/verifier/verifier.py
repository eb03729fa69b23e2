"""The verifier: recordings in, decisions out, with one model and, for enrolment, one store of speakers.

A *side* is a recording or a list of recordings of one speaker. The channels of a recording, and the
recordings of a side, are combined as the mean of their length-normalised embeddings. A channel that scores
below the threshold against the one with the most speech is left out: it holds another voice or another sound.

Shape suffixes: C channel, T sample, E embedding, N recording.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from dataclasses import replace as replaced
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from farvox.audio.conditioning import Band
from farvox.audio.quality import MEASURES, Measured, QualityTerm, is_outside, measure, value_of
from farvox.errors import AudioError, MixedSpeakersError, ModelError, SpeakerError, UsageError
from farvox.machine import available_memory
from farvox.options import not_a_choice
from farvox.reprs import short_repr
from farvox.verifier.enrolment import Enrolment
from farvox.verifier.signal import (
    AudioArgument,
    Channel,
    CodedNote,
    Signal,
    Vad,
    read_signal,
    refuse_other_reading,
    still_true,
)
from farvox.verifier.store import SpeakerStore, SqliteStore
from farvox.zoo import DEFAULT_MODEL, Calibration, Card, Embedder, open_embedder
from farvox.zoo.embedder import Backend, embed_named, memory_for

if TYPE_CHECKING:
    from pathlib import Path

Embedding = npt.NDArray[np.float32]
Recording: TypeAlias = "AudioArgument | Signal"
Recordings: TypeAlias = "Recording | Sequence[Recording]"
BandChoice: TypeAlias = "Band | Literal['auto']"
SINGLE_THRESHOLD, UNLIKE_CALIBRATION = "single-threshold", "unlike-calibration"
_CLEARLY = 0.1  # of the range of a calibration, beyond it
TWO_SPEAKERS, NARROW_BAND, SAME_RECORDING = "two-speakers", "narrow-band", "same-recording"  # codes of notes


@dataclass(frozen=True)
class Verdict(tuple[float, bool]):
    """The decision on two sides; unpacks as ``score, same``, and is true where they are the same speaker.

    Attributes:
        score: cosine similarity of the two sides, from -1 to 1.
        same: True where the score reaches the threshold: the same speaker.
        threshold: lowest score of the same speaker; of recordings like these where the card's calibration
            knows how good they are (`farvox.audio.quality`).
        probability: of the same speaker, at equal prior probability of both answers, likewise; None where the
            model's card has no calibration.
        enrol: the recordings of the first side, each with its warnings.
        test: those of the second side.
        band: "narrow" where both sides were compared below 4 kHz.
        threshold_probability: the probability that the threshold asks for.
    """

    score: float
    same: bool
    threshold: float
    probability: float | None
    enrol: tuple[Signal, ...]
    test: tuple[Signal, ...]
    band: Band = "full"
    threshold_probability: float | None = None

    __repr__ = short_repr

    def __new__(cls, score: float, same: bool, *_: object, **__: object) -> Self:
        """Make the pair that it unpacks as."""
        return super().__new__(cls, (score, same))

    def __getnewargs__(self) -> tuple[Any, ...]:  # for pickle and copy
        return tuple(self)

    def __bool__(self) -> bool:
        return self.same

    def __str__(self) -> str:
        said = "same speaker" if self.same else "different speakers"
        return f"{said}: score {self.score:.4f}, threshold {self.threshold:.4g}"

    @property
    def notes(self) -> tuple[CodedNote, ...]:
        """Reasons why the decision is less certain, of all recordings."""
        return tuple(note for signal in (*self.enrol, *self.test) for note in signal.warnings)


@dataclass(frozen=True)
class Identification(tuple[str | None, float]):
    """The enrolled speaker of a recording; unpacks as ``name, score``, and is true where there is one.

    Attributes:
        name: the enrolled speaker; None where nobody reaches the threshold.
        score: cosine similarity to the best candidate.
        threshold: lowest score of the same speaker.
        candidates: the best ones with their scores, best first, also below the threshold.
        num_speakers: number of speakers searched; the more there are, the likelier a stranger resembles one.
        num_others: number of speakers enrolled with other models, whose embeddings cannot be compared.
        test: the recordings, each with its warnings.
    """

    name: str | None
    score: float
    threshold: float
    candidates: tuple[tuple[str, float], ...]
    num_speakers: int
    num_others: int
    test: tuple[Signal, ...]

    __repr__ = short_repr

    def __new__(cls, name: str | None, score: float, *_: object, **__: object) -> Self:
        """Make the pair that it unpacks as."""
        return super().__new__(cls, (name, score))

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def __bool__(self) -> bool:
        return self.name is not None

    def __str__(self) -> str:
        among = f"among {self.num_speakers} speakers"
        return f"{self.name or 'unknown'}: score {self.score:.4f}, threshold {self.threshold:.4g}, {among}"

    @property
    def notes(self) -> tuple[CodedNote, ...]:
        """Reasons why the answer is less certain, of all recordings."""
        return tuple(note for signal in self.test for note in signal.warnings)


class EmbeddedSide(NamedTuple):
    """A side that is embedded, see `Verifier.side`: its recordings with their notes, an embedding each."""

    signals: tuple[Signal, ...]
    emb_NE: Embedding
    norm_N: list[float]


class Verifier:
    """Decides whether recordings are of the same speaker.

    Every method takes recordings as a path, a binary file object or ``(array, rate)``, the array [T] or
    [C, T] of floats in [-1, 1] or of int16 or int32; and a list of recordings where one speaker has several.
    A recording that cannot be judged raises an `AudioError`, see `farvox.verifier.signal.read_signal`.

    Args:
        embedder: the model.
        threshold: lowest score of the same speaker, a cosine; None: that of the model's card.
        vad: see `farvox.verifier.signal.read_signal`.
        channel: see there, too.
        band: that of the embedder's card; or "auto": `verify` compares both sides below 4 kHz where one of
            them has nothing above it, and decides by the card's threshold for such, if there is one and none
            was given.
        store: of the enrolled speakers, or its file; None: a file in the user's data folder, opened when
            first needed.

    Raises:
        UsageError: the threshold is not a cosine.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        threshold: float | None = None,
        vad: Vad = "check",
        channel: Channel = "all",
        band: Literal["auto"] | None = None,
        store: SpeakerStore | str | Path | None = None,
    ) -> None:
        if isinstance(embedder, str | os.PathLike):
            way = f"Verifier.from_pretrained({os.fspath(embedder)!r})"
            raise UsageError(f"a Verifier is made of a model that is open; {way} opens one")
        refuse_other_reading(vad, channel)
        self.embedder = embedder
        self.band: BandChoice = band or embedder.card.conditioning.band
        self.vad: Vad = vad
        self.channel: Channel = channel
        self._threshold = embedder.card.threshold if threshold is None else checked_threshold(threshold)
        self._store = SqliteStore(store) if isinstance(store, str | os.PathLike) else store

    def __repr__(self) -> str:
        return f"<Verifier: {self.embedder!r}, threshold {self._threshold}, band {self.band}>"

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str = "cpu",
        backend: Backend = "auto",
        threshold: float | None = None,
        vad: Vad = "check",
        channel: Channel = "all",
        band: BandChoice = "auto",
        store: SpeakerStore | str | Path | None = None,
    ) -> Verifier:
        """Make a verifier with a model of any kind.

        Args:
            model: a name of the zoo (pulled on first use), a model folder, a run dir, ``RUN_DIR@37``, or an
                exported ``.onnx`` file, which needs no torch.
            device: of torch: cpu, cuda, mps or auto.
            backend: see `farvox.zoo.find.open_embedder`.
            band: "narrow" leaves nothing above 4 kHz of any recording, and decides by the card's threshold
                for such; what is enrolled so is compared with nothing else. "full" never does. For "auto"
                see the class; what is enrolled and identified is full then.
            threshold: see the class, like the rest.

        Raises:
            ModelError: there is no such model, or it cannot be fetched.
            MissingExtraError: torch or onnxruntime is not installed.
        """
        if band not in (choices := (*get_args(Band), "auto")):
            raise not_a_choice("band", band, choices)
        embedder = open_embedder(model, device, backend=backend, band="full" if band == "auto" else band)
        auto: Literal["auto"] | None = "auto" if band == "auto" else None
        return cls(embedder, threshold=threshold, vad=vad, channel=channel, band=auto, store=store)

    @property
    def card(self) -> Card:
        """The model's card."""
        return self.embedder.card

    @property
    def calibration(self) -> Calibration | None:
        """The calibration from scores to log-likelihood ratios, if the card has one."""
        return self.card.calibration

    @property
    def threshold(self) -> float:
        """Lowest score of the same speaker.

        Raises:
            ModelError: none was given and the card has none.
        """
        if self._threshold is None:
            which = " for --band narrow" if self.card.conditioning.band == "narrow" else ""
            raise ModelError(
                f"this model has no threshold{which}, so nothing can be decided: give one "
                "(threshold=, --threshold), or let 'farvox calibrate' choose one on your trials and write it "
                "into the model's card"
            )
        return self._threshold

    @property
    def store(self) -> SpeakerStore:
        """The store of the enrolled speakers."""
        if self._store is None:
            self._store = SqliteStore()
        return self._store

    def signal(self, audio: Recording, name: str = "<array>") -> Signal:
        """Read a recording, if it is no `Signal` yet; notes on what the model's conditioning mends go.

        ``name`` is that of an array in messages.
        """
        if not isinstance(audio, Signal):
            audio = read_signal(
                audio,
                sample_rate=self.embedder.sample_rate,
                min_samples=self.embedder.min_samples,
                vad=self.vad,
                channel=self.channel,
                array_name=name,
            )
        notes = still_true(audio.warnings, self.card.conditioning)
        return audio if notes == audio.warnings else replaced(audio, warnings=notes)

    def embed(self, audio: Recordings) -> Embedding:
        """Embeddings of length 1, whose dot product is the score: emb_E of a recording, emb_NE of several."""
        _, emb_NE, _ = self._embedded(self._signals(audio))
        return emb_NE if _is_several(audio) else emb_NE[0]

    def side(self, audio: Recordings) -> EmbeddedSide:
        """Read and embed a side once, to verify several others against it."""
        return self._embedded(self._signals(audio))

    def verify(self, enrol: Recordings | EmbeddedSide, test: Recordings) -> Verdict:
        """Decide whether two sides are of the same speaker; ``enrol`` may be a `side` of this verifier.

        Raises:
            ModelError: there is no threshold to decide by.
        """
        threshold: float | None = self.threshold
        enrol_signals = enrol.signals if isinstance(enrol, EmbeddedSide) else self._signals(enrol)
        test_signals = self._signals(test)
        if self._is_for_narrow((*enrol_signals, *test_signals)):
            return self._narrow().verify(list(enrol_signals), list(test_signals))
        test_signals = tuple(_noted_if_among(enrol_signals, each) for each in test_signals)
        embedded = enrol if isinstance(enrol, EmbeddedSide) else self._embedded(enrol_signals)
        enrol_signals, enrol_NE, enrol_norm_N = embedded
        test_signals, test_NE, test_norm_N = self._embedded(test_signals)
        cosine = _combined(enrol_NE) @ _combined(test_NE)
        score = min(1.0, max(-1.0, float(cosine)))
        card = self.card.for_recordings(len(enrol_signals))
        if len(enrol_signals) > 1 and card is self.card and self._threshold == card.threshold:
            several = CodedNote(
                f"one of {len(enrol_signals)} recordings of its side, and the threshold was chosen for "
                "single ones: their mean scores higher, with strangers too; trials of such sides "
                "give one for them",
                SINGLE_THRESHOLD,
            )
            first, *rest = enrol_signals
            enrol_signals = (replaced(first, warnings=(*first.warnings, several)), *rest)
        if card.calibration and card.calibration.terms:
            terms = card.calibration.terms
            enrol_M = self._measures(enrol_signals, enrol_norm_N)
            test_M = self._measures(test_signals, test_norm_N)
            enrol_signals = _noted_if_unlike(terms, enrol_M, test_M, enrol_signals)
            test_signals = _noted_if_unlike(terms, test_M, enrol_M, test_signals)
            card = card.for_quality(enrol_M, test_M)
        if self._threshold == self.card.threshold:
            threshold = card.threshold
        assert threshold is not None
        chances = (card.calibration.probability(x) if card.calibration else None for x in (score, threshold))
        probability, asked = chances
        return Verdict(
            score=score,
            same=score >= threshold,
            threshold=threshold,
            probability=probability,
            enrol=enrol_signals,
            test=test_signals,
            band=self.card.conditioning.band,
            threshold_probability=asked,
        )

    def enrol(
        self, name: str, audio: Recordings, *, replace: bool = False, allow_mixed: bool = False
    ) -> Enrolment:
        """Enrol a speaker: only an embedding is kept, no audio.

        Args:
            name: of the speaker.
            audio: one recording or, better, several.
            replace: replace an earlier enrolment of that name.
            allow_mixed: also enrol what may be of two persons.

        Raises:
            MixedSpeakersError: recordings, or channels, score against one another as two persons do.
            StoreError: the name is taken or cannot be one, or the store cannot be written.
        """
        signals, emb_NE, _ = self._embedded(self._signals(audio))
        for signal in signals:
            mixed = [note for note in signal.warnings if note.code == TWO_SPEAKERS and note.serious]
            if mixed and not allow_mixed:
                raise MixedSpeakersError(
                    f"{signal.name}: {mixed[0]}; to enrol all the same, give allow_mixed=True (--allow-mixed)"
                )
        enrolment = Enrolment(
            name=name,
            template_E=_combined(emb_NE),
            model_digest=self.embedder.digest,
            model_name=self.card.name or str(self.embedder.config["model"]["name"]),
            num_recordings=len(signals),
            seconds=sum(signal.seconds for signal in signals),
            signals=signals,
        )
        self.store.add(enrolment, replace=replace)
        return enrolment

    def identify(self, audio: Recordings, *, top: int = 1) -> Identification:
        """Find the speaker of a side among those enrolled with this model; ``top`` candidates are returned.

        Raises:
            ModelError: there is no threshold to decide by.
            StoreError: nobody is enrolled with this model, or the store cannot be read.
        """
        threshold = self.threshold
        signals, emb_NE, _ = self._embedded(self._signals(audio))
        candidates = tuple(self.store.best(_combined(emb_NE), self.embedder.digest, top=top))
        if not candidates:
            others = sum(count.num_speakers for count in self.store.models())
            told = f"; {others} are with another one, or for another --band or conditioning" if others else ""
            raise SpeakerError(f"nobody is enrolled with this model{told}: enrol speakers ('farvox enrol')")
        name, score = candidates[0]
        if self.card.thresholds and self._threshold == self.card.threshold:
            enrolled = [x for x in self.store.listing() if x.name == name]
            numbers = [x.num_recordings for x in enrolled if x.model_digest == self.embedder.digest]
            threshold = self.card.for_recordings(numbers[0] if numbers else 1).threshold or threshold
        found = name if score >= threshold else None
        digest, counts = self.embedder.digest, self.store.models()
        num_speakers = sum(count.num_speakers for count in counts if count.model_digest == digest)
        num_others = sum(count.num_speakers for count in counts if count.model_digest != digest)
        return Identification(found, score, threshold, candidates, num_speakers, num_others, signals)

    def forget(self, name: str) -> int:
        """Remove every enrolment of a speaker; returns how many there were.

        Raises:
            StoreError: nobody of that name is enrolled.
        """
        return self.store.remove(name)

    def _is_for_narrow(self, signals: Sequence[Signal]) -> bool:
        is_narrow = any(note.code == NARROW_BAND for signal in signals for note in signal.warnings)
        can_decide = self.card.narrow_threshold is not None and self._threshold == self.card.threshold
        return self.band == "auto" and is_narrow and can_decide

    def _narrow(self) -> Verifier:
        """The verifier that hears nothing above 4 kHz, with the same network."""
        embedder = copy(self.embedder)
        embedder.card = self.card.for_band("narrow")
        return Verifier(embedder, vad=self.vad, channel=self.channel)

    def _signals(self, side: Recordings) -> tuple[Signal, ...]:
        recordings: list[Recording] = list(side) if _is_several(side) else [side]  # type: ignore[arg-type,list-item]
        if not recordings:
            raise AudioError("a side has no recordings; it needs at least one")
        return tuple(map(self.signal, recordings))

    def _embedded(self, signals: Sequence[Signal]) -> EmbeddedSide:
        """A side: the signals, noted where they disagree, embeddings of length 1 of each: emb_NE, and norms.

        A norm is the length of the embedding that the network gives, the mean over the channels.
        """
        channels = [(wav_T, signal.name) for signal in signals for wav_T in signal.channels_CT]
        embed, num_samples = partial(embed_named, self.embedder), sum(len(wav_T) for wav_T, _ in channels)
        if len(channels) == 1 or memory_for(self.embedder, num_samples) > available_memory():
            rows = list(starmap(embed, channels))
        else:
            with self.embedder.side_by_side() as pool:
                rows = list(pool.map(embed, *zip(*channels, strict=True)))
        for signal, row in zip((s for s in signals for _ in s.channels_CT), rows, strict=True):
            if not 0 < float(np.linalg.norm(row)) < float("inf"):
                raise AudioError(f"{signal.name}: gives no usable embedding (it is zero or not finite)")
        ends = np.cumsum([len(signal.channels_CT) for signal in signals])
        parts = np.split(np.stack([_length_normalised(row) for row in rows]), ends[:-1])
        voices = [self._of_one_voice(*each) for each in zip(signals, parts, strict=True)]
        emb_NE = np.stack([_combined(emb_CE) for _, emb_CE in voices])
        notes = self._disagreements([signal.name for signal in signals], emb_NE)
        noted = [
            replaced(signal, warnings=(*signal.warnings, notes[n])) if n in notes else signal
            for n, (signal, _) in enumerate(voices)
        ]
        norms = np.split(np.linalg.norm(np.stack(rows), axis=1), ends[:-1])
        norm_N = [
            float(norm_C[np.isin(before.channel_numbers, after.channel_numbers)].mean())
            for before, after, norm_C in zip(signals, noted, norms, strict=True)
        ]
        return EmbeddedSide(tuple(noted), emb_NE, norm_N)

    def _measures(self, signals: Sequence[Signal], norm_N: Sequence[float]) -> Measured:
        """The `farvox.audio.quality.MEASURES` of a side: means over its recordings and their channels."""
        rate = self.embedder.sample_rate
        of_samples = [
            np.mean([measure(wav_T, rate, signal.sample_rate) for wav_T in signal.channels_CT], axis=0)
            for signal in signals
        ]
        return np.append(np.mean(of_samples, axis=0), np.mean(norm_N))

    def _of_one_voice(self, signal: Signal, emb_CE: Embedding) -> tuple[Signal, Embedding]:
        """Leave out, with a note, the channels that score below the threshold against `most_speech`."""
        numbers, most = signal.channel_numbers, signal.most_speech
        score_C = emb_CE @ emb_CE[most]
        score_C[most] = 1.0
        if self._threshold is None or score_C.min() >= self._threshold:
            return signal, emb_CE
        kept = [n for n in range(len(score_C)) if score_C[n] >= self._threshold]
        lowest = int(np.argmin(score_C))
        first, second = sorted((numbers[lowest], numbers[most]))
        others = ", ".join(str(numbers[n]) for n in range(len(numbers)) if n not in kept)
        text = (
            f"channel {first} and channel {second} score {score_C[lowest]:.3f} against one another (the "
            f"threshold is {self._threshold:.3f}): they may be two persons, or a person and another sound; "
            f"left out: {others} (counted from 0), as channel {numbers[most]} holds more speech; --channel "
            "takes one of them"
        )
        if signal.detector == "energy":
            text += "; pip install 'farvox[vad]' tells speech from other sounds"
        left = replaced(
            signal,
            channels_CT=signal.channels_CT[kept],
            channel_numbers=tuple(numbers[n] for n in kept),
            warnings=(*signal.warnings, CodedNote(text, TWO_SPEAKERS, serious=True)),
            most_speech=kept.index(most),
        )
        return left, emb_CE[kept]

    def _disagreements(self, names: Sequence[str], emb_NE: Embedding) -> dict[int, CodedNote]:
        """Notes on the recordings of a side that score below the threshold against half of the others.

        A threshold that few strangers pass is missed by one person in several rooms; so it is serious below
        the score that the card's calibration finds as likely of two persons as of one.
        """
        if self._threshold is None:
            return {}
        bar = self._threshold
        if self.calibration and not self.calibration.terms:
            bar = min(bar, -self.calibration.offset / self.calibration.scale)
        cosine_NN, last, notes = emb_NE @ emb_NE.T, len(emb_NE) - 1, {}
        np.fill_diagonal(cosine_NN, np.inf)
        for n in range(0 if last > 1 else 1, last + 1):  # of two, the second is named
            if 2 * int((cosine_NN[n] < self._threshold).sum()) < last:
                continue
            lowest = int(np.argmin(cosine_NN[n]))
            serious = 2 * int((cosine_NN[n] < bar).sum()) >= last
            text = (
                f"it and '{names[lowest]}' score {cosine_NN[n, lowest]:.3f} against one another (the "
                f"threshold is {self._threshold:.3f}): they may be two persons"
            )
            notes[n] = CodedNote(text, TWO_SPEAKERS, serious)
        return notes


def _noted_if_unlike(
    terms: Sequence[QualityTerm], own_M: Measured, other_M: Measured, signals: tuple[Signal, ...]
) -> tuple[Signal, ...]:
    """A side, with a note on its first recording for each of its measures that a calibration has not seen."""
    notes = {}
    for term in terms:
        own, value = own_M[MEASURES.index(term.measure)], value_of(term.measure, term.side, own_M, other_M)
        if own == value and is_outside(term, value, _CLEARLY):
            notes[term.measure] = CodedNote(
                f"its '{term.measure}' is {own:.3g}, and the calibration has seen {term.low:.3g} to "
                f"{term.high:.3g}: the decision may be less sure than it says",
                UNLIKE_CALIBRATION,
            )
    first, *rest = signals
    return (replaced(first, warnings=(*first.warnings, *notes.values())), *rest) if notes else signals


def _noted_if_among(others: Sequence[Signal], signal: Signal) -> Signal:
    """A recording, with a note where a channel of it has the samples of one of ``others``."""
    for other in others:
        if any(np.array_equal(a_T, b_T) for a_T in signal.channels_CT for b_T in other.channels_CT):
            text = f"the same recording as '{other.name}': such a score says nothing of the speaker"
            return replaced(
                signal, warnings=(*signal.warnings, CodedNote(text, SAME_RECORDING, serious=True))
            )
    return signal


def checked_threshold(threshold: float) -> float:
    """Convert a threshold to a number.

    Raises:
        UsageError: it is not a cosine.
    """
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        value = float("nan")
    if not -1 <= value <= 1:
        raise UsageError(f"the threshold {threshold!r} is no cosine: it lies from -1 to 1")
    return value


def _is_several(side: Recordings) -> bool:
    """True for a list of recordings, or a tuple of them that is not ``(array, rate)``."""
    if not isinstance(side, tuple):
        return isinstance(side, list)
    is_recording = isinstance(side[0], str | os.PathLike | Signal | tuple) if side else True
    return is_recording or hasattr(side[0], "read")


def _combined(emb_NE: Embedding) -> Embedding:
    return _length_normalised(emb_NE.mean(axis=0)) if len(emb_NE) > 1 else emb_NE[0]


def _length_normalised(emb_E: Embedding) -> Embedding:
    normalised: Embedding = (emb_E / np.linalg.norm(emb_E)).astype(np.float32)
    return normalised
