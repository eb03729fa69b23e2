"""PLDA against a slow reference written from the equations, and its estimates against the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from farvox.errors import TrialError
from farvox.score.norm import cohort_scores
from farvox.score.plda import Plda


def covariances(rng, dimension):
    """Between and within speakers."""
    return (
        a_DD @ a_DD.T / dimension
        for a_DD in rng.standard_normal((2, dimension, 2 * dimension)) * np.array([0.7, 1.0])[:, None, None]
    )


def drawn(rng, mean_E, between_EE, within_EE, counts):
    """Embeddings of speakers with so many utterances each, and the speakers."""
    x_NE, speaker_ids = [], []
    for number, count in enumerate(counts):
        speaker_E = rng.multivariate_normal(mean_E, between_EE)
        x_NE.append(rng.multivariate_normal(speaker_E, within_EE, count))
        speaker_ids += [f"s{number}"] * count
    return np.concatenate(x_NE), speaker_ids


def slow_scores(x_SE, pairs, mean_E, between_EE, within_EE):
    """Log-likelihood ratios from densities of whole vectors."""
    total_EE = between_EE + within_EE
    same = multivariate_normal(
        np.tile(mean_E, 2), np.block([[total_EE, between_EE], [between_EE, total_EE]]), allow_singular=False
    )
    alone = multivariate_normal(mean_E, total_EE)
    return np.array(
        [
            same.logpdf(np.concatenate([x_SE[a], x_SE[b]])) - alone.logpdf(x_SE[a]) - alone.logpdf(x_SE[b])
            for a, b in pairs
        ]
    )


def slow_em(x_NE, speaker_ids, mean_E, between_EE, within_EE):
    """One step of EM, a speaker at a time, with matrices that are not diagonal."""
    names = sorted(set(speaker_ids))
    is_of = [np.array([s == name for s in speaker_ids]) for name in names]
    new_between, new_within = np.zeros_like(between_EE), np.zeros_like(within_EE)
    for rows in is_of:
        own = x_NE[rows] - mean_E
        cov = np.linalg.inv(np.linalg.inv(between_EE) + len(own) * np.linalg.inv(within_EE))
        y_E = cov @ np.linalg.inv(within_EE) @ own.sum(0)
        new_between += np.outer(y_E, y_E) + cov
        for x_E in own:
            new_within += np.outer(x_E - y_E, x_E - y_E) + cov
    return new_between / len(names), new_within / len(x_NE)


def plda_of(mean_E, between_EE, within_EE):
    from farvox.score.plda import _diagonalised

    transform_DE, psi_D = _diagonalised(within_EE, between_EE)
    return Plda(mean_E, transform_DE, psi_D)


def resolved_of(pairs, count):
    pairs = np.asarray(pairs)
    return type("Pairs", (), {"enrol_side": pairs[:, 0], "test_side": pairs[:, 1]})()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), dimension=st.integers(1, 8))
def test_scores_are_those_of_the_equations(seed, dimension):
    rng = np.random.default_rng(seed)
    mean_E = rng.standard_normal(dimension)
    between_EE, within_EE = covariances(rng, dimension)
    x_SE = mean_E + 2 * rng.standard_normal((6, dimension))
    pairs = [(a, b) for a in range(6) for b in range(6)]
    fast = plda_of(mean_E, between_EE, within_EE).scores(resolved_of(pairs, 6), x_SE)
    np.testing.assert_allclose(
        fast, slow_scores(x_SE, pairs, mean_E, between_EE, within_EE), rtol=1e-8, atol=1e-8
    )
    np.testing.assert_array_equal(fast.reshape(6, 6), fast.reshape(6, 6).T)  # symmetric


def test_em_is_that_of_the_equations_and_never_less_likely():
    from farvox.score.plda import _em_step

    rng = np.random.default_rng(3)
    between_EE, within_EE = covariances(rng, 5)
    x_NE, speaker_ids = drawn(rng, np.zeros(5), between_EE, within_EE, rng.integers(1, 9, 12))
    codes = np.unique(speaker_ids, return_inverse=True)[1]
    mean_E = x_NE.mean(0)
    sum_KE = np.zeros((12, 5))
    np.add.at(sum_KE, codes, x_NE - mean_E)
    scatter_EE = (x_NE - mean_E).T @ (x_NE - mean_E)
    start = (np.eye(5), np.eye(5))
    for _ in range(4):
        fast = _em_step(sum_KE, scatter_EE, np.bincount(codes), *start)
        slow = slow_em(x_NE, speaker_ids, mean_E, *start)
        np.testing.assert_allclose(fast, slow, rtol=1e-8, atol=1e-10)

        def likelihood(between, within):
            total = 0.0
            for code in range(12):
                own = x_NE[codes == code] - mean_E
                n = len(own)
                cov = np.kron(np.ones((n, n)), between) + np.kron(np.eye(n), within)
                total += multivariate_normal(np.zeros(5 * n), cov).logpdf(own.ravel())
            return total

        assert likelihood(*fast) >= likelihood(*start)
        start = fast


def test_the_truth_is_found_again():
    rng = np.random.default_rng(1)
    between_EE, within_EE = covariances(rng, 4)
    mean_E = np.array([1.0, -2.0, 0.5, 3.0])
    x_NE, speaker_ids = drawn(rng, mean_E, between_EE, within_EE, rng.integers(2, 20, 1500))
    found = Plda.fit(x_NE, speaker_ids)
    np.testing.assert_allclose(found.mean_E, mean_E, atol=0.15)
    true_psi = np.sort(np.linalg.eigvals(np.linalg.solve(within_EE, between_EE)).real)[::-1]
    np.testing.assert_allclose(found.psi_D, true_psi, rtol=0.12)
    whitened = found.transform_DE @ within_EE @ found.transform_DE.T
    np.testing.assert_allclose(whitened, np.eye(4), atol=0.06)


def test_lda_keeps_the_directions_in_which_speakers_differ():
    rng = np.random.default_rng(2)
    between_EE, within_EE = np.diag([4.0, 1.0, 0.0, 0.0]), np.diag([1.0, 1.0, 5.0, 9.0])
    x_NE, speaker_ids = drawn(rng, np.zeros(4), between_EE, within_EE, [10] * 200)
    kept = Plda.fit(x_NE, speaker_ids, lda=2)
    assert kept.transform_DE.shape == (2, 4)
    share = np.abs(kept.transform_DE[:, 2:]).max() / np.abs(kept.transform_DE[:, :2]).max()
    assert share < 0.1
    with pytest.raises(TrialError, match="allow 1 to 4"):
        Plda.fit(x_NE, speaker_ids, lda=5)


def test_products_of_a_cohort_are_scores():
    rng = np.random.default_rng(4)
    between_EE, within_EE = covariances(rng, 6)
    plda = plda_of(rng.standard_normal(6), between_EE, within_EE)
    sides_SE, cohort_CE = rng.standard_normal((3, 6)), rng.standard_normal((40, 6))
    left, right = plda.as_products(sides_SE, cohort_CE)
    pairs = [(a, 3 + b) for a in range(3) for b in range(40)]
    expected = plda.scores(resolved_of(pairs, 43), np.concatenate([sides_SE, cohort_CE])).reshape(3, 40)
    np.testing.assert_allclose(left @ right.T.astype(np.float64), expected, rtol=1e-5, atol=1e-5)
    found = cohort_scores(left, right)
    np.testing.assert_allclose(found.mean_S, expected.mean(1), rtol=1e-4)
    np.testing.assert_allclose(found.std_S, expected.std(1), rtol=1e-3)


def test_a_sample_that_says_nothing_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(TrialError, match="several recordings of many speakers"):
        Plda.fit(rng.standard_normal((5, 3)), list("abcde"))
    with pytest.raises(TrialError, match="several recordings of many speakers"):
        Plda.fit(rng.standard_normal((5, 3)), ["a"] * 5)
    with pytest.raises(TrialError, match="too few for PLDA"):
        Plda.fit(rng.standard_normal((8, 30)), list("aabbccdd"))
