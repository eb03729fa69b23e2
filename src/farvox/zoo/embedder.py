"""Waveform in, embedding out: all that extraction and the verifier know of a model.

There are three, by the library that computes: `torch_backend`, `onnx_backend` and `openvino_backend`. Whole
files are embedded side by side by `FileEmbedder`.

Shape suffixes: T sample, E embedding.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from socket import gethostname
from threading import Lock, Semaphore
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from farvox.audio.files import checked_samples, open_audio, resample
from farvox.audio.levels import is_narrow, refuse_silence
from farvox.audio.quality import OF_SAMPLES, measure
from farvox.audio.speech import ENOUGH_SECONDS, find_by_energy
from farvox.errors import AudioError, MissingExtraError, ModelError, UnreachableError
from farvox.jobs import Rejected
from farvox.machine import available_memory
from farvox.models.options import ERes2NetV2Options
from farvox.zoo.card import Card

Wave = npt.NDArray[np.float32]
Embedding = npt.NDArray[np.float32]
Precision = Literal["fp32", "bf16"]
"""Of the multiplications of a network."""
Backend = Literal["auto", "torch", "onnx", "openvino"]
"""What computes: ``onnx`` is onnxruntime, ``auto`` the faster of it and torch at equal embeddings."""
PRECISIONS = ("fp32", "bf16")
LOOK_AHEAD = 8  # utterances under way per thread, some of them as samples: a million do not wait in memory
NUM_FACTS = 6
"""Numbers behind an embedding: the measures `farvox.audio.quality.OF_SAMPLES` and the signal-to-noise ratio
in dB, or NaN; the rate of the file in Hz; and a sum of `NARROW` and `ELSEWHERE`."""
NARROW, ELSEWHERE = 1, 2  # nothing above 4 kHz; no speech in the channel that was taken, but in another
_BYTES_PER_SECOND = 0.2e9 / 60  # 0.39, 0.57, 0.92 GB in all for 1, 2, 4 minutes of CAM++ by onnxruntime
_BYTES_A_CHANNEL = 1.1e9 / 60 / 128  # of ERes2NetV2's first stage: 1.1 and 2.1 GB a minute for 128 and 256
_LONG = 2e9  # bytes that one embedding takes
_PIECE = 60  # seconds
READERS = 2  # files read at a time per thread that embeds, so that no model waits for a disk that is far away


class Embedder(Protocol):
    """A model in evaluation mode: one waveform in, one embedding out.

    Attributes:
        card: the model card; empty where there is none.
    """

    card: Card

    @property
    def backend(self) -> str:
        """The library that computes: ``torch``, ``onnxruntime`` or ``openvino``, with its version."""

    @property
    def precision(self) -> str:
        """Of the multiplications: ``fp32`` or ``bf16``."""

    @property
    def config(self) -> dict[str, Any]:
        """The content of the model's ``config.json``."""

    @property
    def digest(self) -> str:
        """SHA-256 of front-end, architecture, weights and the card's conditioning: embeddings of equal
        digests can be compared.
        """

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""

    @property
    def min_samples(self) -> int:
        """Samples in the shortest waveform that can be embedded."""

    @property
    def embedding_dim(self) -> int:
        """Numbers per embedding."""

    def embed(self, wav_T: Wave) -> Embedding:
        """Embed float32 samples in [-1, 1] at `sample_rate`: emb_E, float32, not length-normalised.

        They are conditioned first, as the card says.

        Raises:
            AudioError: it is shorter than `min_samples`, or on a CPU needs more memory than there is.
        """

    def side_by_side(self, workers: int = 0) -> AbstractContextManager[ThreadPoolExecutor]:
        """A pool of ``workers`` threads, 0 for one a core, in each of which `embed` takes one CPU thread."""


def repr_of(embedder: Embedder) -> str:
    """The repr of an embedder: its class, its model and what computes."""
    name = embedder.card.name or embedder.config["model"]["name"]
    return f"<{type(embedder).__name__} of {name}: {embedder.embedding_dim} numbers, {embedder.backend}>"


def origin_of(embedder: Embedder) -> dict[str, Any]:
    """The model in the metadata of embeddings, see `farvox.datadir.embeddings.ORIGIN`."""
    names = ("model", "frontend", "epoch")
    return {
        **{name: embedder.config.get(name) for name in names},
        "conditioning": asdict(embedder.card.conditioning) if embedder.card.conditioning else {},
        "digest": embedder.digest,
    }


