"""Embeddings of whole utterances: one at a time, so that none depends on its neighbours.

Shape suffixes: N utterance, E embedding, T sample.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import farvox
from farvox.errors import AudioError
from farvox.io.audio import read_audio
from farvox.io.embeddings import EmbeddingSet
from farvox.io.kaldi import DataDir
from farvox.zoo import Embedder

Embedding = npt.NDArray[np.float32]
LOOK_AHEAD = 16
"""Utterances under way per thread, so that a million do not wait in memory."""


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
) -> EmbeddingSet:
    """Embeddings of every utterance of a data dir, in ``wav.scp`` order, as the network gives them.

    Args:
        embedder: the model; its sample rate is what files are read at.
        data_dir: needs only ``wav.scp``.
        threads: utterances read and embedded at a time, each on one CPU thread; 0: one per core.
        progress: called after each utterance.

    Raises:
        AudioError: an utterance cannot be read, is too short, is digital silence, or gives a
            non-finite embedding; names the utterance.
    """
    utt_ids, wav_paths = data_dir.utt_ids.to_list(), data_dir.wav_paths.to_list()
    embeddings = embed_files(embedder, utt_ids, wav_paths, threads=threads, progress=progress)
    meta: dict[str, Any] = {
        "farvox_version": farvox.__version__,
        "data_dir": str(data_dir.path),
        "model": embedder.config.get("model"),
        "frontend": embedder.config.get("frontend"),
        "precision": "fp32",
        "backend": embedder.backend,
    }
    return EmbeddingSet(utt_ids, embeddings, meta)


def embed_files(
    embedder: Embedder,
    utt_ids: Sequence[str],
    wav_paths: Sequence[str],
    *,
    threads: int = 0,
    progress: Callable[[ExtractProgress], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Embeddings of whole files; shape [N, E]. Arguments and errors as `extract`."""
    embeddings = np.empty((len(utt_ids), embedder.embedding_dim), dtype=np.float32)
    start, audio_seconds = time.monotonic(), 0.0
    for row, (emb_E, seconds) in enumerate(_embed_in_order(embedder, utt_ids, wav_paths, threads)):
        embeddings[row] = emb_E
        audio_seconds += seconds
        if progress:
            progress(ExtractProgress(row + 1, len(utt_ids), audio_seconds, time.monotonic() - start))
    return embeddings


def _embed_in_order(
    embedder: Embedder, utt_ids: Sequence[str], wav_paths: Sequence[str], threads: int
) -> Iterator[tuple[Embedding, float]]:
    """Embedding and seconds of every file, in order, several under way at a time.

    Whole utterances side by side, each on one thread, beat one utterance on several threads: short
    operations do not wait for each other.
    """
    waiting: deque[Future[tuple[Embedding, float]]] = deque()
    look_ahead = LOOK_AHEAD * (threads or os.cpu_count() or 1)
    with embedder.side_by_side(threads) as pool:
        for utt_id, wav_path in zip(utt_ids, wav_paths, strict=True):
            waiting.append(pool.submit(_embed_file, embedder, utt_id, wav_path))
            if len(waiting) > look_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _embed_file(embedder: Embedder, utt_id: str, wav_path: str) -> tuple[Embedding, float]:
    """Embedding [E] and length in seconds of one file."""
    where = f"utterance '{utt_id}' ({wav_path})"
    try:
        wav_T = read_audio(wav_path, sample_rate=embedder.sample_rate)
    except AudioError as error:
        raise AudioError(f"utterance '{utt_id}': {error}") from None
    if len(wav_T) < embedder.min_samples:
        raise AudioError(f"{where} has {len(wav_T)} samples; the model needs at least {embedder.min_samples}")
    if not wav_T.any():
        raise AudioError(f"{where} is silent: every sample is 0")
    emb_E = embedder.embed(wav_T)
    if not np.isfinite(emb_E).all():
        raise AudioError(f"{where} gives a non-finite embedding")
    return emb_E, len(wav_T) / embedder.sample_rate
