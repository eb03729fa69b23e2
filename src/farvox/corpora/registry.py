"""The corpora that ``farvox prepare`` knows; each is imported only when it is prepared."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from farvox.atomic import refuse_other_encoding
from farvox.errors import CorpusError
from farvox.options import AtLeast, AtMost, Metavar, Options, nearest
from farvox.progress import Note, silent
from farvox.writers import writes

if TYPE_CHECKING:
    from farvox.datadir.kaldi import DataDir


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    """Options of the preparation of a corpus; each corpus takes some of them."""

    trials: Annotated[Path | None, Metavar("DIR")] = None
    """Folder with the official trial lists, where they are not in SOURCE (voxceleb1)."""
    convert: Literal["flac", "wav"] | None = None
    """Decode the audio once into OUT, as flac or wav (voxceleb2)."""
    jobs: Annotated[int | None, AtLeast(1)] = None
    """Files to work on at a time; by default as many as suit the machine."""
    skip_bad: bool = False
    """Leave out any number of files that cannot be used; OUT/rejected.tsv lists them."""
    max_rejects: Annotated[float, AtLeast(0), AtMost(1)] = 0.001
    """Share of the files that may be of no use: more may be a disk that is not there."""
    pattern: Annotated[str | None, Metavar("FORM")] = None
    """Form of every file's path, whose names in braces become columns of utt2cond, such as
    "{speaker}/{device}_{distance}m_{session}.wav" (folder)."""
    seed: Annotated[int | None, AtLeast(0)] = None
    """Everything drawn at random follows from it (synthetic, noise, farfield, across)."""
    speakers: Annotated[str | None, Metavar("FIRST-LAST")] = None
    """Speakers of the test, counted in C order; by default 101-125 (farfield) or all, in folds (across)."""


class Preparer(NamedTuple):
    """A corpus that can be prepared: the module of its ``prepare_<name>``, and the corpus in one line."""

    module: str
    summary: str


PREPARERS = {
    "voxceleb1": Preparer("corpora.voxceleb", "1,251 celebrities, with the official trial lists O, E and H"),
    "voxceleb2": Preparer("corpora.voxceleb", "6,112 celebrities, m4a (use --convert flac)"),
    "himia": Preparer(
        "corpora.himia", "340 speakers of one wake-up phrase, close-talk and arrays at 1, 3 and 5 m"
    ),
    "ffsvc2020": Preparer(
        "corpora.ffsvc", "close-talk, phones and arrays in a smart home, and the supplement of 120 speakers"
    ),
    "ffsvc2022": Preparer(
        "corpora.ffsvc", "development and evaluation files of FFSVC2022, with their trials"
    ),
    "3dspeaker": Preparer(
        "corpora.threedspeaker", "10,000 speakers by several devices, at several distances, in dialects"
    ),
    "cnceleb": Preparer(
        "corpora.cnceleb", "CN-Celeb 1 and 2: Chinese celebrities in eleven genres, with the official trials"
    ),
    "voices": Preparer(
        "corpora.voices", "VOiCES: read speech played in rooms, and recorded by far microphones"
    ),
    "musan": Preparer("corpora.musan", "noise, music and speech to mix in"),
    "rirs_noises": Preparer("corpora.rirs_noises", "simulated and real room impulse responses"),
    "speechocean762": Preparer("corpora.speechocean762", "250 readers of English, children and adults"),
    "an4": Preparer("corpora.an4", "84 speakers spelling and counting"),
    "farfield": Preparer(
        "corpora.farfield", "a far-field test, of speechocean762, ESC-10 and GTU-RIR in one folder"
    ),
    "across": Preparer(
        "corpora.across", "the larger far-field test: five folds of speechocean762, measured rooms, and AN4"
    ),
    "folder": Preparer("corpora.folder", "your own recordings"),
    "synthetic": Preparer(
        "synthetic.corpus", "voices made by a source-filter model in simulated rooms, laid out like HI-MIA"
    ),
    "noise": Preparer("synthetic.noise", "noise made by a model: coloured, hum, machines and babble"),
}


def load_preparer(name: str) -> Callable[..., list[DataDir]]:
    """Import the function of a corpus, called as ``function(source, out, note=..., **options)``."""
    module = importlib.import_module(f"farvox.{PREPARERS[name].module}")
    loaded: Callable[..., list[DataDir]] = getattr(module, f"prepare_{name}")
    return loaded


@writes("out")
def prepare(
    name: str,
    source: str | Path,
    out: str | Path,
    options: PrepareOptions = PrepareOptions(),
    *,
    note: Note = silent,
) -> list[DataDir]:
    """Turn a corpus on disk into data dirs OUT/<part>.

    Args:
        name: a key of `PREPARERS`.
        source: the corpus.
        out: the folder of the data dirs.
        options: those that the corpus takes.
        note: takes lines for people.

    Raises:
        CorpusError: an unknown corpus, an option it does not take, a source laid out otherwise, or too many
            files that cannot be used: the data dirs have the others, and OUT/rejected.tsv lists these.
        FarvoxError: the path of ``out`` is not UTF-8.
    """
    if name not in PREPARERS:
        raise CorpusError(
            f"unknown corpus '{name}'{nearest(name, PREPARERS)}; farvox knows {', '.join(PREPARERS)}"
        )
    function = load_preparer(name)
    of_all = ("skip_bad", "max_rejects")
    given = {
        option: value
        for option, value in vars(options).items()
        if option not in of_all and value is not None and value is not False
    }
    taken = sorted(set(inspect.signature(function).parameters) - {"source", "out", "note"})
    for option in given:
        if option not in taken:
            known = ", ".join(f"--{each.replace('_', '-')}" for each in taken)
            raise CorpusError(
                f"--{option.replace('_', '-')} means nothing to the corpus {name}; it takes {known}"
            )
    refuse_other_encoding(Path(out))
    from farvox.jobs import REJECTED  # with concurrent.futures, for which no --help waits

    made = function(Path(source), Path(out), note=note, **given)
    listing = Path(out, REJECTED)
    count = len(listing.read_bytes().splitlines()) - 1 if listing.exists() else 0
    total = count + sum(map(len, made))
    if count > options.max_rejects * total and not options.skip_bad:
        raise CorpusError(
            f"{listing}: lists {count:,} of {total:,} files, which cannot be used: more than "
            f"{100 * options.max_rejects:g} %; what was prepared has the others. Repair them, or accept that "
            f"with --max-rejects {math.ceil(1000 * count / total) / 1000:g} (any number: --skip-bad)"
        )
    return made
