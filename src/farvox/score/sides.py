"""Which utterances an id of a trial list stands for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from farvox.errors import TrialError
from farvox.score.columns import stem_of

_DIGITS = re.compile(r"[0-9]+")


class SideFinder:
    """Finds the utterances of a side. The rules, in order:

    1. the id itself, spelled exactly so;
    2. the same without or with its audio suffix, VoxCeleb's ``id/video/file.wav`` as ``id-video-file``;
    3. ``{}`` stands for the number of a microphone: every utterance with a number in its place;
    4. an id that names no utterance stands for its channels ``ID_0, ID_1, ... ID_n``, none missing.

    Args:
        utt_ids: the utterances there are.
        spelled: the ids that will be asked for.

    Raises:
        TrialError: an utterance is there twice.
    """

    def __init__(self, utt_ids: Iterable[str], spelled: Iterable[str]) -> None:
        self.utt_ids = list(utt_ids)
        self._row_of_id = {utt_id: row for row, utt_id in enumerate(self.utt_ids)}
        if len(self._row_of_id) < len(self.utt_ids):
            twice = next(utt_id for utt_id, count in Counter(self.utt_ids).items() if count > 1)
            raise TrialError(f"the utterance '{twice}' is there twice: its rows cannot be told apart")
        self._stems = [stem_of(utt_id) for utt_id in self.utt_ids]
        self._row_of_stem = {stem: row for row, stem in enumerate(self._stems)}
        self._templates = {stem_of(name) for name in spelled if "{}" in name}
        self._template_sizes: list[int] = []
        self._channel_sizes: list[int] = []

    def find(self, spelled: str, as_channels: bool | None = None) -> Sequence[int] | str:
        """The rows of the utterances that ``spelled`` stands for, or why there are none.

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
            return f"no utterance '{spelled}' among the {len(self.utt_ids):,} there are{self._example()}"
        if row is not None and is_channel_set and as_channels is None:
            return (
                f"'{spelled}' is an utterance, and its channels '{stem}_0', ... are there too:"
                " say which side means channels ('farvox score --channel-ids')"
            )
        if row is not None and not (is_channel_set and as_channels):
            return (row,)
        return self._channels(spelled, stem)

    @property
    def reading(self) -> str:
        """What was read otherwise than as one id, one utterance; empty where nothing was."""
        kinds = (
            (self._template_sizes, "with {} ", "microphones"),
            (self._channel_sizes, "", "channels ID_0, ID_1, ..."),
        )
        return "; ".join(
            f"{len(sizes):,} {'id' if len(sizes) == 1 else 'ids'} {form}read as"
            f" {'its' if len(sizes) == 1 else 'their'} {what} ({_span(sizes)} each)"
            for sizes, form, what in kinds
            if sizes
        )

    def _template(self, spelled: str, stem: str) -> Sequence[int] | str:
        if stem.count("{}") > 1:
            return f"'{spelled}' has more than one {{}}"
        channels = self._rows_by_template.get(stem)
        if channels is None:
            return f"no utterance matches '{spelled}' with digits in place of {{}}{self._example()}"
        self._template_sizes.append(len(channels))
        return [row for _, row in sorted(channels)]

    def _channels(self, spelled: str, stem: str) -> Sequence[int] | str:
        rows = dict(self._channels_by_stem[stem])
        if sorted(rows) != list(range(len(rows))):
            missing = min(set(range(len(rows))) - set(rows))
            return f"'{spelled}' stands for its channels, but '{spelled}_{missing}' is missing among them"
        self._channel_sizes.append(len(rows))
        return [rows[channel] for channel in range(len(rows))]

    def _example(self) -> str:
        return f" (they look like '{self.utt_ids[0]}')" if self.utt_ids else ""

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
            if channel.isdecimal() and str(int(channel)) == channel:
                found.setdefault(utt_id, []).append((int(channel), row))
        return found


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low}" if low == high else f"{low} to {high}"
