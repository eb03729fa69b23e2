"""Cosine scores of one and of several utterances a side."""

import numpy as np
import polars as pl
import pytest
from scipy.spatial.distance import cosine

from farvox.errors import TrialError
from farvox.score import cosine as module
from farvox.score.cosine import cosine_scores, products_of_pairs, side_embeddings
from farvox.score.trials import TrialList


def trial_list(pairs):
    ids = pl.Series(sorted({name for pair in pairs for name in pair}))
    code = {name: n for n, name in enumerate(ids)}
    codes = np.array([[code[e], code[t]] for e, t in pairs], np.int32).T
    return TrialList("trials", ids, codes[0], codes[1], None, "made by hand")


def embeddings(count, dimension=32, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def test_scores_are_those_of_scipy():
    utt_ids = [f"u{n}" for n in range(60)]
    emb_NE = embeddings(60, 256)
    pairs = [(e, t) for e in utt_ids for t in utt_ids]
    scores = cosine_scores(trial_list(pairs).resolve(utt_ids), emb_NE)
    row = {name: emb_NE[n].astype(np.float64) for n, name in enumerate(utt_ids)}
    expected = [1 - cosine(row[e], row[t]) for e, t in pairs]
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)


def test_a_side_is_the_mean_of_its_normalised_embeddings():
    utt_ids = ["a", "b_0", "b_1", "b_2"]
    emb_NE = embeddings(4) * np.array([[1], [1], [100], [0.01]], np.float32)
    (score,) = cosine_scores(trial_list([("a", "b")]).resolve(utt_ids), emb_NE)
    units = emb_NE.astype(np.float64) / np.linalg.norm(emb_NE.astype(np.float64), axis=1, keepdims=True)
    assert score == pytest.approx(1 - cosine(units[0], units[1:].mean(0)), abs=1e-12)


def test_the_plain_sum_of_the_homework_is_a_rule_of_its_own():
    utt_ids = ["a", "b_0", "b_1"]
    emb_NE = embeddings(3) * np.array([[1], [5], [1]], np.float32)
    resolved = trial_list([("a", "b")]).resolve(utt_ids)
    summed = emb_NE[1].astype(np.float64) + emb_NE[2]
    assert cosine_scores(resolved, emb_NE, "sum")[0] == pytest.approx(1 - cosine(emb_NE[0], summed), abs=1e-7)
    assert cosine_scores(resolved, emb_NE, "sum") != cosine_scores(resolved, emb_NE)


def test_every_side_has_length_one():
    resolved = trial_list([("a", "b"), ("b", "c")]).resolve(["a", "c", "b_0", "b_1"])
    sides_SE = side_embeddings(resolved, embeddings(4))
    np.testing.assert_allclose(np.linalg.norm(sides_SE, axis=1), 1, atol=1e-14)
    assert len(sides_SE) == 3


def test_scores_do_not_depend_on_the_size_of_the_embeddings_or_on_rows_that_no_trial_needs():
    pairs = [("u1", "u2"), ("u2", "u5")]
    utt_ids = [f"u{n}" for n in range(6)]
    emb_NE = embeddings(6)
    spoilt = emb_NE * 1e-3
    spoilt[[0, 3]] = np.nan
    resolved = trial_list(pairs).resolve(utt_ids)
    np.testing.assert_allclose(cosine_scores(resolved, spoilt), cosine_scores(resolved, emb_NE), atol=1e-7)


def test_more_trials_and_sides_than_fit_in_a_block_are_scored():
    utt_ids = [f"u{n:05d}" for n in range(10_000)]
    emb_NE = embeddings(10_000, 8)
    pairs = list(zip(utt_ids, reversed(utt_ids), strict=True))
    units = emb_NE.astype(np.float64) / np.linalg.norm(emb_NE.astype(np.float64), axis=1, keepdims=True)
    scores = cosine_scores(trial_list(pairs).resolve(utt_ids), emb_NE)
    np.testing.assert_allclose(scores, np.sum(units * units[::-1], axis=1), atol=1e-12)


@pytest.mark.parametrize("cells_per_pair", [0, 4, 1000], ids=["pair by pair", "both ways", "by tiles"])
@pytest.mark.parametrize("sides", ["alike", "apart"])
def test_products_of_pairs_are_those_of_one_pair_at_a_time(monkeypatch, cells_per_pair, sides):
    monkeypatch.setattr(module, "TILE", 16)
    monkeypatch.setattr(module, "PAIRS_AT_A_TIME", 700)
    monkeypatch.setattr(module, "CELLS_PER_PAIR", cells_per_pair)
    rng = np.random.default_rng(0)
    rows_RE = rng.standard_normal((150, 24))
    first, second = rng.integers(150, size=2000), rng.integers(150, size=2000) ** 2 // 150
    if sides == "apart":
        first, second = first // 3 * 3, second // 3 * 3 + 1
    found = products_of_pairs(rows_RE, first, second)
    expected = [rows_RE[a] @ rows_RE[b] for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_trial_that_is_there_twice_has_one_score_in_either_order(monkeypatch):
    monkeypatch.setattr(module, "TILE", 16)
    monkeypatch.setattr(module, "PAIRS_AT_A_TIME", 1000)
    rng = np.random.default_rng(1)
    rows_RE = rng.standard_normal((130, 256))
    first, second = rng.integers(130, size=(2, 3000))
    found = products_of_pairs(rows_RE, np.append(first, second), np.append(second, first))
    assert np.array_equal(found[:3000], found[3000:])


def test_an_utterance_is_wholly_like_itself():
    utt_ids = [f"u{n}" for n in range(200)]
    resolved = trial_list([(u, u) for u in utt_ids]).resolve(utt_ids)
    scores = cosine_scores(resolved, embeddings(200))
    assert scores.max() <= 1 and scores.min() > 1 - 1e-14


@pytest.mark.parametrize(("value", "state"), [(0, "zero"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_an_embedding_without_a_direction_is_refused_by_name(value, state):
    emb_NE = embeddings(3)
    emb_NE[2] = value
    resolved = trial_list([("a", "b"), ("b", "c")]).resolve(["a", "b", "c"])
    with pytest.raises(TrialError, match=f"the embedding of 'c' is {state}"):
        cosine_scores(resolved, emb_NE)


def test_a_side_that_cancels_out_is_refused_by_name():
    emb_NE = embeddings(3)
    emb_NE[2] = -emb_NE[1]
    resolved = trial_list([("a", "b")]).resolve(["a", "b_0", "b_1"])
    with pytest.raises(TrialError, match="the side that begins with 'b_0' is zero"):
        cosine_scores(resolved, emb_NE)


def test_embeddings_of_another_set_are_refused():
    resolved = trial_list([("a", "b")]).resolve(["a", "b"])
    with pytest.raises(TrialError, match="do not fit the 2 utterances"):
        cosine_scores(resolved, embeddings(3))
    with pytest.raises(TrialError, match="no rule 'median'"):
        cosine_scores(resolved, embeddings(2), rule="median")
