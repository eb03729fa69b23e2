"""HI-MIA: one wake-up phrase, near and far (Qin et al., arXiv:1912.01231, OpenSLR 85)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from farvox.corpora.himia_names import parse_names
from farvox.corpora.parts import texts_by_name, unique, write_parts
from farvox.corpora.tree import audio_files, open_source, read_text, stem, walk
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = "train/, dev/ or test_v2/ with SV0001_2_00_N0001.wav files at any depth"
PARTS = ("train", "dev", "test_v2")
TRIAL_LISTS = ("trials_mic", "trials_1m")
MAPPING_FILE = re.compile(r"filename_mapping.*\.txt")


def prepare_himia(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/train, OUT/dev and OUT/test_v2, whichever is there, with the trial lists in OUT/test_v2.

    An utterance id is the file name without ``.wav``, a speaker the first field of it (``SV0001``); the
    trial lists are copied unchanged. ``utt2cond`` has the point, microphone, speed and utterance of the
    name. The file names of train and dev do not tell the microphone: where the publisher's
    ``{train,dev}_filename_mapping.txt`` are there, the conditions are those of the name that it gives
    (``original``); without them ``microphone`` is empty.

    Args:
        source: the unpacked corpus, or a folder that holds it alone.
        out: the folder of the data dirs.
        note: is told what happens.
        jobs: threads that read headers.

    Raises:
        CorpusError: no part is there, a part is empty, two files have the same name, or a malformed mapping.
    """
    source = open_source(source, out, LAYOUT)
    folders = _part_folders(_root(source), note)
    parts = {part: _utterances(folder) for part, folder in folders.items()}
    files: dict[str, dict[str, str]] = {part: {} for part in parts}
    if "test_v2" in folders:
        files["test_v2"] = texts_by_name(folders["test_v2"], TRIAL_LISTS, note)
    mapping = _filename_mapping(source)
    for part, utterances in parts.items():
        files[part][CONDITIONS] = conditions_text(_conditions(utterances, mapping, part != "test_v2"))
    return write_parts(out, parts, note=note, jobs=jobs, files=files)


def _root(source: Path) -> Path:
    """The folder that holds the parts: ``source``, or the one folder in it that does."""
    inner = [path for path in sorted(source.iterdir()) if path.is_dir() and path.name not in PARTS]
    found = [root for root in (source, *inner) if any((root / part).is_dir() for part in PARTS)]
    if not found:
        raise CorpusError(f"{source}: not the HI-MIA corpus; expected {LAYOUT}")
    if len(found) > 1 and found[0] != source:
        raise CorpusError(
            f"{source}: several folders have such parts, {found[0]} and {found[1]}; name the one"
        )
    return found[0]


def _part_folders(root: Path, note: Note) -> dict[str, Path]:
    folders = {part: root / part for part in PARTS if (root / part).is_dir()}
    for part in PARTS:
        if part not in folders:
            hint = " (test.tar.gz is damaged; test_v2.tar.gz replaces it)" if part == "test_v2" else ""
            note(f"{root}: no folder {part}, so no part '{part}'{hint}")
    return folders


def _utterances(folder: Path) -> list[Utterance]:
    found = [
        Utterance(name, path, name.split("_")[0])
        for path in audio_files(folder, (".wav",))
        if (name := stem(path))
    ]
    if not found:
        raise CorpusError(f"{folder}: no .wav file at any depth; are the archives inside unpacked?")
    return unique(found)


def _filename_mapping(source: Path) -> dict[str, str]:
    """Name of a file -> the name that tells where it was recorded, both without ``.wav``."""
    mapping: dict[str, str] = {}
    for folder, _, files in walk(source):
        for name in files:
            if MAPPING_FILE.search(name):
                mapping.update(_read_mapping(Path(folder, name)))
    return mapping


def _read_mapping(path: Path) -> dict[str, str]:
    mapping = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        names = [os.path.basename(field).removesuffix(".wav") for field in line.split()]
        if not names:
            continue
        if len(names) != 2:
            raise CorpusError(
                f"{path}:{number}: '{line[:80]}'; expected the name of a file and the name it stands for"
            )
        mapping[names[0]] = names[1]
    return mapping


def _conditions(utterances: Sequence[Utterance], mapping: dict[str, str], is_renamed: bool) -> pl.DataFrame:
    """The conditions of each utterance; ``is_renamed`` where only a mapped name tells the microphone."""
    utt_id = pl.Series("utt_id", [each.utt_id for each in utterances], pl.String)
    original = pl.Series("original", [mapping.get(each.utt_id) for each in utterances], pl.String)
    table = parse_names(original.fill_null(utt_id)).insert_column(0, utt_id)
    if is_renamed:
        known = pl.lit(original.is_not_null())
        table = table.with_columns(microphone=pl.when(known).then("microphone"))
    return table if original.is_null().all() else table.insert_column(1, original)
