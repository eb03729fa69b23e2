"""Noise from the pauses of recordings: the background that the test side of a trial list has.

Shape suffixes: T sample, F frame.
"""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
import polars as pl
from scipy.ndimage import binary_erosion

from farvox.atomic import file_name
from farvox.audio.files import read_audio, write_audio
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
from farvox.errors import DataDirError
from farvox.farfield import NoisesOptions
from farvox.farfield.mixing import FLOOR, LOUD, QUIET, Array, energy_snr, frame_powers, is_silent, set_level
from farvox.farfield.simulate import LEVEL_DB
from farvox.jobs import Job, begin, digest
from farvox.progress import Note, silent
from farvox.writers import writes

SAMPLE_RATE = 16000
BATCH = 64  # recordings that a run which goes on looks at again at most, for each process
ABOVE_DB = 6.0
"""A frame of background is at most so much above the quiet ones."""
LEAST_RANGE_DB = 6.0
"""Between the loud and the quiet frames: with less, pauses and speech cannot be distinguished."""
LEAST_FRAMES = 5
"""Of a stretch of background: shorter ones are the closures of stops."""
FADE_SECONDS = 0.01


@writes("out")
def make_noises(
    source: str | Path, out: str | Path, options: NoisesOptions = NoisesOptions(), *, note: Note = silent
) -> DataDir:
    """Make a data dir of the `background` of each recording of another one.

    Utterances keep their names and have no speaker; their `utt2cond` has ``snr``, the speech-to-noise ratio
    of the recording by `energy_snr`, dB; ``note`` is also called with its quartiles. All have one level. A
    run that was interrupted goes on in ``out``.

    Raises:
        AudioError: a file cannot be read.
        DataDirError: the data dir cannot be read, or none of its recordings has enough background.
        JobError: the folder was begun with other settings, or a process was killed.
    """
    out = Path(out).absolute()
    data_dir = DataDir.open(source, remote=options.remote)
    refuse_among_recordings(out, data_dir)
    note_changes(data_dir, note)
    utterances = list(data_dir.utterances())
    lines = digest(f"{utterance.utt_id} {utterance.wav_path}" for utterance in utterances)
    settings = {"kind": "backgrounds", "source": lines, "least": options.least, "suffix": options.format}
    begin(out / SETTINGS, settings)
    job = Job(what="recordings looked through", note=note, jobs=options.jobs, kept=out)
    table = run_batches(
        job,
        partial(_cut, out / AUDIO, options),
        utterances,
        out,
        size=BATCH,
        inputs=_files_of,
        name=attrgetter("utt_id"),
        skip_bad=options.skip_bad,
    )
    kept = table.filter(pl.col("file") != "")
    if kept.is_empty():
        raise DataDirError(
            f"{source}: no recording has {options.least:g} s without speech; lower --least with"
            " another OUT, or take longer recordings"
        )
    made = write_output(out, kept)
    low, middle, high = np.percentile(kept["snr"].cast(pl.Float64).to_numpy(), [25, 50, 75])
    note(f"{made.path}: background of {len(made):,} of {len(utterances):,} recordings")
    note(f"speech over noise: half of them between {low:.0f} and {high:.0f} dB, median {middle:.0f} dB")
    return made


def background(wav_T: Array, sample_rate: int) -> Array:
    """The quiet stretches of a recording, one after the other.

    A frame of 20 ms is quiet when its level is at most `ABOVE_DB` above that of the quiet frames (their 10th
    percentile), and nearer to it than to that of the loud ones (the 95th). Stretches lose a frame at both
    ends, which may hold the edge of a word, and need `LEAST_FRAMES` then. They are joined by fades of 10 ms
    that keep the power.

    Returns:
        The background; empty where nothing is quiet for long enough, where the recording has no pauses, or
        where they are digital silence.
    """
    nothing = np.zeros(0, np.float32)
    power_F, size = frame_powers(wav_T, sample_rate)
    if len(power_F) < 2:
        return nothing
    level_F = 10 * np.log10(power_F)
    loud, quiet = np.percentile(level_F, [LOUD, QUIET])
    if loud - quiet < LEAST_RANGE_DB:
        return nothing
    is_quiet_F = (level_F <= min(quiet + ABOVE_DB, (quiet + loud) / 2)) & (power_F > FLOOR)
    is_quiet_F = binary_erosion(is_quiet_F, np.ones(3), border_value=1)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_quiet_F, [False]))))
    stretches = [
        wav_T[first * size : last * size]
        for first, last in edges.reshape(-1, 2)
        if last - first >= LEAST_FRAMES
    ]
    if not stretches:
        return nothing
    fade = round(FADE_SECONDS * sample_rate)  # each stretch is longer than two fades
    falling_T = np.cos(0.5 * np.pi * (np.arange(fade) + 0.5) / fade).astype(np.float32)
    parts = [stretches[0]]
    for stretch_T in stretches[1:]:
        before_T = parts.pop()
        overlap_T = before_T[-fade:] * falling_T + stretch_T[:fade] * falling_T[::-1]
        parts += [before_T[:-fade], overlap_T, stretch_T[fade:]]
    return np.concatenate(parts).astype(np.float32)


def _files_of(utterance: Utterance) -> list[str]:
    return [utterance.wav_path]


def _cut(folder: Path, options: NoisesOptions, utterance: Utterance) -> list[Row]:
    """Write the background of a recording; one without enough of it has no ``file``."""
    wav_T = read_audio(utterance.wav_path)
    noise_T, file = background(wav_T, SAMPLE_RATE), ""
    if len(noise_T) >= options.least * SAMPLE_RATE and not is_silent(noise_T):
        file = (
            f"{file_name(utterance.speaker_id or 'unknown')}/{file_name(utterance.utt_id)}.{options.format}"
        )
        write_audio(folder / file, set_level(noise_T, LEVEL_DB))
    return [
        {
            "utt_id": utterance.utt_id, "file": file, "speaker": "", "num_samples": str(len(noise_T)),
            "snr": text_of(energy_snr(wav_T, SAMPLE_RATE), 2),
        }
    ]  # fmt: skip
