"""Enrolled speakers: a name and a template each, never audio.

Shape suffixes: E embedding dimension.
"""

from __future__ import annotations

import math
import operator
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import SpeakerError, StoreError
from farvox.reprs import short_repr

if TYPE_CHECKING:
    from farvox.verifier.signal import Signal

LONGEST_NAME = 200

# Control, format, surrogate and private characters, line and paragraph separators: they are not printed, or
# change the text around them.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # format characters that names of Persian and of Indian languages need


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """An enrolment without its template, as it is listed.

    Attributes:
        name: of the speaker; stripped and in Unicode normal form C, see `speaker_name`.
        model_digest: SHA-256 that identifies the embedding space; only embeddings of one space compare.
        model_name: name of the model, for people.
        num_recordings: number of recordings in the template.
        seconds: length of their signal in total.
        enrolled_at: ISO 8601, UTC; now, unless it is given.

    Raises:
        StoreError: one of the values is not allowed.
    """

    name: str
    model_digest: str
    model_name: str
    num_recordings: int
    seconds: float
    enrolled_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    __repr__ = short_repr

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", speaker_name(self.name))
        # sqlite3, json and others accept plain numbers only, not numpy's
        object.__setattr__(self, "num_recordings", operator.index(self.num_recordings))
        object.__setattr__(self, "seconds", float(self.seconds))
        if not self.model_digest:
            raise StoreError(f"'{self.name}': an enrolment names its model by a digest; it is empty")
        if self.num_recordings < 1 or not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise StoreError(
                f"'{self.name}': cannot be enrolled from {self.num_recordings} recordings"
                f" of {self.seconds} s; there must be at least one"
            )
        try:
            is_utc = datetime.fromisoformat(self.enrolled_at).utcoffset() == timedelta(0)
        except ValueError:
            is_utc = False
        if not is_utc:
            raise StoreError(
                f"'{self.name}': enrolled at {self.enrolled_at!r}, which is no UTC time in ISO 8601"
            )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Enrolment(Enrolled):
    """A speaker as enrolled with one model.

    Attributes:
        template_E: float32 [E], the mean of the length-normalised embeddings of the recordings. A
            read-only copy of the argument; its length is kept and does not count in comparisons.
        signals: the recordings it was made of, each with its warnings, where they are known.

    Raises:
        StoreError: the template has another shape or dtype, is zero or not finite; see also `Enrolled`.
    """

    template_E: NDArray[np.float32]
    signals: tuple[Signal, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        template_E = np.array(self.template_E)
        if template_E.dtype != np.float32:
            raise StoreError(f"the template of '{self.name}' is {template_E.dtype}, not float32")
        refuse_without_direction(template_E, f"the template of '{self.name}'")
        template_E.flags.writeable = False
        object.__setattr__(self, "template_E", template_E)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Enrolment)
            and super().__eq__(other)
            and np.array_equal(self.template_E, other.template_E)
        )

    def __hash__(self) -> int:
        return super().__hash__()


@dataclass(frozen=True)
class ModelCount:
    """Number of speakers that are enrolled with one model."""

    model_digest: str
    model_name: str  # that of its latest enrolment
    num_speakers: int  # at least 1


def speaker_name(name: str) -> str:
    """Normalise a name: stripped, in Unicode normal form C, so that names that look equal are equal.

    Raises:
        SpeakerError: it is empty, longer than 200 characters, or has characters that cannot be printed.
    """
    kept = unicodedata.normalize("NFC", name).strip()
    categories = [unicodedata.category(char) for char in kept if char not in _JOINERS]
    if not any(category[0] in "LNPS" for category in categories):
        raise SpeakerError(f"{name!r} is no name for a speaker: there is nothing in it to read")
    if not _UNPRINTABLE.isdisjoint(categories):
        raise SpeakerError(f"{name!r} is no name for a speaker: it has characters that do not print")
    if len(kept) > LONGEST_NAME:
        raise SpeakerError(
            f"'{kept[:20]}...' is {len(kept)} characters long; a speaker's name has at most {LONGEST_NAME}"
        )
    return kept


def refuse_without_direction(emb_E: ArrayLike, what: str) -> None:
    """Refuse an embedding that cannot be compared by cosine; ``what`` is its name in the message.

    Raises:
        StoreError: not one dimension, or no length, or not finite.
    """
    emb_E = np.asarray(emb_E)
    if emb_E.ndim != 1 or emb_E.size == 0 or emb_E.dtype.kind != "f":
        raise StoreError(f"{what} is {emb_E.dtype} {list(emb_E.shape)}, not floating-point [dimension]")
    if not np.isfinite(emb_E).all():
        raise StoreError(f"{what} is not finite: it has no direction to compare")
    if not emb_E.any():
        raise StoreError(f"{what} is zero: it has no direction to compare")
