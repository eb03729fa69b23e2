"""Cosine scores of trials whose sides are one or several embeddings.

The scalar products of many pairs (`products_of_pairs`) come from products of matrices where pairs are dense:
the matrix of all products is cut into square tiles, and a tile with many pairs is computed whole. A scalar
product has no order, so pairs are turned until the first row comes first, and the tiles below the diagonal
stay empty. Rows on one side only lie together, so that their tiles are full or empty.

Shape suffixes: N utterance, R row (an utterance of some side), S side, P pair, T tile, E embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.score import QUALITY_RULES
from farvox.score.channels import RULES, Floats, fuse
from farvox.score.trials import ResolvedTrials

BYTES_PER_BLOCK = 1 << 23  # of embeddings that become sides; they stay in the processor's cache
TILE = 1024
"""Rows of a tile: its products are 8 MB. In smaller ones the threads of a product wait for one another."""
CELLS_PER_PAIR = 32
"""A whole tile costs no more than so many of its cells picked one by one (256 dimensions, two cores)."""
PAIRS_AT_A_TIME = 1 << 22
"""Pairs that are put in order at a time: about 130 MB."""
PAIRS_PER_GATHER = 256
"""Pairs whose rows are gathered at a time: they stay in the processor's cache."""
Ints = NDArray[np.int64]
Places = NDArray[np.int32]


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
        resolved: see `TrialList.resolve`.
        embeddings_NE: a row for each of ``resolved.utt_ids``, which is read only if it is needed; any real
            dtype, memory-mapped or not.
        rule: for sides of several utterances, see `farvox.score.channels`.
        centre_E: subtracted from every embedding first; see `farvox.score.norm.mean_embedding`.
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
    """Cosine similarity of the two sides of every trial, float64 [num_trials] in [-1, 1].

    Arguments and errors are those of `side_embeddings`; under ``score-mean`` a score is a mean of cosines.
    """
    sides_SE = side_embeddings(resolved, embeddings_NE, rule, centre_E=centre_E, quality_N=quality_N)
    return scalar_products(resolved, sides_SE)


def scalar_products(resolved: ResolvedTrials, sides_SE: Floats) -> Floats:
    """The scalar product of the two sides of every trial, float64 [num_trials] in [-1, 1].

    Each side is a vector of length 1 or less. Computed in blocks: the memory taken beyond the sides does not
    grow with the trials. The last digit of a score depends on whether it comes from a product of matrices.
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


def products_of_pairs(rows_RE: Floats, first_P: Ints, second_P: Ints) -> Floats:
    """The scalar product of rows ``first_P[p]`` and ``second_P[p]`` for every pair ``p``, float64 [P].

    A pair that is there several times, in either order, has the same product to the last digit.
    """
    products_P = np.empty(len(first_P))
    blocks = [slice(n, n + PAIRS_AT_A_TIME) for n in range(0, len(first_P), PAIRS_AT_A_TIME)]
    if len(rows_RE) ** 2 > 2 * CELLS_PER_PAIR * min(len(first_P), PAIRS_AT_A_TIME):
        _by_pairs(rows_RE, first_P, second_P, products_P)
        return products_P
    grid = _Grid.of(rows_RE, first_P, second_P)
    one_P, other_P = grid.place_R[first_P], grid.place_R[second_P]
    low_P, high_P = np.minimum(one_P, other_P), np.maximum(one_P, other_P, out=other_P)
    count_T = sum(grid.count(grid.tiles(low_P[block], high_P[block])) for block in blocks)
    width_T = np.minimum(TILE, len(rows_RE) - TILE * np.arange(grid.width))
    dense_T = count_T * CELLS_PER_PAIR >= np.outer(width_T, width_T).ravel() * len(blocks)
    for block in blocks:
        grid.multiply(low_P[block], high_P[block], dense_T, products_P[block])
    return products_P


@dataclass(frozen=True, eq=False)
class _Grid:
    """The tiles over all pairs of rows.

    Attributes:
        rows_RE: the rows in a new order: those on the first side only, on the second only, on both.
        place_R: where each row went.
    """

    rows_RE: Floats
    place_R: Places

    @classmethod
    def of(cls, rows_RE: Floats, first_P: Ints, second_P: Ints) -> _Grid:
        role_R = np.zeros(len(rows_RE), np.int8)
        role_R[first_P] = 1
        role_R[second_P] |= 2
        order_R = np.argsort(role_R, kind="stable")
        place_R = np.empty(len(rows_RE), np.int32)
        place_R[order_R] = np.arange(len(rows_RE), dtype=np.int32)
        return cls(rows_RE[order_R], place_R)

    @property
    def width(self) -> int:
        """Number of tiles side by side."""
        return -(-len(self.rows_RE) // TILE)

    def tiles(self, low_P: Places, high_P: Places) -> Places:
        """The tile that each pair lies in."""
        return (low_P // TILE) * np.int32(self.width) + high_P // TILE

    def count(self, tile_P: Places) -> Ints:
        """Number of pairs in each tile."""
        return np.bincount(tile_P, minlength=self.width**2)

    def multiply(self, low_P: Places, high_P: Places, dense_T: NDArray[np.bool_], products_P: Floats) -> None:
        """Fill in the products: from whole tiles where these are dense, else pair by pair."""
        tile_P = self.tiles(low_P, high_P)
        order_P = np.argsort(tile_P.astype(np.uint16) if self.width < 256 else tile_P, kind="stable")
        cell_P = ((low_P % TILE) * np.int32(TILE) + high_P % TILE)[order_P]
        ends_T = np.cumsum(self.count(tile_P))
        starts_T = np.append(0, ends_T[:-1])
        sorted_P = np.empty(len(products_P))
        scratch = np.empty(TILE * TILE)  # memory that is new to the process costs as much as the products
        for tile in np.flatnonzero(ends_T > starts_T).tolist():
            pairs = slice(int(starts_T[tile]), int(ends_T[tile]))
            if not dense_T[tile]:
                chosen = order_P[pairs]
                _by_pairs(self.rows_RE, low_P[chosen], high_P[chosen], sorted_P[pairs])
                continue
            left_RE, right_RE = (self.rows_RE[TILE * n : TILE * (n + 1)] for n in divmod(tile, self.width))
            cells = cell_P[pairs]
            cells -= cells // TILE * (TILE - len(right_RE))  # the last tile is narrower
            product_RR = scratch[: len(left_RE) * len(right_RE)].reshape(len(left_RE), -1)
            np.matmul(left_RE, right_RE.T, out=product_RR)
            np.take(product_RR, cells, out=sorted_P[pairs], mode="clip")
        products_P[order_P] = sorted_P


def _by_pairs(
    rows_RE: Floats, first_P: NDArray[np.integer], second_P: NDArray[np.integer], products_P: Floats
) -> None:
    first_BE, second_BE = np.empty((2, PAIRS_PER_GATHER, rows_RE.shape[1]))
    for start in range(0, len(products_P), PAIRS_PER_GATHER):
        part = slice(start, start + PAIRS_PER_GATHER)
        out = products_P[part]
        np.take(rows_RE, first_P[part], axis=0, out=first_BE[: len(out)], mode="clip")
        np.take(rows_RE, second_P[part], axis=0, out=second_BE[: len(out)], mode="clip")
        np.einsum("pe,pe->p", first_BE[: len(out)], second_BE[: len(out)], out=out)
