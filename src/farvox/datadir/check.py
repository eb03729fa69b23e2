"""Validation of a data dir: every fault by file and line, and the data dir without them (`fix_data_dir`).

Faults are lines out of C order (by bytes), ids given twice, files that disagree about an utterance,
audio files that are not there, and lines that cannot be parsed. Not faults: utterances that share
an audio file, speaker ids that do not begin the utterance id, optional files that are absent,
utterances without a known condition, incomplete channel sets, short audio.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import polars as pl

from farvox.atomic import PLAIN_NAME, file_name, visible
from farvox.audio.files import read_headers
from farvox.audio.headers import AudioInfo, described_rates
from farvox.audio.remote import is_asked, is_remote
from farvox.audio.shards import ADDRESS, size_of_file
from farvox.audio.stretches import FRAGMENT, Stretch, file_of
from farvox.datadir import AudioCheckOptions, kaldi
from farvox.datadir.audit import check_recordings
from farvox.datadir.conditions import CONDITIONS, parse_conditions
from farvox.datadir.derive import further_texts
from farvox.datadir.kaldi import (
    DataDir,
    audio_of,
    invert_spk2utt,
    is_utf8,
    listing_of,
    read_lines,
    split_lines,
    stretches_of,
    write_data_dir,
)
from farvox.errors import AudioError, DataDirError
from farvox.jobs import REJECTED, Rejected, list_rejected
from farvox.progress import Note, silent, to_stderr
from farvox.writers import writes

_CLIPPED = 0.001  # share of the samples
_ZEROS = 0.5  # seconds
_MOST_HINTS = 100  # they are looked for on the disk

# Faults under construction: one row each.
_FAULTS = {"line": pl.Int64, "what": pl.String}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a data dir; prints as ``FILE:LINE: what``.

    Attributes:
        file: its path.
        line: from 1.
        what: the fault.
        is_note: it is one of form: lines out of order, which are read as they stand.
    """

    file: str
    line: int
    what: str
    is_note: bool = False

    def __str__(self) -> str:
        return f"{'note: ' * self.is_note}{self.file}:{self.line}: {self.what}"


def check_data_dir(path: str | Path) -> Iterator[Fault]:
    """Find the faults of a data dir, file by file in the order of their lines.

    A disagreement between `utt2spk` and `spk2utt` is named at its line of `utt2spk`.

    Args:
        path: the data dir.

    Raises:
        DataDirError: there is no data dir.
    """
    folder = Path(path)
    files = _core_files(folder)
    for name, file in files.items():
        remarks = [_out_of_order(file.table)]
        if name in ("wav.scp", kaldi.SEGMENTS, "utt2spk"):
            remarks.append(_unusual(file.table, "value" if name == "utt2spk" else "key"))
        yield from _in_order(file.path, _faults_of(name, files), pl.concat(remarks))
    if (folder / CONDITIONS).is_file():
        table, faults = _conditions(folder)
        listing = _listing(files)
        absent = _absent(table.rename({"utt_id": "key"}), listing.table["key"], listing.path.name)
        notes = _out_of_order(table.select("line", key="utt_id"))
        yield from _in_order(folder / CONDITIONS, [faults, absent], notes)


def check_audio(
    path: str | Path, options: AudioCheckOptions = AudioCheckOptions(), *, note: Note = to_stderr
) -> Iterator[Fault]:
    """Read all audio of a data dir and find the damaged recordings, in the order of its utterances.

    All are read as `extract` does (the first channel, at 16 kHz), and packed ones compared with the checksums
    of their shards first. What `extract` refuses is a fault: missing audio, silence, less than one frame of
    features; and so is a length other than `utt2num_samples` or `utt2dur` says. A model may need more.
    Several rates, recordings that hold nothing above 4 kHz, clipping and the like are notes at the first such
    recording. What is found is kept in the data dir, see `farvox.datadir.audit`.

    Args:
        path: the data dir.
        options: of the check.
        note: takes lines on the progress.

    Raises:
        DataDirError: it cannot be opened.
    """
    data_dir = DataDir.open(path)
    rows = data_dir.table.select(pl.int_range(1, pl.len() + 1).alias("line"), "utt_id", "wav_path")
    found = check_recordings(data_dir.path, rows, options, note)
    yield from _faults_of_audio(listing_of(data_dir.path), found)


