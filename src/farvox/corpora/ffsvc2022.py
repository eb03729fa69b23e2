"""FFSVC2022: development and evaluation files of the challenge (Qin et al., arXiv:2209.05273)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from farvox.corpora.ffsvc_names import FORM, parse_names
from farvox.corpora.parts import unique, write_parts
from farvox.corpora.tree import open_source, read_text, stem, walk
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = "ffsvc22_dev_000000.wav and ffsvc22_eval_000000.wav files at any depth, and dev_meta_list"
PARTS = ("dev", "eval")
META = "dev_meta_list"
TRIAL_LISTS = {"dev": ("trials_dev_keys", "trials_dev"), "eval": ("trials_eval_keys", "trials_eval")}
NAME = re.compile(r"ffsvc22_(dev|eval)_\d+")


def prepare_ffsvc2022(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/dev and OUT/eval, whichever is there, with the trial lists as they are.

    An utterance id is the file name without ``.wav``; it tells the part. ``dev_meta_list`` gives each
    development file a name of FFSVC2020's form: the speaker comes from it, and ``utt2cond`` has what else it
    tells, with the name itself as ``original``. Nothing is known of the evaluation files.

    Args:
        source: the folder that holds the files and the lists.
        out: the folder of the data dirs.
        note: is told what happens.
        jobs: threads that read headers.

    Raises:
        CorpusError: no such file, two of one name, or a ``dev_meta_list`` that is malformed or incomplete.
    """
    source = open_source(source, out, LAYOUT)
    audio, lists = _found(source, note)
    if not audio:
        raise CorpusError(f"{source}: not the FFSVC2022 corpus; expected {LAYOUT}")
    parts, files = {}, {}
    for part in PARTS:
        if part not in audio:
            note(f"{source}: no ffsvc22_{part}_*.wav, so no part '{part}'")
            continue
        parts[part] = unique(Utterance(stem(path), path) for path in audio[part])
        files[part] = {name: read_text(lists[name]) for name in TRIAL_LISTS[part] if name in lists}
        if not files[part]:
            note(f"{source}: no {' or '.join(TRIAL_LISTS[part])}, so no trial list in '{part}'")
    if "dev" in parts and META in lists:
        parts["dev"], files["dev"][CONDITIONS] = _with_conditions(parts["dev"], lists[META])
    elif "dev" in parts:
        note(f"{source}: no {META}, so 'dev' gets no speakers and no conditions")
    return write_parts(out, parts, note=note, jobs=jobs, files=files)


def _found(source: Path, note: Note) -> tuple[dict[str, list[str]], dict[str, Path]]:
    """Part -> its audio files, and name -> list."""
    audio: dict[str, list[str]] = {}
    lists: dict[str, Path] = {}
    known = {META, *(name for names in TRIAL_LISTS.values() for name in names)}
    num_others = 0
    for folder, _, names in walk(source):
        for name in names:
            bare, suffix = os.path.splitext(name)
            if suffix.lower() in (".wav", ".flac"):
                of_part = NAME.fullmatch(bare)
                num_others += of_part is None
                if of_part:
                    audio.setdefault(of_part[1], []).append(os.path.join(folder, name))
            elif name in known or (suffix == ".txt" and bare in known):
                lists.setdefault(bare if bare in known else name, Path(folder, name))
    if num_others:
        note(f"{source}: {num_others:,} audio files of other names were left out")
    return audio, lists


def _with_conditions(utterances: Sequence[Utterance], meta: Path) -> tuple[list[Utterance], str]:
    """The utterances with their speakers, and the text of their conditions."""
    original = _read_meta(meta)
    missing = [each.utt_id for each in utterances if each.utt_id not in original]
    if missing:
        more = f" (nor {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise CorpusError(f"{meta}: does not name {missing[0]}{more}; take the list of the same release")
    utt_ids = [each.utt_id for each in utterances]
    table = parse_names(pl.Series([original[utt_id] for utt_id in utt_ids], dtype=pl.String))
    table = table.insert_column(0, pl.Series("utt_id", utt_ids))
    table = table.with_columns(original=pl.Series([original[utt_id] for utt_id in utt_ids]))
    other = table.filter(pl.col("speaker").is_null())
    if len(other):
        utt_id, name = other["utt_id"][0], other["original"][0]
        raise CorpusError(f"{meta}: '{name}', the name of {utt_id}, is not of the form {FORM}")
    speakers = table["speaker"].to_list()
    known = [Utterance(e.utt_id, e.wav_path, spk) for e, spk in zip(utterances, speakers, strict=True)]
    return known, conditions_text(table)


def _read_meta(path: Path) -> Mapping[str, str]:
    """FFSVC2022's name -> FFSVC2020's, both without ``.wav``; lines have them in either order."""
    original = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        names = [name.removesuffix(".wav") for name in line.split()]
        if not names or (number == 1 and not any(map(NAME.fullmatch, names))):  # the line of column names
            continue
        names.sort(key=lambda name: NAME.fullmatch(name) is None)
        if len(names) != 2 or not NAME.fullmatch(names[0]):
            raise CorpusError(
                f"{path}:{number}: '{line[:80]}'; expected 'T0344_344I1M_1_0307_normal ffsvc22_dev_000000'"
            )
        original[names[0]] = names[1]
    return original
