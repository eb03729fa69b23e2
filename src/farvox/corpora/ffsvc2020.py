"""FFSVC2020: speakers of a smart home, near and far (Qin et al., arXiv:2005.08046), and its supplement."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from farvox.corpora.ffsvc_names import FORM, parse_names
from farvox.corpora.parts import unique, write_parts
from farvox.corpora.tree import open_source, read_text, stem, walk
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = (
    "folders named train, dev, eval or supplement (FFSVC2020_supplement, ...), "
    "with T0344_344I1M_1_0307_normal.wav files at any depth"
)
PARTS = ("train", "dev", "eval", "supplement")

# A word in the name of a folder -> the part.
_WORDS = {
    "supplement": "supplement", "supplementary": "supplement", "train": "train", "training": "train",
    "dev": "dev", "development": "dev", "eval": "eval", "evaluation": "eval", "test": "eval",
}  # fmt: skip
_NO_TRIALS = (".wav", ".flac", ".zip", ".gz", ".tgz", ".tar", ".pdf", ".md", ".py", ".sh", ".csv")


def prepare_ffsvc2020(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/train, OUT/dev, OUT/eval and OUT/supplement, whichever is there.

    An utterance id is the file name without suffix, a speaker the four digits of it. ``utt2cond`` has what
    else the name tells, see `parse_names`. Trial lists (files with ``trial`` in their name) are copied
    unchanged into the part they lie in or are named after. A part whose names do not tell the speakers
    gets no ``utt2spk``.

    Args:
        source: the unpacked corpus, or one part of it.
        out: the folder of the data dirs.
        note: is told what happens.
        jobs: threads that read headers.

    Raises:
        CorpusError: no audio in a folder named after a part, two files of the same name in one part, or
            names of two forms in one part.
    """
    source = open_source(source, out, LAYOUT)
    audio, lists = _found(source)
    if not audio:
        raise CorpusError(f"{source}: not the FFSVC2020 corpus; expected {LAYOUT}")
    for part in PARTS:
        if part not in audio:
            note(f"{source}: no audio in a folder named after it, so no part '{part}'")
    parts, files = {}, {}
    for part in (part for part in PARTS if part in audio):
        parts[part], conditions = _utterances(part, audio[part], note)
        files[part] = {**conditions, **_trial_lists(lists.get(part, []))}
        note(f"{part}: {len(parts[part]):,} files found")
    for path in lists.get("", []):
        note(f"{path}: neither its name nor its folder says of which part it is, so it was left out")
    return write_parts(out, parts, note=note, jobs=jobs, files=files)


def _found(source: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Part -> its audio files, and part -> its trial lists ('' where it is not known)."""
    audio: dict[str, list[str]] = {}
    lists: dict[str, list[str]] = {}
    for folder, _, names in walk(source):
        part = _part_of((source.name, *Path(folder).relative_to(source).parts))
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            path = os.path.join(folder, name)
            if suffix in (".wav", ".flac"):
                if not part:
                    raise CorpusError(f"{path}: lies in no folder named after a part; expected {LAYOUT}")
                audio.setdefault(part, []).append(path)
            elif "trial" in name.lower() and suffix not in _NO_TRIALS:
                lists.setdefault(_part_of((name,)) or part, []).append(path)
    return audio, lists


def _part_of(names: Sequence[str]) -> str:
    """The part that one of these names (outermost first) is called after.

    The innermost counts, but for the supplement, which may have a folder 'train' of its own.
    """
    words = [word for name in names for word in re.findall("[a-z]+", name.lower())]
    parts = [_WORDS[word] for word in words if word in _WORDS]
    return "supplement" if "supplement" in parts else parts[-1] if parts else ""


def _utterances(part: str, paths: Sequence[str], note: Note) -> tuple[list[Utterance], dict[str, str]]:
    """The utterances of a part, and its conditions as a file."""
    names = pl.Series("utt_id", [stem(path) for path in paths], pl.String)
    table = parse_names(names)
    other = table["speaker"].is_null()
    if other.any() and not other.all():
        raise CorpusError(
            f"{paths[int(other.arg_true()[0])]}: its name is not of the form {FORM}, as are those of "
            f"{len(table) - other.sum():,} files of the part '{part}' ({other.sum():,} are not); "
            "move such files out of the folder"
        )
    found = unique(
        Utterance(*row) for row in zip(names.to_list(), paths, table["speaker"].to_list(), strict=True)
    )
    if other.all():
        note(f"{part}: its names are not of the form {FORM}, so it gets no speakers and no conditions")
        return found, {}
    return found, {CONDITIONS: conditions_text(table.insert_column(0, names))}


def _trial_lists(paths: Sequence[str]) -> dict[str, str]:
    """Name -> text, unchanged; lists of one name are told apart by their folders."""
    names = [os.path.basename(path) for path in paths]
    lists = {}
    for path, name in zip(paths, names, strict=True):
        folder = os.path.basename(os.path.dirname(path))
        lists[name if names.count(name) == 1 else f"{folder}_{name}"] = read_text(Path(path))
    return lists
