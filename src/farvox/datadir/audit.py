"""The check of the audio of a data dir: each recording is decoded once, and what it holds is kept.

The results are the file `utt2audio` of the data dir, a line for each utterance (`COLUMNS`), which `combine`
and `subset` carry along. A line is true of the audio as it was: its ``state`` is a digest of the audio path
and of size and time of change of its file. What has a line of its present state is not decoded again. Lines
are kept as soon as they are made, in a hidden file beside it, so that a check that is killed goes on.

Shape suffixes: T sample, C channel.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import polars as pl

from farvox.atomic import sha256_of, write_text
from farvox.audio.files import Wave, checked_samples, open_audio, resample
from farvox.audio.headers import spare_bytes
from farvox.audio.levels import is_narrow, refuse_silence
from farvox.audio.remote import is_remote, read_whole, without_scheme
from farvox.audio.shards import PackedFile, ShardTable, fingerprint, table_of
from farvox.audio.stretches import ArkEntry, Stretch, recording_of
from farvox.datadir import AudioCheckOptions
from farvox.datadir.kaldi import CHECKED, DataDir, read_table
from farvox.errors import AudioError, DataDirError, UnreachableError
from farvox.jobs import (
    REJECTED,
    Job,
    Rejected,
    digest,
    list_rejected,
    processes,
    report_rejected,
    threads,
)
from farvox.progress import Note, silent
from farvox.sharding import current_shard
from farvox.writers import one_writer

LEAST_SECONDS = 0.025  # one frame of features
COLUMNS: dict[str, type[pl.DataType]] = {
    "utt_id": pl.String, "num_samples": pl.Int64, "sample_rate": pl.Int64, "num_channels": pl.Int64,
    "level": pl.Float64, "clipped": pl.Int64, "not_finite": pl.Int64, "zeros": pl.Int64, "narrow": pl.Int64,
    "spare": pl.Int64, "crc32": pl.String, "state": pl.String, "sha256": pl.String, "fault": pl.String,
}  # fmt: skip
_HEADER = "\t".join(COLUMNS)
_RATE = 16000  # Hz, of most models
_BATCH = 64  # recordings
_AT_ONCE = 1024  # files that a thread looks at
_FULL_SCALE = 1 - 2**-15
_MOST = 2.0**31  # times full scale: integers of 32 bits that were taken for floats
_BLOCK = 0.01  # seconds, in which zeros are counted
_TOLERANCE = 0.1  # seconds by which `utt2dur` may differ
_OTHER = "holds other bytes or samples than at an earlier check"
_OF_STATED = r"^utt2(num_samples|dur) says .*"


class Facts(NamedTuple):
    """The content of a recording, as decoding it tells; nothing where it cannot be decoded."""

    num_samples: int = 0  # of a channel, at its own rate
    sample_rate: int = 0  # Hz
    num_channels: int = 0
    level: float = 0.0  # root mean square of the first channel, dB of full scale
    clipped: int = 0  # samples at full scale
    not_finite: int = 0  # samples
    zeros: int = 0  # longest piece of the first channel that is exactly zero, ms
    narrow: int = 0  # 1: nothing of a voice lies above 4 kHz
    spare: int = 0  # bytes of its file after the audio
    crc32: str = ""  # of the samples


def check_recordings(
    folder: Path, rows: pl.DataFrame, options: AudioCheckOptions, note: Note
) -> pl.DataFrame:
    """Decode the recordings of a data dir, but those that its table knows as they are; write the table.

    Those at fault are listed in ``rejected.tsv`` of the data dir as well.

    Args:
        folder: the data dir.
        rows: `utt_id` and `wav_path`.
        options: of the check.
        note: takes lines on the progress.

    Returns:
        ``rows`` with `COLUMNS`, and `replaced`: the samples are not those of an earlier check.

    Raises:
        DataDirError: the table is damaged.
        UnreachableError: a store does not answer; what is done is kept.
    """
    is_remote = rows["wav_path"].str.contains("://", literal=True).any()
    workers = threads if is_remote else processes
    job = Job(
        what="recordings checked",
        note=note,
        jobs=options.jobs,
        executor=workers,
        out=folder,
        reads=[str(folder / "wav.scp"), *rows["wav_path"][:1]],
    )
    shard = current_shard(folder)
    with ExitStack() as stack:
        unfinished = folder / f".{CHECKED}{f'.{shard.name}' if shard and shard.number else ''}"
        if is_kept := os.access(folder, os.W_OK):
            stack.enter_context(one_writer(folder))
        else:
            if shard:
                raise DataDirError(f"{folder}: cannot be written, so shards of its check cannot be kept")
            note(f"note: {folder} cannot be written, so the results of this check are not kept")
            unfinished = Path(stack.enter_context(TemporaryDirectory()), CHECKED)
        kept = sorted(unfinished.parent.glob(f"{unfinished.name}*"))  # also those of shards
        for each in kept:  # a last line that was torn goes
            os.truncate(each, each.read_bytes().rfind(b"\n") + 1)
        before = read_checked(folder)
        with_header = [each.name for each in kept if each.stat().st_size]
        begun = pl.concat([before.clear(), *(read_checked(unfinished.parent, name) for name in with_header)])
        lines = digest(map(" ".join, rows.select("utt_id", "wav_path").iter_rows()))
        blocks = [rows.slice(start, _BATCH) for start in range(0, len(rows), _BATCH)]
        own = job.own(blocks, {"digests": options.digests, "utterances": lines})
        rows = pl.concat([rows.clear(), *own])
        found = rows.with_columns(now=_states(rows["wav_path"], note))
        known = pl.concat([before, begun]).unique("utt_id", keep="last")
        found = found.join(known, on="utt_id", how="left", maintain_order="left")
        is_joined = pl.col("utt_id").is_in(begun["utt_id"].implode()) if shard else pl.lit(value=False)
        is_done = (pl.col("fault") == "") | is_joined  # others may be mended
        is_done &= pl.col("state").eq_missing(pl.col("now"))
        if options.digests:
            is_done &= pl.col("utt_id").is_in(begun.filter(pl.col("sha256") != "")["utt_id"].implode())
        todo = found.filter(~is_done)
        _checksums.cache_clear()
        parts = [todo.slice(start, _BATCH) for start in range(0, len(todo), _BATCH)]
        with unfinished.open("ab") as file:
            if not file.tell():
                file.write(f"{_HEADER}\n".encode())
            for lines in job.run(partial(_lines_of, options.digests), parts, done=len(found) - len(todo)):
                file.write(lines.encode(errors="backslashreplace"))
                file.flush()
        job.end()
        known = pl.concat([before, begun, read_checked(unfinished.parent, unfinished.name)])
        known = known.unique("utt_id", keep="last")
        table = rows.select("utt_id").join(known, on="utt_id", maintain_order="left")
        fault, length = table["fault"].str.replace(_OF_STATED, ""), table["num_samples"]
        for name, has, tolerance, unit in (
            ("utt2num_samples", length, 0.0, "samples"),
            ("utt2dur", length / table["sample_rate"], _TOLERANCE, "s"),
        ):
            with suppress(DataDirError):  # which the check of the files names
                stated = read_table(folder / name, ("utt_id", "says")).unique("utt_id", keep="first")
                stated = table.select("utt_id").join(stated, on="utt_id", how="left", maintain_order="left")
                differs = (stated["says"].cast(pl.Float64, strict=False) - has).abs() > tolerance
                what = f"{name} says {{}}, and the audio has {{}} {unit}; correct it, or copy the audio again"
                is_wrong = (differs & (fault == "") & (length > 0)).fill_null(value=False)
                what_of = pl.format(what, stated["says"], has.round(2))
                fault = pl.select(pl.when(is_wrong).then(what_of).otherwise(fault)).to_series()
        table = table.with_columns(fault=fault).select(list(COLUMNS))
        if is_kept:
            if not table.equals(before):
                write_text(folder / CHECKED, table.write_csv(separator="\t", quote_style="never"))
            for each in {unfinished, *kept}:
                each.unlink()
            faults = dict(table.filter(pl.col("fault") != "").select("utt_id", "fault").iter_rows())
            list_rejected(folder / REJECTED, faults, among=table["utt_id"])
    earlier = before.filter(pl.col("crc32") != "").select("utt_id", earlier="crc32")
    found = rows.join(table, on="utt_id", maintain_order="left")
    found = found.join(earlier, on="utt_id", how="left", maintain_order="left")
    return found.with_columns(replaced=(pl.col("crc32") != pl.col("earlier")).fill_null(value=False))


def admit_audio(dirs: Sequence[Path], max_rejects: float, listing: Path, note: Note) -> None:
    """Refuse data dirs whose audio has changed since it was checked, or was found at fault too often.

    A file of which only the time has changed is the same if the check knows its SHA-256.

    Args:
        dirs: those without a check are noted.
        max_rejects: share of the utterances that may be at fault, and be left out.
        listing: the file that lists these.
        note: takes lines for people.

    Raises:
        AudioError: too many are at fault.
        DataDirError: the audio of an utterance has changed, or was not checked when others were; names the
            first.
    """
    unchecked, total = [], 0
    rejected: Rejected = {}
    for folder in dirs:
        if not Path(folder, CHECKED).is_file():
            unchecked.append(str(folder))
            continue
        checked = read_checked(folder).select("utt_id", "state", "sha256", "fault")
        rows = DataDir.open(folder).table.select("utt_id", "wav_path")
        rows = rows.join(checked, on="utt_id", how="left", maintain_order="left")
        total += len(rows)
        rejected |= dict(rows.filter(pl.col("fault") != "").select("utt_id", "fault").iter_rows())
        changed = rows.filter(pl.col("state").ne_missing(_states(rows["wav_path"], note)))
        others = [
            (utt_id, path)
            for utt_id, path, sha256 in changed.select("utt_id", "wav_path", "sha256").iter_rows()
            if not sha256 or _sha256(path) != sha256
        ]
        if others:
            raise DataDirError(
                f"{folder}: the audio of {len(others):,} of {len(rows):,} utterances has changed since it was"
                f" checked, or was not checked; the first is '{others[0][0]}' ({others[0][1]}). 'farvox check"
                f" {folder} --audio' looks at these again"
            )
    if unchecked:
        note(f"note: audio that was not checked: {', '.join(unchecked)} (by 'farvox check DIR --audio')")
    report_rejected(
        listing, rejected, total, what="trained on", skip_bad=True, max_rejects=max_rejects, note=note
    )


def note_changes(data_dir: DataDir, note: Note) -> None:
    """Note how many recordings of a data dir have changed since its audio was checked, by size and time.

    Those on other machines are not looked at, nor those that were not checked.
    """
    if not Path(data_dir.path, CHECKED).is_file():
        return
    try:
        checked = read_checked(data_dir.path).select("utt_id", "state")
    except DataDirError as error:
        note(f"note: {error}")
        return
    rows = data_dir.table.filter(~pl.col("wav_path").str.contains("://", literal=True))
    rows = rows.join(checked, on="utt_id", how="inner", maintain_order="left")
    changed = rows.filter(pl.col("state") != _states(rows["wav_path"], silent))
    if len(changed):
        note(
            f"note: {data_dir.path}: the audio of {len(changed):,} of {len(rows):,} utterances has changed"
            f" since it was checked; the first is '{changed['utt_id'][0]}' ({changed['wav_path'][0]}). It is"
            f" taken as it is now; check it again with 'farvox check {data_dir.path} --audio'"
        )


def _states(paths: pl.Series, note: Note) -> pl.Series:
    """Sixteen digits for each audio path, which differ when the path or its file has changed."""
    job = Job(what="audio files looked at", note=note, executor=threads)
    parts = [paths.slice(start, _AT_ONCE) for start in range(0, len(paths), _AT_ONCE)]
    of_shard = lru_cache(lambda shard: fingerprint([shard, table_of(shard)]))

    def state(path: str) -> str:
        packed = PackedFile.parse(recording_of(path))
        return digest([path, fingerprint([path]), of_shard(packed.shard) if packed else ""])[:16]

    found = job.run(lambda part: list(map(state, part)), parts)
    return pl.Series([each for part in found for each in part], dtype=pl.String)


def _lines_of(digests: bool, batch: pl.DataFrame) -> str:
    """The lines of some utterances; ``batch`` has their present state as ``now``, and the lines of before."""
    lines = []
    stretches = ((Stretch.parse(row["wav_path"]), row) for row in batch.iter_rows(named=True))
    for name, group in groupby(stretches, lambda pair: pair[0].recording if pair[0] else pair[1]["wav_path"]):
        with ExitStack() as stack:
            file, spare, sha256_now = None, 0, None
            for stretch, row in group:
                path, known = row["wav_path"], Facts(*(row[column] for column in Facts._fields))
                facts, fault, earlier, is_changed = known, "", row["sha256"] or "", row["state"] != row["now"]
                is_strict = digests or _OTHER in (row["fault"] or "")  # which stays until it is as it was
                if sha256_now is None and (is_strict or (earlier and is_changed)):
                    sha256_now = _sha256(name)
                sha256 = sha256_now or ""
                is_other = earlier and sha256 and sha256 != earlier
                try:
                    if not is_other and (sha256 != earlier or is_changed or row["fault"] or not sha256):
                        facts = Facts()
                        if file is None:
                            if (packed := PackedFile.parse(recording_of(name))) is not None:
                                if (checksum := _checksums(packed.shard).get(packed.member.start)) is None:
                                    table = table_of(packed.shard)
                                    raise AudioError(f"no checksum of it in {table}; copy that file again")
                                if zlib.crc32(packed.content()) != checksum:
                                    raise AudioError(
                                        f"{packed}: differs from its checksum; the shard is damaged: copy it "
                                        "again"
                                    )
                            elif os.path.isfile(name):
                                spare = spare_bytes(name)
                            file = stack.enter_context(open_audio(name))
                        begin, end, channels = 0, file.info.num_samples, slice(None)
                        if stretch:
                            begin, end = stretch.samples(file.info, path)
                            channels = stretch.channels(file.info.num_channels, path)
                        frames_TC = file.frames_of(begin, end - begin)[:, channels]
                        facts, wav_T = _measure(frames_TC, file.info.sample_rate, spare)
                        is_other = is_strict and not earlier and known.crc32 not in (None, "", facts.crc32)
                        checked_samples(path, wav_T)
                        if len(wav_T) < LEAST_SECONDS * _RATE:
                            short = f"{len(wav_T)} samples, too few for any model ({LEAST_SECONDS:g} s)"
                            raise AudioError(f"{path}: {short}")
                        if (peak := float(np.abs(wav_T).max())) > _MOST:
                            raise AudioError(
                                f"{path}: samples up to {peak:.2g} times full scale are no sound; copy it "
                                "again, or make it anew"
                            )
                        refuse_silence(wav_T, _RATE, path)
                except UnreachableError:  # the recording may be as good as any
                    raise
                except AudioError as error:
                    fault = " ".join(str(error).split())
                if is_other:
                    facts, sha256 = known, earlier
                    fault = (
                        f"{path}: {_OTHER}: copy it again; if it was replaced on purpose, remove {CHECKED}, "
                        "and check again"
                    )
                lines.append("\t".join(map(str, (row["utt_id"], *facts, row["now"], sha256, fault))))
    return "".join(f"{line}\n" for line in lines)


def _measure(frames_TC: Wave, rate: int, spare: int) -> tuple[Facts, Wave]:
    """The facts of a recording, and its first channel at 16 kHz."""
    is_finite = np.isfinite(frames_TC)
    not_finite = is_finite.size - int(np.count_nonzero(is_finite))
    own_T = np.where(is_finite[:, 0], frames_TC[:, 0], 0) if not_finite else frames_TC[:, 0]
    power = float(np.einsum("t,t->", own_T, own_T, dtype=np.float64)) / max(1, len(own_T))
    block = max(1, round(_BLOCK * rate))
    is_zero = ~own_T[: len(own_T) // block * block].reshape(-1, block).any(axis=1)
    edges = np.flatnonzero(np.diff(is_zero, prepend=False, append=False))
    wav_T = resample(frames_TC[:, 0], rate, _RATE)
    facts = Facts(
        num_samples=frames_TC.shape[0],
        sample_rate=rate,
        num_channels=frames_TC.shape[1],
        level=round(10 * float(np.log10(max(power, 1e-20))), 1),
        clipped=int(np.count_nonzero(np.abs(frames_TC) >= _FULL_SCALE)),
        not_finite=not_finite,
        zeros=round(1000 * _BLOCK * max(edges[1::2] - edges[::2], default=0)),
        narrow=int(len(wav_T) > 0 and not not_finite and is_narrow(wav_T, _RATE, rate)),
        spare=spare,
        crc32=f"{zlib.crc32(np.ascontiguousarray(frames_TC, '<f4').data):08x}",
    )
    return facts, wav_T


@lru_cache(maxsize=64)
def _checksums(shard: str) -> dict[int, int]:
    table = ShardTable.read(shard)
    return {} if table is None else {entry.member.start: entry.crc32 for entry in table.entries}


def _sha256(path: str) -> str:
    """SHA-256 of the file of an audio path, or of its entry in a shard or ark; empty: it cannot be read."""
    path = recording_of(path)
    with suppress(OSError, AudioError):
        if packed := PackedFile.parse(path):
            return hashlib.sha256(packed.content()).hexdigest()
        if entry := ArkEntry.parse(path):
            return hashlib.sha256(entry.read(*entry.extent())).hexdigest()
        if is_remote(path):
            return hashlib.sha256(read_whole(path)).hexdigest()
        return sha256_of(without_scheme(path))
    return ""


def read_checked(folder: str | Path, name: str = CHECKED) -> pl.DataFrame:
    """The table of the last check of a data dir (`COLUMNS`); without a line where there was none.

    Raises:
        DataDirError: it is damaged.
    """
    path = Path(folder, name)
    try:
        content = path.read_bytes()
        if content.partition(b"\n")[0].decode() != _HEADER:
            raise ValueError("its first line does not name the columns")
        table = pl.read_csv(io.BytesIO(content), separator="\t", quote_char=None, schema=COLUMNS)
        return table.with_columns(pl.col(pl.String).fill_null(""))
    except FileNotFoundError:
        return pl.DataFrame(schema=COLUMNS)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataDirError(
            f"{path}: damaged, or of another farvox ({error}): remove it, and 'farvox check --audio' makes it"
            " anew"
        ) from None
