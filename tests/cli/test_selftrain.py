"""``farvox selftrain``: rounds of clustering and training, which can be interrupted."""

import json
import shutil
from pathlib import Path

import pytest
import tomli_w

from farvox.audio.files import read_audio, write_audio
from farvox.cli.main import main
from farvox.datadir.kaldi import DataDir
from farvox.options import merge
from farvox.pipelines.recipe import read_toml
from farvox.training.checkpoint import finished_epochs


def farvox(*words):
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def first_model(tmp_path_factory, tiny_recipe):
    """A run dir of the tiny recipe."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "tiny.toml").write_text(tomli_w.dumps(tiny_recipe))
    assert farvox("train", folder / "tiny.toml", "--run-dir", folder / "run") == 0
    return folder / "run"


@pytest.fixture
def recipe(tmp_path, tiny_recipe, corpus, first_model):
    """A function that writes the recipe of a self-training with two rounds, changed."""

    def write(**changes):
        table = merge(
            tiny_recipe,
            {
                "run_dir": str(tmp_path / "exp"),
                "init": {"model": str(first_model)},
                "schedule": {"epochs": 1},
                "selftrain": {
                    "data": str(corpus / "train"), "truth": str(corpus / "train/utt2spk"), "rounds": 2,
                    "clusters": "3:9", "stable": 1.5, "min_size": 1,
                },
                "evaluate": [
                    {"name": "dev", "data": str(corpus / "dev"), "trials": str(corpus / "dev/trials")}
                ],
            },
        )  # fmt: skip
        (tmp_path / "tiny.toml").write_text(tomli_w.dumps(merge(table, changes)))
        return tmp_path / "tiny.toml"

    return write


def stamps(folder):
    """When each file that a stage makes was written; logs and records aside."""
    made = ("*.npy", "wav.scp", "*.safetensors", "scores/*")
    return {path: path.stat().st_mtime_ns for kind in made for path in folder.rglob(kind)}


def test_every_round_labels_trains_and_is_evaluated(recipe, tmp_path, corpus, capsys):
    assert farvox("selftrain", recipe()) == 0
    out = capsys.readouterr().out
    rows = [line.split("\t") for line in (tmp_path / "exp/rounds.tsv").read_text().splitlines()]
    assert rows[0] == ["round", "clusters", "kept", "NMI to last", "NMI", "purity", "EER dev"]
    assert [row[0] for row in rows[1:]] == ["0", "1", "2"]
    assert rows[1][1] == rows[2][3] == "-" and rows[1][-1].endswith(" %")
    saved = json.loads((tmp_path / "exp/results.json").read_text())
    assert [100 * each["eer"]["dev"] for each in saved["rounds"]] == [
        pytest.approx(float(row[-1].removesuffix(" %")), abs=0.05) for row in rows[1:]
    ]
    assert len(saved["scores"]) == 3 and len(saved["trials"]) == 1 and "farvox" in saved["versions"]
    assert all(3 <= int(row[1]) <= 8 and 0 < float(row[4]) <= 1 for row in rows[2:])
    assert f"model: {tmp_path}/exp/round-2/train" in out
    for number in (1, 2):
        here = tmp_path / f"exp/round-{number}"
        assert (here / "done.txt").read_text().split() == ["extract", "cluster", "train", "evaluate"]
        assert DataDir.open(here / "labels").speaker_ids[0].startswith(f"round{number}-")
        assert finished_epochs(here / "train") == [0]
        assert (here / "elbow.png").exists()
        trained = read_toml(here / "train/recipe.toml")["data"]["train"]
        assert trained == [str(corpus / "train"), str(here / "labels")]


def test_a_finished_run_repeats_nothing_and_a_longer_one_only_adds(recipe, tmp_path, capsys):
    assert farvox("selftrain", recipe(), "--selftrain.rounds", 1) == 0
    first = stamps(tmp_path / "exp")
    assert farvox("selftrain", recipe()) == 0
    second = stamps(tmp_path / "exp")
    assert {path: second[path] for path in first} == first
    assert any("round-2" in str(path) for path in second)
    assert farvox("selftrain", recipe()) == 0
    assert stamps(tmp_path / "exp") == second


def test_a_trial_list_that_is_added_later_is_evaluated_in_every_round(recipe, tmp_path, corpus):
    assert farvox("selftrain", recipe(), "--selftrain.rounds", 1) == 0
    dev = {"data": str(corpus / "dev"), "trials": str(corpus / "dev/trials")}
    lists = [{"name": "dev", **dev}, {"name": "again", **dev}]
    assert farvox("selftrain", recipe(evaluate=lists), "--selftrain.rounds", 1) == 0
    rows = [line.split("\t") for line in (tmp_path / "exp/rounds.tsv").read_text().splitlines()]
    assert rows[0][-2:] == ["EER dev", "EER again"]
    assert all(row[-1] == row[-2] != "-" for row in rows[1:]) and len(rows) == 3
    assert (tmp_path / "exp/round-1/done.txt").read_text().split().count("evaluate") == 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["farvox.pipelines.selftrain.extract", "farvox.pipelines.selftrain.train"])
def test_an_interruption_costs_only_the_stage_it_falls_into(stage, recipe, tmp_path, monkeypatch):
    """The second call of a stage is ended as Ctrl-C would."""
    import importlib

    module, name = stage.rsplit(".", 1)
    original = getattr(importlib.import_module(module), name)
    calls = []

    def interrupted(*words, **named):
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*words, **named)

    with monkeypatch.context() as patched:
        patched.setattr(stage, interrupted)
        assert farvox("selftrain", recipe()) == 130
    before = stamps(tmp_path / "exp")
    assert farvox("selftrain", recipe()) == 0
    after = stamps(tmp_path / "exp")
    assert {path: after[path] for path in before} == before
    assert len(after) > len(before)


def test_a_sweep_is_that_of_the_verb_and_goes_on_where_it_was_interrupted(recipe, tmp_path, monkeypatch):
    """The same options give the labels that "farvox cluster" gives, with or without an interruption."""
    from farvox.clustering import cluster

    words = ("--selftrain.rounds", 1, "--selftrain.wccs", "samples", "--selftrain.elbow", "linear")
    words = (*words, "--selftrain.per_cluster", 3)
    original, numbers = cluster.kmeans, []

    def interrupted(unit_NE, number, **settings):
        numbers.append(number)
        if len(numbers) == 3:
            raise KeyboardInterrupt
        return original(unit_NE, number, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(cluster, "kmeans", interrupted)
        assert farvox("selftrain", recipe(), *words) == 130
        assert (tmp_path / "exp/round-1/sweep.jsonl").exists()
        assert farvox("selftrain", recipe(), *words) == 0
    assert numbers[:8] == [3, 4, 5, 5, 6, 7, 8, numbers[7]]
    assert not (tmp_path / "exp/round-1/sweep.jsonl").exists()
    options = ("--wccs", "samples", "--elbow", "linear", "--per-cluster", 3, "--seed", 3007)
    here = tmp_path / "exp/round-1"
    assert farvox("cluster", here / "embeddings", tmp_path / "out", "--clusters", "3:9", *options) == 0
    assert (here / "labels/clusters.tsv").read_bytes() == (tmp_path / "out/clusters.tsv").read_bytes()
    by_verb = (tmp_path / "out/utt2cluster").read_text().replace(" c0", " round1-0")
    assert (here / "labels/utt2cluster").read_text() == by_verb


def test_stable_labels_end_the_rounds(recipe, tmp_path, capsys):
    assert farvox("selftrain", recipe(), "--selftrain.stable", 0.0001) == 0
    assert "the labels are those of round 1" in capsys.readouterr().out
    assert not (tmp_path / "exp/round-2/train").exists()
    assert not finished_epochs(tmp_path / "exp/round-2/train")


def test_rounds_go_on_from_the_last_model_or_from_the_first(recipe, tmp_path, first_model):
    words = ("--selftrain.start", "last", "--selftrain.share", 0.25, "--data.epoch_size", 16)
    assert farvox("selftrain", recipe(), *words) == 0
    saved = read_toml(tmp_path / "exp/round-2/train/recipe.toml")
    assert saved["init"]["model"] == f"{tmp_path}/exp/round-1/train"
    assert saved["data"]["domain_weights"] == [0.75, 0.25]
    assert read_toml(tmp_path / "exp/round-1/train/recipe.toml")["init"]["model"] == str(first_model)


def test_another_recipe_is_refused_in_a_run_dir_that_was_begun(recipe, capsys):
    assert farvox("selftrain", recipe(), "--selftrain.rounds", 1) == 0
    assert farvox("selftrain", recipe(), "--selftrain.clusters", "4:5") == 1
    err = capsys.readouterr().err
    assert "was begun with another recipe" in err and "selftrain.clusters: '3:9' there, '4:5' now" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selftrain": {"data": ""}}, "selftrain.data is missing"),
        ({"init": {"model": ""}}, "init.model is missing"),
        ({"selftrain": {"rounds": 0}}, "selftrain.rounds = 0; it must be at least 1"),
        ({"selftrain": {"start": "middle"}}, "it must be one of first, last"),
        ({"selftrain": {"method": "guess"}}, "one of kmeans, ahc, spectral"),
        ({"selftrain": {"share": 1.0}}, "share = 1.0; it must be below 1"),
        ({"selftrain": {"stable": 0.0}}, "selftrain.stable = 0.0; it must be above 0"),
        ({"selftrain": {"clusters": "many"}}, "'many' is neither a number of clusters nor a range"),
        ({"selftrain": {"clusters": "3000"}}, "selftrain.clusters = '3000'"),
        ({"selftrain": {"keep": 0.0}}, "keep = 0.0; it must be above 0"),
        ({"selftrain": {"truth": "nowhere"}}, "nowhere: no such file"),
        ({"selftrain": {"wccs": "speakers"}}, "one of clusters, samples"),
        ({"selftrain": {"elbow": "square"}}, "elbow = 'square'"),
        ({"selftrain": {"per_cluster": -1}}, "per_cluster = -1"),
    ],
)
def test_faults_of_a_recipe_are_named_before_hours_of_work(changes, message, recipe, tmp_path, capsys):
    assert farvox("selftrain", recipe(**changes)) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "exp").glob("round-*"))


def test_a_bad_utterance_ends_a_round_with_the_key_that_leaves_it_out(recipe, tmp_path, corpus, capsys):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "unlabelled").mkdir()
    scp = (corpus / "train/wav.scp").read_text() + f"zz {tmp_path}/text.wav\n"
    (tmp_path / "unlabelled/wav.scp").write_text(scp)
    settings = {"data": str(tmp_path / "unlabelled"), "truth": "", "rounds": 1}
    file = recipe(selftrain=settings)
    text = file.read_text().replace('truth = ""\n', "")
    file.write_text(text)
    assert farvox("selftrain", file) == 1
    err = capsys.readouterr().err
    assert "'zz'" in err and "selftrain.skip_bad = true" in err and "--skip-bad" not in err
    assert farvox("selftrain", file, "--selftrain.skip_bad", "true") == 0
    lines = (tmp_path / "exp/round-1/embeddings/rejected.tsv").read_text().splitlines()
    assert len(lines) == 2 and lines[1].startswith("zz\t")
    assert "zz" not in DataDir.open(tmp_path / "exp/round-1/labels").utt_ids


@pytest.mark.slow
def test_changed_inputs_are_refused_or_evaluated_again(recipe, tmp_path, corpus, first_model, capsys):
    """The unlabelled audio and the first model cost the rounds; lists and the truth only an evaluation."""
    for name in ("train", "dev"):
        shutil.copytree(corpus / name, tmp_path / name)
        scp = tmp_path / name / "wav.scp"
        scp.write_text(scp.read_text().replace(f"{corpus}/{name}/", f"{tmp_path}/{name}/"))
    shutil.copytree(first_model, tmp_path / "first")
    dev = {"name": "dev", "data": str(tmp_path / "dev"), "trials": str(tmp_path / "dev/trials")}
    shutil.copy(corpus / "train/utt2spk", tmp_path / "truth")
    changes = {"init": {"model": str(tmp_path / "first")}, "evaluate": [dev]}
    settings = {"data": str(tmp_path / "train"), "truth": str(tmp_path / "truth"), "rounds": 1}

    def run(**more):
        capsys.readouterr()
        return farvox("selftrain", recipe(selftrain=settings, **changes | more))

    def table():
        return [line.split("\t") for line in (tmp_path / "exp/rounds.tsv").read_text().splitlines()]

    assert run() == 0
    before = table()
    trials = tmp_path / "dev/trials"
    trials.write_text("".join(line + "\n" for line in trials.read_text().splitlines()[1:]))
    assert run() == 0
    assert capsys.readouterr().out.count("(again: data, trials or options of 'dev' were changed)") == 2
    assert run(evaluate=[dev | {"channels": "mean"}]) == 0
    assert capsys.readouterr().out.count("(again: ") == 2
    by_room = {"norm": "s-norm", "cohort": str(corpus / "more"), "cohort_by": "room"}
    by_room["conditions"] = [str(tmp_path / "rooms")]
    ids = [*DataDir.open(tmp_path / "dev").utt_ids, *DataDir.open(corpus / "more").utt_ids]
    for rooms in ("aab", "abb"):
        rows = (f"{utt_id}\t{rooms[n % 3]}\n" for n, utt_id in enumerate(ids))
        (tmp_path / "rooms").write_text("utt_id\troom\n" + "".join(rows))
        assert run(evaluate=[dev | by_room]) == 0
        assert capsys.readouterr().out.count("(again: ") == 2
    assert run(evaluate=[dev | {"channels": "mean"}]) == 0
    words = [line.split() for line in (tmp_path / "truth").read_text().splitlines()]
    (tmp_path / "truth").write_text("".join(f"{utt_id} {n % 2}\n" for n, (utt_id, _) in enumerate(words)))
    assert run(evaluate=[dev | {"channels": "mean"}]) == 0
    assert "(again: " not in capsys.readouterr().out
    assert table()[2][4:6] != before[2][4:6] and table()[2][:4] == before[2][:4]

    wav = Path(DataDir.open(tmp_path / "train").wav_paths[1])
    kept = shutil.copy2(wav, tmp_path / "kept.wav")
    write_audio(wav, 0.5 * read_audio(wav))
    assert run() == 1
    assert f"({wav})" in capsys.readouterr().err
    shutil.copy2(kept, wav)
    listing = (tmp_path / "train/wav.scp").read_text()
    ids = (tmp_path / "train/utt2spk").read_text()
    (tmp_path / "train/utt2spk").write_text(ids.replace("s1\n", "s0\n"))
    (tmp_path / "train/spk2utt").unlink(missing_ok=True)
    assert run() == 1
    assert "other utterances or speakers" in capsys.readouterr().err
    (tmp_path / "train/utt2spk").write_text(ids)
    assert (tmp_path / "train/wav.scp").read_text() == listing and run() == 0

    weights = next((tmp_path / "first").rglob("model.safetensors"))
    shutil.rmtree(weights.parent)
    assert run() == 1
    said = capsys.readouterr().err
    assert "init.model" in said and "start another --run-dir" in said


def test_training_data_of_a_finished_round_that_changed_are_refused(recipe, tmp_path, make_corpus, capsys):
    make_corpus(tmp_path / "known", speakers=["a", "b", "c", "d"], takes=3)
    changes = {"data": {"train": [str(tmp_path / "known")]}, "selftrain": {"rounds": 1}}
    assert farvox("selftrain", recipe(**changes)) == 0
    wav = Path(DataDir.open(tmp_path / "known").wav_paths[2])
    write_audio(wav, 0.5 * read_audio(wav))
    assert farvox("selftrain", recipe(**changes)) == 1
    assert f"{tmp_path}/exp/round-1/train: the audio of 1 of " in capsys.readouterr().err
