"""FFSVC2020 and FFSVC2022: speakers of a smart home, near and far.

FFSVC2020 (Qin et al., arXiv:2005.08046) with its supplement, and the development and evaluation files of
FFSVC2022 (Qin et al., arXiv:2209.05273), whose development files have names of FFSVC2020's form in a list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from farvox.corpora.parts import open_source, read_text, stem, unique, walk, write_parts
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

DEVICES = ("MIC", "PAD", "PCM", "I")
NAME_CONDITIONS = (
    "visit", "speaker", "device", "distance", "channel", "utterance", "text_dependence", "speed",
)  # fmt: skip
FORM = "<visit><speaker>_<speaker><device><distance>_<channel>_<utterance>_<speed>"

# Utterances up to these numbers are the wake-up phrase, and sentences that begin with it.
_LAST_DEPENDENT, _LAST_SEMI_DEPENDENT = 30, 90

_NAME = (
    r"^(?<visit>[FST])(?<speaker>\d{4})_\d{3}"
    rf"(?<device>{'|'.join(DEVICES)})(?<distance>[LR]?-?\d+(?:\.\d+)?M|)"
    r"_(?<channel>[0-9A-Za-z]+)_(?<utterance>\d{3,4})_(?<speed>[a-z]+)$"
)


LAYOUT_2020 = (
    "folders named train, dev, eval or supplement (FFSVC2020_supplement, ...), "
    "with T0344_344I1M_1_0307_normal.wav files at any depth"
)
PARTS_2020 = ("train", "dev", "eval", "supplement")

# A word in the name of a folder -> the part.
_WORDS = {
    "supplement": "supplement", "supplementary": "supplement", "train": "train", "training": "train",
    "dev": "dev", "development": "dev", "eval": "eval", "evaluation": "eval", "test": "eval",
}  # fmt: skip
_NO_TRIALS = (".wav", ".flac", ".zip", ".gz", ".tgz", ".tar", ".pdf", ".md", ".py", ".sh", ".csv")


LAYOUT_2022 = "ffsvc22_dev_000000.wav and ffsvc22_eval_000000.wav files at any depth, and dev_meta_list"
PARTS_2022 = ("dev", "eval")
META = "dev_meta_list"
TRIAL_LISTS = {"dev": ("trials_dev_keys", "trials_dev"), "eval": ("trials_eval_keys", "trials_eval")}
NAME_2022 = re.compile(r"ffsvc22_(dev|eval)_\d+")


def prepare_ffsvc2020(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/train, OUT/dev, OUT/eval and OUT/supplement, whichever is there.

    An utterance id is the file name without suffix, a speaker the four digits of it. ``utt2cond`` has what
    else the name tells, see `parse_names`. Trial lists (files with ``trial`` in their name) are copied
    unchanged into the part they lie in or are named after. A part whose names do not tell the speakers
    gets no ``utt2spk``. ``source`` may also be one part of the corpus.

    Raises:
        CorpusError: no audio in a folder named after a part, two files of the same name in one part, or
            names of two forms in one part.
    """
    source = open_source(source, out, LAYOUT_2020)
    audio: dict[str, list[str]] = {}
    lists: dict[str, list[str]] = {}  # of each part, and of "" where it is not known
    for folder, _, names in walk(source):
        of_folder = _part_of((source.name, *Path(folder).relative_to(source).parts))
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            path = os.path.join(folder, name)
            if suffix in (".wav", ".flac"):
                if not of_folder:
                    raise CorpusError(f"{path}: lies in no folder named after a part; expected {LAYOUT_2020}")
                audio.setdefault(of_folder, []).append(path)
            elif "trial" in name.lower() and suffix not in _NO_TRIALS:
                lists.setdefault(_part_of((name,)) or of_folder, []).append(path)
    if not audio:
        raise CorpusError(f"{source}: not the FFSVC2020 corpus; expected {LAYOUT_2020}")
    for part in PARTS_2020:
        if part not in audio:
            note(f"{source}: no audio in a folder named after it, so no part '{part}'")
    parts: dict[str, list[Utterance]] = {}
    files: dict[str, dict[str, str]] = {}
    for part in (part for part in PARTS_2020 if part in audio):
        parts[part], files[part] = _utterances(part, audio[part], note)
        names = [os.path.basename(path) for path in lists.get(part, [])]
        for path, name in zip(lists.get(part, []), names, strict=True):
            folder = os.path.basename(os.path.dirname(path))  # tells lists of one name apart
            files[part][name if names.count(name) == 1 else f"{folder}_{name}"] = read_text(Path(path))
        note(f"{part}: {len(parts[part]):,} files found")
    for path in lists.get("", []):
        note(f"{path}: neither its name nor its folder says of which part it is, so it was left out")
    return write_parts(out, parts, note=note, jobs=jobs, files=files)


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


