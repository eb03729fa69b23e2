"""``farvox score`` as a user types it."""

import subprocess
import sys

import numpy as np
import pytest

from farvox.cli.main import main
from farvox.io.embeddings import EmbeddingSet

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
    assert "they are of different models" in capsys.readouterr().err


def test_wrong_usage_gives_status_2(folder):
    assert run("score", folder / "trials", "--out", folder / "scores") == 2
    with pytest.raises(SystemExit) as stopped:
        run("score", folder / "trials")
    assert stopped.value.code == 2


def test_score_does_not_import_torch(folder):
    program = (
        "import sys; from farvox.cli.main import main;"
        "main(['score', 'trials', 'emb', '--out', 'scores']);"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
