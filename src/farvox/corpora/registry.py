"""The corpora that ``farvox prepare`` knows; each is imported only when it is prepared."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farvox.errors import CorpusError

if TYPE_CHECKING:
    from farvox.datadir.kaldi import DataDir


@dataclass(frozen=True, slots=True)
class Preparer:
    """How a corpus becomes data dirs.

    Attributes:
        name: what the user types.
        function: ``module:function``, called as ``function(source, out, note=..., **options)``.
        summary: the corpus in one line.
        layout: what SOURCE must hold.
    """

    name: str
    function: str
    summary: str
    layout: str

    def load(self) -> Callable[..., list[DataDir]]:
        """Import the function."""
        module, function = self.function.split(":")
        loaded: Callable[..., list[DataDir]] = getattr(importlib.import_module(module), function)
        return loaded


PREPARERS: dict[str, Preparer] = {
    name: Preparer(name, f"farvox.{function}", summary, layout)
    for name, function, summary, layout in (
        (
            "voxceleb1",
            "corpora.voxceleb:prepare_voxceleb1",
            "1,251 celebrities, with the official trial lists O, E and H",
            "wav/id10001/VIDEO/00001.wav at any depth",
        ),
        (
            "voxceleb2",
            "corpora.voxceleb:prepare_voxceleb2",
            "6,112 celebrities, m4a (use --convert flac)",
            "dev/aac/id00012/VIDEO/00001.m4a at any depth",
        ),
        (
            "himia",
            "corpora.himia:prepare_himia",
            "340 speakers of one wake-up phrase, close-talk and arrays at 1, 3 and 5 m",
            "train/, dev/ or test_v2/ with SV0001_2_00_N0001.wav files at any depth",
        ),
        (
            "ffsvc2020",
            "corpora.ffsvc2020:prepare_ffsvc2020",
            "close-talk, phones and arrays in a smart home, and the supplement of 120 speakers",
            "train/, dev/, eval/ or supplement/ with T0344_344I1M_1_0307_normal.wav files at any depth",
        ),
        (
            "ffsvc2022",
            "corpora.ffsvc2022:prepare_ffsvc2022",
            "development and evaluation files of FFSVC2022, with their trials",
            "ffsvc22_dev_000000.wav files at any depth, dev_meta_list and the trial lists",
        ),
        (
            "3dspeaker",
            "corpora.threedspeaker:prepare_3dspeaker",
            "10,000 speakers by several devices, at several distances, in dialects",
            "train/ or test/ with 3D_SPK_06154_001_Device03_Distance00_Dialect00.wav files at any depth",
        ),
        (
            "cnceleb",
            "corpora.cnceleb:prepare_cnceleb",
            "CN-Celeb 1 and 2: Chinese celebrities in eleven genres, with the official trials",
            "data/id00000/singing-01-001.flac at any depth, and eval/",
        ),
        (
            "voices",
            "corpora.voices:prepare_voices",
            "VOiCES: read speech played in rooms, and heard by far microphones",
            "source-16k/ and distant-16k/ with Lab41-SRI-VOiCES-*.wav files at any depth",
        ),
        (
            "musan",
            "corpora.musan:prepare_musan",
            "noise, music and speech to mix in",
            "noise/, music/, speech/, or noise_wav_list, music_wav_list, speech_wav_list",
        ),
        (
            "rirs_noises",
            "corpora.rirs_noises:prepare_rirs_noises",
            "simulated and real room impulse responses",
            "simulated_rirs/ or real_rirs_isotropic_noises/, or a rir_list",
        ),
        (
            "speechocean762",
            "corpora.speechocean762:prepare_speechocean762",
            "250 readers of English, children and adults",
            "train/ and test/ (wav.scp, utt2spk) beside WAVE/",
        ),
        (
            "an4",
            "corpora.an4:prepare_an4",
            "84 speakers spelling and counting",
            "wav/an4_clstk/SPEAKER/*.wav",
        ),
        (
            "folder",
            "corpora.folder:prepare_folder",
            "your own recordings",
            "SPEAKER/*.wav, any depth, any audio format",
        ),
        (
            "synthetic",
            "synthetic.corpus:prepare_synthetic",
            "voices made by a source-filter model in simulated rooms, laid out like HI-MIA",
            "demo, tiny, or one with changes: tiny,train_speakers=20 (nothing on disk)",
        ),
    )
}


def prepare(
    name: str, source: str | Path, out: str | Path, *, note: Callable[[str], None], **options: Any
) -> list[DataDir]:
    """Turn a corpus on disk into data dirs OUT/<part>.

    Args:
        name: a key of `PREPARERS`.
        source: the corpus.
        out: the folder of the data dirs.
        note: is told what happens, a line at a time.
        options: those of the corpus's function (``trials``, ``convert``, ``jobs``, ``seed``, ...); None
            counts as not given.

    Returns:
        The data dirs made.

    Raises:
        CorpusError: an unknown corpus, an option it does not take, or a source laid out otherwise.
    """
    if name not in PREPARERS:
        near = difflib.get_close_matches(name, PREPARERS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise CorpusError(f"unknown corpus '{name}'{hint}; farvox knows {', '.join(PREPARERS)}")
    function = PREPARERS[name].load()
    given = {option: value for option, value in options.items() if value is not None}
    taken = sorted(set(inspect.signature(function).parameters) - {"source", "out", "note"})
    for option in given:
        if option not in taken:
            known = ", ".join(f"--{each}" for each in taken)
            raise CorpusError(f"--{option} means nothing to the corpus {name}; it takes {known}")
    if given.get("jobs", 1) < 1:
        raise CorpusError(f"--jobs {given['jobs']}: at least 1 is needed")
    return function(Path(source), Path(out), note=note, **given)
