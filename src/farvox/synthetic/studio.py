"""The recording sessions of the synthetic corpus: rooms, microphones, noise, and one speaker's takes.

Names are HI-MIA's, ``<speaker>_<point>_<microphone>_<speed><take>``: point 7 is the close-talk
microphone; points 2, 5 and 6 are circular arrays of 16 microphones, here at 1, 3 and 5 m. All
microphones record the same take, as in HI-MIA.

Shape suffixes: C channel (microphone), T sample.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy import fft

from farvox.datadir.kaldi import Utterance
from farvox.farfield.mixing import add_noise, convolve_rir, set_level
from farvox.farfield.rooms import circular_array, draw_room, simulate_rirs
from farvox.rng import rng_for
from farvox.synthetic.voice import SAMPLE_RATE, draw_occasion, draw_sentence, draw_voice, synthesise

DISTANCES = {2: 1.0, 5: 3.0, 6: 5.0}  # point -> metres
MEAN_SNR_DB = {2: 16.0, 5: 12.0, 6: 9.0}
SPEEDS = {"N": 1.0, "S": 0.82, "F": 1.2}
ARRAY_MICROPHONES = 16
NOISES = ("coloured", "hum", "machine", "babble")

# Uses of one (seed, item, take): each has a random stream of its own.
VOICE, TAKE, CLOSE, FAR, ROOM, NOISE = range(6)

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Position:
    """An array in a room, by HI-MIA's number, with the responses from a talker and from a noise source."""

    point: int
    rirs_CT: Samples
    noise_rirs_CT: Samples


@dataclass(frozen=True, slots=True)
class Studio:
    """All that a recording session needs besides the speaker; the same for every process.

    Attributes:
        seconds: range of the duration of a take at normal speed.
        far_points: arrays that record each take; drawn from the room's where fewer than three.
        far_microphones: microphones written per array; drawn where fewer than were simulated.
        microphones: numbers of the array microphones that were simulated.
    """

    folder: Path
    seed: int
    takes: int
    seconds: tuple[float, float]
    far_points: int
    far_microphones: int
    microphones: tuple[int, ...]
    rooms: tuple[tuple[Position, ...], ...]
    noises: tuple[Samples, ...]


def build_room(seed: int, number: int, microphones: tuple[int, ...]) -> tuple[Position, ...]:
    """Room ``number`` of the corpus: a talker, and an array at each of the distances with a noise source."""
    rng = rng_for(seed, number, 0, ROOM)
    room = draw_room(rng)
    talker = np.array([rng.uniform(0.4, room.size[0] - 5.6), 0.0, rng.uniform(1.1, 1.7)])
    talker[1] = rng.uniform(0.4, room.size[1] - 0.4)
    positions = []
    for point, distance in DISTANCES.items():
        height = rng.uniform(0.7, 1.3)
        across = np.sqrt(distance**2 - (talker[2] - height) ** 2)
        centre = np.array([talker[0] + across, talker[1], height])
        for bearing in rng.uniform(-np.pi / 2, np.pi / 2, 50):
            tried = talker[:2] + across * np.array([np.cos(bearing), np.sin(bearing)])
            if np.all(tried > 0.15) and np.all(tried < np.array(room.size[:2]) - 0.15):
                centre[:2] = tried
                break
        array_C3 = circular_array(centre, num=ARRAY_MICROPHONES, turn=rng.uniform(0, 2 * np.pi))
        array_C3 = array_C3[list(microphones)]
        noise_source = centre
        while np.linalg.norm(noise_source - centre) < 0.8:
            noise_source = np.array([rng.uniform(0.3, side - 0.3) for side in room.size])
        tails = rng.integers(2**32, size=2)
        rirs_CT = simulate_rirs(room, talker, array_C3, tail_seed=int(tails[0]))
        noise_rirs_CT = simulate_rirs(room, noise_source, array_C3, tail_seed=int(tails[1]))
        positions.append(Position(point, rirs_CT, noise_rirs_CT))
    return tuple(positions)


def build_noise(seed: int, number: int) -> Samples:
    """Background noise ``number``: the kinds take turns."""
    return draw_noise(NOISES[number % len(NOISES)], 6.0, rng_for(seed, number, 0, NOISE))


def record_speaker(studio: Studio, number: int) -> list[Utterance]:
    """Write every take of speaker ``number``, close and far; all draws come from (seed, speaker, take).

    The files are written plainly: the studio's folder is one that becomes the corpus as a whole or not
    at all, and to flush each of thousands of files would take as long as to make them.
    """
    speaker_id = f"SV{number:04d}"
    folder = studio.folder / speaker_id
    folder.mkdir(parents=True)
    voice = draw_voice(rng_for(studio.seed, number, 0, VOICE))
    utterances = []
    for take in range(1, studio.takes + 1):
        rng = rng_for(studio.seed, number, take, TAKE)
        speed = str(rng.choice(list(SPEEDS)))
        occasion = draw_occasion(voice, rng, speed=SPEEDS[speed])
        said_T = synthesise(occasion, draw_sentence(rng, rng.uniform(*studio.seconds)), rng)
        recordings = _record_far(studio, said_T, rng_for(studio.seed, number, take, FAR))
        rng = rng_for(studio.seed, number, take, CLOSE)  # a good microphone near the mouth: a little noise
        coloured_T = _colour(said_T, rng, low_hz=60.0, deviation_db=1.0)
        noise_T = rng.standard_normal(len(said_T)).astype(np.float32)
        close_T = set_level(add_noise(coloured_T, noise_T, rng.uniform(35, 45)), rng.normal(-24, 2.5))
        recordings = {(7, 1): close_T} | recordings
        for (point, microphone), wav_T in recordings.items():
            utt_id = f"{speaker_id}_{point}_{microphone:02d}_{speed}{take:04d}"
            path = folder / f"{utt_id}.wav"
            encoded = io.BytesIO()
            soundfile.write(encoded, wav_T, SAMPLE_RATE, format="WAV", subtype="PCM_16")
            path.write_bytes(encoded.getbuffer())
            utterances.append(Utterance(utt_id, str(path), speaker_id, len(wav_T)))
    return utterances


