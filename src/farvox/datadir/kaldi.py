"""Kaldi-style data dirs: a few sorted text files that list utterances, their audio files and their speakers.

`wav.scp` (utterance, audio file) is all that is needed. With `segments` its lines are recordings, and the
utterances are stretches of them (`farvox.audio.stretches`), read as by Kaldi's extract-segments; with
`reco2file_and_channel` a line is a side of its file. `utt2spk` (utterance, speaker), `spk2utt`
(speaker, utterances) and `utt2num_samples` (utterance, length at the file's own rate) are used when
they are there. Every line is a key, blanks, and a value; audio paths may hold blanks, and relative
ones are relative to the current directory, as in Kaldi. Files are sorted in C order (by bytes).

A million lines are read in a tenth of a second.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from farvox.atomic import atomic_update, file_name, refuse_other_encoding, refuse_url, visible
from farvox.audio.remote import ORIGIN, is_asked, why_refused
from farvox.audio.stretches import Stretch
from farvox.errors import DataDirError
from farvox.parsing import UTF16_MARKS, as_utf8, parse_json
from farvox.reprs import short_repr
from farvox.writers import finish_update, writes

SCHEMA: dict[str, type[pl.DataType]] = {
    "utt_id": pl.String,
    "wav_path": pl.String,
    "speaker_id": pl.String,
    "num_samples": pl.Int64,
}
SEGMENTS, SIDES = "segments", "reco2file_and_channel"
AUDIO_FILES = ("wav.scp", SEGMENTS, SIDES)
"""Files that say where the audio of an utterance lies."""
MADE_BY = ".made-by.json"  # the verb that wrote a data dir, and of what
CORE_FILES = ("wav.scp", SEGMENTS, "utt2spk", "spk2utt", "utt2num_samples")
CHECKED = "utt2audio"
"""What a check of the audio found of each utterance (`farvox.datadir.audit`)."""
_SHELL = re.compile(r"[$`*?<>;&()\[\]{}~!|\\]|(^|\s)#")  # what a shell would not pass on as it stands
_TYPES = r"(?:wav|flac|sph|nist|ogg|vorbis|mp3|aiff|au|caf)"
_READERS = tuple(
    re.compile(pattern.replace("{file}", r"(?P<file>[^-\0][^\0]*)\0"))
    for pattern in (
        r"cat\0{file}",
        rf"sox\0(?:-(?:V\d|q|S|D)\0)*(?:-t\0?\.?{_TYPES}\0)?{{file}}-t\0?\.?wav\0-\0",
        r"flac\0(?=(?:.*\0)?(?:-[cs]*d|--decode))(?=(?:.*\0)?(?:-[ds]*c|--stdout))"  # both, in any order
        r"(?:-[cds]+\0|--(?:stdout|decode|silent|totally-silent)\0)*{file}(?:-[cds]+\0)*",
        r"ffmpeg\0(?:-(?:hide_banner|nostdin|nostats|y)\0|-(?:v|loglevel)\0\w+\0)*-i\0{file}"
        r"(?:-(?:v|loglevel)\0\w+\0)*(?:-(?:acodec|c:a)\0pcm_s16le\0)?-f\0wav\0(?:-|pipe:1?|/dev/stdout)\0",
        r"sph2pipe\0(?:-p\0|-f\0(?:wav|rif)\0|-c\0?(?P<side>[12])\0)*{file}",
    )
)
"""Commands whose output is the audio of a file: the program and its arguments, each followed by NUL."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording of one speaker, as a line of a data dir.

    Attributes:
        utt_id: name of the utterance; no white space.
        wav_path: path of the audio file, or of a part of one (`farvox.audio.stretches`).
        speaker_id: the speaker, or None where unknown.
        num_samples: length at the file's own rate, or None where unknown.
    """

    utt_id: str
    wav_path: str
    speaker_id: str | None = None
    num_samples: int | None = None


@dataclass(frozen=True)
class DataDir:
    """A data dir in memory.

    Attributes:
        path: the folder.
        table: one row an utterance, in the order of `listing_of`: `utt_id`, `wav_path`, `speaker_id`
            (null where unknown), `num_samples` (null where unknown).
    """

    path: Path
    table: pl.DataFrame

    __repr__ = short_repr

    @classmethod
    def open(cls, path: str | Path, *, remote: bool = False) -> DataDir:
        """Read the data dir at ``path``; no audio file is touched.

        Args:
            path: the folder.
            remote: accept audio on other machines, as in a block of `farvox.audio.remote.remote_audio`.

        Raises:
            DataDirError: audio lies on another machine, and that was not asked for, or a URL holds a
                password; there is no `wav.scp`, a line is malformed, an utterance is there twice, a segment
                is empty or of an unknown recording, audio is a command that does more than to read a file, or
                `utt2spk` / `spk2utt` exists and leaves an utterance without speaker.
        """
        folder = Path(path)
        listing = wav_scp = wav_scp_of(folder)
        table = read_table(wav_scp, ("utt_id", "wav_path"))
        if table.is_empty():
            raise DataDirError(f"{wav_scp}: is empty; a data dir needs at least one utterance")
        lines = table.with_row_index("line", 1).rename({"utt_id": "key", "wav_path": "value"})
        audio, faults = audio_of(lines, folder)
        _refuse_faults(wav_scp, faults)
        table = table.with_columns(wav_path=audio)
        _refuse_faults(wav_scp, refused_urls(table["utt_id"], audio, asked=remote or is_asked()))
        _refuse_duplicates(wav_scp, table)
        if (folder / SEGMENTS).is_file():
            listing = folder / SEGMENTS
            lines = read_table(listing, ("key", "value")).with_row_index("line", 1)
            if lines.is_empty():
                raise DataDirError(f"{listing}: is empty; a data dir needs at least one utterance")
            table, faults = stretches_of(lines, table)
            _refuse_faults(listing, faults)
            table = table.drop("line")
            _refuse_duplicates(listing, table)
        utt_ids = table["utt_id"]
        speakers: pl.Expr | pl.Series = pl.lit(None, pl.String)
        present = [name for name in ("utt2spk", "spk2utt") if (folder / name).is_file()]
        if present:
            source = folder / present[0]
            if source.name == "utt2spk":
                known = read_table(source, ("utt_id", "speaker_id"))
            else:
                spk2utt = read_table(source, ("speaker_id", "utt_ids"))
                known = invert_spk2utt(spk2utt.with_row_index("line", 1))
            speakers = _looked_up(source, utt_ids, known, "speaker_id")
            without = speakers.is_null().arg_true()
            if len(without):
                line = int(without[0])
                raise DataDirError(
                    f"{listing}:{line + 1}: '{utt_ids[line]}' has no speaker in {source.name}; "
                    f"'farvox check {folder}' lists every fault"
                )
        lengths: pl.Expr | pl.Series = pl.lit(None, pl.Int64)
        if (source := folder / "utt2num_samples").is_file():
            known = read_table(source, ("utt_id", "num_samples"))
            numbers = known["num_samples"].cast(pl.Int64, strict=False)
            bad = (numbers.is_null() | (numbers < 0)).arg_true()
            if len(bad):
                line = int(bad[0])
                raise DataDirError(
                    f"{source}:{line + 1}: '{known['num_samples'][line]}' is not a number of samples"
                )
            lengths = _looked_up(source, utt_ids, known.with_columns(numbers), "num_samples")
        return cls(folder, table.with_columns(speaker_id=speakers, num_samples=lengths))

    @property
    def utt_ids(self) -> pl.Series:
        """Names of the utterances."""
        return self.table["utt_id"]

    @property
    def wav_paths(self) -> pl.Series:
        """Audio files."""
        return self.table["wav_path"]

    @property
    def speaker_ids(self) -> pl.Series:
        """Speakers, null where unknown."""
        return self.table["speaker_id"]

    @property
    def num_samples(self) -> pl.Series:
        """Lengths at the files' own rates, null where unknown."""
        return self.table["num_samples"]

    def __len__(self) -> int:
        return self.table.height

    def utterances(self) -> Iterator[Utterance]:
        """The rows as `Utterance`, in order."""
        return (Utterance(*row) for row in self.table.iter_rows())


