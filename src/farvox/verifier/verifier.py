"""The verifier: recordings in, decisions out, with one model and, for enrolment, one store of speakers.

A *side* is a recording or a list of recordings of one speaker. The channels of a recording, and the
recordings of a side, are combined as the mean of their length-normalised embeddings.

Shape suffixes: C channel, T sample, E embedding, N recording.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from farvox.errors import AudioError, ModelError, UsageError
from farvox.verifier.enrolment import Enrolment
from farvox.verifier.signal import AudioArgument, Signal, Vad, read_signal
from farvox.verifier.store import SpeakerStore, SqliteStore
from farvox.zoo import DEFAULT_MODEL, Calibration, Card, Embedder, open_embedder
from farvox.zoo.embedder import Backend

if TYPE_CHECKING:
    from pathlib import Path

Embedding = npt.NDArray[np.float32]
Recording: TypeAlias = "AudioArgument | Signal"
Recordings: TypeAlias = "Recording | Sequence[Recording]"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on two sides; unpacks as ``score, same``.

    Attributes:
        score: cosine similarity of the two sides, from -1 to 1.
        same: True where the score reaches the threshold: the same speaker.
        threshold: lowest score of the same speaker.
        probability: of the same speaker, at equal prior probability of both answers; None where the model's
            card has no calibration.
        enrol: the recordings of the first side, each with its warnings.
        test: those of the second side.
    """

    score: float
    same: bool
    threshold: float
    probability: float | None
    enrol: tuple[Signal, ...]
    test: tuple[Signal, ...]

    def __iter__(self) -> Iterator[float | bool]:
        yield self.score
        yield self.same


