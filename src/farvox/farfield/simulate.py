"""Far-field copies of close-talk data: in simulated rooms or through measured responses, with noise.

Shape suffixes: C channel (microphone), T sample, R sample of an RIR.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import polars as pl

from farvox.audio.files import read_audio, read_channels, write_audio
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import AudioError, CorpusError, DataDirError
from farvox.farfield.mixing import convolve_array, is_silent, power, set_level
from farvox.farfield.rirs import SUFFIXES, Rir, Rooms, open_banks
from farvox.farfield.rooms import Samples
from farvox.farfield.scenes import draw_scene, measured, refuse_scene
from farvox.farfield.simulate_work import AUDIO, SETTINGS, Row, finish, in_batches, shown
from farvox.jobs import begin, digest
from farvox.progress import Note
from farvox.rng import rng_for

BATCH = 16  # copies between two marks of an interrupted run
LEVEL_DB = -26.0  # of the mean over the channels, dB of full scale
TRIES = 20
ENROL_MAP = "enrol_map"  # each utterance with its copies, as score takes it


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the copies are made; the same for every process.

    Attributes:
        folder: where the audio goes.
        rirs: responses to draw from; none: every copy has a room of its own.
        by_room: room -> the responses of it.
        rooms: what rooms are drawn from.
        noises: files to draw noise from; none: no noise.
        snr: range of the speech-to-noise ratio, dB.
        copies: of each utterance.
        suffix: ``flac`` or ``wav``.
        seed: copy n follows from (seed, n).
    """

    folder: Path
    rirs: tuple[Rir, ...]
    by_room: dict[str, list[Rir]]
    rooms: Rooms
    noises: tuple[str, ...]
    snr: tuple[float, float]
    copies: int
    suffix: str
    seed: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a copy is heard: responses of the talker and, if there is one, of a noise source."""

    rirs_CR: Samples
    noise_rirs_CR: Samples | None
    channels: tuple[int, ...]
    conditions: Row


def simulate(
    source: str | Path,
    out: str | Path,
    *,
    note: Note,
    rirs: Sequence[str | Path] = (),
    rooms: Rooms | None = None,
    noise: Sequence[str | Path] = (),
    snr: tuple[float, float] = (5.0, 20.0),
    copies: int = 1,
    suffix: str = "flac",
    seed: int = 0,
    jobs: int | None = None,
) -> DataDir:
    """Make far-field copies of a data dir: ``<utterance>_<copy>_<microphone>`` in ``out``.

    ``enrol_map`` in it names each utterance with its copies, so that all of them can be one enrolment.

    Noise comes from a place of its own in the room: with a bank, that of another response of the room.
    Where a response has no such partner (measured ones), one microphone hears the noise dry, and several
    hear a cut each, which is noise from all around.

    Args:
        source: the data dir.
        out: the data dir to write; one that was begun with the same settings is gone on with.
        note: is told what happens.
        rirs: banks of `simulate_bank` and `measure_bank`, other data dirs or folders of responses.
        rooms: what rooms are drawn from where no ``rirs`` are given; its channels are kept either way.
        noise: data dirs or folders of noise.
        snr: range of the speech-to-noise power ratio over all channels, dB.
        copies: of each utterance.
        suffix: ``flac`` or ``wav``.
        seed: what is drawn follows from it, and from nothing else.
        jobs: processes; as many as there are processors by default.

    Raises:
        CorpusError: options that make no sense.
        JobError: the folder was begun with others, or a process was killed.
        DataDirError: a data dir cannot be read, or has no files.
        AudioError: a file cannot be used.
        MissingExtraError: rooms are to be drawn, and pyroomacoustics is not installed.
    """
    out, rooms = Path(out).absolute(), rooms or Rooms()
    if copies < 1 or seed < 0 or not -np.inf < snr[0] <= snr[1] < np.inf or suffix not in ("flac", "wav"):
        raise CorpusError(
            f"{copies} copies, seed {seed}, SNR {snr[0]} to {snr[1]} dB, .{suffix}: give at least 1 copy, a "
            "seed from 0, an SNR from the lowest to the highest, and flac or wav"
        )
    if rooms.channels and len(set(rooms.channels)) < len(rooms.channels):
        raise CorpusError(f"channels {rooms.channels}: one is named twice")
    if not rirs:
        refuse_scene(rooms.array, rooms.channels, rooms.t60, rooms.distance)
    utterances = list(DataDir.open(source).utterances())
    if not utterances:
        raise DataDirError(f"{source}: has no utterances to copy")
    bank = tuple(open_banks(rirs))
    noises = tuple(path for folder in noise for path in _files(folder))
    begin(out / SETTINGS, {
        "kind": "copies", "source": digest(f"{u.utt_id} {u.wav_path}" for u in utterances),
        "rirs": digest(f"{rir.name} {rir.path}" for rir in bank), "noise": digest(noises), "snr": snr,
        "copies": copies, "suffix": suffix, "seed": seed, "channels": rooms.channels,
        "rooms": None if bank else [rooms.t60, rooms.distance, rooms.array],
    })  # fmt: skip
    recipe = Recipe(out / AUDIO, bank, _by_room(bank), rooms, noises, snr, copies, suffix, seed)
    items = [(n * copies + copy, copy, utt) for n, utt in enumerate(utterances) for copy in range(copies)]
    table = in_batches(out, partial(_copy, recipe), items, "copies made", note, size=BATCH, jobs=jobs)
    # of now: utt2spk may have been corrected since an interrupted run
    speakers = {each.utt_id: each.speaker_id or "" for each in utterances}
    table = table.with_columns(speaker=pl.col("source").replace_strict(speakers))
    together = table.group_by("source").agg(pl.col("utt_id").sort()).sort("source")
    lines = (f"{name} {' '.join([name, *copies])}\n" for name, copies in together.iter_rows())
    return finish(out, table, {ENROL_MAP: "".join(lines)})


def _copy(recipe: Recipe, item: tuple[int, int, Utterance]) -> list[Row]:
    """Write one copy of an utterance, a file for each microphone."""
    position, copy, utterance = item
    rng = rng_for(recipe.seed, 0, position)
    try:
        said_T = read_audio(utterance.wav_path)
        if is_silent(said_T):
            raise AudioError("it is silent; leave it out")
        place = _from_bank(recipe, rng) if recipe.rirs else _drawn(recipe, rng)
        speech_CT = convolve_array(said_T, place.rirs_CR)
        noise, noise_CT = _noise(recipe, rng, place, len(said_T))
    except AudioError as error:
        raise AudioError(f"utterance '{utterance.utt_id}': {error}") from None
    mixed_CT = speech_CT
    if noise_CT is not None:
        gain = np.sqrt(power(speech_CT.ravel()) / power(noise_CT.ravel()))
        noise_CT = noise_CT * np.float32(gain * 10 ** (-rng.uniform(*recipe.snr) / 20))
        mixed_CT = speech_CT + noise_CT
    levelled_CT = set_level(mixed_CT.ravel(), LEVEL_DB).reshape(len(place.channels), len(said_T))
    rows = []
    for i, channel in enumerate(place.channels):
        utt_id = f"{utterance.utt_id}_{copy + 1}_{channel:02d}"
        file = f"{utterance.speaker_id or 'unknown'}/{utt_id}.{recipe.suffix}"
        write_audio(recipe.folder / file, levelled_CT[i])
        t60, drr = measured(place.rirs_CR[i])
        achieved = None if noise_CT is None else 10 * np.log10(power(speech_CT[i]) / power(noise_CT[i]))
        rows.append(
            {
                "utt_id": utt_id, "file": file, "speaker": utterance.speaker_id or "",
                "num_samples": str(len(said_T)), "source": utterance.utt_id,
                "point": str(copy + 1), "channel": f"{channel:02d}", "t60": shown(t60, 3),
                "drr": shown(drr, 2), "snr": shown(achieved, 2), "noise": noise, **place.conditions,
            }
        )  # fmt: skip
    return rows


def _drawn(recipe: Recipe, rng: np.random.Generator) -> _Place:
    """A room of its own."""
    rooms = recipe.rooms
    scene = draw_scene(
        rng, sources=2 if recipe.noises else 1, array=rooms.array, channels=rooms.channels,
        t60=rooms.t60, distance=rooms.distance,
    )  # fmt: skip
    conditions = {"distance": shown(scene.distances[0], 2), "rir": "", "noise_rir": "", "array": rooms.array}
    noise_rirs_CR = scene.rirs_CT[1] if recipe.noises else None
    return _Place(scene.rirs_CT[0], noise_rirs_CR, rooms.microphones, conditions)


def _from_bank(recipe: Recipe, rng: np.random.Generator) -> _Place:
    """A response of the bank, and another one of its room for the noise."""
    rir = recipe.rirs[rng.integers(len(recipe.rirs))]
    partners = recipe.by_room.get(rir.conditions.get("room", ""), [])
    others = [each for each in partners if each.name != rir.name]
    partner = others[rng.integers(len(others))] if recipe.noises and others else None
    numbers = rir.conditions.get("channels", "")
    rirs_CR = _responses(rir.path)
    channels = tuple(map(int, numbers.split(","))) if numbers else tuple(range(len(rirs_CR)))
    wanted = channels if recipe.rooms.channels is None else recipe.rooms.channels
    missing = [str(channel) for channel in wanted if channel not in channels]
    if missing:
        there = ", ".join(map(str, channels))
        raise AudioError(f"response '{rir.name}' has no channel {', '.join(missing)}; it has {there}")
    kept = [channels.index(channel) for channel in wanted]
    for channel, rir_R in zip(wanted, rirs_CR[kept], strict=True):
        if not rir_R.any():
            raise AudioError(f"response '{rir.name}': channel {channel} is silent; leave it out")
    conditions = {
        "distance": rir.conditions.get("distance", ""), "rir": rir.name,
        "noise_rir": partner.name if partner else "", "array": rir.conditions.get("array", ""),
    }  # fmt: skip
    noise_rirs_CR = _responses(partner.path)[kept] if partner else None
    return _Place(rirs_CR[kept], noise_rirs_CR, wanted, conditions)


def _noise(
    recipe: Recipe, rng: np.random.Generator, place: _Place, num_samples: int
) -> tuple[str, Samples | None]:
    """The name of a noise, and what every microphone hears of it; no noise at all where there is none."""
    if not recipe.noises:
        return "", None
    for _ in range(TRIES):  # a clip may begin or end in silence
        path = recipe.noises[rng.integers(len(recipe.noises))]
        wav_T = _recording(path)
        starts = rng.integers(len(wav_T), size=len(place.channels))
        cuts_CT = np.stack([np.resize(np.roll(wav_T, -start), num_samples) for start in starts])
        if place.noise_rirs_CR is not None:
            cuts_CT = convolve_array(cuts_CT[0], place.noise_rirs_CR)
        if not any(is_silent(cut_T) for cut_T in cuts_CT):
            return Path(path).stem, cuts_CT
    raise AudioError(f"{TRIES} cuts of noise were silent, the last one of {path}; give other noise")


def _by_room(rirs: Iterable[Rir]) -> dict[str, list[Rir]]:
    """Room -> its responses; those of no known room have no partner."""
    found: dict[str, list[Rir]] = {}
    for rir in rirs:
        if room := rir.conditions.get("room", ""):
            found.setdefault(room, []).append(rir)
    return found


@lru_cache(maxsize=64)
def _responses(path: str) -> Samples:
    return read_channels(path)


@lru_cache(maxsize=64)
def _recording(path: str) -> Samples:
    return read_audio(path)


def _files(source: str | Path) -> list[str]:
    folder = Path(source)
    if (folder / "wav.scp").exists():
        paths = DataDir.open(folder).wav_paths.to_list()
    else:
        paths = [str(p.absolute()) for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if not paths:
        raise DataDirError(f"{folder}: has neither a wav.scp nor files in {' or '.join(SUFFIXES)}")
    return paths
