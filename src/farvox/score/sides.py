"""The utterances that an id of a trial list stands for."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.datadir.kaldi import read_lines
from farvox.errors import TrialError
from farvox.score.columns import (
    AUDIO_SUFFIXES,
    FIRST_CHANNEL,
    NOT_FIRST_CHANNEL,
    header_of,
    stem_of,
    stems_of,
)

SideMap = Mapping[str, Sequence[str]]
"""Ids of a trial list that stand for several other ids: id -> these ids."""

_DIGITS = re.compile(r"[0-9]+")
_MOST_NAMED = 4


class ChannelSet(NamedTuple):
    """The channels, ascending, that one id was read as; a template is spelled with ``{}``."""

    spelled: str
    is_template: bool
    channels: tuple[int, ...]


class FoundSide(NamedTuple):
    """The utterances that an id of a trial list, or a map where it is ``mapped``, stands for.

    Each has the number of its channel, -1 for no channel; ``read_as_channels`` are the ids that were read so.
    """

    rows: tuple[int, ...]
    channels: tuple[int, ...]
    read_as_channels: tuple[str, ...] = ()
    mapped: bool = False


def read_side_map(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read the utterances that ids stand for: lines ``model utt1 utt2 ...``, as in Kaldi's ``spk2utt``.

    Or a line for each model and segment, ``model utt``, as NIST's ``enrollment.tsv`` has them. A header
    (NIST, SdSV) names the columns; those that name neither model nor segment (a phrase, say) are not used.

    Raises:
        TrialError: ``FILE:LINE: what`` for a line without utterances, a second line of a model where lines
            hold several utterances, or a channel of a recording that is not the first.
    """
    rows = [line.split() for line in read_lines(os.fspath(path))]
    header = header_of(Path(path))
    num_headers, header = int(header != []), header or ["enrol", "test"]
    model_at, first = header.index("enrol"), header.index("test")
    side_at = header.index("side") if "side" in header else None
    last = None if header[-1] == "test" else max(n for n, kind in enumerate(header, 1) if kind == "test")
    one_by_one = num_headers or all(len(row) == 2 for row in rows)
    models: dict[str, list[str]] = {}
    for number, row in enumerate(rows[num_headers:], 1 + num_headers):
        if len(row) <= max(model_at, first, side_at or 0):
            raise TrialError(f"{path}:{number}: a line is 'model utt1 utt2 ...', not '{' '.join(row)}'")
        if row[model_at] in models and not one_by_one:
            raise TrialError(f"{path}:{number}: the model '{row[model_at]}' is there twice")
        if side_at is not None and row[side_at] not in FIRST_CHANNEL:
            raise TrialError(f"{path}:{number}: side '{row[side_at]}' {NOT_FIRST_CHANNEL}")
        models.setdefault(row[model_at], []).extend(row[first:last])
    return models


