"""Score normalisation against plain loops over every score."""

import numpy as np
import polars as pl
import pytest

from farvox.errors import TrialError
from farvox.score.cosine import cosine_scores, side_embeddings
from farvox.score.norm import (
    SAMPLED,
    _nearest,
    cohort_embeddings,
    cohort_scores,
    mean_embedding,
    normalise_scores,
)
from farvox.score.trials import TrialList


def resolved_trials(pairs, count):
    codes = np.array(pairs, np.int32).T
    utt_ids = [f"u{n}" for n in range(count)]
    return TrialList("trials", pl.Series(utt_ids), codes[0], codes[1], None, "made by hand").resolve(utt_ids)


@pytest.fixture
def given():
    rng = np.random.default_rng(5)
    emb_NE, cohort_CE = rng.standard_normal((12, 16)), rng.standard_normal((50, 16)) + 0.5
    pairs = [(e, t) for e in range(12) for t in range(12) if e != t]
    return resolved_trials(pairs, 12), emb_NE.astype(np.float32), cohort_CE.astype(np.float32)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def looped(pairs, emb_NE, cohort_CE, top):
    """The formula as it is written, one trial after the other."""
    for e, t in pairs:
        halves = []
        for side in (emb_NE[e], emb_NE[t]):
            against = sorted((cosine(side, member) for member in cohort_CE), reverse=True)[:top]
            mean = sum(against) / len(against)
            std = (sum((score - mean) ** 2 for score in against) / len(against)) ** 0.5
            halves.append((cosine(emb_NE[e], emb_NE[t]) - mean) / std)
        yield 0.5 * (halves[0] + halves[1])


@pytest.mark.parametrize("top", [None, 2, 10, 50])
@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 26])
def test_normalised_scores_are_those_of_a_plain_loop(given, monkeypatch, top, block_bytes):
    monkeypatch.setattr("farvox.score.norm.BYTES_PER_BLOCK", block_bytes)
    monkeypatch.setattr("farvox.score.norm.ROWS_PER_BLOCK", max(1, block_bytes % 77))
    resolved, emb_NE, cohort_CE = given
    sides_SE = side_embeddings(resolved, emb_NE)
    cohort = cohort_scores(sides_SE, cohort_embeddings(cohort_CE), top)
    scores = normalise_scores(resolved, cosine_scores(resolved, emb_NE), cohort)
    pairs = zip(resolved.enrol_side, resolved.test_side, strict=True)
    expected = list(looped(pairs, emb_NE.astype(float), cohort_CE.astype(float), top))
    np.testing.assert_allclose(scores, expected, atol=2e-4 if top == 2 else 2e-5)


def test_all_of_the_cohort_is_the_limit_of_its_nearest(given):
    resolved, emb_NE, cohort_CE = given
    sides_SE, cohort = side_embeddings(resolved, emb_NE), cohort_embeddings(cohort_CE)
    all_of_it, nearest = cohort_scores(sides_SE, cohort), cohort_scores(sides_SE, cohort, top=50)
    np.testing.assert_allclose(all_of_it.mean_S, nearest.mean_S, atol=1e-6)
    np.testing.assert_allclose(all_of_it.std_S, nearest.std_S, atol=1e-6)


def test_centring_subtracts_the_mean_from_trials_and_cohort_alike(given):
    resolved, emb_NE, cohort_CE = given
    centre_E = mean_embedding(cohort_CE)
    np.testing.assert_allclose(centre_E, cohort_CE.astype(float).mean(0), atol=1e-12)
    centred_NE, centred_CE = emb_NE - centre_E, cohort_CE - centre_E
    np.testing.assert_allclose(
        cohort_embeddings(cohort_CE, centre_E=centre_E), cohort_embeddings(centred_CE), atol=1e-7
    )
    np.testing.assert_allclose(
        cosine_scores(resolved, emb_NE, centre_E=centre_E), cosine_scores(resolved, centred_NE), atol=1e-12
    )


def test_a_cohort_of_speakers_is_one_mean_of_unit_vectors_each(given, monkeypatch):
    monkeypatch.setattr("farvox.score.norm.ROWS_PER_BLOCK", 7)
    cohort_CE = given[2].astype(float)
    speaker_ids = [f"s{n % 3}" for n in range(50)]
    found = cohort_embeddings(cohort_CE, speaker_ids=speaker_ids)
    units = cohort_CE / np.linalg.norm(cohort_CE, axis=1, keepdims=True)
    means = np.stack([units[n::3].mean(0) for n in range(3)])
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)
    assert found.dtype == np.float32


def test_an_unfit_cohort_is_refused(given):
    resolved, emb_NE, cohort_CE = given
    sides_SE, cohort = side_embeddings(resolved, emb_NE), cohort_embeddings(cohort_CE)
    for unfit, top, message in (
        (cohort[:, :8], 2, "the cohort has embeddings of 8 dimensions, the trials of 16"),
        (cohort, 51, "the cohort has 50 members, and 51 are needed.*--top"),
        (cohort, 1, "top 1 is too few"),
        (cohort[:1], None, "the cohort has 1 members, and 2 are needed"),
        (np.repeat(cohort[:1], 9, axis=0), None, "are all alike"),
        (np.repeat(cohort[:1], 9, axis=0), 3, "are all alike"),
    ):
        with pytest.raises(TrialError, match=message):
            cohort_scores(sides_SE, unfit, top)
    with pytest.raises(TrialError, match="an utterance of the cohort is zero or not finite"):
        cohort_embeddings(np.zeros((2, 3)))
    with pytest.raises(TrialError, match="not finite"):
        mean_embedding([[np.nan, 1.0]])
    with pytest.raises(TrialError, match="no embeddings"):
        mean_embedding(np.zeros((0, 3)))


@pytest.mark.parametrize("cohort", ["mixed", "the sampled are the nearest", "the sampled are the farthest"])
@pytest.mark.parametrize("top", [2, 40, 300])
def test_the_nearest_of_a_large_cohort_are_those_of_a_full_sort(cohort, top):
    rng = np.random.default_rng(7)
    sides_SE = rng.standard_normal((30, 16)).astype(np.float32)
    cohort_CE = rng.standard_normal((3000, 16)).astype(np.float32)
    if cohort != "mixed":
        cohort_CE[::SAMPLED] += (1 if "nearest" in cohort else -1) * 3 * sides_SE[0]
    scratch_SC = np.empty((len(sides_SE), len(cohort_CE)), np.float32)
    found = np.sort(_nearest(sides_SE, cohort_CE, top, scratch_SC), axis=1)
    expected = np.sort(sides_SE @ cohort_CE.T, axis=1)[:, -top:]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
