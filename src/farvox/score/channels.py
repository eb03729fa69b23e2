"""Ways to make one of the several utterances of a side: channels of one take, or takes of one speaker.

All but `expand` are rules of this module's table `FUSION`: from the embeddings of a side, one vector, which
stands for the side in a scalar product. `expand` makes every channel a trial of its own.

Shape suffixes: R row (an utterance or channel of some side), S side, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.errors import TrialError
from farvox.score.trials import ResolvedTrials, TrialList

TRIALS_PER_BLOCK = 50_000

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SideRows:
    """What a rule works on: the rows of some sides, one side after the other.

    Attributes:
        emb_RE: embeddings as the network gave them, or centred.
        length_R: their lengths, none of them zero.
        starts_S: the first row of each side.
        quality_R: quality of each row in dB; None where no rule needs it.
    """

    emb_RE: _Floats
    length_R: _Floats
    starts_S: _Ints
    quality_R: _Floats | None = None

    @property
    def unit_RE(self) -> _Floats:
        """The embeddings scaled to length 1."""
        scaled: _Floats = self.emb_RE / self.length_R[:, None]
        return scaled

    @property
    def count_S(self) -> _Ints:
        """How many rows each side has."""
        return np.diff(self.starts_S, append=len(self.emb_RE))


@dataclass(frozen=True, slots=True)
class Fusion:
    """A way to make one vector of a side.

    Attributes:
        fuse: the rows of some sides -> a vector for each side, [S, E].
        to_length_1: whether the vectors are then scaled to length 1, so that a trial's score is a cosine.
        by_quality: whether the rule looks at ``quality_R``.
    """

    fuse: Callable[[SideRows], _Floats]
    to_length_1: bool = True
    by_quality: bool = False


def _sum(rows: SideRows) -> _Floats:
    return np.add.reduceat(rows.emb_RE, rows.starts_S, axis=0)


def _mean(rows: SideRows) -> _Floats:
    fused: _Floats = _sum(rows) / rows.count_S[:, None]
    return fused


def _mean_norm(rows: SideRows) -> _Floats:
    fused: _Floats = np.add.reduceat(rows.unit_RE, rows.starts_S, axis=0) / rows.count_S[:, None]
    return fused


def _best(rows: SideRows) -> _Floats:
    quality_R = _known(rows)
    best_S = np.maximum.reduceat(quality_R, rows.starts_S)
    is_best_R = quality_R == np.repeat(best_S, rows.count_S)
    candidates_R = np.where(is_best_R, np.arange(len(quality_R)), len(quality_R))
    chosen: _Floats = rows.emb_RE[np.minimum.reduceat(candidates_R, rows.starts_S)]  # the first of equals
    return chosen


def _weighted(rows: SideRows) -> _Floats:
    quality_R = _known(rows)
    best_S = np.maximum.reduceat(quality_R, rows.starts_S)
    weight_R = 10 ** ((quality_R - np.repeat(best_S, rows.count_S)) / 20)
    fused: _Floats = np.add.reduceat(rows.unit_RE * weight_R[:, None], rows.starts_S, axis=0)
    return fused


def _known(rows: SideRows) -> _Floats:
    assert rows.quality_R is not None  # `side_embeddings` has seen to it
    return rows.quality_R


FUSION: dict[str, Fusion] = {
    "mean-norm": Fusion(_mean_norm),
    "sum": Fusion(_sum),
    "mean": Fusion(_mean),
    "score-mean": Fusion(_mean_norm, to_length_1=False),
    "best": Fusion(_best, by_quality=True),
    "weighted": Fusion(_weighted, by_quality=True),
}
"""The rules, by name. A side of one utterance is that utterance under every one of them.

- ``mean-norm``: the mean of the embeddings, each first scaled to length 1, so that none counts for more.
- ``sum``: the plain sum, as in the HI-MIA homework.
- ``mean``: the same divided by the number of utterances, which a cosine does not see.
- ``score-mean``: the mean of the cosines over all pairs of an utterance of one side and one of the other. It
  equals the scalar product of the two means of unit vectors, these not scaled to length 1.
- ``best``: the utterance of the best quality, the first of equals.
- ``weighted``: the mean of the unit vectors, each weighted by its signal-to-noise ratio of amplitudes,
  10^(quality / 20): 6 dB count twice.
