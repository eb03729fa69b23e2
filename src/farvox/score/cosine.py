"""Cosine scores of trials whose sides are one or several embeddings.

Shape suffixes: N utterance, R row (an utterance of some side), S side, E embedding dimension.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.score import QUALITY_RULES
from farvox.score.channels import RULES, Floats, fuse
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
) -> Floats:
    """One vector for every side of a trial list; a trial's score is the scalar product of its two.

    Args:
        resolved: the sides; their rows are rows of ``embeddings_NE``.
        embeddings_NE: any real dtype, memory-mapped or not; only needed rows are read.
        rule: for sides of several utterances, see `farvox.score.channels`.
        centre_E: subtracted from every embedding before anything else; see
            `farvox.score.norm.mean_embedding`.
        quality_N: quality of every utterance in dB; needed by the rules ``best`` and ``weighted``.

    Returns:
        float64 [num_sides, E], every row of length 1, but for ``score-mean`` at most 1.

    Raises:
        TrialError: the rows do not fit ``resolved``, the centre is of another dimension, the rule needs a
            quality that is not known, or the embedding of a needed utterance is zero or not finite, or those
            of a side cancel out.
    """
    if rule not in RULES:
        raise TrialError(f"no rule '{rule}' for sides of several utterances; there are: {', '.join(RULES)}")
    embeddings_NE = np.asanyarray(embeddings_NE)
    if embeddings_NE.ndim != 2 or len(embeddings_NE) != len(resolved.utt_ids):
        raise TrialError(
            f"embeddings of shape {embeddings_NE.shape} do not fit the {len(resolved.utt_ids):,} utterances"
            " that the trials were resolved against"
        )
    dimension = embeddings_NE.shape[1]
    shift_E = shift_of(centre_E, dimension)
    offsets, utt_ids = resolved.side_offsets, resolved.utt_ids
    quality_R = None
    if rule in QUALITY_RULES:
        needs = f"the rule '{rule}' needs the quality of"
        if quality_N is None:
            raise TrialError(f"{needs} every utterance: extract with 'farvox extract --quality'")
        quality_R = np.asarray(quality_N, np.float64)[resolved.side_rows]
        is_alone_R = np.repeat(np.diff(offsets) == 1, np.diff(offsets))
        if (unknown := np.isnan(quality_R) & ~is_alone_R).any():
            utt_id = utt_ids[resolved.side_rows[int(np.argmax(unknown))]]
            raise TrialError(
                f"{needs} '{utt_id}' ({unknown.sum():,} such utterances):"
                " extract with 'farvox extract --quality'"
            )
        quality_R[is_alone_R] = 0.0  # of a side of one utterance it need not be known

    rows_per_block = max(1, BYTES_PER_BLOCK // (8 * dimension))
    sides_SE = np.empty((len(offsets) - 1, dimension))
    first = 0
    while first < len(sides_SE):
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + rows_per_block, "right")) - 1)
        block = slice(offsets[first], offsets[last])
        rows, start_S = resolved.side_rows[block], offsets[first:last] - offsets[first]
        emb_RE = embeddings_NE[rows] - shift_E
        length_R = _lengths(emb_RE, utt_ids, rows)
        quality = None if quality_R is None else quality_R[block]
        fused_SE = fuse(rule, emb_RE, length_R, start_S, quality)
        length_S = _lengths(fused_SE, utt_ids, rows[start_S], "the side that begins with ")
        sides_SE[first:last] = fused_SE if rule == "score-mean" else fused_SE / length_S[:, None]
        first = last
    return sides_SE


def cosine_scores(
    resolved: ResolvedTrials,
    embeddings_NE: ArrayLike,
    rule: str = "mean-norm",
    *,
    centre_E: ArrayLike | None = None,
    quality_N: ArrayLike | None = None,
) -> Floats:
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


def scalar_products(resolved: ResolvedTrials, sides_SE: Floats) -> Floats:
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


def shift_of(centre_E: ArrayLike | None, dimension: int) -> Floats:
    """The vector that centring subtracts from embeddings of this dimension: zero where there is no centre.

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


def _lengths(vectors_RE: Floats, utt_ids: list[str], rows_R: NDArray[np.int64], whose: str = "") -> Floats:
    """The lengths of vectors, none of which may be zero or not finite; ``rows_R`` names them in an error."""
    length_R: Floats = np.sqrt(np.einsum("re,re->r", vectors_RE, vectors_RE))
    is_usable_R = np.isfinite(length_R) & (length_R > 0)
    if not is_usable_R.all():
        n = int(np.argmin(is_usable_R))
        state = "zero" if length_R[n] == 0 else "not finite"
        raise TrialError(
            f"the embedding of {whose}'{utt_ids[rows_R[n]]}' is {state}: it has no direction to compare"
        )
    return length_R
