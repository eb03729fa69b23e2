"""VoxCeleb 1 and 2: celebrities in interviews (arXiv:1706.08612, arXiv:1806.05622)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from farvox.atomic import file_name
from farvox.audio.files import audio_info, read_audio, write_audio
from farvox.corpora.parts import audio_files, open_source, read_text, unique, walk, write_parts
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import AudioError, CorpusError
from farvox.jobs import Job, Rejected, cut, digest
from farvox.progress import Note

LAYOUT_1 = "wav/id10001/<video>/00001.wav at any depth (dev/wav, vox1_test_wav/wav, ...)"
LAYOUT_2 = "dev/aac/id00012/<video>/00001.m4a at any depth (or .wav, .flac)"
SPEAKER = re.compile(r"id\d{5}")
TEST_FOLDER = re.compile(r"(?:^|_)test(?:_|$)")
TEST_SPEAKERS = frozenset(f"id{number}" for number in range(10270, 10310))
SUFFIXES = (".wav", ".flac", ".m4a")  # the quickest to read first
SAMPLE_RATE = 16000  # of converted files
FILES_AT_ONCE = 64  # handed to a process that converts

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
    ``trials_O``, ``trials_O_cleaned``, ``trials_E``, ... ``trials_H_cleaned``. The lists (``veri_test.txt``,
    ...) are those of the folder ``trials``; by default they are looked for below ``source``.

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
    files: dict[str, dict[str, str]] = {part: {} for part in parts}
    present = {part: {each.utt_id for each in utterances} for part, utterances in parts.items()}
    for name, text in _official_lists(source, trials, note).items():
        wanted = {utt_id for line in text.splitlines() for utt_id in line.split()[1:]}
        fitting = [part for part in parts if wanted <= present[part]]
        for part in fitting:
            files[part][name] = text
        if not fitting:
            missing = min((wanted - each for each in present.values()), key=len)
            note(
                f"{name}: left out; {len(missing):,} of its {len(wanted):,} utterances are not there, "
                f"{min(missing)} for one"
            )
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
    16 bit), by ``jobs`` processes. It may be interrupted: what is already there is kept. Files that cannot be
    decoded are listed in OUT/rejected.tsv.

    Raises:
        CorpusError: no speaker folder, or an unknown format.
    """
    if convert not in (None, "flac", "wav"):
        raise CorpusError(f"--convert {convert}: the audio can be converted to flac or wav")
    source = open_source(source, out, LAYOUT_2)
    utterances = _utterances(source, LAYOUT_2, note)
    is_test = {}
    for each in utterances:  # a folder from the source down to the speaker is named as the test part
        folders = each.wav_path[len(str(source.parent)) :].split(os.sep)
        above = folders[: folders.index(str(each.speaker_id))]
        is_test[each.utt_id] = any(TEST_FOLDER.search(name) for name in above)
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
    for above, folders, _ in walk(source):
        for speaker in filter(SPEAKER.fullmatch, folders):
            folder = os.path.join(above, speaker)
            for path in audio_files(folder, SUFFIXES):
                inside = os.path.splitext(path[len(folder) + 1 :])[0]
                found.append(Utterance("-".join([speaker, *inside.split(os.sep)]), path, speaker))
        folders[:] = [name for name in folders if not SPEAKER.fullmatch(name)]
    if not found:
        raise CorpusError(f"{source}: no speaker folder with audio found; expected {layout}")
    utterances = unique(found, prefer=SUFFIXES)
    twice = len(found) - len(utterances)
    more = f" ({twice:,} of them in two formats: the one that is read faster counts)" if twice else ""
    note(f"{source}: {len(utterances):,} utterances found{more}")
    return utterances


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


def convert_audio(
    utterances: Sequence[Utterance],
    folder: Path,
    suffix: str,
    rejected: Rejected,
    *,
    note: Note,
    jobs: int | None = None,
) -> list[Utterance]:
    """Write every utterance as 16 kHz mono ``folder/<speaker>/<video>/<file>.<suffix>``, in parallel.

    A file is written whole or not at all, so one that is there and can be opened is kept, and an interrupted
    conversion goes on where it stopped. One whose source was replaced since, by whatever file, is made again,
    with a note: the system gives the source a later time of change then. Files that already have the format
    are used where they are.

    Args:
        utterances: ids of the form ``speaker-video-file``, with the speaker named.
        rejected: takes the files that cannot be decoded, with the reason.

    Returns:
        The utterances that can be used, pointing at the converted files, with their lengths.
    """
    folder = Path(os.path.abspath(folder))
    foreign = [each for each in utterances if not each.wav_path.endswith(f".{suffix}")]
    kept = [each for each in utterances if each.wav_path.endswith(f".{suffix}")]
    targets = []
    for each in foreign:  # OUT/audio/id00012/21Uxsk56VDQ/00001.flac; a video's name may hold "-"
        video, _, file = each.utt_id.removeprefix(f"{each.speaker_id}-").rpartition("-")
        names = [file_name(name) for name in (each.speaker_id, video, file) if name]
        targets.append(f"{folder.joinpath(*names)}.{suffix}")
    pairs = [(each.wav_path, to) for each, to in zip(foreign, targets, strict=True)]
    job = Job(
        what="audio files converted",
        note=note,
        jobs=jobs,
        kept=folder,
        out=folder.parent,
        reads=[path for path, _ in pairs[:1]],
    )
    own = job.own(cut(pairs, FILES_AT_ONCE), {"files": digest(map(" ".join, pairs))})
    outcomes = [outcome for done in job.run(_convert, own) for outcome in done]
    ends = (pair for batch in own for pair in batch)
    job.end({path: why for (path, _), (_, why, _) in zip(ends, outcomes, strict=True) if why})
    if num_stale := sum(is_stale for _, _, is_stale in outcomes):
        note(f"{folder}: {num_stale:,} files were made again: what they were converted from has changed")
    for utterance, target, (num_samples, reason, _) in zip(foreign, targets, outcomes, strict=True):
        if reason:
            rejected[utterance.wav_path] = reason
        else:
            kept.append(replace(utterance, wav_path=target, num_samples=num_samples))
    return kept


def _convert(pairs: Sequence[tuple[str, str]]) -> list[tuple[int, str, bool]]:
    """Convert files of (path, target): samples, or 0 and the reason; True where the source had changed."""
    outcomes: list[tuple[int, str, bool]] = []
    for path, target in pairs:
        num_samples, is_stale = 0, False
        with suppress(AudioError, OSError):  # an earlier run wrote it
            source = os.stat(path)
            is_stale = os.stat(target).st_mtime_ns <= max(source.st_mtime_ns, source.st_ctime_ns)
            num_samples = 0 if is_stale else audio_info(target).num_samples
        if not num_samples:
            try:
                wav_T = read_audio(path, sample_rate=SAMPLE_RATE)
            except AudioError as error:
                outcomes.append((0, str(error), is_stale))
                continue
            write_audio(target, wav_T, SAMPLE_RATE)
            num_samples = len(wav_T)
        outcomes.append((num_samples, "", is_stale))
    return outcomes
