"""A corpus that anyone can make: synthetic voices, laid out and named like HI-MIA.

Speakers, words, rooms and noise are all drawn from one seed; nothing is downloaded. The result is
for trying out and for testing the toolkit: figures on it say nothing about human voices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import polars as pl

from farvox.atomic import atomic_dir, write_json, write_text
from farvox.audio.files import write_audio
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import CorpusError
from farvox.jobs import Job, cut
from farvox.progress import Note
from farvox.rng import rng_for
from farvox.synthetic.studio import (
    ARRAY_MICROPHONES,
    DISTANCES,
    Samples,
    Studio,
    build_noise,
    build_room,
    record_speaker,
)

SETTINGS = "synthetic.json"  # in the audio folder: the specification it was made from
SPEAKERS = 4  # recorded by a process at a time
TRIALS = 9  # random stream of the trial lists
CLOSE_POINT, POINT_AT_1M = "7", "2"
SPEEDS = {"N": "normal", "S": "slow", "F": "fast"}

TakeName = tuple[str, str]  # speaker, speed and number of the take


@dataclass(frozen=True, slots=True)
class Spec:
    """The size of a corpus; each field can be set as ``key=value``."""

    train_speakers: int = 80
    dev_speakers: int = 12
    test_speakers: int = 24
    train_takes: int = 12
    dev_takes: int = 6
    test_takes: int = 10
    min_seconds: float = 1.8
    max_seconds: float = 2.8
    train_points: int = 2
    train_microphones: int = 1
    test_microphones: int = 4
    train_rooms: int = 16
    dev_rooms: int = 4
    test_rooms: int = 8
    noises: int = 12
    bank_rooms: int = 12
    bank_noises: int = 16


SPECS = {
    "demo": Spec(),
    "tiny": Spec(
        train_speakers=8, dev_speakers=3, test_speakers=4, train_takes=3, dev_takes=2, test_takes=3,
        min_seconds=0.8, max_seconds=1.2, test_microphones=2, train_rooms=2, dev_rooms=1, test_rooms=1,
        noises=2, bank_rooms=1, bank_noises=2,
    ),
}  # fmt: skip


def parse_spec(text: str) -> Spec:
    """Read ``demo``, ``tiny``, or either (default ``demo``) with changes: ``tiny,train_speakers=20``.

    Raises:
        CorpusError: an unknown name or key, or a value that makes no corpus.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    spec = SPECS["demo"]
    if words and "=" not in words[0]:
        if words[0] not in SPECS:
            raise CorpusError(
                f"unknown synthetic corpus '{words[0]}': choose {' or '.join(SPECS)}, or key=value,..."
            )
        spec = SPECS[words.pop(0)]
    kinds = {field.name: type(getattr(spec, field.name)) for field in fields(Spec)}
    for word in words:
        key, _, value = word.partition("=")
        if key not in kinds:
            raise CorpusError(f"unknown key '{key}' of the synthetic corpus; there are: {', '.join(kinds)}")
        try:
            spec = replace(spec, **{key: kinds[key](value)})
        except ValueError:
            raise CorpusError(f"'{word}': a number is needed ({kinds[key].__name__})") from None
    for field in fields(Spec):
        if getattr(spec, field.name) <= 0:
            raise CorpusError(f"{field.name} must be more than 0")
    if spec.max_seconds < spec.min_seconds:
        raise CorpusError("max_seconds must not be less than min_seconds")
    if min(spec.dev_takes, spec.test_takes, spec.dev_speakers, spec.test_speakers) < 2:
        raise CorpusError("trials need at least two speakers and two takes in dev and in test")
    if spec.train_points > len(DISTANCES):
        raise CorpusError(f"train_points: there are only {len(DISTANCES)} arrays")
    if spec.test_microphones not in (1, 2, 4, 8, 16) or spec.train_microphones > spec.test_microphones:
        raise CorpusError("test_microphones must be 1, 2, 4, 8 or 16, and train_microphones not more")
    return spec


