"""Cosine scores of trials whose sides are one or several embeddings.

Shape suffixes: N utterance, S side, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.score.trials import ResolvedTrials

TRIALS_PER_BLOCK = 512  # both sides of a block stay in the processor's cache
SIDES_PER_BLOCK = 8192

# (embeddings of the rows of some sides, their lengths, the first row of each side) -> a vector for each side
SideRule = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]


def _mean_norm(
    emb_RE: NDArray[np.float64], length_R: NDArray[np.float64], starts_S: NDArray[np.int64]
) -> NDArray[np.float64]:
    return np.add.reduceat(emb_RE / length_R[:, None], starts_S, axis=0)


def _sum(
    emb_RE: NDArray[np.float64], length_R: NDArray[np.float64], starts_S: NDArray[np.int64]
) -> NDArray[np.float64]:
    return np.add.reduceat(emb_RE, starts_S, axis=0)


# How several utterances become one, up to a factor: a side is scaled to length 1 afterwards.
SIDE_RULES: dict[str, SideRule] = {"mean-norm": _mean_norm, "sum": _sum}


def side_embeddings(
    resolved: ResolvedTrials, embeddings_NE: ArrayLike, rule: str = "mean-norm"
) -> NDArray[np.float64]:
    """One unit vector for every side of a trial list.

    Args:
        resolved: the sides; their rows are rows of ``embeddings_NE``.
        embeddings_NE: any real dtype, memory-mapped or not; only needed rows are read.
        rule: how several utterances become one; ``mean-norm`` is the mean of the length-normalised
            embeddings, ``sum`` the sum of the embeddings as they are, as in the HI-MIA homework. A side
            of one utterance is that utterance under every rule.

    Returns:
        float64 [num_sides, E], every row of length 1.

    Raises:
        TrialError: the rows do not fit ``resolved``, or the embedding of a needed utterance is zero or
            not finite, or those of a side cancel out.
    """
    if rule not in SIDE_RULES:
        raise TrialError(
            f"no rule '{rule}' for sides of several utterances; there are: {', '.join(SIDE_RULES)}"
        )
    embeddings_NE = np.asanyarray(embeddings_NE)
    if embeddings_NE.ndim != 2 or len(embeddings_NE) != len(resolved.utt_ids):
        raise TrialError(
            f"embeddings of shape {embeddings_NE.shape} do not fit the {len(resolved.utt_ids):,} utterances"
            " that the trials were resolved against"
        )
    offsets = resolved.side_offsets
    sides_SE = np.empty((len(offsets) - 1, embeddings_NE.shape[1]))
    for first in range(0, len(sides_SE), SIDES_PER_BLOCK):
        last = min(first + SIDES_PER_BLOCK, len(sides_SE))
        rows = resolved.side_rows[offsets[first] : offsets[last]]
        starts = offsets[first:last] - offsets[first]
        names = _SideNames(resolved.utt_ids, rows, starts)
        emb_RE = embeddings_NE[rows].astype(np.float64)
        merged_SE = SIDE_RULES[rule](emb_RE, _lengths(emb_RE, names.utterance), starts)
        sides_SE[first:last] = merged_SE / _lengths(merged_SE, names.side)[:, None]
    return sides_SE


def cosine_scores(
    resolved: ResolvedTrials, embeddings_NE: ArrayLike, rule: str = "mean-norm"
) -> NDArray[np.float64]:
    """Cosine similarity of the two sides of every trial, in trial order.

    Computed in float64 and in blocks: the memory taken beyond the sides does not grow with the trials.

    Args:
        resolved: see `TrialList.resolve`.
        embeddings_NE: one row for each of ``resolved.utt_ids``.
        rule: see `side_embeddings`.

    Returns:
        float64 [num_trials], in [-1, 1].

    Raises:
        TrialError: see `side_embeddings`.
    """
    sides_SE = side_embeddings(resolved, embeddings_NE, rule)
    scores = np.empty(len(resolved))
    for first in range(0, len(scores), TRIALS_PER_BLOCK):
        block = slice(first, first + TRIALS_PER_BLOCK)
        enrol, test = sides_SE[resolved.enrol_side[block]], sides_SE[resolved.test_side[block]]
        np.einsum("ne,ne->n", enrol, test, out=scores[block])
    return np.clip(scores, -1.0, 1.0, out=scores)


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
