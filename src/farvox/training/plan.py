"""The order of the training data, as arithmetic.

Which utterance stands at which position of an epoch is a function of (seed, epoch), and which
positions make a batch is a slice: no state, so that any number of workers and ranks sees the same
global batches, and resuming is starting at another number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from farvox.errors import DataDirError, RecipeError
from farvox.rng import rng_for

Index = npt.NDArray[np.int64]

ORDER_STREAM = 1
"""Stream of `rng_for` that draws an epoch's order; stream 0 belongs to the examples."""


@dataclass(frozen=True)
class EpochPlan:
    """The row of the training table at every position of every epoch.

    Attributes:
        seed: the run's seed.
        speakers_N: speaker number of every row.
        batch_size: examples of one optimiser step, over all ranks.
        sampling: ``utterance`` (rows in random order) or ``speaker`` (speakers equally often).
        domains_N: domain number of every row; None: one domain.
        domain_weights: share of each domain in every batch; empty: no balancing.
        epoch_size: positions in an epoch; 0: the number of rows.
    """

    seed: int
    speakers_N: Index
    batch_size: int
    sampling: str = "utterance"
    domains_N: Index | None = None
    domain_weights: Sequence[float] = ()
    epoch_size: int = 0
    _cache: dict[int, Index] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.speakers_N) == 0:
            raise DataDirError("there is no utterance to train on")
        if self.steps_per_epoch == 0:
            raise DataDirError(
                f"an epoch of {self.num_positions} examples is smaller than one batch of {self.batch_size}: "
                "lower optim.batch_size or raise data.epoch_size"
            )
        positive = all(0 < weight < np.inf for weight in self.domain_weights)
        if self.domain_weights and not (positive and self._examples_per_domain().min() > 0):
            raise RecipeError(
                f"data.domain_weights = {list(self.domain_weights)}: every weight must be more than 0 and "
                f"worth at least one of the {self.batch_size} examples of a batch"
            )

    @property
    def num_positions(self) -> int:
        """Positions in an epoch."""
        return self.epoch_size or len(self.speakers_N)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; what is left over is dropped, as in the baseline."""
        return self.num_positions // self.batch_size

    def rows(self, epoch: int) -> Index:
        """Row of the training table at every position of ``epoch``; shape [num_positions]."""
        if epoch not in self._cache:
            self._cache.clear()
            self._cache[epoch] = self._draw(rng_for(self.seed, epoch, 0, ORDER_STREAM))
        return self._cache[epoch]

    def batch(self, epoch: int, step: int, rank: int = 0, world_size: int = 1) -> list[tuple[int, int, int]]:
        """The (epoch, position, row) triples that ``rank`` reads for one optimiser step.

        The ranks' shares are interleaved slices of the same global batch.
        """
        first = step * self.batch_size
        rows = self.rows(epoch)
        return [
            (epoch, position, int(rows[position]))
            for position in range(first + rank, first + self.batch_size, world_size)
        ]

    def _draw(self, rng: np.random.Generator) -> Index:
        if not self.domain_weights:
            return _sequence(rng, self.speakers_N, self.num_positions, self.sampling)
        assert self.domains_N is not None
        # Domain of every position: the same share in each batch, shuffled within it.
        pattern = np.repeat(np.arange(len(self.domain_weights)), self._examples_per_domain())
        num_batches = -(-self.num_positions // self.batch_size)
        slots = rng.permuted(np.tile(pattern, (num_batches, 1)), axis=1).reshape(-1)[: self.num_positions]
        rows = np.empty(self.num_positions, dtype=np.int64)
        for domain in range(len(self.domain_weights)):
            members = np.flatnonzero(self.domains_N == domain)
            here = np.flatnonzero(slots == domain)
            if len(here) and not len(members):
                raise DataDirError(
                    f"data dir {domain + 1} of data.train has no utterance, but a domain weight"
                )
            if len(here):
                rows[here] = members[_sequence(rng, self.speakers_N[members], len(here), self.sampling)]
        return rows

    def _examples_per_domain(self) -> Index:
        """Examples of each domain in a batch: the weights' shares, by largest remainder."""
        weights = np.asarray(self.domain_weights, dtype=np.float64)
        shares = weights / weights.sum() * self.batch_size
        counts: Index = np.floor(shares).astype(np.int64)
        counts[np.argsort(counts - shares, kind="stable")[: self.batch_size - counts.sum()]] += 1
        return counts


def _sequence(rng: np.random.Generator, speakers_N: Index, length: int, sampling: str) -> Index:
    """``length`` row numbers: rounds over all rows, or rounds over all speakers with a random row of each."""
    if sampling == "utterance":
        rounds = -(-length // len(speakers_N))
        return np.concatenate([rng.permutation(len(speakers_N)) for _ in range(rounds)])[:length]
    order = np.argsort(speakers_N, kind="stable")
    _, starts, counts = np.unique(speakers_N[order], return_index=True, return_counts=True)
    rounds = -(-length // len(starts))
    picked = np.concatenate([rng.permutation(len(starts)) for _ in range(rounds)])[:length]
    within = np.floor(rng.random(length) * counts[picked]).astype(np.int64)
    rows: Index = order[starts[picked] + within]
    return rows


@dataclass(frozen=True)
class StepBatches:
    """The batches of one rank from step ``first_step`` of the run on: what a data loader walks through.

    A batch of ``accumulate`` micro-batches is yielded as that many lists of (epoch, position, row).
    """

    plan: EpochPlan
    first_epoch: int
    first_step: int
    last_epoch: int
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for epoch in range(self.first_epoch, self.last_epoch):
            start = self.first_step if epoch == self.first_epoch else 0
            for step in range(start, self.plan.steps_per_epoch):
                batch = self.plan.batch(epoch, step, self.rank, self.world_size)
                size = len(batch) // self.accumulate
                for micro in range(self.accumulate):
                    yield batch[micro * size : (micro + 1) * size]

    def __len__(self) -> int:
        steps = (self.last_epoch - self.first_epoch) * self.plan.steps_per_epoch - self.first_step
        return steps * self.accumulate
