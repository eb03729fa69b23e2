"""Ways to make one of the several utterances of a side: channels of one take, or takes of one speaker.

From the embeddings of a side, a rule makes one vector, which stands for the side in a scalar product:

- ``mean-norm``: the mean of the embeddings, each first scaled to length 1, so that none counts for more.
- ``sum``: the plain sum, as in the HI-MIA homework.
- ``mean``: the same divided by the number of utterances, which does not change a cosine.
- ``score-mean``: the mean of the cosines over all pairs of an utterance of one side and one of the other. It
  equals the scalar product of the two means of unit vectors, these not scaled to length 1.
- ``best``: the utterance of the best quality, the first of equals.
- ``weighted``: the mean of the unit vectors, each weighted by its signal-to-noise ratio of amplitudes,
  10^(quality / 20): 6 dB count twice.

Under each of them a side of one utterance is that utterance. `expand` is no such rule: it makes every channel
a trial of its own.

Shape suffixes: R row (an utterance or channel of some side), S side, P piece of a side that is expanded,
E embedding dimension.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.errors import TrialError
from farvox.score import QUALITY_RULES, Channels
from farvox.score.trials import ResolvedTrials, TrialList

TRIALS_PER_BLOCK = 50_000

RULES = tuple(name for name in get_args(Channels) if name != "expand")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def fuse(rule: str, emb_RE: Floats, length_R: Floats, start_S: Ints, quality_R: Floats | None) -> Floats:
    """One vector for each side; but for ``score-mean`` its length means nothing.

    Args:
        rule: one of `RULES`.
        emb_RE: embeddings of the utterances of some sides, one side after the other.
        length_R: their lengths, none of them zero.
        start_S: the first row of each side.
        quality_R: quality of each row in dB, for `QUALITY_RULES`.

    Returns:
        float64 [S, E].
    """
    count_S = np.diff(start_S, append=len(emb_RE))
    if rule in ("sum", "mean"):
        sum_SE = np.add.reduceat(emb_RE, start_S, axis=0)
        return sum_SE if rule == "sum" else sum_SE / count_S[:, None]
    if rule in QUALITY_RULES:
        assert quality_R is not None
        best_R = np.repeat(np.maximum.reduceat(quality_R, start_S), count_S)
        if rule == "best":
            candidate_R = np.where(quality_R == best_R, np.arange(len(emb_RE)), len(emb_RE))
            return emb_RE[np.minimum.reduceat(candidate_R, start_S)]  # the first of equals
        weight_R = 10 ** ((quality_R - best_R) / 20)
        return np.add.reduceat(emb_RE / length_R[:, None] * weight_R[:, None], start_S, axis=0)
    return np.add.reduceat(emb_RE / length_R[:, None], start_S, axis=0) / count_S[:, None]


def expand(resolved: ResolvedTrials) -> ResolvedTrials:
    """Make every channel a trial of its own, as in Kaldi's ``egs/hi_mia`` (there without microphone 00).

    Where one side has several channels, each of them meets the other side. Where both have, those of the same
    number meet, as in Kaldi's mode "sc". A side that a map names (`TrialList.resolve`) stays one side.

    Returns:
        The same over single channels; its ``trials`` is the expanded list, with the labels of the trials that
        they come from. Trials keep their order, and channels within a trial that of their numbers. A channel
        is named by its utterance, any other side as in the list.

    Raises:
        TrialError: the two sides of a trial have no channel number in common.
    """
    # The sides of the expanded list are pieces of those of the list: a channel, or a whole side.
    size_S = np.diff(resolved.side_offsets)
    is_split_S = (size_S > 1) & ~resolved.side_mapped
    pieces_S = np.where(is_split_S, size_S, 1)
    first_S = np.cumsum(pieces_S) - pieces_S
    side_P = np.repeat(np.arange(len(size_S)), pieces_S)
    is_channel_P = is_split_S[side_P]
    row_P = resolved.side_offsets[side_P] + np.arange(len(side_P)) - first_S[side_P]
    channel_P = np.where(is_channel_P, resolved.row_channel[row_P], -1)

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
        without = np.flatnonzero(np.bincount(n[meet], minlength=len(counts)) == 0)
        if len(without):
            raise TrialError(
                f"{resolved.trials.at(start + int(without[0]))}: the two sides have no channel of the"
                " same number, so that 'expand' finds no pair; choose another rule, or name one side in a map"
            )
        trials.append(start + n[meet])
        enrols.append(enrol[meet])
        tests.append(test[meet])
    trial, enrol, test = (np.concatenate(parts) for parts in (trials, enrols, tests))

    old = resolved.trials
    code_S = np.zeros(len(size_S), np.int64)
    code_S[resolved.enrol_side], code_S[resolved.test_side] = old.enrol_code, old.test_code
    utt_ids = pl.Series(resolved.utt_ids, dtype=pl.String)
    names = pl.DataFrame(
        {"channel": utt_ids.gather(resolved.side_rows[row_P]), "listed": old.ids.gather(code_S[side_P])}
    ).select(pl.when(pl.Series(is_channel_P)).then("channel").otherwise("listed").alias("name"))["name"]
    ids = names.unique(maintain_order=True)
    code_P = names.replace_strict(ids, pl.int_range(len(ids), dtype=pl.Int32, eager=True)).to_numpy()
    reading = f"{len(trial):,} trials of single channels"
    return ResolvedTrials(
        trials=TrialList(
            old.path,
            ids,
            code_P[enrol],
            code_P[test],
            None if old.target is None else old.target[trial],
            form=f"{reading}, from {len(old):,}",
        ),
        utt_ids=resolved.utt_ids,
        side_offsets=np.append(0, np.cumsum(np.where(is_channel_P, 1, size_S[side_P]))),
        side_rows=resolved.side_rows,
        enrol_side=enrol,
        test_side=test,
        reading=reading,
        side_mapped=resolved.side_mapped[side_P],
        row_channel=resolved.row_channel,
    )
