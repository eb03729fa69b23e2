"""``farvox cluster``: from embeddings to pseudo-labels."""

import json

import numpy as np
import pytest

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir, Utterance, read_table, write_data_dir


@pytest.fixture
def here(tmp_path):
    """Embeddings of eight speakers with twelve takes each, their data dir without speakers, and the truth."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((8, 32))
    ids = [f"u{n:03}" for n in range(96)]
    embeddings = 5 * centres[np.arange(96) % 8] + rng.standard_normal((96, 32))
    EmbeddingSet(ids, embeddings.astype(np.float32)).save(tmp_path / "emb")
    write_data_dir(tmp_path / "data", [Utterance(u, f"wav/{u}.wav", None, 16000) for u in ids])
    (tmp_path / "truth").write_text("".join(f"{u} spk{n % 8}\n" for n, u in enumerate(ids)))
    return tmp_path


def farvox(*words):
    return main([str(word) for word in words])


def test_clusters_of_other_embeddings_are_not_replaced(here, capsys):
    words = ("--clusters", "4", "--data", here / "data")
    assert farvox("cluster", here / "emb", here / "out", *words) == 0
    before = (here / "out/utt2spk").read_bytes()
    EmbeddingSet.load(here / "emb").save(here / "other")
    assert farvox("cluster", here / "other", here / "out", *words, "--seed", 1) == 1
    assert f"out: holds clusters of {here / 'emb'}, not of {here / 'other'}" in capsys.readouterr().err
    assert (here / "out/utt2spk").read_bytes() == before
    assert farvox("cluster", here / "data/../emb", here / "out", *words) == 0
    (here / "emb").rename(here / "moved")
    assert farvox("cluster", here / "moved", here / "out", *words) == 0


def test_pseudo_labels_become_a_data_dir_with_its_curve_and_its_plot(here, capsys):
    words = (
        "--clusters",
        "2:20:2",
        "--data",
        here / "data",
        "--truth",
        here / "truth",
        "--plot",
        here / "e.png",
    )
    assert farvox("cluster", here / "emb", here / "out", *words) == 0
    out = capsys.readouterr().out
    assert "clusters  8  " in out and "kept      96 of 96 utterances" in out
    assert "8 speakers; all: NMI 1.0000, purity 1.0000" in out
    found = DataDir.open(here / "out")
    assert len(found) == 96 and found.speaker_ids.n_unique() == 8
    assert found.wav_paths[0] == "wav/u000.wav" and found.num_samples[0] == 16000
    assert farvox("check", here / "out") == 1  # the audio is not there, all else is in order
    faults = capsys.readouterr().out.splitlines()
    assert all("u0" in fault and "wav" in fault for fault in faults[:-1])
    curve = [line.split("\t") for line in (here / "out/clusters.tsv").read_text().splitlines()]
    assert curve[0] == ["clusters", "wccs", "chosen"] and len(curve) == 10
    assert [row[0] for row in curve if row[2] == "1"] == ["8"]
    facts = json.loads((here / "out/clusters.json").read_text())
    assert facts["clusters"] == 8 and facts["truth"]["speakers"] == 8 and facts["asked"] == "2:20:2"
    assert (here / "e.png").read_bytes().startswith(b"\x89PNG")


def test_without_audio_the_label_files_stand_alone_and_can_be_replaced(here):
    for number in (8, 4):
        assert farvox("cluster", here / "emb", here / "out", "--clusters", number) == 0
        labels = read_table(here / "out/utt2spk")
        assert len(labels) == 96 and labels["value"].n_unique() == number
    assert not (here / "out/wav.scp").exists()


def test_filters_drop_labels_but_not_the_record_of_where_everyone_was(here):
    assert farvox("cluster", here / "emb", here / "out", "--clusters", "8", "--keep", "0.5") == 0
    assert len(read_table(here / "out/utt2spk")) == 48
    everyone = read_table(here / "out/utt2cluster")
    assert len(everyone) == 96
    name, cosine = everyone["value"][0].split(" ")
    assert name.startswith("c000") and 0 < float(cosine) <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--clusters", "many"), "'many' is neither a number of clusters nor a range"),
        (("--clusters", "200"), "200 clusters of 96 utterances"),
        (("--clusters", "2:4"), "at least three ascending numbers"),
        (("--clusters", "8", "--min-size", "50"), "no pseudo-label meets the conditions"),
        (("--clusters", "8", "--keep", "2"), "keep = 2.0; it must be at most 1"),
        (("--clusters", "2:20:0"), "a step of at least 1"),
        (("--clusters", "8", "--iterations", "0"), "iterations = 0; it must be at least 1"),
        (("--clusters", "8", "--per-cluster", "-1"), "per_cluster = -1; it must be at least 0"),
    ],
)
def test_faults_are_named(words, message, here, capsys):
    assert farvox("cluster", here / "emb", here / "out", *words) in (1, 2)
    assert message in capsys.readouterr().err
    assert not (here / "out").exists()


def test_any_seed_that_is_not_negative_will_do(here, capsys):
    words = ("cluster", here / "emb", here / "out", "--clusters", "8", "--seed")
    assert farvox(*words, "3000000000") == 0
    assert farvox(*words, "-1") == 2
    assert "a seed is not negative" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["kmeans", "ahc", "spectral"])
def test_copies_of_one_embedding_are_one_cluster(here, method):
    EmbeddingSet([f"u{n}" for n in range(20)], np.ones((20, 8), np.float32)).save(here / "copies")
    words = ("cluster", here / "copies", here / "out", "--clusters", "3", "--method", method)
    assert farvox(*words) == 0
    assert json.loads((here / "out/clusters.json").read_text())["clusters"] == 1


def test_a_truth_that_lacks_an_utterance_is_refused(here, capsys):
    (here / "truth").write_text("u000 a\n")
    assert farvox("cluster", here / "emb", here / "out", "--clusters", "8", "--truth", here / "truth") == 1
    assert "truth: has no line for the utterance 'u001'" in capsys.readouterr().err


def test_a_folder_of_other_things_is_not_replaced(here, capsys):
    assert farvox("cluster", here / "emb", here / "data", "--clusters", "8") == 1
    assert "holds other things" in capsys.readouterr().err
    assert len(DataDir.open(here / "data")) == 96


def test_an_interrupted_sweep_goes_on_to_the_same_bytes(here, monkeypatch, capsys):
    """The fourth clustering is ended as Ctrl-C would."""
    from farvox.clustering import cluster

    words = ("--clusters", "2:20:2", "--data", here / "data")
    assert farvox("cluster", here / "emb", here / "whole", *words) == 0
    original, numbers = cluster.kmeans, []

    def interrupted(unit_NE, number, **settings):
        numbers.append(number)
        if len(numbers) == 4:
            raise KeyboardInterrupt
        return original(unit_NE, number, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(cluster, "kmeans", interrupted)
        assert farvox("cluster", here / "emb", here / "out", *words) == 130
        assert not (here / "out").exists() and (here / "out.sweep").exists()
        capsys.readouterr()
        assert farvox("cluster", here / "emb", here / "out", *words) == 0
    assert numbers == [2, 4, 6, 8, 8, 10, 12, 14, 16, 18, 8]  # the last is the elbow
    assert "3 of 9 numbers of clusters are known: " in capsys.readouterr().err
    assert not (here / "out.sweep").exists()
    for file in ("clusters.tsv", "clusters.json", "utt2cluster", "utt2spk", "wav.scp"):
        assert (here / "out" / file).read_bytes() == (here / "whole" / file).read_bytes()