def _record_far(studio: Studio, said_T: Samples, rng: np.random.Generator) -> dict[tuple[int, int], Samples]:
    """The same take in one room, at the studio's number of arrays and microphones."""
    room = studio.rooms[rng.integers(len(studio.rooms))]
    positions = rng.choice(len(room), size=studio.far_points, replace=False)
    recordings = {}
    for position in (room[i] for i in sorted(positions)):
        noise_T = studio.noises[rng.integers(len(studio.noises))]
        start = rng.integers(len(noise_T))
        noise_T = np.take(noise_T, np.arange(start, start + len(said_T)), mode="wrap")
        snr_db = MEAN_SNR_DB[position.point] + rng.uniform(-6, 6)
        level_db = rng.normal(-32, 2.5)
        chosen = rng.choice(len(studio.microphones), size=studio.far_microphones, replace=False)
        for i in sorted(chosen):
            heard_T = convolve_rir(said_T, position.rirs_CT[i], aligned=False)
            around_T = convolve_rir(noise_T, position.noise_rirs_CT[i], aligned=False)
            both = _colour(np.stack([heard_T, around_T]), rng, low_hz=120.0, deviation_db=1.5)
            mixed_T = add_noise(both[0], both[1], snr_db)
            recordings[position.point, studio.microphones[i]] = set_level(mixed_T, level_db)
    return recordings


def _colour(wav: Samples, rng: np.random.Generator, *, low_hz: float, deviation_db: float) -> Samples:
    """A microphone's response (high-pass at ``low_hz``, smooth random deviation) on the last axis."""
    num_samples = wav.shape[-1]
    num_fft = fft.next_fast_len(num_samples, real=True)
    hz = np.maximum(np.fft.rfftfreq(num_fft, 1 / SAMPLE_RATE), 1.0)
    knots = np.log([50, 200, 500, 1000, 2000, 4000, 8000])
    gain_db = np.interp(np.log(hz), knots, rng.normal(0, deviation_db, len(knots)))
    response = (10 ** (gain_db / 20) / np.sqrt(1 + (low_hz / hz) ** 4)).astype(np.float32)
    return np.asarray(fft.irfft(fft.rfft(wav, num_fft) * response, num_fft)[..., :num_samples])


def draw_noise(kind: str, seconds: float, rng: np.random.Generator) -> Samples:
    """Noise of one kind of `NOISES`, wav_T at 16 kHz, root mean square 0.1.

    Coloured noise falls by 0 to 9 dB per octave (3 dB: pink); hum has harmonics of the mains over coloured
    noise; a machine has a few resonances, and its level swings with the rotation; babble is four to seven
    synthetic speakers at once, each repeating themselves.
    """
    num_samples = int(seconds * SAMPLE_RATE)
    time_T = np.arange(num_samples) / SAMPLE_RATE
    if kind == "coloured":
        wav_T = _coloured(num_samples, rng.uniform(0, 9), rng)
    elif kind == "hum":
        mains = rng.choice([50.0, 60.0])
        wav_T = 0.3 * _unit(_coloured(num_samples, rng.uniform(0, 9), rng))
        for harmonic in range(1, 13):
            amplitude = np.exp(rng.normal(-0.25 * harmonic, 0.7))
            wav_T += amplitude * np.sin(2 * np.pi * (mains * harmonic * time_T + rng.random()))
    elif kind == "machine":
        spectrum = np.fft.rfft(_coloured(num_samples, rng.uniform(1, 6), rng))
        hz = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE)
        for centre in np.exp(rng.uniform(np.log(120), np.log(5000), 4)):
            spectrum *= 1 + rng.uniform(1, 6) * np.exp(-0.5 * ((hz - centre) / (0.08 * centre)) ** 2)
        swing = rng.uniform(0, 0.5) * np.sin(
            2 * np.pi * rng.uniform(2, 15) * np.arange(num_samples) / SAMPLE_RATE
        )
        wav_T = np.fft.irfft(spectrum, num_samples) * (1 + swing)
    else:
        wav_T = np.zeros(num_samples)
        for _ in range(rng.integers(4, 8)):
            phones = draw_sentence(rng, 0.6 * num_samples / SAMPLE_RATE)
            spoken_T = synthesise(draw_voice(rng), phones, rng)
            wav_T += _unit(np.resize(spoken_T, num_samples)) * rng.uniform(0.5, 1.0)
    return np.asarray(0.1 * _unit(wav_T), dtype=np.float32)


def _coloured(num_samples: int, fall_db: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise whose level falls by ``fall_db`` per octave."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    octave = np.log2(np.maximum(np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE), 60) / 60)
    return np.fft.irfft(spectrum * 10 ** (-fall_db * octave / 20), num_samples)


def _unit(wav_T: NDArray[np.floating]) -> NDArray[np.float64]:
    """The signal with power 1."""
    return np.asarray(wav_T / np.sqrt(np.mean(np.square(wav_T, dtype=np.float64))), dtype=np.float64)
