"""Answers as JSON, the same from the command line and from the service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from farvox.verifier.listen import Listener, Look
from farvox.verifier.signal import Signal
from farvox.verifier.verifier import Identification, Verdict, Verifier


def model_fields(verifier: Verifier) -> dict[str, Any]:
    """The model that answered, and what it was computed by."""
    return {
        "model": verifier.card.name or verifier.embedder.config["model"]["name"],
        "backend": verifier.embedder.backend,
    }


def verdict_fields(verifier: Verifier, verdict: Verdict, *, strict: bool) -> dict[str, Any]:
    """Everything that is known of a decision; none is made where a note is serious and ``strict``."""
    is_decided = not (strict and any(note.serious for note in verdict.notes))
    same = verdict.same if is_decided else None
    fields = {"score": verdict.score, "threshold": verdict.threshold, "same": same}
    sides = {"enrol": signal_fields(verdict.enrol), "test": signal_fields(verdict.test)}
    told = {"probability": verdict.probability, "band": verdict.band}
    return {**fields, **told, **model_fields(verifier), **sides}


def look_fields(look: Look) -> dict[str, Any]:
    """A look at a stream; its notes are told with the whole."""
    times = {"seconds": look.seconds, "speech_seconds": look.speech_seconds}
    return {**times, "score": look.score, "probability": look.probability, "decision": look.decision}


def stream_fields(listener: Listener, verdict: Verdict, **costs: float) -> dict[str, Any]:
    """Everything that is known of a stream at its end."""
    told = {"score": verdict.score, "probability": verdict.probability, **costs}
    known = {**model_fields(listener.stream.verifier), "test": signal_fields(verdict.test)}
    return {"decision": listener.final_decision(verdict), **told, **known}


def identification_fields(verifier: Verifier, found: Identification, *, strict: bool) -> dict[str, Any]:
    """Everything that is known of who it is; nobody where a note is serious and ``strict``."""
    is_decided = not (strict and any(note.serious for note in found.notes))
    candidates = [{"name": name, "score": score} for name, score in found.candidates]
    fields = {
        "name": found.name if is_decided else None,
        "threshold": found.threshold,
        "candidates": candidates,
    }
    counts = {"num_speakers": found.num_speakers, "num_others": found.num_others}
    return {**fields, **counts, **model_fields(verifier), "test": signal_fields(found.test)}


def signal_fields(signals: Iterable[Signal]) -> list[dict[str, Any]]:
    """Recordings, each with its notes."""
    return [
        {
            "name": signal.name,
            "seconds": round(signal.seconds, 3),
            "speech_seconds": signal.speech_seconds,
            "detector": signal.detector,
            "sample_rate": signal.sample_rate,
            "num_channels": signal.num_channels,
            "fused_channels": len(signal.channels_CT),
            "channel_numbers": signal.channel_numbers,
            "warnings": list(signal.warnings),
            "notes": [{"code": note.code, "serious": note.serious, "text": note} for note in signal.warnings],
        }
        for signal in signals
    ]