@writes("out")
def fix_data_dir(
    path: str | Path,
    out: str | Path,
    *,
    audio: bool = False,
    options: AudioCheckOptions = AudioCheckOptions(),
    note: Note = silent,
) -> tuple[DataDir, list[Fault], list[str]]:
    """Write the part of a data dir that has no fault, sorted: what Kaldi's ``utils/fix_data_dir.sh`` does.

    Lines at fault are left out, and with them the utterances that lack an audio file or, where others have
    one, a speaker. Of several lines for one id the first stays. Where utt2spk and spk2utt disagree, utt2spk
    is right. `spk2utt` is made anew; `utt2num_samples` is left out unless it has the length of every
    utterance kept; further files by utterance or speaker (``utt2*``, `text`, `feats.scp`) are cut to what is
    kept, ``trials*`` and ``*_map`` copied whole.

    Args:
        path: the data dir to read.
        out: the data dir to write; another one.
        audio: leave out what `check_audio` finds as well.
        options: of that check.
        note: called with a line on each fault, utterance dropped, and file that is left out or copied whole.

    Returns:
        The new data dir, the faults and notes of the old one, and the utterances that were dropped.

    Raises:
        DataDirError: ``out`` is a data dir already, or no utterance is left.
    """
    folder = Path(path)
    if (Path(out) / "wav.scp").exists():
        raise DataDirError(f"{out}: is a data dir already; choose another OUT, or remove it")
    files = _core_files(folder)
    named = files["wav.scp"].table
    named = named.with_columns(value=audio_of(named, folder)[0])
    if len(refused := _refused_urls(named)):  # what nobody looked at is no fault to mend
        line, what = refused.row(0)
        raise DataDirError(f"{files['wav.scp'].path}:{line}: {what}")
    faults = []
    for fault in check_data_dir(folder):
        faults.append(fault)
        note(str(fault))
    # Neither a length nor (beside utt2spk) a line of spk2utt is needed: without one no utterance is dropped.
    speakers_file = next((name for name in ("utt2spk", "spk2utt") if name in files), None)
    needed = {
        name: file for name, file in files.items() if name in ("wav.scp", kaldi.SEGMENTS, speakers_file)
    }
    kept = {}
    for name, file in files.items():
        bad = pl.concat(_faults_of(name, needed if name in needed else files))["line"]
        kept[name] = file.table.filter(~pl.col("line").is_in(bad.implode()))
    rows = kept["wav.scp"].select("line", utt_id="key", wav_path=audio_of(kept["wav.scp"], folder)[0])
    shard = pl.col("wav_path").str.replace(FRAGMENT, "").str.extract(ADDRESS, 1)
    shards = rows.select(shard.drop_nulls().unique()).to_series()
    lost = [shard for shard in shards if size_of_file(shard) is None]
    rows = rows.filter(~shard.fill_null("").is_in(lost))
    if kaldi.SEGMENTS in kept:
        rows = stretches_of(kept[kaldi.SEGMENTS], rows)[0].drop_nulls()
    if speakers_file is None:
        rows = rows.with_columns(speaker_id=pl.lit(None, pl.String))
    else:
        owners = files["spk2utt"].members() if speakers_file == "spk2utt" else kept["utt2spk"]
        claimed = owners["utt_id"] if speakers_file == "spk2utt" else files["utt2spk"].table["key"]
        owners = owners.rename({"key": "utt_id", "value": "speaker_id"}, strict=False)
        owners = owners.unique("utt_id", keep="first").select("utt_id", "speaker_id")
        rows = rows.join(owners, on="utt_id", how="inner", maintain_order="left")
    if audio:
        found = check_recordings(folder, rows, options, to_stderr)
        damaged = list(_faults_of_audio(listing_of(folder), found))
        rows = rows.filter(~pl.col("line").is_in([fault.line for fault in damaged if not fault.is_note]))
        faults += damaged
        for fault in damaged:
            note(str(fault))
    if "utt2num_samples" in kept:
        lengths = kept["utt2num_samples"].select(utt_id="key", num_samples=pl.col("value").cast(pl.Int64))
        rows = rows.join(lengths, on="utt_id", how="left", maintain_order="left")
        if rows["num_samples"].null_count():
            unknown = rows.filter(pl.col("num_samples").is_null())["utt_id"][0]
            note(f"left out: utt2num_samples, which has no length of '{unknown}'")
    conditions = None
    if (folder / CONDITIONS).is_file():
        conditions = _conditions(folder)[0].drop("line").unique("utt_id", keep="first", maintain_order=True)
    table = rows.drop("line")
    texts = further_texts(DataDir(folder, table), table, conditions)
    if conditions is not None and len(conditions.columns) == 1:  # its header is at fault
        del texts[CONDITIONS]
    listed = pl.concat([_listing(files).table["key"], *([claimed] if speakers_file else [])])
    listed = listed.unique(maintain_order=True)
    dropped = listed.filter(~listed.is_in(table["utt_id"].implode())).to_list()
    for utt_id in dropped:
        note(f"dropped: {utt_id}")
    lines_of = {str(file.path): dict(file.table.select("line", "key").iter_rows()) for file in files.values()}
    reasons: Rejected = {}
    for fault in (each for each in faults if not each.is_note):
        reasons.setdefault(lines_of.get(fault.file, {}).get(fault.line, ""), str(fault))
    done = {*texts, *kaldi.CORE_FILES, CONDITIONS}
    others = [path for path in visible(folder) if path.is_file() and path.name not in done]
    for path in (path for path in others if path.suffix in ("", ".scp", ".txt", ".lst")):
        lines = read_lines(path, strip="\r")
        keys = lines.str.extract(r"^[ \t]*([^ \t]+)")
        owned = [(listed, table["utt_id"])]
        owned += [(owners["speaker_id"], table["speaker_id"])] if speakers_file else []
        of_kept = next((kept for all_of, kept in owned if keys.is_in(all_of.implode()).all()), None)
        if is_list := path.name.startswith("trials") or path.name.endswith("_map"):
            note(f"copied whole: {path.name}" + ", which may name utterances that are gone" * bool(dropped))
        elif of_kept is None:
            note(f"left out: {path.name}, whose lines are not all of an utterance, nor all of a speaker")
            continue
        kept_lines = lines if is_list or of_kept is None else lines.filter(keys.is_in(of_kept.implode()))
        texts[path.name] = "".join(f"{line}\n" for line in kept_lines)
    made = write_data_dir(out, table, files=texts)
    unknown = "has no recording, audio file or speaker without a fault"
    list_rejected(made.path / REJECTED, {utt_id: reasons.get(utt_id, unknown) for utt_id in dropped})
    return made, faults, dropped


