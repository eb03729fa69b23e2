"""Trial lists: one reader for every form in use, and the utterances that every side stands for.

A list has two or three columns; with three, the label is first (VoxCeleb, FFSVC2022) or last
(FFSVC2020, HI-MIA) and is spelled ``1``/``0``, ``target``/``nontarget`` or ``tgt``/``imp``. The form
is found by looking at every line, never guessed from the first. A side is one utterance, or several
channels: HI-MIA's ``{}`` for the microphone number, or a bare ``ID`` for ``ID_0 ... ID_n``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.atomic import atomic_file
from farvox.errors import TrialError
from farvox.score import ChannelIds
from farvox.score.columns import encoded_columns
from farvox.score.sides import SideFinder, SideMap

LINES_PER_BLOCK = 1_000_000

LABEL_WORDS = ({"1": 1, "0": 0}, {"target": 1, "nontarget": 0}, {"tgt": 1, "imp": 0})


@dataclass(frozen=True, eq=False)
class TrialList:
    """A trial list as it was read; trial ``n`` (from 0) is line ``n + 1`` of the file.

    Attributes:
        path: the file.
        ids: every string of the list once, as spelled there.
        enrol_code: index into ``ids`` of each enrolment side, int32 [num_trials].
        test_code: the same of each test side.
        target: 1 for the same speaker, 0 for another, int8 [num_trials]; None where no key is given.
        form: one sentence that says what the reader found.
    """

    path: Path
    ids: pl.Series = field(repr=False)
    enrol_code: NDArray[np.int32] = field(repr=False)
    test_code: NDArray[np.int32] = field(repr=False)
    target: NDArray[np.int8] | None = field(repr=False)
    form: str

    def __len__(self) -> int:
        return len(self.enrol_code)

    @property
    def enrol(self) -> pl.Series:
        """The enrolment side of every trial, as spelled in the file."""
        return self.ids.gather(self.enrol_code).alias("enrol")

    @property
    def test(self) -> pl.Series:
        """The test side of every trial, as spelled in the file."""
        return self.ids.gather(self.test_code).alias("test")

    def resolve(
        self,
        utt_ids: Sequence[str] | pl.Series,
        channel_ids: ChannelIds | None = None,
        *,
        enrol_map: SideMap | None = None,
        test_map: SideMap | None = None,
        first_channel: int = 0,
        allow_missing_channels: bool = False,
    ) -> ResolvedTrials:
        """Find the utterances that every side stands for; the rules are those of `SideFinder`.

        Args:
            utt_ids: the utterances there are (of a data dir, or of an `EmbeddingSet`), without duplicates.
            channel_ids: the side whose ids mean their channels ``ID_0, ID_1, ...`` where an utterance
                ``ID`` is there too (the homework's blind list has seven such ids); None refuses them.
            enrol_map: enrolment ids that stand for several utterances, each an id like any other; see
                `farvox.score.sides.read_side_map`.
            test_map: the same of the test side.
            first_channel: channels with a lower number are left out (Kaldi's recipe starts at 1).
            allow_missing_channels: count, in ``reading``, the channels that a side lacks and others have.

        Raises:
            TrialError: an id names no utterance, can be read in two ways or lacks channels
                (``FILE:LINE: what``), or ``utt_ids`` holds an utterance twice.
        """
        enrol_key, test_key = self.enrol_code, self.test_code
        if channel_ids in ("enrol", "test") or enrol_map or test_map:
            test_key = test_key + np.int32(
                len(self.ids)
            )  # read differently: an id on both sides is two sides
        is_used = np.zeros(2 * len(self.ids), bool)
        is_used[enrol_key] = is_used[test_key] = True
        keys = np.flatnonzero(is_used)
        names = self.ids.gather(keys % len(self.ids))
        spelled = names.to_list()
        members = (
            name
            for side_map in (enrol_map, test_map)
            for names in (side_map or {}).values()
            for name in names
        )
        finder = SideFinder(
            utt_ids,
            chain(spelled, members),
            first_channel=first_channel,
            allow_missing=allow_missing_channels,
        )
        row_of_key = np.full(len(keys), -1) if enrol_map or test_map else finder.plain_rows(names)
        on_test = keys >= len(self.ids)
        found = {
            n: finder.find(
                spelled[n],
                _as_channels(channel_ids, bool(on_test[n])),
                test_map if on_test[n] else enrol_map,
            )
            for n in np.flatnonzero(row_of_key < 0).tolist()
        }
        faults = {int(keys[n]): side for n, side in found.items() if isinstance(side, str)}
        sides = {n: side for n, side in found.items() if not isinstance(side, str)}
        if not faults and not allow_missing_channels:
            faults = {int(keys[n]): what for n, side in sides.items() if (what := finder.lacks(side))}
        if faults:
            raise self._unresolved(faults, enrol_key, test_key)
        side_of_key = np.zeros(2 * len(self.ids), np.int64)
        side_of_key[keys] = np.arange(len(keys))
        size_S = np.ones(len(keys), np.int64)
        size_S[list(sides)] = [len(side.rows) for side in sides.values()]
        rows, channels = np.repeat(row_of_key, size_S), np.full(size_S.sum(), -1, np.int32)
        from_several = np.repeat(row_of_key < 0, size_S)
        rows[from_several] = list(chain.from_iterable(side.rows for side in sides.values()))
        channels[from_several] = list(chain.from_iterable(side.channels for side in sides.values()))
        mapped = np.zeros(len(keys), bool)
        mapped[list(sides)] = [side.mapped for side in sides.values()]
        return ResolvedTrials(
            trials=self,
            utt_ids=finder.utt_ids,
            side_offsets=np.append(0, np.cumsum(size_S)),
            side_rows=rows,
            enrol_side=side_of_key[enrol_key],
            test_side=side_of_key[test_key],
            reading=finder.reading,
            side_mapped=mapped,
            row_channel=channels,
        )

    def _unresolved(
        self, faults: dict[int, str], enrol_key: NDArray[np.int32], test_key: NDArray[np.int32]
    ) -> TrialError:
        keys = np.fromiter(faults, np.int32)
        first = int(np.argmax(np.isin(enrol_key, keys) | np.isin(test_key, keys)))
        what = faults.get(int(enrol_key[first])) or faults[int(test_key[first])]
        more = f" (and {len(faults) - 1:,} more ids)" if len(faults) > 1 else ""
        return TrialError(f"{self.path}:{first + 1}: {what}{more}")


@dataclass(frozen=True, eq=False)
class ResolvedTrials:
    """A trial list whose sides are known: side ``s`` is ``side_rows[side_offsets[s]:side_offsets[s + 1]]``.

    Attributes:
        trials: the list.
        utt_ids: the utterances it was resolved against; rows are positions in it.
        side_offsets: int64 [num_sides + 1].
        side_rows: int64, the rows of all sides one after the other.
        enrol_side: the side of each enrolment, int64 [num_trials].
        test_side: the same of each test.
        reading: a sentence for each reading that is not one id, one utterance; empty where there is none.
        side_mapped: whether a map says what the side stands for, bool [num_sides].
        row_channel: number of the channel of each of ``side_rows``, int32; -1 for what is no channel.
    """

    trials: TrialList
    utt_ids: list[str] = field(repr=False)
    side_offsets: NDArray[np.int64] = field(repr=False)
    side_rows: NDArray[np.int64] = field(repr=False)
    enrol_side: NDArray[np.int64] = field(repr=False)
    test_side: NDArray[np.int64] = field(repr=False)
    reading: str
    side_mapped: NDArray[np.bool_] = field(repr=False)
    row_channel: NDArray[np.int32] = field(repr=False)

    def __len__(self) -> int:
        return len(self.enrol_side)

    @property
    def target(self) -> NDArray[np.int8] | None:
        """The key of the list, see `TrialList`."""
        return self.trials.target

    @property
    def needed_rows(self) -> NDArray[np.int64]:
        """The rows that some trial needs, ascending."""
        return np.unique(self.side_rows)

    @property
    def needed_ids(self) -> list[str]:
        """The utterances that some trial needs, in the order of ``utt_ids``."""
        return [self.utt_ids[row] for row in self.needed_rows]


def write_trials(path: str | os.PathLike[str], trials: TrialList) -> None:
    """Write a list as HI-MIA has it, ``enrol test target|nontarget``, or without labels."""
    with atomic_file(Path(path)) as temporary, open(temporary, "wb") as file:
        for first in range(0, len(trials), LINES_PER_BLOCK):
            block = slice(first, first + LINES_PER_BLOCK)
            columns = [trials.ids.gather(trials.enrol_code[block]).alias("enrol")]
            columns.append(trials.ids.gather(trials.test_code[block]).alias("test"))
            if trials.target is not None:
                words = pl.Series("target", ["nontarget", "target"])
                columns.append(words.gather(trials.target[block].astype(np.int32)))
            lines = pl.DataFrame(columns)
            lines.write_csv(file, separator=" ", include_header=False, quote_style="never")


def read_trials(path: str | os.PathLike[str]) -> TrialList:
    """Read a trial list of any form; what was found is said in ``form``.

    Raises:
        TrialError: ``FILE:LINE: what`` for the first line that does not fit the form of the others.
    """
    path = Path(path)
    columns, ids = encoded_columns(path, widths=(2, 3))
    count = f"{columns.shape[1]:,} trials"
    if len(columns) == 2:
        form = f"{count}: enrolment, test; no labels"
        return TrialList(path, ids, columns[0], columns[1], None, form)
    labels = _label_column(path, columns, ids)
    target_of_id = np.full(len(ids), -1, np.int8)
    for word, label in labels.words.items():
        target_of_id[(ids == word).to_numpy()] = label
    target = target_of_id[columns[labels.column]]
    enrol, test = columns[1:] if labels.column == 0 else columns[:2]
    order = ["enrolment", "test"]
    order.insert(labels.column, f"label ({labels.spelled})")
    return TrialList(path, ids, enrol, test, target, f"{count}: {', '.join(order)}")


def _as_channels(channel_ids: ChannelIds | None, on_test: bool) -> bool | None:
    if channel_ids is None:
        return None
    return channel_ids == "both" or channel_ids == ("test" if on_test else "enrol")


class _Labels(NamedTuple):
    """A way to read a column as labels: the words, whether an id is one of them, on how many lines it is."""

    column: int
    words: dict[str, int]
    is_label: NDArray[np.bool_]
    num_lines: int

    @property
    def spelled(self) -> str:
        return "/".join(self.words)


def _label_column(path: Path, columns: NDArray[np.int32], ids: pl.Series) -> _Labels:
    """The column, first or last, that holds labels on every line, and the words it spells them with."""
    num_lines = columns.shape[1]
    readings = []
    for column in (0, 2):
        lines_of_id = np.bincount(columns[column], minlength=len(ids))
        for words in LABEL_WORDS:
            is_label = ids.is_in(list(words)).to_numpy()
            readings.append(_Labels(column, words, is_label, int(lines_of_id[is_label].sum())))
    fitting = [labels for labels in readings if labels.num_lines == num_lines]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise TrialError(f"{path}: both the first and the last column hold labels: remove one of them")
    best = max(readings, key=lambda labels: labels.num_lines)
    if best.num_lines == 0:
        known = ", ".join("/".join(words) for words in LABEL_WORDS)
        raise TrialError(f"{path}:1: three columns, but neither the first nor the last is a label ({known})")
    line = int(np.argmin(best.is_label[columns[best.column]]))
    word, place = ids[int(columns[best.column, line])], "first" if best.column == 0 else "last"
    raise TrialError(
        f"{path}:{line + 1}: '{word}' is not a label: "
        f"{best.num_lines:,} of the {num_lines:,} lines have {best.spelled} in the {place} column"
    )
