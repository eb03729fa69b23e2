"""The values that flow along the road: frozen, tiny, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Channels = Literal["mean-norm", "mean", "sum", "score-mean", "best", "weighted", "expand"]
"""How the utterances of a side become one."""
ChannelIds = Literal["enrol", "test", "both", "neither"]
"""Whose ids mean their channels where an utterance of that id is there too."""
Norm = Literal["s-norm", "as-norm"]
"""How scores are normalised by a cohort."""


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