def _faults_of_audio(listing: Path, found: pl.DataFrame) -> Iterator[Fault]:
    """The faults of recordings that were checked, and notes on some kinds, each at the first.

    ``found`` is as of `check_recordings`, with the ``line`` of each.
    """
    faulty = found.filter(pl.col("fault") != "")
    for line, utt_id, fault in faulty.select("line", "utt_id", "fault").iter_rows():
        yield Fault(str(listing), line, f"'{utt_id}': {fault}")
    sound = found.filter(pl.col("fault") == "")
    rates = sound.group_by("sample_rate").agg(pl.len(), pl.col("line").min()).sort("len", "sample_rate")
    if len(rates) > 1:
        rate, _, line = rates.row(0)
        listed = described_rates(dict(rates.select("sample_rate", "len").iter_rows()))
        what = f"recordings of several rates: {listed}; this is the first at {rate:,} Hz"
        yield Fault(str(listing), line, what, is_note=True)
    for kind, what in (
        (pl.col("narrow") > 0, "hold nothing above 4 kHz, as from a telephone"),
        (
            pl.col("clipped") > _CLIPPED * pl.col("num_samples") * pl.col("num_channels"),
            "reach full scale in more than one of 1,000 samples: they are clipped",
        ),
        (pl.col("zeros") > 1000 * _ZEROS, "hold more than 0.5 s of zeros on end, as a copy that broke off"),
        (pl.col("not_finite") > 0, "hold samples that are not finite in another channel than the first"),
        (pl.col("spare") > 0, "have bytes after their audio that are no part of it"),
        (pl.col("replaced"), "hold other samples than at an earlier check"),
    ):
        if len(lines := sound.filter(kind)["line"]):
            what = f"{len(lines):,} of {len(sound):,} recordings {what}; this is the first"
            yield Fault(str(listing), int(lines[0]), what, is_note=True)


