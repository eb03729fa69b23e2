"""``farvox score`` and ``farvox evaluate`` as a user types them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from farvox.cli.main import main
from farvox.io.embeddings import EmbeddingSet
from farvox.metrics.detection import detection_error

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


def test_a_trial_list_becomes_scores_and_scores_become_figures(folder, capsys):
    assert run("score", folder / "trials", folder / "emb", "--out", folder / "scores") == 0
    said = capsys.readouterr()
    assert said.out == "" and "120 trials: label (1/0), enrolment, test" in said.err
    rows = [line.split() for line in (folder / "scores").read_text().splitlines()]
    trials = [line.split() for line in (folder / "trials").read_text().splitlines()]
    assert [row[:2] for row in rows] == [trial[1:] for trial in trials]

    assert run("evaluate", folder / "trials", folder / "scores", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    expected = detection_error([float(r[2]) for r in rows], [int(t[0]) for t in trials])
    for name in ("eer", "min_dcf", "threshold", "num_target", "num_nontarget"):
        assert figures[name] == getattr(expected, name)
    assert (figures["num_target"], figures["num_nontarget"]) == (24, 96)
    assert 0 < figures["eer"] < 0.2

    assert run("evaluate", folder / "trials", folder / "scores") == 0
    assert f"EER     {expected.eer:.4%}" in capsys.readouterr().out


def test_embeddings_may_be_spread_over_several_folders(folder):
    whole = EmbeddingSet.load(folder / "emb")
    for name, rows in (("one", slice(0, 7)), ("two", slice(7, 16))):
        EmbeddingSet(whole.utt_ids[rows], np.array(whole.embeddings[rows])).save(folder / name)
    assert run("score", folder / "trials", folder / "emb", "--out", folder / "a") == 0
    assert run("score", folder / "trials", folder / "two", folder / "one", "--out", folder / "b") == 0
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


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


def test_figures_follow_the_options(folder, capsys):
    run("score", folder / "trials", folder / "emb", "--out", folder / "scores")
    capsys.readouterr()
    run("evaluate", folder / "trials", folder / "scores", "--json", "--p-target", "0.5", "--ties", "grouped")
    figures = json.loads(capsys.readouterr().out)
    assert figures["p_target"] == 0.5 and figures["min_dcf"] <= 2 * figures["eer"]
    words = ("evaluate", folder / "trials", folder / "scores", "--threshold=-1")
    assert run(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["at"] == {"threshold": -1.0, "far": 1.0, "frr": 0.0}
    assert run(*words) == 0
    assert "at -1     FAR 100.0000%, FRR 0.0000%" in capsys.readouterr().out


def test_a_report_and_a_plot_are_written_when_asked_for(folder):
    run("score", folder / "trials", folder / "emb", "--out", folder / "scores")
    words = ("evaluate", folder / "trials", folder / "scores")
    assert run(*words, "--report", folder / "page.html", "--plot", folder / "det.svg") == 0
    assert run(*words, "--report", folder / "report", "--plot", folder / "det.png") == 0
    assert "<svg" in (folder / "page.html").read_text("utf-8")
    assert {p.name for p in (folder / "report").iterdir()} >= {"report.html", "det.png", "scores.svg"}
    assert (folder / "det.svg").is_file() and (folder / "det.png").is_file()


FAULTS = {
    "unknown id": ("score", "1 anna-0 eve-0\n", "", "list:1: no utterance 'eve-0'"),
    "inconsistent list": ("score", "1 anna-0 anna-1\n2 anna-0 anna-1\n", "", "list:2: '2' is not a label"),
    "no labels": ("evaluate", "anna-0 anna-1\n", "anna-0 anna-1 1\n", "list: no labels"),
    "missing trial": ("evaluate", "1 a b\n0 a c\n", "a b 1\n", "1 of the 2 trials have no score"),
    "one kind only": ("evaluate", "1 a b\n1 a c\n", "a b 1\na c 2\n", "none of the 2 trials is a non-target"),
}


@pytest.mark.parametrize(("verb", "listed", "scored", "message"), FAULTS.values(), ids=FAULTS)
def test_input_at_fault_gives_a_message_and_status_1(folder, capsys, verb, listed, scored, message):
    (folder / "list").write_text(listed)
    (folder / "scored").write_text(scored)
    rest = (folder / "emb", "--out", folder / "out") if verb == "score" else (folder / "scored",)
    assert run(verb, folder / "list", *rest) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith(f"farvox {verb}: ") and message in said.err
    assert "Traceback" not in said.err


def test_embeddings_of_two_models_are_not_mixed(folder, capsys):
    EmbeddingSet(["eve-0"], np.ones((1, 5), np.float32)).save(folder / "other")
    assert run("score", folder / "trials", folder / "emb", folder / "other", "--out", folder / "out") == 1
    assert "they are of different models" in capsys.readouterr().err


def test_wrong_usage_gives_status_2(folder, capsys):
    assert run("score", folder / "trials", "--out", folder / "scores") == 2
    assert run("evaluate", folder / "trials", folder / "scores", "--plot", folder / "det.gif") == 2
    with pytest.raises(SystemExit) as stopped:
        run("score", folder / "trials")
    assert stopped.value.code == 2
    assert "a plot is a .png or an .svg file" in capsys.readouterr().err


def test_neither_verb_imports_torch(folder):
    program = (
        "import sys; from farvox.cli.main import main;"
        "main(['score', 'trials', 'emb', '--out', 'scores']); main(['evaluate', 'trials', 'scores']);"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