def refuse_short(num_samples: int, min_samples: int) -> None:
    """Raise an `AudioError` for a waveform that a network cannot see as a whole."""
    if num_samples < min_samples:
        raise AudioError(f"{num_samples} samples are too few: the model needs at least {min_samples}")


def memory_for(embedder: Embedder, num_samples: int) -> float:
    """Bytes that embedding a waveform takes on a CPU, about: those of CAM++, or of ERes2NetV2 by its width.

    ECAPA takes as many as CAM++, ResNet-34 half as many more, an x-vector half of them.
    """
    bytes_per_second, model = _BYTES_PER_SECOND, embedder.config["model"]
    if model.get("name") == "eres2netv2":
        options = ERes2NetV2Options(**model.get("kwargs", {}))
        bytes_per_second = _BYTES_A_CHANNEL * options.channels * options.expansion
    return bytes_per_second * num_samples / embedder.sample_rate


def refuse_long(embedder: Embedder, num_samples: int) -> None:
    """Raise an `AudioError` for a waveform that the memory of this machine is too small for.

    The system ends a process that takes more than there is, without a word.
    """
    needed, available = memory_for(embedder, num_samples), available_memory()
    if needed > available:
        minutes = num_samples / embedder.sample_rate / 60
        raise AudioError(
            f"{minutes:.1f} minutes need about {needed / 1e9:.2g} GB of memory to be embedded, and "
            f"{available / 1e9:.2g} GB are available; cut it into pieces: `ffmpeg -i IN -f "
            f"segment -segment_time {_PIECE} OUT%03d.wav`, or `sox IN OUT.wav trim 0 {_PIECE} : newfile : "
            "restart`"
        )