def wav_scp_of(folder: Path) -> Path:
    """The wav.scp of a data dir.

    Raises:
        DataDirError: no such folder, or no `wav.scp` in it.
    """
    refuse_url(folder)
    if not folder.is_dir():
        raise DataDirError(f"{folder}: no such data dir")
    finish_update(folder)
    if not (folder / "wav.scp").is_file():
        inner = [file.parent.name for file in visible(folder, "*/wav.scp")]
        hint = f"; did you mean {folder / inner[0]}?" if inner else "; 'farvox prepare' makes data dirs"
        if (folder / "meta.json").is_file():
            hint = "; it holds embeddings: name the data dir"
        raise DataDirError(f"{folder}: has no wav.scp{hint}")
    return folder / "wav.scp"


def refused_urls(utt_ids: pl.Series, wav_paths: pl.Series, *, asked: bool) -> pl.DataFrame:
    """The rows of a `wav.scp` (``line``, from 1) whose URLs may not be read from, and ``what`` forbids it."""
    found = {"line": pl.Int64, "what": pl.String}
    if not wav_paths.str.contains("://", literal=True).any():  # the usual case, and much the faster test
        return pl.DataFrame(schema=found)
    origins = wav_paths.str.extract(ORIGIN)
    reasons = {each: why_refused(each, asked=asked) for each in origins.drop_nulls().unique()}
    whys = origins.replace_strict(reasons, default="", return_dtype=pl.String)
    rows = pl.DataFrame({"utt_id": utt_ids, "why": whys}).with_columns(
        line=pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    )
    return rows.filter(pl.col("why") != "").select(
        "line", what=pl.format("the audio of '{}': {}", "utt_id", "why")
    )


