"""``farvox score`` as a user types it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.pipelines.score import score
from farvox.score.plda import Plda
from farvox.score.trials import read_trials

SPEAKERS = ("anna", "ben", "cleo", "dan")


@pytest.fixture
def folder(tmp_path):
    """Four speakers with four takes each, and all pairs of them as a trial list in VoxCeleb's form."""
    rng = np.random.default_rng(3)
    utt_ids = [f"{speaker}-{take}" for speaker in SPEAKERS for take in range(4)]
    voices = np.repeat(rng.standard_normal((len(SPEAKERS), 16)), 4, axis=0)
    emb_NE = (voices + 0.9 * rng.standard_normal(voices.shape)).astype(np.float32)
    EmbeddingSet(utt_ids, emb_NE, {}).save(tmp_path / "emb")
    pairs = [(e, t) for n, e in enumerate(utt_ids) for t in utt_ids[n + 1 :]]
    lines = [f"{int(e.split('-')[0] == t.split('-')[0])} {e}.wav {t}.wav\n" for e, t in pairs]
    (tmp_path / "trials").write_text("".join(lines))
    return tmp_path


def run(*words):
    return main([str(word) for word in words])


def test_a_trial_list_becomes_scores(folder, capsys):
    assert run("score", folder / "trials", folder / "emb", "--out", folder / "scores") == 0
    said = capsys.readouterr()
    assert said.out == "" and "120 trials: label (1/0), enrolment, test" in said.err
    rows = [line.split() for line in (folder / "scores").read_text().splitlines()]
    trials = [line.split() for line in (folder / "trials").read_text().splitlines()]
    assert [row[:2] for row in rows] == [trial[1:] for trial in trials]


def test_embeddings_may_be_spread_over_several_folders(folder):
    whole = EmbeddingSet.load(folder / "emb")
    for name, rows in (("one", slice(0, 7)), ("two", slice(7, 16))):
        EmbeddingSet(whole.utt_ids[rows], np.array(whole.embeddings[rows])).save(folder / name)
    assert run("score", folder / "trials", folder / "emb", "--out", folder / "a") == 0
    assert run("score", folder / "trials", folder / "two", folder / "one", "--out", folder / "b") == 0
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    emb = folder / "emb"
    one, *others = [score(folder / "trials", given).values for given in ([emb], emb, str(emb))]
    assert all(np.array_equal(one, other) for other in others)


def test_embeddings_of_several_precisions_are_told(folder, capsys):
    whole = EmbeddingSet.load(folder / "emb")
    for name, rows, precision in (("one", slice(0, 7), "fp32"), ("two", slice(7, 16), "bf16")):
        meta = {"precision": precision}
        EmbeddingSet(whole.utt_ids[rows], np.array(whole.embeddings[rows]), meta).save(folder / name)
    assert run("score", folder / "trials", folder / "one", folder / "two", "--out", folder / "a") == 0
    said = capsys.readouterr().err
    assert (
        f"note: embeddings of several precisions: {folder / 'one'} in fp32, {folder / 'two'} in bf16" in said
    )
    assert run("score", folder / "trials", folder / "emb", "--out", folder / "b") == 0
    assert "precisions" not in capsys.readouterr().err


def test_channels_are_said_and_chosen(folder, capsys):
    emb_NE = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    EmbeddingSet(["id1", "id2", "id2_0", "id2_1"], emb_NE).save(folder / "blind")
    (folder / "list").write_text("id1 id2\n")
    words = ("score", folder / "list", folder / "blind", "--out", folder / "scores")
    assert run(*words) == 1
    assert (
        "list:1: 'id2' is an utterance, and its channels 'id2_0', ... are there too"
        in capsys.readouterr().err
    )
    assert not (folder / "scores").exists()
    assert run(*words, "--channel-ids", "test") == 0
    assert "1 id read as its channels ID_0, ID_1, ... (2 each)" in capsys.readouterr().err


FAULTS = {
    "unknown id": ("1 anna-0 eve-0\n", "list:1: no utterance 'eve-0'"),
    "inconsistent list": ("1 anna-0 anna-1\n2 anna-0 anna-1\n", "list:2: '2' is not a label"),
}


@pytest.mark.parametrize(("listed", "message"), FAULTS.values(), ids=FAULTS)
def test_input_at_fault_gives_a_message_and_status_1(folder, capsys, listed, message):
    (folder / "list").write_text(listed)
    assert run("score", folder / "list", folder / "emb", "--out", folder / "out") == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("farvox score: ") and message in said.err
    assert "Traceback" not in said.err


