"""speechocean762: English read by native speakers of Mandarin, 125 speakers for training and 125 for test."""

from __future__ import annotations

import os
from pathlib import Path

from farvox.corpora.parts import open_source, read_text, unique, write_parts
from farvox.datadir.kaldi import DataDir, Utterance, read_table
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = "train/ and test/ (each with wav.scp and utt2spk) beside WAVE/SPEAKER<id>/*.WAV (or .flac)"
PARTS = ("train", "test")
CARRIED = ("spk2gender", "spk2age")
SUFFIXES = (".WAV", ".wav", ".flac", ".FLAC")


def prepare_speechocean762(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/train and OUT/test, whichever is there, with the corpus's own utterance and speaker ids.

    ``spk2gender`` and ``spk2age`` are carried over as they are. ``source`` may also be the folder that holds
    the corpus as ``speechocean762``.

    Raises:
        CorpusError: neither part is there, or its lists do not fit its files.
        DataDirError: a malformed line in one of its lists.
    """
    source = open_source(source, out, LAYOUT)
    roots = (source, source / "speechocean762")
    root = next((each for each in roots if any((each / part / "wav.scp").is_file() for part in PARTS)), None)
    if root is None:
        raise CorpusError(f"{source}: not the speechocean762 corpus; expected {LAYOUT}")
    parts, files = {}, {}
    for part in PARTS:
        if not (root / part / "wav.scp").is_file():
            note(f"{root}: no {part}/wav.scp, so no part '{part}'")
            continue
        lists, utterances = root / part, []
        if not (lists / "utt2spk").is_file():
            raise CorpusError(f"{lists}: no utt2spk; expected {LAYOUT}")
        speakers = dict(read_table(lists / "utt2spk").iter_rows())
        for number, (utt_id, entry) in enumerate(read_table(lists / "wav.scp").iter_rows(), 1):
            where = f"{lists / 'wav.scp'}:{number}"
            if utt_id not in speakers:
                raise CorpusError(f"{where}: utterance {utt_id} has no speaker in utt2spk")
            bare = os.path.splitext(root / entry)[0]
            names = [str(root / entry), *(bare + suffix for suffix in SUFFIXES)]
            path = next((name for name in names if os.path.isfile(name)), None)
            if path is None:
                raise CorpusError(f"{where}: no file {root / entry} (nor .WAV, .wav or .flac)")
            utterances.append(Utterance(utt_id, path, speakers[utt_id]))
        parts[part] = unique(utterances)
        present = [name for name in CARRIED if (root / part / name).is_file()]
        files[part] = {name: read_text(root / part / name) for name in present}
    return write_parts(out, parts, note=note, jobs=jobs, files=files)
