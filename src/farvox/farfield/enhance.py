"""The channels of every take as one enhanced utterance: beamformed, dereverberated, or both.

Shape suffixes: C channel, T sample.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.audio.files import audio_info, read_audio, read_channels, write_audio
from farvox.datadir.conditions import CONDITIONS, conditions_text, read_conditions
from farvox.datadir.derive import FurtherFile, keys_of, names_of_further_files
from farvox.datadir.kaldi import DataDir, write_data_dir
from farvox.errors import AudioError, UsageError
from farvox.farfield.takes import Takes
from farvox.jobs import Job, begin, cut, processes_of_one_thread
from farvox.progress import Note

SAMPLE_RATE = 16000
SETTINGS = "enhance.json"
BATCH = 4  # takes handed to a process at a time
MIXED = "mixed"  # what utt2cond says of a take whose channels differ in a column
Beamformer = Literal["none", "delay-and-sum", "mvdr"]
Waves = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Enhancement:
    """What is done to a take: WPE first, if asked for, then the beamformer.

    Attributes:
        beamform: ``none`` leaves the channels as they are.
        wpe: whether late reverberation is removed.
        taps: frames of 8 ms that WPE looks back over.
        max_delay_ms: greatest delay between two channels that the beamformer looks for.
        tolerance: seconds that the channels of a take may differ in length; the shortest counts.
    """

    beamform: Beamformer = "mvdr"
    wpe: bool = False
    taps: int = 10
    max_delay_ms: float = 3.0
    tolerance: float = 0.1


@dataclass(frozen=True, slots=True)
class _Take:
    """One take: where its channels are, and where what is made of them goes (one file, or one a channel)."""

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]


def enhance(
    data_dir: DataDir,
    out: str | Path,
    takes: Takes,
    how: Enhancement,
    *,
    note: Note,
    jobs: int | None = None,
    suffix: str = "flac",
) -> DataDir:
    """Write a data dir of enhanced takes, with its audio below OUT/audio.

    With a beamformer a take becomes one utterance that bears its name (see `Takes`); with WPE alone its
    channels remain, under their names. Utterances that are of no take stay as they are, at their old place.
    Speakers, and further ``utt2*`` and ``spk2*`` files, are carried over; of ``utt2cond`` a column in
    which the channels of a take differ says ``mixed``. An interrupted run goes on where it stopped: an
    audio file is written whole or not at all, and OUT/enhance.json says of what and how, so that nothing
    else is mixed in. Whatever the number of processes, the same samples are written: each computes on one
    thread.

    Args:
        data_dir: the channels.
        out: the data dir to write.
        takes: which channels are of one take.
        how: what is done.
        note: is told what happens.
        jobs: processes; as many as there are processors by default.
        suffix: ``flac`` or ``wav``.

    Raises:
        AudioError: a take cannot be read or enhanced, or its channels differ in length by too much.
        FarvoxError: ``out`` is the data dir itself or holds other things.
        JobError: ``out`` was begun with other audio or another ``how``, or a process was killed.
        UsageError: ``how`` would change nothing.
    """
    if how.beamform == "none" and not how.wpe:
        raise UsageError("nothing to do: choose a --beamform, or --wpe, or both")
    if how.beamform not in get_args(Beamformer):
        raise UsageError(f"--beamform {how.beamform}: choose one of {', '.join(get_args(Beamformer))}")
    out = Path(os.path.abspath(out))
    channels = hashlib.sha256()
    for row in takes.table.select("take", "utt_id", "wav_path").iter_rows():
        channels.update(json.dumps(row).encode())
    begin(out / SETTINGS, {**asdict(how), "takes": len(takes), "channels": channels.hexdigest()})
    results = takes.table
    if how.beamform != "none":
        results = results.unique("take", keep="first", maintain_order=True)
    audio = str(out / "audio")
    targets = [
        os.path.join(
            audio, *([quote(speaker_id, safe="")] if speaker_id else []), f"{quote(utt_id, safe='')}.{suffix}"
        )
        for utt_id, speaker_id in results.select("utt_id", "speaker_id").iter_rows()
    ]
    results = results.with_columns(target=pl.Series(targets, dtype=pl.String))
    job = Job(what="takes enhanced", note=note, jobs=jobs, executor=processes_of_one_thread, kept=out)
    batches = cut(_jobs(takes.table, results), BATCH)
    lengths = [length for done in job.run(partial(_enhance_batch, how), batches) for length in done]
    made = results.with_columns(wav_path="target", num_samples=pl.Series(lengths, dtype=pl.Int64))
    table = pl.concat([made.select(takes.single.columns), takes.single])
    if table["num_samples"].null_count():  # of what stays where it is
        note("some utterances that are of no take have no length in utt2num_samples, so there will be none")
    return write_data_dir(out, table, files=_carried(data_dir, takes, table, mixed=how.beamform != "none"))


def enhance_take(wav_CT: NDArray[np.floating], how: Enhancement) -> Waves:
    """What is done to one take: WPE, then the beamformer, then less volume if a sample would be clipped.

    Args:
        wav_CT: its channels, 16 kHz. A single one is not beamformed.
        how: what is done.

    Returns:
        wav_CT, with one channel if there is a beamformer.

    Raises:
        AudioError: the channels are silent.
    """
    from farvox.farfield.beamform import delay_and_sum, estimate_delays, mvdr
    from farvox.farfield.dereverb import dereverberate

    enhanced_CT = np.asarray(wav_CT, np.float64)
    if how.wpe:
        enhanced_CT = dereverberate(enhanced_CT, taps=how.taps)
    if how.beamform != "none" and len(enhanced_CT) > 1:
        delays = estimate_delays(enhanced_CT, max_delay=how.max_delay_ms * 1e-3 * SAMPLE_RATE)
        beamform = mvdr if how.beamform == "mvdr" else delay_and_sum
        enhanced_CT = beamform(enhanced_CT, delays)[None]
    peak = float(np.abs(enhanced_CT).max())
    return enhanced_CT * (0.99 / peak) if peak > 1 else enhanced_CT


def _jobs(channels: pl.DataFrame, results: pl.DataFrame) -> list[_Take]:
    sources = channels.group_by("take", maintain_order=True).agg("wav_path")
    targets = results.group_by("take", maintain_order=True).agg("target")
    return [
        _Take(name, tuple(paths), tuple(to))
        for name, paths, to in sources.join(targets, on="take", maintain_order="left").iter_rows()
    ]


def _enhance_batch(how: Enhancement, batch: Sequence[_Take]) -> list[int]:
    return [num_samples for take in batch for num_samples in _enhance_one(take, how)]


def _enhance_one(take: _Take, how: Enhancement) -> list[int]:
    lengths = [_length_of_output(target) for target in take.targets]
    if all(lengths):
        return lengths
    try:
        enhanced_CT = enhance_take(_read(take, how.tolerance), how)
        for target, wav_CT in zip(take.targets, _parts(enhanced_CT, len(take.targets)), strict=True):
            write_audio(target, wav_CT, SAMPLE_RATE)
    except AudioError as error:
        raise AudioError(f"the take '{take.name}': {error}") from None
    return [enhanced_CT.shape[1]] * len(take.targets)


def _read(take: _Take, tolerance: float) -> NDArray[np.float32]:
    """The channels of a take: of one file all that it has, of several the first of each."""
    if len(take.sources) == 1:
        return read_channels(take.sources[0], sample_rate=SAMPLE_RATE)
    waves = [read_audio(path, sample_rate=SAMPLE_RATE) for path in take.sources]
    lengths = [len(wav_T) for wav_T in waves]
    shortest, longest = min(lengths), max(lengths)
    if longest - shortest > tolerance * SAMPLE_RATE:
        short, long = (take.sources[lengths.index(length)] for length in (shortest, longest))
        raise AudioError(
            f"its channels are {shortest / SAMPLE_RATE:.2f} s ({short}) to"
            f" {longest / SAMPLE_RATE:.2f} s ({long}) long; they are not of one"
            " take, or one is damaged (a larger --tolerance cuts all to the shortest)"
        )
    return np.stack([wav_T[:shortest] for wav_T in waves])


def _parts(enhanced_CT: Waves, num_targets: int) -> list[Waves]:
    """What goes into each file: all channels into one, or one into each."""
    return [enhanced_CT] if num_targets == 1 else [wav_T[None] for wav_T in enhanced_CT]


def _length_of_output(target: str) -> int:
    """Samples of what an earlier run wrote; 0 where there is nothing usable."""
    try:
        return audio_info(target).num_samples if os.path.exists(target) else 0
    except AudioError:
        return 0


def _carried(data_dir: DataDir, takes: Takes, table: pl.DataFrame, *, mixed: bool) -> dict[str, str]:
    """The further files of the data dir for the utterances of ``table``, whose ids are all in it."""
    files = {}
    for name in sorted(names_of_further_files(data_dir)):
        file = FurtherFile.read(data_dir, name)
        kept = file.rows.filter(pl.col("key").is_in(keys_of(table, name).implode()))
        files[name] = replace(file, rows=kept).text()
    if (data_dir.path / CONDITIONS).is_file():
        conditions = read_conditions(data_dir.path)
        files[CONDITIONS] = conditions_text(_mixed(conditions, takes) if mixed else conditions)
    return files


def _mixed(conditions: pl.DataFrame, takes: Takes) -> pl.DataFrame:
    """A row a take: what its channels agree in, and ``mixed`` for the rest."""
    of_channels = conditions.join(takes.table.select("take", "utt_id"), on="utt_id", maintain_order="left")
    of_takes = of_channels.group_by("take", maintain_order=True).agg(
        pl.when(pl.col(name).n_unique() > 1).then(pl.lit(MIXED)).otherwise(pl.col(name).first()).alias(name)
        for name in conditions.columns[1:]
    )
    of_others = conditions.filter(pl.col("utt_id").is_in(takes.single["utt_id"].implode()))
    return pl.concat([of_takes.rename({"take": "utt_id"}), of_others])
