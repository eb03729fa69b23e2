"""Scalar products of many pairs of rows: by products of matrices where they are dense, else pair by pair.

The matrix of all products is cut into square tiles, and each pair falls into one of them. A scalar product
does not mind the order of its two sides, so pairs are turned until the first row comes first, and the tiles
below the diagonal stay empty. A tile in which many pairs lie is computed whole, by one product of matrices,
and the pairs are picked from it; the pairs of all other tiles are gathered and multiplied one by one. Rows
that stand on one side only lie together, so that their tiles are full or empty.

Shape suffixes: P pair, R row, T tile, E dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TILE = 1024
"""Rows of a tile: its products are 8 MB. In smaller ones the threads of a product wait for one another."""
CELLS_PER_PAIR = 32
"""A whole tile costs no more than so many of its cells picked one by one (256 dimensions, two cores)."""
PAIRS_AT_A_TIME = 1 << 22
"""Pairs that are put in order at a time: about 130 MB."""
PAIRS_PER_GATHER = 256
"""Pairs whose rows are gathered at a time: they stay in the processor's cache."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Places = NDArray[np.int32]


def products_of_pairs(rows_RE: Floats, first_P: Ints, second_P: Ints) -> Floats:
    """The scalar product of rows ``first_P[p]`` and ``second_P[p]`` for every pair ``p``.

    A pair that is there several times, in either order, has the same product to the last digit.

    Args:
        rows_RE: the rows.
        first_P: row numbers.
        second_P: row numbers.

    Returns:
        float64 [num_pairs].
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
    dense_T = count_T * CELLS_PER_PAIR >= grid.cells_T * len(blocks)
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
        on_second_R = np.zeros(len(rows_RE), np.int8)
        on_second_R[second_P] = 2
        role_R += on_second_R
        order_R = np.argsort(role_R, kind="stable")
        place_R = np.empty(len(rows_RE), np.int32)
        place_R[order_R] = np.arange(len(rows_RE), dtype=np.int32)
        return cls(rows_RE[order_R], place_R)

    @property
    def width(self) -> int:
        """Number of tiles side by side."""
        return -(-len(self.rows_RE) // TILE)

    @property
    def cells_T(self) -> Ints:
        """The number of cells of each tile."""
        sides = np.minimum(TILE, len(self.rows_RE) - TILE * np.arange(self.width))
        return np.outer(sides, sides).ravel()

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
