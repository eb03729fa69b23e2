"""Data dirs of room impulse responses (RIRs): simulated or measured, with their T60, DRR and distance.

Shape suffixes: C channel (microphone), R sample of an RIR.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from farvox.atomic import atomic_file, file_name, visible
from farvox.audio.files import AUDIO_SUFFIXES, audio_info, read_channels, resample
from farvox.audio.remote import is_remote, remote_audio, without_scheme
from farvox.datadir.conditions import CONDITIONS, SOURCE, read_conditions
from farvox.datadir.derive import (
    AUDIO,
    SETTINGS,
    Row,
    refuse_among_recordings,
    run_batches,
    text_of,
    write_output,
)
from farvox.datadir.kaldi import DataDir, is_utf8
from farvox.errors import AudioError, CorpusError, DataDirError
from farvox.farfield import RirsOptions
from farvox.farfield.rooms import Samples, draw_scene, measure_rir, refuse_other_sounds
from farvox.jobs import Job, begin
from farvox.progress import Note, silent
from farvox.rng import rng_for
from farvox.writers import writes

RATE = 16000
ROOMS, COPIES = 1, 2  # random streams of rooms and of sizes; stream 0 is that of the copies of speech
SIZES = (0.8, 1.25)
"""Least and greatest size of a room, where the measured one has 1; drawn evenly in the logarithm."""


@dataclass(frozen=True, slots=True)
class Rir:
    """One response, a file with a channel for each microphone, and its row of utt2cond.

    It is named by its utterance id in the data dir, or by its file.
    """

    name: str
    path: str
    conditions: Row


@writes("out")
def make_rirs(out: str | Path, options: RirsOptions = RirsOptions(), *, note: Note = silent) -> DataDir:
    """Make a data dir of responses.

    Simulated ones are float WAV files with a channel for each microphone, peak 0.5. The sources of a room
    share its array, so that one can be the talker and another a noise. Measured ones stay where they are, or
    are written in other sizes: with the sides of a room, all its times grow.
    A run that was interrupted goes on in ``out``.

    Raises:
        AudioError: measured responses cannot be read or are silent; all others were measured and are kept.
            Or most of them are no responses.
        CorpusError: two measured responses of one name.
        DataDirError: no responses there, or ``out`` would be read as more of them.
        JobError: the folder was begun with other settings, or a process was killed.
        MissingExtraError: pyroomacoustics is not installed.
    """
    out = Path(out).absolute()
    if options.measured:
        with remote_audio(options.remote):
            rirs = [rir for found in _distinct(options.measured) for rir in found]
            _refuse_other_sounds(rirs, "noise of simulate", note)
        if options.sizes:
            refuse_among_recordings(out, None, options.measured)
        sized = options.sizes > 0
        begin(out / SETTINGS, {
            "kind": "measured", "files": [rir.path for rir in rirs], "sizes": options.sizes,
            "seed": options.seed if sized else 0,
        }, defaults={"sizes": 0, "seed": 0})  # fmt: skip
        job = Job(
            what="responses measured", note=note, jobs=options.jobs if sized else 1, kept=out,
            out=out if sized else None, reads=[rir.path for rir in rirs[:1]],
        )  # fmt: skip
        work = partial(_resize, out / AUDIO, options) if sized else _measure
        first: dict[str, int] = {}  # all places of a room have its sizes
        numbers = (first.setdefault(rir.conditions.get("room") or rir.name, n) for n, rir in enumerate(rirs))
        items = [*zip(numbers, rirs, strict=True)]
        return write_output(
            out,
            run_batches(
                job, work, items, out, size=64, inputs=_files_of, name=_name_of,
                skip_bad=options.skip_bad,
            ),
        )  # fmt: skip
    begin(out / SETTINGS, {"kind": "rirs", "rooms": options.rooms, "per_room": options.per_room,
                           "seed": options.seed, "t60": options.t60, "distance": options.distance,
                           "array": options.array, "channels": options.microphones,
                           "talker": options.talker}, defaults={"talker": "alike"})  # fmt: skip
    work = partial(_simulate_room, out / AUDIO, options)
    job = Job(what="rooms simulated", note=note, jobs=options.jobs, kept=out)
    return write_output(out, run_batches(job, work, range(options.rooms), out, size=5))


def open_rirs(sources: Sequence[str | Path], note: Note = silent) -> list[Rir]:
    """All responses of some data dirs or folders; those without a `utt2cond` are measured on the spot.

    Raises:
        CorpusError: two responses of a folder have one name.
        DataDirError: no responses there.
        AudioError: a file cannot be read, or most are not responses of a room.
    """
    rirs = []
    for source, found in zip(sources, _distinct(sources), strict=True):
        _refuse_other_sounds(found, "--noise", note)
        if not (Path(source) / CONDITIONS).exists():
            found = [replace(rir, conditions=_measure((0, rir))[0]) for rir in found]
        rirs += found
    return rirs


def audio_of(folder: Path) -> list[tuple[str, str]]:
    """Name and path of every file of a data dir, or of a folder of audio files.

    Raises:
        DataDirError: there are none.
    """
    if (folder / "wav.scp").exists() or not folder.is_dir():
        data_dir = DataDir.open(folder)
        found = list(zip(data_dir.utt_ids, data_dir.wav_paths, strict=True))
    else:
        files = [path for path in visible(folder, "**/*") if path.suffix.lower() in AUDIO_SUFFIXES]
        names = ["_".join(path.stem.split()) for path in files]
        if len(set(names)) < len(names):  # then with their folders
            names = ["_".join("-".join(path.relative_to(folder).parts).split()) for path in files]
        found = [(name, str(path.absolute())) for name, path in zip(names, files, strict=True)]
    if bad := next((path for _, path in found if not is_utf8(os.fsencode(path))), None):
        raise DataDirError(f"{bad!r}: not UTF-8, which a data dir must be; rename the file")
    if not found:
        raise DataDirError(f"{folder}: has neither a wav.scp nor audio files")
    return found


def _refuse_other_sounds(rirs: Sequence[Rir], instead: str, note: Note) -> None:
    paths = [rir.path for rir in rirs]
    refuse_other_sounds(paths, lambda n: read_channels(paths[n]), RATE, instead=instead, note=note)


def _distinct(sources: Sequence[str | Path]) -> list[list[Rir]]:
    """The responses of each source. Rooms of two sources are different ones, even if their names are equal.

    Simulated responses are named alike in every data dir: where names clash, each begins with its folder's.
    """
    listed = []
    for source in sources:
        folder = Path(source)
        known: dict[str, Row] = {}
        if (folder / "wav.scp").exists() and (folder / CONDITIONS).exists():
            known = {row["utt_id"]: row for row in read_conditions(folder).iter_rows(named=True)}
        rirs = [Rir(name, path, known.get(name, {})) for name, path in audio_of(folder)]
        paths = {rir.name: rir.path for rir in rirs}
        for rir in rirs:
            if paths[rir.name] != rir.path:
                raise CorpusError(
                    f"{rir.path} and {paths[rir.name]}: two responses have one name; give one of the files "
                    "another"
                )
        listed.append(rirs)
    if len(listed) == 1:
        return listed
    folders = [Path(source).absolute().name for source in sources]
    if len(set(folders)) < len(folders):
        folders = [f"{folder}{number}" for number, folder in enumerate(folders, 1)]
    names = [rir.name for found in listed for rir in found]
    clash = len(set(names)) < len(names)

    def named(folder: str, rir: Rir) -> Rir:
        room = rir.conditions.get("room")
        conditions = rir.conditions | ({"room": f"{folder}-{room}"} if room else {})
        return replace(rir, name=f"{folder}-{rir.name}" if clash else rir.name, conditions=conditions)

    return [[named(folder, rir) for rir in found] for folder, found in zip(folders, listed, strict=True)]


def _simulate_room(folder: Path, options: RirsOptions, number: int) -> list[Row]:
    scene = draw_scene(rng_for(options.seed, 0, number, ROOMS), options, sources=options.per_room)
    room = f"room{number:05d}"
    rows = []
    for place, (rirs_CR, distance) in enumerate(zip(scene.rirs_CT, scene.distances, strict=True)):
        name = f"{room}_{place:02d}"
        rows.append(
            _row(name, _written(folder, name, rirs_CR), rirs_CR)
            | {
                "distance": text_of(distance, 2), "t60_asked": text_of(scene.room.t60, 3), "room": room,
                "size": "x".join(f"{side:.2f}" for side in scene.room.size), "array": options.array,
                "channels": ",".join(map(str, options.microphones)),
            }
        )  # fmt: skip
    return rows


def _written(folder: Path, name: str, rirs_CR: Samples) -> str:
    """Write responses as a WAV file of floats, peak 0.5; its name."""
    content, file = io.BytesIO(), f"{file_name(name)}.wav"
    scaled_CR = rirs_CR * np.float32(0.5 / np.abs(rirs_CR).max())
    soundfile.write(content, scaled_CR.T, RATE, subtype="FLOAT", format="WAV")
    head, peak, rest = content.getvalue().partition(b"PEAK")  # with a time of writing, which is put to 0
    with atomic_file(folder / file) as temporary:
        temporary.write_bytes(head + peak + rest[:8] + bytes(4) + rest[12:])
    return file


def _files_of(item: tuple[int, Rir]) -> list[str]:
    return [item[1].path]


def _name_of(item: tuple[int, Rir]) -> str:
    return item[1].name


def _resize(folder: Path, options: RirsOptions, item: tuple[int, Rir]) -> list[Row]:
    """The response of a room in other sizes: what arrives after t seconds arrives after t times the size."""
    number, rir = item
    rirs_CR, rng = _heard(rir), rng_for(options.seed, 0, number, COPIES)
    digits, rows = len(str(options.sizes - 1)), []
    for copy, size in enumerate(np.exp(rng.uniform(math.log(SIZES[0]), math.log(SIZES[1]), options.sizes))):
        name = f"{rir.name}-{copy:0{digits}d}"
        sized_CR = resample(rirs_CR, RATE, round(RATE * size))
        row = _row(name, _written(folder, name, sized_CR), sized_CR) | _known(rir, len(rirs_CR))
        row |= {"size": f"{size:.3f}", "distance": "", SOURCE: rir.name}
        row["room"] = row["room"] and f"{row['room']}-{copy:0{digits}d}"
        rows.append(row)
    return rows


def _heard(rir: Rir) -> Samples:
    rirs_CR = read_channels(rir.path)
    if not rirs_CR.any():
        raise AudioError(f"{rir.path}: not an impulse response (all zeros); leave it out")
    return rirs_CR


def _known(rir: Rir, num_channels: int) -> Row:
    """The conditions of a response besides those that are measured, as far as its data dir has them."""
    known = {name: rir.conditions.get(name, "") for name in ("distance", "t60_asked", "room", "size")}
    return {**known, "array": "measured", "channels": ",".join(map(str, range(num_channels)))}


def _measure(item: tuple[int, Rir]) -> list[Row]:
    rir = item[1]
    rirs_CR = _heard(rir)
    row = _row(
        rir.name, rir.path if is_remote(rir.path) else os.path.abspath(without_scheme(rir.path)), rirs_CR
    )
    return [row | _known(rir, len(rirs_CR))]


def _row(name: str, file: str, rirs_CR: Samples) -> Row:
    samples = rirs_CR.shape[1] if not Path(file).is_absolute() else audio_info(file).num_samples
    t60, drr = measure_rir(rirs_CR[0])
    row = {"utt_id": name, "file": file, "speaker": "", "num_samples": str(samples)}
    return row | {"t60": text_of(t60, 3), "drr": text_of(drr, 2)}