@dataclass(frozen=True, slots=True)
class Identification:
    """The enrolled speaker of a recording, if any; unpacks as ``name, score``.

    Attributes:
        name: the enrolled speaker; None where nobody reaches the threshold.
        score: cosine similarity to the best candidate; NaN where nobody is enrolled.
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

    def __iter__(self) -> Iterator[str | float | None]:
        yield self.name
        yield self.score


class Verifier:
    """Decides whether recordings are of the same speaker.

    Every method takes recordings as a path, a binary file object or ``(array, rate)``, the array [T] or
    [C, T] of floats in [-1, 1] or of int16 or int32; and a list of recordings where one speaker has several.
    A recording that cannot be judged raises an `AudioError`, see `farvox.verifier.signal.read_signal`.

    Args:
        embedder: the model.
        threshold: lowest score of the same speaker, a cosine; None: that of the model's card.
        vad: see `farvox.verifier.signal.read_signal`.
        store: of the enrolled speakers; None: a file in the user's data folder, opened when first needed.

    Raises:
        UsageError: the threshold is not a cosine.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        threshold: float | None = None,
        vad: Vad = "check",
        store: SpeakerStore | None = None,
    ) -> None:
        self.embedder = embedder
        self.vad: Vad = vad
        self._threshold = embedder.card.threshold if threshold is None else checked_threshold(threshold)
        self._store = store

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str = "cpu",
        backend: Backend = "auto",
        threshold: float | None = None,
        vad: Vad = "check",
        store: SpeakerStore | None = None,
    ) -> Verifier:
        """Make a verifier with a model of any kind.

        Args:
            model: a name of the zoo (pulled on first use), a model folder, a run dir, ``RUN_DIR@37``, or an
                exported ``.onnx`` file, which needs no torch.
            device: of torch: cpu, cuda, mps or auto.
            backend: see `farvox.zoo.find.open_embedder`.
            threshold: see the class, like the rest.

        Raises:
            ModelError: there is no such model, or it cannot be fetched.
            MissingExtraError: torch or onnxruntime is not installed.
        """
        embedder = open_embedder(model, device, backend=backend)
        return cls(embedder, threshold=threshold, vad=vad, store=store)

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
            raise ModelError(
                "this model has no threshold, so nothing can be decided: give one (threshold=, --threshold), "
                "or let 'farvox calibrate' choose one on your trials and write it into the model's card"
            )
        return self._threshold

    @property
    def store(self) -> SpeakerStore:
        """The store of the enrolled speakers."""
        if self._store is None:
            self._store = SqliteStore()
        return self._store

    def signal(self, audio: Recording) -> Signal:
        """Read a recording for this verifier; a `Signal`, which was read already, is returned as it is."""
        if isinstance(audio, Signal):
            return audio
        rate, least = self.embedder.sample_rate, self.embedder.min_samples
        return read_signal(audio, sample_rate=rate, min_samples=least, vad=self.vad)

    def embed(self, audio: Recordings) -> Embedding:
        """Embeddings of length 1, whose dot product is the score: emb_E of a recording, emb_NE of several."""
        emb_NE = self._embeddings(self._signals(audio))
        return emb_NE if _is_several(audio) else emb_NE[0]

    def verify(self, enrol: Recordings, test: Recordings) -> Verdict:
        """Decide whether two sides are of the same speaker.

        Raises:
            ModelError: there is no threshold to decide by.
        """
        threshold = self.threshold
        enrol_signals, test_signals = self._signals(enrol), self._signals(test)
        emb_NE = self._embeddings([*enrol_signals, *test_signals])
        cosine = _combined(emb_NE[: len(enrol_signals)]) @ _combined(emb_NE[len(enrol_signals) :])
        score = min(1.0, max(-1.0, float(cosine)))
        probability = self.calibration.probability(score) if self.calibration else None
        return Verdict(score, score >= threshold, threshold, probability, enrol_signals, test_signals)

    def enrol(self, name: str, audio: Recordings, *, replace: bool = False) -> Enrolment:
        """Enrol a speaker: only an embedding is kept, no audio.

        Args:
            name: of the speaker.
            audio: one recording or, better, several.
            replace: replace an earlier enrolment of that name.

        Raises:
            StoreError: the name is taken or cannot be one, or the store cannot be written.
        """
        signals = self._signals(audio)
        enrolment = Enrolment(
            name=name,
            template_E=_combined(self._embeddings(signals)),
            model_digest=self.embedder.digest,
            model_name=self.card.name or str(self.embedder.config["model"]["name"]),
            num_recordings=len(signals),
            seconds=sum(signal.seconds for signal in signals),
        )
        self.store.add(enrolment, replace=replace)
        return enrolment

    def identify(self, audio: Recordings, *, top: int = 1) -> Identification:
        """Find the speaker of a side among those enrolled with this model; ``top`` candidates are returned.

        Raises:
            ModelError: there is no threshold to decide by.
            StoreError: the store cannot be read.
        """
        threshold = self.threshold
        signals = self._signals(audio)
        emb_E = _combined(self._embeddings(signals))
        candidates = tuple(self.store.best(emb_E, self.embedder.digest, top=top))
        name, score = candidates[0] if candidates else (None, float("nan"))
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

    def _signals(self, side: Recordings) -> tuple[Signal, ...]:
        recordings: list[Recording] = list(side) if _is_several(side) else [side]  # type: ignore[arg-type,list-item]
        if not recordings:
            raise AudioError("a side has no recordings; it needs at least one")
        return tuple(map(self.signal, recordings))

    def _embeddings(self, signals: Sequence[Signal]) -> Embedding:
        """Embeddings of length 1, with the channels of each signal combined: emb_NE."""
        channels = [wav_T for signal in signals for wav_T in signal.channels_CT]
        if len(channels) == 1:
            rows = [self.embedder.embed(channels[0])]
        else:
            with self.embedder.side_by_side() as pool:
                rows = list(pool.map(self.embedder.embed, channels))
        for signal, row in zip((s for s in signals for _ in s.channels_CT), rows, strict=True):
            if not 0 < float(np.linalg.norm(row)) < float("inf"):
                raise AudioError(f"{signal.name}: gives no usable embedding (it is zero or not finite)")
        ends = np.cumsum([len(signal.channels_CT) for signal in signals])
        parts = np.split(np.stack([_length_normalised(row) for row in rows]), ends[:-1])
        return np.stack([_combined(part) for part in parts])


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
