"""Takes of a data dir: utterances, or channels of a file, of one recording by several microphones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from farvox.audio.files import read_headers
from farvox.datadir.conditions import CONDITIONS, read_conditions
from farvox.datadir.kaldi import DataDir
from farvox.errors import AudioError, DataDirError, UsageError
from farvox.progress import Note

CHANNEL_COLUMNS = ("channel", "microphone", "mic")


@dataclass(frozen=True)
class Takes:
    """The takes of a data dir.

    Attributes:
        table: a row an utterance that is a channel, in the order of take and channel: `take`, `channel`
            (as it is spelled), `utt_id`, `wav_path`, `speaker_id`. A take's name is an utterance id that
            a trial list can use: that of its first channel.
        single: the rows of the data dir that are no channel of a take.
    """

    table: pl.DataFrame
    single: pl.DataFrame

    def __len__(self) -> int:
        return self.table["take"].n_unique()

    @property
    def description(self) -> str:
        """The takes in a sentence, for people."""
        sizes = self.table.group_by("take").len()["len"]
        low, high = min(sizes.to_list()), max(sizes.to_list())
        span = f"{low}" if low == high else f"{low} to {high}"
        rest = f"; {len(self.single):,} utterances are of none and stay as they are"
        return f"{len(self):,} takes of {span} utterances each{rest if len(self.single) else ''}"

    def new_ids(self, utt_ids: pl.Series) -> pl.Series:
        """The id of each utterance once takes are one utterance each: its take's, or its own."""
        take_of = self.table.select("utt_id", "take")
        named = utt_ids.to_frame("utt_id").join(take_of, on="utt_id", how="left", maintain_order="left")
        return named.select(pl.coalesce("take", "utt_id")).to_series()


