"""Score normalisation against plain loops over every score."""

import numpy as np
import polars as pl
import pytest

from farvox.errors import TrialError
from farvox.score.conditions import SharedConditions
from farvox.score.cosine import cosine_scores, side_embeddings
from farvox.score.norm import (
    cohort_embeddings,
    cohort_scores,
    matched_cohort_scores,
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


def looped(pairs, emb_NE, cohort_CE, top, number_S=None, number_C=None):
    """The formula as it is written, one trial after the other."""
    for e, t in pairs:
        halves = []
        for side, other in ((e, t), (t, e)):
            members = list(cohort_CE)
            if number_S is not None and number_S[other]:
                members = [each for each, k in zip(cohort_CE, number_C, strict=True) if k == number_S[other]]
            against = sorted((cosine(emb_NE[side], member) for member in members), reverse=True)[:top]
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


@pytest.mark.parametrize("top", [None, 2, 7])
def test_a_cohort_by_condition_is_that_of_a_plain_loop(given, top):
    """A side meets the members of the condition of the other side; of an unknown one, all."""
    resolved, emb_NE, cohort_CE = given
    number_S, number_C = np.arange(12) % 4, np.arange(50) % 5  # 0 is unknown; nothing in the trials is 4
    conditions = SharedConditions(["near", "far", "phone", "room"], number_S, number_C)
    sides_SE, unit_CE = side_embeddings(resolved, emb_NE), cohort_embeddings(cohort_CE)
    matched = matched_cohort_scores(resolved, sides_SE, unit_CE, conditions, [top] * 5)
    scores = normalise_scores(resolved, cosine_scores(resolved, emb_NE), matched, number_S)
    pairs = list(zip(resolved.enrol_side, resolved.test_side, strict=True))
    rows = emb_NE.astype(float), cohort_CE.astype(float)
    np.testing.assert_allclose(
        scores, list(looped(pairs, *rows, top, number_S, number_C)), atol=2e-4 if top == 2 else 2e-5
    )
    assert np.isnan(matched.mean_S[:, 4]).all() and not np.isnan(scores).any()
    assert np.abs(scores - list(looped(pairs, *rows, top))).max() > 0.1


def test_one_condition_for_all_changes_nothing(given):
    resolved, emb_NE, cohort_CE = given
    one_S, one_C = np.ones(12, int), np.ones(50, int)
    sides_SE, unit_CE = side_embeddings(resolved, emb_NE), cohort_embeddings(cohort_CE)
    matched = matched_cohort_scores(
        resolved, sides_SE, unit_CE, SharedConditions(["x"], one_S, one_C), [None, 20]
    )
    raw, plain = cosine_scores(resolved, emb_NE), cohort_scores(sides_SE, unit_CE, 20)
    np.testing.assert_array_equal(
        normalise_scores(resolved, raw, matched, one_S), normalise_scores(resolved, raw, plain)
    )


def test_a_condition_of_too_few_members_is_named(given):
    resolved, emb_NE, cohort_CE = given
    sides_SE, unit_CE = side_embeddings(resolved, emb_NE), cohort_embeddings(cohort_CE)
    number_C = np.where(np.arange(50) < 3, 2, 1)
    conditions = SharedConditions(["distance 1m", "distance 5m"], np.arange(12) % 2 + 1, number_C)
    with pytest.raises(
        TrialError, match=r"the cohort of distance 5m has 3 members, and 20 are needed.*--top"
    ):
        matched_cohort_scores(resolved, sides_SE, unit_CE, conditions, [20, 20, 20])


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


@pytest.mark.parametrize("top", [2, 40, 300])
def test_the_nearest_of_a_large_cohort_are_those_of_a_full_sort(top):
    rng = np.random.default_rng(7)
    sides_SE, cohort_CE = rng.standard_normal((30, 16)), rng.standard_normal((3000, 16)).astype(np.float32)
    found = cohort_scores(sides_SE, cohort_CE, top)
    expected = np.sort(sides_SE @ cohort_CE.T, axis=1)[:, -top:]
    np.testing.assert_allclose(found.mean_S, expected.mean(1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.std_S, expected.std(1), rtol=0, atol=1e-5)
