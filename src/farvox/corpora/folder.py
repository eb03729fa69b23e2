"""Any collection of recordings kept as one folder per speaker."""

from __future__ import annotations

import os
from pathlib import Path

from farvox.corpora.parts import audio_files, open_source, unique, write_parts
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.jobs import REJECTED
from farvox.progress import Note

LAYOUT = "one folder per speaker, with audio files at any depth below it"


def prepare_folder(
    source: Path, out: Path, *, note: Note, jobs: int | None = None, skip_bad: bool = False
) -> list[DataDir]:
    """Make OUT/all from ``SOURCE/<speaker>/.../*.wav``, or any other format that can be read.

    An utterance id is the speaker and the path below the speaker's folder joined by ``-``, without the
    suffix; white space becomes ``_``.

    Raises:
        CorpusError: no speaker folder with audio, two files with the same id, or, unless ``skip_bad``, files
            that cannot be used: OUT/all is written without them, and OUT/rejected.tsv lists them.
    """
    source = open_source(source, out, LAYOUT)
    found, utterances = list(audio_files(source)), []
    for path in found:
        if os.path.dirname(path) != str(source):
            inside = os.path.splitext(os.path.relpath(path, source))[0]
            names = ["_".join(name.split()) for name in inside.split(os.sep)]
            utterances.append(Utterance("-".join(names), path, names[0]))
    if not utterances:
        raise CorpusError(f"{source}: no speaker found; expected {LAYOUT}")
    if len(utterances) < len(found):
        num_outside = len(found) - len(utterances)
        note(f"{source}: {num_outside:,} audio files outside the speaker folders were left out")
    made = write_parts(out, {"all": unique(utterances)}, note=note, jobs=jobs)
    if not skip_bad and (out / REJECTED).exists():
        raise CorpusError(
            f"{out / REJECTED}: lists the files of {source} that cannot be used; {out / 'all'} has the "
            "others. Repair them, or accept that with --skip-bad"
        )
    return made
