"""Which utterances an id of a trial list stands for."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.datadir.kaldi import read_lines
from farvox.errors import TrialError
from farvox.score.columns import stem_of, stems_of

SideMap = Mapping[str, Sequence[str]]
"""Ids of a trial list that stand for several utterances: id -> what it stands for."""

_DIGITS = re.compile(r"[0-9]+")
_MOST_NAMED = 4


class ChannelSet(NamedTuple):
    """The channels that one id was read as.

    Attributes:
        spelled: the id.
        is_template: whether it is spelled with ``{}``.
        channels: their numbers, ascending.
    """

    spelled: str
    is_template: bool
    channels: tuple[int, ...]


class Side(NamedTuple):
    """What an id of a trial list stands for.

    Attributes:
        rows: the utterances.
        channels: the number of the channel of each; -1 for what is no channel.
        channel_sets: the ids that were read as channels.
        mapped: whether a map says so.
    """

    rows: tuple[int, ...]
    channels: tuple[int, ...]
    channel_sets: tuple[ChannelSet, ...] = ()
    mapped: bool = False


def read_side_map(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read lines ``model utt1 utt2 ...``, as in Kaldi's ``spk2utt``: ids that stand for several utterances.

    Raises:
        TrialError: ``FILE:LINE: what`` for a line without utterances or a model that is there twice.
    """
    models: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(os.fspath(path)), 1):
        name, *utterances = line.split() or [""]
        if not utterances:
            raise TrialError(f"{path}:{number}: a line is 'model utt1 utt2 ...', not '{line}'")
        if name in models:
            raise TrialError(f"{path}:{number}: the model '{name}' is there twice")
        models[name] = utterances
    return models


