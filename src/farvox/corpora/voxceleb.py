"""VoxCeleb 1 and 2: celebrities in interviews (arXiv:1706.08612, arXiv:1806.05622)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from farvox.corpora.convert import convert_audio
from farvox.corpora.parts import Rejected, unique, write_parts
from farvox.corpora.tree import audio_files, open_source, read_text, walk
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT_1 = "wav/id10001/<video>/00001.wav at any depth (dev/wav, vox1_test_wav/wav, ...)"
LAYOUT_2 = "dev/aac/id00012/<video>/00001.m4a at any depth (or .wav, .flac)"
SPEAKER = re.compile(r"id\d{5}")
TEST_FOLDER = re.compile(r"(?:^|_)test(?:_|$)")
TEST_SPEAKERS = frozenset(f"id{number}" for number in range(10270, 10310))
SUFFIXES = (".wav", ".flac", ".m4a")  # the quickest to read first

# The publisher's file -> its name in a data dir and its number of trials.
TRIAL_LISTS = {
    "veri_test.txt": ("trials_O", 37_720),
    "veri_test2.txt": ("trials_O_cleaned", 37_611),
    "list_test_all.txt": ("trials_E", 581_480),
    "list_test_all2.txt": ("trials_E_cleaned", 579_818),
    "list_test_hard.txt": ("trials_H", 552_536),
    "list_test_hard2.txt": ("trials_H_cleaned", 550_894),
}


def prepare_voxceleb1(
    source: Path, out: Path, *, note: Note, trials: Path | None = None, jobs: int | None = None
) -> list[DataDir]:
    """Make OUT/vox1_dev, OUT/vox1_test (the 40 official test speakers) and, from both, OUT/vox1.

    Utterance ids join speaker, video and file by ``-``, as in the baseline: ``id10270-x6uYqmx31kE-00001``.
    Each official trial list goes, with such ids, into every data dir that has all its utterances, as
    ``trials_O``, ``trials_O_cleaned``, ``trials_E``, ... ``trials_H_cleaned``.

    Args:
        source: the unpacked corpus.
        out: the folder of the data dirs.
        note: is told what happens.
        trials: the folder with ``veri_test.txt``, ...; by default they are looked for below ``source``.
        jobs: threads that read headers.

    Raises:
        CorpusError: no speaker folder, no trial list in ``trials``, or a malformed one.
    """
    source = open_source(source, out, LAYOUT_1)
    utterances = _utterances(source, LAYOUT_1, note)
    parts = {
        "vox1_dev": [each for each in utterances if each.speaker_id not in TEST_SPEAKERS],
        "vox1_test": [each for each in utterances if each.speaker_id in TEST_SPEAKERS],
        "vox1": utterances,
    }
    absent = [part for part in ("vox1_dev", "vox1_test") if not parts[part]]
    if absent:
        note(f"{source}: no speaker of {absent[0]}, so only the other part is made, and no 'vox1' of both")
        parts = {part: found for part, found in parts.items() if found and part != "vox1"}
    files = _trials_that_fit(parts, _official_lists(source, trials, note), note)
    return write_parts(out, parts, note=note, jobs=jobs, files=files)


def prepare_voxceleb2(
    source: Path,
    out: Path,
    *,
    note: Note,
    convert: Literal["flac", "wav"] | None = None,
    jobs: int | None = None,
) -> list[DataDir]:
    """Make OUT/vox2_dev, and OUT/vox2_test from what lies below a folder named ``test`` or ``..._test_...``.

    With ``convert`` the audio is decoded once into OUT/audio/<speaker>/<video>/<file>.flac (16 kHz, mono,
    16 bit). It may be interrupted: what is already there is kept. Files that cannot be decoded are listed in
    OUT/rejected.tsv.

    Args:
        source: the unpacked corpus.
        out: the folder of the data dirs.
        note: is told what happens.
        convert: format of the converted audio; None to point at the files as they are.
        jobs: processes that convert, or threads that read headers.

    Raises:
        CorpusError: no speaker folder, or an unknown format.
    """
    if convert not in (None, "flac", "wav"):
        raise CorpusError(f"--convert {convert}: the audio can be converted to flac or wav")
    source = open_source(source, out, LAYOUT_2, apart=True)
    utterances = _utterances(source, LAYOUT_2, note)
    is_test = {each.utt_id: _lies_below_test(each, source) for each in utterances}
    rejected: Rejected = {}
    if convert:
        utterances = convert_audio(utterances, out / "audio", convert, rejected, note=note, jobs=jobs)
    elif any(each.wav_path.endswith(".m4a") for each in utterances):
        note("m4a files are decoded whole to learn their length, and at each reading; --convert does it once")
    parts = {
        "vox2_dev": [each for each in utterances if not is_test[each.utt_id]],
        "vox2_test": [each for each in utterances if is_test[each.utt_id]],
    }
    parts = {part: found for part, found in parts.items() if found}
    return write_parts(out, parts, note=note, jobs=jobs, rejected=rejected)


def _utterances(source: Path, layout: str, note: Note) -> list[Utterance]:
    """Every utterance below the speaker folders, in its quickest format."""
    found = []
    for folder in _speaker_folders(source):
        speaker = os.path.basename(folder)
        for path in audio_files(folder, SUFFIXES):
            inside = os.path.splitext(path[len(folder) + 1 :])[0]
            found.append(Utterance("-".join([speaker, *inside.split(os.sep)]), path, speaker))
    if not found:
        raise CorpusError(f"{source}: no speaker folder with audio found; expected {layout}")
    utterances = unique(found, prefer=SUFFIXES)
    note(f"{source}: {len(utterances):,} utterances found" + _duplicates(len(found) - len(utterances)))
    return utterances


def _duplicates(count: int) -> str:
    return f" ({count:,} of them in two formats: the one that is read faster counts)" if count else ""


def _speaker_folders(source: Path) -> Iterator[str]:
    for path, folders, _ in walk(source):
        yield from (os.path.join(path, name) for name in folders if SPEAKER.fullmatch(name))
        folders[:] = [name for name in folders if not SPEAKER.fullmatch(name)]


def _lies_below_test(utterance: Utterance, source: Path) -> bool:
    """Whether a folder from ``source`` down to the speaker is named as the test part."""
    folders = utterance.wav_path[len(str(source.parent)) :].split(os.sep)
    return any(TEST_FOLDER.search(name) for name in folders[: folders.index(str(utterance.speaker_id))])


def _official_lists(source: Path, trials: Path | None, note: Note) -> dict[str, str]:
    """The publisher's trial lists found, by their name in a data dir, as text with joined ids."""
    if trials is not None and not Path(trials).is_dir():
        raise CorpusError(f"{trials}: no such folder; expected one with {', '.join(TRIAL_LISTS)}")
    lists: dict[str, str] = {}
    for path, folders, files in walk(trials or source):
        folders[:] = [name for name in folders if not SPEAKER.fullmatch(name)]
        for file in files:
            name, known_count = TRIAL_LISTS.get(file, ("", 0))
            if name and name not in lists:
                lines = _joined_trials(Path(path, file))
                lists[name] = "".join(lines)
                if len(lines) != known_count:
                    note(
                        f"{Path(path, file)}: {len(lines):,} trials; the publisher's list has {known_count:,}"
                    )
    if not lists:
        if trials is not None:
            raise CorpusError(f"{trials}: no trial list found; expected {', '.join(TRIAL_LISTS)}")
        note(
            f"{source}: no official trial list ({', '.join(TRIAL_LISTS)}); '--trials DIR' says where they are"
        )
    return lists