def test_embeddings_of_two_models_are_not_mixed(folder, capsys):
    EmbeddingSet(["eve-0"], np.ones((1, 5), np.float32)).save(folder / "other")
    assert run("score", folder / "trials", folder / "emb", folder / "other", "--out", folder / "out") == 1
    assert (
        "other: of another model than" in (said := capsys.readouterr().err) and "dimension 5, not 16" in said
    )


def test_wrong_usage_gives_status_2(folder):
    assert run("score", folder / "trials", "--out", folder / "scores") == 2
    assert run("score", folder / "trials") == 2


@pytest.fixture
def array(folder):
    """Three takes by an array of four microphones, and trials of close-talk takes against them."""
    utt_ids = [f"{speaker}_{mic}_far" for speaker in ("anna", "ben", "cleo") for mic in range(4)]
    emb_NE = np.random.default_rng(9).standard_normal((12, 16)).astype(np.float32)
    EmbeddingSet(utt_ids, emb_NE, quality=np.arange(12, dtype=np.float32)).save(folder / "array")
    (folder / "far").write_text("anna-0 anna_{}_far target\nben-0 cleo_{}_far nontarget\n")
    return folder


def test_channels_become_trials_of_their_own_with_a_list_to_evaluate_by(array, capsys):
    words = (
        "score",
        array / "far",
        array / "emb",
        array / "array",
        "--channels",
        "expand",
        "--first-channel",
        "1",
    )
    assert run(*words, "--out", array / "scores", "--out-trials", array / "expanded") == 0
    assert "6 trials of single channels" in capsys.readouterr().err
    assert (array / "expanded").read_text().splitlines()[2:4] == [
        "anna-0 anna_3_far target",
        "ben-0 cleo_1_far nontarget",
    ]
    assert run("evaluate", array / "expanded", array / "scores") == 0
    assert "3 target, 3 non-target" in capsys.readouterr().out


@pytest.mark.parametrize("rule", ["mean-norm", "mean", "sum", "score-mean", "best", "weighted"])
def test_every_rule_scores_the_trials_as_they_are(array, rule):
    assert (
        run("score", array / "far", array / "emb", array / "array", "--channels", rule, "--out", array / "s")
        == 0
    )
    assert len((array / "s").read_text().splitlines()) == 2


def test_the_best_channel_is_that_of_the_quality_beside_the_embeddings(array):
    words = ("score", array / "list", array / "emb", array / "array", "--out", array / "s")
    written = []
    for listed in ("anna-0 anna_{}_far\n", "anna-0 anna_3_far\n"):
        (array / "list").write_text(listed)
        assert run(*words, "--channels", "best") == 0
        written.append((array / "s").read_text().split()[2])
    assert written[0] == written[1]


def test_missing_channels_stop_the_scoring_or_are_counted(array, capsys):
    whole = EmbeddingSet.load(array / "array")
    EmbeddingSet(whole.utt_ids[:-1], np.array(whole.embeddings[:-1])).save(array / "fewer")
    words = ("score", array / "far", array / "emb", array / "fewer", "--out", array / "s")
    assert run(*words) == 1
    assert "far:2: 'cleo_{}_far' lacks channel 3, which others have" in capsys.readouterr().err
    assert run(*words, "--allow-missing-channels") == 0
    assert "1 missing channel of 1 id, the first 'cleo_{}_far' (3)" in capsys.readouterr().err


@pytest.mark.parametrize("gone", [0, 3])
def test_any_channel_may_be_missing_if_that_is_allowed(folder, capsys, gone):
    ids = [f"{name}_{mic}" for name in ("anna-far", "ben-far") for mic in range(4)]
    ids.remove(f"ben-far_{gone}")
    EmbeddingSet(ids, np.random.default_rng(2).standard_normal((7, 16)).astype(np.float32)).save(folder / "e")
    (folder / "list").write_text("anna-0 anna-far\nanna-0 ben-far\n")
    words = ("score", folder / "list", folder / "emb", folder / "e", "--out", folder / "s")
    assert run(*words) == 1
    assert "list:2: " in (said := capsys.readouterr().err) and "'ben-far'" in said
    assert run(*words, "--allow-missing-channels") == 0
    assert f"1 missing channel of 1 id, the first 'ben-far' ({gone})" in capsys.readouterr().err


def test_a_channel_that_is_left_out_need_not_be_there(folder):
    ids = [f"{name}_{mic}" for name in ("anna-far", "ben-far") for mic in (1, 2, 3)]
    EmbeddingSet(ids, np.random.default_rng(2).standard_normal((6, 16)).astype(np.float32)).save(folder / "e")
    (folder / "list").write_text("anna-0 anna-far\nanna-0 ben-far\n")
    words = ("score", folder / "list", folder / "emb", folder / "e", "--out", folder / "s")
    assert run(*words, "--first-channel", 1) == 0


