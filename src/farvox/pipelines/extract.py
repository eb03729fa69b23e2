"""Embeddings of whole utterances: one at a time, so that none depends on its neighbours.

Shape suffixes: N utterance, E embedding, T sample.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import farvox
from farvox.audio.files import read_audio
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir
from farvox.errors import AudioError
from farvox.farfield.quality import energy_snr
from farvox.zoo import Embedder

Embedding = npt.NDArray[np.float32]
LOOK_AHEAD = 8
"""Utterances under way per thread, some of them as samples: a million do not wait in memory."""
READERS = 2
"""Files read at a time per thread that embeds, so that no model waits for a disk that is far away."""


class _Embedded(NamedTuple):
    """What comes of one file: its embedding [E], its length and its quality in dB."""

    emb_E: Embedding
    seconds: float
    quality: float


@dataclass(frozen=True)
class ExtractProgress:
    """How far an extraction is."""

    done: int
    total: int
    audio_seconds: float
    wall_seconds: float


def extract(
    embedder: Embedder,
    data_dir: DataDir,
    *,
    threads: int = 0,
    progress: Callable[[ExtractProgress], None] | None = None,
    quality: bool = False,
) -> EmbeddingSet:
    """Embeddings of every utterance of a data dir, in ``wav.scp`` order, as the network gives them.

    Args:
        embedder: the model; its sample rate is what files are read at.
        data_dir: needs only ``wav.scp``.
        threads: utterances read and embedded at a time, each on one CPU thread; 0: one per core.
        progress: called after each utterance.
        quality: also estimate each recording's signal-to-noise ratio, `farvox.farfield.quality.energy_snr`.

    Raises:
        AudioError: an utterance cannot be read, is too short, is digital silence, or gives a
            non-finite embedding; names the utterance.
    """
    utt_ids, wav_paths = data_dir.utt_ids.to_list(), data_dir.wav_paths.to_list()
    quality_N = np.empty(len(utt_ids), np.float32) if quality else None
    embeddings = embed_files(
        embedder, utt_ids, wav_paths, threads=threads, progress=progress, quality_N=quality_N
    )
    meta: dict[str, Any] = {
        "farvox_version": farvox.__version__,
        "data_dir": str(data_dir.path),
        "model": embedder.config.get("model"),
        "frontend": embedder.config.get("frontend"),
        "precision": embedder.precision,
        "backend": embedder.backend,
    }
    return EmbeddingSet(utt_ids, embeddings, meta, quality_N)


def embed_files(
    embedder: Embedder,
    utt_ids: Sequence[str],
    wav_paths: Sequence[str],
    *,
    threads: int = 0,
    progress: Callable[[ExtractProgress], None] | None = None,
    quality_N: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Embeddings of whole files; shape [N, E]. Arguments and errors as `extract`; fills ``quality_N``."""
    embeddings = np.empty((len(utt_ids), embedder.embedding_dim), dtype=np.float32)
    start, audio_seconds = time.monotonic(), 0.0
    measured = quality_N is not None
    for row, one in enumerate(_embed_in_order(embedder, utt_ids, wav_paths, threads, measured)):
        embeddings[row] = one.emb_E
        audio_seconds += one.seconds
        if quality_N is not None:
            quality_N[row] = one.quality
        if progress:
            progress(ExtractProgress(row + 1, len(utt_ids), audio_seconds, time.monotonic() - start))
    return embeddings


def _embed_in_order(
    embedder: Embedder, utt_ids: Sequence[str], wav_paths: Sequence[str], threads: int, measured: bool
) -> Iterator[_Embedded]:
    """What comes of every file, in order, several under way at a time, read ahead by threads of their own.

    Whole utterances side by side, each on one thread, beat one utterance on several threads: short
    operations do not wait for each other.
    """
    waiting: deque[Future[_Embedded]] = deque()
    look_ahead = LOOK_AHEAD * (threads or os.cpu_count() or 1)
    readers = ThreadPoolExecutor(READERS * (threads or os.cpu_count() or 1))
    try:
        with embedder.side_by_side(threads) as pool:
            for utt_id, wav_path in zip(utt_ids, wav_paths, strict=True):
                wav = readers.submit(read_audio, wav_path, sample_rate=embedder.sample_rate)
                waiting.append(pool.submit(_embed_file, embedder, utt_id, wav_path, wav, measured))
                if len(waiting) > look_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        readers.shutdown(cancel_futures=True)


def _embed_file(
    embedder: Embedder, utt_id: str, wav_path: str, wav: Future[npt.NDArray[np.float32]], measured: bool
) -> _Embedded:
    """Embedding of one file, and its quality if that is ``measured``."""
    where = f"utterance '{utt_id}' ({wav_path})"
    try:
        wav_T = wav.result()
    except AudioError as error:
        raise AudioError(f"utterance '{utt_id}': {error}") from None
    if len(wav_T) < embedder.min_samples:
        raise AudioError(f"{where} has {len(wav_T)} samples; the model needs at least {embedder.min_samples}")
    if not wav_T.any():
        raise AudioError(f"{where} is silent: every sample is 0")
    emb_E = embedder.embed(wav_T)
    if not np.isfinite(emb_E).all():
        raise AudioError(f"{where} gives a non-finite embedding")
    quality = energy_snr(wav_T, embedder.sample_rate) if measured else float("nan")
    return _Embedded(emb_E, len(wav_T) / embedder.sample_rate, quality)