def prepare_ffsvc2022(source: Path, out: Path, *, note: Note, jobs: int | None = None) -> list[DataDir]:
    """Make OUT/dev and OUT/eval, whichever is there, with the trial lists as they are.

    An utterance id is the file name without ``.wav``; it tells the part. ``dev_meta_list`` gives each
    development file a name of FFSVC2020's form: the speaker comes from it, and ``utt2cond`` has what else it
    tells, with the name itself as ``original``. Nothing is known of the evaluation files.

    Raises:
        CorpusError: no such file, two of one name, or a ``dev_meta_list`` that is malformed or incomplete.
    """
    source = open_source(source, out, LAYOUT_2022)
    audio: dict[str, list[str]] = {}
    lists: dict[str, Path] = {}
    known = {META, *(name for names in TRIAL_LISTS.values() for name in names)}
    num_others = 0
    for folder, _, names in walk(source):
        for name in names:
            bare, suffix = os.path.splitext(name)
            if suffix.lower() in (".wav", ".flac"):
                of_part = NAME_2022.fullmatch(bare)
                num_others += of_part is None
                if of_part:
                    audio.setdefault(of_part[1], []).append(os.path.join(folder, name))
            elif name in known or (suffix == ".txt" and bare in known):
                lists.setdefault(bare if bare in known else name, Path(folder, name))
    if num_others:
        note(f"{source}: {num_others:,} audio files of other names were left out")
    if not audio:
        raise CorpusError(f"{source}: not the FFSVC2022 corpus; expected {LAYOUT_2022}")
    parts, files = {}, {}
    for part in PARTS_2022:
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


def _with_conditions(utterances: Sequence[Utterance], meta: Path) -> tuple[list[Utterance], str]:
    """The utterances with their speakers, and the text of their conditions."""
    original = {}  # FFSVC2022's name -> FFSVC2020's, both without ".wav"; lines have them in either order
    for number, line in enumerate(read_text(meta).splitlines(), 1):
        names = [name.removesuffix(".wav") for name in line.split()]
        is_head = number == 1 and not any(map(NAME_2022.fullmatch, names))  # the names of the columns
        if not names or is_head:
            continue
        names.sort(key=lambda name: NAME_2022.fullmatch(name) is None)
        if len(names) != 2 or not NAME_2022.fullmatch(names[0]):
            raise CorpusError(
                f"{meta}:{number}: '{line[:80]}'; expected 'T0344_344I1M_1_0307_normal ffsvc22_dev_000000'"
            )
        original[names[0]] = names[1]
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


def parse_names(names: pl.Series) -> pl.DataFrame:
    """The conditions in FFSVC2020's names: 823,726 of them in a few seconds.

    ``T0344_344I1M_1_0307_normal`` is visit T of speaker 0344, recorded by an iPhone (I) at 1 m, channel 1,
    utterance 307, spoken at normal speed (Qin et al., "The FFSVC 2020 evaluation plan", arXiv:2002.00387).

    Distances are as spelled: ``0.25M``, ``3M``, ``L3M`` and ``R3M`` (30 degrees to the left and right),
    ``-1.5M`` (behind); the close-talk microphone (``MIC``) has none. ``text_dependence`` is ``TD`` for
    utterances 1-30 (the wake-up phrase), ``semi-TD`` for 31-90, ``TI`` above.

    Returns:
        One row a name (without suffix), the columns of `NAME_CONDITIONS`; all null where it has another form.
    """
    parsed = pl.DataFrame({"name": names.cast(pl.String)}).select(
        pl.col("name").str.extract_groups(_NAME).alias("fields")
    )
    number = pl.col("utterance").cast(pl.Int32)
    text_dependence = (
        pl.when(number <= _LAST_DEPENDENT)
        .then(pl.lit("TD"))
        .when(number <= _LAST_SEMI_DEPENDENT)
        .then(pl.lit("semi-TD"))
        .when(number.is_not_null())
        .then(pl.lit("TI"))
    )
    return parsed.unnest("fields").with_columns(text_dependence=text_dependence).select(NAME_CONDITIONS)
