"""MUSAN: noise, music and speech to mix into training data (Snyder et al., arXiv:1510.08484, OpenSLR 17)."""

from __future__ import annotations

import os
from pathlib import Path

from farvox.corpora.parts import recordings, write_parts
from farvox.corpora.tree import audio_files, listed_files, open_source
from farvox.datadir.kaldi import DataDir
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = "noise/, music/ and speech/, or lists of paths named noise_wav_list, music_wav_list, speech_wav_list"
PARTS = ("noise", "music", "speech")


def prepare_musan(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/noise, OUT/music and OUT/speech, whichever is there; ids are the file names.

    A list of paths, as the baseline keeps in ``data/MUSAN``, is taken instead of the folder of its part.

    Args:
        source: the unpacked corpus, the folder that holds it as ``musan``, a folder of lists, or one list.
        out: the folder of the data dirs.
        note: is told what happens.
        jobs: threads that read headers.

    Raises:
        CorpusError: no part is there, a list names an absent file, or two files have the same name.
    """
    if source.is_file():
        return write_parts(
            out, {_part_of_list(source): recordings(listed_files(source))}, note=note, jobs=jobs
        )
    source = open_source(source, out, LAYOUT)
    parts = {}
    for part in PARTS:
        found = _files_of(part, source)
        if found:
            parts[part] = recordings(found)
        else:
            note(f"{source}: nothing for the part '{part}'")
    if not parts:
        raise CorpusError(f"{source}: not the MUSAN corpus; expected {LAYOUT}")
    return write_parts(out, parts, note=note, jobs=jobs)


def _files_of(part: str, source: Path) -> list[str]:
    for root in (source, source / "musan"):
        if (root / f"{part}_wav_list").is_file():
            return listed_files(root / f"{part}_wav_list")
        if (root / part).is_dir():
            return list(audio_files(root / part))
    return []


def _part_of_list(path: Path) -> str:
    part = os.path.basename(path).split("_")[0]
    if part not in PARTS:
        raise CorpusError(
            f"{path}: which part is this? Name the list noise_wav_list, music_wav_list or speech_wav_list"
        )
    return part
