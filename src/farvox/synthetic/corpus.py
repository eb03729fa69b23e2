"""A corpus that nobody has to be asked for: synthetic voices, laid out and named like HI-MIA.

Speakers, words, rooms and noise are all drawn from one seed; nothing is downloaded. The result is
for trying out and for testing the toolkit: figures on it say nothing about human voices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import polars as pl

from farvox.atomic import atomic_dir, write_json, write_text
from farvox.audio.files import write_audio
from farvox.corpora.himia import parse_names
from farvox.datadir.conditions import CONDITIONS, conditions_text
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import CorpusError
from farvox.jobs import Job, cut
from farvox.progress import Note
from farvox.rng import rng_for
from farvox.synthetic.spec import Spec, parse_spec
from farvox.synthetic.studio import (
    ARRAY_MICROPHONES,
    DISTANCES,
    Position,
    Samples,
    Studio,
    build_noise,
    build_room,
    record_speaker,
)
from farvox.synthetic.trials import CLOSE_POINT, make_trials

MARK = "synthetic.json"  # in the audio folder: the specification it was made from
SPEAKERS = 4  # recorded by a process at a time
TRIALS = 9  # random stream of the trial lists


def prepare_synthetic(
    source: str | Path, out: Path, *, note: Note, seed: int = 0, jobs: int | None = None
) -> list[DataDir]:
    """Make a corpus of synthetic voices and its data dirs.

    ``out/audio`` is laid out as HI-MIA ships it (``train``, ``dev``, ``test_v2``, one folder per
    speaker). The data dirs are ``close``, ``far`` and ``train`` (both) of the training speakers;
    ``dev`` and ``test_v2`` with trial lists, see `make_trials`; and ``rirs`` and
    ``noise``, rooms and noise found nowhere else in the corpus, to augment with.

    Args:
        source: ``demo``, ``tiny`` or a list of changes, see `parse_spec`.
        out: folder to make; an ``audio`` folder in it is replaced.
        note: told what is being done.
        seed: everything is drawn from it; the bytes do not depend on ``jobs``.
        jobs: processes; as many as the machine has processors where None.

    Raises:
        CorpusError: the specification makes no sense.
        JobError: a process was killed.
        MissingExtraError: pyroomacoustics is not installed.
    """
    spec, out = parse_spec(str(source)), Path(out).absolute()
    if seed < 0:
        raise CorpusError(f"the seed must not be negative: {seed}")
    with _audio_folder(out) as folder:
        rooms, noises = _build_scenery(spec, seed, jobs, note)
        batches = [
            (part, studio, batch)
            for part, numbers, studio in _sessions(spec, seed, folder, rooms, noises)
            for batch in cut(numbers, SPEAKERS)
        ]
        job = Job(what="synthetic speakers recorded", note=note, jobs=jobs)
        parts: dict[str, list[Utterance]] = {}
        recorded = job.run(_record, batches, count=lambda batch: len(batch[2]))
        for (part, _, _), utterances in zip(batches, recorded, strict=True):
            parts.setdefault(part, []).extend(_moved(each, folder, out / "audio") for each in utterances)
        parts["rirs"] = _write_rirs(rooms[-spec.bank_rooms :], folder, out)
        parts["noise"] = _write_noises(noises[-spec.bank_noises :], folder, out)
        trials = {part: make_trials(parts[part], rng_for(seed, 0, 0, TRIALS)) for part in ("dev", "test_v2")}
        for name in ("trials_mic", "trials_1m"):
            write_text(folder / "test_v2" / name, trials["test_v2"][name])
        write_json(folder / MARK, {"seed": seed, **asdict(spec)})
    return _write_data_dirs(parts, trials, out, note)


def _build_scenery(
    spec: Spec, seed: int, jobs: int | None, note: Note
) -> tuple[list[tuple[Position, ...]], list[Samples]]:
    """The rooms and the noise of all parts, one after the other; those of the banks come last."""
    step = ARRAY_MICROPHONES // spec.test_microphones
    microphones = tuple(range(0, ARRAY_MICROPHONES, step))
    num_rooms = spec.train_rooms + spec.dev_rooms + spec.test_rooms + spec.bank_rooms
    num_noises = 3 * spec.noises + spec.bank_noises
    note(f"simulating {num_rooms} rooms and {num_noises} background noises")
    build = partial(build_room, seed, microphones=microphones)
    rooms = Job(what="rooms simulated", note=note, jobs=jobs).run(build, range(num_rooms), count=_one)
    job = Job(what="noises made", note=note, jobs=jobs)
    return list(rooms), list(job.run(partial(build_noise, seed), range(num_noises), count=_one))


def _one(_: int) -> int:
    return 1


def _record(batch: tuple[str, Studio, Sequence[int]]) -> list[Utterance]:
    _, studio, numbers = batch
    return [utterance for number in numbers for utterance in record_speaker(studio, number)]


def _sessions(
    spec: Spec, seed: int, folder: Path, rooms: list[tuple[Position, ...]], noises: list[Samples]
) -> Iterator[tuple[str, range, Studio]]:
    """Part, its speaker numbers, and where they are recorded: no room, noise or speaker in two parts."""
    step = ARRAY_MICROPHONES // spec.test_microphones
    first_speaker, first_room, first_noise = 1, 0, 0
    for part, speakers, takes, num_rooms, points, written in (
        (
            "train",
            spec.train_speakers,
            spec.train_takes,
            spec.train_rooms,
            spec.train_points,
            spec.train_microphones,
        ),
        ("dev", spec.dev_speakers, spec.dev_takes, spec.dev_rooms, len(DISTANCES), 1),
        (
            "test_v2",
            spec.test_speakers,
            spec.test_takes,
            spec.test_rooms,
            len(DISTANCES),
            spec.test_microphones,
        ),
    ):
        yield (
            part,
            range(first_speaker, first_speaker + speakers),
            Studio(
                folder=folder / part,
                seed=seed,
                takes=takes,
                seconds=(spec.min_seconds, spec.max_seconds),
                far_points=points,
                far_microphones=written,
                microphones=tuple(range(0, ARRAY_MICROPHONES, step)),
                rooms=tuple(rooms[first_room : first_room + num_rooms]),
                noises=tuple(noises[first_noise : first_noise + spec.noises]),
            ),
        )
        first_speaker, first_room, first_noise = (
            first_speaker + speakers, first_room + num_rooms, first_noise + spec.noises,
        )  # fmt: skip


def _write_rirs(rooms: Iterable[tuple[Position, ...]], folder: Path, out: Path) -> list[Utterance]:
    """One impulse response per room and distance, peak 0.5 (a wav file holds no more than 1)."""
    utterances = []
    for number, room in enumerate(rooms, start=1):
        for position in room:
            rir_T = position.rirs_CT[0] * (0.5 / abs(position.rirs_CT[0]).max())
            utt_id = f"room{number:02d}_{DISTANCES[position.point]:g}m"
            utterances.append(_keep(utt_id, rir_T, folder / "rirs", out / "audio" / "rirs"))
    return utterances


def _write_noises(noises: Iterable[Samples], folder: Path, out: Path) -> list[Utterance]:
    return [
        _keep(f"noise{number:02d}", noise_T, folder / "noise", out / "audio" / "noise")
        for number, noise_T in enumerate(noises, start=1)
    ]


def _keep(utt_id: str, wav_T: Samples, folder: Path, later: Path) -> Utterance:
    write_audio(folder / f"{utt_id}.wav", wav_T)
    return Utterance(utt_id, str(later / f"{utt_id}.wav"), None, len(wav_T))


def _moved(utterance: Utterance, folder: Path, later: Path) -> Utterance:
    """The utterance at its place once the folder carries its final name."""
    return replace(utterance, wav_path=str(later / Path(utterance.wav_path).relative_to(folder)))


def _write_data_dirs(
    parts: dict[str, list[Utterance]],
    trials: dict[str, dict[str, str]],
    out: Path,
    note: Note,
) -> list[DataDir]:
    close = [each for each in parts["train"] if f"_{CLOSE_POINT}_" in each.utt_id]
    far = [each for each in parts["train"] if f"_{CLOSE_POINT}_" not in each.utt_id]
    made = []
    for name, utterances in {"close": close, "far": far, **parts}.items():
        files = trials.get(name, {})
        conditions = {CONDITIONS: _conditions(utterances)} if utterances[0].speaker_id else {}
        made.append(write_data_dir(out / name, utterances, files={**files, **conditions}))
        counts = [f"{text.count(chr(10))} in {file}" for file, text in files.items()]
        note(
            f"{out / name}: {len(utterances)} recordings"
            + (f"; trials: {', '.join(counts)}" if counts else "")
        )
    return made


def _conditions(utterances: Sequence[Utterance]) -> str:
    """What the names tell, as in HI-MIA."""
    utt_ids = pl.Series("utt_id", [each.utt_id for each in utterances])
    return conditions_text(parse_names(utt_ids).insert_column(0, utt_ids))


def _audio_folder(out: Path) -> AbstractContextManager[Path]:
    """``out/audio``, whole or not at all; only one that an earlier run made is replaced."""
    return atomic_dir(out / "audio", own_files=(MARK,))
