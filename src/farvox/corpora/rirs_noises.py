"""RIRS_NOISES: simulated and real room impulse responses (Ko et al., ICASSP 2017, OpenSLR 28)."""

from __future__ import annotations

import os
from pathlib import Path

from farvox.corpora.parts import audio_files, listed_files, open_source, recordings, write_parts
from farvox.datadir.kaldi import DataDir
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = "simulated_rirs/{smallroom,mediumroom,largeroom}/, real_rirs_isotropic_noises/, or a rir_list"
ROOMS = ("smallroom", "mediumroom", "largeroom")
REAL = "real_rirs_isotropic_noises"


def prepare_rirs_noises(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/smallroom, OUT/mediumroom, OUT/largeroom and OUT/real, whichever is there.

    Ids are the file names. Real responses are those of the corpus's ``rir_list``, or without it the files
    not named a noise; one of several channels is one recording. A ``rir_list`` at the top, as the baseline
    keeps in ``data/RIR_Noise``, is taken instead of the folders: a path through a room's folder belongs to
    that room, any other to ``real``. ``source`` may also be the folder that holds the corpus as
    ``RIRS_NOISES``, a folder with a ``rir_list``, or such a list itself.

    Raises:
        CorpusError: no part is there, a list names an absent file, or two files have the same name.
    """
    if not source.is_file():
        source = open_source(source, out, LAYOUT, read=("simulated_rirs", REAL))
    top_list = source if source.is_file() else source / "rir_list"
    files: dict[str, list[str]] = {part: [] for part in (*ROOMS, "real")}
    if top_list.is_file():
        for path in listed_files(top_list):
            folders = path.split(os.sep)
            files[next((room for room in ROOMS if room in folders), "real")].append(path)
    else:
        root = source / "RIRS_NOISES" if (source / "RIRS_NOISES").is_dir() else source
        for room in ROOMS:
            if (root / "simulated_rirs" / room).is_dir():
                files[room] = list(audio_files(root / "simulated_rirs" / room))
        if (root / REAL / "rir_list").is_file():
            files["real"] = listed_files(root / REAL / "rir_list")
        elif (root / REAL).is_dir():
            files["real"] = [p for p in audio_files(root / REAL) if "noise" not in os.path.basename(p)]
    parts = {part: recordings(paths) for part, paths in files.items() if paths}
    if not parts:
        raise CorpusError(f"{source}: no room impulse response found; expected {LAYOUT}")
    absent = [part for part in files if part not in parts]
    if absent:
        note(f"{source}: nothing for {', '.join(absent)}")
    return write_parts(out, parts, note=note, jobs=jobs)