def _joined_trials(path: Path) -> list[str]:
    """The lines of a list of the form ``1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav``."""
    lines = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise CorpusError(
                f"{path}:{number}: '{line[:80]}'; expected '0|1 id/video/file.wav id/video/file.wav'"
            )
        label, *sides = fields
        enrol, test = (side.removesuffix(".wav").replace("/", "-") for side in sides)
        lines.append(f"{label} {enrol} {test}\n")
    return lines


def _trials_that_fit(
    parts: dict[str, list[Utterance]], lists: dict[str, str], note: Note
) -> dict[str, dict[str, str]]:
    """Part -> the lists of which it has every utterance."""
    files: dict[str, dict[str, str]] = {part: {} for part in parts}
    present = {part: {each.utt_id for each in utterances} for part, utterances in parts.items()}
    for name, text in lists.items():
        wanted = {utt_id for line in text.splitlines() for utt_id in line.split()[1:]}
        fitting = [part for part in parts if wanted <= present[part]]
        for part in fitting:
            files[part][name] = text
        if not fitting:
            note(f"{name}: left out; {_nearest_miss(wanted, present.values())}")
    return files


def _nearest_miss(wanted: set[str], present: Iterable[set[str]]) -> str:
    missing = min((wanted - each for each in present), key=len)
    return f"{len(missing):,} of its {len(wanted):,} utterances are not there, {min(missing)} for one"
