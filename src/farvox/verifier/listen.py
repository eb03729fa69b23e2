"""A decision that grows with the speech: samples in as they come, a look after every second of speech.

`Stream` collects the samples. After every further second of speech, as the verifier's detector counts it in
all that has come, it reads the recording so far as `farvox verify` reads a file; beyond ten seconds, after
every tenth more, so that the work for a second of sound stays the same. `Listener` scores
each of these against the enrolled side and decides by the sequential test of the model's card, once: see
`farvox.score.sequential`. Silence adds nothing, so nothing is read while there is none but that.

A channel of an array that drops out is silenced from its beginning, with a note: then it is left out as any
silent channel is. It has dropped out if a sample of it is not finite, or if it keeps one value, such as zero,
for a second in which another channel does not. It stays out.

Neither looks nor decisions depend on how the samples are cut: they are taken in steps of 0.1 s.

Shape suffixes: C channel, T sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace as replaced
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from farvox.audio.files import check_rate
from farvox.audio.levels import SILENCE_DB, frame_levels, loudest
from farvox.errors import AudioError, NoSpeechError, TooShortError
from farvox.reprs import short_repr
from farvox.verifier.signal import MAX_CHANNELS, CodedNote, Signal, scaled
from farvox.verifier.verifier import EmbeddedSide, Recordings, Verdict, Verifier
from farvox.zoo.card import Decision

if TYPE_CHECKING:
    from farvox.audio.files import Wave

Mask = NDArray[np.bool_]
LONGEST_SECONDS = 300.0
_STEP_SECONDS = 0.1
_DROPPED_SECONDS = 1.0
_RANGE_DB = 40.0  # below the loudest step of a channel so far: no detector takes it for speech
_PATIENCE = 0.02  # of the samples there are: so much more before speech is looked for again


class Stream:
    """A recording that grows.

    Args:
        verifier: reads it: its detector counts the speech, its channel is taken.
        sample_rate: Hz.
        num_channels: of each feed.
        name: for messages.
        longest: seconds, from which on no more is taken.

    Raises:
        AudioError: no such rate or number of channels.
    """

    def __init__(
        self,
        verifier: Verifier,
        sample_rate: int,
        num_channels: int = 1,
        *,
        name: str = "<stream>",
        longest: float = LONGEST_SECONDS,
    ) -> None:
        check_rate(name, sample_rate)
        if not 1 <= num_channels <= MAX_CHANNELS:
            raise AudioError(f"{name}: {num_channels} channels; there are 1 to {MAX_CHANNELS}")
        self.verifier, self.sample_rate, self.name = verifier, sample_rate, name
        self.notes: list[CodedNote] = []
        self._step = round(_STEP_SECONDS * sample_rate)
        self._most = round(min(longest, 1e9) * sample_rate)
        self._buffer_CT: Wave = np.zeros((num_channels, 30 * sample_rate), np.float32)
        self._num_fed = self._num_read = 0  # samples; those that were fed, and those in whole steps
        self._is_out_C: Mask = np.zeros(num_channels, bool)
        self._steps_still_C = np.zeros(num_channels, int)
        self._loudest_C = np.full(num_channels, SILENCE_DB)
        self._unheard = 0.0  # seconds of possible speech since the last reading
        self._target, self._needed = 1.0, 1.0  # seconds of speech at the next look; at least to be added

    @property
    def seconds(self) -> float:
        """Length of what has been taken."""
        return self._num_fed / self.sample_rate

    @property
    def is_full(self) -> bool:
        """True where no more is taken."""
        return self._num_fed >= self._most

    def feed(self, samples: NDArray[Any]) -> Iterator[Signal]:
        """Take samples, and read the recording wherever another second of speech is in it.

        Args:
            samples: [T], or [C, T] of several channels: floats in [-1, 1], int16 or int32; NaN where a
                channel gave none.

        Raises:
            AudioError: samples of another type or number of channels, or not finite in all channels.
        """
        samples = np.asarray(samples)
        wav_CT = scaled(self.name, samples[None] if samples.ndim == 1 else samples)
        if wav_CT.ndim != 2 or len(wav_CT) != len(self._buffer_CT):
            given = f"samples of shape {list(samples.shape)}"
            raise AudioError(f"{self.name}: {given}; they are [{len(self._buffer_CT)}, samples]")
        self._append(wav_CT[:, : self._most - self._num_fed])
        return self._looks()

    def finish(self) -> Signal:
        """Read all that has come, as a file of it is read.

        Raises:
            NoSpeechError: as `farvox.verifier.read_signal`, like the rest.
            TooShortError: there is too little.
            AudioError: nothing has come.
        """
        if not self._num_fed:
            raise AudioError(f"{self.name}: nothing came; look at the source")
        if self._num_read < self._num_fed:
            self._silence(self._num_read, self._num_fed)
        return self._signal(self._num_fed)

    def _append(self, wav_CT: Wave) -> None:
        end = self._num_fed + wav_CT.shape[1]
        if end > self._buffer_CT.shape[1]:
            self._buffer_CT = np.pad(self._buffer_CT, ((0, 0), (0, end)))
        self._buffer_CT[:, self._num_fed : end] = wav_CT
        self._num_fed = end
        if self.is_full and not any(note.code == "longest" for note in self.notes):
            text = f"{self.seconds:g} s of it were taken, and no more is (--longest, longest=)"
            self.notes.append(CodedNote(text, "longest"))

    def _looks(self) -> Iterator[Signal]:
        while self._num_read + self._step <= self._num_fed:
            begin, self._num_read = self._num_read, self._num_read + self._step
            self._silence(begin, self._num_read)
            step_CT = self._buffer_CT[:, begin : self._num_read]
            level_CF = [frame_levels(wav_T, self.sample_rate) for wav_T in step_CT]
            self._loudest_C = np.maximum(self._loudest_C, [loudest(level_F) for level_F in level_CF])
            is_loud_C = np.max(level_CF, axis=1) >= np.maximum(SILENCE_DB, self._loudest_C - _RANGE_DB)
            if is_loud_C.any() or self.verifier.vad == "off":
                self._unheard += _STEP_SECONDS
            if self._unheard < self._needed - 1e-9:
                continue
            spoken, self._unheard = 0.0, 0.0
            try:
                signal = self._signal(self._num_read)
            except (NoSpeechError, TooShortError):
                pass
            else:
                spoken = spoken_seconds(signal)
                if spoken >= self._target:
                    self._target = max(1 + int(spoken), 1.1 * int(spoken))
                    yield signal
            patience = _PATIENCE * len(self._buffer_CT) * self._num_read / self.sample_rate
            self._needed = max(self._target - spoken, patience)

    def _silence(self, begin: int, end: int) -> None:
        """Silence the channels that have dropped out by ``end``; ``begin`` is that of the step."""
        new_CT, is_in_C = self._buffer_CT[:, begin:end], np.logical_not(self._is_out_C)
        finite_C: Mask = np.all(np.isfinite(new_CT), axis=1)
        if not finite_C[is_in_C].any():
            raise AudioError(
                f"{self.name}: at {begin / self.sample_rate:.1f} s no channel has finite samples"
            )
        still_C: Mask = np.all(new_CT == new_CT[:, :1], axis=1)
        if begin:
            still_C &= new_CT[:, 0] == self._buffer_CT[:, begin - 1]
        others_move = (finite_C & is_in_C & ~still_C).any()
        self._steps_still_C = np.where(still_C, self._steps_still_C + others_move, 0)
        most = round(_DROPPED_SECONDS / _STEP_SECONDS)
        for n in np.flatnonzero(is_in_C & (~finite_C | (self._steps_still_C >= most))).tolist():
            why = "keeps one value" if finite_C[n] else "gives no finite samples"
            text = f"channel {n} (counted from 0) {why} at {end / self.sample_rate:.1f} s: it is left out"
            self.notes.append(CodedNote(text, "dropped-channel"))
            self._is_out_C[n] = True
        self._buffer_CT[self._is_out_C, : self._num_fed] = 0

    def _signal(self, num_samples: int) -> Signal:
        wav_CT = self._buffer_CT[:, :num_samples]
        signal = self.verifier.signal((wav_CT, self.sample_rate), self.name)
        return replaced(signal, warnings=(*signal.warnings, *self.notes)) if self.notes else signal


def spoken_seconds(signal: Signal) -> float:
    """The length of its speech; without a detector all is taken for speech."""
    return signal.seconds if signal.speech_seconds is None else signal.speech_seconds


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a stream after another second of speech.

    Attributes:
        seconds: of the stream so far.
        speech_seconds: of the speech in it.
        score: cosine similarity of the enrolled side and all that has come.
        probability: of the same speaker, see `Verdict`.
        decision: "same" or "different" from the look on that decides; "not yet" before, and where the model's
            card has no sequential test.
        notes: reasons why the decision is less certain, of the stream.
    """

    seconds: float
    speech_seconds: float
    score: float
    probability: float | None
    decision: Decision
    notes: tuple[CodedNote, ...]

    __repr__ = short_repr