def listing_of(folder: Path) -> Path:
    """The file of a data dir with a line for each utterance: `segments` where it is there, else `wav.scp`."""
    return folder / (SEGMENTS if (folder / SEGMENTS).is_file() else "wav.scp")


def audio_of(wav_scp: pl.DataFrame, folder: Path) -> tuple[pl.Series, pl.DataFrame]:
    """The audio path of each line of wav.scp.

    A command that only reads a file stands for that file; `reco2file_and_channel` gives the side.

    Args:
        wav_scp: `line`, `key`, `value`.
        folder: the data dir.

    Returns:
        The audio paths, and the faults (`line`, `what`) of the lines that have none that can be read.

    Raises:
        DataDirError: a line of `reco2file_and_channel` is malformed.
    """
    values, whats = wav_scp["value"], []
    special = wav_scp.filter(pl.col("value").str.contains(r"[|\]]$|\x00"))
    files: dict[str, str] = {}
    for line, key, value in special.select("line", "key", "value").iter_rows():
        if "\0" in value:
            whats.append((line, f"the audio of '{key}' has a NUL in its name; no file has: correct the line"))
        elif value.endswith("|"):
            if (read := file_of_command(value)) is not None:
                files[value] = read
                continue
            way = f"{value[:-1].strip()} > {shlex.quote(f'decoded-{file_name(key)}.wav')}"
            what = f"is a command (it ends in '|'); farvox runs none: `{way}` writes its output: name that"
            whats.append((line, f"the audio of '{key}' {what}"))
        elif re.search(r"\[[\d:,]*\]$", value) and not os.path.exists(value):
            what = "which Kaldi has for matrices only; 'segments' names stretches of audio by their seconds"
            whats.append((line, f"the audio of '{key}' is a range of an entry, {value}, {what}"))
    if files:
        values = values.replace(files)
    if (folder / SIDES).is_file():
        sides = read_table(folder / SIDES, ("key", "side"))
        side = sides["side"].str.extract(r"[ \t](\w+)$").str.to_uppercase()
        number = side.cast(pl.Int64, strict=False)
        letter = pl.Series(
            [ord(text) - 64 if text and len(text) == 1 and text.isalpha() else None for text in side]
        )
        sides = sides.with_columns(side=number.fill_null(letter.cast(pl.Int64)))
        bad = (sides["side"].is_null() | (sides["side"] < 1)).arg_true()
        if len(bad):
            raise DataDirError(
                f"{folder / SIDES}:{int(bad[0]) + 1}: a line is 'recording file side', with side A, B or 1, 2"
            )
        of_line = wav_scp.join(
            sides.unique("key", keep="first"), on="key", how="left", maintain_order="left"
        )["side"]
        chosen = values.str.contains(r"[#&](?:channel|side)=\d+$")
        marked = pl.select(pl.concat_str(values, pl.lit("#side="), (of_line - 1).cast(pl.String))).to_series()
        values = values.zip_with(~((of_line > 1) & ~chosen).fill_null(False), marked)
    return values.alias("wav_path"), pl.DataFrame(whats, {"line": pl.Int64, "what": pl.String}, orient="row")