class _Lines:
    """One file of a data dir.

    Attributes:
        path: of the file.
        table: the lines that could be parsed: `line` (from 1), `key`, `value`.
        malformed: the faults of the others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        not_utf8, text = _decoded(path)
        table = split_lines(text, ("key", "value"))
        table = table.with_columns(line=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
        table = table.join(not_utf8, on="line", how="anti", maintain_order="left")
        empty, single = pl.col("key") == "", pl.col("value").is_null()
        without_value = _faults(table.filter(~empty, single), pl.format("'{}' has no second field", "key"))
        self.malformed = pl.concat(
            [not_utf8, _faults(table.filter(empty), pl.lit("empty line")), without_value]
        )
        self.table = table.filter(~single)

    def members(self) -> pl.DataFrame:
        """For spk2utt: one row an utterance, `line`, `speaker_id`, `utt_id`."""
        return invert_spk2utt(self.table.rename({"key": "speaker_id", "value": "utt_ids"}))


def _core_files(folder: Path) -> dict[str, _Lines]:
    kaldi.wav_scp_of(folder)
    return {name: _Lines(folder / name) for name in kaldi.CORE_FILES if (folder / name).is_file()}


def _listing(files: Mapping[str, _Lines]) -> _Lines:
    """The file with a line for each utterance."""
    return files.get(kaldi.SEGMENTS, files["wav.scp"])


def _conditions(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The lines of the conditions that could be parsed (`utt_id`, ..., `line`), and the faults."""
    not_utf8, text = _decoded(folder / CONDITIONS, strip="\r")
    table, misfits = parse_conditions(text)
    misfits = misfits.join(not_utf8, on="line", how="anti", maintain_order="left")
    return table, pl.concat([not_utf8, misfits])


def _faults_of(name: str, files: Mapping[str, _Lines]) -> list[pl.DataFrame]:
    rules = {
        "wav.scp": _faults_of_wav_scp,
        kaldi.SEGMENTS: _faults_of_segments,
        "utt2spk": _faults_of_utt2spk,
        "spk2utt": _faults_of_spk2utt,
        "utt2num_samples": _faults_of_lengths,
    }
    table = files[name].table
    first = table.select("key", first=pl.col("line").min().over("key"), line="line")
    repeated = first.filter(pl.col("line") > pl.col("first"))
    twice = _faults(repeated, pl.format("'{}' is there already, in line {}", "key", "first"))
    blank = table.filter(pl.col("key").str.contains(r"\s"))
    odd = _faults(blank, pl.format("the id '{}' holds a blank character", "key"))
    return [files[name].malformed, twice, odd, *rules[name](files)]


def _faults_of_wav_scp(files: Mapping[str, _Lines]) -> list[pl.DataFrame]:
    wav_scp = files["wav.scp"]
    audio, unread = audio_of(wav_scp.table, wav_scp.path.parent)
    table = wav_scp.table.with_columns(value=audio.str.replace(FRAGMENT, ""))
    table = table.filter(~pl.col("line").is_in(unread["line"].implode()))
    found = [unread]
    if wav_scp.table.is_empty() and wav_scp.malformed.is_empty():
        found.append(pl.DataFrame({"line": [1], "what": ["no utterance; the file is empty"]}, _FAULTS))

    refused = _refused_urls(table)
    found.append(refused)
    table = table.join(refused, on="line", how="anti", maintain_order="left")
    is_packed = pl.col("value").str.contains(".tar:", literal=True)
    plain, packed = table.filter(~is_packed), table.filter(is_packed)
    paths = plain["value"].unique(maintain_order=True)
    missing = [path for path in paths if size_of_file(file_of(path)) is None]
    hints = [_where_it_may_be(wav_scp.path.parent, path) for path in missing[:_MOST_HINTS]]
    whats = [f"no such audio file: {path}{hint}" for path, hint in zip_longest(missing, hints, fillvalue="")]
    lost = pl.DataFrame({"value": missing, "what": whats}, {"value": pl.String, "what": pl.String})
    found.append(plain.join(lost, on="value", maintain_order="left").select("line", "what"))

    # A missing shard is named once, at its first line; a truncated one at each utterance that it lacks.
    parsed = packed.with_columns(pl.col("value").str.extract_groups(ADDRESS).alias("parts")).unnest("parts")
    parsed = parsed.with_columns(end=pl.col("start").cast(pl.Int64) + pl.col("bytes").cast(pl.Int64))
    unlike = parsed["end"].is_null()
    found.append(_faults(parsed.filter(unlike), pl.format("no such audio file: {}", "value")))
    for (shard,), rows in parsed.filter(~unlike).group_by("shard", maintain_order=True):
        if (size := size_of_file(str(shard))) is None:
            hint = _where_it_may_be(wav_scp.path.parent, str(shard))
            what = f"no such shard: {shard}{hint}; {len(rows):,} lines name it"
            found.append(_faults(rows.head(1), pl.lit(what)))
        else:
            what = f"lies beyond the end of {shard}, which is cut short ({size:,} bytes); copy it again"
            cut = rows.filter(pl.col("end") > size)
            found.append(_faults(cut, pl.format("'{}' {}", "key", pl.lit(what))))

    return found if kaldi.SEGMENTS in files else found + _unknown_elsewhere(wav_scp.table, files)