@pytest.mark.parametrize(
    "words", [("--centre", "other"), ("--norm", "s-norm", "--centre", "emb", "--cohort", "other")]
)
def test_a_centre_of_another_model_is_refused(folder, capsys, monkeypatch, words):
    monkeypatch.chdir(folder)
    EmbeddingSet(["x", "y"], np.eye(2, 5, dtype=np.float32)).save("other")
    assert run("score", "trials", "emb", "--out", "s", *words) == 1
    said = capsys.readouterr().err
    assert "other: of another model than emb: dimension 5, not 16" in said


def test_a_map_says_which_takes_enrol_a_speaker(folder):
    (folder / "map").write_text("anna anna-0 anna-1\n")
    (folder / "list").write_text("anna ben-0\n")
    assert (
        run("score", folder / "list", folder / "emb", "--enrol-map", folder / "map", "--out", folder / "s")
        == 0
    )
    emb = EmbeddingSet.load(folder / "emb")
    rows = emb.embeddings[emb.rows(["anna-0", "anna-1", "ben-0"])].astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    anna = rows[0] + rows[1]
    expected = anna @ rows[2] / np.linalg.norm(anna)
    assert float((folder / "s").read_text().split()[2]) == pytest.approx(expected, abs=1e-9)


def test_scores_are_centred_and_normalised_against_a_cohort(folder, capsys):
    rng = np.random.default_rng(4)
    names = [f"other{speaker}-{take}" for speaker in range(20) for take in range(3)]
    EmbeddingSet(names, rng.standard_normal((60, 16)).astype(np.float32) + 1).save(folder / "cohort")
    (folder / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in names))
    words = ("score", folder / "trials", folder / "emb", "--centre", folder / "cohort", "--out", folder / "s")
    cohort = ("--cohort", folder / "cohort")
    texts = []
    for more, said in (
        ((), ""),
        (("--norm", "s-norm", *cohort), "cohort: 60 utterances, all of each side"),
        (("--norm", "as-norm", *cohort, "--top", "40"), "cohort: 60 utterances, the nearest 40 of each side"),
        (
            ("--norm", "as-norm", *cohort, "--top", "9", "--cohort-speakers", folder / "utt2spk"),
            "cohort: 20 speakers (60 utterances), the nearest 9 of each side",
        ),
    ):
        assert run(*words, *more) == 0
        assert said in capsys.readouterr().err
        texts.append((folder / "s").read_text())
    assert len(set(texts)) == 4
    for percent, top in (("10", "6"), ("3.4", "2")):
        assert run(*words, "--norm", "as-norm", *cohort, "--top", top) == 0
        expected = (folder / "s").read_bytes()
        assert run(*words, "--norm", "as-norm", *cohort, "--top-percent", percent) == 0
        assert (folder / "s").read_bytes() == expected
        assert f"the nearest {top} of each side" in capsys.readouterr().err
    assert run(*words, "--norm", "as-norm", *cohort) == 1
    assert "the cohort has 60 members, and 300 are needed" in capsys.readouterr().err
    (folder / "utt2spk").write_text("other0-0 other0\n")
    assert run(*words, "--norm", "s-norm", *cohort, "--cohort-speakers", folder / "utt2spk") == 1
    assert "utt2spk: has no line for the utterance 'other0-1'" in capsys.readouterr().err


@pytest.fixture
def by_distance(folder):
    """A cohort of 20 speakers, one utterance of each 1, 3 and 5 m away, and what is known of all."""
    rng = np.random.default_rng(4)
    names = [f"other{speaker}-{metres}" for speaker in range(20) for metres in (1, 3, 5)]
    EmbeddingSet(names, rng.standard_normal((60, 16)).astype(np.float32) + 1).save(folder / "cohort")
    (folder / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in names))
    trial_ids = (folder / "emb/utt_ids.txt").read_text().split()
    known = {name: (name[-1], 1 + n / 7) for n, name in enumerate(names)}
    known |= {name: ("13"[n % 2], 2 + n / 3) for n, name in enumerate(trial_ids)}
    rows = [f"{name}\t{metres}m\t{seconds:.3f}\thall\n" for name, (metres, seconds) in known.items()]
    (folder / "cond").write_text("utt_id\tdistance\tduration\troom\n" + "".join(rows))
    norm = ("--norm", "as-norm", "--cohort", folder / "cohort", "--conditions", folder / "cond")
    return ("score", folder / "trials", folder / "emb", "--out", folder / "s", *norm)


