"""Trial lists: new ones, and the speakers of the sides.

Pairs are rows of the data dir. Without patterns or conditions a pair is unordered and there once; with them
the first side is an enrolment and the second a test. An utterance with itself, or with its own copy, is no
pair.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.atomic import atomic_file
from farvox.datadir.kaldi import DataDir, read_table
from farvox.errors import LabelError, TrialError
from farvox.rng import rng_for
from farvox.score.sides import SideMap
from farvox.score.trials import TRIAL_LIST, ResolvedTrials, TrialList

Ints = NDArray[np.int64]
_BLOCK = 1 << 20  # pairs that are handled at a time


@dataclass(frozen=True)
class Pairs:
    """The pairs of utterances that may become trials.

    Attributes:
        utt_ids: names of the utterances.
        speakers: number of the speaker of each, [N].
        recordings: number of the recording that each is, or is a copy of, [N].
        enrol: rows of the first side, sorted.
        test: rows of the second side, sorted.
        ordered: True where (a, b) and (b, a) are two pairs.
    """

    utt_ids: pl.Series
    speakers: Ints
    recordings: Ints
    enrol: Ints
    test: Ints
    ordered: bool

    @classmethod
    def of(
        cls,
        utt_ids: pl.Series,
        speaker_ids: pl.Series,
        *,
        recordings: pl.Series | None = None,
        enrol: str | None = None,
        test: str | None = None,
        enrol_ids: pl.Series | None = None,
        test_ids: pl.Series | None = None,
    ) -> Pairs:
        """The pairs of some utterances.

        Args:
            utt_ids: names of the utterances.
            speaker_ids: the speaker of each.
            recordings: the recording of each, see `farvox.datadir.conditions.recordings_of`; each its own
                unless given.
            enrol: pattern of the enrolment utterances, as of files (``*_7_01_*``).
            test: pattern of the test utterances.
            enrol_ids: the only utterances that may be enrolment utterances; all unless given.
            test_ids: the same for the test side.

        Raises:
            TrialError: an utterance has no speaker, or a side has no utterance.
        """
        if speaker_ids.null_count():
            raise TrialError("trials cannot be drawn without speakers: the data dir has no utt2spk")
        speakers, numbers = (
            each.rank("dense").to_numpy().astype(np.int64)
            for each in (speaker_ids, utt_ids if recordings is None else recordings)
        )
        rows_of = []
        for side, pattern, among in (("enrolment", enrol, enrol_ids), ("test", test, test_ids)):
            rows = _matching(utt_ids, pattern or "*")
            if among is not None:
                rows = rows[utt_ids.gather(rows).is_in(among.implode()).to_numpy()]
                if not len(rows):
                    raise TrialError(f"no utterance meets the pattern and the conditions of the {side} side")
            rows_of.append(rows)
        ordered = any(each is not None for each in (enrol, test, enrol_ids, test_ids))
        return cls(utt_ids, speakers, numbers, rows_of[0], rows_of[1], ordered)

    def count(self) -> tuple[int, int]:
        """Numbers of target and of non-target pairs."""
        num_target, num_same = (
            int(
                np.bincount(number_N[self.enrol], minlength=int(number_N.max()) + 1)
                @ np.bincount(number_N[self.test], minlength=int(number_N.max()) + 1)
            )
            for number_N in (self.speakers, self.recordings)
        )
        num_all, num_target = len(self.enrol) * len(self.test) - num_same, num_target - num_same
        if not self.ordered:
            num_all, num_target = num_all // 2, num_target // 2
        return num_target, num_all - num_target

    def all(self) -> Iterator[tuple[Ints, Ints]]:
        """Every pair (enrolment rows, test rows), block by block, sorted."""
        step = max(1, _BLOCK // len(self.test))
        for first in range(0, len(self.enrol), step):
            block = self.enrol[first : first + step]
            yield self._kept(np.repeat(block, len(self.test)), np.tile(self.test, len(block)))

    def targets(self) -> tuple[Ints, Ints]:
        """Every pair of one speaker with itself."""
        test = self.test[np.argsort(self.speakers[self.test], kind="stable")]
        ends = np.searchsorted(self.speakers[test], self.speakers[self.enrol], side="right")
        starts = np.searchsorted(self.speakers[test], self.speakers[self.enrol], side="left")
        sizes = ends - starts
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self._kept(np.repeat(self.enrol, sizes), test[np.repeat(starts, sizes) + offsets])

    def draw_nontargets(self, num: int, seed: int) -> tuple[Ints, Ints]:
        """``num`` different pairs of two speakers, all equally likely, set by ``seed``.

        Raises:
            TrialError: there are not so many.
        """
        num_nontarget = self.count()[1]
        if not 0 < num <= num_nontarget:
            raise TrialError(
                f"{num} non-target trials were asked for; between 1 and {num_nontarget} can be drawn"
            )
        rng = rng_for(seed, 0, 0)
        if 2 * num > num_nontarget:
            blocks = [self._nontargets(*block) for block in self.all()]
            enrol, test = (np.concatenate(side) for side in zip(*blocks, strict=True))
            chosen = np.sort(rng.choice(num_nontarget, num, replace=False))
            return enrol[chosen], test[chosen]
        # Drawing with replacement and keeping the first of equals leaves every pair equally likely.
        codes = np.empty(0, dtype=np.int64)
        size = min(4 * _BLOCK, 2 * num * len(self.enrol) * len(self.test) // num_nontarget)
        while len(codes) < num:
            drawn = rng.choice(self.enrol, size), rng.choice(self.test, size)
            enrol, test = self._nontargets(*self._kept(*drawn))
            codes = np.concatenate([codes, enrol * len(self.utt_ids) + test])
            codes = codes[np.sort(np.unique(codes, return_index=True)[1])]
        return np.divmod(np.sort(codes[:num]), len(self.utt_ids))

    def _kept(self, enrol: Ints, test: Ints) -> tuple[Ints, Ints]:
        kept = self.recordings[enrol] != self.recordings[test]
        if not self.ordered:
            kept &= enrol < test
        return enrol[kept], test[kept]

    def _nontargets(self, enrol: Ints, test: Ints) -> tuple[Ints, Ints]:
        kept = self.speakers[enrol] != self.speakers[test]
        return enrol[kept], test[kept]


def write_all_pairs(path: str | Path, pairs: Pairs) -> tuple[int, int]:
    """Write every pair as a trial; returns the numbers of target and non-target trials.

    Raises:
        TrialError: there would be no target or no non-target trial.
    """
    return _write(path, pairs, pairs.all())


def write_drawn_pairs(path: str | Path, pairs: Pairs, num_nontarget: int, seed: int) -> tuple[int, int]:
    """Write every target pair and ``num_nontarget`` drawn others; returns the numbers of both.

    Raises:
        TrialError: there would be no target trial, or there are not so many non-target pairs.
    """
    drawn = zip(pairs.targets(), pairs.draw_nontargets(num_nontarget, seed), strict=True)
    enrol, test = (np.concatenate(side) for side in drawn)
    order = np.lexsort((test, enrol))
    return _write(path, pairs, [(enrol[order], test[order])])


def rename_sides(trials: ResolvedTrials, new_ids: Sequence[str] | pl.Series) -> pl.DataFrame:
    """Name each side of a list after the one utterance that its utterances have become.

    Args:
        trials: the list, resolved against the old utterances.
        new_ids: the new utterance of each old one, in the order of ``trials.utt_ids``.

    Returns:
        Columns `enrol`, `test` and, before them if the list has a key, `target` (1 or 0); in trial order.

    Raises:
        TrialError: a side has become several utterances.
    """
    new_of_row = pl.Series(new_ids, dtype=pl.String).gather(trials.side_rows)
    first = trials.side_offsets[:-1]
    name_of_side = new_of_row.gather(first)
    spread = np.repeat(np.arange(len(first)), np.diff(trials.side_offsets))
    differing = (new_of_row != name_of_side.gather(spread)).arg_true()
    if len(differing):
        side = int(spread[differing[0]])
        line = int(np.argmax((trials.enrol_side == side) | (trials.test_side == side)))
        on_test = trials.enrol_side[line] != side
        spelled = (trials.trials.test if on_test else trials.trials.enrol)[line]
        one, other = name_of_side[side], new_of_row[int(differing[0])]
        raise TrialError(
            f"{trials.trials.at(line)}: '{spelled}' has become several utterances, such as '{one}' and"
            f" '{other}'; only a side that is one utterance can be renamed"
        )
    columns = {"enrol": name_of_side.gather(trials.enrol_side), "test": name_of_side.gather(trials.test_side)}
    if trials.target is None:
        return pl.DataFrame(columns)
    return pl.DataFrame({"target": pl.Series(trials.target), **columns})


def write_table(path: str | Path, table: pl.DataFrame) -> None:
    """Write a trial list, whole or not at all: the columns of ``table`` with blanks between them.

    Raises:
        FarvoxError: the system refuses to write there.
    """
    with atomic_file(path, TRIAL_LIST) as temporary:
        table.write_csv(temporary, include_header=False, separator=" ", quote_style="never")


def _write(path: str | Path, pairs: Pairs, blocks: Iterable[tuple[Ints, Ints]]) -> tuple[int, int]:
    num_target, num_nontarget = pairs.count()
    if not num_target:
        raise TrialError(
            f"{path}: there would be no target trial: no speaker has two utterances that may meet"
        )
    if not num_nontarget:
        raise TrialError(f"{path}: there would be no non-target trial: there is only one speaker")
    written = np.zeros(2, dtype=np.int64)
    with atomic_file(path, TRIAL_LIST) as temporary, temporary.open("wb") as file:
        for enrol, test in blocks:
            target = (pairs.speakers[enrol] == pairs.speakers[test]).astype(np.int8)
            written += np.bincount(target, minlength=2)
            table = pl.DataFrame(
                {"target": target, "enrol": pairs.utt_ids[enrol], "test": pairs.utt_ids[test]}
            )
            table.write_csv(file, include_header=False, separator=" ", quote_style="never")
    return int(written[1]), int(written[0])


def _matching(utt_ids: pl.Series, pattern: str) -> Ints:
    """The rows of utterances whose name matches a pattern, as of files."""
    fits = re.compile(fnmatch.translate(pattern)).match
    rows = np.flatnonzero([fits(utt_id) is not None for utt_id in utt_ids])
    if not len(rows):
        raise TrialError(f"the pattern '{pattern}' fits no utterance; ids look like '{utt_ids[0]}'")
    return rows


PathLike = str | os.PathLike[str]
Side = Literal["enrol", "test"]


class Speakers(NamedTuple):
    """The speakers of both sides of every trial: numbers, [num_trials] each, and the name of each number."""

    enrol: Ints
    test: Ints
    names: pl.Series


def speakers_from_dirs(
    trials: TrialList,
    sources: Sequence[PathLike],
    *,
    enrol_map: SideMap | None = None,
    test_map: SideMap | None = None,
) -> Speakers:
    """The speaker of both sides of every trial, as data dirs have it.

    Args:
        trials: the list; a side of several channels is found by the rules of `SideFinder`.
        sources: data dirs, or files of lines ``utt_id speaker_id``, which hold every utterance of the list.
        enrol_map: enrolment ids that stand for several utterances, see `farvox.score.sides.read_side_map`.
        test_map: the same of the test side.

    Returns:
        The speaker of each enrolment and of each test side.

    Raises:
        TrialError: an utterance is in none of them or has two speakers, a side is of several speakers, or
            the speakers contradict the labels.
        DataDirError: a source cannot be read.
    """
    tables = []
    for source in map(Path, sources):
        if source.is_dir():
            tables.append(DataDir.open(source, remote=True).table.select("utt_id", "speaker_id"))
            if tables[-1]["speaker_id"].has_nulls():
                raise TrialError(f"{source}: has neither utt2spk nor spk2utt, so the speakers are not known")
        else:
            tables.append(read_table(source, ("utt_id", "speaker_id")))
    table = pl.concat(tables).unique(maintain_order=True)
    twice = table.filter(pl.col("utt_id").is_duplicated()).sort("utt_id")
    if len(twice):
        (utt_id, one), (_, other) = twice.rows()[:2]
        raise TrialError(f"'{utt_id}' is of the speaker '{one}' in one source and of '{other}' in another")
    enrol = values_of_side(trials, "enrol", table["utt_id"], table["speaker_id"], side_map=enrol_map)
    test = values_of_side(trials, "test", table["utt_id"], table["speaker_id"], side_map=test_map)
    for side, values in (("enrolment", enrol), ("test", test)):
        several = (values.list.len() > 1).arg_true()
        if len(several):
            _refuse_mixed_side(trials, int(several[0]), side, values[int(several[0])])
    return _numbered(trials, enrol.list.first(), test.list.first())


def refuse_wrong_trials(
    resolved: ResolvedTrials,
    speaker_ids: pl.Series,
    recordings: pl.Series,
    *,
    remedy: str,
    allow_self: bool = False,
) -> list[str]:
    """Refuse trials that contradict the speakers, and those of a recording against itself or its own copy.

    Args:
        resolved: the list; where it has no labels, only recordings are looked at.
        speaker_ids: the speaker of each of its utterances, null where not known.
        recordings: the recording of each, see `farvox.datadir.conditions.recordings_of`.
        remedy: ends the message on a recording against itself.
        allow_self: count such trials instead.

    Returns:
        Warnings: trials that were counted instead, and those with a test utterance inside its own enrolment.

    Raises:
        TrialError: ``FILE:LINE: what`` for the first such trial.
    """
    trials = resolved.trials
    if trials.target is not None and speaker_ids.count():
        # Speaker 0 is unknown. A side is of one speaker where the lowest and the highest number are equal.
        number_N = speaker_ids.rank("dense").fill_null(0).to_numpy().astype(np.int32)
        first_S = resolved.side_offsets[:-1]
        low_S, high_S = (
            find.reduceat(number_N[resolved.side_rows], first_S) for find in (np.minimum, np.maximum)
        )
        enrol, test = resolved.enrol_side, resolved.test_side
        is_mixed_S = (low_S != high_S) & (low_S > 0)
        if (is_mixed := is_mixed_S[enrol] | is_mixed_S[test]).any():
            n = int(np.argmax(is_mixed))
            name, side = ("enrolment", enrol[n]) if is_mixed_S[enrol[n]] else ("test", test[n])
            _refuse_mixed_side(trials, n, name, _names_of(resolved, speaker_ids, side))
        known = (low_S[enrol] > 0) & (low_S[test] > 0)
        wrong = known & ((low_S[enrol] == low_S[test]) != (trials.target == 1))
        if wrong.any():
            n = int(np.argmax(wrong))
            one, other = (_names_of(resolved, speaker_ids, side[n])[0] for side in (enrol, test))
            _refuse_label(trials, n, one, other, int(wrong.sum()))
    is_self, is_inside = resolved.shared(recordings)
    warnings = []
    if is_self.any():
        n = int(np.argmax(is_self))
        pair = f"'{trials.ids[int(trials.enrol_code[n])]}' and '{trials.ids[int(trials.test_code[n])]}'"
        what = f"{pair} are one recording, or copies of one ({is_self.sum():,} such trials)"
        if not allow_self:
            raise TrialError(f"{trials.at(n)}: {what}, which says nothing of a model: {remedy}")
        warnings.append(f"warning: {trials.at(n)}: {what}")
    if is_inside.any():
        n = int(np.argmax(is_inside))
        warnings.append(
            f"warning: {is_inside.sum():,} trials have a test utterance, or a copy of it, inside their own"
            f" enrolment (the first is {trials.at(n)}, '{trials.ids[int(trials.test_code[n])]}')"
        )
    return warnings


def _names_of(resolved: ResolvedTrials, speaker_ids: pl.Series, side: int) -> list[str]:
    """The speakers of a side, sorted."""
    rows = resolved.side_rows[resolved.side_offsets[side] : resolved.side_offsets[side + 1]]
    return sorted(set(speaker_ids.gather(rows).to_list()))


def _refuse_mixed_side(trials: TrialList, trial: int, side: str, speakers: Iterable[str]) -> NoReturn:
    raise TrialError(f"{trials.at(trial)}: the {side} side is of several speakers: {', '.join(speakers)}")


def _refuse_label(trials: TrialList, trial: int, enrol: str, test: str, count: int) -> NoReturn:
    assert trials.target is not None
    raise LabelError(
        f"{trials.at(trial)}: labelled {'target' if trials.target[trial] else 'non-target'}, but its speakers"
        f" are '{enrol}' and '{test}' ({count:,} such trials): the speakers are of another corpus, or the"
        " labels are wrong"
    )


def speakers_from_ids(trials: TrialList, separator: str) -> Speakers:
    """The speaker of both sides, named by the part of an id before the first ``separator``.

    Returns:
        The speaker of each enrolment and of each test side.

    Raises:
        TrialError: an id has no ``separator``, or begins with it; or the speakers contradict the labels.
    """
    speaker = trials.ids.str.split(separator).list.first()
    nameless = (~trials.ids.str.contains(separator, literal=True) | (speaker == "")).to_numpy()
    for codes in (trials.enrol_code, trials.test_code):
        if nameless[codes].any():
            n = int(np.argmax(nameless[codes]))
            raise TrialError(
                f"{trials.at(n)}: '{trials.ids[int(codes[n])]}' has nothing before a '{separator}', so"
                " that its speaker is not in its name; give data dirs with --trial-speakers"
            )
    return _numbered(trials, speaker.gather(trials.enrol_code), speaker.gather(trials.test_code))


def values_of_side(
    trials: TrialList,
    side: Side,
    utt_ids: pl.Series,
    values: pl.Series,
    of_side: pl.Expr = pl.col("value").unique(),
    *,
    side_map: SideMap | None = None,
) -> pl.Series:
    """The values of the utterances of one side of every trial, [num_trials].

    Args:
        trials: the list.
        side: of the trials.
        utt_ids: utterances, all of the side among them.
        values: the value of each.
        of_side: what becomes of those of one side; a list of the distinct ones unless given.
        side_map: ids of the side that stand for several utterances.
    """
    codes = trials.test_code if side == "test" else trials.enrol_code
    one_side = dataclasses.replace(trials, enrol_code=codes, test_code=codes)
    resolved = one_side.resolve(
        utt_ids, enrol_map=side_map, test_map=side_map, allow_missing_channels=True
    )  # that was checked when scores were made
    sizes = np.diff(resolved.side_offsets)
    rows = pl.DataFrame({"utt_id": resolved.utt_ids}).join(
        pl.DataFrame({"utt_id": utt_ids, "value": values}), on="utt_id", how="left", maintain_order="left"
    )
    grouped = pl.DataFrame(
        {"side": np.repeat(np.arange(len(sizes)), sizes), "value": rows["value"].gather(resolved.side_rows)}
    ).group_by("side", maintain_order=True)
    return grouped.agg(of_side)["value"].gather(resolved.test_side)


def _numbered(trials: TrialList, enrol: pl.Series, test: pl.Series) -> Speakers:
    """Speakers as numbers, if they agree with the labels of the list."""
    if trials.target is not None:
        wrong = (enrol == test) != pl.Series(trials.target == 1)
        if wrong.any():
            n = int(wrong.arg_true()[0])
            _refuse_label(trials, n, enrol[n], test[n], int(wrong.sum()))
    both = pl.concat([enrol, test])
    numbers = both.rank("dense").cast(pl.Int64).to_numpy() - 1
    return Speakers(numbers[: len(enrol)], numbers[len(enrol) :], both.unique().sort())
