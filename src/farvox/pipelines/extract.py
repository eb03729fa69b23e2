"""Embeddings of whole utterances: one at a time, so that none depends on its neighbours.

Shape suffixes: N utterance, E embedding, F fact.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import farvox
from farvox.atomic import discard, refuse_to_replace_foreign
from farvox.audio.headers import described_rates
from farvox.audio.shards import fingerprint
from farvox.datadir.audit import note_changes
from farvox.datadir.conditions import recordings_of
from farvox.datadir.embeddings import OWN_FILES, WHOLE, EmbeddingSet
from farvox.datadir.kaldi import DataDir
from farvox.datadir.stores import address_of, put_up
from farvox.errors import DataDirError, JobError
from farvox.jobs import REJECTED, Job, begin, cut, digest, elsewhere, rejected_of, report_rejected
from farvox.jobs import threads as in_threads
from farvox.progress import Note, silent
from farvox.writers import writes
from farvox.zoo.embedder import ELSEWHERE, NARROW, NUM_FACTS, Embedder, FileEmbedder, origin_of

SETTINGS = "extract.json"
UNFINISHED = ".unfinished"
"""Ending of the folder beside OUT that keeps what is done of an extraction."""
BATCH = 32
"""Utterances whose embeddings are kept at a time."""


_Rows = npt.NDArray[np.float32]


def _fingerprint(batch: Sequence[tuple[str, str]]) -> str:
    return fingerprint(path for _, path in batch)


def _report(embedder: Embedder, meta: Mapping[str, Any], elsewhere: Sequence[str], note: Note) -> None:
    """Note what makes scores of these recordings less certain, as `farvox verify` does of one."""
    rates, narrow = meta["rates"], meta["narrow_band"]
    if len(rates) > 1:
        listed = described_rates({int(rate): count for rate, count in rates.items()})
        note(f"note: recordings of several rates, all brought to {embedder.sample_rate:,} Hz: {listed}")
    if narrow and embedder.card.conditioning.band == "full":
        note(
            f"note: {narrow:,} of {sum(rates.values()):,} recordings hold nothing above 4 kHz, as from a "
            "telephone: strangers among them score higher, others lower; --band narrow compares all alike"
        )
    if elsewhere:
        names = ", ".join(f"'{utt_id}'" for utt_id in elsewhere[:5]) + ", ..." * (len(elsewhere) > 5)
        note(
            f"note: no speech in the channel that is taken of {len(elsewhere):,} recordings, but in another: "
            f"{names}; --channel most-speech takes that"
        )


def _embed(
    embed: FileEmbedder,
    files: Sequence[tuple[str, str]],
    embedding_dim: int,
    threads: int,
    unfinished: Path | None,
    out: str | Path | None,
    note: Note,
) -> tuple[_Rows, _Rows, dict[str, str]]:
    """Embeddings [N, E] and facts [N, F] of (utterance id, path) pairs, and why others have none.

    What is done is kept in ``unfinished``, where one is given, and taken from there.
    """
    is_here = out is None or elsewhere.get() is None
    job = Job(
        what="utterances embedded",
        note=note,
        jobs=2 if is_here else threads or None,
        executor=in_threads,
        kept=unfinished,
        text=embed.speed if is_here else str,
        out=None if out is None else Path(out),
        reads=[path for _, path in files[:1]],
    )
    batches = cut(files, BATCH)
    if unfinished is None:
        parts = list(job.run(embed, batches))
        contents = (content for content, _ in parts)
        rejected = {utt_id: why for _, found in parts for utt_id, why in found.items()}
    else:
        paths = job.run_kept(embed, batches, unfinished, ".f32", inputs=_fingerprint)
        contents = (path.read_bytes() for path in paths)
        rejected = rejected_of(paths)
    is_kept_U = np.array([utt_id not in rejected for utt_id, _ in files])
    shape = (int(is_kept_U.sum()), embedding_dim)
    if unfinished is None or not shape[0]:
        embeddings_NE: _Rows = np.empty(shape, np.float32)
    else:  # in a file, as there may be more of them than memory
        embeddings_NE = np.memmap(unfinished / WHOLE, np.float32, "w+", shape=shape)
    facts_NF = np.empty((len(embeddings_NE), NUM_FACTS), np.float32)
    row = first = 0
    for content in contents:
        part = np.frombuffer(content, "<f4").reshape(-1, embedding_dim + NUM_FACTS)
        first, is_kept = first + len(part), is_kept_U[first : first + len(part)]
        part = part[is_kept]
        embeddings_NE[row : row + len(part)] = part[:, :-NUM_FACTS]
        facts_NF[row : row + len(part)] = part[:, -NUM_FACTS:]
        row += len(part)
    return embeddings_NE, facts_NF, rejected


@writes("out")
def extract(
    embedder: Embedder,
    data_dir: DataDir,
    *,
    threads: int = 0,
    quality: bool = False,
    skip_bad: bool = False,
    skip_by: str = "--skip-bad",
    channel: int | Literal["most-speech"] = 0,
    out: str | Path | None = None,
    replace: bool = False,
    part_rows: int | None = None,
    note: Note = silent,
) -> EmbeddingSet:
    """Embeddings of every utterance of a data dir, in ``wav.scp`` order, as the network gives them.

    With ``out`` they are written there, and an extraction that was killed goes on where it stopped: what is
    done is kept in the folder ``out`` + `UNFINISHED` until all is.

    Args:
        embedder: the model; its sample rate is what files are read at.
        data_dir: needs only ``wav.scp``; speakers and sources, where they are known, are kept with the
            embeddings, so that scoring can compare them with its trials.
        threads: utterances read and embedded at a time, each on one CPU thread; 0: one per core.
        quality: also estimate each recording's signal-to-noise ratio, `farvox.farfield.mixing.energy_snr`,
            and the measures of `farvox.audio.quality`.
        skip_bad: leave out utterances that cannot be embedded, and list them in ``out/rejected.tsv``.
        skip_by: what the user sets for that, for the message.
        channel: the one that is taken of each recording, from 0, or the one with "most-speech".
        out: folder to write, whole or not at all; one of `farvox.datadir.stores.staged` goes to its store.
        replace: embeddings of another data dir there are replaced, with a note.
        part_rows: see `EmbeddingSet.save`.

    Raises:
        AudioError: utterances cannot be read, are too short, are silence, or give a non-finite embedding; all
            others were embedded and are kept. Each is noted with the reason, and listed in ``rejected.tsv``
            among what is kept.
        FarvoxError: ``out`` holds other things.
        JobError: ``out`` holds embeddings of another data dir, or was begun with another model, other
            utterances or other options.
    """
    recordings = recordings_of(data_dir)
    files = list(zip(data_dir.utt_ids.to_list(), data_dir.wav_paths.to_list(), strict=True))
    unfinished = None
    source, where = address_of(data_dir.path), None if out is None else address_of(out)
    if out is not None:
        refuse_to_replace_foreign(out, OWN_FILES)  # now, not after hours of work
        if any(Path(out, name).exists() for name in OWN_FILES):
            now, before, is_moved = source, source, False
            with suppress(DataDirError):  # damaged ones are replaced
                there = EmbeddingSet.load(out)
                before = str(there.meta.get("data_dir", ""))
                is_moved = os.path.isabs(before) and not os.path.exists(before)
                is_moved = is_moved and set(data_dir.utt_ids).issuperset(there.utt_ids)
            if before != now and not is_moved and os.path.realpath(before or "/") != os.path.realpath(now):
                what = f"{where}: holds embeddings of {before or 'another data dir'}, not of {now}; they are"
                if not replace:
                    raise JobError(f"{what} not replaced: choose another OUT, or remove it first")
                note(f"{what} replaced")
        unfinished = Path(f"{Path(out).absolute()}{UNFINISHED}")
        begin(unfinished / SETTINGS, {
            "model": embedder.digest, "backend": embedder.backend, "precision": embedder.precision,
            "quality": quality, "facts": NUM_FACTS, "channel": channel,
            "utterances": digest(f"{utt_id} {path}" for utt_id, path in files),
        })  # fmt: skip
    note_changes(data_dir, note)
    with FileEmbedder(embedder, threads, measured=quality, channel=channel) as embed:
        embeddings_NE, facts_NF, rejected = _embed(
            embed, files, embedder.embedding_dim, threads, unfinished, out, note
        )
    table = unfinished / REJECTED if unfinished else None
    report_rejected(
        table,
        rejected,
        len(files),
        what="embedded",
        skip_bad=skip_bad,
        note=note,
        skip_by=skip_by,
        later=None if out is None else f"{where}/{REJECTED}",
    )
    kept_N = [row for row, (utt_id, _) in enumerate(files) if utt_id not in rejected]
    utt_ids = [files[row][0] for row in kept_N]
    *measures_MN, quality_N, rate_N, signs_N = facts_NF.T
    rates, counts = np.unique(rate_N, return_counts=True)
    meta: dict[str, Any] = {
        "farvox_version": farvox.__version__,
        "data_dir": source,
        **origin_of(embedder),
        "precision": embedder.precision,
        "backend": embedder.backend,
        **({"rejected": len(rejected)} if rejected else {}),
        **({"channel": channel} if channel else {}),
        "rates": {f"{rate:.0f}": int(count) for rate, count in zip(rates, counts, strict=True)},
        "narrow_band": int((signs_N.astype(int) & NARROW > 0).sum()),
    }
    _report(embedder, meta, [utt_ids[n] for n in np.flatnonzero(signs_N.astype(int) & ELSEWHERE)], note)
    found = EmbeddingSet(
        utt_ids,
        embeddings_NE,
        meta,
        quality_N if quality else None,
        data_dir.speaker_ids.gather(kept_N) if data_dir.speaker_ids.count() else None,
        None if recordings.equals(data_dir.utt_ids) else recordings.gather(kept_N),
        np.stack(measures_MN, axis=1) if quality else None,
    )
    if out is not None and unfinished is not None:
        found.save(out, rejected=unfinished / REJECTED if rejected else None, part_rows=part_rows)
        put_up(out)
        discard(unfinished)
        note(f"{len(found):,} embeddings: {where}")
    return found