def prepare_synthetic(
    source: str | Path, out: Path, *, note: Note, seed: int = 0, jobs: int | None = None
) -> list[DataDir]:
    """Make a corpus of synthetic voices and its data dirs.

    ``out/audio`` is laid out as HI-MIA ships it (``train``, ``dev``, ``test_v2``, one folder per
    speaker); it appears whole or not at all. The data dirs are ``close``, ``far`` and ``train`` (both) of the
    training speakers; ``dev`` and ``test_v2`` with trial lists, see `_make_trials`; and ``rirs`` and
    ``noise`` to augment with. No speaker, room or noise is in two of ``train``, ``dev``, ``test_v2`` and
    those for augmentation.

    Args:
        source: ``demo``, ``tiny`` or a list of changes, see `parse_spec`.
        out: folder to make; an ``audio`` folder in it that an earlier run made is replaced.
        seed: everything is drawn from it; the bytes do not depend on ``jobs``.

    Raises:
        CorpusError: the specification makes no sense.
        JobError: a process was killed.
        MissingExtraError: pyroomacoustics is not installed.
    """
    spec, out = parse_spec(str(source)), Path(out).absolute()
    if seed < 0:
        raise CorpusError(f"the seed must not be negative: {seed}")
    with atomic_dir(out / "audio", own_files=(SETTINGS,)) as folder:
        microphones = tuple(range(0, ARRAY_MICROPHONES, ARRAY_MICROPHONES // spec.test_microphones))
        num_rooms = spec.train_rooms + spec.dev_rooms + spec.test_rooms + spec.bank_rooms
        num_noises = 3 * spec.noises + spec.bank_noises
        note(f"simulating {num_rooms} rooms and {num_noises} background noises")
        job = Job(what="rooms simulated", note=note, jobs=jobs)
        build = partial(build_room, seed, microphones=microphones)
        rooms = list(job.run(build, range(num_rooms), count=lambda _: 1))
        job = Job(what="noises made", note=note, jobs=jobs)
        noises = list(job.run(partial(build_noise, seed), range(num_noises), count=lambda _: 1))

        first_speaker = first_room = first_noise = 0
        batches = []
        for part, points, far_microphones in (
            ("train", spec.train_points, spec.train_microphones),
            ("dev", len(DISTANCES), 1),
            ("test", len(DISTANCES), spec.test_microphones),
        ):
            num_speakers, num_part_rooms = getattr(spec, f"{part}_speakers"), getattr(spec, f"{part}_rooms")
            studio = Studio(
                folder=folder / ("test_v2" if part == "test" else part),
                seed=seed,
                takes=getattr(spec, f"{part}_takes"),
                seconds=(spec.min_seconds, spec.max_seconds),
                far_points=points,
                far_microphones=far_microphones,
                microphones=microphones,
                rooms=tuple(rooms[first_room : first_room + num_part_rooms]),
                noises=tuple(noises[first_noise : first_noise + spec.noises]),
            )
            numbers = range(first_speaker + 1, first_speaker + num_speakers + 1)
            batches += [(studio, batch) for batch in cut(numbers, SPEAKERS)]
            first_speaker, first_room = first_speaker + num_speakers, first_room + num_part_rooms
            first_noise += spec.noises
        job = Job(what="synthetic speakers recorded", note=note, jobs=jobs)
        recorded = job.run(_record, batches, count=lambda batch: len(batch[1]))
        parts: dict[str, list[Utterance]] = {}
        for (studio, _), utterances in zip(batches, recorded, strict=True):
            parts.setdefault(studio.folder.name, []).extend(utterances)

        parts |= {"rirs": [], "noise": []}
        for number, room in enumerate(rooms[first_room:], start=1):
            for position in room:
                rir_T = position.rirs_CT[0] * (0.5 / abs(position.rirs_CT[0]).max())  # a wav file ends at 1
                name = f"room{number:02d}_{DISTANCES[position.point]:g}m"
                parts["rirs"].append(_write(folder / "rirs", name, rir_T))
        for number, noise_T in enumerate(noises[first_noise:], start=1):
            parts["noise"].append(_write(folder / "noise", f"noise{number:02d}", noise_T))
        trials = {part: _make_trials(parts[part], rng_for(seed, 0, 0, TRIALS)) for part in ("dev", "test_v2")}
        for name in ("trials_mic", "trials_1m"):
            write_text(folder / "test_v2" / name, trials["test_v2"][name])
        write_json(folder / SETTINGS, {"seed": seed, **asdict(spec)})

    close = [each for each in parts["train"] if f"_{CLOSE_POINT}_" in each.utt_id]
    far = [each for each in parts["train"] if f"_{CLOSE_POINT}_" not in each.utt_id]
    made = []
    for name, found in {"close": close, "far": far, **parts}.items():
        utterances = [  # where they are since the folder has its name
            replace(each, wav_path=str(out / "audio" / Path(each.wav_path).relative_to(folder)))
            for each in found
        ]
        lists = trials.get(name, {})
        rows = [(each.utt_id, *each.utt_id.split("_")[1:]) for each in utterances if each.speaker_id]
        rows = [(*row, SPEEDS[spoken[0]], spoken[1:]) for *row, spoken in rows]
        columns = ("utt_id", "point", "microphone", "speed", "utterance")
        conditions = conditions_text(pl.DataFrame(rows, schema=columns, orient="row"))
        files = lists | ({CONDITIONS: conditions} if rows else {})
        made.append(write_data_dir(out / name, utterances, files=files))
        counts = ", ".join(f"{text.count(chr(10))} in {file}" for file, text in lists.items())
        note(f"{out / name}: {len(utterances)} recordings" + (f"; trials: {counts}" if counts else ""))
    return made


def _record(batch: tuple[Studio, Sequence[int]]) -> list[Utterance]:
    studio, numbers = batch
    return [utterance for number in numbers for utterance in record_speaker(studio, number)]


def _write(folder: Path, utt_id: str, wav_T: Samples) -> Utterance:
    path = folder / f"{utt_id}.wav"
    write_audio(path, wav_T)
    return Utterance(utt_id, str(path), None, len(wav_T))


def _make_trials(
    utterances: Sequence[Utterance], rng: np.random.Generator, *, nontargets_per_target: float = 2.0
) -> dict[str, str]:
    """Trial lists over one part of the corpus, in HI-MIA's form ``ENROL.wav TEST.wav target|nontarget``.

    The two sides of a trial are never the same take. The non-target trials are drawn, and so is the far
    microphone of each trial.

    Returns:
        File name -> text. ``trials_near``: close-talk against close-talk. ``trials_far``: close-talk
        against one microphone of an array. ``trials_mic``: close-talk against all microphones of an
        array, written ``{}``. ``trials_1m``: all microphones at 1 m against all of an array.
    """
    far_of: dict[TakeName, list[str]] = {}
    close_takes = set()
    for utterance in utterances:
        speaker, point, _, spoken = utterance.utt_id.split("_")
        if point == CLOSE_POINT:
            close_takes.add((speaker, spoken))
        else:
            far_of.setdefault((speaker, spoken), []).append(utterance.utt_id)
    takes = sorted(close_takes)
    near = [(a, b) for a, b in combinations(takes, 2) if a[0] == b[0]]
    ordered = [(a, b) for a, b in permutations(takes, 2) if a[0] == b[0]]
    between_speakers = [(a, b) for a, b in permutations(takes, 2) if a[0] != b[0]]

    def draw_nontargets(num_targets: int) -> list[tuple[TakeName, TakeName]]:
        size = min(int(nontargets_per_target * num_targets), len(between_speakers))
        drawn = rng.choice(len(between_speakers), size=size, replace=False)
        return [between_speakers[i] for i in sorted(drawn)]

    near_others, far_others = draw_nontargets(len(near)), draw_nontargets(len(ordered))
    texts = {}
    for name in ("near", "far", "mic", "1m"):
        targets, nontargets = (near, near_others) if name == "near" else (ordered, far_others)
        lines: list[str] = []
        for (speaker, spoken), other in (*targets, *nontargets):
            place = f"{POINT_AT_1M}_{{}}" if name == "1m" else f"{CLOSE_POINT}_01"
            test = f"{other[0]}_{CLOSE_POINT}_01_{other[1]}"
            if name != "near":
                recordings = sorted(far_of[other])
                test = recordings[rng.integers(len(recordings))]
            if name in ("mic", "1m"):
                who, point, _, take = test.split("_")
                test = f"{who}_{point}_{{}}_{take}"
            label = "target" if len(lines) < len(targets) else "nontarget"
            lines.append(f"{speaker}_{place}_{spoken}.wav {test}.wav {label}\n")
        texts[f"trials_{name}"] = "".join(lines)
    return texts