def _faults_of_segments(files: Mapping[str, _Lines]) -> list[pl.DataFrame]:
    segments, wav_scp = files[kaldi.SEGMENTS], files["wav.scp"]
    audio = audio_of(wav_scp.table, wav_scp.path.parent)[0]
    recordings = wav_scp.table.select(utt_id="key", wav_path=audio)
    table, found = stretches_of(segments.table, recordings)
    table = table.drop_nulls()
    stretches = [Stretch.parse(path) or Stretch(path, 0.0, None, None, False) for path in table["wav_path"]]
    wanted = sorted({stretch.recording for stretch in stretches if not is_remote(stretch.recording)})
    headers = dict(zip(wanted, read_headers(wanted, silent), strict=True))
    beyond = []
    for line, utt_id, stretch in zip(table["line"], table["utt_id"], stretches, strict=True):
        header = headers.get(stretch.recording)
        try:
            if isinstance(header, AudioInfo):  # else the fault is that of the recording
                stretch.samples(header, stretch.recording)
                stretch.channels(header.num_channels, stretch.recording)
        except AudioError as error:
            beyond.append((line, f"'{utt_id}': {error}"))
    faults = pl.DataFrame(beyond, _FAULTS, orient="row")
    return [found, faults, *_unknown_elsewhere(segments.table, files)]


def _unknown_elsewhere(table: pl.DataFrame, files: Mapping[str, _Lines]) -> list[pl.DataFrame]:
    """The utterances of ``table`` that files about utterances have no line for."""
    known = {name: files[name].table["key"] for name in ("utt2spk", "utt2num_samples") if name in files}
    if "utt2spk" not in files and "spk2utt" in files:
        known["spk2utt"] = files["spk2utt"].members()["utt_id"]
    return [_absent(table, keys, name) for name, keys in known.items()]


def _refused_urls(table: pl.DataFrame) -> pl.DataFrame:
    found = kaldi.refused_urls(table["key"], table["value"], asked=is_asked())
    return found.with_columns(line=table["line"].gather(found["line"] - 1))


def _faults_of_utt2spk(files: Mapping[str, _Lines]) -> list[pl.DataFrame]:
    table = files["utt2spk"].table
    longer = table.filter(pl.col("value").str.contains("[ \t]"))
    found = [
        _faults(longer, pl.format("more than two fields: '{} {}'", "key", "value")),
        _absent(table, _listing(files).table["key"], _listing(files).path.name),
    ]
    if "spk2utt" in files:
        listed = files["spk2utt"].members().select(key="utt_id", other="speaker_id").unique()
        both = table.join(listed, on="key", how="left", maintain_order="left")
        unlisted, unlike = pl.col("other").is_null(), pl.col("other") != pl.col("value")
        what = pl.format("'{}' is of speaker '{}' here, of '{}' in spk2utt", "key", "value", "other")
        found.append(_faults(both.filter(unlisted), pl.format("'{}' is not in spk2utt", "key")))
        found.append(_faults(both.filter(unlike), what))
    return found


def _faults_of_spk2utt(files: Mapping[str, _Lines]) -> list[pl.DataFrame]:
    members = files["spk2utt"].members()
    owner = pl.struct("speaker_id", "utt_id")
    twice = members.filter(~owner.is_first_distinct())
    found = [_faults(twice, pl.format("'{}' is listed twice for speaker '{}'", "utt_id", "speaker_id"))]
    if "utt2spk" not in files:  # a disagreement with utt2spk is named there
        owners = members.unique(["speaker_id", "utt_id"], maintain_order=True)
        owners = owners.with_columns(first=pl.col("speaker_id").first().over("utt_id"))
        what = pl.format("'{}' is of speaker '{}' here, of '{}' before", "utt_id", "speaker_id", "first")
        found.append(_faults(owners.filter(pl.col("speaker_id") != pl.col("first")), what))
    owner_file = files["utt2spk"] if "utt2spk" in files else _listing(files)
    absent = _absent(members.select("line", key="utt_id"), owner_file.table["key"], owner_file.path.name)
    return [*found, absent]


