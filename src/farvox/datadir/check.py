"""Validation of a data dir: every fault by file and line, none of the audio read.

Faults are lines out of C order (by bytes), ids given twice, files that disagree about an utterance,
audio files that are not there, and lines that cannot be parsed. Not faults: utterances that share
an audio file, speaker ids that do not begin the utterance id, optional files that are absent,
utterances of which no condition is known, incomplete channel sets, short audio.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from multiprocessing.pool import ThreadPool
from pathlib import Path

import polars as pl

from farvox.audio.files import read_recording
from farvox.audio.remote import is_remote
from farvox.audio.shards import ADDRESS, PackedFile, ShardTable, size_of_file, table_of
from farvox.datadir import kaldi
from farvox.datadir.conditions import CONDITIONS, parse_conditions
from farvox.datadir.kaldi import DataDir, is_utf8, read_lines, split_lines
from farvox.errors import AudioError
from farvox.progress import ProgressLine

_MOST_HINTS = 100  # they are looked for on the disk

# Faults under construction: one row each.
_FAULTS = {"line": pl.Int64, "what": pl.String}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in a data dir; prints as ``FILE:LINE: what``."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def check_data_dir(path: str | Path) -> Iterator[Fault]:
    """Find the faults of a data dir, file by file in the order of their lines.

    A disagreement between `utt2spk` and `spk2utt` is named at its line of `utt2spk`.

    Args:
        path: the data dir.

    Raises:
        DataDirError: there is no data dir.
    """
    folder = Path(path)
    kaldi.wav_scp_of(folder)
    files = {name: _Lines(folder / name) for name in kaldi.CORE_FILES if (folder / name).is_file()}
    rules = {
        "wav.scp": (_no_utterance, _pipes, _missing_audio, _not_in_the_others),
        "utt2spk": (_more_than_two_fields, _not_in_wav_scp, _other_speaker_in_spk2utt),
        "spk2utt": (_utterance_twice_in_spk2utt, _several_speakers, _not_in_utt2spk),
        "utt2num_samples": (_not_a_length, _not_in_wav_scp),
    }
    for name, file in files.items():
        found = [file.malformed, _given_twice(file), _out_of_order(file.table)]
        found += [rule(file, files) for rule in rules[name]]
        for line, what in pl.concat(found).sort("line", maintain_order=True).iter_rows():
            yield Fault(str(file.path), line, what)
    if (folder / CONDITIONS).is_file():
        yield from _faults_of_conditions(folder / CONDITIONS, files["wav.scp"].table["key"])


def _faults_of_conditions(path: Path, utt_ids: pl.Series) -> Iterator[Fault]:
    not_utf8, text = _decoded(path, strip="\r")
    table, misfits = parse_conditions(text)
    table = table.select("line", key="utt_id")
    misfits = misfits.join(not_utf8, on="line", how="anti", maintain_order="left")
    found = [not_utf8, misfits, _out_of_order(table), _absent(table, utt_ids, "wav.scp")]
    for line, what in pl.concat(found).sort("line", maintain_order=True).iter_rows():
        yield Fault(str(path), line, what)


class _Lines:
    """One file of a data dir.

    Attributes:
        table: the lines that could be parsed: `line` (from 1), `key`, `value`.
        malformed: the faults of the others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        not_utf8, text = _decoded(path)
        table = split_lines(text, ("key", "value"))
        table = table.with_columns(line=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
        table = table.join(not_utf8, on="line", how="anti", maintain_order="left")
        empty = pl.col("key") == ""
        self.malformed = pl.concat(
            [
                not_utf8,
                _faults(table.filter(empty), pl.lit("empty line")),
                _faults(
                    table.filter(~empty, pl.col("value").is_null()),
                    pl.format("'{}' has no second field", "key"),
                ),
            ]
        )
        self.table = table.filter(pl.col("value").is_not_null())

    def members(self) -> pl.DataFrame:
        """For spk2utt: one row an utterance, `line`, `speaker_id`, `utt_id`."""
        utt_ids = pl.col("value").str.replace_all("[ \t]+", " ").str.split(" ")
        return self.table.select("line", speaker_id="key", utt_id=utt_ids).explode("utt_id")


_Files = dict[str, _Lines]


def _decoded(path: Path, strip: str = " \t\r") -> tuple[pl.DataFrame, pl.Series]:
    """The faults of lines that are not UTF-8, and the text of all lines (a mark where it is not UTF-8)."""
    raw = path.read_bytes()
    try:
        raw.decode()
        return pl.DataFrame(schema=_FAULTS), read_lines(path, strip=strip)
    except UnicodeDecodeError:
        lines = raw.removesuffix(b"\n").split(b"\n")
        bad = [number for number, line in enumerate(lines, start=1) if not is_utf8(line)]
        faults = pl.DataFrame({"line": bad, "what": ["not UTF-8 text"] * len(bad)}, schema=_FAULTS)
        return faults, pl.Series([line.decode(errors="replace") for line in lines]).str.strip_chars(strip)


def _faults(rows: pl.DataFrame, what: pl.Expr) -> pl.DataFrame:
    return rows.select("line", what=what)


# Rules for any file


def _given_twice(file: _Lines) -> pl.DataFrame:
    repeated = file.table.filter(~pl.col("key").is_first_distinct())
    first = file.table.join(repeated.select("key").unique(), on="key", how="semi").group_by("key").agg(
        first=pl.col("line").min()
    )  # fmt: skip
    return _faults(
        repeated.join(first, on="key"), pl.format("'{}' is there already, in line {}", "key", "first")
    )


def _out_of_order(table: pl.DataFrame) -> pl.DataFrame:
    """One fault a file: the first line that should come earlier, and how many more there are."""
    before = table.with_columns(before=pl.col("key").shift()).filter(pl.col("key") < pl.col("before"))
    what = pl.format("not sorted in C order: '{}' comes after '{}'", "key", "before")
    more = f" (so do {len(before) - 1} more lines)" if len(before) > 1 else ""
    return _faults(before.head(1), what + pl.lit(f"{more}; sort the file with LC_ALL=C sort"))


# Rules for one file


def _no_utterance(wav_scp: _Lines, files: _Files) -> pl.DataFrame:
    empty = wav_scp.table.is_empty() and wav_scp.malformed.is_empty()
    return pl.DataFrame(
        {"line": [1], "what": ["no utterance; the file is empty"]} if empty else [], schema=_FAULTS
    )


def _pipes(wav_scp: _Lines, files: _Files) -> pl.DataFrame:
    pipes = wav_scp.table.filter(pl.col("value").str.ends_with("|"))
    return _faults(pipes, pl.format("the audio of '{}' {}", "key", pl.lit(kaldi.PIPE_HINT)))


def _missing_audio(wav_scp: _Lines, files: _Files) -> pl.DataFrame:
    table = wav_scp.table.filter(~pl.col("value").str.ends_with("|"))
    packed = table["value"].str.contains(".tar:", literal=True)
    plain = table.filter(~packed)
    missing = [path for path in plain["value"].unique(maintain_order=True) if size_of_file(path) is None]
    hints = [_where_it_may_be(wav_scp.path.parent, path) for path in missing[:_MOST_HINTS]]
    whats = [f"no such audio file: {path}{hint}" for path, hint in zip_longest(missing, hints, fillvalue="")]
    lost = pl.DataFrame({"value": missing, "what": whats}, schema={"value": pl.String, "what": pl.String})
    alone = table.join(lost, on="value", maintain_order="left").select("line", "what")
    return pl.concat([alone, _missing_shards(wav_scp.path.parent, table.filter(packed))])


def _missing_shards(folder: Path, table: pl.DataFrame) -> pl.DataFrame:
    """A shard that is not there is named once, at its first line; one that is cut short, where it matters."""
    places = table.with_columns(pl.col("value").str.extract_groups(ADDRESS).alias("place")).unnest("place")
    places = places.with_columns(end=pl.col("start").cast(pl.Int64) + pl.col("bytes").cast(pl.Int64))
    unlike = places["end"].is_null()
    found = [_faults(places.filter(unlike), pl.format("no such audio file: {}", "value"))]
    for (shard,), rows in places.filter(~unlike).group_by("shard", maintain_order=True):
        if (size := size_of_file(str(shard))) is None:
            what = (
                f"no such shard: {shard}{_where_it_may_be(folder, str(shard))}; {len(rows):,} lines name it"
            )
            found.append(_faults(rows.head(1), pl.lit(what)))
        else:
            what = f"lies beyond the end of {shard}, which is cut short ({size:,} bytes); copy it again"
            cut = rows.filter(pl.col("end") > size)
            found.append(_faults(cut, pl.format("'{}' {}", "key", pl.lit(what))))
    return pl.concat(found)


def _where_it_may_be(folder: Path, path: str) -> str:
    if os.path.isabs(path) or is_remote(path):
        return ""
    for base in (folder, *folder.absolute().parents):
        if os.path.isfile(base / path):
            return f" (relative paths start at the current directory; it would be found from {base})"
    return f" (relative to the current directory, {os.getcwd()})"


def _not_in_the_others(wav_scp: _Lines, files: _Files) -> pl.DataFrame:
    known: dict[str, pl.Series] = {
        name: files[name].table["key"] for name in ("utt2spk", "utt2num_samples") if name in files
    }
    if "utt2spk" not in files and "spk2utt" in files:
        known["spk2utt"] = files["spk2utt"].members()["utt_id"]
    return pl.concat(
        [pl.DataFrame(schema=_FAULTS)] + [_absent(wav_scp.table, keys, name) for name, keys in known.items()]
    )


def _not_in_wav_scp(file: _Lines, files: _Files) -> pl.DataFrame:
    return _absent(file.table, files["wav.scp"].table["key"], "wav.scp")


def _absent(table: pl.DataFrame, keys: pl.Series, name: str) -> pl.DataFrame:
    absent = table.join(pl.DataFrame({"key": keys}), on="key", how="anti", maintain_order="left")
    return _faults(absent, pl.format("'{}' is not in {}", "key", pl.lit(name)))


def _more_than_two_fields(utt2spk: _Lines, files: _Files) -> pl.DataFrame:
    longer = utt2spk.table.filter(pl.col("value").str.contains("[ \t]"))
    return _faults(longer, pl.format("more than two fields: '{} {}'", "key", "value"))


def _other_speaker_in_spk2utt(utt2spk: _Lines, files: _Files) -> pl.DataFrame:
    if "spk2utt" not in files:
        return pl.DataFrame(schema=_FAULTS)
    listed = files["spk2utt"].members().select(key="utt_id", other="speaker_id").unique()
    both = utt2spk.table.join(listed, on="key", how="left", maintain_order="left")
    return pl.concat(
        [
            _faults(both.filter(pl.col("other").is_null()), pl.format("'{}' is not in spk2utt", "key")),
            _faults(
                both.filter(pl.col("other") != pl.col("value")),
                pl.format("'{}' is of speaker '{}' here, of '{}' in spk2utt", "key", "value", "other"),
            ),
        ]
    )


def _utterance_twice_in_spk2utt(spk2utt: _Lines, files: _Files) -> pl.DataFrame:
    members = spk2utt.members()
    twice = members.filter(~pl.struct("speaker_id", "utt_id").is_first_distinct())
    return _faults(twice, pl.format("'{}' is listed twice for speaker '{}'", "utt_id", "speaker_id"))


def _several_speakers(spk2utt: _Lines, files: _Files) -> pl.DataFrame:
    """Where there is a utt2spk, the disagreement is named there."""
    if "utt2spk" in files:
        return pl.DataFrame(schema=_FAULTS)
    owners = spk2utt.members().unique(["speaker_id", "utt_id"], maintain_order=True)
    again = owners.with_columns(first=pl.col("speaker_id").first().over("utt_id")).filter(
        pl.col("speaker_id") != pl.col("first")
    )
    return _faults(
        again, pl.format("'{}' is of speaker '{}' here, of '{}' before", "utt_id", "speaker_id", "first")
    )


def _not_in_utt2spk(spk2utt: _Lines, files: _Files) -> pl.DataFrame:
    name = "utt2spk" if "utt2spk" in files else "wav.scp"
    return _absent(spk2utt.members().select("line", key="utt_id"), files[name].table["key"], name)


def _not_a_length(utt2num_samples: _Lines, files: _Files) -> pl.DataFrame:
    number = pl.col("value").cast(pl.Int64, strict=False)
    wrong = utt2num_samples.table.filter(number.is_null() | (number < 0))
    return _faults(wrong, pl.format("'{}' is not a number of samples", "value"))


def check_audio(path: str | Path) -> Iterator[Fault]:
    """Read all audio of a data dir and find what is damaged, in the order of `wav.scp`.

    Packed utterances are compared with the checksums of their shards, others are decoded. Lines that
    `check_data_dir` finds fault with for want of audio are found again.

    Args:
        path: the data dir.

    Raises:
        DataDirError: it cannot be opened.
    """
    data_dir = DataDir.open(path)
    paths = data_dir.wav_paths.to_list()
    threads = min(16, 4 * (os.cpu_count() or 1))
    with ThreadPool(threads) as pool, ProgressLine("checking audio", len(paths)) as progress:
        for row, fault in enumerate(pool.imap(_fault_of_audio, paths, chunksize=16)):
            progress.show(row)
            if fault:
                what = f"'{data_dir.utt_ids[row]}': {fault}"
                yield Fault(str(data_dir.path / "wav.scp"), row + 1, what)


def _fault_of_audio(path: str) -> str:
    """What is wrong with a recording; empty where nothing is."""
    try:
        packed = PackedFile.parse(path)
        if packed is None:
            read_recording(path)
            return ""
        checksum = _checksums(packed.shard).get(packed.member.start)
        if checksum is None:
            return f"no checksum of it in {table_of(packed.shard)}; copy that file again"
        if zlib.crc32(packed.content()) != checksum:
            return f"{packed}: differs from its checksum; the shard is damaged: copy it again"
    except AudioError as error:
        return str(error)
    return ""


@lru_cache(maxsize=64)
def _checksums(shard: str) -> dict[int, int]:
    """Where a file of a shard begins -> its checksum."""
    table = ShardTable.read(shard)
    return {} if table is None else {entry.member.start: entry.crc32 for entry in table.entries}
