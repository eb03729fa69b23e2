"""The far-field test on real speech, fixed before any training: enrolment near, test near and across a room.

    python benchmarks/farfield/lists.py CORPORA OUT [SPEAKERS] [SEED]

Of each speaker of speechocean762 (SPEAKERS counts the sorted ones, "101-125" unless given) the first 10
sorted utterances are close-talk enrolments and the last 10 are tests, all pairs. OUT gets:

    speechocean762  the corpus as data dirs
    enrol, near     the recordings themselves
    far-a           the tests through the 10 measured GTU responses, every speaker in all of them
    far-b           the tests through shoebox rooms of their own (T60 0.3 to 0.8 s, 1 to 5 m)
    near.trials  far-a.trials  far-b.trials
    noise-train     the noise that may be trained on: what is not in the tests

Noise at 5 to 20 dB comes from the last 4 sorted ESC-10 clips of each class for the test speakers, and from
the 2 before them for any others (on whom settings are chosen, who also never meet a GTU response: no far-a).
All draws come from (SEED, list, position).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from farvox.audio.files import read_audio, write_audio
from farvox.corpora.speechocean762 import prepare_speechocean762
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.farfield.mixing import Array, add_noise, convolve_rir, is_silent, set_level
from farvox.farfield.rooms import draw_room, simulate_rirs
from farvox.rng import rng_for

TEST_SPEAKERS = "101-125"
Rir = Callable[[int, np.random.Generator], Array]


def main(corpora: str, out: str, speakers: str = TEST_SPEAKERS, seed: str = "1") -> None:
    """Write the data dirs and trial lists."""
    root, folder, is_test = Path(corpora), Path(out), speakers == TEST_SPEAKERS
    corpus = prepare_speechocean762(root, folder / "speechocean762", note=lambda text: None)
    enrol, near = split_speakers(corpus[0], speakers)
    noises = noise_clips(root / "noise_esc10", slice(-4, None) if is_test else slice(-6, -4))
    rooms: dict[str, Rir] = {"far-b": simulated_room}
    if is_test:
        rooms = {"far-a": measured_rooms(root / "rirs_gtu"), **rooms}
    write_data_dir(folder / "enrol", enrol)
    write_data_dir(folder / "near", near)
    write_data_dir(folder / "noise-train", noise_dir(root / "noise_esc10", slice(None, -6)))
    (folder / "near.trials").write_text(all_pairs(enrol, near))
    for number, (name, rir_of) in enumerate(rooms.items()):
        far = [
            far_copy(each, folder / name, rir_of, noises, position, rng_for(int(seed), number, position))
            for position, each in enumerate(near)
        ]
        write_data_dir(folder / name, far)
        (folder / f"{name}.trials").write_text(all_pairs(enrol, far))
        print(f"{folder / name}: {len(far)} tests, {len(far) * len(enrol):,} trials")


def split_speakers(train: DataDir, speakers: str) -> tuple[list[Utterance], list[Utterance]]:
    """The first and the last 10 sorted utterances of each speaker."""
    first, last = map(int, speakers.split("-"))
    spoken: dict[str, list[Utterance]] = {}
    for each in sorted(train.utterances(), key=lambda each: each.utt_id):
        utt_id, speaker_id = f"so{each.speaker_id}-{each.utt_id}", f"so{each.speaker_id}"
        spoken.setdefault(speaker_id, []).append(Utterance(utt_id, each.wav_path, speaker_id))
    chosen = [spoken[speaker_id] for speaker_id in sorted(spoken)[first - 1 : last]]
    if few := [each[0].speaker_id for each in chosen if len(each) < 20]:
        sys.exit(f"{few[0]} and {len(few) - 1} more have fewer than 20 utterances, 10 for each side")
    return [u for each in chosen for u in each[:10]], [u for each in chosen for u in each[-10:]]


def noise_files(folder: Path, part: slice) -> list[Path]:
    """The same part of the sorted clips of every class."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for each in classes for path in sorted(each.glob("*.flac"))[part]]


def noise_clips(folder: Path, part: slice) -> list[Array]:
    """The clips of `noise_files` that are not silence."""
    clips = [read_audio(str(path)) for path in noise_files(folder, part)]
    return [clip_T for clip_T in clips if not is_silent(clip_T)]


def noise_dir(folder: Path, part: slice) -> list[Utterance]:
    """The files of `noise_files` as a data dir has them."""
    return [Utterance(f"{path.parent.name}-{path.stem}", str(path)) for path in noise_files(folder, part)]


def measured_rooms(folder: Path) -> Rir:
    """Room ``position`` of the measured ones, counted round."""
    rirs = [read_audio(str(path), sample_rate=16000) for path in sorted(folder.rglob("*.wav"))]
    return lambda position, rng: rirs[position % len(rirs)]


def simulated_room(position: int, rng: np.random.Generator) -> Array:
    """The response of a room that no other test has."""
    room = draw_room(rng)
    mic_3 = np.array([rng.uniform(0.5, 1.0), rng.uniform(0.5, room.size[1] - 0.5), rng.uniform(0.7, 1.5)])
    source_3 = np.array([mic_3[0] + rng.uniform(1.0, 5.0), rng.uniform(0.5, room.size[1] - 0.5), 0.0])
    source_3[2] = rng.uniform(1.1, 1.8)
    return simulate_rirs(room, source_3, mic_3[None], tail_seed=int(rng.integers(2**31)))[0]


def far_copy(
    near: Utterance, folder: Path, rir_of: Rir, noises: list[Array], position: int, rng: np.random.Generator
) -> Utterance:
    """One test as heard across a room, with noise, at -26 dB of full scale; written below ``folder``."""
    wav_T = read_audio(near.wav_path)
    noise_T = np.zeros(len(wav_T), np.float32)
    wet_T = convolve_rir(wav_T, rir_of(position, rng))
    while is_silent(noise_T):  # a clip may begin or end in silence
        clip_T = noises[rng.integers(len(noises))]
        noise_T = np.resize(np.roll(clip_T, -rng.integers(len(clip_T))), len(wav_T))
    wet_T = set_level(add_noise(wet_T, noise_T, rng.uniform(5, 20)), -26.0)
    name = f"{near.utt_id}-{folder.name}"
    path = folder / "wav" / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, wet_T)
    return Utterance(name, str(path), near.speaker_id, len(wet_T))


def all_pairs(enrol: list[Utterance], test: list[Utterance]) -> str:
    """Every enrolment against every test, with labels."""
    return "".join(
        f"{a.utt_id} {b.utt_id} {'target' if a.speaker_id == b.speaker_id else 'nontarget'}\n"
        for a in enrol
        for b in test
    )


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
