"""AN4, the CMU census database: spelling and numbers, 74 speakers for training and 10 for test."""

from __future__ import annotations

import os
from pathlib import Path

from farvox.corpora.parts import audio_files, open_source, stem, unique, write_parts
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = "wav/an4_clstk/<speaker>/*.wav (or .flac, .sph), and wav/an4test_clstk for the test part"
PARTS = {"train": "an4_clstk", "test": "an4test_clstk"}
SUFFIXES = (".wav", ".flac", ".sph")


def prepare_an4(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/train and OUT/test, whichever is there.

    The publisher's names end in the speaker (``an190-mkem-b``); the speaker is put first as well
    (``mkem-an190-mkem-b``), so that utterances sort by speaker. NIST sphere files are read as they are.
    ``source`` may also be the folder that holds the corpus as ``an4``.

    Raises:
        CorpusError: neither part is there, or none of its files can be used.
    """
    source = open_source(source, out, LAYOUT, read=("wav", *PARTS.values()))
    parts = {}
    for part, name in PARTS.items():
        folders = [source / below / name for below in ("wav", "an4/wav", ".")]
        folder = next((each for each in folders if each.is_dir()), None)
        if folder is None:
            note(f"{source}: no wav/{name}, so no part '{part}'")
            continue
        utterances = [
            Utterance(f"{(speaker := os.path.basename(os.path.dirname(path)))}-{stem(path)}", path, speaker)
            for path in audio_files(folder, SUFFIXES)
        ]
        if not utterances:
            raise CorpusError(f"{folder}: no audio found; expected <speaker>/*{' or *'.join(SUFFIXES)}")
        parts[part] = unique(utterances, prefer=SUFFIXES)
    if not parts:
        raise CorpusError(f"{source}: not the AN4 corpus; expected {LAYOUT}")
    return write_parts(out, parts, note=note, jobs=jobs)
