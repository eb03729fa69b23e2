"""Answers of the service, as OpenAPI describes them; `farvox.verifier.answers` makes most of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NoteAnswer:
    """A reason why a decision is less certain."""

    code: str
    serious: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class RecordingAnswer:
    """A recording, and notes on it."""

    name: str
    seconds: float
    speech_seconds: float | None
    detector: str
    sample_rate: int
    num_channels: int
    fused_channels: int
    channel_numbers: list[int]
    warnings: list[str]
    notes: list[NoteAnswer]


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """The model that answered, and what it was computed by."""

    model: str
    backend: str


@dataclass(frozen=True, kw_only=True)
class EmbeddingAnswer(ModelAnswer):
    """An embedding of unit length."""

    embedding: list[float]
    recordings: list[RecordingAnswer]


@dataclass(frozen=True, kw_only=True)
class VerdictAnswer(ModelAnswer):
    """A decision on two sides; ``same`` is null where ``strict`` asks for none."""

    score: float
    threshold: float
    same: bool | None
    probability: float | None
    band: str
    enrol: list[RecordingAnswer]
    test: list[RecordingAnswer]


@dataclass(frozen=True, kw_only=True)
class CandidateAnswer:
    """An enrolled speaker, and the score of a recording against them."""

    name: str
    score: float


@dataclass(frozen=True, kw_only=True)
class IdentificationAnswer(ModelAnswer):
    """The enrolled speaker of a recording; ``name`` is null where nobody reaches the threshold."""

    name: str | None
    threshold: float
    candidates: list[CandidateAnswer]
    num_speakers: int
    num_others: int
    test: list[RecordingAnswer]


@dataclass(frozen=True, kw_only=True)
class EnrolmentAnswer(ModelAnswer):
    """An enrolment, with what it was made of."""

    name: str
    num_recordings: int
    seconds: float
    enrolled_at: str
    recordings: list[RecordingAnswer]


@dataclass(frozen=True, kw_only=True)
class ForgottenAnswer:
    """The number of enrolments that were forgotten."""

    forgotten: int


@dataclass(frozen=True, kw_only=True)
class HealthAnswer:
    """The process answers."""

    status: str
    version: str


@dataclass(frozen=True, kw_only=True)
class ReadyAnswer(ModelAnswer):
    """Requests are taken."""

    status: str
