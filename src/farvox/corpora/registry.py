"""The corpora that ``farvox prepare`` knows; each is imported only when it is prepared."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from farvox.errors import CorpusError
from farvox.options import AtLeast, Metavar, Options, nearest
from farvox.progress import Note, silent

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
    seed: Annotated[int | None, AtLeast(0)] = None
    """Everything drawn at random follows from it (synthetic)."""


@dataclass(frozen=True, slots=True)
class Preparer:
    """A corpus that can be prepared.

    Attributes:
        function: ``module:function``, called as ``function(source, out, note=..., **options)``.
        summary: the corpus in one line.
    """

    function: str
    summary: str

    def load(self) -> Callable[..., list[DataDir]]:
        """Import the function."""
        module, function = self.function.split(":")
        loaded: Callable[..., list[DataDir]] = getattr(importlib.import_module(module), function)
        return loaded


PREPARERS = {
    "voxceleb1": Preparer(
        "farvox.corpora.voxceleb:prepare_voxceleb1",
        "1,251 celebrities, with the official trial lists O, E and H",
    ),
    "voxceleb2": Preparer(
        "farvox.corpora.voxceleb:prepare_voxceleb2",
        "6,112 celebrities, m4a (use --convert flac)",
    ),
    "himia": Preparer(
        "farvox.corpora.himia:prepare_himia",
        "340 speakers of one wake-up phrase, close-talk and arrays at 1, 3 and 5 m",
    ),
    "ffsvc2020": Preparer(
        "farvox.corpora.ffsvc:prepare_ffsvc2020",
        "close-talk, phones and arrays in a smart home, and the supplement of 120 speakers",
    ),
    "ffsvc2022": Preparer(
        "farvox.corpora.ffsvc:prepare_ffsvc2022",
        "development and evaluation files of FFSVC2022, with their trials",
    ),
    "3dspeaker": Preparer(
        "farvox.corpora.threedspeaker:prepare_3dspeaker",
        "10,000 speakers by several devices, at several distances, in dialects",
    ),
    "cnceleb": Preparer(
        "farvox.corpora.cnceleb:prepare_cnceleb",
        "CN-Celeb 1 and 2: Chinese celebrities in eleven genres, with the official trials",
    ),
    "voices": Preparer(
        "farvox.corpora.voices:prepare_voices",
        "VOiCES: read speech played in rooms, and recorded by far microphones",
    ),
    "musan": Preparer("farvox.corpora.musan:prepare_musan", "noise, music and speech to mix in"),
    "rirs_noises": Preparer(
        "farvox.corpora.rirs_noises:prepare_rirs_noises",
        "simulated and real room impulse responses",
    ),
    "speechocean762": Preparer(
        "farvox.corpora.speechocean762:prepare_speechocean762",
        "250 readers of English, children and adults",
    ),
    "an4": Preparer("farvox.corpora.an4:prepare_an4", "84 speakers spelling and counting"),
    "folder": Preparer("farvox.corpora.folder:prepare_folder", "your own recordings"),
    "synthetic": Preparer(
        "farvox.synthetic.corpus:prepare_synthetic",
        "voices made by a source-filter model in simulated rooms, laid out like HI-MIA",
    ),
}


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

    Returns:
        The data dirs made.

    Raises:
        CorpusError: an unknown corpus, an option it does not take, or a source laid out otherwise.
    """
    if name not in PREPARERS:
        raise CorpusError(
            f"unknown corpus '{name}'{nearest(name, PREPARERS)}; farvox knows {', '.join(PREPARERS)}"
        )
    function = PREPARERS[name].load()
    given = {option: value for option, value in vars(options).items() if value is not None}
    taken = sorted(set(inspect.signature(function).parameters) - {"source", "out", "note"})
    for option in given:
        if option not in taken:
            known = ", ".join(f"--{each}" for each in taken)
            raise CorpusError(f"--{option} means nothing to the corpus {name}; it takes {known}")
    return function(Path(source), Path(out), note=note, **given)