def test_the_cohort_of_a_side_is_of_the_condition_of_the_other(folder, by_distance, capsys):
    """The scores are those of the formula; of utterances, of speakers, and of bins of a measurement."""
    words, known = by_distance, {}
    for line in (folder / "cond").read_text().split("\n")[1:-1]:
        name, metres, seconds, _ = line.split("\t")
        known[name] = (metres, float(seconds))
    trials, cohort = EmbeddingSet.load(folder / "emb"), EmbeddingSet.load(folder / "cohort")
    unit = {
        name: row / np.linalg.norm(row)
        for each in (trials, cohort)
        for name, row in zip(each.utt_ids, each.embeddings.astype(float), strict=True)
    }

    def expected(group, top):
        lines = (folder / "s").read_text().replace(".wav", "").split("\n")[:-1]
        for pair in (line.split()[:2] for line in lines):
            halves = []
            for side, other in (pair, pair[::-1]):
                members = [unit[name] for name in cohort.utt_ids if group(name) == group(other)]
                nearest = np.sort([unit[side] @ each for each in members])[-top:]
                halves.append((unit[pair[0]] @ unit[pair[1]] - nearest.mean()) / nearest.std())
            yield sum(halves) / 2

    edges = (3, 4.5)
    for more, group, said in (
        (("--cohort-by", "distance"), lambda name: known[name][0], "20 of distance 1m, 20 of distance 3m"),
        (
            ("--cohort-by", "duration", "--cohort-edges", *edges),
            lambda name: sum(known[name][1] >= edge for edge in edges),
            "14 of duration below 3 s, 11 of duration 3 to 4.5 s, 35 of duration 4.5 s or more",
        ),
    ):
        assert run(*words, "--top", 9, *more) == 0
        assert said in capsys.readouterr().err
        scores = [float(line.split()[2]) for line in (folder / "s").read_text().split("\n")[:-1]]
        np.testing.assert_allclose(scores, list(expected(group, 9)), atol=1e-5)
    scoring = json.loads((folder / "s.meta.json").read_text())["scoring"]
    assert (scoring["cohort_by"], scoring["cohort_edges"]) == ("duration", [3, 4.5])
    # One utterance of a speaker at each distance: their means are the utterances.
    assert run(*words, "--top", 9, "--cohort-by", "distance") == 0
    by_utterance = [float(line.split()[2]) for line in (folder / "s").read_text().split("\n")[:-1]]
    assert run(*words, "--top", 9, "--cohort-by", "distance", "--cohort-speakers", folder / "utt2spk") == 0
    by_speaker = [float(line.split()[2]) for line in (folder / "s").read_text().split("\n")[:-1]]
    np.testing.assert_allclose(by_speaker, by_utterance, rtol=1e-6)  # a mean is made a unit once more
    # Unless the edges are given they are the quartiles of the cohort; and a share is one of each bin.
    capsys.readouterr()
    assert run(*words, "--top-percent", 50, "--cohort-by", "duration") == 0
    told = capsys.readouterr().err
    assert "the nearest 50 % of each side" in told and "15 of duration below 3.11 s" in told


def test_a_condition_that_is_not_known_takes_the_whole_cohort_and_is_noted(folder, by_distance, capsys):
    lines = (folder / "cond").read_text().split("\n")[:-1]
    trial_ids = (folder / "emb/utt_ids.txt").read_text().split()
    kept = [line for line in lines if line.split("\t")[0] not in trial_ids]
    (folder / "cond").write_text("".join(f"{line}\n" for line in kept))
    assert run(*by_distance, "--top", 9, "--cohort-by", "distance") == 0
    assert "note: distance is not known, or is several, of" in capsys.readouterr().err
    unknown = (folder / "s").read_text()
    assert run(*by_distance[:-2], "--top", 9) == 0  # without conditions
    assert (folder / "s").read_text() == unknown


def test_a_cohort_by_condition_that_does_not_fit_is_refused(folder, by_distance, capsys):
    words = (*by_distance, "--cohort-by")
    for more, status, said in (
        (("distance",), 1, "the cohort of distance 1m has 20 members, and 300 are needed"),
        (("distanse", "--top", 9), 2, "--cohort-by distanse: no such condition; did you mean 'distance'"),
        (("distance", "--cohort-edges", 3, 2), 2, "cohort-edges: each edge is above the one before it"),
        (("room", "--top", 9, "--cohort-edges", 3), 2, "--cohort-by room: 'hall' is no number"),
    ):
        assert run(*words, *more) == status
        assert said in capsys.readouterr().err
    for more in (("distance",), ("room",), ("distance", "--cohort-edges", 2, 3)):  # the remedies
        assert run(*words, *more, "--top", 9) == 0
    assert run(*words[:-1]) == 2
    assert "--conditions goes with --cohort-by" in capsys.readouterr().err
    assert run(*words[:-3], "--cohort-by", "distance") == 2
    assert "name what has the conditions with --conditions" in capsys.readouterr().err
    lines = (folder / "cond").read_text().split("\n")[:-1]
    (folder / "cond").write_text("".join(f"{line}\n" for line in lines if not line.startswith("other")))
    assert run(*words, "distance", "--top", 9) == 1
    assert "it is known of no utterance of the cohort" in capsys.readouterr().err