"""


def expand(resolved: ResolvedTrials) -> ResolvedTrials:
    """Every channel a trial of its own, as in Kaldi's ``egs/hi_mia`` (there without microphone 00).

    Where one side has several channels, each of them meets the other side. Where both have, those of the same
    number meet, as in Kaldi's mode "sc". A side that a map names (`TrialList.resolve`) stays one side.

    Args:
        resolved: trials with channels.

    Returns:
        The same over single channels; its ``trials`` is the expanded list, with the labels of the trials that
        they come from. Trials keep their order, and channels within a trial that of their numbers.

    Raises:
        TrialError: the two sides of a trial have no channel number in common.
    """
    sizes_S = np.diff(resolved.side_offsets)
    splits_S = (sizes_S > 1) & ~resolved.side_mapped
    pieces_S = np.where(splits_S, sizes_S, 1)
    first_S = np.cumsum(pieces_S) - pieces_S
    side_P = np.repeat(np.arange(len(sizes_S)), pieces_S)
    row_P = resolved.side_offsets[side_P] + np.arange(len(side_P)) - first_S[side_P]
    offsets = np.cumsum(np.concatenate([[0], np.where(splits_S[side_P], 1, sizes_S[side_P])]))
    channel_P = np.where(splits_S[side_P], resolved.row_channel[row_P], -1)

    trials, enrols, tests = [], [], []
    for start in range(0, len(resolved), TRIALS_PER_BLOCK):
        block = slice(start, start + TRIALS_PER_BLOCK)
        enrol_side, test_side = resolved.enrol_side[block], resolved.test_side[block]
        counts = pieces_S[enrol_side] * pieces_S[test_side]
        n = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(n)) - np.repeat(np.cumsum(counts) - counts, counts)
        per_enrol = pieces_S[test_side][n]
        enrol, test = first_S[enrol_side][n] + within // per_enrol, first_S[test_side][n] + within % per_enrol
        meet = (channel_P[enrol] == channel_P[test]) | (channel_P[enrol] < 0) | (channel_P[test] < 0)
        if len(lonely := np.flatnonzero(np.bincount(n[meet], minlength=len(counts)) == 0)):
            line = start + int(lonely[0])
            raise TrialError(
                f"{resolved.trials.path}:{line + 1}: the two sides have no channel of the same number, so "
                "that 'expand' finds no pair; choose another rule, or name one side in a map"
            )
        trials.append(start + n[meet])
        enrols.append(enrol[meet])
        tests.append(test[meet])
    listed = _expanded_list(
        resolved, splits_S[side_P], side_P, row_P, *map(np.concatenate, (trials, enrols, tests))
    )
    return ResolvedTrials(
        trials=listed,
        utt_ids=resolved.utt_ids,
        side_offsets=offsets,
        side_rows=resolved.side_rows,
        enrol_side=np.concatenate(enrols),
        test_side=np.concatenate(tests),
        reading=f"{len(listed):,} trials of single channels",
        side_mapped=resolved.side_mapped[side_P],
        row_channel=resolved.row_channel,
    )


def _expanded_list(
    resolved: ResolvedTrials,
    is_channel_P: NDArray[np.bool_],
    side_P: _Ints,
    row_P: _Ints,
    trial: _Ints,
    enrol: _Ints,
    test: _Ints,
) -> TrialList:
    """The list of the expanded trials: a channel is named by its utterance, all else as in the list."""
    old = resolved.trials
    code_S = np.zeros(len(resolved.side_offsets) - 1, np.int64)
    code_S[resolved.enrol_side], code_S[resolved.test_side] = old.enrol_code, old.test_code
    utt_ids = pl.Series(resolved.utt_ids, dtype=pl.String)
    names = pl.DataFrame(
        {"channel": utt_ids.gather(resolved.side_rows[row_P]), "listed": old.ids.gather(code_S[side_P])}
    ).select(pl.when(pl.Series(is_channel_P)).then("channel").otherwise("listed").alias("name"))["name"]
    ids = names.unique(maintain_order=True)
    code_P = names.replace_strict(ids, pl.int_range(len(ids), dtype=pl.Int32, eager=True)).to_numpy()
    target = None if old.target is None else old.target[trial]
    form = f"{len(trial):,} trials of single channels, from {len(old):,}"
    return TrialList(old.path, ids, code_P[enrol], code_P[test], target, form)
