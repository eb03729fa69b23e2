"""Centring, and score normalisation against a cohort of other speakers.

A score says little without the scores of the same sides against people who are certainly not the speaker.
With m_e, s_e the mean and standard deviation (of the population) of the scores of the enrolment side against
a cohort, and m_t, s_t those of the test side, both kinds make of a score x

    1/2 ((x - m_e) / s_e + (x - m_t) / s_t)

- ``s-norm``: over the whole cohort (Kenny, "Bayesian speaker verification with heavy-tailed priors",
  Odyssey 2010).
- ``as-norm``: over the ``top`` highest of the scores of each side, its nearest impostors (Matejka et al.,
  "Analysis of score normalization in multilingual speaker recognition", Interspeech 2017, as-norm1).

With conditions, m_e and s_e are over the members of the cohort that are of the condition of the test side,
and m_t and s_t over those of the condition of the enrolment side: a member stands for the other side, as the
impostor utterances of Hnorm are of the handset of the test (Reynolds, Quatieri and Dunn, "Speaker
verification using adapted Gaussian mixture models", Digital Signal Processing, 2000).

Shape suffixes: N utterance, C member of the cohort, S side of a trial, K condition, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.score.channels import Floats
from farvox.score.conditions import SharedConditions
from farvox.score.cosine import shift_of
from farvox.score.trials import ResolvedTrials

ROWS_PER_BLOCK = 8192
BYTES_PER_BLOCK = 1 << 24  # of the scores of some sides against the cohort


@dataclass(frozen=True, eq=False)
class CohortScores:
    """Mean and (positive) standard deviation of the population of scores of every side against the cohort.

    With conditions both are [S, K + 1]: against the whole cohort, and against its members of each condition;
    NaN for what is in no trial.
    """

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


def cohort_scores(
    sides_SE: Floats, cohort_CE: NDArray[np.float32], top: int | None = None, what: str = "the cohort"
) -> CohortScores:
    """Mean and standard deviation of the scores of every side against the cohort, or the nearest of it.

    Over the whole cohort they follow from its mean and covariance, without a single score. The nearest are
    found block by block, from float32 scores that are never in memory all at once.

    Args:
        sides_SE: a vector for each side, see `farvox.score.cosine.side_embeddings`.
        cohort_CE: unit vectors, see `cohort_embeddings`.
        top: number of the highest scores of each side that count; None: all.
        what: the cohort, for messages.

    Raises:
        TrialError: the cohort has another dimension, or fewer than ``top`` or than two members; or its scores
            against some side are all alike.
    """
    if cohort_CE.shape[1] != sides_SE.shape[1]:
        raise TrialError(
            f"the cohort has embeddings of {cohort_CE.shape[1]} dimensions, the trials of"
            f" {sides_SE.shape[1]}: they are of different models"
        )
    if len(cohort_CE) < (top or 2):
        raise TrialError(
            f"{what} has {len(cohort_CE):,} members, and {top or 2:,} are needed; bring a larger one"
            f"{', or ask for fewer with --top' if top else ''}"
        )
    if top is not None and top < 2:
        raise TrialError(f"a standard deviation needs two scores or more: top {top} is too few")
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
            block_SE = sides_SE[block].astype(np.float32)
            scores_SC = np.matmul(block_SE, cohort_CE.T, out=scratch_SC[: len(block_SE)])
            scores_SC.partition(len(cohort_CE) - top, axis=1)
            nearest = scores_SC[:, -top:].astype(np.float64)
            mean_S[block], std_S[block] = nearest.mean(1), nearest.std(1)
    if not (std_S > 1e-7).all():  # float32 scores of unit vectors
        raise TrialError(f"the scores of some side against {what} are all alike: bring another cohort")
    return CohortScores(mean_S, std_S)


def matched_cohort_scores(
    resolved: ResolvedTrials,
    sides_SE: Floats,
    cohort_CE: NDArray[np.float32],
    conditions: SharedConditions,
    top_K: Sequence[int | None],
) -> CohortScores:
    """`cohort_scores` of every side against the members of each condition that it meets in a trial.

    Args:
        resolved: the list.
        sides_SE: a vector for each of its sides.
        cohort_CE: unit vectors.
        conditions: those of the sides and of the cohort; a side of none has the whole cohort for its like.
        top_K: see `cohort_scores`; of the whole cohort, and of each condition, [K + 1].

    Raises:
        TrialError: see `cohort_scores`; the condition is named.
    """
    number_S, shape = conditions.number_S, (len(sides_SE), len(conditions.names) + 1)
    is_met_SK = np.zeros(shape, bool)
    is_met_SK[resolved.enrol_side, number_S[resolved.test_side]] = True
    is_met_SK[resolved.test_side, number_S[resolved.enrol_side]] = True
    mean_SK, std_SK = np.full(shape, np.nan), np.full(shape, np.nan)
    for k, (name, top) in enumerate(zip(["", *conditions.names], top_K, strict=True)):
        rows = np.flatnonzero(is_met_SK[:, k])
        if len(rows):
            members_CE = cohort_CE[conditions.number_C == k] if name else cohort_CE
            what = f"the cohort of {name}" if name else "the cohort"
            found = cohort_scores(sides_SE[rows], members_CE, top, what)
            mean_SK[rows, k], std_SK[rows, k] = found.mean_S, found.std_S
    return CohortScores(mean_SK, std_SK)


def normalise_scores(
    resolved: ResolvedTrials, scores: Floats, cohort: CohortScores, number_S: NDArray[np.int64] | None = None
) -> Floats:
    """Scores by the formula of this module's docstring: standard deviations above the mean of impostors.

    ``number_S`` is the condition of each side, for `matched_cohort_scores`.
    """
    enrol, test = resolved.enrol_side, resolved.test_side
    of_enrol: Any = enrol if number_S is None else (enrol, number_S[test])  # the other side's condition
    of_test: Any = test if number_S is None else (test, number_S[enrol])
    by_enrol = (scores - cohort.mean_S[of_enrol]) / cohort.std_S[of_enrol]
    by_test = (scores - cohort.mean_S[of_test]) / cohort.std_S[of_test]
    normalised: Floats = (by_enrol + by_test) / 2
    return normalised


def _blocks(count: int, size: int = ROWS_PER_BLOCK) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def _unit(vectors_NE: Floats, what: str) -> Floats:
    """Vectors scaled to length 1."""
    length_N = np.sqrt(np.einsum("ne,ne->n", vectors_NE, vectors_NE))
    if not (np.isfinite(length_N) & (length_N > 0)).all():
        raise TrialError(f"the embedding of {what} is zero or not finite: it has no direction to compare")
    scaled: Floats = vectors_NE / length_N[:, None]
    return scaled