def test_plda_learns_from_other_speakers(folder, capsys):
    """Its scores are those of `Plda` on centred embeddings of length 1."""
    rng = np.random.default_rng(5)
    names = [f"other{speaker}-{take}" for speaker in range(60) for take in range(6)]
    spread = np.r_[np.ones(4), np.full(12, 4.0)]  # within a speaker; voices differ in all directions alike
    emb_NE = np.repeat(rng.standard_normal((60, 16)), 6, axis=0) + spread * rng.standard_normal((360, 16))
    EmbeddingSet(names, emb_NE.astype(np.float32) + 2).save(folder / "others")
    (folder / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in names))
    of_trials = EmbeddingSet.load(folder / "emb")
    takes = np.repeat(rng.standard_normal((4, 16)), 4, axis=0) + spread * rng.standard_normal((16, 16)) + 2
    EmbeddingSet(of_trials.utt_ids, takes.astype(np.float32)).save(folder / "emb")
    words = ("score", folder / "trials", folder / "emb", "--out", folder / "s")
    plda = ("--plda", folder / "others")
    assert run(*words, *plda) == 1
    assert "name a data dir or utt2spk (--plda-speakers)" in capsys.readouterr().err
    plda += ("--plda-speakers", folder / "utt2spk")
    assert run(*words, *plda) == 0
    printed = capsys.readouterr().err
    assert "PLDA: 360 utterances of 60 speakers, 16 dimensions" in printed and "few for PLDA" not in printed
    few = folder / "few"
    EmbeddingSet(names[:90], emb_NE[:90].astype(np.float32) + 2).save(few)
    few_options = ("--plda", few, "--plda-speakers", folder / "utt2spk")
    assert run(*words[:-1], folder / "s2", *few_options) == 0
    assert "few for PLDA, which learns how the 16 dimensions vary" in capsys.readouterr().err

    def unit(x_NE):
        shifted = x_NE - (emb_NE.astype(np.float32) + np.float32(2)).mean(0, dtype=np.float64)
        return shifted / np.linalg.norm(shifted, axis=1, keepdims=True)

    learned = Plda.fit(unit(emb_NE.astype(np.float32) + np.float32(2)), [n.split("-")[0] for n in names])
    resolved = read_trials(folder / "trials").resolve(of_trials.utt_ids)
    sides_SE = unit(takes.astype(np.float32))[resolved.side_rows]
    scored = np.loadtxt(folder / "s", usecols=2)
    np.testing.assert_allclose(scored, learned.scores(resolved, sides_SE), atol=1e-4)
    meta = json.loads((folder / "s.meta.json").read_text())
    assert meta["scoring"]["back_end"] == "plda"
    labels = np.array([line.split()[0] == "1" for line in (folder / "trials").read_text().splitlines()])
    assert scored[labels].mean() > 0 > scored[~labels].mean()

    more = ("--norm", "as-norm", "--cohort", folder / "others", "--top", "20")
    for extra in (("--lda", "4"), more, ("--lda", "4", *more)):
        assert run(*words, *plda, *extra) == 0
        found = np.loadtxt(folder / "s", usecols=2)
        assert np.isfinite(found).all() and found[labels].mean() > found[~labels].mean()
    assert run(*words, *plda, "--lda", "17") == 1
    assert "allow 1 to 16" in capsys.readouterr().err
    assert run(*words, "--lda", "4") == 2 and "lda goes with plda" in capsys.readouterr().err
    assert run(*words, *plda, "--channels", "score-mean") == 2
    assert run("score", folder / "trials", folder / "others", *plda, "--out", folder / "s") == 1


