"""Probabilistic linear discriminant analysis (PLDA), the two-covariance model.

A speaker is a vector y ~ N(m, B), an embedding of theirs x ~ N(y, W). The score of two embeddings is the
natural-log likelihood ratio of one speaker against two,

    log N([x_1; x_2]; [m; m], [[B + W, B], [B, B + W]]) - log N(x_1; m, B + W) - log N(x_2; m, B + W).

In the space in which W is the identity and B diagonal, with entries psi, it is a sum over dimensions:

    psi / (2 psi + 1) x_1 x_2 - psi^2 / (2 (2 psi + 1) (psi + 1)) (x_1^2 + x_2^2)
    + log(psi + 1) - 1/2 log(2 psi + 1)

so that the scores of many trials are scalar products, as cosines are. B and W are estimated by EM from
embeddings of length 1 (Garcia-Romero and Espy-Wilson), optionally in the dimensions that linear discriminant
analysis (LDA) keeps: those of the greatest variance between speakers against that within.

A side of several recordings counts as one embedding.

Shape suffixes: N utterance, K speaker, S side, C member of a cohort, E embedding, D dimension that is kept.

References:
    N. Brummer and E. de Villiers, The speaker partitioning problem, Odyssey 2010 (two-covariance model).
    A. Sizov, K. A. Lee and T. Kinnunen, Unifying probabilistic linear discriminant analysis variants in
    biometric authentication, S+SSPR 2014 (its EM algorithm).
    D. Garcia-Romero and C. Espy-Wilson, Analysis of i-vector length normalization in speaker recognition
    systems, Interspeech 2011.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farvox.errors import TrialError
from farvox.score.channels import Floats
from farvox.score.cosine import products_of_pairs
from farvox.score.trials import ResolvedTrials

ITERATIONS = 20  # of EM
_ROUNDING = 1e-10  # of the largest variance: below it a direction holds nothing


@dataclass(frozen=True, eq=False)
class Plda:
    """A two-covariance model, in the space in which it is diagonal.

    Attributes:
        mean_E: m.
        transform_DE: from embeddings less the mean to that space.
        psi_D: variance between speakers there; that within is 1.
    """

    mean_E: Floats
    transform_DE: Floats
    psi_D: Floats

    @classmethod
    def fit(cls, unit_NE: ArrayLike, speaker_ids: Sequence[str], *, lda: int | None = None) -> Plda:
        """Estimate the model.

        Args:
            unit_NE: embeddings as those of the trials will be: centred, of length 1.
            speaker_ids: the speaker of each.
            lda: number of dimensions to keep; None: all.

        Raises:
            TrialError: there are fewer than two speakers, nobody has two utterances, the utterances are too
                few for their dimensions, or ``lda`` is more than there are speakers less one or dimensions.
        """
        x_NE = np.asarray(unit_NE, np.float64)
        speakers, code_N, count_K = np.unique(
            np.asarray(speaker_ids), return_inverse=True, return_counts=True
        )
        if len(speakers) < 2 or count_K.max() < 2:
            raise TrialError(
                f"PLDA learns how recordings of one speaker differ: {len(x_NE):,} utterances of "
                f"{len(speakers):,} speakers are no such sample; give several recordings of many speakers"
            )
        mean_E = x_NE.mean(0)
        sum_KE = np.zeros((len(speakers), x_NE.shape[1]))
        np.add.at(sum_KE, code_N, x_NE - mean_E)
        scatter_EE = (x_NE - mean_E).T @ (x_NE - mean_E)
        transform_DE = np.eye(x_NE.shape[1])
        if lda is not None:
            most = min(len(speakers) - 1, x_NE.shape[1])
            if not 1 <= lda <= most:
                raise TrialError(
                    f"LDA to {lda} dimensions: {len(speakers):,} speakers and {x_NE.shape[1]} dimensions"
                    f" allow 1 to {most}"
                )
            between_EE, within_EE = _moments(sum_KE, scatter_EE, count_K)
            directions_EE, _ = _diagonalised(within_EE, between_EE)
            transform_DE = directions_EE[:lda]
        sum_KD = sum_KE @ transform_DE.T
        scatter_DD = transform_DE @ scatter_EE @ transform_DE.T
        between_DD, within_DD = _moments(sum_KD, scatter_DD, count_K)
        for _ in range(ITERATIONS):
            between_DD, within_DD = _em_step(sum_KD, scatter_DD, count_K, between_DD, within_DD)
        diagonal_DD, psi_D = _diagonalised(within_DD, between_DD)
        return cls(mean_E, diagonal_DD @ transform_DE, np.maximum(psi_D, 0))

    def scores(self, resolved: ResolvedTrials, sides_SE: Floats) -> Floats:
        """The log-likelihood ratio of every trial, float64 [num_trials], nats."""
        x_SD, own_S = self._projected(sides_SE)
        product_N = products_of_pairs(x_SD, resolved.enrol_side, resolved.test_side)
        return product_N + (own_S[resolved.enrol_side] + own_S[resolved.test_side])

    def as_products(self, sides_SE: Floats, cohort_CE: ArrayLike) -> tuple[Floats, NDArray[np.float32]]:
        """Vectors of the sides, and of a cohort, whose scalar products are the scores of the ones against the
        other, [S, D + 2] and [C, D + 2]; see `farvox.score.norm.cohort_scores`.
        """
        x_SD, own_S = self._projected(sides_SE)
        y_CD, own_C = self._projected(np.asarray(cohort_CE, np.float64))
        left = np.column_stack([x_SD, own_S, np.ones(len(x_SD))])
        right = np.column_stack([y_CD, np.ones(len(y_CD)), own_C])
        return left, right.astype(np.float32)

    def _projected(self, sides_SE: Floats) -> tuple[Floats, Floats]:
        """Vectors whose products are the mixed terms of the score, and what each side adds by itself."""
        x_SD = (sides_SE - self.mean_E) @ self.transform_DE.T
        psi_D = self.psi_D
        square_D = psi_D**2 / (2 * (2 * psi_D + 1) * (psi_D + 1))
        constant = float((np.log1p(psi_D) - np.log1p(2 * psi_D) / 2).sum())
        return x_SD * np.sqrt(psi_D / (2 * psi_D + 1)), constant / 2 - x_SD**2 @ square_D


def _moments(sum_KD: Floats, scatter_DD: Floats, count_K: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Unbiased covariances between and within speakers; the first may have negative eigenvalues."""
    num_utterances, num_speakers = int(count_K.sum()), len(count_K)
    of_means_DD = (sum_KD / count_K[:, None]).T @ sum_KD
    within_DD = (scatter_DD - of_means_DD) / max(1, num_utterances - num_speakers)
    per_speaker = (num_utterances - (count_K**2).sum() / num_utterances) / (num_speakers - 1)
    between_DD = (of_means_DD / (num_speakers - 1) - within_DD) / per_speaker
    return between_DD, within_DD


