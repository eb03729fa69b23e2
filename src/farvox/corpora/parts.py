"""From the utterances of a corpus to its data dirs: told apart, measured, written whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

from farvox.atomic import write_text
from farvox.audio.files import audio_info
from farvox.corpora.tree import read_text, stem, walk
from farvox.datadir.kaldi import CORE_FILES, DataDir, Utterance, write_data_dir
from farvox.errors import AudioError, CorpusError

Note = Callable[[str], None]
Rejected = dict[str, str]  # path of an audio file -> why it is of no use


class Progress:
    """Says how far a long task has come, at most once every few seconds; ``done`` of it was done before."""

    def __init__(self, what: str, total: int, note: Note, *, every: float = 5.0, done: int = 0) -> None:
        self.what, self.total, self.note, self.every = what, total, note, every
        self.done = self.before = done
        self.start = self.last = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Count further items as done, and speak when the last word was long enough ago."""
        self.done += count
        now = time.monotonic()
        if now - self.last >= self.every:
            self.last = now
            rate = (self.done - self.before) / (now - self.start)
            minutes = (self.total - self.done) / rate / 60
            self.note(
                f"{self.what}: {self.done:,} of {self.total:,}, {rate:,.0f} a second, {minutes:.0f} min left"
            )


def unique(utterances: Iterable[Utterance], *, prefer: Sequence[str] = ()) -> list[Utterance]:
    """The utterances, each id once.

    Args:
        utterances: as found on disk.
        prefer: suffixes, best first. Where an utterance is there in several formats the best one is kept.

    Raises:
        CorpusError: two files have the same id and format (or any format, where nothing is preferred).
    """
    kept: dict[str, Utterance] = {}
    for utterance in utterances:
        rival = kept.setdefault(utterance.utt_id, utterance)
        if rival is utterance:
            continue
        ranks = [_rank(each.wav_path, prefer) for each in (rival, utterance)]
        if ranks[0] == ranks[1]:
            raise CorpusError(
                f"{utterance.wav_path}: its utterance id '{utterance.utt_id}' is also that of"
                f" {rival.wav_path}; keep one of the two files below the corpus folder"
            )
        if ranks[1] < ranks[0]:
            kept[utterance.utt_id] = utterance
    return list(kept.values())


def recordings(paths: Iterable[str]) -> list[Utterance]:
    """Recordings of nobody in particular, named by their files; white space becomes ``_``.

    Raises:
        CorpusError: two files have the same name.
    """
    return unique(Utterance("_".join(stem(path).split()), path) for path in paths)


def texts_by_name(folder: Path, names: Sequence[str], note: Note) -> dict[str, str]:
    """Name -> text, byte for byte, of the files of these names anywhere below ``folder``; the first of each.

    Args:
        folder: where to look.
        names: names of files, trial lists for example.
        note: is told of a name that is nowhere.
    """
    texts: dict[str, str] = {}
    for path, _, files in walk(folder):
        for name in files:
            if name in names and name not in texts:
                texts[name] = read_text(Path(path, name))
    for name in names:
        if name not in texts:
            note(f"{folder}: no {name}, so none in the data dir")
    return texts


def write_parts(
    out: Path,
    parts: Mapping[str, Sequence[Utterance]],
    *,
    note: Note,
    jobs: int | None = None,
    files: Mapping[str, Mapping[str, str]] | None = None,
    rejected: Rejected | None = None,
) -> list[DataDir]:
    """Write each part as the data dir OUT/<part>, with the length of every file.

    A file whose header cannot be read, or that holds no sample, stays out of the data dirs, is counted in a
    note, and is listed with the reason in OUT/rejected.tsv.

    Args:
        out: the folder of the data dirs.
        parts: name -> utterances; those with ``num_samples`` are not measured again.
        note: is told what happens.
        jobs: threads that read headers.
        files: part -> further files of its data dir (name -> text).
        rejected: what was already found to be of no use.

    Raises:
        CorpusError: a folder of that name is there and is no data dir, or no file of a part can be used.
    """
    for part in parts:
        _refuse_foreign_folder(out / part)
    rejected = dict(rejected or {})
    paths = {each.wav_path for part in parts.values() for each in part if each.num_samples is None}
    lengths = _measure(sorted(paths), rejected, note=note, jobs=jobs)
    usable = {
        part: [
            each if each.num_samples is not None else replace(each, num_samples=lengths[each.wav_path])
            for each in utterances
            if each.num_samples is not None or each.wav_path in lengths
        ]
        for part, utterances in parts.items()
    }
    for part, utterances in usable.items():
        if not utterances:
            reasons = (f": {path}: {why.removeprefix(f'{path}: ')}" for path, why in rejected.items())
            raise CorpusError(f"{out / part}: none of its audio files can be used{next(reasons, '')}")
    made = []
    for part, utterances in usable.items():
        made.append(write_data_dir(out / part, utterances, files=dict((files or {}).get(part, {}))))
        note(_description(out / part, utterances))
    _report_rejected(out / "rejected.tsv", rejected, note)
    return made


def _rank(path: str, prefer: Sequence[str]) -> int:
    suffix = os.path.splitext(path)[1].lower()
    return prefer.index(suffix) if suffix in prefer else len(prefer)


def _refuse_foreign_folder(folder: Path) -> None:
    """Keep out of a folder that has things in it, none of which a data dir (or half of one) would have."""
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if present and present.isdisjoint((*CORE_FILES, ".incoming")):
        raise CorpusError(
            f"{folder}: already there and not a data dir (no wav.scp); choose another output folder"
        )


def _measure(paths: Sequence[str], rejected: Rejected, *, note: Note, jobs: int | None) -> dict[str, int]:
    """Samples of every readable file; the others are added to ``rejected``."""
    lengths: dict[str, int] = {}
    progress = Progress("audio headers read", len(paths), note)
    with ThreadPool(jobs or min(16, 4 * (os.cpu_count() or 1))) as pool:
        for path, num_samples, reason in pool.imap_unordered(_length, paths, chunksize=64):
            if reason:
                rejected[path] = reason
            else:
                lengths[path] = num_samples
            progress.advance()
    return lengths


def _length(path: str) -> tuple[str, int, str]:
    try:
        num_samples = audio_info(path).num_samples
    except AudioError as error:
        return path, 0, str(error)
    return path, num_samples, "" if num_samples else "holds no sample"


def _description(folder: Path, utterances: Sequence[Utterance]) -> str:
    num_speakers = len({each.speaker_id for each in utterances if each.speaker_id is not None})
    speakers = f", {num_speakers:,} speakers" if num_speakers else ""
    return f"{folder}: {len(utterances):,} {'utterances' if speakers else 'files'}{speakers}"


def _report_rejected(table: Path, rejected: Rejected, note: Note) -> None:
    """List the rejected files, or remove the list of an earlier run."""
    if not rejected:
        table.unlink(missing_ok=True)
        return
    reasons = {path: " ".join(reason.removeprefix(f"{path}: ").split()) for path, reason in rejected.items()}
    lines = [f"{path}\t{reason}\n" for path, reason in sorted(reasons.items())]
    write_text(table, "wav_path\treason\n" + "".join(lines))
    note(
        f"{len(rejected):,} audio files cannot be used and were left out; {table} names each with the reason"
    )
