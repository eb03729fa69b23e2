"""Recordings that strangers sent, read in processes that can be killed.

A worker has a limit of memory; one that takes too long is ended, and another one takes its place.
"""

from __future__ import annotations

import asyncio
import resource
import signal
from concurrent.futures import TimeoutError as TooLate
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, Self

import numpy as np
from pebble import ProcessExpired, ProcessPool

from farvox.audio.files import Content, audio_info
from farvox.children import end_with_parent
from farvox.errors import AudioError, OversizeError
from farvox.machine import is_out_of_memory, return_freed_memory
from farvox.verifier.signal import Signal, read_signal

WORKER_BYTES = 2 << 30


class Decoder:
    """A pool of processes that read recordings.

    Args:
        workers: number of processes.
        seconds: longest time for one recording.
        max_seconds: of a recording.
        reading: further arguments of `farvox.verifier.read_signal`.
    """

    def __init__(self, *, workers: int, seconds: float, max_seconds: float, reading: dict[str, Any]) -> None:
        self.seconds = seconds
        self.max_seconds = max_seconds
        self.reading = reading
        context = get_context("spawn")
        self._pool = ProcessPool(workers, context=context, initializer=_begin, initargs=(reading,))
        for _ in range(workers):  # so that all are there before the first recording
            self._pool.schedule(_warm)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    async def read(self, name: str, content: bytes) -> Signal:
        """Read a recording.

        Raises:
            OversizeError: it is too long, or takes more time or memory than is given.
            AudioError: as `farvox.verifier.read_signal`.
        """
        words = (name, content, self.max_seconds, self.reading)
        try:
            signal: Signal = await asyncio.wrap_future(
                self._pool.schedule(_read, args=words, timeout=self.seconds)
            )
            return signal
        except TooLate:
            raise OversizeError(f"{name}: takes more than {self.seconds:g} s to decode") from None
        except Exception as error:
            if is_out_of_memory(error):
                raise OversizeError(f"{name}: takes more memory to decode than is given") from None
            if isinstance(error, ProcessExpired):  # a fault of a library, or no memory
                raise AudioError(f"{name}: cannot be decoded: it ended the process that tried") from None
            raise


def _begin(reading: dict[str, Any]) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent ends its workers
    noise_T = 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    with suppress(AudioError):
        read_signal((noise_T, 16000), **reading)  # loads what it needs
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (WORKER_BYTES, WORKER_BYTES))


def _warm() -> None:
    """Start a worker."""


def _read(name: str, content: bytes, max_seconds: float, reading: dict[str, Any]) -> Signal:
    file = Content(content)
    file.name = name
    try:
        info = audio_info(file)
        seconds = info.num_samples / info.sample_rate
        if seconds > max_seconds:
            raise OversizeError(f"{name}: {seconds:.0f} s long; at most {max_seconds:g} s are taken")
        file.seek(0)
        return read_signal(file, **reading)
    finally:
        return_freed_memory()  # some formats are decoded whole to know their length
