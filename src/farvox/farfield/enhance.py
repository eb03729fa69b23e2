"""Enhancement: the channels of every take become one utterance, beamformed, dereverberated, or both.

Dereverberation is weighted prediction error (WPE): the part that late echoes make predictable is removed.

Shape suffixes: C channel, F frame, K frequency bin, P predictor, T sample.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.atomic import file_name
from farvox.audio.files import audio_info, read_audio, read_channels, refuse_channels, write_audio
from farvox.audio.shards import fingerprint
from farvox.datadir.conditions import CONDITIONS, conditions_text, read_conditions
from farvox.datadir.derive import (
    BATCHES,
    FurtherFile,
    keys_of,
    names_of_further_files,
    refuse_among_recordings,
)
from farvox.datadir.kaldi import CHECKED, DataDir, write_data_dir
from farvox.errors import AudioError, MissingExtraError, UnreachableError
from farvox.farfield import Enhancement
from farvox.farfield.beamform import Floats, delay_and_sum, estimate_delays, istft, mvdr, stft
from farvox.farfield.takes import Takes
from farvox.jobs import (
    REJECTED,
    Job,
    Rejected,
    begin,
    cut,
    processes_of_one_thread,
    rejected_of,
    report_rejected,
)
from farvox.progress import Note, silent
from farvox.writers import writes

SAMPLE_RATE = 16000
SETTINGS = "enhance.json"
MIXED = "mixed"  # in utt2cond, for a take whose channels differ in a column
CONTEXT = 2  # frames on either side that the power of a frame is a mean with
TAPS = 10  # frames that a prediction looks back over
PREDICTING = 4  # channels that it is made from, at most
SIZE, HOP = 512, 128  # samples of a frame, and from frame to frame; 32 and 8 ms at 16 kHz


@dataclass(frozen=True, slots=True)
class _Take:
    """One take, with the files of its channels and those to write: one file, or one a channel."""

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]


@writes("out")
def enhance_takes(
    data_dir: DataDir,
    out: str | Path,
    takes: Takes,
    how: Enhancement,
    *,
    format: Literal["flac", "wav"] = "flac",
    skip_bad: bool = False,
    jobs: int | None = None,
    note: Note = silent,
) -> DataDir:
    """Write a data dir of enhanced takes, with its audio below OUT/audio.

    With a beamformer a take becomes one utterance with its name (see `Takes`); with WPE alone its
    channels remain, under their names. Utterances that are of no take stay as they are, at their old place.
    Speakers, and further ``utt2*`` and ``spk2*`` files, are carried over; of ``utt2cond`` a column in
    which the channels of a take differ has ``mixed``. A run that was interrupted goes on where it stopped.
    Whatever the number of processes, the same samples are written: each computes on one thread.

    Takes that cannot be read or enhanced, or whose channels differ in length by too much, are listed in
    ``out/rejected.tsv``, and with ``skip_bad`` left out.

    Raises:
        AudioError: there are such takes, and they are not to be left out; all others are done and kept.
        FarvoxError: ``out`` is the data dir itself or holds other things.
        JobError: ``out`` was begun with other audio or another ``how``, or a process was killed.
    """
    out = Path(os.path.abspath(out))
    refuse_among_recordings(out, data_dir)
    channels = hashlib.sha256()
    for row in takes.table.select("take", "utt_id", "wav_path").iter_rows():
        channels.update(json.dumps(row).encode())
    begin(out / SETTINGS, {
        "beamform": how.beamform, "wpe": how.wpe, "taps": how.taps, "max_delay_ms": how.max_delay,
        "tolerance": how.tolerance, "takes": len(takes), "channels": channels.hexdigest(),
    })  # fmt: skip
    results = takes.table
    if how.beamform != "none":
        results = results.unique("take", keep="first", maintain_order=True)
    targets = []
    for utt_id, speaker_id in results.select("utt_id", "speaker_id").iter_rows():
        folder = out / "audio" / (file_name(speaker_id) if speaker_id else "")
        targets.append(str(folder / f"{file_name(utt_id)}.{format}"))
    results = results.with_columns(target=pl.Series(targets, dtype=pl.String))
    files = takes.table.group_by("take", maintain_order=True).agg("wav_path")
    to_write = results.group_by("take", maintain_order=True).agg("target")
    files = files.join(to_write, on="take", maintain_order="left")
    work = [_Take(name, tuple(paths), tuple(to)) for name, paths, to in files.iter_rows()]
    job = Job(
        what="takes enhanced",
        note=note,
        jobs=jobs,
        executor=processes_of_one_thread,
        kept=out,
        out=out,
        reads=[path for take in work[:1] for path in take.sources],
    )
    tables = job.run_kept(
        partial(_enhance_batch, how),
        cut(work, 1),
        out / BATCHES,
        ".tsv",
        inputs=_fingerprint,
        outputs=_files_of,
    )
    rejected = rejected_of(tables)
    report_rejected(
        out / REJECTED, rejected, len(work), what="enhanced", skip_bad=skip_bad, note=note, unit="take"
    )
    results = results.filter(~pl.col("take").is_in(list(rejected)))
    lengths = pl.Series([int(line) for path in tables for line in path.read_text().split()], dtype=pl.Int64)
    enhanced = results.with_columns(wav_path="target", num_samples=lengths)
    table = pl.concat([enhanced.select(takes.single.columns), takes.single])
    if table["num_samples"].null_count():  # of the utterances that stay where they are
        note("some utterances that are of no take have no length in utt2num_samples, so there will be none")

    carried = {}
    for name in sorted(names_of_further_files(data_dir) - {CHECKED}):
        further = FurtherFile.read(data_dir, name)
        rows = further.rows.filter(pl.col("key").is_in(keys_of(table, name).implode()))
        carried[name] = replace(further, rows=rows).text()
    if (data_dir.path / CONDITIONS).is_file():
        conditions = read_conditions(data_dir.path)
        if how.beamform != "none":
            of_takes = conditions.with_columns(utt_id=takes.new_ids(conditions["utt_id"]))
            conditions = of_takes.group_by("utt_id", maintain_order=True).agg(
                pl.when(pl.col(name).n_unique() > 1)
                .then(pl.lit(MIXED))
                .otherwise(pl.col(name).first())
                .alias(name)
                for name in conditions.columns[1:]
            )
        carried[CONDITIONS] = conditions_text(
            conditions.filter(pl.col("utt_id").is_in(table["utt_id"].implode()))
        )
    return write_data_dir(out, table, files=carried)


def enhance_take(wav_CT: NDArray[np.floating], how: Enhancement) -> Floats:
    """Enhance one take: WPE, then the beamformer, then less volume if a sample would be clipped.

    From channels wav_CT at 16 kHz, of which a single one is not beamformed, to wav_CT.

    Raises:
        AudioError: the channels are silent.
    """
    enhanced_CT = np.asarray(wav_CT, np.float64)
    if how.wpe:
        enhanced_CT = dereverberate(enhanced_CT, taps=how.taps)
    if how.beamform != "none" and len(enhanced_CT) > 1:
        delays = estimate_delays(enhanced_CT, max_delay=how.max_delay * 1e-3 * SAMPLE_RATE)
        beamform = mvdr if how.beamform == "mvdr" else delay_and_sum
        enhanced_CT = beamform(enhanced_CT, delays)[None]
    peak = float(np.abs(enhanced_CT).max())
    return enhanced_CT * (0.99 / peak) if peak > 1 else enhanced_CT


def _fingerprint(takes: Sequence[_Take]) -> str:
    return fingerprint(path for take in takes for path in take.sources)


def _files_of(takes: Sequence[_Take], _: bytes) -> list[str]:
    return [target for take in takes for target in take.targets]


def _enhance_batch(how: Enhancement, takes: Sequence[_Take]) -> tuple[bytes, Rejected]:
    """Write the targets of some takes, unless they are there; the samples of each, a line each."""
    lines, rejected = [], {}
    for take in takes:
        try:
            written = [audio_info(to).num_samples if os.path.exists(to) else 0 for to in take.targets]
        except AudioError:
            written = [0]
        if not all(written):
            try:
                wav_CT = _read(take, how.tolerance)
                if how.beamform == "none" and len(take.targets) == 1:
                    refuse_channels(take.targets[0], len(wav_CT))  # before minutes of work
                enhanced_CT = enhance_take(wav_CT, how)
                # all channels into one file, or one into each
                waves = [enhanced_CT] if len(take.targets) == 1 else [wav_T[None] for wav_T in enhanced_CT]
                for target, wave_CT in zip(take.targets, waves, strict=True):
                    write_audio(target, wave_CT, SAMPLE_RATE)
            except UnreachableError:  # the recording may be as good as any
                raise
            except (AudioError, np.linalg.LinAlgError) as error:
                rejected[take.name] = str(error)
                continue
            written = [enhanced_CT.shape[1]] * len(take.targets)
        lines += [f"{length}\n" for length in written]
    return "".join(lines).encode(), rejected


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
            " take, or one is damaged (a larger --tolerance with another OUT cuts all to the shortest)"
        )
    return np.stack([wav_T[:shortest] for wav_T in waves])


def dereverberate(
    wav_CT: NDArray[np.floating],
    *,
    taps: int = TAPS,
    delay: int = 3,
    iterations: int = 3,
    loading: float = 0.01,
) -> Floats:
    """Remove late reverberation from every channel; the channels stay coherent and as long as they are.

    In every frequency bin each channel is predicted from the channels' frames at least ``delay`` frames ago,
    with the weights that make the rest most likely for a signal of changing power (Nakatani et al. 2010;
    Yoshioka & Nakatani 2012 for several channels), and the prediction is subtracted. Frames and powers are
    nara_wpe's (Drude et al. 2018), the power a mean over five frames. Low frequencies are almost equal in
    microphones a few centimetres apart, so that a few seconds do not fix the weights: without ``loading``
    they are large, cancel one another and add reverberation. For the same reason the channels of a large
    array are predicted from four of them.

    Args:
        taps: frames a prediction looks back over.
        delay: frames of 8 ms that are left alone, because speech itself is predictable that far.
        iterations: of estimating the power and the prediction in turn.
        loading: added to the diagonal of the predictors' covariance, as a share of its mean: more is safer,
            less removes more.

    Raises:
        AudioError: every channel is silent.
        MissingExtraError: nara_wpe is not installed.
    """
    try:
        from nara_wpe.wpe import build_y_tilde, get_power_inverse
    except ImportError:
        raise MissingExtraError("WPE needs nara_wpe: pip install 'farvox[wpe]'") from None
    live_C = np.any(wav_CT, axis=1)
    if not live_C.any():
        raise AudioError("every channel is silent; there is nothing to dereverberate")
    spectra_CFK = stft(wav_CT[live_C], SIZE, HOP)
    observed_KCF = np.ascontiguousarray(spectra_CFK.transpose(2, 0, 1))
    step = -(-observed_KCF.shape[1] // PREDICTING)
    earlier_KPF = build_y_tilde(np.ascontiguousarray(observed_KCF[:, ::step]), taps, delay)
    earlier_KFP = earlier_KPF.conj().transpose(0, 2, 1)
    left_KCF = observed_KCF
    for _ in range(iterations):
        weighed_KPF = earlier_KPF * get_power_inverse(left_KCF, psd_context=CONTEXT)[:, None]
        covariance_KPP = weighed_KPF @ earlier_KFP
        diagonal_KP = np.einsum("kpp->kp", covariance_KPP)
        diagonal_KP += loading * diagonal_KP.mean(axis=1, keepdims=True) + np.finfo(np.float64).tiny
        weights_KPC = np.linalg.solve(covariance_KPP, weighed_KPF @ observed_KCF.conj().transpose(0, 2, 1))
        left_KCF = observed_KCF - weights_KPC.conj().transpose(0, 2, 1) @ earlier_KPF
    result_CT = np.zeros(wav_CT.shape)
    result_CT[live_C] = istft(left_KCF.transpose(1, 2, 0), wav_CT.shape[1], SIZE, HOP)
    return result_CT
