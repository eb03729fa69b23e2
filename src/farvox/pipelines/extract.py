"""Embeddings of whole utterances: one at a time, so that none depends on its neighbours.

Shape suffixes: N utterance, E embedding, T sample.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any, Self

import numpy as np
import numpy.typing as npt

import farvox
from farvox.atomic import refuse_to_replace_foreign
from farvox.audio.files import read_audio
from farvox.datadir.embeddings import OWN_FILES, EmbeddingSet
from farvox.datadir.kaldi import DataDir
from farvox.errors import AudioError
from farvox.farfield.quality import energy_snr
from farvox.jobs import Job, begin, cut, digest
from farvox.jobs import threads as in_threads
from farvox.progress import Note, silent
from farvox.zoo import Embedder

Embeddings = npt.NDArray[np.float32]
SETTINGS = "extract.json"
UNFINISHED = ".unfinished"
"""Ending of the folder beside OUT that keeps what is done of an extraction."""
BATCH = 32
"""Utterances whose embeddings are kept at a time."""
LOOK_AHEAD = 8
"""Utterances under way per thread, some of them as samples: a million do not wait in memory."""
READERS = 2
"""Files read at a time per thread that embeds, so that no model waits for a disk that is far away."""


def extract(
    embedder: Embedder,
    data_dir: DataDir,
    *,
    threads: int = 0,
    quality: bool = False,
    out: str | Path | None = None,
    note: Note = silent,
) -> EmbeddingSet:
    """Embeddings of every utterance of a data dir, in ``wav.scp`` order, as the network gives them.

    With ``out`` they are written there, and an extraction that was killed goes on where it stopped: what is
    done is kept in the folder ``out`` + `UNFINISHED` until all is.

    Args:
        embedder: the model; its sample rate is what files are read at.
        data_dir: needs only ``wav.scp``.
        threads: utterances read and embedded at a time, each on one CPU thread; 0: one per core.
        quality: also estimate each recording's signal-to-noise ratio, `farvox.farfield.quality.energy_snr`.
        out: folder to write, whole or not at all.
        note: takes lines for people.

    Raises:
        AudioError: an utterance cannot be read, is too short, is digital silence, or gives a
            non-finite embedding; names the utterance.
        FarvoxError: ``out`` holds other things.
        JobError: ``out`` was begun with another model, other utterances or other options.
    """
    files = list(zip(data_dir.utt_ids.to_list(), data_dir.wav_paths.to_list(), strict=True))
    unfinished = None
    if out is not None:
        refuse_to_replace_foreign(out, OWN_FILES)  # now, not after hours of work
        unfinished = Path(f"{Path(out).absolute()}{UNFINISHED}")
        begin(unfinished / SETTINGS, {
            "model": embedder.digest, "backend": embedder.backend, "precision": embedder.precision,
            "quality": quality, "utterances": digest(f"{utt_id} {path}" for utt_id, path in files),
        })  # fmt: skip
    embeddings = np.empty((len(files), embedder.embedding_dim), np.float32)
    quality_N = np.empty(len(files), np.float32)
    batches, row = cut(files, BATCH), 0
    with _FileEmbedder(embedder, threads, measured=quality) as embed:
        job = Job(
            what="utterances embedded",
            note=note,
            jobs=2,
            executor=in_threads,
            kept=unfinished,
            text=embed.speed,
        )
        if unfinished is None:
            contents = job.run(embed, batches)
        else:
            contents = (path.read_bytes() for path in job.run_kept(embed, batches, unfinished, ".f32"))
        for content in contents:
            part = np.frombuffer(content, "<f4").reshape(-1, embedder.embedding_dim + 1)
            embeddings[row : row + len(part)], quality_N[row : row + len(part)] = part[:, :-1], part[:, -1]
            row += len(part)
    meta: dict[str, Any] = {
        "farvox_version": farvox.__version__,
        "data_dir": str(data_dir.path),
        "model": embedder.config.get("model"),
        "frontend": embedder.config.get("frontend"),
        "precision": embedder.precision,
        "backend": embedder.backend,
    }
    found = EmbeddingSet([utt_id for utt_id, _ in files], embeddings, meta, quality_N if quality else None)
    if out is not None and unfinished is not None:
        found.save(out)
        shutil.rmtree(unfinished)
        note(f"{len(found):,} embeddings: {out}")
    return found


def embed_files(embedder: Embedder, utt_ids: Sequence[str], wav_paths: Sequence[str]) -> Embeddings:
    """Embeddings of whole files; shape [N, E]. Errors as `extract`."""
    with _FileEmbedder(embedder, 0, measured=False) as embed:
        content = embed(list(zip(utt_ids, wav_paths, strict=True)))
    rows = np.frombuffer(content, "<f4").reshape(-1, embedder.embedding_dim + 1)
    return np.ascontiguousarray(rows[:, :-1])


class _FileEmbedder:
    """Embeds batches of files, several files at a time, read ahead by threads of their own.

    Whole utterances side by side, each on one thread, beat one utterance on several threads: short operations
    do not wait for each other. Two batches may be under way: the files of the second follow those of the
    first, so that no thread waits for the last file of a batch.
    """

    def __init__(self, embedder: Embedder, threads: int, *, measured: bool) -> None:
        workers = threads or os.cpu_count() or 1
        self._embedder, self._measured = embedder, measured
        self._readers = ThreadPoolExecutor(READERS * workers)
        self._side_by_side = embedder.side_by_side(threads)
        self._free, self._turn = Semaphore(LOOK_AHEAD * workers), Lock()
        self._start, self._seconds = time.monotonic(), 0.0

    def __enter__(self) -> Self:
        self._pool = self._side_by_side.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._side_by_side.__exit__(*error)
        self._readers.shutdown(cancel_futures=True)

    def __call__(self, batch: Sequence[tuple[str, str]]) -> bytes:
        """A float32 row a file: its embedding, and its quality in dB."""
        rows = []
        with self._turn:
            for utt_id, path in batch:
                self._free.acquire()
                wav = self._readers.submit(read_audio, path, sample_rate=self._embedder.sample_rate)
                rows.append(self._pool.submit(self._embed, utt_id, path, wav))
                rows[-1].add_done_callback(lambda _: self._free.release())
        return b"".join([row.result() for row in rows])

    def speed(self) -> str:
        """Seconds of audio a second."""
        return f"{self._seconds / (time.monotonic() - self._start):.0f} x real time"

    def _embed(self, utt_id: str, path: str, wav: Future[npt.NDArray[np.float32]]) -> bytes:
        where, embedder = f"utterance '{utt_id}' ({path})", self._embedder
        try:
            wav_T = wav.result()
        except AudioError as error:
            raise AudioError(f"utterance '{utt_id}': {error}") from None
        if len(wav_T) < embedder.min_samples:
            raise AudioError(
                f"{where} has {len(wav_T)} samples; the model needs at least {embedder.min_samples}"
            )
        if not wav_T.any():
            raise AudioError(f"{where} is silent: every sample is 0")
        emb_E = embedder.embed(wav_T)
        if not np.isfinite(emb_E).all():
            raise AudioError(f"{where} gives a non-finite embedding")
        quality = energy_snr(wav_T, embedder.sample_rate) if self._measured else np.nan
        self._seconds += len(wav_T) / embedder.sample_rate
        return np.append(emb_E, quality).astype("<f4").tobytes()
