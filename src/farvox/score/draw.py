"""Trial lists drawn from the speakers of a data dir.

Pairs are rows of the data dir. Without patterns a pair is unordered and there once; with patterns the
first side is an enrolment and the second a test, and only an utterance with itself is left out.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from farvox.atomic import atomic_file
from farvox.errors import TrialError
from farvox.rng import rng_for

Rows = npt.NDArray[np.int64]
_BLOCK = 1 << 20  # pairs that are handled at a time


@dataclass(frozen=True)
class Pairs:
    """The pairs of utterances that may become trials.

    Attributes:
        utt_ids: names of the utterances.
        speakers: number of the speaker of each, [N].
        enrol: rows of the first side, sorted.
        test: rows of the second side, sorted.
        ordered: whether (a, b) and (b, a) are two pairs.
    """

    utt_ids: pl.Series
    speakers: Rows
    enrol: Rows
    test: Rows
    ordered: bool

    @classmethod
    def of(
        cls, utt_ids: pl.Series, speaker_ids: pl.Series, *, enrol: str | None = None, test: str | None = None
    ) -> Pairs:
        """The pairs of some utterances.

        Args:
            utt_ids: names of the utterances.
            speaker_ids: who speaks in each.
            enrol: pattern of the enrolment utterances, as of files (``*_7_01_*``).
            test: pattern of the test utterances.

        Raises:
            TrialError: an utterance without speaker, or a pattern that fits no utterance.
        """
        if speaker_ids.null_count():
            raise TrialError("trials cannot be drawn without speakers: the data dir has no utt2spk")
        speakers = speaker_ids.rank("dense").to_numpy().astype(np.int64)
        ordered = enrol is not None or test is not None
        return cls(
            utt_ids, speakers, _matching(utt_ids, enrol or "*"), _matching(utt_ids, test or "*"), ordered
        )

    def count(self) -> tuple[int, int]:
        """Numbers of target and of non-target pairs."""
        num_speakers = int(self.speakers.max()) + 1
        per_enrol = np.bincount(self.speakers[self.enrol], minlength=num_speakers)
        per_test = np.bincount(self.speakers[self.test], minlength=num_speakers)
        num_same = len(np.intersect1d(self.enrol, self.test))
        num_all, num_target = (
            len(self.enrol) * len(self.test) - num_same,
            int(per_enrol @ per_test) - num_same,
        )
        if not self.ordered:
            num_all, num_target = num_all // 2, num_target // 2
        return num_target, num_all - num_target

    def all(self) -> Iterator[tuple[Rows, Rows]]:
        """Every pair (enrolment rows, test rows), block by block, sorted."""
        step = max(1, _BLOCK // len(self.test))
        for first in range(0, len(self.enrol), step):
            block = self.enrol[first : first + step]
            yield self._kept(np.repeat(block, len(self.test)), np.tile(self.test, len(block)))

    def targets(self) -> tuple[Rows, Rows]:
        """Every pair of one speaker with itself."""
        test = self.test[np.argsort(self.speakers[self.test], kind="stable")]
        ends = np.searchsorted(self.speakers[test], self.speakers[self.enrol], side="right")
        starts = np.searchsorted(self.speakers[test], self.speakers[self.enrol], side="left")
        sizes = ends - starts
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self._kept(np.repeat(self.enrol, sizes), test[np.repeat(starts, sizes) + offsets])

    def draw_nontargets(self, num: int, seed: int) -> tuple[Rows, Rows]:
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

    def _kept(self, enrol: Rows, test: Rows) -> tuple[Rows, Rows]:
        kept = enrol != test if self.ordered else enrol < test
        return enrol[kept], test[kept]

    def _nontargets(self, enrol: Rows, test: Rows) -> tuple[Rows, Rows]:
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


def _write(path: str | Path, pairs: Pairs, blocks: Iterable[tuple[Rows, Rows]]) -> tuple[int, int]:
    num_target, num_nontarget = pairs.count()
    if not num_target:
        raise TrialError(
            f"{path}: there would be no target trial: no speaker has two utterances that may meet"
        )
    if not num_nontarget:
        raise TrialError(f"{path}: there would be no non-target trial: there is only one speaker")
    written = np.zeros(2, dtype=np.int64)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        for enrol, test in blocks:
            target = (pairs.speakers[enrol] == pairs.speakers[test]).astype(np.int8)
            written += np.bincount(target, minlength=2)
            table = pl.DataFrame(
                {"target": target, "enrol": pairs.utt_ids[enrol], "test": pairs.utt_ids[test]}
            )
            table.write_csv(file, include_header=False, separator=" ", quote_style="never")
    return int(written[1]), int(written[0])


def _matching(utt_ids: pl.Series, pattern: str) -> Rows:
    fits = re.compile(fnmatch.translate(pattern)).match
    rows = np.flatnonzero([fits(utt_id) is not None for utt_id in utt_ids])
    if not len(rows):
        raise TrialError(f"the pattern '{pattern}' fits no utterance; ids look like '{utt_ids[0]}'")
    return rows
