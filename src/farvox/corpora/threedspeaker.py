"""3D-Speaker: 10,000 speakers by several devices, at several distances, in dialects (arXiv:2306.15354)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from farvox.corpora.parts import audio_files, open_source, stem, texts_by_name, unique, walk, write_parts
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = (
    "train/ or test/ with 3D_SPK_06154/3D_SPK_06154_001_Device03_Distance00_Dialect00.wav files, "
    "and trials_cross_device, trials_cross_distance, trials_cross_dialect at any depth"
)
PARTS = ("train", "test")
TRIAL_LISTS = ("trials_cross_device", "trials_cross_distance", "trials_cross_dialect")

_NAME = (
    r"^(?<speaker>.+)_(?<utterance>\d+)_Device(?<device>\d+)_Distance(?<distance>\d+)_Dialect(?<dialect>\d+)$"
)


def prepare_3dspeaker(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/train and OUT/test, whichever is there, with the trial lists in OUT/test as they are.

    An utterance id is the file name without suffix, a speaker what stands before the number of the
    utterance in it (``3D_SPK_06154``). ``utt2cond`` has the numbers of the utterance, device, distance and
    dialect that the name tells. ``source`` may also be a folder that holds the corpus.

    Raises:
        CorpusError: no part is there, a part is empty, two files of one name, or a name of another form.
    """
    source = open_source(source, out, LAYOUT, read=PARTS)
    root = next((Path(path) for path, folders, _ in walk(source) if {*PARTS} & {*folders}), None)
    if root is None:
        raise CorpusError(f"{source}: not the 3D-Speaker corpus; expected {LAYOUT}")
    parts, files = {}, {}
    for part in PARTS:
        if not (root / part).is_dir():
            note(f"{root}: no folder {part}, so no part '{part}'")
            continue
        paths = list(audio_files(root / part, (".wav", ".flac")))
        if not paths:
            raise CorpusError(f"{root / part}: no .wav file at any depth; is the archive inside unpacked?")
        names = pl.Series("utt_id", map(stem, paths), pl.String)
        fields = pl.DataFrame(names).select(pl.col("utt_id").str.extract_groups(_NAME)).unnest("utt_id")
        other = fields["speaker"].is_null().arg_true()
        if len(other):
            raise CorpusError(f"{paths[int(other[0])]}: not a name of 3D-Speaker; expected {LAYOUT}")
        rows = zip(names.to_list(), paths, fields["speaker"].to_list(), strict=True)
        parts[part] = unique(Utterance(*row) for row in rows)
        files[part] = {CONDITIONS: conditions_text(fields.drop("speaker").insert_column(0, names))}
    if "test" in parts:
        files["test"] |= texts_by_name(source, TRIAL_LISTS, note)
    return write_parts(out, parts, note=note, jobs=jobs, files=files)
