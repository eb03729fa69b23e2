"""HI-MIA: one wake-up phrase, near and far (Qin et al., arXiv:1912.01231, OpenSLR 85)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from farvox.atomic import visible
from farvox.corpora.parts import (
    audio_files,
    open_source,
    read_text,
    stem,
    texts_by_name,
    unique,
    walk,
    write_parts,
)
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = "train/, dev/ or test_v2/ with SV0001_2_00_N0001.wav files at any depth"
PARTS = ("train", "dev", "test_v2")
TRIAL_LISTS = ("trials_mic", "trials_1m")
MAPPING_FILE = re.compile(r"filename_mapping.*\.txt")
NAME_CONDITIONS = ("point", "microphone", "speed", "utterance")
SPEEDS = {"N": "normal", "S": "slow", "F": "fast"}

_NAME = r"^[^_]+_(?<point>\d+)_(?<microphone>\d+)_(?<speed>[NSF])(?<utterance>\d+)$"


def prepare_himia(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/train, OUT/dev and OUT/test_v2, whichever is there, with the trial lists in OUT/test_v2.

    An utterance id is the file name without ``.wav``, a speaker the first field of it (``SV0001``); the
    trial lists are copied unchanged. ``utt2cond`` has the point, microphone, speed and utterance of the
    name. The file names of train and dev do not tell the microphone: where the publisher's
    ``{train,dev}_filename_mapping.txt`` are there, the conditions are those of the name that it gives
    (``original``); without them ``microphone`` is empty. ``source`` may also be a folder that holds the
    corpus alone.

    Raises:
        CorpusError: no part is there, a part is empty, two files have the same name, or a malformed mapping.
    """
    source = open_source(source, out, LAYOUT, read=PARTS)
    inner = [path for path in visible(source) if path.is_dir() and path.name not in PARTS]
    roots = [root for root in (source, *inner) if any((root / part).is_dir() for part in PARTS)]
    if not roots:
        raise CorpusError(f"{source}: not the HI-MIA corpus; expected {LAYOUT}")
    if len(roots) > 1 and roots[0] != source:
        raise CorpusError(
            f"{source}: several folders have such parts, {roots[0]} and {roots[1]}; name the one"
        )
    parts: dict[str, list[Utterance]] = {}
    files: dict[str, dict[str, str]] = {}
    mapping = _filename_mapping(source)
    for part in PARTS:
        folder = roots[0] / part
        if not folder.is_dir():
            hint = " (test.tar.gz is damaged; test_v2.tar.gz replaces it)" if part == "test_v2" else ""
            note(f"{roots[0]}: no folder {part}, so no part '{part}'{hint}")
            continue
        paths = audio_files(folder, (".wav",))
        utterances = [Utterance(name, path, name.split("_")[0]) for path in paths if (name := stem(path))]
        if not utterances:
            raise CorpusError(f"{folder}: no .wav file at any depth; are the archives inside unpacked?")
        parts[part] = unique(utterances)
        files[part] = texts_by_name(folder, TRIAL_LISTS, note) if part == "test_v2" else {}
        conditions = _conditions(parts[part], mapping, is_renamed=part != "test_v2")
        files[part][CONDITIONS] = conditions_text(conditions)
    return write_parts(out, parts, note=note, jobs=jobs, files=files)


def _filename_mapping(source: Path) -> dict[str, str]:
    """Name of a file -> the name that tells where it was recorded, both without ``.wav``."""
    mapping: dict[str, str] = {}
    for folder, _, files in walk(source):
        for name in files:
            if not MAPPING_FILE.search(name):
                continue
            path = Path(folder, name)
            for number, line in enumerate(read_text(path).splitlines(), 1):
                pair = [os.path.basename(field).removesuffix(".wav") for field in line.split()]
                if pair and len(pair) != 2:
                    raise CorpusError(
                        f"{path}:{number}: '{line[:80]}'; expected the name of a file and the name it stands "
                        "for"
                    )
                if pair:
                    mapping[pair[0]] = pair[1]
    return mapping


def _conditions(utterances: Sequence[Utterance], mapping: dict[str, str], is_renamed: bool) -> pl.DataFrame:
    """The conditions of each utterance; ``is_renamed``: only a name of the mapping gives the microphone."""
    utt_id = pl.Series("utt_id", [each.utt_id for each in utterances], pl.String)
    original = pl.Series("original", [mapping.get(each.utt_id) for each in utterances], pl.String)
    table = parse_names(original.fill_null(utt_id)).insert_column(0, utt_id)
    if is_renamed:
        known = pl.lit(original.is_not_null())
        table = table.with_columns(microphone=pl.when(known).then("microphone"))
    return table if original.is_null().all() else table.insert_column(1, original)


def parse_names(names: Sequence[str] | pl.Series) -> pl.DataFrame:
    """The conditions in HI-MIA's names: ``SV0299_2_03_F0096`` is point 2, microphone 3, fast, utterance 96.

    Points 2, 5 and 6 are circular arrays of up to 16 microphones, 7 is the close-talk microphone.

    Returns:
        One row a name (without suffix), the columns of `NAME_CONDITIONS`; all null where it has another form.
    """
    name = pl.Series("name", names, pl.String)
    fields = pl.DataFrame(name).select(pl.col("name").str.extract_groups(_NAME)).unnest("name")
    return fields.with_columns(pl.col("speed").replace(SPEEDS)).select(NAME_CONDITIONS)
