"""CN-Celeb 1 and 2: Chinese celebrities in eleven genres (arXiv:1911.01799, arXiv:2012.12468, OpenSLR 82)."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path

import polars as pl

from farvox.corpora.parts import audio_files, open_source, read_text, stem, unique, walk, write_parts
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = (
    "data/id00000/singing-01-001.flac at any depth (of CN-Celeb_flac, CN-Celeb2_flac or both), "
    "and eval/ with enroll/, test/ and lists/trials.lst"
)
SUFFIXES = (".wav", ".flac")  # the quickest to read first
SPEAKER = re.compile(r"id\d{5}")
EVALUATION_SPEAKERS = frozenset(f"id{number:05}" for number in range(800, 1000))

_NAME = r"^id\d{5}-(?<genre>[a-z_]+)-(?<session>\d+)-(?<utterance>\d+)$"


def prepare_cnceleb(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/cnceleb1_dev, OUT/cnceleb2_dev and OUT/eval, whichever is there.

    An utterance id is the speaker and the name of the file (``id00000-singing-01-001``). The 200
    evaluation speakers, id00800 to id00999, stay out of the development parts. ``utt2cond`` has the genre,
    session and utterance of the name; OUT/eval has the enrolments (``id00800-enroll``) and tests, and
    ``trials`` with these ids. For the averaged protocol it also has the recordings that the enrolments were
    joined of, and ``enrol_map``, where ``enroll.map`` and these recordings are there. ``source`` is either
    release, or a folder with both.

    Raises:
        CorpusError: no speaker folder and no evaluation file, two files of one name, or a malformed list.
    """
    source = open_source(source, out, LAYOUT)
    found: dict[str, list[Utterance]] = {"cnceleb1_dev": [], "cnceleb2_dev": [], "eval": []}
    kept_out: list[Utterance] = []
    for path in audio_files(source, SUFFIXES):
        folder, name = os.path.basename(os.path.dirname(path)), stem(path)
        if folder in ("enroll", "test"):  # named after their speakers
            if speaker := SPEAKER.match(name):
                found["eval"].append(Utterance(name, path, speaker[0]))
        elif folder in EVALUATION_SPEAKERS:
            kept_out.append(Utterance(f"{folder}-{name}", path, folder))
        elif SPEAKER.fullmatch(folder):
            part = "cnceleb1_dev" if folder < "id10000" else "cnceleb2_dev"
            found[part].append(Utterance(f"{folder}-{name}", path, folder))
    lists = {}
    if found["eval"]:
        known = {each.utt_id for each in found["eval"]}
        kept_out = [each for each in unique(kept_out, prefer=SUFFIXES) if each.utt_id not in known]
        lists = _trials(source, note)
        enrol_map = _enrol_map(source, known | {each.utt_id for each in kept_out}, note)
        if enrol_map:
            lists["enrol_map"] = "".join(f"{' '.join(line)}\n" for line in enrol_map)
            joined = {utt_id for line in enrol_map for utt_id in line[1:]}
            found["eval"] += [each for each in kept_out if each.utt_id in joined]
            kept_out = [each for each in kept_out if each.utt_id not in joined]
    parts = {part: unique(each, prefer=SUFFIXES) for part, each in found.items() if each}
    if not parts:
        raise CorpusError(f"{source}: not the CN-Celeb corpus; expected {LAYOUT}")
    for part in found:
        if part not in parts:
            note(f"{source}: nothing for {part}")
    if kept_out:
        note(f"{len(kept_out):,} files of evaluation speakers below data/ stay out of cnceleb1_dev")
    files = {}
    for part, utterances in parts.items():
        names = pl.Series("utt_id", [each.utt_id for each in utterances], pl.String)
        fields = pl.DataFrame(names).select(pl.col("utt_id").str.extract_groups(_NAME)).unnest("utt_id")
        files[part] = {CONDITIONS: conditions_text(fields.insert_column(0, names))}
    if "eval" in parts:
        files["eval"] |= lists
    return write_parts(out, parts, note=note, jobs=jobs, files=files)


def _lines_of(source: Path, name: str) -> tuple[Path | None, list[list[str]]]:
    """The list of that name, and the fields of its lines."""
    for folder, _, names in walk(source):
        if name in names:
            path = Path(folder, name)
            return path, [line.split() for line in read_text(path).splitlines()]
    return None, []


def _trials(source: Path, note: Note) -> dict[str, str]:
    """The list whose lines are ``id00800-enroll test/id00800-singing-01-005.wav 1``, with utterance ids."""
    path, rows = _lines_of(source, "trials.lst")
    if path is None:
        note(f"{source}: no trials.lst, so no trial list in 'eval'")
        return {}
    for number, fields in enumerate(rows, 1):
        if fields and (len(fields) != 3 or fields[2] not in ("0", "1")):
            raise CorpusError(
                f"{path}:{number}: '{' '.join(fields)[:80]}'; expected"
                " 'id00800-enroll test/id00800-singing-01-005.wav 1'"
            )
    lines = (f"{stem(fields[0])} {stem(fields[1])} {fields[2]}\n" for fields in rows if fields)
    return {"trials": "".join(lines)}


def _enrol_map(source: Path, known: Container[str], note: Note) -> list[list[str]]:
    """Each enrolment with the utterances that it was joined of; empty where these are not there.

    Lines are ``id00800-enroll id00800/singing-01-001.wav ...``, with paths below the folder ``data``.
    """
    path, rows = _lines_of(source, "enroll.map")
    lines = []
    for number, fields in enumerate(rows, 1):
        if fields and (
            len(fields) == 1 or not all(SPEAKER.match(name) and "/" in name for name in fields[1:])
        ):
            raise CorpusError(
                f"{path}:{number}: '{' '.join(fields)[:80]}'; expected"
                " 'id00800-enroll id00800/singing-01-001.wav ...'"
            )
        if fields:
            lines.append([stem(fields[0]), *(stem(name.replace("/", "-")) for name in fields[1:])])
    missing = [utt_id for line in lines for utt_id in line[1:] if utt_id not in known]
    if missing:
        note(
            f"{path}: {len(missing):,} recordings of enrolments are not below data/, the first "
            f"'{missing[0]}', so no enrol_map in 'eval'"
        )
    return [] if missing else lines