class SideFinder:
    """Finds the utterances of a side. The rules, in order:

    1. the id itself, spelled exactly so;
    2. the same without or with its audio suffix, VoxCeleb's ``id/video/file.wav`` as ``id-video-file``;
    3. ``{}`` stands for the number of a microphone: every utterance with a number in its place;
    4. an id that names no utterance stands for its channels ``ID_0, ID_1, ... ID_n``, none missing; there are
       fewer than a thousand.

    Ids with ``{}`` should all have the same microphones, those that any of them has; the others all channels
    from 0 to the highest that any of them has. The missing ones are known when all ids have been found.

    Args:
        utt_ids: the utterances there are.
        spelled: the ids that will be looked for.
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
        self.utt_ids: list[str] = list(utt_ids)
        self._ids = pl.Series("id", self.utt_ids, dtype=pl.String)
        if self._ids.n_unique() < len(self.utt_ids):
            twice = next(utt_id for utt_id, count in Counter(self.utt_ids).items() if count > 1)
            raise TrialError(f"the utterance '{twice}' is there twice: its rows cannot be distinguished")
        self._templates = {stem_of(name) for name in spelled if "{}" in name}
        self._first_channel = first_channel
        self._allow_missing = allow_missing
        self._channel_sets: list[ChannelSet] = []

    def plain_rows(self, spelled: pl.Series) -> NDArray[np.int64]:
        """The rows of ids that name one utterance each, all at once; -1 where `find` must look."""
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
    ) -> FoundSide:
        """The utterances that an id stands for, by a map or by its name.

        Args:
            spelled: the id as the trial list has it.
            as_channels: choose the channels (True) or the utterance where both the utterance ``ID`` and its
                channels ``ID_0 ...`` are there; None refuses to choose.
            side_map: ids, with or without their audio suffix, that stand for several others; those that it
                does not name stand for themselves.

        Raises:
            TrialError: there are none, or the id can be read in two ways.
        """
        model = spelled
        if side_map and spelled not in side_map:
            stem = stem_of(spelled)
            alike = (f"{stem}{suffix}" for suffix in ("", *AUDIO_SUFFIXES))
            model = next((name for name in alike if name in side_map), stem)
        if not side_map or model not in side_map:
            return self._find_by_name(spelled, as_channels)
        try:
            sides = [self._find_by_name(name, as_channels) for name in side_map[model]]
        except TrialError as error:
            raise TrialError(f"in the model '{spelled}': {error}") from None
        rows = tuple(row for side in sides for row in side.rows)
        if len(set(rows)) < len(rows):
            twice = next(row for row, count in Counter(rows).items() if count > 1)
            raise TrialError(
                f"in the model '{spelled}': the utterance '{self.utt_ids[twice]}' is there twice"
            )
        return FoundSide(
            rows,
            tuple(channel for side in sides for channel in side.channels),
            tuple(name for side in sides for name in side.read_as_channels),
            mapped=True,
        )

    def _find_by_name(self, spelled: str, as_channels: bool | None) -> FoundSide:
        """`find` without a map."""
        stem = stem_of(spelled)
        example = f" (they look like '{self.utt_ids[0]}')" if self.utt_ids else ""
        if "{}" in stem and spelled not in self._row_of_id:
            if stem.count("{}") > 1:
                raise TrialError(f"'{spelled}' has more than one {{}}")
            if stem not in self._rows_by_template:
                raise TrialError(f"no utterance matches '{spelled}' with digits in place of {{}}{example}")
            return self._as_channels(spelled, sorted(self._rows_by_template[stem]), is_template=True)

        row = self._row_of_id.get(spelled)
        if row is None:
            row = self._row_of_stem.get(stem)
            if stem in self._ids_by_shared_stem:
                raise TrialError(f"'{spelled}' can be any of {', '.join(self._ids_by_shared_stem[stem])}")
        has_channels = f"{stem}_0" in self._row_of_stem
        if row is None and not has_channels and (self._allow_missing or self._first_channel > 0):
            has_channels = stem in self._rows_by_channel
        if row is None and not has_channels:
            raise TrialError(f"no utterance '{spelled}' among the {len(self.utt_ids):,} there are{example}")
        if row is not None and has_channels and as_channels is None:
            raise TrialError(
                f"'{spelled}' is an utterance, and its channels '{stem}_0', ... are there too:"
                " say which side means channels ('farvox score --channel-ids')"
            )
        if row is not None and not (has_channels and as_channels):
            return FoundSide((row,), (-1,))

        channels = sorted(self._rows_by_channel[stem])
        numbers = {number for number, _ in channels}
        num_wanted = sum(number >= self._first_channel for number in numbers)
        missing = set(range(self._first_channel, self._first_channel + num_wanted)) - numbers
        if missing and not self._allow_missing:
            raise TrialError(
                f"'{spelled}' stands for its channels, but '{spelled}_{min(missing)}' is missing among them"
            )
        return self._as_channels(spelled, channels, is_template=False)

    @property
    def reading(self) -> str:
        """A sentence on the ids that were read as channels; empty where none was."""
        parts = []
        for is_template, form, what in (
            (True, "with {} ", "microphones"),
            (False, "", "channels ID_0, ID_1, ..."),
        ):
            sizes = [len(each.channels) for each in self._channel_sets if each.is_template == is_template]
            if sizes:
                ids, whose = ("id", "its") if len(sizes) == 1 else ("ids", "their")
                low, high = min(sizes), max(sizes)
                span = f"{low}" if low == high else f"{low} to {high}"
                parts.append(f"{len(sizes):,} {ids} {form}read as {whose} {what} ({span} each)")
        lacking = [each.spelled for each in self._channel_sets if each.spelled in self._missing_channels]
        if lacking:
            count = sum(len(self._missing_channels[spelled]) for spelled in lacking)
            parts.append(
                f"{count:,} missing {'channel' if count == 1 else 'channels'} of {len(lacking):,}"
                f" {'id' if len(lacking) == 1 else 'ids'}, the first '{lacking[0]}'"
                f" ({_numbers(self._missing_channels[lacking[0]])})"
            )
        return "; ".join(parts)

    def lacks(self, side: FoundSide) -> str:
        """The channels that a side lacks and others have, as a sentence; empty where there are none."""
        for spelled in side.read_as_channels:
            if missing := self._missing_channels.get(spelled):
                channels = "channel" if len(missing) == 1 else "channels"
                return (
                    f"'{spelled}' lacks {channels} {_numbers(missing)}, which others have:"
                    " bring them, or let them be counted ('--allow-missing-channels')"
                )
        return ""

    @cached_property
    def _missing_channels(self) -> dict[str, list[int]]:
        """The channels that ids lack, by the id; known when all were found."""
        microphones = {n for each in self._channel_sets if each.is_template for n in each.channels}
        numbered = {n for each in self._channel_sets if not each.is_template for n in each.channels}
        numbered = set(range(self._first_channel, max(numbered, default=-1) + 1))
        missing = {}
        for each in self._channel_sets:
            expected = microphones if each.is_template else numbered
            if len(each.channels) != len(expected) and (lacking := expected.difference(each.channels)):
                missing[each.spelled] = sorted(lacking)
        return missing

    def _as_channels(self, spelled: str, channels: list[tuple[int, int]], is_template: bool) -> FoundSide:
        """The side of an id that is read as channels, without those below the first one."""
        kept = [(number, row) for number, row in channels if number >= self._first_channel]
        if not kept:
            raise TrialError(f"'{spelled}' has no channel from number {self._first_channel} on")
        numbers, rows = zip(*kept, strict=True)
        self._channel_sets.append(ChannelSet(spelled, is_template, numbers))
        return FoundSide(rows, numbers, (spelled,))

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
    def _ids_by_shared_stem(self) -> dict[str, list[str]]:
        """Ids that differ in their suffix only, in quotation marks, by stem."""
        if len(self._row_of_stem) == len(self.utt_ids):
            return {}
        found: dict[str, list[str]] = {stem: [] for stem, n in Counter(self._stems).items() if n > 1}
        for utt_id, stem in zip(self.utt_ids, self._stems, strict=True):
            if stem in found:
                found[stem].append(f"'{utt_id}'")
        return found

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
    def _rows_by_channel(self) -> dict[str, list[tuple[int, int]]]:
        """(channel, row) of the utterances named ``ID_<channel>``, by ``ID``."""
        found: dict[str, list[tuple[int, int]]] = {}
        for row, stem in enumerate(self._stems):
            utt_id, _, channel = stem.rpartition("_")
            if channel.isdecimal() and len(channel) < 4 and str(int(channel)) == channel:
                found.setdefault(utt_id, []).append((int(channel), row))
        return found


def _rows_of(names: pl.Series, known: pl.Series) -> NDArray[np.int64]:
    """The row of each name in ``known``, whose values are unique; -1 where it is not there."""
    table = known.alias("name").to_frame().with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
    found = names.alias("name").to_frame().join(table, on="name", how="left", maintain_order="left")
    return found["row"].fill_null(-1).to_numpy(writable=True)


def _numbers(channels: Sequence[int]) -> str:
    shown = ", ".join(map(str, channels[:_MOST_NAMED]))
    return f"{shown}, ..." if len(channels) > _MOST_NAMED else shown