def test_a_cohort_that_is_in_the_trials_is_warned_of(folder, capsys):
    words = ("score", folder / "trials", folder / "emb", "--out", folder / "s", "--norm", "s-norm")
    assert run(*words, "--cohort", folder / "emb") == 0
    said = f"warning: 16 utterances of the cohort {folder / 'emb'} are in the trials ('anna-0', ...)"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out-trials", "x"), "--out-trials goes with --channels expand"),
        (("--norm", "s-norm"), "norm s-norm needs a cohort"),
        (("--cohort", "x"), "a cohort goes with norm s-norm or as-norm"),
        (("--cohort-speakers", "x"), "cohort-speakers goes with a cohort"),
        (("--norm", "s-norm", "--cohort", "x", "--top", "9"), "top goes with norm as-norm"),
        (("--norm", "s-norm", "--cohort", "x", "--top-percent", "9"), "top_percent goes with norm as-norm"),
        (("--norm", "as-norm", "--cohort", "x", "--top", "9", "--top-percent", "9"), "not both"),
        (("--norm", "as-norm", "--cohort", "x", "--top-percent", "0"), "above 0"),
        (("--cohort-by", "x"), "cohort-by goes with norm s-norm or as-norm"),
        (("--norm", "s-norm", "--cohort", "x", "--cohort-edges", "2"), "cohort-edges goes with cohort-by"),
    ],
)
def test_options_that_mean_nothing_alone_are_refused(folder, capsys, words, message):
    assert run("score", folder / "trials", folder / "emb", "--out", folder / "s", *words) == 2
    assert message in capsys.readouterr().err


def test_score_does_not_import_torch(folder):
    program = (
        "import sys; from farvox.cli.main import main;"
        "main(['score', 'trials', 'emb', '--out', 'scores']);"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_map_names_ids_with_or_without_their_suffix_and_one_that_names_none_is_refused(folder, capsys):
    (folder / "list").write_text("anna-0.wav ben-0.wav\n")
    words = ("score", folder / "list", folder / "emb", "--enrol-map", folder / "map", "--out")
    for number, name in enumerate(("anna-0.wav", "anna-0")):
        (folder / "map").write_text(f"{name} anna-0 anna-1\n")
        assert run(*words, folder / f"s{number}") == 0
    assert (folder / "s0").read_bytes() == (folder / "s1").read_bytes()
    (folder / "map").write_text("anna anna-0 anna-1\n")
    assert run(*words, folder / "s2") == 1
    assert "names no id of that side of" in capsys.readouterr().err and not (folder / "s2").exists()


def test_embeddings_that_were_written_again_and_speakers_that_changed_since_are_reported(folder, capsys):
    found = EmbeddingSet.load(folder / "emb")
    speakers = pl.Series([utt_id.split("-")[0] for utt_id in found.utt_ids])
    (folder / "data").mkdir()
    lines = [f"{utt_id} {name}\n" for utt_id, name in zip(found.utt_ids, speakers, strict=True)]
    (folder / "data/utt2spk").write_text("".join(lines))
    mine = replace(found, meta=found.meta | {"data_dir": str(folder / "data")}, speaker_ids=speakers)
    mine.save(folder / "own")
    words = ("score", folder / "trials", folder / "own", "--out", folder / "s")
    assert run(*words) == 0
    assert run("evaluate", folder / "trials", folder / "s") == 0
    assert "again" not in (said := capsys.readouterr().err) and "by now" not in said
    replace(mine, embeddings=mine.embeddings[::-1].copy()).save(folder / "own")
    assert run("evaluate", folder / "trials", folder / "s") == 0
    assert f"{folder}/own was extracted again since {folder}/s was made of it" in capsys.readouterr().err
    assert run(*words) == 0  # the remedy
    assert run("evaluate", folder / "trials", folder / "s") == 0
    assert "again" not in capsys.readouterr().err
    (folder / "data/utt2spk").write_text("".join(lines).replace(f"{lines[0]}", f"{found.utt_ids[0]} x\n"))
    assert run(*words) == 0
    assert f"note: 1 utterances of {folder}/own have another speaker by now in" in capsys.readouterr().err


def test_ids_that_a_map_does_not_name_are_counted_and_suffixes_match_both_ways(folder, capsys):
    (folder / "map").write_text("anna-0.wav anna-0 anna-1\n")
    (folder / "list").write_text("anna-0 ben-0\nben-1 ben-0\n")
    words = ("score", folder / "list", folder / "emb", "--out")
    assert run(*words, folder / "s", "--enrol-map", folder / "map") == 0
    assert "1 ids of that side are not in it, and stand for themselves" in capsys.readouterr().err
    assert run(*words, folder / "plain") == 0
    mapped, plain = ((folder / name).read_text().splitlines() for name in ("s", "plain"))
    assert mapped[0] != plain[0] and mapped[1] == plain[1]


@pytest.fixture(scope="session")
def extracted(tmp_path_factory, corpus):
    """A function that extracts the corpus by a small network of a seed, an epoch and a rule of the mean."""
    import torch

    from farvox.datadir.kaldi import DataDir
    from farvox.features.frontend import FrontEndConfig
    from farvox.models.registry import build_model
    from farvox.pipelines.extract import extract
    from farvox.zoo import open_embedder, save_model

    root, kwargs = tmp_path_factory.mktemp("extracted"), {"num_mels": 24, "channels": 8, "embedding_dim": 8}

    def make(name, *, seed=0, epoch=1, mean="utterance"):
        if not (root / name).exists():
            torch.manual_seed(seed)
            network = build_model("ecapa", bottleneck=8, **kwargs)
            config = FrontEndConfig(num_mels=24, mean=mean)
            save_model(root / name, network, config, "ecapa", kwargs | {"bottleneck": 8}, {"epoch": epoch})
            embedder = open_embedder(root / name, backend="torch")
            extract(embedder, DataDir.open(corpus / "dev"), out=root / name / "emb")
        return root / name / "emb"

    return make


MIXED = {
    "other weights": ({"seed": 1}, "digest '"),
    "another epoch": ({"seed": 1, "epoch": 2}, "epoch 2, not 1"),
    "another front-end": ({"mean": "none"}, "frontend.mean 'none', not 'utterance'"),
}


@pytest.mark.parametrize("place", ["second set", "cohort", "centre"])
@pytest.mark.parametrize(("change", "difference"), MIXED.values(), ids=MIXED)
def test_no_set_of_another_model_has_a_part_in_a_score(
    extracted, corpus, tmp_path, capsys, place, change, difference
):
    """With as many dimensions, so that only the metadata tell."""
    one, other = extracted("one"), extracted("-".join(map(str, change.values())), **change)
    words = {
        "second set": (other,),
        "cohort": ("--norm", "s-norm", "--cohort", other),
        "centre": ("--centre", other),
    }
    assert run("score", corpus / "dev/trials", one, *words[place], "--out", tmp_path / "scores") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"{other}: of another model than {one}: {difference}" in said and "extract all with one model" in said
    )
    assert not (tmp_path / "scores").exists()


