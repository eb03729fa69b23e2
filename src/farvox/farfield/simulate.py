"""Far-field copies of close-talk data: in simulated rooms or through given responses, with noise.

Shape suffixes: C channel (microphone), T sample, R sample of an RIR.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import polars as pl

from farvox.atomic import file_name
from farvox.audio.files import read_audio, read_channels, write_audio
from farvox.audio.remote import remote_audio
from farvox.datadir.audit import note_changes
from farvox.datadir.derive import (
    AUDIO,
    SETTINGS,
    Row,
    refuse_among_recordings,
    run_batches,
    text_of,
    write_output,
)
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import AudioError
from farvox.farfield import SimulateOptions
from farvox.farfield.mixing import convolve_array, is_silent, power, set_level
from farvox.farfield.rirs import Rir, audio_of, open_rirs
from farvox.farfield.rooms import Samples, draw_scene, measure_rir
from farvox.jobs import Job, begin, digest
from farvox.progress import Note, silent
from farvox.rng import rng_for
from farvox.writers import writes

BATCH = 16  # copies that a run which goes on makes again at most, for each process
LEVEL_DB = -26.0  # of the mean over the channels, dB of full scale
TRIES = 20
ENROL_MAP = "enrol_map"  # each utterance with its copies, as score takes it


@dataclass(frozen=True, slots=True)
class _Work:
    """All that a process needs to make copies; without responses every copy has a room of its own."""

    folder: Path
    options: SimulateOptions
    rirs: tuple[Rir, ...]
    by_room: dict[str, list[Rir]]
    noises: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Responses:
    """Responses from the talker of a copy to the microphones, and from a noise source if there is one."""

    rirs_CR: Samples
    noise_rirs_CR: Samples | None
    channels: tuple[int, ...]
    conditions: Row


@writes("out")
def simulate(
    source: str | Path, out: str | Path, options: SimulateOptions = SimulateOptions(), *, note: Note = silent
) -> DataDir:
    """Make far-field copies of a data dir: ``<utterance>_<copy>_<microphone>`` in ``out``.

    ``enrol_map`` in it names each utterance with its copies, so that all of them can be one enrolment.

    Noise comes from a place of its own in the room: with given responses, that of another response of the
    room. Where a response has no such partner (measured ones), one microphone gets the noise dry, and several
    get a cut each, which is noise from all around. A run that was interrupted goes on in ``out``.

    Raises:
        DataDirError: a data dir cannot be read, or has no files, or ``out`` lies among recordings.
        AudioError: a file cannot be used.
        JobError: the folder was begun with other settings, or a process was killed.
        MissingExtraError: rooms are to be drawn, and pyroomacoustics is not installed.
    """
    out = Path(out).absolute()
    data_dir = DataDir.open(source, remote=options.remote)
    refuse_among_recordings(out, data_dir, (*options.rirs, *options.noise))
    note_changes(data_dir, note)
    utterances = list(data_dir.utterances())
    with remote_audio(options.remote):
        rirs = tuple(open_rirs(options.rirs, note))
        noises = [path for folder in options.noise for _, path in audio_of(folder)]
    turned = () if options.talker == "alike" else (options.talker,)
    begin(out / SETTINGS, {
        "kind": "copies", "source": digest(f"{u.utt_id} {u.wav_path}" for u in utterances),
        "rirs": digest(f"{rir.name} {rir.path}" for rir in rirs), "noise": digest(noises), "snr": options.snr,
        "copies": options.copies, "suffix": options.format, "seed": options.seed,
        "channels": options.channels or None,
        "rooms": None if rirs else [options.t60, options.distance, options.array, *turned],
    })  # fmt: skip
    by_room: dict[str, list[Rir]] = {}
    for rir in rirs:
        if room := rir.conditions.get("room", ""):  # those of no known room have no partner
            by_room.setdefault(room, []).append(rir)
    work = _Work(out / AUDIO, options, rirs, by_room, tuple(noises))
    copies = range(options.copies)
    items = [(n * len(copies) + copy, copy, utt) for n, utt in enumerate(utterances) for copy in copies]
    job = Job(
        what="copies made",
        note=note,
        jobs=options.jobs,
        kept=out,
        out=out,
        reads=[u.wav_path for u in utterances[:1]],
    )
    table = run_batches(
        job,
        partial(_copy, work),
        items,
        out,
        size=BATCH,
        inputs=_files_of,
        shared=[*(rir.path for rir in rirs), *noises],
        name=_source_of,
        skip_bad=options.skip_bad,
    )
    # of now: utt2spk may have been corrected since a run that broke off
    speakers = {each.utt_id: each.speaker_id or "" for each in utterances}
    table = table.with_columns(speaker=pl.col("source").replace_strict(speakers))
    together = table.group_by("source").agg(pl.col("utt_id").sort()).sort("source")
    lines = (f"{name} {' '.join([name, *utt_ids])}\n" for name, utt_ids in together.iter_rows())
    return write_output(out, table, {ENROL_MAP: "".join(lines)})


def _source_of(item: tuple[int, int, Utterance]) -> str:
    return item[2].utt_id


def _files_of(item: tuple[int, int, Utterance]) -> list[str]:
    return [item[2].wav_path]


def _copy(work: _Work, item: tuple[int, int, Utterance]) -> list[Row]:
    """Write one copy of an utterance, a file for each microphone."""
    position, copy, utterance = item
    options, rng = work.options, rng_for(work.options.seed, 0, position)
    noise_name, noise_CT = "", None
    close_T = read_audio(utterance.wav_path)
    if is_silent(close_T):
        raise AudioError(f"{utterance.wav_path}: it is silent; leave it out")
    if work.rirs:
        responses = _draw_responses(work, rng)
    else:
        scene = draw_scene(rng, options, sources=2 if work.noises else 1)
        distance = text_of(scene.distances[0], 2)
        conditions = {"distance": distance, "rir": "", "noise_rir": "", "array": options.array}
        noise_rirs_CR = scene.rirs_CT[1] if work.noises else None
        responses = _Responses(scene.rirs_CT[0], noise_rirs_CR, options.microphones, conditions)
    speech_CT = convolve_array(close_T, responses.rirs_CR)
    if work.noises:
        noise_name, noise_CT = _draw_noise(work, rng, responses, len(close_T))
    mixed_CT = speech_CT
    if noise_CT is not None:
        gain = np.sqrt(power(speech_CT.ravel()) / power(noise_CT.ravel()))
        noise_CT = noise_CT * np.float32(gain * 10 ** (-rng.uniform(*options.snr) / 20))
        mixed_CT = speech_CT + noise_CT
    far_CT = set_level(mixed_CT.ravel(), LEVEL_DB).reshape(mixed_CT.shape)
    rows = []
    for i, channel in enumerate(responses.channels):
        utt_id = f"{utterance.utt_id}_{copy + 1}_{channel:02d}"
        file = f"{file_name(utterance.speaker_id or 'unknown')}/{file_name(utt_id)}.{options.format}"
        write_audio(work.folder / file, far_CT[i])
        t60, drr = measure_rir(responses.rirs_CR[i])
        achieved = None if noise_CT is None else 10 * np.log10(power(speech_CT[i]) / power(noise_CT[i]))
        rows.append(
            {
                "utt_id": utt_id, "file": file, "speaker": utterance.speaker_id or "",
                "num_samples": str(len(close_T)), "source": utterance.utt_id,
                "point": str(copy + 1), "channel": f"{channel:02d}", "t60": text_of(t60, 3),
                "drr": text_of(drr, 2), "snr": text_of(achieved, 2), "noise": noise_name,
                **responses.conditions,
            }
        )  # fmt: skip
    return rows


def _draw_responses(work: _Work, rng: np.random.Generator) -> _Responses:
    """Draw a response of the given ones, and another one of its room for the noise."""
    rir = work.rirs[rng.integers(len(work.rirs))]
    partners = work.by_room.get(rir.conditions.get("room", ""), [])
    others = [each for each in partners if each.name != rir.name]
    partner = others[rng.integers(len(others))] if work.noises and others else None
    numbers = rir.conditions.get("channels", "")
    rirs_CR = _read_responses(rir.path)
    channels = tuple(map(int, numbers.split(","))) if numbers else tuple(range(len(rirs_CR)))
    wanted = work.options.channels or channels
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
    noise_rirs_CR = _read_responses(partner.path)[kept] if partner else None
    return _Responses(rirs_CR[kept], noise_rirs_CR, wanted, conditions)


def _draw_noise(
    work: _Work, rng: np.random.Generator, responses: _Responses, num_samples: int
) -> tuple[str, Samples]:
    """Draw a noise: its name, and the noise in every microphone."""
    for _ in range(TRIES):  # a clip may begin or end in silence
        path = work.noises[rng.integers(len(work.noises))]
        wav_T = _read_noise(path)
        starts = rng.integers(len(wav_T), size=len(responses.channels))
        cuts_CT = np.stack([np.resize(np.roll(wav_T, -start), num_samples) for start in starts])
        if responses.noise_rirs_CR is not None:
            cuts_CT = convolve_array(cuts_CT[0], responses.noise_rirs_CR)
        if not any(is_silent(cut_T) for cut_T in cuts_CT):
            return Path(path).stem, cuts_CT
    raise AudioError(f"{TRIES} cuts of noise were silent, the last one of {path}; give other noise")


_read_responses = lru_cache(maxsize=64)(read_channels)
_read_noise = lru_cache(maxsize=64)(read_audio)
