"""MUSAN: noise, music and speech to mix into training data (Snyder et al., arXiv:1510.08484, OpenSLR 17)."""

from __future__ import annotations

from pathlib import Path

from farvox.corpora.parts import audio_files, listed_files, open_source, recordings, write_parts
from farvox.datadir.kaldi import DataDir
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = "noise/, music/ and speech/, or lists of paths named noise_wav_list, music_wav_list, speech_wav_list"
PARTS = ("noise", "music", "speech")


def prepare_musan(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/noise, OUT/music and OUT/speech, whichever is there; ids are the file names.

    A list of paths, as the baseline keeps in ``data/MUSAN``, is taken instead of the folder of its part.
    ``source`` may also be the folder that holds the corpus as ``musan``, a folder of lists, or one list.

    Raises:
        CorpusError: no part is there, a list names an absent file, or two files have the same name.
    """
    if source.is_file():
        part = source.name.split("_")[0]
        if part not in PARTS:
            raise CorpusError(
                f"{source}: this list is of no known part; name it noise_wav_list, music_wav_list or "
                "speech_wav_list"
            )
        return write_parts(out, {part: recordings(listed_files(source))}, note=note, jobs=jobs)
    source = open_source(source, out, LAYOUT, read=PARTS)
    parts = {}
    for part in PARTS:
        found: list[str] = []
        for root in (source / "musan", source):
            if (root / f"{part}_wav_list").is_file():
                found = listed_files(root / f"{part}_wav_list")
            elif (root / part).is_dir():
                found = list(audio_files(root / part))
        if found:
            parts[part] = recordings(found)
        else:
            note(f"{source}: nothing for the part '{part}'")
    if not parts:
        raise CorpusError(f"{source}: not the MUSAN corpus; expected {LAYOUT}")
    return write_parts(out, parts, note=note, jobs=jobs)
