"""Cosine scores of trials whose sides are one or several embeddings.

Shape suffixes: N utterance, R row (an utterance of some side), S side, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.score.channels import FUSION, SideRows
from farvox.score.tiles import products_of_pairs
from farvox.score.trials import ResolvedTrials

BYTES_PER_BLOCK = 1 << 23  # of embeddings that become sides; they stay in the processor's cache


def side_embeddings(
    resolved: ResolvedTrials,
    embeddings_NE: ArrayLike,
    rule: str = "mean-norm",
    *,
    centre_E: ArrayLike | None = None,
    quality_N: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """One vector for every side of a trial list; a trial's score is the scalar product of its two.

    Args:
        resolved: the sides; their rows are rows of ``embeddings_NE``.
        embeddings_NE: any real dtype, memory-mapped or not; only needed rows are read.
        rule: how several utterances become one, see `farvox.score.channels.FUSION`.
        centre_E: what is subtracted from every embedding before anything else; see
            `farvox.score.norm.mean_embedding`.
        quality_N: quality of every utterance in dB; needed by the rules ``best`` and ``weighted``.

    Returns:
        float64 [num_sides, E], every row of length 1, but for ``score-mean`` at most 1.

    Raises:
        TrialError: the rows do not fit ``resolved``, the centre is of another dimension, the rule needs a
            quality that is not known, or the embedding of a needed utterance is zero or not finite, or those
            of a side cancel out.
    """
    if rule not in FUSION:
        raise TrialError(f"no rule '{rule}' for sides of several utterances; there are: {', '.join(FUSION)}")
    fusion, embeddings_NE = FUSION[rule], np.asanyarray(embeddings_NE)
    if embeddings_NE.ndim != 2 or len(embeddings_NE) != len(resolved.utt_ids):
        raise TrialError(
            f"embeddings of shape {embeddings_NE.shape} do not fit the {len(resolved.utt_ids):,} utterances"
            " that the trials were resolved against"
        )
    shift_E = shift_of(centre_E, embeddings_NE.shape[1])
    quality_R = _quality(resolved, rule, quality_N) if fusion.by_quality else None
    offsets, block_rows = resolved.side_offsets, _rows_per_block(embeddings_NE.shape[1])
    sides_SE = np.empty((len(offsets) - 1, embeddings_NE.shape[1]))
    first = 0
    while first < len(sides_SE):
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + block_rows, "right")) - 1)
        block = slice(offsets[first], offsets[last])
        rows, starts = resolved.side_rows[block], offsets[first:last] - offsets[first]
        names = _SideNames(resolved.utt_ids, rows, starts)
        emb_RE = embeddings_NE[rows] - shift_E
        quality = None if quality_R is None else quality_R[block]
        side_rows = SideRows(emb_RE, _lengths(emb_RE, names.utterance), starts, quality)
        fused_SE = fusion.fuse(side_rows)
        length_S = _lengths(fused_SE, names.side)
        sides_SE[first:last] = fused_SE / length_S[:, None] if fusion.to_length_1 else fused_SE
        first = last
    return sides_SE


def cosine_scores(
    resolved: ResolvedTrials,
    embeddings_NE: ArrayLike,
    rule: str = "mean-norm",
    *,
    centre_E: ArrayLike | None = None,
    quality_N: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Cosine similarity of the two sides of every trial, in trial order.

    Args:
        resolved: see `TrialList.resolve`.
        embeddings_NE: one row for each of ``resolved.utt_ids``.
        rule: see `side_embeddings`; under ``score-mean`` a score is a mean of cosines.
        centre_E: see `side_embeddings`.
        quality_N: see `side_embeddings`.

    Returns:
        float64 [num_trials], in [-1, 1].

    Raises:
        TrialError: see `side_embeddings`.
    """
    sides_SE = side_embeddings(resolved, embeddings_NE, rule, centre_E=centre_E, quality_N=quality_N)
    return scalar_products(resolved, sides_SE)


def scalar_products(resolved: ResolvedTrials, sides_SE: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scalar product of the two sides of every trial.

    Computed in float64 and in blocks: the memory taken beyond the sides does not grow with the trials.
    Where the trials are dense among the pairs of sides, products of matrices are far cheaper than pair by
    pair; see `farvox.score.tiles`. The last digit of a score depends on which way it was computed.

    Args:
        resolved: the trials.
        sides_SE: a vector of length 1 or less for each side.

    Returns:
        float64 [num_trials], in [-1, 1].
    """
    scores = products_of_pairs(sides_SE, resolved.enrol_side, resolved.test_side)
    return np.clip(scores, -1.0, 1.0, out=scores)


def shift_of(centre_E: ArrayLike | None, dimension: int) -> NDArray[np.float64]:
    """What centring subtracts from embeddings of this dimension: nothing where there is no centre.

    Raises:
        TrialError: the centre is of another dimension.
    """
    if centre_E is None:
        return np.zeros(dimension)
    shift_E = np.asarray(centre_E, np.float64)
    if shift_E.shape != (dimension,):
        raise TrialError(
            f"the centre has {shift_E.size} dimensions, the embeddings it is subtracted from {dimension}:"
            " they are of different models"
        )
    return shift_E


def _rows_per_block(dimension: int) -> int:
    return max(1, BYTES_PER_BLOCK // (8 * dimension))


def _quality(resolved: ResolvedTrials, rule: str, quality_N: ArrayLike | None) -> NDArray[np.float64]:
    """The quality of each row of each side; where a side has one row, none need be known."""
    if quality_N is None:
        raise TrialError(
            f"the rule '{rule}' needs the quality of every utterance: extract with 'farvox extract --quality'"
        )
    quality_R = np.asarray(quality_N, np.float64)[resolved.side_rows]
    alone_R = np.repeat(np.diff(resolved.side_offsets) == 1, np.diff(resolved.side_offsets))
    if (unknown := np.isnan(quality_R) & ~alone_R).any():
        utt_id = resolved.utt_ids[resolved.side_rows[int(np.argmax(unknown))]]
        raise TrialError(
            f"the rule '{rule}' needs the quality of '{utt_id}' ({unknown.sum():,} such utterances): "
            "extract with 'farvox extract --quality'"
        )
    return np.where(alone_R, 0.0, quality_R)


class _SideNames(NamedTuple):
    """What the rows and the sides of a block are called, for when one is at fault."""

    utt_ids: list[str]
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    def utterance(self, n: int) -> str:
        return f"'{self.utt_ids[self.rows[n]]}'"

    def side(self, n: int) -> str:
        return f"the side that begins with {self.utterance(int(self.starts[n]))}"


def _lengths(vectors_RE: NDArray[np.float64], name_of: Callable[[int], str]) -> NDArray[np.float64]:
    length_R: NDArray[np.float64] = np.sqrt(np.einsum("re,re->r", vectors_RE, vectors_RE))
    usable_R = np.isfinite(length_R) & (length_R > 0)
    if not usable_R.all():
        n = int(np.argmin(usable_R))
        state = "zero" if length_R[n] == 0 else "not finite"
        raise TrialError(f"the embedding of {name_of(n)} is {state}: it has no direction to compare")
    return length_R