def test_the_origin_of_scores_lies_beside_them(extracted, corpus, tmp_path, capsys):
    import json

    from farvox.pipelines.score import Scores

    words = ("--norm", "as-norm", "--cohort", extracted("one"), "--centre", extracted("one"), "--top", 2)
    assert run("score", corpus / "dev/trials", extracted("one"), *words, "--out", tmp_path / "scores") == 0
    assert "not known" not in capsys.readouterr().err
    meta = json.loads((tmp_path / "scores.meta.json").read_text())
    of_set = EmbeddingSet.load(extracted("one")).meta
    assert len(of_set["digest"]) == 64 and meta["epoch"] == 1
    assert all(meta[key] == of_set[key] for key in ("digest", "model", "frontend", "precision", "backend"))
    assert meta["scoring"]["back_end"] == "cosine" and meta["scoring"]["norm"] == "as-norm"
    assert meta["scoring"]["top"] == 2 and meta["embeddings"] == [str(extracted("one"))]
    assert Scores.read(corpus / "dev/trials", tmp_path / "scores").meta == meta
    text = (tmp_path / "scores").read_text()
    (tmp_path / "scores").write_text(text.replace(" 0.", " 0.1", 1) + "\n" * (" 0." not in text))
    assert Scores.read(corpus / "dev/trials", tmp_path / "scores").meta == {}


def test_embeddings_of_an_unknown_model_are_noted_once(folder, extracted, corpus, tmp_path, capsys):
    assert run("export", folder / "emb", folder / "test_37.npy", "--to", "ffsvc") == 0
    assert run("import", folder / "test_37.npy", folder / "imported", "--arch", "ffsvc-embeddings") == 0
    words = ("--norm", "s-norm", "--cohort", folder / "imported", "--out", folder / "scores")
    assert run("score", folder / "trials", folder / "imported", *words) == 0
    said = capsys.readouterr().err
    assert said.count("not known") == 1 and f"the model of {folder / 'imported'} is not known" in said


@pytest.mark.parametrize("pair", ["anna-1 anna-1", "anna-1.wav anna-1", "mapped anna-1"])
def test_an_utterance_against_itself_is_refused_unless_allowed(folder, capsys, pair):
    (folder / "list").write_text(f"anna-0 anna-1\n{pair}\n")
    (folder / "map").write_text("mapped anna-1\n")
    words = ["score", folder / "list", folder / "emb", "--out", folder / "scores"]
    words += ["--enrol-map", folder / "map"] if "mapped" in pair else []
    assert run(*words) == 1
    said = capsys.readouterr().err
    assert f"list:2: '{pair.split()[0]}' and 'anna-1' are one recording" in said and "--allow-self" in said
    assert run(*words, "--allow-self") == 0  # the remedy
    assert float((folder / "scores").read_text().split()[-1]) == pytest.approx(1.0, abs=1e-6)


