"""Noise from the pauses of recordings: what the test side of a trial list is heard against."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from farvox.audio.files import read_audio, write_audio
from farvox.datadir.kaldi import DataDir, Utterance
from farvox.errors import AudioError, CorpusError, DataDirError
from farvox.farfield.background import background
from farvox.farfield.mixing import is_silent, set_level
from farvox.farfield.quality import energy_snr
from farvox.farfield.simulate import LEVEL_DB
from farvox.farfield.simulate_work import AUDIO, SETTINGS, Row, finish, in_batches, shown
from farvox.jobs import begin, digest
from farvox.progress import Note

SAMPLE_RATE = 16000
BATCH = 64  # recordings between two marks of an interrupted run


def cut_backgrounds(
    source: str | Path, out: str | Path, *, note: Note, least: float = 0.5, suffix: str = "flac",
    jobs: int | None = None,
) -> tuple[DataDir, tuple[float, float, float], int]:  # fmt: skip
    """Make a data dir of the backgrounds of recordings, by `farvox.farfield.background`.

    Utterances keep their names and have no speaker; their `utt2cond` has ``snr``, the speech-to-noise ratio
    of the recording by `farvox.farfield.quality`, dB. All are brought to one level.

    Args:
        source: the data dir.
        out: the data dir to write; one that was begun with the same settings is gone on with.
        note: is told what happens.
        least: seconds of background that a recording must have.
        suffix: ``flac`` or ``wav``.
        jobs: processes; as many as there are processors by default.

    Returns:
        The data dir, the quartiles of the speech-to-noise ratios (dB), and how many recordings there were.

    Raises:
        CorpusError: options that make no sense.
        JobError: the folder was begun with others, or a process was killed.
        DataDirError: the data dir cannot be read, or none of its recordings has enough background.
        AudioError: a file cannot be read.
    """
    out = Path(out).absolute()
    if least <= 0 or suffix not in ("flac", "wav"):
        raise CorpusError(
            f"{least:g} s of background at least, .{suffix}: give a time above 0, and flac or wav"
        )
    utterances = list(DataDir.open(source).utterances())
    if not utterances:
        raise DataDirError(f"{source}: has no recordings")
    lines = digest(f"{utterance.utt_id} {utterance.wav_path}" for utterance in utterances)
    begin(out / SETTINGS, {"kind": "backgrounds", "source": lines, "least": least, "suffix": suffix})
    work = partial(_cut, out / AUDIO, least, suffix)
    table = in_batches(out, work, utterances, "recordings heard", note, size=BATCH, jobs=jobs)
    kept = table.filter(pl.col("file") != "")
    if kept.is_empty():
        raise DataDirError(
            f"{source}: no recording has {least:g} s without speech; lower --least, or take longer recordings"
        )
    ratios = kept["snr"].cast(pl.Float64).to_numpy()
    low, middle, high = (float(q) for q in np.percentile(ratios, [25, 50, 75]))
    return finish(out, kept), (low, middle, high), len(utterances)


def _cut(folder: Path, least: float, suffix: str, utterance: Utterance) -> list[Row]:
    """Write the background of a recording; one without enough of it has no ``file``."""
    try:
        wav_T = read_audio(utterance.wav_path)
    except AudioError as error:
        raise AudioError(f"utterance '{utterance.utt_id}': {error}") from None
    noise_T, file = background(wav_T, SAMPLE_RATE), ""
    if len(noise_T) >= least * SAMPLE_RATE and not is_silent(noise_T):
        file = f"{utterance.speaker_id or 'unknown'}/{utterance.utt_id}.{suffix}"
        write_audio(folder / file, set_level(noise_T, LEVEL_DB))
    return [
        {
            "utt_id": utterance.utt_id, "file": file, "speaker": "", "num_samples": str(len(noise_T)),
            "snr": shown(energy_snr(wav_T, SAMPLE_RATE), 2),
        }
    ]  # fmt: skip