def takes_by_name(data_dir: DataDir, pattern: str) -> Takes:
    r"""Takes found by utterance ids, such as ``SV\d+_[256]_(?P<channel>\d+)_\w+`` for HI-MIA.

    The pattern is one for the whole id. Utterances whose ids are alike but for the group ``channel`` are
    one take; those that the pattern does not fit are in none. A take has the id of its first channel, so
    that ``SV0333_2_{}_N0124`` and, with channels ``ID_0 ... ID_7``, ``ID`` in a trial list mean it.

    Raises:
        UsageError: not a regular expression, or without a group ``channel``.
        DataDirError: no utterance fits.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--group '{pattern}': not a regular expression: {error}") from None
    if list(compiled.groupindex) != ["channel"]:
        raise UsageError(f"--group '{pattern}': needs one named group, (?P<channel>...), around the channel")
    ids = data_dir.utt_ids.to_list()
    keys, channels = [], []
    for utt_id in ids:
        found = compiled.fullmatch(utt_id)
        first, last = found.span("channel") if found else (0, 0)
        keys.append(f"{utt_id[:first]}\0{utt_id[last:]}" if found else None)
        channels.append(utt_id[first:last] if found else None)
    key, channel = pl.Series(keys, dtype=pl.String), pl.Series(channels, dtype=pl.String)
    table = data_dir.table.with_columns(key=key, channel=channel)
    if table["key"].null_count() == len(table):
        raise DataDirError(f"{data_dir.path}: --group '{pattern}' fits no utterance; the first is '{ids[0]}'")
    return _named(table)


def takes_by_condition(data_dir: DataDir, columns: Sequence[str]) -> Takes:
    """Takes found by ``utt2cond``: utterances of one speaker that are alike in ``columns``.

    Their channels are its column ``channel`` (or ``microphone``, ``mic``); an utterance with nothing
    there is in no take. A take has the id of its first channel.

    Raises:
        DataDirError: no ``utt2cond``, or one without these columns.
    """
    path = data_dir.path / CONDITIONS
    if not path.is_file():
        raise DataDirError(f"{path}: no such file, and --by names columns of it; use --group instead")
    conditions = read_conditions(path)
    there = conditions.columns[1:]
    channel = next((name for name in CHANNEL_COLUMNS if name in there), None)
    missing = [name for name in columns if name not in there]
    if channel is None or missing:
        lacks = f"column '{missing[0]}'" if missing else f"column of channels ({', '.join(CHANNEL_COLUMNS)})"
        raise DataDirError(f"{path}:1: no {lacks}; there are: {', '.join(there)}")
    if channel in columns:
        raise DataDirError(f"--by {channel}: distinguishes the channels of a take, not takes; leave it out")
    named = conditions.select("utt_id", channel=channel, by=pl.concat_str(columns, separator="\0"))
    table = data_dir.table.join(named, on="utt_id", how="left", maintain_order="left")
    keys = pl.concat_str("by", pl.col("speaker_id").fill_null(""), separator="\0")
    return _named(table.with_columns(key=pl.when(pl.col("channel").fill_null("") != "").then(keys)))


def takes_by_file(data_dir: DataDir, note: Note, jobs: int | None = None) -> Takes:
    """Takes that are files of several channels; a file of one channel is no take.

    The headers of the files are read, by ``jobs`` threads. A file that cannot be read counts as a take, whose
    enhancement is refused.

    Raises:
        AudioError: a file cannot be read, and none that can has several channels.
        DataDirError: no file has several channels.
    """
    headers = read_headers(data_dir.wav_paths.to_list(), note, jobs)
    several = [isinstance(header, AudioError) or header.num_channels > 1 for header in headers]
    faults = [header for header in headers if isinstance(header, AudioError)]
    if sum(several) == len(faults):
        if faults:
            raise faults[0]
        raise DataDirError(
            f"{data_dir.path}: no file has several channels; --group or --by say which utterances are a take"
        )
    key = pl.when(pl.Series(several, dtype=pl.Boolean)).then("utt_id")
    return _named(data_dir.table.with_columns(key=key, channel=pl.lit("all"), speaker_id="speaker_id"))


def refuse_incomplete(takes: Takes, data_dir: DataDir) -> None:
    """Raise unless every take has the channels that most takes have.

    Raises:
        DataDirError: a take lacks channels, has others, or has one twice.
    """
    sets = takes.table.group_by("take", maintain_order=True).agg("channel")
    usual = sets["channel"].value_counts(sort=True)["channel"][0].to_list()
    odd = sets.filter(pl.col("channel") != pl.lit(pl.Series([usual])).first())
    if len(odd):
        name, channels = odd.row(0)
        lacks = [channel for channel in usual if channel not in channels]
        what = f"has no channel {', '.join(lacks)}" if lacks else f"has the channels {', '.join(channels)}"
        raise DataDirError(
            f"{data_dir.path}: the take '{name}' {what}; most takes have {', '.join(usual)}"
            f" ({len(odd):,} of {len(sets):,} differ); complete the data dir,"
            " or take what there is with --allow-missing-channels"
        )


def _named(table: pl.DataFrame) -> Takes:
    """The takes of a table whose rows of one ``key`` are one take, and those without a key are of none."""
    columns = ["utt_id", "wav_path", "speaker_id", "num_samples"]
    number = pl.col("channel").cast(pl.Int64, strict=False).fill_null(2**62)  # other names follow, by letters
    rows = table.filter(pl.col("key").is_not_null()).sort("key", number, "channel", maintain_order=True)
    rows = rows.with_columns(take=pl.col("utt_id").first().over("key"))
    twice = rows.filter(pl.struct("key", "channel").is_duplicated())
    if len(twice):
        one, other = twice["utt_id"][:2]
        raise DataDirError(
            f"'{one}' and '{other}' are both channel '{twice['channel'][0]}' of one take;"
            " --by or --group must distinguish more takes"
        )
    torn = rows.filter(pl.col("speaker_id").n_unique().over("key") > 1)["take"]
    if len(torn):
        raise DataDirError(f"the channels of the take '{torn[0]}' are of several speakers; see utt2spk")
    single = table.filter(pl.col("key").is_null()).select(columns)
    return Takes(rows.select("take", "channel", *columns, "key"), single)
