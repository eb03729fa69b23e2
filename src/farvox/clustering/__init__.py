"""Clustering of embeddings: k-means, hierarchy, and the number of clusters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from farvox.errors import UsageError
from farvox.options import Above, AtLeast, AtMost, Options


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """Options of a clustering: the flags of `farvox cluster`, and a part of the keys of `[selftrain]`.

    Raises:
        UsageError: an option is out of its limits, or ``clusters`` is neither a number nor a usable range.
    """

    clusters: str = "10:2000:10"
    """A number of clusters, or FIRST:END:STEP, of which the elbow of the intra-class cosine is taken."""
    method: Literal["kmeans", "ahc", "spectral"] = "kmeans"
    """kmeans; ahc, which merges many small k-means clusters; spectral, on a sample."""
    min_size: Annotated[int, AtLeast(1)] = 1
    """Least utterances of a cluster, counted after the other conditions; smaller clusters are dropped."""
    min_cosine: Annotated[float, AtLeast(-1), AtMost(1)] = -1.0
    """Least cosine of an utterance to the centre of its cluster; other utterances are dropped."""
    keep: Annotated[float, Above(0), AtMost(1)] = 1.0
    """Share of each cluster to keep, nearest to the centre first."""
    wccs: Literal["clusters", "samples"] = "clusters"
    """Intra-class cosine as the mean over clusters (the FFSVC notebook), or over samples (its paper)."""
    elbow: Literal["log", "linear"] = "log"
    """Spacing of the axis of the number of clusters when the elbow is looked for."""
    iterations: Annotated[int, AtLeast(1), AtMost(1_000_000)] = 25
    """Lloyd iterations of k-means."""
    per_cluster: Annotated[int, AtLeast(0)] = 256
    """Utterances a cluster that k-means iterates on, drawn at random; 0: all."""
    restarts: Annotated[int, AtLeast(1), AtMost(10_000)] = 3
    """Runs of k-means from different first centres for the clusters that are kept; the best one is taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.numbers

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of clusters to try, ascending."""
        found = re.fullmatch(r"(\d{1,9})(?::(\d{1,9})(?::(\d{1,9}))?)?", self.clusters.strip())
        if found is None:
            raise UsageError(
                f"clusters = '{self.clusters}' is neither a number of clusters nor a range such as 10:2000:10"
            )
        first, end, step = found.groups()
        if step is not None and int(step) == 0:
            raise UsageError(f"clusters = '{self.clusters}': a range has a step of at least 1")
        numbers = (int(first),) if end is None else tuple(range(int(first), int(end), int(step or 1)))
        if not numbers or numbers[0] < 1:
            raise UsageError(
                f"clusters = '{self.clusters}' holds no number of clusters: FIRST:END:STEP leaves END out, "
                "FIRST is at least 1"
            )
        if len(numbers) == 2:
            raise UsageError(
                f"clusters = '{self.clusters}': an elbow needs at least three ascending numbers; "
                "give a wider range, or one number"
            )
        return numbers
