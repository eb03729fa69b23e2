"""The exceptions of farvox.

Every error a user can cause derives from `FarvoxError`; the command line prints its message without a
traceback and exits with status 1 (2 where 1 is an answer). A message names the file, line or utterance, and
the remedy.
"""

from __future__ import annotations

import signal


class FarvoxError(Exception):
    """Base of every error that is caused by the input, not by a fault of the program."""


class BusyError(FarvoxError):
    """Another process is writing where this one was to write."""


class AudioError(FarvoxError):
    """An audio file or signal cannot be used."""


class UnreachableError(AudioError):
    """The store of remote audio does not answer, or denies access."""


class DataDirError(FarvoxError):
    """A data dir is missing, inconsistent or damaged."""


class CorpusError(FarvoxError):
    """A corpus on disk is not laid out as its publisher ships it."""


class JobError(FarvoxError):
    """A job over many items cannot go on: it was begun with other settings, or a process was killed."""


class TrialError(FarvoxError):
    """A trial list or a score file cannot be read, or does not fit its partner."""


class LabelError(TrialError):
    """The labels of trials contradict what is known of their speakers."""


class UsageError(FarvoxError):
    """A word or an option of the command line is not valid; the command exits with status 2."""


class RecipeError(FarvoxError):
    """A recipe has an unknown key, a value of the wrong kind, or settings that exclude each other."""


class ModelError(FarvoxError):
    """A model name, folder or configuration is not usable."""


class CheckpointError(FarvoxError):
    """A checkpoint or weight file is damaged, foreign, or does not fit the model."""


class CacheError(FarvoxError):
    """The cache cannot be used; its content can be computed without it, at the cost of time or memory."""


class NonFiniteLossError(FarvoxError):
    """The training loss became NaN or infinite; the weights were left as they were before the step.

    Attributes:
        steps_ago: number of later steps that were tried and left out before the loss was looked at.
    """

    def __init__(self, message: str, *, steps_ago: int = 0) -> None:
        super().__init__(message)
        self.steps_ago = steps_ago


class StoppedError(FarvoxError):
    """A signal ended the work, which was saved before and can be gone on with.

    Attributes:
        status: exit status of a process that this signal ended.
    """

    def __init__(self, number: int, message: str) -> None:
        what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        super().__init__(f"{what}: {message}")
        self.status: int = 128 + number


class OutOfMemoryError(FarvoxError):
    """The memory of the machine or of the device is not enough; the message says what needs less."""


class MissingExtraError(FarvoxError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class NoSpeechError(AudioError):
    """A recording is silent, or too little of it is speech."""


class TooShortError(AudioError):
    """A recording is too short to be judged."""


class OversizeError(AudioError):
    """A recording is longer or larger, or takes more time or memory to read, than a service accepts."""


class MixedSpeakersError(AudioError):
    """The recordings or channels of a side are of two speakers, as far as the model can tell."""


class StoreError(FarvoxError):
    """The store of enrolled speakers cannot be used, or refuses a request."""


class SpeakerError(StoreError):
    """A name is none for a speaker, is taken or not enrolled, or nobody is; the store itself is in order."""
