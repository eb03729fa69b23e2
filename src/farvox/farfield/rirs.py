"""Banks of room impulse responses (RIRs): simulated or measured, with what is measured on them.

Shape suffixes: C channel (microphone), R sample of an RIR.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from farvox.atomic import atomic_file
from farvox.audio.files import audio_info, read_channels
from farvox.datadir.conditions import CONDITIONS, read_conditions
from farvox.datadir.kaldi import DataDir
from farvox.errors import CorpusError, DataDirError
from farvox.farfield.rooms import Samples
from farvox.farfield.scenes import ARRAYS, draw_scene, measured, refuse_scene
from farvox.farfield.simulate_work import AUDIO, SETTINGS, Row, finish, in_batches, shown
from farvox.jobs import begin
from farvox.progress import Note
from farvox.rng import rng_for

SUFFIXES = (".wav", ".flac")
ROOMS = 1  # random stream of the rooms of a bank; stream 0 is that of the copies


@dataclass(frozen=True, slots=True)
class Rooms:
    """What rooms are drawn from.

    Attributes:
        t60: range of the reverberation time, seconds.
        distance: range of the distance, metres.
        array: one of `farvox.farfield.scenes.ARRAYS`.
        channels: microphones of the array to keep; None for all.
    """

    t60: tuple[float, float] = (0.3, 0.8)
    distance: tuple[float, float] = (1.0, 5.0)
    array: str = "single"
    channels: tuple[int, ...] | None = None

    @property
    def microphones(self) -> tuple[int, ...]:
        """The numbers of the microphones that are kept."""
        return tuple(range(ARRAYS[self.array])) if self.channels is None else self.channels


@dataclass(frozen=True, slots=True)
class Rir:
    """One response of a bank: a file with a channel for each microphone.

    Attributes:
        name: its utterance id in the bank, or its file name.
        path: the file.
        conditions: what utt2cond says of it.
    """

    name: str
    path: str
    conditions: Row


def simulate_bank(
    out: str | Path,
    *,
    rooms: int,
    per_room: int,
    what: Rooms,
    note: Note,
    seed: int = 0,
    jobs: int | None = None,
) -> DataDir:
    """Make a bank: float WAV files with a channel for each microphone, peak 0.5, and their `utt2cond`.

    The sources of a room share its array, so that one can be the talker and another a noise.

    Args:
        out: the data dir; one that was begun with the same settings is gone on with.
        rooms: how many.
        per_room: sources a room.
        what: what they are drawn from.
        note: is told what happens.
        seed: room n follows from (seed, n).
        jobs: processes; as many as there are processors by default.

    Raises:
        CorpusError: a number below 1.
        JobError: the folder was begun with other settings, or a process was killed.
        AudioError: ranges that make no sense.
        MissingExtraError: pyroomacoustics is not installed.
    """
    out = Path(out).absolute()
    if rooms < 1 or per_room < 1 or seed < 0:
        raise CorpusError(f"{rooms} rooms of {per_room} sources, seed {seed}: give at least 1, 1 and 0")
    refuse_scene(what.array, what.channels, what.t60, what.distance)
    begin(out / SETTINGS, {"kind": "rirs", "rooms": rooms, "per_room": per_room, "seed": seed,
                "t60": what.t60, "distance": what.distance, "array": what.array,
                "channels": what.microphones})  # fmt: skip
    work = partial(_simulate_room, out / AUDIO, what, per_room, seed)
    table = in_batches(out, work, range(rooms), "rooms simulated", note, size=5, jobs=jobs)
    return finish(out, table)


def measure_bank(out: str | Path, sources: Sequence[str | Path], note: Note) -> DataDir:
    """Make a data dir of measured responses, which stay where they are, with their T60 and DRR.

    Args:
        out: the data dir.
        sources: data dirs or folders of WAV and FLAC files.
        note: is told what happens.

    Raises:
        CorpusError: no responses there, or two of one name.
        AudioError: a file cannot be read.
    """
    out = Path(out).absolute()
    rirs = [rir for found in _distinct(sources) for rir in found]
    begin(out / SETTINGS, {"kind": "measured", "files": [rir.path for rir in rirs]})
    table = in_batches(out, _measure, rirs, "responses measured", note, size=64, jobs=1)
    return finish(out, table)


def open_banks(sources: Iterable[str | Path]) -> list[Rir]:
    """All responses of some banks; those of folders without `utt2cond` are measured on the spot.

    Raises:
        CorpusError: two responses of a folder have one name.
        DataDirError: no responses there.
        AudioError: a file cannot be read.
    """
    sources, rirs = list(sources), []
    for source, found in zip(sources, _distinct(sources), strict=True):
        if not (Path(source) / CONDITIONS).exists():
            found = [replace(rir, conditions=_measure(rir)[0]) for rir in found]
        rirs += found
    return rirs


def _distinct(sources: Sequence[str | Path]) -> list[list[Rir]]:
    """The responses of each source. Rooms of two banks are not one, whatever they are called.

    Simulated banks all call their responses alike: where names clash, each begins with its bank's.
    """
    listed = [_listed(source) for source in sources]
    for source, found in zip(sources, listed, strict=True):
        if len({rir.name for rir in found}) < len(found):
            raise CorpusError(f"{source}: two responses have one name; give one of the files another")
    if len(listed) == 1:
        return listed
    folders = [Path(source).absolute().name for source in sources]
    if len(set(folders)) < len(folders):
        folders = [f"{folder}{number}" for number, folder in enumerate(folders, 1)]
    names = [rir.name for found in listed for rir in found]
    clash = len(set(names)) < len(names)

    def of_bank(folder: str, rir: Rir) -> Rir:
        room = rir.conditions.get("room")
        conditions = rir.conditions | ({"room": f"{folder}-{room}"} if room else {})
        return replace(rir, name=f"{folder}-{rir.name}" if clash else rir.name, conditions=conditions)

    return [[of_bank(folder, rir) for rir in found] for folder, found in zip(folders, listed, strict=True)]


def _listed(source: str | Path) -> list[Rir]:
    folder = Path(source)
    if (folder / "wav.scp").exists():
        data_dir = DataDir.open(folder)
        known: dict[str, Row] = {}
        if (folder / CONDITIONS).exists():
            known = {row["utt_id"]: row for row in read_conditions(folder).iter_rows(named=True)}
        rirs = [
            Rir(utt_id, wav_path, known.get(utt_id, {}))
            for utt_id, wav_path in zip(data_dir.utt_ids, data_dir.wav_paths, strict=True)
        ]
    else:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        rirs = [Rir("_".join(path.stem.split()), str(path.absolute()), {}) for path in files]
    if not rirs:
        raise DataDirError(f"{folder}: has neither a wav.scp nor files in {' or '.join(SUFFIXES)}")
    return rirs


def _simulate_room(folder: Path, what: Rooms, per_room: int, seed: int, number: int) -> list[Row]:
    scene = draw_scene(
        rng_for(seed, 0, number, ROOMS), sources=per_room, array=what.array, channels=what.channels,
        t60=what.t60, distance=what.distance,
    )  # fmt: skip
    room = f"room{number:05d}"
    rows = []
    for place, (rirs_CR, distance) in enumerate(zip(scene.rirs_CT, scene.distances, strict=True)):
        name = f"{room}_{place:02d}"
        _write_floats(folder / f"{name}.wav", rirs_CR * np.float32(0.5 / np.abs(rirs_CR).max()))
        t60, drr = measured(rirs_CR[0])
        rows.append(
            _row(name, f"{name}.wav", rirs_CR)
            | {
                "t60": shown(t60, 3), "drr": shown(drr, 2), "distance": shown(distance, 2),
                "t60_asked": shown(scene.room.t60, 3), "room": room,
                "size": "x".join(f"{side:.2f}" for side in scene.room.size), "array": what.array,
                "channels": ",".join(map(str, what.microphones)),
            }
        )  # fmt: skip
    return rows


def _measure(rir: Rir) -> list[Row]:
    rirs_CR = read_channels(rir.path)
    if not rirs_CR.any():
        raise CorpusError(f"{rir.path}: not an impulse response (all zeros); leave it out")
    t60, drr = measured(rirs_CR[0])
    return [
        _row(rir.name, rir.path, rirs_CR)
        | {
            "t60": shown(t60, 3), "drr": shown(drr, 2), "distance": "", "t60_asked": "", "room": "",
            "size": "", "array": "measured", "channels": ",".join(map(str, range(len(rirs_CR)))),
        }
    ]  # fmt: skip


def _row(name: str, file: str, rirs_CR: Samples) -> Row:
    samples = rirs_CR.shape[1] if not Path(file).is_absolute() else audio_info(file).num_samples
    return {"utt_id": name, "file": file, "speaker": "", "num_samples": str(samples)}


def _write_floats(path: Path, wav_CT: Samples) -> None:
    content = io.BytesIO()
    soundfile.write(content, wav_CT.T, 16000, subtype="FLOAT", format="WAV")
    head, peak, rest = content.getvalue().partition(b"PEAK")  # with a time of writing, which is put to 0
    with atomic_file(path) as temporary:
        temporary.write_bytes(head + peak + rest[:8] + bytes(4) + rest[12:])
