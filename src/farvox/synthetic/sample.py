"""A handful of recordings to try farvox with: three synthetic speakers, near a microphone and far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from farvox.atomic import atomic_dir, write_json
from farvox.audio.files import write_audio
from farvox.farfield import RoomOptions
from farvox.farfield.mixing import add_noise, convolve_rir, set_level
from farvox.farfield.rooms import draw_scene
from farvox.rng import rng_for
from farvox.synthetic.studio import draw_noise
from farvox.synthetic.voice import SAMPLE_RATE, Voice, draw_occasion, draw_sentence, synthesise
from farvox.writers import writes

SETTINGS = "sample.json"  # in the folder: the seed it was made from
TAKES = ("near_1", "near_2", "far")
SECONDS = 6.0  # of speech a take
PAUSE = 0.4  # before and after
ROOMS = RoomOptions(t60=(0.25, 0.4), distance=(2.0, 3.0))
NEAR_SNR_DB, FAR_SNR_DB = 38.0, 34.0
NEAR_LEVEL_DB, FAR_LEVEL_DB = -26.0, -30.0


_COMMON: dict[str, Any] = {"liveliness": 2.0, "shimmer": 0.06, "noise_gain": 1.0, "rate": 1.0}

SPEAKERS = {
    "anna": Voice(
        pitch=267,
        formant_factors=np.array([1.38, 1.34, 1.35, 1.36, 1.20, 1.21]),
        vowel_offsets=np.zeros((8, 3)),
        bandwidth_factors=np.full(6, 0.69),
        open_quotient=0.56,
        closing_quotient=0.21,
        tilt=-1.2,
        breath=0.3,
        jitter=0.0035,
        noise_factor=1.24,
        notch_hz=6130,
        notch_depth=0.27,
        **_COMMON,
    ),
    "ben": Voice(
        pitch=85,
        formant_factors=np.array([0.71, 0.88, 0.98, 0.84, 0.76, 0.98]),
        vowel_offsets=np.zeros((8, 3)),
        bandwidth_factors=np.full(6, 1.28),
        open_quotient=0.58,
        closing_quotient=0.14,
        tilt=0.0,
        breath=0.0144,
        jitter=0.019,
        noise_factor=0.93,
        notch_hz=5726,
        notch_depth=0.95,
        **_COMMON,
    ),
    "chris": Voice(
        pitch=124,
        formant_factors=np.array([1.13, 0.96, 0.86, 1.02, 0.88, 1.07]),
        vowel_offsets=np.zeros((8, 3)),
        bandwidth_factors=np.full(6, 0.68),
        open_quotient=0.84,
        closing_quotient=0.06,
        tilt=-0.7,
        breath=0.0051,
        jitter=0.0028,
        noise_factor=0.96,
        notch_hz=4874,
        notch_depth=0.43,
        **_COMMON,
    ),
}
"""Voices that lie far apart: high and breathy from a short tract, low from a long one, and bright in between.

They were sought once, in these parameters, so that `campplus-zh-en` tells them apart by a wide margin.
"""


@writes("out")
def make_sample(out: str | Path, *, seed: int = 0) -> list[Path]:
    """Record three speakers into ``out/<speaker>``: two takes near the microphone, one across a room.

    The speakers are the same persons with every seed, on another occasion; words, rooms and noise differ.

    Args:
        out: the folder to make, whole or not at all; an earlier sample is replaced.
        seed: everything is drawn from it.

    Returns:
        The recordings: WAV files of one channel, 16 kHz.

    Raises:
        FarvoxError: ``out`` holds other things, or cannot be written.
        MissingExtraError: pyroomacoustics is not installed.
        UsageError: ``seed`` is negative.
    """
    recordings = []
    with atomic_dir(out, own_files=(SETTINGS,)) as folder:
        for number, (speaker, voice) in enumerate(SPEAKERS.items()):
            rng = rng_for(seed, 0, number)
            today = draw_occasion(voice, rng)
            for take in TAKES:
                said_T = synthesise(today, draw_sentence(rng, SECONDS), rng)
                wav_T = np.pad(said_T, int(PAUSE * SAMPLE_RATE))
                if take == "far":
                    scene = draw_scene(rng, ROOMS, sources=1)
                    noise_T = draw_noise("coloured", len(wav_T) / SAMPLE_RATE + 1, rng)[: len(wav_T)]
                    wav_T = add_noise(convolve_rir(wav_T, scene.rirs_CT[0][0]), noise_T, FAR_SNR_DB)
                    wav_T = set_level(wav_T, FAR_LEVEL_DB)
                else:  # a microphone near the mouth, with its own noise
                    noise_T = rng.standard_normal(len(wav_T)).astype(np.float32)
                    wav_T = set_level(add_noise(wav_T, noise_T, NEAR_SNR_DB), NEAR_LEVEL_DB)
                write_audio(folder / speaker / f"{take}.wav", wav_T)
                recordings.append(Path(out) / speaker / f"{take}.wav")
        write_json(folder / SETTINGS, {"seed": seed})
    return recordings
