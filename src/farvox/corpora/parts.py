"""The files of a corpus on disk: found, told apart, measured, and written as data dirs."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from farvox.atomic import visible, write_text
from farvox.audio.files import AUDIO_SUFFIXES, read_headers
from farvox.audio.headers import AudioInfo, described_rates
from farvox.audio.stretches import file_of
from farvox.datadir.kaldi import (
    CORE_FILES,
    DataDir,
    Utterance,
    is_utf8,
    refuse_other_data_dir,
    write_data_dir,
)
from farvox.errors import AudioError, CorpusError
from farvox.jobs import Rejected
from farvox.parsing import as_utf8
from farvox.progress import Note
from farvox.writers import writes


def open_source(source: Path, out: Path, expected: str, *, read: Collection[str] = ()) -> Path:
    """The absolute path of a corpus folder, after making sure that it will not read its output later.

    Args:
        out: the output folder.
        expected: what the folder should hold, for the message.
        read: names of the folders in the corpus that are read; all are by default.

    Raises:
        CorpusError: there is no such folder, or ``out`` is that folder, or lies in what is read of it.
    """
    source, out = Path(os.path.abspath(source)), Path(os.path.abspath(out))
    if not source.is_dir():
        raise CorpusError(f"{source}: no such folder; expected one with {expected}")
    real_source, real_out = source.resolve(), out.resolve()
    inside = real_out.relative_to(real_source).parts if real_out.is_relative_to(real_source) else None
    if inside is not None and (not inside or not read or not set(read).isdisjoint(inside)):
        raise CorpusError(f"{out}: lies in the corpus {source}; choose an output folder outside of it")
    return source


def walk(folder: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk`` in a fixed order: links to folders are followed once, hidden entries are left out.

    As with ``os.walk``, a caller may remove names from the list of folders to keep out of them.

    Raises:
        CorpusError: a folder cannot be listed.
    """
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise CorpusError(f"{error.filename}: cannot be listed ({error.strerror})")

    for path, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield path, folders, sorted(name for name in files if not name.startswith("."))


def audio_files(folder: str | Path, suffixes: Collection[str] = AUDIO_SUFFIXES) -> Iterator[str]:
    """The audio files at any depth below a folder, told by their suffix in either case."""
    for path, _, files in walk(folder):
        for name in files:
            if os.path.splitext(name)[1].lower() in suffixes:
                yield os.path.join(path, name)


def stem(path: str) -> str:
    """The file name without its last suffix: ``a/b.c.wav`` is ``b.c``."""
    return os.path.splitext(os.path.basename(path))[0]


