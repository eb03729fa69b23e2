"""Far-field copies of a data dir, for choosing a threshold that has heard rooms: one copy an utterance.

    python benchmarks/cards/far_copies.py DIR NOISE_FOLDER OUT [SEED]

Every copy has a shoebox room of its own (T60 0.3 to 0.8 s, 1 to 5 m away) and a noise of NOISE_FOLDER at 5 to
20 dB, all drawn from (seed, position). The utterances of OUT are named as in DIR with "-far" behind.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from farvox.acoustics.mixing import add_noise, convolve_rir, is_silent, set_level
from farvox.acoustics.rooms import draw_room, simulate_rirs
from farvox.io.audio import read_audio, write_audio
from farvox.io.kaldi import DataDir, write_data_dir
from farvox.rng import rng_for
from farvox.types import Utterance


def far_copy(wav_T: np.ndarray, noises: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """One utterance as heard across a room."""
    room = draw_room(rng)
    mic = np.array([rng.uniform(0.5, 1.0), rng.uniform(0.5, room.size[1] - 0.5), rng.uniform(0.7, 1.5)])
    distance = rng.uniform(1.0, 5.0)
    source = mic.copy()
    source[0] += distance
    source[1], source[2] = rng.uniform(0.5, room.size[1] - 0.5), rng.uniform(1.1, 1.8)
    rir_R = simulate_rirs(room, source, mic[None], tail_seed=int(rng.integers(2**31)))[0]
    noise_T = np.zeros(len(wav_T), np.float32)
    while is_silent(noise_T):  # a clip may begin or end in silence
        clip_T = noises[rng.integers(len(noises))]
        noise_T = np.resize(np.roll(clip_T, -rng.integers(len(clip_T))), len(wav_T))
    return set_level(add_noise(convolve_rir(wav_T, rir_R), noise_T, rng.uniform(5, 20)), -26.0)


def main(source: str, noise_folder: str, out: str, seed: str = "1") -> None:
    """Write the copies and their data dir."""
    noises = [read_audio(path) for path in sorted(Path(noise_folder).rglob("*.flac"))]
    utterances = []
    for position, utt in enumerate(DataDir.open(source).utterances()):
        wav_T = far_copy(read_audio(utt.wav_path), noises, rng_for(int(seed), 0, position))
        path = Path(out) / "wav" / f"{utt.utt_id}-far.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, wav_T)
        utterances.append(Utterance(f"{utt.utt_id}-far", str(path), utt.speaker_id, len(wav_T)))
    write_data_dir(Path(out), utterances)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
