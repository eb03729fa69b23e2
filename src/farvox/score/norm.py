"""Centring, and score normalisation against a cohort of other speakers.

A score says little without the scores of the same sides against people who are certainly not the speaker.
With m_e, s_e the mean and standard deviation (of the population) of the scores of the enrolment side against
a cohort, and m_t, s_t those of the test side, both kinds make of a score x

    1/2 ((x - m_e) / s_e + (x - m_t) / s_t)

- ``s-norm``: over the whole cohort (Kenny, "Bayesian speaker verification with heavy-tailed priors",
  Odyssey 2010).
- ``as-norm``: over the ``top`` highest of the scores of each side, its nearest impostors (Matejka et al.,
  "Analysis of score normalization in multilingual speaker recognition", Interspeech 2017, as-norm1).

Shape suffixes: N utterance, C member of the cohort, S side of a trial, E embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.score.channels import Floats
from farvox.score.cosine import shift_of
from farvox.score.trials import ResolvedTrials

ROWS_PER_BLOCK = 8192
BYTES_PER_BLOCK = 1 << 24  # of the scores of some sides against the cohort
SAMPLED = 16  # one in so many of the cohort is the sample that shows which scores are high


@dataclass(frozen=True, eq=False)
class CohortScores:
    """Mean and (positive) standard deviation of the population of scores of every side against the cohort."""

    mean_S: Floats
    std_S: Floats


def mean_embedding(embeddings_NE: ArrayLike) -> Floats:
    """The mean of embeddings as they are, for centring, float64 [E]: before anything is scaled to length 1.

    Raises:
        TrialError: there are none, or one of them is not finite.
    """
    embeddings_NE = np.asanyarray(embeddings_NE)
    if len(embeddings_NE) == 0:
        raise TrialError("no embeddings to take the mean of")
    sum_E = np.zeros(embeddings_NE.shape[1])
    for block in _blocks(len(embeddings_NE)):
        sum_E += embeddings_NE[block].sum(0, dtype=np.float64)
    if not np.isfinite(sum_E).all():
        raise TrialError("the mean of the embeddings is not finite: one of them holds NaN or infinity")
    return sum_E / len(embeddings_NE)


def cohort_embeddings(
    embeddings_NE: ArrayLike, *, centre_E: ArrayLike | None = None, speaker_ids: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """The cohort: unit vectors, of utterances or of speakers, float32 [C, E].

    Args:
        embeddings_NE: any real dtype, memory-mapped or not.
        centre_E: subtracted first, as from the embeddings of the trials.
        speaker_ids: the speaker of every utterance; with them the cohort is one vector a speaker, the mean of
            the unit vectors of the utterances, scaled to length 1, in the order of the sorted speakers.

    Raises:
        TrialError: the centre is of another dimension, an embedding is zero or not finite, or those of a
            speaker cancel out.
    """
    embeddings_NE = np.asanyarray(embeddings_NE)
    shift_E = shift_of(centre_E, embeddings_NE.shape[1])
    if speaker_ids is None:
        cohort_CE = np.empty(embeddings_NE.shape, np.float32)
        for block in _blocks(len(embeddings_NE)):
            cohort_CE[block] = _unit(embeddings_NE[block] - shift_E, "an utterance of the cohort")
        return cohort_CE
    speakers, code_N = np.unique(np.asarray(speaker_ids), return_inverse=True)
    sum_CE = np.zeros((len(speakers), embeddings_NE.shape[1]))
    for block in _blocks(len(embeddings_NE)):
        unit_NE = _unit(embeddings_NE[block] - shift_E, "an utterance of the cohort")
        order = np.argsort(code_N[block], kind="stable")
        present, starts = np.unique(code_N[block][order], return_index=True)
        sum_CE[present] += np.add.reduceat(unit_NE[order], starts, axis=0)
    return _unit(sum_CE, "a speaker of the cohort").astype(np.float32)


def cohort_scores(sides_SE: Floats, cohort_CE: NDArray[np.float32], top: int | None = None) -> CohortScores:
    """Mean and standard deviation of the scores of every side against the cohort, or the nearest of it.

    Over the whole cohort they follow from its mean and covariance, without a single score. The nearest are
    found block by block, from float32 scores that are never in memory all at once.

    Args:
        sides_SE: a vector for each side, see `farvox.score.cosine.side_embeddings`.
        cohort_CE: unit vectors, see `cohort_embeddings`.
        top: number of the highest scores of each side that count; None: all.

    Raises:
        TrialError: the cohort has another dimension, or fewer than ``top`` or than two members; or its scores
            against some side are all alike.
    """
    if cohort_CE.shape[1] != sides_SE.shape[1]:
        raise TrialError(
            f"the cohort has embeddings of {cohort_CE.shape[1]} dimensions, the trials of"
            f" {sides_SE.shape[1]}: they are of different models"
        )
    if top is not None and top < 2:
        raise TrialError(f"a standard deviation needs two scores or more: top {top} is too few")
    if len(cohort_CE) < (top or 2):
        raise TrialError(
            f"the cohort has {len(cohort_CE):,} members, and {top or 2:,} are needed; bring a larger one"
            f"{', or ask for fewer with --top' if top else ''}"
        )
    if top is None:
        mean_E = mean_embedding(cohort_CE)
        covariance_EE = np.zeros((len(mean_E), len(mean_E)))
        for block in _blocks(len(cohort_CE)):
            centred = cohort_CE[block] - mean_E
            covariance_EE += centred.T @ centred
        covariance_EE /= len(cohort_CE)
        variance_S = np.empty(len(sides_SE))
        for block in _blocks(len(sides_SE)):
            variance_S[block] = np.einsum("se,se->s", sides_SE[block] @ covariance_EE, sides_SE[block])
        mean_S, std_S = sides_SE @ mean_E, np.sqrt(np.maximum(variance_S, 0))
    else:
        mean_S, std_S = np.empty(len(sides_SE)), np.empty(len(sides_SE))
        num_rows = min(len(sides_SE), max(1, BYTES_PER_BLOCK // (4 * len(cohort_CE))))
        scratch_SC = np.empty((num_rows, len(cohort_CE)), np.float32)  # new memory costs time, block by block
        for block in _blocks(len(sides_SE), num_rows):
            nearest = _nearest(sides_SE[block].astype(np.float32), cohort_CE, top, scratch_SC)
            nearest = nearest.astype(np.float64)
            mean_S[block], std_S[block] = nearest.mean(1), nearest.std(1)
    if not (std_S > 1e-7).all():  # float32 scores of unit vectors
        raise TrialError("the scores of some side against the cohort are all alike: bring another cohort")
    return CohortScores(mean_S, std_S)


def normalise_scores(resolved: ResolvedTrials, scores: Floats, cohort: CohortScores) -> Floats:
    """Scores by the formula of this module's docstring: standard deviations above the mean of impostors."""
    enrol, test = resolved.enrol_side, resolved.test_side
    by_enrol = (scores - cohort.mean_S[enrol]) / cohort.std_S[enrol]
    by_test = (scores - cohort.mean_S[test]) / cohort.std_S[test]
    normalised: Floats = (by_enrol + by_test) / 2
    return normalised


