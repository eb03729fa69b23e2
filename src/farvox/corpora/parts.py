"""From the utterances of a corpus to its data dirs: told apart, measured, written whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from farvox.atomic import write_text
from farvox.audio.files import read_headers
from farvox.corpora.tree import read_text, stem, walk
from farvox.datadir.kaldi import CORE_FILES, DataDir, Utterance, write_data_dir
from farvox.errors import AudioError, CorpusError
from farvox.progress import Note

Rejected = dict[str, str]  # path of an audio file -> why it is of no use


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
    for path, header in zip(paths, read_headers(paths, note, jobs), strict=True):
        if isinstance(header, AudioError):
            rejected[path] = str(header)
        elif not header.num_samples:
            rejected[path] = "holds no sample"
        else:
            lengths[path] = header.num_samples
    return lengths


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