def embed_files(
    embedder: Embedder, utt_ids: Sequence[str], wav_paths: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Embeddings of whole files; shape [N, E].

    Raises:
        AudioError: a file cannot be embedded; names the first such utterance.
    """
    with FileEmbedder(embedder) as embed:
        content, rejected = embed(list(zip(utt_ids, wav_paths, strict=True)))
    if rejected:
        utt_id, why = next(iter(rejected.items()))
        raise AudioError(f"utterance '{utt_id}': {why}")
    rows = np.frombuffer(content, "<f4").reshape(-1, embedder.embedding_dim + NUM_FACTS)
    return np.ascontiguousarray(rows[:, :-NUM_FACTS])


def embed_named(embedder: Embedder, wav_T: Wave, name: str) -> Embedding:
    """`Embedder.embed`; its errors begin with the name of the recording."""
    try:
        return embedder.embed(wav_T)
    except AudioError as error:
        raise type(error)(f"{name}: {error}") from None


def import_extra(module: str, remedy: str) -> Any:
    """Import a module that an extra brings.

    Raises:
        MissingExtraError: it is not installed; the message is ``remedy``.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(remedy) from error


@contextmanager
def pool_of(workers: int, begin: Callable[..., object], *arguments: object) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, each of which begins with a call; at the end what waits in it is dropped."""
    pool = ThreadPoolExecutor(workers, initializer=begin, initargs=arguments)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class FileEmbedder:
    """Embeds batches of files, several files at a time, read ahead by threads of their own.

    Whole utterances side by side, each on one thread, beat one utterance on several threads: short operations
    do not wait for each other. Two batches may be under way: the files of the second follow those of the
    first, so that no thread waits for the last file of a batch.

    Args:
        embedder: the model; its sample rate is what files are read at.
        threads: files read and embedded at a time, each on one CPU thread; 0: one per core.
        measured: also estimate each file's signal-to-noise ratio, `farvox.farfield.mixing.energy_snr`, and
            the measures of `farvox.audio.quality`.
        channel: the one that is taken of each file, or "most-speech".

    Raises:
        UnreachableError: the store of remote audio does not answer.
    """

    def __init__(
        self,
        embedder: Embedder,
        threads: int = 0,
        *,
        measured: bool = False,
        channel: int | Literal["most-speech"] = 0,
    ) -> None:
        workers = threads or os.cpu_count() or 1
        self._embedder, self._measured, self._channel = embedder, measured, channel
        self._readers = ThreadPoolExecutor(READERS * workers)
        self._side_by_side = embedder.side_by_side(threads)
        self._free, self._turn = Semaphore(LOOK_AHEAD * workers), Lock()
        self._long = Lock()  # recordings that need much memory are embedded one after another
        self._start, self._seconds = time.monotonic(), 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        """For a worker on another machine, which has one CPU."""
        return _in_worker, (self._embedder, self._embedder.backend, self._measured, self._channel)

    def __enter__(self) -> Self:
        self._pool = self._side_by_side.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._side_by_side.__exit__(*error)
        self._readers.shutdown(cancel_futures=True)

    def __call__(self, batch: Sequence[tuple[str, str]]) -> tuple[bytes, Rejected]:
        """A float32 row a file, as bytes: its embedding, and `NUM_FACTS` facts.

        The second result names the utterances whose file cannot be read, is too short, is silence or gives a
        non-finite embedding, with the reason; their rows are NaN.
        """
        rows = []
        with self._turn:
            for _, path in batch:
                self._free.acquire()
                wav = self._readers.submit(self._read, path)
                rows.append(self._pool.submit(self._embed, path, wav))
                rows[-1].add_done_callback(lambda _: self._free.release())
        results = [row.result() for row in rows]
        rejected = {
            utt_id: row for (utt_id, _), row in zip(batch, results, strict=True) if isinstance(row, str)
        }
        nothing = np.full(self._embedder.embedding_dim + NUM_FACTS, np.nan, "<f4").tobytes()
        return b"".join([nothing if isinstance(row, str) else row for row in results]), rejected

    def speed(self) -> str:
        """Seconds of audio a second."""
        return f"{self._seconds / (time.monotonic() - self._start):.0f} x real time"

    def _read(self, path: str) -> tuple[Wave, int, int]:
        """The channel that is taken at the model's rate, the rate of the file, and facts."""
        facts, taken = 0, self._channel
        with open_audio(path) as file:
            own_rate, num_channels = file.info.sample_rate, file.info.num_channels
            if taken != "most-speech" and taken >= num_channels:
                raise AudioError(f"{path}: has no channel {taken}; it has {num_channels}, counted from 0")
            if num_channels == 1:
                return file.read(sample_rate=self._embedder.sample_rate), own_rate, facts
            wav_CT = file.frames_of(0, file.info.num_samples).T
        speech = find_by_energy(np.nan_to_num(wav_CT, posinf=0, neginf=0), own_rate)
        if taken == "most-speech":
            taken = speech.most
        elif taken not in speech.channels and speech.seconds >= ENOUGH_SECONDS:
            facts = ELSEWHERE
        wav_T = checked_samples(path, wav_CT[taken])
        return resample(wav_T, own_rate, self._embedder.sample_rate), own_rate, facts

    def _embed(self, path: str, read: Future[tuple[Wave, int, int]]) -> bytes | str:
        """The row of a file, or the reason why there is none."""
        embedder = self._embedder
        try:
            wav_T, own_rate, facts = read.result()
            if len(wav_T) < embedder.min_samples:
                return f"{path}: has {len(wav_T)} samples; the model needs at least {embedder.min_samples}"
            refuse_silence(wav_T, embedder.sample_rate, path)
            with self._long if memory_for(embedder, len(wav_T)) > _LONG else nullcontext():
                emb_E = embed_named(embedder, wav_T, path)
        except UnreachableError:  # the recording may be as good as any
            raise
        except AudioError as error:
            return str(error)
        if not np.isfinite(emb_E).all():
            return f"{path}: gives a non-finite embedding"
        found, quality = np.full(len(OF_SAMPLES), np.nan), np.nan
        if self._measured:
            from farvox.farfield.mixing import energy_snr  # with scipy, which a device need not have

            quality = energy_snr(wav_T, embedder.sample_rate)
            found = measure(wav_T, embedder.sample_rate, own_rate)
            narrow = bool(found[OF_SAMPLES.index("narrow")])
        else:
            narrow = is_narrow(wav_T, embedder.sample_rate, own_rate)
        self._seconds += len(wav_T) / embedder.sample_rate
        facts += NARROW * narrow
        return np.concatenate((emb_E, found, (quality, own_rate, facts))).astype("<f4").tobytes()


def _in_worker(
    embedder: Embedder, backend: str, measured: bool, channel: int | Literal["most-speech"]
) -> FileEmbedder:
    """An embedder of files in a process of its own, which ends with it."""
    if embedder.backend != backend:
        raise ModelError(
            f"{gethostname()} computes by {embedder.backend}, and the machine that began by {backend}: "
            "install the same on all, or embeddings differ in their last digits"
        )
    return FileEmbedder(embedder, 1, measured=measured, channel=channel).__enter__()
