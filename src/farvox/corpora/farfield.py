"""The far-field test on real speech, fixed before any training: enrolment near, test near and across a room.

It is made of three corpora: speech, noise, and room responses that were measured. All draws come from
(seed, list, position).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np

from farvox.atomic import write_text
from farvox.audio.files import read_audio, write_audio
from farvox.corpora.parts import audio_files, open_source
from farvox.corpora.speechocean762 import prepare_speechocean762
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import CorpusError
from farvox.farfield.mixing import Array, add_noise, convolve_rir, is_silent, set_level
from farvox.farfield.rooms import draw_room, simulate_rirs
from farvox.progress import Note
from farvox.rng import rng_for

SPEECH, NOISE, ROOMS = "speechocean762", "noise_esc10", "rirs_gtu"
LAYOUT = f"{SPEECH}/, {NOISE}/ (a folder for each class, of .flac) and {ROOMS}/ (responses as .wav)"
TEST_SPEAKERS = "101-125"
UNHEARD, TUNED, TESTED = slice(None, -6), slice(-6, -4), slice(-4, None)
"""Clips of a class of noise: to train with, to choose settings by, and to test with."""
PER_SIDE = 10
"""Utterances of a speaker that are enrolments, and as many that are tests."""
Response = Callable[[int, np.random.Generator], Array]


def prepare_farfield(
    source: Path,
    out: Path,
    *,
    note: Note,
    jobs: int | None = None,
    speakers: str = TEST_SPEAKERS,
    seed: int = 1,
) -> list[DataDir]:
    """Make data dirs and lists of all pairs of each speaker's first 10 utterances and last 10, in C order.

    OUT gets ``enrol`` and ``near``, the recordings themselves; ``far-a``, the tests through the measured
    responses, every speaker in all of them; ``far-b``, the tests through shoebox rooms of their own (T60 0.3
    to 0.8 s, 1 to 5 m); the lists ``near.trials``, ``far-a.trials`` and ``far-b.trials``; ``noise-train``,
    the noise that may be trained on; and ``speechocean762``. Noise at 5 to 20 dB comes from the last 4 clips
    of each class for the test speakers, and from the 2 before them for any others: those on whom settings are
    chosen, who also never meet a measured response, so that there is no ``far-a``.

    Args:
        source: the folder of the three corpora.
        speakers: FIRST-LAST, counted in C order from 1.
        seed: everything drawn at random follows from it.

    Raises:
        CorpusError: a corpus is not there, or there are no such speakers with enough utterances.
    """
    source, out = open_source(source, out, LAYOUT), Path(out).absolute()
    is_test = speakers == TEST_SPEAKERS
    for name in (SPEECH, NOISE, *([ROOMS] if is_test else [])):
        if not (source / name).is_dir():
            raise CorpusError(f"{source / name}: no such folder; expected {LAYOUT}")
    corpus = prepare_speechocean762(source, out / SPEECH, note=note, jobs=jobs)
    enrol, near = split_speakers(corpus[0], speakers)
    noises = noise_clips(source / NOISE, TESTED if is_test else TUNED)
    rooms: dict[str, Response] = {"far-b": _simulated_room}
    if is_test:
        rirs = [*measured_rooms(source / ROOMS).values()]
        rooms = {"far-a": lambda position, rng: rirs[position % len(rirs)], **rooms}
    parts = {"enrol": enrol, "near": near, "noise-train": noise_dir(source / NOISE, UNHEARD)}
    made = [*corpus, *(write_data_dir(out / name, part) for name, part in parts.items())]
    write_text(out / "near.trials", all_pairs(enrol, near))
    for number, (name, rir_of) in enumerate(rooms.items()):
        far = []
        for position, each in enumerate(near):
            rng = rng_for(seed, number, position)
            wet_T = far_copy(read_audio(each.wav_path), rir_of(position, rng), noises, rng)
            far.append(write_copy(out / name / "wav", f"{each.utt_id}-{name}", wet_T, each.speaker_id))
        made.append(write_data_dir(out / name, far))
        write_text(out / f"{name}.trials", all_pairs(enrol, far))
        note(f"{out / name}: {len(far)} tests, {len(far) * len(enrol):,} trials")
    return made


def split_speakers(train: DataDir, speakers: str) -> tuple[list[Utterance], list[Utterance]]:
    """The first and the last `PER_SIDE` utterances of each speaker, in C order.

    Raises:
        CorpusError: there are no such speakers, or one has too few utterances.
    """
    spoken: dict[str, list[Utterance]] = {}
    for each in all_utterances(train):
        spoken.setdefault(str(each.speaker_id), []).append(each)
    bounds = re.fullmatch(r"(\d{1,18})-(\d{1,18})", speakers)
    first, last = map(int, bounds.groups()) if bounds else (0, 0)
    if not 1 <= first < last <= len(spoken):
        raise CorpusError(
            f"--speakers {speakers}: {train.path} has speakers 1-{len(spoken)}; give two or more of them as "
            "FIRST-LAST"
        )
    chosen = [spoken[speaker_id] for speaker_id in sorted(spoken)[first - 1 : last]]
    if few := [each[0].speaker_id for each in chosen if len(each) < 2 * PER_SIDE]:
        raise CorpusError(
            f"{train.path}: {len(few)} speakers, {few[0]} first, have fewer than {2 * PER_SIDE} utterances, "
            f"{PER_SIDE} for each side; choose others with --speakers"
        )
    return [u for each in chosen for u in each[:PER_SIDE]], [u for each in chosen for u in each[-PER_SIDE:]]


def all_utterances(corpus: DataDir) -> list[Utterance]:
    """The utterances of speechocean762 in C order, with names that no other corpus has."""
    return [
        Utterance(f"so{each.speaker_id}-{each.utt_id}", each.wav_path, f"so{each.speaker_id}")
        for each in sorted(corpus.utterances(), key=lambda each: each.utt_id)
    ]


def _noise_files(folder: Path, part: slice) -> list[Path]:
    """The same part of the sorted clips of every class."""
    classes = groupby(audio_files(folder, [".flac"]), os.path.dirname)
    return [Path(path) for _, paths in classes for path in [*paths][part]]


def noise_clips(folder: Path, part: slice) -> list[Array]:
    """The clips of `_noise_files` that are not silence.

    Raises:
        CorpusError: there are none.
    """
    clips = [read_audio(str(path)) for path in _noise_files(folder, part)]
    heard = [clip_T for clip_T in clips if not is_silent(clip_T)]
    if not heard:
        raise CorpusError(
            f"{folder}: no noise found; expected {LAYOUT}, with more than 6 clips of each class"
        )
    return heard


def noise_dir(folder: Path, part: slice) -> list[Utterance]:
    """The files of `_noise_files` as a data dir has them."""
    return [Utterance(f"{path.parent.name}-{path.stem}", str(path)) for path in _noise_files(folder, part)]


def rooms_dir(folder: Path, part: slice = slice(None)) -> list[Utterance]:
    """The files of the measured responses, in the order of their names, as a data dir has them.

    Raises:
        CorpusError: there are none.
    """
    paths = sorted(map(Path, audio_files(folder, [".wav"])))
    if not paths:
        raise CorpusError(f"{folder}: no response found; expected {LAYOUT}")
    return [Utterance(path.stem, str(path)) for path in paths[part]]


def measured_rooms(folder: Path) -> dict[str, Array]:
    """The measured responses, by name and in the order of their names.

    Raises:
        CorpusError: there are none.
    """
    return {each.utt_id: read_audio(each.wav_path, sample_rate=16000) for each in rooms_dir(folder)}


def _simulated_room(position: int, rng: np.random.Generator) -> Array:
    """The response of a room that no other test has."""
    room = draw_room(rng)
    mic_3 = np.array([rng.uniform(0.5, 1.0), rng.uniform(0.5, room.size[1] - 0.5), rng.uniform(0.7, 1.5)])
    source_3 = np.array([mic_3[0] + rng.uniform(1.0, 5.0), rng.uniform(0.5, room.size[1] - 0.5), 0.0])
    source_3[2] = rng.uniform(1.1, 1.8)
    rir_T: Array = simulate_rirs(room, source_3, mic_3[None], tail_seed=int(rng.integers(2**31)))[0]
    return rir_T


def far_copy(
    wav_T: Array,
    rir_R: Array,
    noises: list[Array],
    rng: np.random.Generator,
    snr_db: tuple[float, float] = (5.0, 20.0),
) -> Array:
    """Speech as heard across a room, with noise of a ratio that is drawn, at -26 dB of full scale."""
    noise_T = np.zeros(len(wav_T), np.float32)
    wet_T = convolve_rir(wav_T, rir_R)
    while is_silent(noise_T):  # a clip may begin or end in silence
        clip_T = noises[rng.integers(len(noises))]
        noise_T = np.resize(np.roll(clip_T, -rng.integers(len(clip_T))), len(wav_T))
    return set_level(add_noise(wet_T, noise_T, rng.uniform(*snr_db)), -26.0)


def write_copy(folder: Path, utt_id: str, wav_T: Array, speaker_id: str | None) -> Utterance:
    """Write a recording below ``folder``; the utterance that it is."""
    path = folder / f"{utt_id}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, wav_T)
    return Utterance(utt_id, str(path), speaker_id, len(wav_T))


def all_pairs(enrol: list[Utterance], test: list[Utterance]) -> str:
    """Every enrolment against every test, with labels."""
    return "".join(
        f"{a.utt_id} {b.utt_id} {'target' if a.speaker_id == b.speaker_id else 'nontarget'}\n"
        for a in enrol
        for b in test
    )