@pytest.fixture
def known(folder):
    """The embeddings of ``folder`` with their speakers; anna-3 is a copy of anna-0."""
    whole = EmbeddingSet.load(folder / "emb")
    speakers = pl.Series([utt_id.split("-")[0] for utt_id in whole.utt_ids])
    recordings = pl.Series(whole.utt_ids).replace({"anna-3": "anna-0"})
    emb_NE = np.array(whole.embeddings)
    EmbeddingSet(whole.utt_ids, emb_NE, speaker_ids=speakers, recordings=recordings).save(folder / "emb")
    return folder


@pytest.mark.parametrize("spread", [False, True], ids=["one set", "two sets"])
def test_an_utterance_against_its_own_copy_is_refused_unless_allowed(known, capsys, spread):
    sets = [known / "emb"]
    if spread:
        EmbeddingSet(["eve-0"], np.ones((1, 16), np.float32)).save(known / "more")
        sets.append(known / "more")
    words = ["score", known / "trials", *sets, "--out", known / "scores"]
    assert run(*words) == 1
    assert "trials:3: 'anna-0.wav' and 'anna-3.wav' are one recording" in capsys.readouterr().err
    assert run(*words, "--allow-self") == 0


def test_labels_that_contradict_the_speakers_of_the_embeddings_are_refused(known, capsys):
    (known / "list").write_text("1 anna-0 anna-1\n1 ben-0 anna-1\n")
    assert run("score", known / "list", known / "emb", "--out", known / "scores") == 1
    assert "list:2: labelled target, but its speakers are 'ben' and 'anna'" in capsys.readouterr().err


def test_leaks_are_reported_once_each_and_again_by_evaluate(known, capsys):
    (known / "map").write_text("m anna-0 anna-1\n")
    (known / "list").write_text("1 m anna-3\n1 m anna-2\n0 m ben-0\n0 m cleo-0\n")
    whole = EmbeddingSet.load(known / "emb")
    EmbeddingSet(
        ["x", "y", "z"], np.array(whole.embeddings[3:6]), speaker_ids=pl.Series(["anna", "ben", "eve"])
    ).save(known / "cohort")
    words = ["score", known / "list", known / "emb", "--out", known / "scores", "--enrol-map", known / "map"]
    assert run(*words, "--norm", "s-norm", "--cohort", known / "cohort") == 0
    said = capsys.readouterr().err
    expected = (
        f"warning: 2 of the 3 speakers of the cohort {known / 'cohort'} are also in the trials",
        "warning: 1 trials have a test utterance, or a copy of it, inside their own enrolment "
        f"(the first is {known / 'list'}:1, 'anna-3')",
    )
    for line in expected:
        assert said.count(line) == 1
    assert run("evaluate", known / "list", known / "scores") == 0
    said = capsys.readouterr().err
    for line in expected:
        assert said.count(line) == 1


def test_embeddings_in_parts_give_the_scores_and_the_clusters_of_one_file(tmp_path, monkeypatch, capsys):
    """Also as the cohort of AS-norm, the centre, and the training set of PLDA."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    means_SE = rng.standard_normal((50, 16))
    rows_NE = (means_SE.repeat(60, 0) + 0.7 * rng.standard_normal((3000, 16))).astype(np.float32)
    utt_ids = [f"s{n // 60:02}-{n % 60:02}" for n in range(3000)]
    speakers = pl.Series([utt_id[:3] for utt_id in utt_ids])
    found = EmbeddingSet(utt_ids, rows_NE, {}, speaker_ids=speakers)
    pairs = rng.integers(3000, size=(500, 2)).tolist()
    lines = {f"{int(a // 60 == b // 60)} {utt_ids[a]} {utt_ids[b]}\n" for a, b in pairs if a != b}
    Path("trials").write_text("".join(sorted(lines)))
    results = []
    for part_rows in (None, 1024):
        found.save("emb", part_rows=part_rows)
        for number, options in enumerate(
            ("--norm as-norm --cohort emb --top 100", "--centre emb", "--plda emb")
        ):
            words = ["score", "trials", "emb", *options.split(), "--out", f"scores{number}"]
            assert main(words) == 0
        assert main("cluster emb clusters --clusters 20 --min-size 1".split()) == 0  # noqa: SIM905
        files = [*(Path(f"scores{number}") for number in range(3)), Path("clusters/utt2spk")]
        results.append([path.read_bytes() for path in files])
        capsys.readouterr()
        shutil.rmtree("clusters")
    assert results[0] == results[1]