def read_text(path: Path) -> str:
    """The text of a file with its line ends as they are.

    Raises:
        CorpusError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        how = as_utf8(path, error.object)
        raise CorpusError(f"{path}: not UTF-8 text (byte {error.start}); {how}") from None


def listed_files(list_path: Path) -> list[str]:
    """The files of a list with one path per line, such as the baseline's ``noise_wav_list`` and ``rir_list``.

    A line of Kaldi's form ``--rir-id X --room-id Y PATH`` counts by its last word. A relative path is looked
    for from the list's own folder, then from the folders above it, nearest first; at last without its first
    folder, which is the corpus's own (``RIRS_NOISES/...``) and may have another name here.

    Raises:
        CorpusError: the list is empty, or names a file that is not there.
    """
    found = []
    base = list_path = Path(os.path.abspath(list_path))
    for number, line in enumerate(read_text(list_path).splitlines(), 1):
        entry = line.strip().split()[-1] if line.startswith("--") else line.strip()
        if not entry:
            continue
        bases = (base, list_path.parent, *list_path.parent.parents)
        places = ((base, path) for path in (entry, entry.partition("/")[2]) for base in bases)
        place = next((place for place in places if os.path.isfile(os.path.join(*place))), None)
        if place is None:
            raise CorpusError(f"{list_path}:{number}: no file {entry}; expected the path of an audio file")
        base = place[0]
        found.append(os.path.abspath(os.path.join(*place)))
    if not found:
        raise CorpusError(f"{list_path}: an empty list; expected the path of an audio file on each line")
    return list(dict.fromkeys(found))


def unique(utterances: Iterable[Utterance], *, prefer: Sequence[str] = ()) -> list[Utterance]:
    """The utterances, each id once.

    Args:
        prefer: suffixes, best first. Where an utterance is there in several formats the best one is kept.

    Raises:
        CorpusError: files have the same id and format (or any format, where nothing is preferred); every pair
            is named.
    """
    kept: dict[str, Utterance] = {}
    faults = []
    for utterance in utterances:
        rival = kept.setdefault(utterance.utt_id, utterance)
        if rival is utterance:
            continue
        suffixes = [os.path.splitext(each.wav_path)[1].lower() for each in (rival, utterance)]
        ranks = [prefer.index(each) if each in prefer else len(prefer) for each in suffixes]
        if ranks[0] == ranks[1]:
            faults.append(
                f"{utterance.wav_path}: its utterance id '{utterance.utt_id}' is also that of"
                f" {rival.wav_path}; keep one of the two files below the corpus folder"
            )
        elif ranks[1] < ranks[0]:
            kept[utterance.utt_id] = utterance
    if faults:
        raise CorpusError("\n".join(faults))
    return list(kept.values())


def recordings(paths: Iterable[str]) -> list[Utterance]:
    """Recordings of nobody in particular, named by their files; white space becomes ``_``.

    Raises:
        CorpusError: two files have the same name.
    """
    return unique(Utterance("_".join(stem(path).split()), path) for path in paths)


def texts_by_name(folder: Path, names: Sequence[str], note: Note) -> dict[str, str]:
    """Name -> text, byte for byte, of the first file of each name anywhere below ``folder``."""
    texts: dict[str, str] = {}
    for path, _, files in walk(folder):
        for name in files:
            if name in names and name not in texts:
                texts[name] = read_text(Path(path, name))
    for name in names:
        if name not in texts:
            note(f"{folder}: no {name}, so none in the data dir")
    return texts


@writes("out")
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
    note, and is listed with the reason in OUT/rejected.tsv. Several rates are counted in a note.

    Args:
        parts: name -> utterances; those with ``num_samples`` are not measured again.
        files: part -> further files of its data dir (name -> text).
        rejected: what was already found to be of no use.

    Raises:
        CorpusError: a folder of that name is there and is no data dir, or no file of a part can be used.
    """
    for part in parts:
        present = {path.name for path in visible(out / part)}
        if present and present.isdisjoint(CORE_FILES):
            raise CorpusError(
                f"{out / part}: already there and not a data dir (no wav.scp); choose another output folder"
            )
    rejected = dict(rejected or {})
    for utterances in parts.values():
        for each in utterances:
            if not is_utf8(os.fsencode(each.wav_path)):
                rejected[each.wav_path] = "its path is not UTF-8, which a data dir must be; rename it"
    parts = {
        part: [each for each in utterances if is_utf8(os.fsencode(each.wav_path))]
        for part, utterances in parts.items()
    }
    for part, utterances in parts.items():
        paths_now = {each.utt_id: each.wav_path for each in utterances}
        refuse_other_data_dir(out / part, "prepare", [], unless=partial(_shares, paths_now))
    paths = sorted({each.wav_path for part in parts.values() for each in part if each.num_samples is None})
    lengths: dict[str, int] = {}
    headers = read_headers(paths, note, jobs)
    for path, header in zip(paths, headers, strict=True):
        if isinstance(header, AudioError):
            rejected[path] = str(header)
        elif not header.num_samples:
            rejected[path] = "holds no sample"
        else:
            lengths[path] = header.num_samples
    rates = Counter(header.sample_rate for header in headers if isinstance(header, AudioInfo))
    if len(rates) > 1:
        note(f"note: recordings of several rates: {described_rates(rates)}")
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
        num_speakers = len({each.speaker_id for each in utterances if each.speaker_id is not None})
        found = f"utterances, {num_speakers:,} speakers" if num_speakers else "files"
        note(f"{out / part}: {len(utterances):,} {found}")
    listing = out / "rejected.tsv"
    if not rejected:
        listing.unlink(missing_ok=True)  # of an earlier run
        return made
    shown = {path: " ".join(why.removeprefix(f"{path}: ").split()) for path, why in rejected.items()}
    shown = {os.fsencode(path).decode(errors="backslashreplace"): why for path, why in shown.items()}
    lines = [f"{path}\t{reason}\n" for path, reason in sorted(shown.items())]
    write_text(listing, "wav_path\treason\n" + "".join(lines))
    note(f"{len(rejected):,} audio files cannot be used and were left out; {listing} says why")
    return made


def _shares(paths: Mapping[str, str], there: DataDir) -> bool:
    """True where a data dir has a recording of ``paths`` under the same utterance, here or where it was.

    Recordings were moved where none is left at its earlier path, and copied where one there is the same.
    """
    shared = [(file_of(each.wav_path), paths.get(each.utt_id)) for each in there.utterances()]
    pairs = [(before, file_of(now)) for before, now in shared if now is not None]
    present = [(before, now) for before, now in pairs if before == now or os.path.exists(before)]
    if not present:
        return bool(pairs)
    return any(before == now or filecmp.cmp(before, now, shallow=False) for before, now in present)
