"""The ``[[evaluate]]`` tables of a recipe: trial lists, and how they are scored."""

from __future__ import annotations

import typing
from dataclasses import dataclass

from farvox.score import ChannelIds, Channels, Norm

QUALITY_RULES = ("best", "weighted")
"""Rules that ask how good each recording is."""


@dataclass(frozen=True, kw_only=True)
class EvaluateRecipe:
    """One trial list on one data dir: a column of the table that ``farvox run`` prints.

    The fields from ``channels`` to ``top`` are the options of ``farvox score``, but that a data dir is named
    where that takes its embeddings.
    """

    name: str = ""
    data: str = ""
    trials: str = ""
    channels: str = "mean-norm"
    """How the utterances of a side become one, as in ``farvox score``."""
    channel_ids: str = ""
    """The side whose ids mean their channels where an utterance of that id is there too."""
    first_channel: int = 0
    """Channels with a lower number are left out."""
    allow_missing_channels: bool = False
    """Channels that a side lacks and others have are counted, instead of an error."""
    enrol_map: str = ""
    """File of enrolment ids that stand for several utterances."""
    test_map: str = ""
    """The same of the test side."""
    centre: str = ""
    """Data dir whose mean embedding is subtracted from all others; empty: none is."""
    norm: str = ""
    """``s-norm`` or ``as-norm``; empty: scores as they are."""
    cohort: str = ""
    """Data dir of the cohort of ``norm``: speakers who are in no trial."""
    cohort_speakers: str = ""
    """Data dir or utt2spk of the cohort, which becomes a mean embedding a speaker."""
    top: int = 0
    """How many of the nearest ``as-norm`` takes; 0: 300."""
    by: tuple[str, ...] = ()
    """Conditions by which the figures are also shown, of the test side or, after ``enrol.``, of the other."""
    conditions: tuple[str, ...] = ()
    """Data dirs that have them; empty: ``data``."""

    @property
    def dirs(self) -> tuple[str, ...]:
        """The data dirs that are extracted for it."""
        return tuple(filter(None, (self.data, self.centre, self.cohort)))


CHOICES: dict[str, tuple[str, ...]] = {
    "channels": typing.get_args(Channels),
    "channel_ids": ("", *typing.get_args(ChannelIds)),
    "norm": ("", *typing.get_args(Norm)),
}
"""What some fields of a table may be."""