def _em_step(
    sum_KD: Floats, scatter_DD: Floats, count_K: NDArray[np.int64], between_DD: Floats, within_DD: Floats
) -> tuple[Floats, Floats]:
    """Covariances at least as likely (Sizov et al., section 3.3), computed where both are diagonal."""
    to_DD, psi_D = _diagonalised(within_DD, between_DD)
    psi_D = np.maximum(psi_D, 0)
    spread_KD = psi_D / (count_K[:, None] * psi_D + 1)  # posterior variance of each speaker
    speaker_KD = spread_KD * (sum_KD @ to_DD.T)
    between = speaker_KD.T @ speaker_KD + np.diag(spread_KD.sum(0))
    cross_DD = to_DD @ sum_KD.T @ speaker_KD
    weighted = (speaker_KD * count_K[:, None]).T @ speaker_KD + np.diag(count_K @ spread_KD)
    within = to_DD @ scatter_DD @ to_DD.T - cross_DD - cross_DD.T + weighted
    back_DD = np.linalg.inv(to_DD)
    return (
        back_DD @ (between / len(count_K)) @ back_DD.T,
        back_DD @ (within / int(count_K.sum())) @ back_DD.T,
    )


def _diagonalised(within_DD: Floats, between_DD: Floats) -> tuple[Floats, Floats]:
    """The transform that makes ``within`` the identity and ``between`` diagonal, largest first; the latter.

    Raises:
        TrialError: the variance within speakers has no extent in some direction.
    """
    variance_D, axes_DD = np.linalg.eigh((within_DD + within_DD.T) / 2)
    flat = int((variance_D <= _ROUNDING * variance_D[-1]).sum())
    if flat:
        raise TrialError(
            f"the utterances show no variation within speakers in {flat} of {len(variance_D)} dimensions:"
            " they are too few for PLDA; give more"
        )
    whitening_DD = (axes_DD / np.sqrt(variance_D)).T
    psi_D, turn_DD = np.linalg.eigh(whitening_DD @ ((between_DD + between_DD.T) / 2) @ whitening_DD.T)
    return turn_DD.T[::-1] @ whitening_DD, psi_D[::-1]
