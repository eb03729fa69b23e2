"""VOiCES: LibriSpeech played in furnished rooms and recorded by far microphones (arXiv:1804.05053)."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from farvox.corpora.parts import audio_files, open_source, stem, unique, write_parts
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = (
    "source-16k/ and distant-16k/ with Lab41-SRI-VOiCES-src-sp0307-ch127535-sg0042.wav and "
    "Lab41-SRI-VOiCES-rm1-babb-sp0307-ch127535-sg0042-mc01-stu-clo-dg090.wav files at any depth"
)
SPLITS = ("train", "test")
SUFFIXES = (".wav", ".flac")

_NAME = (
    r"^Lab41-SRI-VOiCES-(?:src|(?<room>rm\d+)-(?<noise>[a-z]+))"
    r"-(?<speaker>sp\d+)-ch(?<chapter>\d+)-sg(?<segment>\d+)"
    r"(?:-mc(?<microphone>\d+)-(?<type>[a-z]+)-(?<position>[a-z]+)-dg(?<angle>\d+))?$"
)


def prepare_voices(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/source_train, OUT/source_test, OUT/distant_train and OUT/distant_test, whichever is there.

    Source is what was played, distant what the microphones recorded. Without folders ``train`` and ``test``
    the parts are OUT/source and OUT/distant. An utterance id is the file name without suffix, a speaker
    ``sp0307``. ``utt2cond`` has what else the name tells: room, noise (``none``, ``babb``, ``musi``,
    ``tele``), chapter, segment, microphone, its type and position, and the angle of the loudspeaker in
    degrees. Room responses and distractors have other names, and are left out. ``source`` is the release or
    the devkit.

    Raises:
        CorpusError: no such file, or two of one name in a part.
    """
    source = open_source(source, out, LAYOUT)
    paths = list(audio_files(source, SUFFIXES))
    table = pl.DataFrame(
        {"wav_path": paths, "utt_id": list(map(stem, paths))},
        schema={"wav_path": pl.String, "utt_id": pl.String},
    )
    table = table.with_columns(pl.col("utt_id").str.extract_groups(_NAME).alias("fields")).unnest("fields")
    num_others = table["speaker"].null_count()
    table = table.filter(pl.col("speaker").is_not_null())
    if table.is_empty():
        raise CorpusError(f"{source}: not the VOiCES corpus; expected {LAYOUT}")
    if num_others:
        note(f"{source}: {num_others:,} audio files of other names (room responses, ...) were left out")
    folders = [path[len(str(source)) :].split(os.sep) for path in table["wav_path"]]
    splits = [next((f"_{split}" for split in SPLITS if split in each), "") for each in folders]
    table = table.with_columns(
        part=pl.when(pl.col("room").is_null()).then(pl.lit("source")).otherwise(pl.lit("distant"))
        + pl.Series(splits, dtype=pl.String)
    )
    parts, files = {}, {}
    for part in sorted(set(table["part"])):
        rows = table.filter(part=part)
        parts[part] = unique(Utterance(*row) for row in rows.select("utt_id", "wav_path", "speaker").rows())
        files[part] = {CONDITIONS: conditions_text(rows.drop("wav_path", "speaker", "part"))}
    return write_parts(out, parts, note=note, jobs=jobs, files=files)
