"""The exception tree: what went wrong, where, and what to do about it.

Every error a user can cause derives from `FarvoxError`; the command line prints its message without a
traceback and exits with status 1 (2 where 1 is an answer). A message names the file, line or utterance.
"""

from __future__ import annotations


class FarvoxError(Exception):
    """Base of every error that the input, not the program, is at fault for."""


class AudioError(FarvoxError):
    """An audio file or signal cannot be used."""


class UnreachableError(AudioError):
    """Audio lies elsewhere, and what keeps it gives no answer or no access."""


class DataDirError(FarvoxError):
    """A data dir is missing, inconsistent or damaged."""


class CorpusError(FarvoxError):
    """A corpus on disk is not laid out as its publisher ships it."""


class TrialError(FarvoxError):
    """A trial list or a score file cannot be read, or does not fit its partner."""


class UsageError(FarvoxError):
    """The command line has words that mean nothing there; the command exits with status 2."""


class RecipeError(FarvoxError):
    """A recipe has an unknown key, a value of the wrong kind, or settings that exclude each other."""


class ModelError(FarvoxError):
    """A model name, folder or configuration is not usable."""


class CheckpointError(FarvoxError):
    """A checkpoint or weight file is damaged, foreign, or does not fit the model."""


class CacheError(FarvoxError):
    """The cache cannot hold something; what was to be kept there can be had without it, at a price."""


class NonFiniteLossError(FarvoxError):
    """The training loss became NaN or infinite; the weights were left as they were before the step.

    Attributes:
        steps_ago: how many steps after that one were tried, and left out, before someone looked.
    """

    def __init__(self, message: str, *, steps_ago: int = 0) -> None:
        super().__init__(message)
        self.steps_ago = steps_ago


class MissingExtraError(FarvoxError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class NoSpeechError(AudioError):
    """A recording is silent, or too little of it is speech."""


class TooShortError(AudioError):
    """A recording is shorter than the least that can be judged."""


class StoreError(FarvoxError):
    """The store of enrolled speakers cannot be used, or refuses what is asked of it."""
