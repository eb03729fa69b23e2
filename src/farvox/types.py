"""The values that flow along the road: frozen, tiny, free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording of one speaker, as a line of a data dir.

    Attributes:
        utt_id: name of the utterance; no white space.
        wav_path: path of the audio file.
        speaker_id: who speaks, or None where nobody said.
        num_samples: length at the file's own rate, or None where unknown.
    """

    utt_id: str
    wav_path: str
    speaker_id: str | None = None
    num_samples: int | None = None


@dataclass(frozen=True, slots=True)
class TrialSide:
    """One side of a trial: the utterances (takes, or channels of one take) that stand for a speaker."""

    utt_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One question: is the speaker of ``enrol`` the speaker of ``test``?

    Attributes:
        target: True for the same speaker, False for another, None where the key is withheld.
    """

    enrol: TrialSide
    test: TrialSide
    target: bool | None = None
