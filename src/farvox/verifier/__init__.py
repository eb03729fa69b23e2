"""Recordings in, decisions out; speakers enrolled, identified and forgotten."""

from farvox.verifier.enrolment import Enrolled, Enrolment
from farvox.verifier.listen import Listener, Look
from farvox.verifier.signal import AudioArgument, Channel, CodedNote, Signal, read_signal
from farvox.verifier.store import SpeakerStore, SqliteStore, default_store_path
from farvox.verifier.verifier import Identification, Verdict, Verifier

__all__ = [
    "AudioArgument",
    "Channel",
    "CodedNote",
    "Enrolled",
    "Enrolment",
    "Identification",
    "Listener",
    "Look",
    "Signal",
    "SpeakerStore",
    "SqliteStore",
    "Verdict",
    "Verifier",
    "default_store_path",
    "read_signal",
]