class SideFinder:
    """Finds the utterances of a side. The rules, in order:

    1. the id itself, spelled exactly so;
    2. the same without or with its audio suffix, VoxCeleb's ``id/video/file.wav`` as ``id-video-file``;
    3. ``{}`` stands for the number of a microphone: every utterance with a number in its place;
    4. an id that names no utterance stands for its channels ``ID_0, ID_1, ... ID_n``, none missing; there are
       fewer than a thousand.

    Ids with ``{}`` should all have the same microphones, those that any of them has; the others all channels
    from 0 to the highest that any of them has. What is missing is known when all ids have been asked for.

    Args:
        utt_ids: the utterances there are.
        spelled: the ids that will be asked for.
        first_channel: channels with a lower number are left out.
        allow_missing: channels may be missing among ``ID_0, ID_1, ...``.

    Raises:
        TrialError: an utterance is there twice.
    """

    def __init__(
        self,
        utt_ids: Iterable[str],
        spelled: Iterable[str],
        *,
        first_channel: int = 0,
        allow_missing: bool = False,
    ) -> None:
        self.utt_ids = list(utt_ids)
        self._ids = pl.Series("id", self.utt_ids, dtype=pl.String)
        if self._ids.n_unique() < len(self.utt_ids):
            twice = next(utt_id for utt_id, count in Counter(self.utt_ids).items() if count > 1)
            raise TrialError(f"the utterance '{twice}' is there twice: its rows cannot be told apart")
        self._templates = {stem_of(name) for name in spelled if "{}" in name}
        self._first_channel = first_channel
        self._allow_missing = allow_missing
        self._channel_sets: list[ChannelSet] = []

    def plain_rows(self, spelled: pl.Series) -> NDArray[np.int64]:
        """The rows of ids that name one utterance each, all at once; -1 where `find` must be asked."""
        rows = _rows_of(spelled, self._ids)
        stems, stem_ids = stems_of(spelled), stems_of(self._ids)
        if stem_ids.n_unique() == len(stem_ids):
            by_stem = _rows_of(stems, stem_ids)
            rows = np.where((rows < 0) & ~stems.str.contains("{}", literal=True).to_numpy(), by_stem, rows)
        with_channels = stem_ids.filter(stem_ids.str.ends_with("_0")).str.strip_suffix("_0")
        if len(with_channels):
            rows[stems.is_in(with_channels.to_list()).to_numpy()] = -1
        return rows

    def find(
        self, spelled: str, as_channels: bool | None = None, side_map: SideMap | None = None
    ) -> Side | str:
        """What ``spelled`` stands for, or why there is nothing. Arguments as `find_one`.

        Args:
            spelled: the id as the trial list has it.
            as_channels: see `find_one`.
            side_map: ids, with or without their audio suffix, that stand for several others; those that it
                does not name stand for themselves.
        """
        if side_map is None:
            return self.find_one(spelled, as_channels)
        model = spelled if spelled in side_map else stem_of(spelled)
        if model not in side_map:
            return self.find_one(spelled, as_channels)
        members = [self.find_one(name, as_channels) for name in side_map[model]]
        for member in members:
            if isinstance(member, str):
                return f"in the model '{spelled}': {member}"
        sides = [member for member in members if not isinstance(member, str)]
        rows = tuple(row for side in sides for row in side.rows)
        if len(set(rows)) < len(rows):
            twice = next(row for row, count in Counter(rows).items() if count > 1)
            return f"in the model '{spelled}': the utterance '{self.utt_ids[twice]}' is there twice"
        return Side(
            rows,
            tuple(channel for side in sides for channel in side.channels),
            tuple(channel_set for side in sides for channel_set in side.channel_sets),
            mapped=True,
        )

    def find_one(self, spelled: str, as_channels: bool | None = None) -> Side | str:
        """The utterances that an id stands for by its name, or why there are none.

        Args:
            spelled: the id as the trial list has it.
            as_channels: what is meant where both the utterance and its channels ``ID_0 ...`` are
                there; None refuses to choose.
        """
        stem = stem_of(spelled)
        if "{}" in stem and spelled not in self._row_of_id:
            return self._template(spelled, stem)
        row = self._row_of_id.get(spelled)
        if row is None:
            row = self._row_of_stem.get(stem)
            if row is not None and self._twins and stem in self._twins:
                return f"'{spelled}' can be any of {', '.join(self._twins[stem])}"
        is_channel_set = f"{stem}_0" in self._row_of_stem
        if row is None and not is_channel_set:
            need_not_begin_at_0 = self._allow_missing or self._first_channel > 0
            is_channel_set = need_not_begin_at_0 and stem in self._channels_by_stem
        if row is None and not is_channel_set:
            return f"no utterance '{spelled}' among the {len(self.utt_ids):,} there are{self._example()}"
        if row is not None and is_channel_set and as_channels is None:
            return (
                f"'{spelled}' is an utterance, and its channels '{stem}_0', ... are there too:"
                " say which side means channels ('farvox score --channel-ids')"
            )
        if row is not None and not (is_channel_set and as_channels):
            return Side((row,), (-1,))
        return self._channels(spelled, stem)

    @property
    def reading(self) -> str:
        """What was read otherwise than as one id, one utterance; empty where nothing was."""
        parts = []
        for is_template, form, what in (
            (True, "with {} ", "microphones"),
            (False, "", "channels ID_0, ID_1, ..."),
        ):
            sizes = [len(each.channels) for each in self._channel_sets if each.is_template == is_template]
            if sizes:
                ids, whose = ("id", "its") if len(sizes) == 1 else ("ids", "their")
                parts.append(f"{len(sizes):,} {ids} {form}read as {whose} {what} ({_span(sizes)} each)")
        if lacking := [(each, gone) for each in self._channel_sets if (gone := self._missing(each))]:
            num_channels, (first, gone) = sum(len(gone) for _, gone in lacking), lacking[0]
            parts.append(
                f"{num_channels:,} missing {_channels_of(num_channels)} of {len(lacking):,}"
                f" {'id' if len(lacking) == 1 else 'ids'}, the first '{first.spelled}' ({_numbered(gone)})"
            )
        return "; ".join(parts)

    def lacks(self, side: Side) -> str:
        """Which channels a side lacks that others have, as a sentence; empty where there is none."""
        for each in side.channel_sets:
            if gone := self._missing(each):
                return (
                    f"'{each.spelled}' lacks {_channels_of(len(gone))} {_numbered(gone)}, which others have:"
                    " bring them, or let them be counted ('--allow-missing-channels')"
                )
        return ""

    def _missing(self, one: ChannelSet) -> list[int]:
        expected = self._expected[one.is_template]
        if len(one.channels) == len(expected):
            return []
        return sorted(expected - set(one.channels))

    @cached_property
    def _expected(self) -> tuple[set[int], set[int]]:
        """The channels that each id should have, without and with ``{}``; known when all were found."""
        numbered = {n for each in self._channel_sets if not each.is_template for n in each.channels}
        return (
            set(range(self._first_channel, max(numbered, default=-1) + 1)),
            {n for each in self._channel_sets if each.is_template for n in each.channels},
        )

    def _template(self, spelled: str, stem: str) -> Side | str:
        if stem.count("{}") > 1:
            return f"'{spelled}' has more than one {{}}"
        channels = self._rows_by_template.get(stem)
        if channels is None:
            return f"no utterance matches '{spelled}' with digits in place of {{}}{self._example()}"
        return self._side(spelled, sorted(channels), is_template=True)

    def _channels(self, spelled: str, stem: str) -> Side | str:
        channels = sorted(self._channels_by_stem[stem])
        numbers = {number for number, _ in channels}
        wanted = sum(number >= self._first_channel for number in numbers)
        missing = set(range(self._first_channel, self._first_channel + wanted)) - numbers
        if missing and not self._allow_missing:
            return (
                f"'{spelled}' stands for its channels, but '{spelled}_{min(missing)}' is missing among them"
            )
        return self._side(spelled, channels, is_template=False)

    def _side(self, spelled: str, channels: list[tuple[int, int]], is_template: bool) -> Side | str:
        kept = [(number, row) for number, row in channels if number >= self._first_channel]
        if not kept:
            return f"'{spelled}' has no channel from number {self._first_channel} on"
        numbers, rows = zip(*kept, strict=True)
        channel_set = ChannelSet(spelled, is_template, numbers)
        self._channel_sets.append(channel_set)
        return Side(rows, numbers, (channel_set,))

    def _example(self) -> str:
        return f" (they look like '{self.utt_ids[0]}')" if self.utt_ids else ""

    @cached_property
    def _row_of_id(self) -> dict[str, int]:
        return {utt_id: row for row, utt_id in enumerate(self.utt_ids)}

    @cached_property
    def _stems(self) -> list[str]:
        return [stem_of(utt_id) for utt_id in self.utt_ids]

    @cached_property
    def _row_of_stem(self) -> dict[str, int]:
        return {stem: row for row, stem in enumerate(self._stems)}

    @cached_property
    def _twins(self) -> dict[str, list[str]]:
        """Ids that differ in their suffix only, by stem."""
        if len(self._row_of_stem) == len(self.utt_ids):
            return {}
        twins: dict[str, list[str]] = {stem: [] for stem, n in Counter(self._stems).items() if n > 1}
        for utt_id, stem in zip(self.utt_ids, self._stems, strict=True):
            if stem in twins:
                twins[stem].append(f"'{utt_id}'")
        return twins

    @cached_property
    def _rows_by_template(self) -> dict[str, list[tuple[int, int]]]:
        """(number, row) of the utterances that match each template with one of their numbers in its place."""
        found: dict[str, list[tuple[int, int]]] = {}
        before = {template.partition("{}")[0] for template in self._templates}
        for row, stem in enumerate(self._stems):
            for digits in _DIGITS.finditer(stem):
                if stem[: digits.start()] in before:
                    template = f"{stem[: digits.start()]}{{}}{stem[digits.end() :]}"
                    if template in self._templates:
                        found.setdefault(template, []).append((int(digits[0]), row))
        return found

    @cached_property
    def _channels_by_stem(self) -> dict[str, list[tuple[int, int]]]:
        """(channel, row) of the utterances named ``ID_<channel>``, by ``ID``."""
        found: dict[str, list[tuple[int, int]]] = {}
        for row, stem in enumerate(self._stems):
            utt_id, _, channel = stem.rpartition("_")
            if channel.isdecimal() and len(channel) < 4 and str(int(channel)) == channel:
                found.setdefault(utt_id, []).append((int(channel), row))
        return found


def _rows_of(names: pl.Series, known: pl.Series) -> NDArray[np.int64]:
    """Where each name is in ``known``, whose values are unique; -1 where it is not."""
    table = known.alias("name").to_frame().with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
    found = names.alias("name").to_frame().join(table, on="name", how="left", maintain_order="left")
    return found["row"].fill_null(-1).to_numpy(writable=True)


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low}" if low == high else f"{low} to {high}"


def _numbered(channels: Sequence[int]) -> str:
    shown = ", ".join(map(str, channels[:_MOST_NAMED]))
    return f"{shown}, ..." if len(channels) > _MOST_NAMED else shown


def _channels_of(count: int) -> str:
    return "channel" if count == 1 else "channels"
