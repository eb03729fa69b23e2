"""Embeddings of whole utterances: one at a time, so that none depends on its neighbours.

Shape suffixes: N utterance.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

import farvox
from farvox.atomic import refuse_to_replace_foreign
from farvox.datadir.embeddings import OWN_FILES, EmbeddingSet
from farvox.datadir.kaldi import DataDir
from farvox.jobs import Job, begin, cut, digest
from farvox.jobs import threads as in_threads
from farvox.progress import Note, silent
from farvox.zoo.embedder import Embedder, FileEmbedder, origin_of

SETTINGS = "extract.json"
UNFINISHED = ".unfinished"
"""Ending of the folder beside OUT that keeps what is done of an extraction."""
BATCH = 32
"""Utterances whose embeddings are kept at a time."""


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
        quality: also estimate each recording's signal-to-noise ratio, `farvox.farfield.mixing.energy_snr`.
        out: folder to write, whole or not at all.

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
    with FileEmbedder(embedder, threads, measured=quality) as embed:
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
        **origin_of(embedder),
        "precision": embedder.precision,
        "backend": embedder.backend,
    }
    found = EmbeddingSet([utt_id for utt_id, _ in files], embeddings, meta, quality_N if quality else None)
    if out is not None and unfinished is not None:
        found.save(out)
        shutil.rmtree(unfinished)
        note(f"{len(found):,} embeddings: {out}")
    return found
