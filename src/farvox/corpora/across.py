"""A far-field test that is large enough to show a difference, fixed before anything is trained on it.

Of each speaker of speechocean762 the first utterances are enrolments, and the last are tests: as they were
recorded, through measured rooms, through simulated ones at several distances, each at several ratios of
speech to noise, and cut short. Five folds of 25 speakers are each judged by a model that was trained on the
others. All draws come from (seed, list, position).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl

from farvox.atomic import write_text
from farvox.audio.files import read_audio
from farvox.corpora.an4 import prepare_an4
from farvox.corpora.farfield import (
    LAYOUT,
    NOISE,
    ROOMS,
    SPEECH,
    TESTED,
    TUNED,
    UNHEARD,
    all_pairs,
    all_utterances,
    far_copy,
    measured_rooms,
    noise_clips,
    noise_dir,
    rooms_dir,
    split_speakers,
    write_copy,
)
from farvox.corpora.parts import open_source
from farvox.corpora.speechocean762 import prepare_speechocean762
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance, values_of, write_data_dir
from farvox.errors import CorpusError
from farvox.farfield import RoomOptions
from farvox.farfield.mixing import Array
from farvox.farfield.rooms import draw_scene
from farvox.progress import Note
from farvox.rng import rng_for

OTHER = "an4"
FOLD = 25
"""Speakers of a fold."""
FIRST_ROOMS = 4
"""Measured rooms, by name, that settings are chosen by; the others judge."""
DISTANCES, SNRS = (1.0, 2.5, 4.5), (5.0, 12.0, 20.0)
"""Of the simulated rooms, metres; and of all rooms, dB."""
T60 = (0.3, 1.0)
"""Of the simulated rooms, seconds."""
COPIES = 2
"""Measured rooms that a test is heard in."""
FAR_ENROLLED = 5
"""Enrolments of a speaker that are also heard in a room."""
SECONDS = (1, 2)
"""Lengths of the short tests, which are cut from tests in measured rooms where the speech is loudest."""
PER_SIDE_OTHER = (4, 5)
"""Enrolments and tests of a speaker of the other corpus."""
CHILD = 16
"""Years below which a speaker is counted as a child."""
Listed = tuple[str, Utterance, dict[str, str]]
"""The list of an utterance, the utterance, and its conditions."""


def prepare_across(
    source: Path,
    out: Path,
    *,
    note: Note,
    jobs: int | None = None,
    speakers: str | None = None,
    seed: int = 1,
) -> list[DataDir]:
    """Make data dirs and trial lists of five folds; or, with ``speakers``, of one to choose settings by.

    OUT gets ``fold-1`` to ``fold-5``, the tests and enrolments that one model judges, with their `utt2cond`
    (list, room, distance, snr, age), and ``train-1`` to ``train-5``, the recordings of the other speakers;
    ``noise-train`` and ``rooms-train``, noise and measured responses that may be trained on; the lists
    ``near``, ``measured``, ``simulated``, ``short-1``, ``short-2`` (seconds; in measured rooms) and
    ``far-enrol`` (enrolments in them, too), with the pairs of each fold, and those of one fold in its folder;
    and of AN4, which nothing is trained on, ``fold-an4`` and lists ``an4-...``.

    The measured rooms are all but the first four by name, which are for ``speakers``: those get one fold,
    ``train-1`` with the speakers before them, other noise, and neither AN4 nor ``rooms-train``.

    Args:
        source: the folder of the corpora.
        speakers: FIRST-LAST, counted in C order from 1.
        seed: everything drawn at random follows from it.

    Raises:
        CorpusError: a corpus is not there, there are no such speakers with enough utterances, or nobody is
            before them.
    """
    source, out = open_source(source, out, LAYOUT), Path(out).absolute()
    for name in (SPEECH, NOISE, ROOMS, *([] if speakers else [OTHER])):
        if not (source / name).is_dir():
            raise CorpusError(f"{source / name}: no such folder; expected {LAYOUT}, and {OTHER}/")
    (corpus, *_) = prepare_speechocean762(source, out / SPEECH, note=note, jobs=jobs)
    ids = corpus.speaker_ids.unique().sort().to_list()
    ages = {f"so{each}": age for each, age in zip(ids, values_of(corpus.path / "spk2age", ids), strict=True)}
    rirs = [*measured_rooms(source / ROOMS).items()]
    judging = rirs[:FIRST_ROOMS] if speakers else rirs[FIRST_ROOMS:]
    maker = _Maker(
        out / "wav",
        {name.split("-micstep")[0]: rir_R for name, rir_R in judging},
        noise_clips(source / NOISE, TUNED if speakers else TESTED),
        seed,
    )
    folds = [speakers] if speakers else [f"{n}-{n + FOLD - 1}" for n in range(1, len(ids), FOLD)]
    made = [write_data_dir(out / "noise-train", noise_dir(source / NOISE, UNHEARD))]
    if not speakers:
        made.append(write_data_dir(out / "rooms-train", rooms_dir(source / ROOMS, slice(FIRST_ROOMS))))
    tests: dict[str, list[Listed]] = {}
    for number, fold in enumerate(folds, 1):
        enrol, near = split_speakers(corpus, fold)
        judged = {each.speaker_id for each in near}
        trained = [u for u in all_utterances(corpus) if u.speaker_id not in judged]
        if speakers:  # those after them are for the final test
            trained = [u for u in trained if str(u.speaker_id) < min(map(str, judged))]
            if not trained:
                raise CorpusError(
                    f"--speakers {speakers}: nobody comes before them to train on; choose a later FIRST"
                )
        made.append(write_data_dir(out / f"train-{number}", trained))
        name = f"fold-{number}"
        tests[name] = [*maker.parts(enrol, near), *maker.simulated(near)]
        made.append(_written(out / name, tests[name], ages))
    _write_trials(out, tests)
    if not speakers:
        spoken = prepare_an4(source / OTHER, out / OTHER, note=note, jobs=jobs)[0]
        of_speakers = spoken.table.sort("utt_id").partition_by("speaker_id", maintain_order=True)
        utterances = [[Utterance(*row) for row in each.iter_rows()] for each in of_speakers]
        first, last = PER_SIDE_OTHER
        enrol, near = (
            [u for us in utterances for u in us[:first]],
            [u for us in utterances for u in us[-last:]],
        )
        parts = [*maker.parts(enrol, near)]
        made.append(_written(out / f"fold-{OTHER}", parts, {}))
        _write_trials(out, {f"fold-{OTHER}": parts}, f"{OTHER}-")
    for each in made:
        note(f"{each.path}: {len(each):,} utterances")
    return made


@dataclass
class _Maker:
    """Makes what is heard across rooms; the rooms, distances and ratios go round with the position."""

    folder: Path
    rooms: dict[str, Array]
    noises: list[Array]
    seed: int
    positions: Counter[str] = field(default_factory=Counter)

    def parts(self, enrol: list[Utterance], near: list[Utterance]) -> Iterator[Listed]:
        """The recordings, and copies of them in measured rooms, long and short."""
        yield from (("enrol", each, {}) for each in enrol)
        yield from (("near", each, {}) for each in near)
        taken: Counter[str] = Counter()
        for each in enrol:
            taken[str(each.speaker_id)] += 1
            if taken[str(each.speaker_id)] <= FAR_ENROLLED:
                yield self._measured("enrol-measured", each)
        for each in near:
            for copy in range(COPIES):
                name, far, known = self._measured("measured", each)
                yield name, far, known
                for seconds in SECONDS if copy == 0 else ():
                    begin = loudest(read_audio(each.wav_path), 16000 * seconds)
                    cut_T = read_audio(far.wav_path)[begin : begin + 16000 * seconds]
                    short = write_copy(self.folder, f"{far.utt_id}-{seconds}s", cut_T, each.speaker_id)
                    yield f"short-{seconds}", short, known

    def simulated(self, near: list[Utterance]) -> Iterator[Listed]:
        """Copies in simulated rooms, each in one of its own."""
        for each in near:
            position, rng = self._next("simulated")
            distance = DISTANCES[position % len(DISTANCES)]
            snr = SNRS[position // len(DISTANCES) % len(SNRS)]
            options = RoomOptions(t60=T60, distance=(distance, distance))
            rir_R = draw_scene(rng, options, sources=1).rirs_CT[0][0]
            known = {"distance": f"{distance:g}", "snr": f"{snr:g}"}
            yield "simulated", self._copy("simulated", each, rir_R, snr, rng), known

    def _measured(self, name: str, each: Utterance) -> Listed:
        position, rng = self._next(name)
        room, rir_R = [*self.rooms.items()][position % len(self.rooms)]
        snr = SNRS[position // len(self.rooms) % len(SNRS)]
        return name, self._copy(room, each, rir_R, snr, rng), {"room": room, "snr": f"{snr:g}"}

    def _next(self, name: str) -> tuple[int, np.random.Generator]:
        position = self.positions[name]
        self.positions[name] += 1
        return position, rng_for(self.seed, crc32(name.encode()), position)

    def _copy(
        self, name: str, each: Utterance, rir_R: Array, snr: float, rng: np.random.Generator
    ) -> Utterance:
        wet_T = far_copy(read_audio(each.wav_path), rir_R, self.noises, rng, (snr, snr))
        return write_copy(self.folder, f"{each.utt_id}-{name}", wet_T, each.speaker_id)


def loudest(wav_T: Array, num_samples: int) -> int:
    """The sample at which the stretch of that length begins that has most energy."""
    energy_T = np.concatenate([[0.0], np.cumsum(np.square(wav_T, dtype=np.float64))])
    return int((energy_T[num_samples:] - energy_T[:-num_samples]).argmax()) if len(wav_T) > num_samples else 0


def _written(folder: Path, parts: Sequence[Listed], ages: Mapping[str, str]) -> DataDir:
    """A data dir of a fold, with its conditions."""
    rows = [
        {"utt_id": each.utt_id, "list": name, **known, **_age(ages.get(str(each.speaker_id)))}
        for name, each, known in parts
    ]
    files = {CONDITIONS: conditions_text(pl.from_dicts(rows, infer_schema_length=None))}
    return write_data_dir(folder, [each for _, each, _ in parts], files=files)


def _age(years: str | None) -> dict[str, str]:
    return {"age": "child" if int(years) < CHILD else "adult"} if years else {}


def _write_trials(out: Path, tests: Mapping[str, Sequence[Listed]], prefix: str = "") -> None:
    """A list of the pairs of each fold for each list of tests, beside the fold, and of all folds in OUT."""
    names = dict.fromkeys(name for parts in tests.values() for name, _, _ in parts)
    sides = {name: ("enrol", name) for name in names if not name.startswith("enrol")}
    for name, of_sides in (sides | {"far-enrol": ("enrol-measured", "measured")}).items():
        texts = []
        for fold, parts in tests.items():
            enrol, test = ([each for part, each, _ in parts if part == side] for side in of_sides)
            texts.append(all_pairs(enrol, test))
            write_text(out / fold / f"{name}.trials", texts[-1])
        write_text(out / f"{prefix}{name}.trials", "".join(texts))
