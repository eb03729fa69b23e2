"""Error rates of trials that count as often as their speakers were drawn, for many draws at once.

Only where a figure is reached are trials looked at one by one. The sorted trials are cut into bins, narrow
towards both ends, where the figures lie. The weights in each bin, for all draws, are one product of matrices:
of the numbers of its trials of each pair of speakers, and of the weights of the pairs. That gives the error
rates at every edge of two bins, and with them the bins in which a crossing or a least cost can lie (the
argument is that of `farvox.metrics.detection`); there the weights are added up trial by trial. Weights are
whole numbers, and their sums are exact: the figures are those of the plain way, to the last digit.

A figure is a function of `ResampledTrials` to one value for each draw: from the rates where a rising function
of them crosses zero (`crossing`), from the least of a cost (`least`), from means over the trials of each kind
(`means`), or from all points of each draw's curve (`rejected`).

Shape suffixes: N trial in ascending order of the scores, D draw, S speaker, P pair of speakers, E edge of
bins, B bin, T point of a curve within a bin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.metrics.detection import Floats, Ints, Ties, validate

NARROWING = 1.5  # from bin to bin, towards both ends
FEWEST_IN_BIN = 64
BLOCK = 1 << 20  # weights that are held at a time
EXACT = 1 << 24  # whole numbers up to this one are exact in float32

Sums = NDArray[np.float32] | NDArray[np.float64]
OfRates = Callable[[Floats, Floats], Floats]
"""A function of FRR and FAR."""


class Points(NamedTuple):
    """One point of the curve of each draw."""

    frr_D: Floats
    far_D: Floats
    rejected_D: Ints  # number of trials below, of those sorted, whatever they count

    @classmethod
    def empty(cls, num_draws: int) -> Points:
        """Points that are yet to be found."""
        return cls(np.zeros(num_draws), np.zeros(num_draws), np.zeros(num_draws, np.int64))


class ResampledTrials:
    """The trials of one list and system, weighted by how often each speaker was drawn.

    A target trial weighs as often as its speaker was drawn, a non-target trial the product of both numbers.

    Args:
        scores, target, ties: see `farvox.metrics.detection.det_curve`, [N] in any order.
        enrol, test: number of the speaker on each side, [N].
        count_DS: how often each speaker was drawn. Every draw must leave trials of both kinds.
    """

    def __init__(
        self, scores: ArrayLike, target: ArrayLike, enrol: Ints, test: Ints, count_DS: Ints, ties: Ties
    ) -> None:
        values, is_target = validate(scores, target)
        targets_first = np.concatenate([np.flatnonzero(is_target), np.flatnonzero(~is_target)])
        self.order_N = targets_first[np.argsort(values[targets_first], kind="stable")]
        self.scores_N, self.is_target_N = values[self.order_N], is_target[self.order_N]
        alone = count_DS.shape[1]  # the other side of a target trial: a speaker who always counts once
        enrol_N, test_N = enrol[self.order_N], test[self.order_N]
        self.first_N: Ints = np.minimum(enrol_N, test_N)
        self.second_N: Ints = np.where(self.is_target_N, alone, np.maximum(enrol_N, test_N))
        self.num_target = int(is_target.sum())
        self.num_nontarget = len(is_target) - self.num_target
        self.num_rarer = min(self.num_target, self.num_nontarget)
        self.num_draws = len(count_DS)
        self.weight_SD = np.ones((alone + 1, self.num_draws), np.float32)
        self.weight_SD[:alone] = count_DS.T
        self.heaviest = int(count_DS.max()) ** 2
        # True where a point of the curve follows the trial.
        self.point_N: NDArray[np.bool_] = np.ones(len(values), bool)
        if ties == "grouped":
            self.point_N[:-1] = self.scores_N[1:] != self.scores_N[:-1]
        self.edge_E = self._edges()

    def _edges(self) -> Ints:
        """Numbers of trials below the edges of the bins, from 0 to all."""
        found = [np.array([0, len(self.scores_N)])]
        for place in (np.flatnonzero(self.is_target_N), np.flatnonzero(~self.is_target_N)):
            steps = max(0, int(np.log(len(place) / FEWEST_IN_BIN) / np.log(NARROWING)))
            rank = (len(place) / NARROWING ** np.arange(1, steps + 1)).astype(np.int64)
            found += [place[rank], place[len(place) - rank]]
        ends = np.append(0, np.flatnonzero(self.point_N) + 1)
        return np.unique(ends[np.searchsorted(ends, np.concatenate(found))])

    @cached_property
    def _pairs(self) -> tuple[Ints, Ints]:
        """The trials in the order of their pairs of speakers, and the first of each pair in it."""
        code_N = self.first_N * len(self.weight_SD) + self.second_N
        by_pair_N = np.argsort(code_N, kind="stable")
        changes = np.diff(code_N[by_pair_N]) != 0
        return by_pair_N, np.append(0, np.flatnonzero(changes) + 1)

    def _pair_blocks(self) -> Iterator[tuple[Ints, Ints, NDArray[np.float32]]]:
        """Trials of some pairs, the place of each pair's first among them, and the pairs' weights, [P, D]."""
        by_pair_N, start_P = self._pairs
        step = max(1, BLOCK // self.num_draws)
        for first in range(0, len(start_P), step):
            starts = start_P[first : first + step]
            end = start_P[first + step] if first + step < len(start_P) else len(by_pair_N)
            one = by_pair_N[starts]
            weight_PD = self.weight_SD[self.first_N[one]]
            weight_PD *= self.weight_SD[self.second_N[one]]
            yield by_pair_N[starts[0] : end], starts - starts[0], weight_PD

    @cached_property
    def _at_edges(self) -> tuple[Floats, Floats]:
        """Weights of the target and of the non-target trials below each edge, [E, D]."""
        num_bins = len(self.edge_E) - 1
        bin_N = np.repeat(np.arange(num_bins), np.diff(self.edge_E))
        sums_KBD = np.zeros((2, num_bins, self.num_draws))
        for rows, starts, weight_PD in self._pair_blocks():
            pair = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(rows))))
            for kind, of_kind in enumerate((True, False)):
                chosen = self.is_target_N[rows] == of_kind
                cell = bin_N[rows[chosen]] * len(starts) + pair[chosen]
                counts_BP = np.bincount(cell, minlength=num_bins * len(starts)).reshape(num_bins, -1)
                is_small = counts_BP.sum(1).max() * self.heaviest < EXACT
                if is_small:
                    sums_KBD[kind] += counts_BP.astype(np.float32) @ weight_PD
                else:
                    sums_KBD[kind] += counts_BP.astype(np.float64) @ weight_PD.astype(np.float64)
        targets_ED, nontargets_ED = np.zeros((2, num_bins + 1, self.num_draws))
        np.cumsum(sums_KBD[0], axis=0, out=targets_ED[1:])
        np.cumsum(sums_KBD[1], axis=0, out=nontargets_ED[1:])
        return targets_ED, nontargets_ED

    def _rates(
        self, missed: Floats, rejected: Floats, draws: Ints | slice = slice(None)
    ) -> tuple[Floats, Floats]:
        """FRR and FAR from the weights of the target and of the non-target trials that are rejected."""
        targets_ED, nontargets_ED = self._at_edges
        num_nontarget = nontargets_ED[-1, draws]
        return missed / targets_ED[-1, draws], (num_nontarget - rejected) / num_nontarget

    def _inside(self, bin: int, draws: Ints) -> Iterator[_Bin]:
        """The points of a bin, some of the draws at a time."""
        rows = slice(self.edge_E[bin], self.edge_E[bin + 1])
        first, second, is_target = self.first_N[rows], self.second_N[rows], self.is_target_N[rows]
        point_T = np.append(0, np.flatnonzero(self.point_N[rows]) + 1)
        targets_T = np.append(0, np.cumsum(is_target))[point_T]
        is_small = len(first) * self.heaviest < EXACT
        step = max(1, BLOCK // len(first))
        for start in range(0, len(draws), step):
            some = draws[start : start + step]
            weight_SD = self.weight_SD[:, some].astype(np.float32 if is_small else np.float64, copy=False)
            sums = []
            for kind, before_ED in zip((is_target, ~is_target), self._at_edges, strict=True):
                weight_ND = weight_SD[first[kind]]
                weight_ND *= weight_SD[second[kind]]
                sum_ND = np.zeros((len(weight_ND) + 1, len(some)), weight_ND.dtype)
                np.cumsum(weight_ND, axis=0, out=sum_ND[1:])
                sums.append((before_ED[bin, some], sum_ND))
            yield _Bin(self, some, point_T, targets_T, point_T - targets_T, *sums)

    def crossing(self, function: OfRates) -> tuple[Points, Points]:
        """The last point where a rising function of the rates is below zero, and the one after it.

        Args:
            function: of FRR and FAR, not falling with a rising threshold; below 0 at FRR 0 and FAR 1, and 0
                or more at FRR 1 and FAR 0.
        """
        before, after = Points.empty(self.num_draws), Points.empty(self.num_draws)
        bin_D = np.argmax(function(*self._rates(*self._at_edges)) >= 0, axis=0) - 1
        for bin in np.unique(bin_D).tolist():
            for part in self._inside(bin, np.flatnonzero(bin_D == bin)):
                low = np.zeros(len(part.draws), np.int64)
                high = np.full(len(part.draws), len(part.point_T) - 1)
                while (high - low > 1).any():
                    middle = (low + high) // 2
                    is_high = function(*part.rates(middle)) >= 0
                    low, high = np.where(is_high, low, middle), np.where(is_high, middle, high)
                for points, place in ((before, low), (after, high)):
                    points.frr_D[part.draws], points.far_D[part.draws] = part.rates(place)
                    points.rejected_D[part.draws] = self.edge_E[bin] + part.point_T[place]
        return before, after

    def least(self, cost: OfRates) -> tuple[Floats, Points]:
        """The least cost, and the first point that has it; ``cost`` rises with FRR and with FAR."""
        frr_ED, far_ED = self._rates(*self._at_edges)
        can_decide_BD = cost(frr_ED[:-1], far_ED[1:]) <= cost(frr_ED, far_ED).min(axis=0)
        best_D, point = np.full(self.num_draws, np.inf), Points.empty(self.num_draws)
        for bin in np.flatnonzero(can_decide_BD.any(axis=1)).tolist():
            for part in self._inside(bin, np.flatnonzero(can_decide_BD[bin])):
                # The cost can be least only where the next point rejects target trials.
                corner = np.flatnonzero(np.append(np.diff(part.targets_T) > 0, True))
                frr_TD, far_TD = part.rates(corner[:, None], np.arange(len(part.draws)))
                cost_TD = cost(frr_TD, far_TD)
                n = np.argmin(cost_TD, axis=0)
                column = np.arange(len(n))
                better = cost_TD[n, column] < best_D[part.draws]
                n, column, draws = n[better], column[better], part.draws[better]
                best_D[draws] = cost_TD[n, column]
                point.frr_D[draws], point.far_D[draws] = frr_TD[n, column], far_TD[n, column]
                point.rejected_D[draws] = self.edge_E[bin] + part.point_T[corner[n]]
        return best_D, point

    def threshold(self, points: Points) -> Floats:
        """The score of the last trial below each point that counts in its draw, [D]."""
        rejected_D, draw = points.rejected_D.copy(), np.arange(self.num_draws)
        while True:
            last = rejected_D[draw] - 1
            weight = self.weight_SD[self.first_N[last], draw] * self.weight_SD[self.second_N[last], draw]
            draw = draw[(weight == 0) & (last >= 0)]
            if not len(draw):
                break
            rejected_D[draw] -= 1
        found_D: Floats = self.scores_N[rejected_D - 1]
        found_D[rejected_D == 0] = self.scores_N[0] - 0.001
        return found_D

    def means(self, of_targets: ArrayLike, of_nontargets: ArrayLike) -> tuple[Floats, Floats]:
        """The weighted mean over target trials of one quantity, and over non-target trials of another.

        Args:
            of_targets, of_nontargets: the quantities of all trials, such as functions of `scores_N`, [N].
        """
        value_N = np.where(self.is_target_N, of_targets, of_nontargets).astype(np.float64)
        sums_KD = np.zeros((2, self.num_draws))
        for rows, starts, weight_PD in self._pair_blocks():
            total_P, is_target_P = np.add.reduceat(value_N[rows], starts), self.is_target_N[rows[starts]]
            for kind, chosen in enumerate((is_target_P, ~is_target_P)):
                sums_KD[kind] += total_P[chosen] @ weight_PD[chosen].astype(np.float64)
        targets_ED, nontargets_ED = self._at_edges
        return sums_KD[0] / targets_ED[-1], sums_KD[1] / nontargets_ED[-1]

    def rejected(self, draw: int) -> Ints:
        """Numbers of non-target and of target trials of one draw below each threshold, from 0 to all.

        Equal scores are one threshold. For figures that need the whole curve.

        Returns:
            [2, number of thresholds], non-target trials first.
        """
        weight_S = self.weight_SD[:, draw].astype(np.int64)
        weight_N = weight_S[self.first_N] * weight_S[self.second_N]
        counts_N = weight_N > 0
        weight, is_target, scores = weight_N[counts_N], self.is_target_N[counts_N], self.scores_N[counts_N]
        ends = np.append(0, np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) + 1)
        return np.stack([np.append(0, np.cumsum(weight * kind))[ends] for kind in (~is_target, is_target)])


class _Bin(NamedTuple):
    """The points of one bin, for some draws."""

    trials: ResampledTrials
    draws: Ints  # their numbers
    point_T: Ints  # number of trials of the bin below each point
    targets_T: Ints  # number of target trials among them
    nontargets_T: Ints
    # The weight of target trials below the bin, [D], and of its first 0, 1, 2, ... target trials, [., D].
    targets: tuple[Floats, Sums]
    nontargets: tuple[Floats, Sums]

    def rates(self, place: Ints, draw: Ints | None = None) -> tuple[Floats, Floats]:
        """FRR and FAR at these places among the points, for each draw."""
        draw = np.arange(len(self.draws)) if draw is None else draw
        missed = self.targets[0] + self.targets[1][self.targets_T[place], draw]
        rejected = self.nontargets[0] + self.nontargets[1][self.nontargets_T[place], draw]
        return self.trials._rates(missed, rejected, self.draws)