def file_of_command(value: str) -> str | None:
    """The audio path of a command of wav.scp whose output is that audio; None where it is more than that.

    Such are ``cat FILE |``, ``sox FILE -t wav - |``, ``ffmpeg -i FILE -f wav - |``, ``flac -c -d -s FILE |``
    and ``sph2pipe -f wav FILE |``, which may choose a side by ``-c``.
    """
    command = value.removesuffix("|")
    try:
        program, *arguments = [""] if _SHELL.search(command) else shlex.split(command) or [""]
    except ValueError:  # a quotation mark alone
        return None
    written = "".join(f"{argument}\0" for argument in (os.path.basename(program), *arguments))
    found = next(filter(None, (pattern.fullmatch(written) for pattern in _READERS)), None)
    if found is None:
        return None
    side = found.groupdict().get("side")
    return found["file"] if side is None else f"{found['file']}#side={int(side) - 1}"


def stretches_of(segments: pl.DataFrame, recordings: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The utterances of `segments`, by the rules of Kaldi's extract-segments.

    Args:
        segments: `line`, `key` and `value` ("recording begin end", in seconds, and perhaps a channel from 0;
            an end of -1 is that of the recording).
        recordings: `utt_id` and `wav_path` of wav.scp.

    Returns:
        `line`, `utt_id` and `wav_path`, null at a fault; and the faults (`line`, `what`).
    """
    fields = pl.col("value").str.strip_chars(" \t").str.replace_all("[ \t]+", " ").str.split(" ")
    table = segments.select("line", utt_id="key", fields=fields).with_columns(
        count=pl.col("fields").list.len(),
        recording=pl.col("fields").list.get(0),
        begin=pl.col("fields").list.get(1, null_on_oob=True).cast(pl.Float64, strict=False),
        end=pl.col("fields").list.get(2, null_on_oob=True).cast(pl.Float64, strict=False),
        channel=pl.col("fields").list.get(3, null_on_oob=True).cast(pl.Int64, strict=False),
    )
    known = recordings.select(recording="utt_id", path="wav_path").unique("recording", keep="first")
    table = table.join(known, on="recording", how="left", maintain_order="left")
    begin, end, to_end = pl.col("begin"), pl.col("end"), pl.col("end") == -1
    times = (begin.is_finite() & end.is_finite()).fill_null(False)
    shape = "a line is 'utterance recording begin end', in seconds, and perhaps a channel from 0"
    what = (
        pl.when(~pl.col("count").is_in([3, 4]))
        .then(pl.format("'{}' has {} fields; {}", "utt_id", pl.col("count") + 1, pl.lit(shape)))
        .when(~times)
        .then(pl.format("the begin or end of '{}' is no number; {}", "utt_id", pl.lit(shape)))
        .when((pl.col("count") == 4) & ((pl.col("channel") < 0) | pl.col("channel").is_null()))
        .then(pl.format("the channel of '{}' is no number from 0; {}", "utt_id", pl.lit(shape)))
        .when((begin < 0) | (~to_end & (begin >= end)))
        .then(pl.format("'{}' begins at {} s and ends at {} s; -1 is the end", "utt_id", "begin", "end"))
        .when(pl.col("path").is_null())
        .then(pl.format("'{}' is of the recording '{}', which is not in wav.scp", "utt_id", "recording"))
    )
    is_whole = to_end & (begin == 0) & pl.col("channel").is_null()
    last = pl.when(to_end).then(pl.lit("")).otherwise(pl.format(",{}", "end"))
    channel = (
        pl.when(pl.col("channel").is_null()).then(pl.lit("")).otherwise(pl.format("&channel={}", "channel"))
    )
    table = table.with_columns(
        what=what,
        wav_path=pl.when(is_whole)
        .then("path")
        .otherwise(pl.concat_str("path", pl.lit("#t="), "begin", last, channel)),
    )
    faults = table.filter(pl.col("what").is_not_null()).select(pl.col("line").cast(pl.Int64), "what")
    sound = pl.when(pl.col("what").is_null()).then("wav_path")
    return table.select(pl.col("line").cast(pl.Int64), "utt_id", wav_path=sound), faults


def read_table(path: str | Path, columns: tuple[str, str] = ("utt_id", "value")) -> pl.DataFrame:
    """Read a text file of ``key value`` lines, split at the first run of blanks.

    Windows line ends, tabs, and blanks at either end of a line are accepted. Row i is line i + 1 of the
    file.

    Args:
        path: the file.
        columns: names of the two columns.

    Raises:
        DataDirError: no such file, not UTF-8, or (with its line number) a line that is empty, has no second
            field, or a speaker of several words.
    """
    if (regular := regular_pairs(path, columns)) is not None:
        return regular
    key, value = columns
    table = split_lines(read_lines(path), columns)
    bad = (table[value].is_null() | (table[key] == "")).arg_true()
    if len(bad):
        line = int(bad[0])
        what = f"'{table[key][line]}' has no second field" if table[key][line] else "empty line"
    elif value == "speaker_id" and len(bad := table[value].str.contains("[ \t]").arg_true()):
        line = int(bad[0])
        what = f"more than two fields: '{table[key][line]} {table[value][line]}'"
    else:
        return table
    what, folder = f"{path}:{line + 1}: {what}; every line is '{key} {value}'", Path(path).parent
    if Path(path).name in CORE_FILES and (folder / "wav.scp").is_file():
        what += f"; 'farvox check {folder} --fix OUT' leaves such lines out"
    raise DataDirError(what)


def values_of(path: str | Path, utt_ids: Sequence[str] | pl.Series, column: str = "speaker_id") -> pl.Series:
    """The value of each utterance by a file of lines ``utt_id value``.

    Raises:
        DataDirError: the file is malformed, or has no line for an utterance.
    """
    known = read_table(path, ("utt_id", column)).unique("utt_id", keep="last")
    wanted = pl.DataFrame({"utt_id": pl.Series(utt_ids, dtype=pl.String)})
    values = wanted.join(known, on="utt_id", how="left", maintain_order="left")[column]
    if values.null_count():
        missing = wanted["utt_id"].filter(values.is_null())[0]
        raise DataDirError(f"{path}: has no line for the utterance '{missing}'")
    return values


def shared_speakers(
    speakers: Iterable[str | None], what: str, others: Iterable[str | None], where: str
) -> list[str]:
    """One warning on the speakers that two sets share by name; none where they share none.

    Args:
        speakers: of each utterance of the first set; None where not known.
        what: names the first set.
        others: the same of the second set.
        where: names the second set.
    """
    known = {speaker for speaker in speakers if speaker}
    shared = sorted(known & set(others))
    if not shared:
        return []
    shown = ", ".join(f"'{name}'" for name in shared[:3]) + ", ..." * (len(shared) > 3)
    return [f"warning: {len(shared):,} of the {len(known):,} speakers of {what} are also in {where}: {shown}"]


def regular_pairs(path: str | Path, columns: tuple[str, str]) -> pl.DataFrame | None:
    """Read a file whose lines all hold two fields and one space between them; None for any other file.

    The result is that of `read_lines` and `split_lines`, in less than half the time.
    """
    file = Path(path)
    try:
        if not file.is_file() or not is_utf8(os.fsencode(file)):
            return None
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"\t") >= 0 or content.find(b"\r") >= 0:
                return None
        table = pl.read_csv(
            file, has_header=False, separator=" ", quote_char=None, schema=dict.fromkeys(columns, pl.String),
            glob=False,
        )  # fmt: skip
    except (OSError, ValueError, pl.exceptions.PolarsError):  # an empty file, a path with blanks in it, ...
        return None
    return None if any(column.has_nulls() for column in table) else table


def read_lines(path: str | Path, *, strip: str = " \t\r") -> pl.Series:
    """Read the lines of a text file, without the characters ``strip`` at their ends.

    Raises:
        DataDirError: no such file, or (with its line number) text that is not UTF-8.
    """
    try:
        file = Path(path)
        # polars cannot read pipes or paths that are not UTF-8, and reads folders
        source = file if file.is_file() and is_utf8(os.fsencode(file)) else file.read_bytes()
        lines = pl.read_csv(
            source, has_header=False, separator="\n", quote_char=None, schema={"line": pl.String},
            raise_if_empty=False, glob=False,
        )["line"]  # fmt: skip
    except FileNotFoundError:
        raise DataDirError(f"{path}: no such file") from None
    except pl.exceptions.ComputeError:
        text = Path(path).read_bytes()
        refuse_utf16(path, text)
        for number, line in enumerate(text.split(b"\n"), start=1):
            if not is_utf8(line):
                shown = line[:60].decode("ascii", "backslashreplace")
                raise DataDirError(f"{path}:{number}: not UTF-8 text: {shown}; {as_utf8(path)}") from None
        raise DataDirError(f"{path}: cannot be read as UTF-8 text") from None
    except OSError as error:
        raise DataDirError(f"{path}: cannot be read: {error.strerror or error}") from None
    return lines.fill_null("").str.strip_chars(strip)


def refuse_utf16(path: str | Path, text: bytes) -> None:
    """Refuse a text of another encoding than UTF-8 as a whole, where not each line is to be named."""
    if text.startswith(UTF16_MARKS):
        raise DataDirError(f"{path}: UTF-16 text, where UTF-8 is expected; {as_utf8(path, text)}") from None


def split_lines(lines: pl.Series, columns: tuple[str, str]) -> pl.DataFrame:
    """Split each line at its first run of blanks; the second column is null where there is none."""
    key, value = columns
    if lines.str.contains("\t", literal=True).any():
        lines = lines.str.replace("[ \t]+", " ")
    table = lines.str.splitn(" ", 2).struct.unnest()
    table.columns = [key, value]
    if table[value].str.starts_with(" ").any():
        table = table.with_columns(pl.col(value).str.strip_chars_start(" \t"))
    return table


def is_utf8(line: bytes) -> bool:
    """True for UTF-8 text."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def invert_spk2utt(spk2utt: pl.DataFrame) -> pl.DataFrame:
    """Turn `line`, `speaker_id` and `utt_ids` (in one string) into `line`, `speaker_id` and `utt_id`."""
    utt_ids = pl.col("utt_ids").str.replace_all("[ \t]+", " ").str.split(" ")
    return spk2utt.select("line", "speaker_id", utt_id=utt_ids).explode("utt_id")


def refuse_other_data_dir(
    path: str | Path,
    verb: str,
    inputs: Iterable[str | Path],
    *,
    unless: Callable[[DataDir], bool] | None = None,
) -> str:
    """Refuse to write the data dir ``path`` over another one; the text of the record to write in it.

    Args:
        verb: what writes it; what it wrote earlier from the same inputs is replaced.
        inputs: the folders that it is made from; the same as before where they lie as they did, seen from
            the root or from ``path``, with which they may have moved.
        unless: of a data dir without a record, as an earlier farvox left it: whether it is replaced too.

    Raises:
        DataDirError: ``path`` is one of the inputs, or a data dir that was not made so.
    """
    folder, home, inputs = Path(path), os.path.realpath(path), sorted(set(map(os.path.realpath, inputs)))
    finish_update(folder)
    if home in inputs:
        raise DataDirError(f"{folder}: is the data dir itself, an input of farvox {verb}; choose another OUT")
    now = {"inputs": inputs, "relative": sorted(os.path.relpath(each, home) for each in inputs)}
    there = [name for name in CORE_FILES if (folder / name).exists()]
    if there or (folder / MADE_BY).exists():
        before: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            before = dict(parse_json((folder / MADE_BY).read_text("utf-8")))
        is_known = before.get("verb") == verb and any(before.get(key) == now[key] for key in now)
        if not (folder / MADE_BY).exists() and unless and (folder / "wav.scp").is_file():
            with suppress(DataDirError, OSError):  # a damaged one is not known
                is_known = unless(DataDir.open(folder, remote=True))
        if not is_known:
            made = f" ({before.get('verb')} made it of {before.get('inputs')})" if before else ""
            raise DataDirError(
                f"{folder}: holds a data dir that farvox {verb} did not make of the same inputs{made}, and "
                "that is not replaced; choose another OUT, or remove it first"
            )
    return json.dumps({"verb": verb, **now}) + "\n"


@writes("path")
def write_data_dir(
    path: str | Path,
    utterances: Iterable[Utterance] | pl.DataFrame,
    *,
    files: Mapping[str, str] | None = None,
) -> DataDir:
    """Write a data dir: `wav.scp`, and of the other files those known for every utterance, in C order.

    The files are written aside and put in place together. Files of an existing folder about its recordings,
    utterances and speakers (`segments`, `text`, `*.scp`, `utt2*`, ...) are removed; its other files (audio,
    say) stay. Where utterances are stretches of recordings, there is a `segments` as in Kaldi, and `wav.scp`
    names the recordings, by their first utterances' ids.

    Args:
        path: the folder; made if needed.
        utterances: in any order; a table has the columns of `DataDir.table`, of which `speaker_id`
            and `num_samples` may be absent.
        files: more files, name to text (trial lists, conditions).

    Raises:
        DataDirError: no utterance, an id with blanks, an id given twice, a path that no line can
            hold, or speakers known for some utterances only.
    """
    folder = Path(path)
    refuse_other_encoding(folder)
    if isinstance(utterances, pl.DataFrame):
        absent = {name: kind for name, kind in SCHEMA.items() if name not in utterances.columns}
        table = utterances.with_columns(pl.lit(None, kind).alias(name) for name, kind in absent.items())
        table = table.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
    else:
        rows = [(each.utt_id, each.wav_path, each.speaker_id, each.num_samples) for each in utterances]
        try:
            table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
        except UnicodeEncodeError as error:
            raise DataDirError(
                f"{folder}: {error.object!r} is not UTF-8, which a data dir must be; rename it"
            ) from None
    table = table.sort("utt_id")
    _refuse_unwritable(folder, table)
    texts = _audio_texts(table)
    if table["speaker_id"].null_count() == 0:
        texts["utt2spk"] = _lines(table["utt_id"], table["speaker_id"])
        by_speaker = table.group_by("speaker_id").agg(pl.col("utt_id").sort()).sort("speaker_id")
        texts["spk2utt"] = _lines(by_speaker["speaker_id"], by_speaker["utt_id"].list.join(" "))
    if table["num_samples"].null_count() == 0:
        texts["utt2num_samples"] = _lines(table["utt_id"], table["num_samples"].cast(pl.String))
    for name, text in (files or {}).items():
        if name in CORE_FILES or Path(name).name != name:
            raise DataDirError(f"{folder}: '{name}' is not the name of a further file")
        texts[name] = text
    is_outdated = re.compile(rf"{MADE_BY}|{SEGMENTS}|text|.*\.scp|(reco|utt|spk)2.*").fullmatch
    with atomic_update(folder, lambda name: is_outdated(name) is not None) as incoming:
        for name, text in texts.items():
            (incoming / name).write_bytes(text.encode())
    return DataDir(folder, table)


def _refuse_faults(path: Path, faults: pl.DataFrame) -> None:
    if len(faults):
        line, what = faults.row(0)
        raise DataDirError(f"{path}:{line}: {what}")


def _refuse_duplicates(path: Path, table: pl.DataFrame) -> None:
    ids = table["utt_id"]
    if (ids[1:] > ids[:-1]).all():  # sorted: the usual case, and much the faster test
        return
    if ids.n_unique() < len(ids):
        row = int((~ids.is_first_distinct()).arg_true()[0])
        line = table["line"][row] if "line" in table.columns else row + 1
        raise DataDirError(f"{path}:{line}: '{ids[row]}' is there twice; utterance ids are unique")


def _looked_up(source: Path, utt_ids: pl.Series, known: pl.DataFrame, column: str) -> pl.Series:
    """A column of ``known`` for each of ``utt_ids``, null where that is not there."""
    if len(known) == len(utt_ids) and (known["utt_id"] == utt_ids).all():
        return known[column]
    _refuse_duplicates(source, known)
    return utt_ids.to_frame().join(known, on="utt_id", how="left", maintain_order="left")[column]


def _refuse_unwritable(folder: Path, table: pl.DataFrame) -> None:
    if table.is_empty():
        raise DataDirError(f"{folder}: there is no utterance to write")
    for column in ("utt_id", "speaker_id"):
        bad = table[column].drop_nulls().str.contains(r"^$|\s").arg_true()
        if len(bad):
            value = table[column].drop_nulls()[int(bad[0])]
            raise DataDirError(f"{folder}: '{value}' cannot be a {column}: it is empty or holds blanks")
    bad = table["wav_path"].str.contains(r"^$|^[ \t]|[ \t]$|[\r\n]|\|$").arg_true()
    if len(bad):
        utt_id, wav_path = table.row(int(bad[0]))[:2]
        raise DataDirError(f"{folder}: a wav.scp cannot hold the audio path '{wav_path}' of '{utt_id}'")
    twice = (table["utt_id"][1:] == table["utt_id"][:-1]).arg_true()
    if len(twice):
        raise DataDirError(
            f"{folder}: '{table['utt_id'][int(twice[0])]}' is there twice; utterance ids are unique"
        )
    unknown = table["speaker_id"].is_null()
    if unknown.any() and not unknown.all():
        utt_id = table["utt_id"][int(unknown.arg_true()[0])]
        raise DataDirError(f"{folder}: '{utt_id}' has no speaker, others have; name all speakers or none")


def _audio_texts(table: pl.DataFrame) -> dict[str, str]:
    """The text of `wav.scp`; and of `segments`, where an utterance is a stretch of a recording."""
    utt_ids, paths = table["utt_id"], table["wav_path"]
    if not paths.str.contains("#t=", literal=True).any():
        return {"wav.scp": _lines(utt_ids, paths)}
    stretches = [Stretch.parse(path) for path in paths]
    recordings: dict[str, str] = {}  # audio path -> id
    segments = []
    for utt_id, path, part in zip(utt_ids, paths, stretches, strict=True):
        if part is None or part.is_side or "#t=" not in path[len(part.recording) :]:
            part = Stretch(path, 0.0, None, None, False)  # a whole recording, or one side of it
        recording = recordings.setdefault(part.recording, utt_id)
        channel = "" if part.channel is None else f" {part.channel}"
        end = -1 if part.end is None else part.end
        segments.append(f"{utt_id} {recording} {part.begin} {end}{channel}\n")
    lines = sorted((recording, path) for path, recording in recordings.items())
    return {
        "wav.scp": "".join(f"{recording} {path}\n" for recording, path in lines),
        SEGMENTS: "".join(segments),
    }


def _lines(keys: pl.Series, values: pl.Series) -> str:
    joined = pl.select(pl.concat_str(keys, values, separator=" ")).to_series()
    return str(joined.str.join("\n").item()) + "\n"