def _nearest(
    sides_SE: NDArray[np.float32], cohort_CE: NDArray[np.float32], top: int, scratch_SC: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The ``top`` highest scores of each side, in no order, [S, top].

    From a few of the cohort follows a score that hardly more than ``top`` exceed; only those are partitioned.
    """
    scores_SC = np.matmul(sides_SE, cohort_CE.T, out=scratch_SC[: len(sides_SE)])
    first = len(cohort_CE) - top
    sample_SC = sides_SE @ cohort_CE[::SAMPLED].T
    expected = top / SAMPLED
    rank = math.ceil(expected + 4 * math.sqrt(expected))  # too high a score for one side in ten thousand
    if 2 * rank > sample_SC.shape[1]:
        scores_SC.partition(first, axis=1)
        return scores_SC[:, first:]
    sample_SC.partition(sample_SC.shape[1] - rank, axis=1)
    enough_S = sample_SC[:, -rank]
    nearest = np.empty((len(sides_SE), top), np.float32)
    for scores_C, enough, out in zip(scores_SC, enough_S, nearest, strict=True):
        kept = scores_C[scores_C >= enough]
        if len(kept) < top:
            kept = scores_C
        kept.partition(len(kept) - top)
        out[:] = kept[len(kept) - top :]
    return nearest


def _blocks(count: int, size: int = ROWS_PER_BLOCK) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def _unit(vectors_NE: Floats, what: str) -> Floats:
    """Vectors scaled to length 1."""
    length_N = np.sqrt(np.einsum("ne,ne->n", vectors_NE, vectors_NE))
    if not (np.isfinite(length_N) & (length_N > 0)).all():
        raise TrialError(f"the embedding of {what} is zero or not finite: it has no direction to compare")
    scaled: Floats = vectors_NE / length_N[:, None]
    return scaled
