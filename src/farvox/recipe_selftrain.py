"""The ``[selftrain]`` table of a recipe: rounds of clustering and training on the clusters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SelftrainRecipe:
    """What ``farvox selftrain`` labels, how, and how often."""

    data: str = ""
    """Data dir without speakers, whose clusters are trained on."""
    truth: str = ""
    """Its true ``utt2spk``, for NMI and purity alone; empty: unknown."""
    rounds: int = 3
    """Rounds at most."""
    stable: float = 0.98
    """Stop when the labels of two rounds agree with at least this NMI."""
    start: str = "first"
    """Each round's training starts from the ``first`` model (``init.model``) or the ``last`` round's."""
    share: float = 0.0
    """Share of the pseudo-labelled data dir in every batch; 0: as large as it is."""
    method: str = "kmeans"
    """``kmeans``, ``ahc`` or ``spectral``."""
    clusters: str = "10:2000:10"
    """A number of clusters, or FIRST:END:STEP, of which the elbow is taken."""
    iterations: int = 25
    """Lloyd iterations of k-means."""
    per_cluster: int = 256
    """Utterances a cluster that k-means iterates on, drawn at random; 0: all."""
    wccs: str = "clusters"
    """The intra-class cosine is the mean over ``clusters`` or over ``samples``."""
    elbow: str = "log"
    """Axis of the number of clusters when the elbow is looked for: ``log`` or ``linear``."""
    min_size: int = 2
    """Least utterances of a cluster."""
    min_cosine: float = -1.0
    """Least cosine of an utterance to the centre of its cluster."""
    keep: float = 1.0
    """Share of each cluster that is kept, nearest to its centre first."""
    agreement: bool = False
    """From round 2 on, keep only utterances whose clusters of both rounds are each other's partner."""