class Listener:
    """Verifies a stream against an enrolled side while it comes.

        listener = Listener(verifier, "anna.wav", 16000)
        for samples in source:
            for look in listener.feed(samples):
                print(look.score, look.decision)
        verdict = listener.finish()

    Args:
        verifier: decides.
        enrol: recordings of the speaker, or `Verifier.side` of them.
        sample_rate: of the stream, Hz.
        num_channels: of the stream.
        name: of the stream, for messages.
        longest: seconds of the stream from which on no more is taken.

    Attributes:
        decision: of the sequential test of the model's card; once it is "same" or "different" it stays.

    Raises:
        ModelError: there is no threshold to decide by.
        AudioError: see `Stream` and `farvox.verifier.read_signal`.
    """

    def __init__(
        self,
        verifier: Verifier,
        enrol: Recordings | EmbeddedSide,
        sample_rate: int,
        num_channels: int = 1,
        *,
        name: str = "<stream>",
        longest: float = LONGEST_SECONDS,
    ) -> None:
        _ = verifier.threshold
        self.stream = Stream(verifier, sample_rate, num_channels, name=name, longest=longest)
        self.side = enrol if isinstance(enrol, EmbeddedSide) else verifier.side(enrol)
        self.decision: Decision = "not yet"
        self._last = 0  # look of the sequential test

    @property
    def is_over(self) -> bool:
        """True where nothing that may come changes the decision, or no more is taken."""
        test = self.stream.verifier.card.sequential
        is_tested = test is not None and (self.decision != "not yet" or self._last == len(test.same))
        return is_tested or self.stream.is_full

    def feed(self, samples: NDArray[Any]) -> list[Look]:
        """Take samples, see `Stream.feed`; the looks that they give, mostly none."""
        return [self._look(self._verdict(signal)) for signal in self.stream.feed(samples)]

    def finish(self) -> Verdict:
        """Decide on all that has come, as `Verifier.verify` does on a file of it.

        Raises:
            NoSpeechError: see `farvox.verifier.read_signal`, like the rest.
            TooShortError: there is too little.
            AudioError: nothing has come.
        """
        verdict = self._verdict(self.stream.finish())
        self._look(verdict)
        return verdict

    def is_tested(self, verdict: Verdict) -> bool:
        """True where the sequential test decides, and not, at the end, the threshold."""
        has_test = self.stream.verifier.card.sequential is not None
        return has_test and (verdict.band == "full" or self.decision != "not yet")

    def final_decision(self, verdict: Verdict) -> Decision:
        """The decision, with the verdict at the end."""
        return self.decision if self.is_tested(verdict) else "same" if verdict.same else "different"

    def _verdict(self, signal: Signal) -> Verdict:
        return self.stream.verifier.verify(self.side, signal)

    def _look(self, verdict: Verdict) -> Look:
        """Decide by the sequential test, which is for the full band, if the verdict is a look of it."""
        [signal], test = verdict.test, self.stream.verifier.card.sequential
        spoken = spoken_seconds(signal)
        if test and self.decision == "not yet" and verdict.band == "full":
            look = min(int(spoken), len(test.same))
            if look > self._last:
                self.decision, self._last = test.decide(look, verdict.score), look
        told = verdict.score, verdict.probability, self.decision
        return Look(signal.seconds, spoken, *told, signal.warnings)