def _faults_of_lengths(files: Mapping[str, _Lines]) -> list[pl.DataFrame]:
    table = files["utt2num_samples"].table
    number = pl.col("value").cast(pl.Int64, strict=False)
    wrong = table.filter(number.is_null() | (number < 0))
    return [
        _faults(wrong, pl.format("'{}' is not a number of samples", "value")),
        _absent(table, _listing(files).table["key"], _listing(files).path.name),
    ]


def _faults(rows: pl.DataFrame, what: pl.Expr) -> pl.DataFrame:
    return rows.select("line", what=what)


def _absent(table: pl.DataFrame, keys: pl.Series, name: str) -> pl.DataFrame:
    absent = table.join(pl.DataFrame({"key": keys}), on="key", how="anti", maintain_order="left")
    return _faults(absent, pl.format("'{}' is not in {}", "key", pl.lit(name)))


def _out_of_order(table: pl.DataFrame) -> pl.DataFrame:
    """One note a file: the first line that should come earlier, and the number of further ones."""
    before = table.with_columns(before=pl.col("key").shift()).filter(pl.col("key") < pl.col("before"))
    what = pl.format("not sorted in C order: '{}' comes after '{}'", "key", "before")
    more = f" (so do {len(before) - 1} more lines)" if len(before) > 1 else ""
    return _faults(before.head(1), what + pl.lit(f"{more}; 'farvox combine OUT DIR' sorts"))


def _unusual(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """One note a file: the first unusual id, and the number of further ones.

    Unusual are ids that `file_name` changes, but for letters and digits of any script, and ids that differ
    from an earlier one only in case, which some file systems take for the same name.
    """
    ids = table.select("line", name=column).unique("name", keep="first", maintain_order=True)
    ids = ids.filter(~pl.col("name").str.contains("[ \t\ufffd]"))  # faults already
    lower = pl.col("name").str.to_lowercase()
    is_plain = pl.col("name").str.replace_all(r"[\p{L}\p{N}]", "a").str.contains(PLAIN_NAME)
    ids = ids.filter(~is_plain | (lower.is_duplicated() & ~lower.is_first_distinct()))
    if ids.is_empty():
        return pl.DataFrame(schema=_FAULTS)
    line, first = ids.row(0)
    more = f" (so are {len(ids) - 1:,} more ids)" if len(ids) > 1 else ""
    name = file_name(first)
    why = "differs from another only in case" if name == first else f"its files will be named '{name}'"
    return pl.DataFrame({"line": [line], "what": [f"unusual id '{first}': {why}{more}"]}, _FAULTS)


def _in_order(path: Path, found: Sequence[pl.DataFrame], notes: pl.DataFrame) -> Iterator[Fault]:
    marked = pl.concat([notes.with_columns(is_note=True), pl.concat(found).with_columns(is_note=False)])
    for line, what, is_note in marked.sort("line", maintain_order=True).iter_rows():
        yield Fault(str(path), line, what, is_note)


def _decoded(path: Path, strip: str = " \t\r") -> tuple[pl.DataFrame, pl.Series]:
    """The faults of lines that are not UTF-8, and the text of all lines (a mark where it is not UTF-8)."""
    raw = path.read_bytes()
    try:
        raw.decode()
        return pl.DataFrame(schema=_FAULTS), read_lines(path, strip=strip)
    except UnicodeDecodeError:
        kaldi.refuse_utf16(path, raw)
        lines = raw.removesuffix(b"\n").split(b"\n")
        bad = [number for number, line in enumerate(lines, start=1) if not is_utf8(line)]
        faults = pl.DataFrame({"line": bad, "what": ["not UTF-8 text"] * len(bad)}, schema=_FAULTS)
        return faults, pl.Series([line.decode(errors="replace") for line in lines]).str.strip_chars(strip)


def _where_it_may_be(folder: Path, path: str) -> str:
    """A hint where a missing file of a relative path may be."""
    if os.path.isabs(path) or is_remote(path):
        return ""
    for base in (folder, *folder.absolute().parents):
        if os.path.isfile(base / path):
            return f" (relative paths start at the current directory; it would be found from {base})"
    return f" (relative to the current directory, {os.getcwd()})"
