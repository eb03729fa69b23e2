"""Trial lists: one reader for every form in use, and the utterances that every side stands for.

A list has two or three columns; with three, the label is first (VoxCeleb, FFSVC2022) or last
(FFSVC2020, HI-MIA) and is spelled ``1``/``0`` (``-1``, ``1.0``/``0.0``), ``target``/``nontarget`` or
``tgt``/``imp``. The form is found by looking at every line, never guessed from the first. Lists of NIST and
SdSV have a header, which names the columns. A side is one utterance, or several channels: HI-MIA's ``{}`` for
the microphone number, or a bare ``ID`` for ``ID_0 ... ID_n``.

Shape suffixes: S side, R row of a side.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.atomic import FileKind, atomic_file
from farvox.errors import TrialError
from farvox.score import ChannelIds
from farvox.score.columns import FIRST_CHANNEL, NOT_FIRST_CHANNEL, encoded_columns, header_of, stems_of
from farvox.score.sides import FoundSide, SideFinder, SideMap

LINES_PER_BLOCK = 1_000_000

TRIAL_LIST = FileKind(
    "trial list",
    rb"[^ \t]+[ \t]+[^ \t]+[ \t]+(?:[01]|target|nontarget|tgt|imp)|(?:[01]|tgt|imp|(?:non)?target)[ \t]+"
    rb"[^ \t]+[ \t]+[^ \t]+",
    lines=True,
)
UNLABELLED_LIST = FileKind("trial list without labels", rb"[^ \t]+[ \t]+[^ \t]+", lines=True)
LABEL_NUMBERS = ({"1": 1, "0": 0}, {"1": 1, "-1": 0}, {"1.0": 1, "0.0": 0})
LABEL_WORDS = tuple(
    {spelling: label for word, label in words.items() for spelling in (word, word.capitalize(), word.upper())}
    for words in (
        {"target": 1, "nontarget": 0},
        {"tgt": 1, "imp": 0},
        {"true": 1, "false": 0},
    )
)
"""Label of each word, also in capitals."""
LABELS = LABEL_NUMBERS + LABEL_WORDS


@dataclass(frozen=True, eq=False)
class TrialList:
    """A trial list as it was read.

    Attributes:
        path: the file.
        ids: every string of the list once, as spelled there.
        enrol_code: index into ``ids`` of each enrolment side, int32 [num_trials].
        test_code: the same of each test side.
        target: 1 for the same speaker, 0 for another, int8 [num_trials]; None where no key is given.
        form: a sentence on the columns that the reader found.
        first_line: the line of the first trial: 2 where the file has a header.
    """

    path: Path
    ids: pl.Series = field(repr=False)
    enrol_code: NDArray[np.int32] = field(repr=False)
    test_code: NDArray[np.int32] = field(repr=False)
    target: NDArray[np.int8] | None = field(repr=False)
    form: str
    first_line: int = 1

    def __len__(self) -> int:
        return len(self.enrol_code)

    def at(self, trial: int) -> str:
        """``FILE:LINE`` of a trial, counted from 0."""
        return f"{self.path}:{self.first_line + trial}"

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
        """Find the utterances that every side stands for, by the rules of `SideFinder`.

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
        # An id is looked for once, or once for each side where the two sides are read differently. Its key is
        # its code, plus the number of ids where it is looked for as a test side of its own.
        num_ids = len(self.ids)
        enrol_key, test_key = self.enrol_code, self.test_code
        if channel_ids in ("enrol", "test") or enrol_map or test_map:
            test_key = test_key + np.int32(num_ids)
        is_used = np.zeros(2 * num_ids, bool)
        is_used[enrol_key] = is_used[test_key] = True
        key_S = np.flatnonzero(is_used)
        id_S = self.ids.gather(key_S % num_ids)

        # Ids that name one utterance are found all at once, the others one by one.
        spelled_S, on_test_S = id_S.to_list(), key_S >= num_ids
        maps = [side_map for side_map in (enrol_map, test_map) if side_map]
        mapped_ids = chain.from_iterable(ids for side_map in maps for ids in side_map.values())
        finder = SideFinder(
            utt_ids,
            chain(spelled_S, mapped_ids),
            first_channel=first_channel,
            allow_missing=allow_missing_channels,
        )
        row_S = np.full(len(key_S), -1) if maps else finder.plain_rows(id_S)
        found: dict[int, FoundSide] = {}
        faults: dict[int, str] = {}
        for s in np.flatnonzero(row_S < 0).tolist():
            side, side_map = ("test", test_map) if on_test_S[s] else ("enrol", enrol_map)
            as_channels = None if channel_ids is None else channel_ids in ("both", side)
            try:
                found[s] = finder.find(spelled_S[s], as_channels, side_map)
            except TrialError as error:
                faults[int(key_S[s])] = str(error)
        if not faults and not allow_missing_channels:
            faults = {int(key_S[s]): what for s, side in found.items() if (what := finder.lacks(side))}
        if faults:
            at_fault = np.fromiter(faults, np.int32)
            trial = int(np.argmax(np.isin(enrol_key, at_fault) | np.isin(test_key, at_fault)))
            what = faults.get(int(enrol_key[trial])) or faults[int(test_key[trial])]
            more = f" (and {len(faults) - 1:,} more ids)" if len(faults) > 1 else ""
            raise TrialError(f"{self.at(trial)}: {what}{more}")

        # The rows of all sides, one side after the other.
        side_of_key = np.zeros(2 * num_ids, np.int64)
        side_of_key[key_S] = np.arange(len(key_S))
        size_S, mapped_S = np.ones(len(key_S), np.int64), np.zeros(len(key_S), bool)
        size_S[list(found)] = [len(side.rows) for side in found.values()]
        mapped_S[list(found)] = [side.mapped for side in found.values()]
        is_found_R = np.repeat(row_S < 0, size_S)
        row_R, channel_R = np.repeat(row_S, size_S), np.full(len(is_found_R), -1, np.int32)
        row_R[is_found_R] = list(chain.from_iterable(side.rows for side in found.values()))
        channel_R[is_found_R] = list(chain.from_iterable(side.channels for side in found.values()))
        return ResolvedTrials(
            trials=self,
            utt_ids=finder.utt_ids,
            side_offsets=np.append(0, np.cumsum(size_S)),
            side_rows=row_R,
            enrol_side=side_of_key[enrol_key],
            test_side=side_of_key[test_key],
            reading=finder.reading,
            side_mapped=mapped_S,
            row_channel=channel_R,
        )


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
        reading: sentences on the ids that were read as channels; empty where none was.
        side_mapped: the sides whose utterances a map names, bool [num_sides].
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

    def shared(self, recordings: pl.Series) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The trials whose sides share a recording.

        Args:
            recordings: the recording of each of ``utt_ids``, see
                `farvox.datadir.conditions.recordings_of`.

        Returns:
            The trials of a recording against itself, and those in which it is one of several of a side;
            bool [num_trials] each.
        """
        number_N = recordings.rank("dense").to_numpy().astype(np.int64)
        num, sizes = int(number_N.max()) + 1, np.diff(self.side_offsets)
        # The recordings of every side, each once.
        key_R = np.unique(np.repeat(np.arange(len(sizes)), sizes) * num + number_N[self.side_rows])
        side_R, recording_R = np.divmod(key_R, num)
        size_S = np.bincount(side_R, minlength=len(sizes))
        start_S = np.cumsum(size_S) - size_S
        is_self, is_inside = np.zeros(len(self), bool), np.zeros(len(self), bool)
        for first in range(0, len(self), LINES_PER_BLOCK):
            block = slice(first, first + LINES_PER_BLOCK)
            enrol, test = self.enrol_side[block], self.test_side[block]
            is_shared = recording_R[start_S[enrol]] == recording_R[start_S[test]]
            is_single = (size_S[enrol] == 1) & (size_S[test] == 1)
            several = np.flatnonzero(~is_single)
            for n in range(int(size_S[test[several]].max()) if len(several) else 0):
                several = several[size_S[test[several]] > n]
                wanted = enrol[several] * num + recording_R[start_S[test[several]] + n]
                is_shared[several] |= key_R[np.searchsorted(key_R, wanted).clip(max=len(key_R) - 1)] == wanted
            is_self[block] = is_shared & (is_single | (enrol == test))
            is_inside[block] = is_shared & ~is_self[block]
        return is_self, is_inside

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
    kind = UNLABELLED_LIST if trials.target is None else TRIAL_LIST
    with atomic_file(Path(path), kind) as temporary, open(temporary, "wb") as file:
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
    """Read a trial list of any form; ``form`` of the result names the form.

    Raises:
        TrialError: ``FILE:LINE: what`` for the first line that does not fit the form of the others, or that
            labels a pair otherwise than an earlier line (without a header in either order).
    """
    path = Path(path)
    header = header_of(path)
    columns, ids = encoded_columns(path, widths=(len(header),) if header else (2, 3))
    first, below = 1, ""
    if header:
        columns, first, below = _named_columns(path, header, columns, ids), 2, " (below a header)"
    num_lines, titles = columns.shape[1], {"enrol": "enrolment", "test": "test"}
    if len(columns) == 2:
        order = [titles[name] for name in header or titles if name and name in titles]
        form = f"{num_lines:,} trials: {', '.join(order)}; no labels{below}"
        form += _repeats(path, ids, (columns[0], columns[1]), None, first)
        return TrialList(path, ids, columns[0], columns[1], None, form, first)

    # The labels are in the column, first or last, and in the words that fit every line.
    candidates = []
    for column in (2,) if header else (0, 2):
        lines_of_id = np.bincount(columns[column], minlength=len(ids))
        for words in LABELS:
            num_labels = int(lines_of_id[ids.is_in(list(words)).to_numpy()].sum())
            candidates.append((num_labels, column, words))
    num_labels, column, words = max(candidates, key=lambda each: each[0])
    spelled = _shown(words)
    if num_labels == 0:
        known = ", ".join(map(_shown, LABELS))
        raise TrialError(
            f"{path}:{first}: three columns, but neither the first nor the last is a label ({known})"
        )
    if num_labels < num_lines:
        line = int(np.argmin(ids.is_in(list(words)).to_numpy()[columns[column]]))
        word, place = ids[int(columns[column, line])], "first" if column == 0 else "last"
        raise TrialError(
            f"{path}:{line + first}: '{word}' is not a label: "
            f"{num_labels:,} of the {num_lines:,} lines have {spelled} in the {place} column"
        )
    if len({each[1] for each in candidates if each[0] == num_lines}) > 1:
        raise TrialError(
            f"{path}: both the first and the last column hold labels; name the columns in a first line, as "
            "'label enrol test'"
        )

    target_of_id = np.full(len(ids), -1, np.int8)
    for word, label in words.items():
        target_of_id[(ids == word).to_numpy()] = label
    target = target_of_id[columns[column]]
    enrol, test = columns[1:] if column == 0 else columns[:2]
    titles["label"] = f"label ({spelled})"
    names = header or (["label", "enrol", "test"] if column == 0 else titles)
    order = [titles[name] for name in names if name and name in titles]
    form = f"{num_lines:,} trials: {', '.join(order)}{below}"
    form += _repeats(path, ids, (enrol, test), target, first)
    return TrialList(path, ids, enrol, test, target, form, first)


def _shown(words: Iterable[str]) -> str:
    return "/".join(word for word in words if word == word.lower())


def _repeats(
    path: Path,
    ids: pl.Series,
    sides: Sequence[NDArray[np.int32]],
    target: NDArray[np.int8] | None,
    first: int,
) -> str:
    """The number of pairs that are there again, in words; their labels must agree.

    A pair is one number, with its label in the last bit, so that equal pairs are neighbours after sorting:
    80 MB and half a second for ten million trials. The order of the sides counts below a header, which tells
    models from segments.
    """
    stems = stems_of(ids)
    of_id = stems.rank("dense").to_numpy().astype(np.int64)
    num = int(of_id.max()) + 1

    def pairs_of(trials: slice) -> NDArray[np.int64]:
        enrol, test = of_id[sides[0][trials]], of_id[sides[1][trials]]
        if first == 1:
            enrol, test = np.minimum(enrol, test), np.maximum(enrol, test)
        pair = 2 * (enrol * num + test)
        return pair if target is None else pair + target[trials]

    pair = np.empty(len(sides[0]), np.int64)
    for start in range(0, len(pair), LINES_PER_BLOCK):
        block = slice(start, start + LINES_PER_BLOCK)
        pair[block] = pairs_of(block)
    pair.sort()
    num_again = 0
    wrong = [pair[:0]]
    for start in range(0, len(pair) - 1, LINES_PER_BLOCK):
        here = pair[start : start + LINES_PER_BLOCK + 1]
        again = here[1:] >> 1 == here[:-1] >> 1
        num_again += int(np.count_nonzero(again))
        wrong.append(here[1:][again & (here[1:] != here[:-1])] >> 1)
    disputed = np.unique(np.concatenate(wrong))
    if target is not None and len(disputed):
        every = pairs_of(slice(None)) >> 1
        earlier: dict[int, int] = {}
        for line in np.flatnonzero(np.isin(every, disputed)).tolist():
            before = earlier.setdefault(int(every[line]), line)
            if target[line] != target[before]:
                break
        words = ("non-target", "target")
        raise TrialError(
            f"{path}:{line + first}: '{ids[int(sides[0][line])]}' and '{ids[int(sides[1][line])]}' are "
            f"labelled {words[target[line]]}, and {words[target[before]]} on line {before + first} "
            f"({len(disputed):,} such pairs): correct or remove one of them"
        )
    return f"; {num_again:,} of them repeat an earlier pair" if num_again else ""


def _named_columns(
    path: Path, header: list[str | None], columns: NDArray[np.int32], ids: pl.Series
) -> NDArray[np.int32]:
    """The columns of models, segments and, where there is one, labels, without the header."""
    if columns.shape[1] == 1:
        raise TrialError(f"{path}: has a header and no trial")
    names = [name for name in ("enrol", "test", "label") if name in header]
    if sum(header.count(name) for name in names) > len(names):
        raise TrialError(f"{path}:1: the header names the models, segments or labels twice")
    if "side" in header:
        side = columns[header.index("side"), 1:]
        other = np.flatnonzero(~ids.is_in(FIRST_CHANNEL).to_numpy()[side])
        if len(other):
            word = ids[int(side[other[0]])]
            raise TrialError(f"{path}:{other[0] + 2}: side '{word}' {NOT_FIRST_CHANNEL}")
    return columns[[header.index(name) for name in names], 1:]
