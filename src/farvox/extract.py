"""Embeddings of whole utterances: one at a time, so that none depends on its neighbours.

Shape suffixes: N utterance, E embedding, T sample.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import farvox
from farvox.errors import AudioError
from farvox.io.audio import read_audio
from farvox.io.embeddings import EmbeddingSet
from farvox.io.kaldi import DataDir
from farvox.zoo import Model

Wav = npt.NDArray[np.float32]
LOOK_AHEAD = 16
"""Utterances read ahead of the network."""


@dataclass(frozen=True)
class ExtractProgress:
    """How far an extraction is."""

    done: int
    total: int
    audio_seconds: float
    wall_seconds: float


def extract(
    model: Model,
    data_dir: DataDir,
    *,
    readers: int = 2,
    progress: Callable[[ExtractProgress], None] | None = None,
) -> EmbeddingSet:
    """Embeddings of every utterance of a data dir, in ``wav.scp`` order, as the network gives them.

    Args:
        model: network and front-end; its sample rate is what files are read at.
        data_dir: needs only ``wav.scp``.
        readers: threads that read audio ahead.
        progress: called after each utterance.

    Raises:
        AudioError: an utterance cannot be read, is too short, is digital silence, or gives a
            non-finite embedding; names the utterance.
    """
    utt_ids, wav_paths = data_dir.utt_ids.to_list(), data_dir.wav_paths.to_list()
    embeddings = embed_files(model, utt_ids, wav_paths, readers=readers, progress=progress)
    meta: dict[str, Any] = {
        "farvox_version": farvox.__version__,
        "data_dir": str(data_dir.path),
        "model": model.config.get("model"),
        "frontend": model.config.get("frontend"),
        "precision": "fp32",
        "torch_version": torch.__version__,
    }
    return EmbeddingSet(utt_ids, embeddings, meta)


def embed_files(
    model: Model,
    utt_ids: Sequence[str],
    wav_paths: Sequence[str],
    *,
    readers: int = 2,
    progress: Callable[[ExtractProgress], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Embeddings of whole files; shape [N, E]. Arguments and errors as `extract`."""
    rate = model.frontend_config.sample_rate
    embeddings = np.empty((len(utt_ids), model.embedding_dim), dtype=np.float32)
    start, audio_seconds = time.monotonic(), 0.0
    for row, wav_T in enumerate(_read_ahead(utt_ids, wav_paths, rate, readers)):
        if len(wav_T) < model.min_samples:
            raise AudioError(
                f"utterance '{utt_ids[row]}' ({wav_paths[row]}) has {len(wav_T)} samples; "
                f"the front-end needs at least {model.min_samples}"
            )
        if not wav_T.any():
            raise AudioError(f"utterance '{utt_ids[row]}' ({wav_paths[row]}) is silent: every sample is 0")
        embeddings[row] = model.embed(torch.from_numpy(wav_T)[None])[0].float().cpu().numpy()
        if not np.isfinite(embeddings[row]).all():
            raise AudioError(f"utterance '{utt_ids[row]}' ({wav_paths[row]}) gives a non-finite embedding")
        audio_seconds += len(wav_T) / rate
        if progress:
            progress(ExtractProgress(row + 1, len(utt_ids), audio_seconds, time.monotonic() - start))
    return embeddings


def _read_ahead(utt_ids: Sequence[str], wav_paths: Sequence[str], rate: int, readers: int) -> Iterator[Wav]:
    """Whole files in order, read by threads a few files ahead."""
    with ThreadPoolExecutor(max_workers=readers) as pool:
        waiting: deque[tuple[int, Future[Wav]]] = deque()
        for row in range(len(utt_ids)):
            waiting.append((row, pool.submit(read_audio, wav_paths[row], sample_rate=rate)))
            if len(waiting) > LOOK_AHEAD:
                yield _arrived(waiting.popleft(), utt_ids)
        while waiting:
            yield _arrived(waiting.popleft(), utt_ids)


def _arrived(entry: tuple[int, Future[Wav]], utt_ids: Sequence[str]) -> Wav:
    row, future = entry
    try:
        return future.result()
    except AudioError as error:
        raise AudioError(f"utterance '{utt_ids[row]}': {error}") from None
