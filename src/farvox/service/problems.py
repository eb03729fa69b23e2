"""Errors as those who ask are told of them: a status, a code and a text."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from farvox.errors import (
    AudioError,
    FarvoxError,
    MixedSpeakersError,
    NoSpeechError,
    OversizeError,
    SpeakerError,
    StoreError,
    TooShortError,
    UsageError,
)
from farvox.progress import to_stderr


class FullError(FarvoxError):
    """As much as is allowed at a time is being answered."""


class SlowError(FarvoxError):
    """Nothing came for too long."""


CODES: tuple[tuple[type[FarvoxError], int, str], ...] = (
    (FullError, 503, "busy"),
    (SlowError, 408, "slow"),
    (OversizeError, 413, "too-large"),
    (NoSpeechError, 422, "no-speech"),
    (TooShortError, 422, "too-short"),
    (MixedSpeakersError, 422, "mixed-speakers"),
    (AudioError, 422, "unusable-audio"),
    (UsageError, 422, "parameter"),
    (SpeakerError, 409, "speaker"),
    (StoreError, 500, "store"),
    (FarvoxError, 500, "fault"),
)
"""The status and the code of each error, the first class that fits."""
TITLES = {503: "Busy", 401: "No token", 408: "Too slow", 413: "Too large"}
PROBLEM = {
    "type": "object",
    "required": ["title", "status", "code", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
    },
}


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer for an error, as RFC 9457 has it."""
    return JSONResponse(
        problem_fields(status, code, detail), status, headers, media_type="application/problem+json"
    )


def problem_fields(status: int, code: str, detail: str) -> dict[str, Any]:
    """The members of a problem."""
    return {"title": TITLES.get(status, "Not answered"), "status": status, "code": code, "detail": detail}


def described(error: FarvoxError) -> dict[str, Any]:
    """The problem that an error is; of a fault the log has more than a stranger is told."""
    status, code = next((status, code) for kind, status, code in CODES if isinstance(error, kind))
    if status != 500:
        return problem_fields(status, code, str(error))
    to_stderr(f"farvox serve: {error}")
    return problem_fields(status, code, "see the log of the service")
