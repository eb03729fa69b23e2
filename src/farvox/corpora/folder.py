"""Any collection of recordings kept as one folder per speaker."""

from __future__ import annotations

import os
import re
from pathlib import Path

import polars as pl

from farvox.corpora.parts import audio_files, open_source, unique, write_parts
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import CorpusError
from farvox.progress import Note

LAYOUT = "one folder per speaker, with audio files at any depth below it"


def prepare_folder(
    source: Path,
    out: Path,
    *,
    note: Note,
    jobs: int | None = None,
    pattern: str | None = None,
) -> list[DataDir]:
    """Make OUT/all from ``SOURCE/<speaker>/.../*.wav``, or any other format that can be read.

    An utterance id is the speaker and the path below the speaker's folder joined by ``-``, without the
    suffix; white space becomes ``_``.

    Args:
        pattern: the form of every path below ``source``, such as
            ``{speaker}/{device}_{distance}m_{session}.wav``, which also says where the speaker is; the other
            names become columns of `utt2cond`. A suffix stands for any other.

    Raises:
        CorpusError: a pattern without ``{speaker}`` or with two names that touch, or a file of another
            form; no speaker folder with audio, or two files with the same id.
    """
    source = open_source(source, out, LAYOUT)
    form = None if pattern is None else form_of(pattern)
    found, utterances, conditions = list(audio_files(source)), [], []
    for path in found:
        inside = os.path.splitext(os.path.relpath(path, source))[0]
        names = ["_".join(name.split()) for name in inside.split(os.sep)]
        if form is not None:
            fields = form.fullmatch(inside.replace(os.sep, "/"))
            if fields is None:
                raise CorpusError(
                    f"{path}: is not of the form --pattern '{pattern}'; correct the pattern, or move the"
                    " file out"
                )
            values = fields.groupdict()
            utterances.append(Utterance("-".join(names), path, "_".join(values.pop("speaker").split())))
            conditions.append({"utt_id": utterances[-1].utt_id, **values})
        elif os.path.dirname(path) != str(source):
            utterances.append(Utterance("-".join(names), path, names[0]))
    if not utterances:
        way = " (names of files may tell the speakers: --pattern '{speaker}_{take}')" if found else ""
        raise CorpusError(f"{source}: no speaker found; expected {LAYOUT}{way}")
    if len(utterances) < len(found):
        num_outside = len(found) - len(utterances)
        note(f"{source}: {num_outside:,} audio files outside the speaker folders were left out")
    parts = {"all": unique(utterances)}
    has_conditions = conditions and len(conditions[0]) > 1
    files = {"all": {CONDITIONS: conditions_text(pl.DataFrame(conditions))}} if has_conditions else None
    return write_parts(out, parts, note=note, jobs=jobs, files=files)


def form_of(pattern: str) -> re.Pattern[str]:
    """A pattern such as ``{speaker}/{device}_{distance}m.wav`` as a regular expression, without the suffix.

    A name stands for at least one character other than ``/``, and for as few as can be.

    Raises:
        CorpusError: no ``{speaker}``, a name that is there twice or is none, or two names that touch.
    """
    stem, suffix = os.path.splitext(pattern)
    if "{" in suffix:  # as in {speaker}/{device}.{take}
        stem = pattern
    texts = re.split(r"\{([A-Za-z_]\w*)\}", stem)
    names = texts[1::2]
    if "speaker" not in names or len(set(names)) < len(names) or re.search(r"[{}]", "".join(texts[::2])):
        raise CorpusError(
            f"--pattern '{pattern}': write {{speaker}} and other names in braces, each once, as in"
            " '{speaker}/{device}_{distance}m.wav'"
        )
    if any(not text for text in texts[2:-1:2]) or any(name in ("utt_id", "line", "origin") for name in names):
        raise CorpusError(
            f"--pattern '{pattern}': two names touch, or one is called utt_id, line or origin; put a mark"
            " between them, or choose another name"
        )
    parts = (f"(?P<{text}>[^/]+?)" if n % 2 else re.escape(text) for n, text in enumerate(texts))
    return re.compile("".join(parts))
