"""``farvox run``: all stages of a recipe."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tomli_w
import torch

from farvox.audio.files import read_audio, write_audio
from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir, write_data_dir
from farvox.manifest import read_weights
from farvox.options import merge
from farvox.pipelines.extract import extract
from farvox.training.checkpoint import finished_epochs
from farvox.zoo import find_model, open_embedder

EVALUATE = [
    {"name": "all pairs", "data": "$corpus/dev", "trials": "$corpus/dev/trials"},
    {"name": "drawn", "data": "$corpus/dev", "trials": "$corpus/dev/trials"},
    {"name": "seen", "data": "$work/dev", "trials": "$work/dev/trials"},
]
ADAPT = {"name": "wider", "set": {"data": {"train": ["$work/both"]}, "init": {"classifier": "extend"}}}


@pytest.fixture
def recipe(tmp_path, tiny_recipe, corpus):
    """A function that writes the tiny recipe, with stages, changed."""

    def write(**changes):
        table = {
            **merge(tiny_recipe, {"data": {"train": ["$corpus/train"]}, "schedule": {"epochs": 1}}),
            "title": "Tiny",
            "notes": ["The voices are made up."],
            "run_dir": str(tmp_path / "exp"),
            "paths": {"corpus": str(corpus), "work": str(tmp_path / "work")},
            "prepare": [
                "combine $work/both $corpus/train $corpus/more_renamed",
                "combine $work/dev $corpus/train",
                "rirs $work/rooms --rooms 1 --per-room 1 --jobs 1",
                "trials $work/dev $work/dev/trials --all-pairs",
            ],
            "adapt": [ADAPT],
            "evaluate": EVALUATE,
        }
        (tmp_path / "tiny.toml").write_text(tomli_w.dumps(table | changes))
        return tmp_path / "tiny.toml"

    return write


@pytest.fixture(scope="module", autouse=True)
def more_renamed(corpus, make_corpus):
    """Two speakers that are not in ``train``."""
    make_corpus(corpus / "more_renamed", speakers=["x0", "x1"], takes=2, seed=5)


def farvox(*words):
    return main([str(word) for word in words])


def test_all_stages_end_in_a_table_and_a_report(recipe, tmp_path, capsys):
    assert farvox("run", recipe()) == 0
    out = capsys.readouterr().out
    stages = re.findall(r"^== (\w+)", out, re.MULTILINE)
    assert stages == ["prepare", "train", "adapt", "extract", "score", "evaluate"]
    table = out[out.index("== evaluate") :].splitlines()
    assert re.fullmatch(r" +all pairs +drawn +seen", table[1])
    figures = r"( +\d+\.\d %   \d\.\d\d ?){2}( +\d+\.\d %   \d\.\d{2,3})"  # few trials, few digits
    assert re.fullmatch("trained" + figures, table[3]) and re.fullmatch("wider  " + figures, table[4])
    first, *leaks, last = table[5:]
    assert (first, last) == ("The voices are made up.", f"report: {tmp_path}/exp/report.html")
    trials = tmp_path / "work/dev/trials"
    seen = f"warning: 6 of the 6 speakers of the trials {trials} are also in the training "
    assert len(leaks) == 3 and all(
        line.startswith(seen) for line in leaks
    )  # of both, and of the model between
    assert leaks[2].startswith(f"{seen}of {tmp_path}/exp/train/checkpoints/epoch_000: ")
    assert "The voices are made up." in (tmp_path / "exp" / "report.html").read_text()
    saved = json.loads((tmp_path / "exp" / "results.json").read_text())
    rows = {(each["system"], each["trial_list"]): each["eer"] for each in saved["results"]}
    assert len(rows) == 6 and 0 <= rows["trained", "drawn"] <= 1
    assert len(saved["scores"]) == 6 and len(saved["trials"]) == 2
    digests = {each["model_digest"] for each in saved["scores"].values()}
    assert len(digests) == 2 and None not in digests  # of two models
    assert {"farvox", "numpy", "torch"} <= saved["versions"].keys() and saved["command"]
    dev = [EmbeddingSet.load(tmp_path / "exp" / "train" / "embeddings" / f"dev-{n}") for n in (1, 2)]
    assert [len(embeddings.utt_ids) for embeddings in dev] == [9, 24]


@pytest.mark.slow
def test_the_starting_model_is_the_first_row_and_published_figures_the_last(recipe, tmp_path, capsys):
    assert farvox("run", recipe(), "--to", "train") == 0
    published = {"eer": 0.0207, "source": "a paper"}
    evaluate = [EVALUATE[0] | {"published": published}, EVALUATE[1], EVALUATE[2] | {"intervals": True}]
    evaluate[1] = EVALUATE[1] | {"threshold": 0.5}
    start = {"model": str(tmp_path / "exp" / "train"), "classifier": "keep"}
    file = recipe(init=start, adapt=[], evaluate=evaluate, run_dir=str(tmp_path / "exp" / "further"))
    capsys.readouterr()
    assert farvox("run", file) == 0
    out = capsys.readouterr().out
    table = out[out.index("== evaluate") :].splitlines()
    names = [line.split("  ")[0] for line in table[3:6]]
    assert names == ["starting model", "fine-tuned", "published"]
    assert re.search(r"published +2.07 %", table[5])
    assert f"{EVALUATE[0]['name']}: published EER 2.07 % (a paper)" in table
    at = table.index("seen: 95 % intervals")
    assert [line.split("  ")[0] for line in table[at + 1 : at + 4]] == ["system", *names[:2]]
    at = table.index("seen: differences")
    assert re.match(r"EER \d+\.\d % \(starting model\) -> \d+\.\d % \(fine-tuned\) \(", table[at + 2])
    at = table.index(f"{EVALUATE[1]['name']} at the threshold 0.5")
    assert table[at + 1].split() == ["system", "FAR", "FRR", "DCF"]
    assert re.match(r"starting model +\d+\.\d % +\d+\.\d % +\d+\.\d\d", table[at + 2])
    saved = json.loads((tmp_path / "exp/further/results.json").read_text())
    (pair,) = saved["differences"]
    assert (pair["trial_list"], pair["system"], pair["other"]) == ("seen", "fine-tuned", "starting model")
    assert 0 < pair["eer"]["p"] <= 1
    sure = {row["trial_list"]: row["intervals"] for row in saved["results"] if "intervals" in row}
    assert list(sure) == ["seen"] and sure["seen"]["num_speakers"] == 6
    assert "seen: differences" in (tmp_path / "exp/further/report.html").read_text()
    rows = [(tmp_path / f"exp/further/{name}/scores").is_dir() for name in ("start", "train")]
    assert rows == [True, True]
    meta = json.loads((tmp_path / "exp/further/start/scores/seen.txt.meta.json").read_text())
    assert any(f"are also in the training of {tmp_path}/exp/train/checkp" in line for line in meta["leaks"])
    assert farvox("run", file, "--name", "mine", "--from", "evaluate") == 0
    assert "\nmine " in capsys.readouterr().out


@pytest.mark.slow
def test_a_second_run_repeats_no_training_and_no_preparation(recipe, tmp_path, capsys):
    assert farvox("run", recipe()) == 0
    first = capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert farvox("run", recipe()) == 0
    second = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    assert second.count("already done") == 4 and "Epoch" not in second
    assert first[first.index("== evaluate") :] == second[second.index("== evaluate") :]


def test_a_data_verb_is_run_again_where_what_it_reads_was_changed_or_what_it_made_is_gone(
    recipe, tmp_path, corpus, make_corpus, capsys
):
    make_corpus(tmp_path / "own", speakers=["a", "b"], takes=2)
    source, work = tmp_path / "own", tmp_path / "work"
    verbs = [
        f"combine {work}/all {corpus}/train {source}",
        f"trials {work}/all {work}/all/trials --num-nontarget 5",
        f"simulate {source} {work}/far --copies 1 --jobs 1",
        f"prepare folder {tmp_path}/mine {work}/mine --jobs 1",
    ]
    for speaker in "ab":
        shutil.copytree(source, tmp_path / "mine" / speaker, ignore=shutil.ignore_patterns("*2*", "*.scp"))
    words = ("run", recipe(prepare=verbs, evaluate=[], adapt=[]), "--to", "prepare")

    def lines():
        capsys.readouterr()
        assert farvox(*words) == 0
        return capsys.readouterr().out.splitlines()

    def again():
        return [line.removeprefix("farvox ") for line in lines() if line.startswith("farvox ")]

    assert again() == verbs
    assert again() == []
    (source / "utt2spk").write_text((source / "utt2spk").read_text().replace(" b", " c"))
    (source / "spk2utt").unlink(missing_ok=True)
    said = lines()
    assert f"done again, because {source} was changed since:" in said
    assert [line for line in said if line.startswith("farvox ")] == [f"farvox {each}" for each in verbs[:3]]
    assert "c" in DataDir.open(work / "all").speaker_ids.to_list()
    assert again() == []
    wav = Path(DataDir.open(source).wav_paths[0])  # simulate reads it, combine does not
    write_audio(wav, 0.5 * read_audio(wav))
    assert again() == [verbs[2]]
    shutil.rmtree(work / "mine")
    assert f"done again, because {work}/mine is not there any more:" in lines()
    (work / "all/trials").unlink()
    assert again() == [verbs[1]]
    copy = next((tmp_path / "mine/a").rglob("*.wav"))
    write_audio(copy, 0.5 * read_audio(copy))
    assert again() == [verbs[3]]
    assert again() == []


def test_a_run_dir_of_an_earlier_farvox_says_that_changes_are_not_known(recipe, tmp_path, capsys):
    assert farvox("run", recipe(), "--to", "prepare") == 0
    record = tmp_path / "exp/prepared.txt"
    record.write_text("".join(line.partition("\t")[0] + "\n" for line in record.read_text().splitlines()))
    capsys.readouterr()
    assert farvox("run", recipe(), "--to", "prepare") == 0
    assert capsys.readouterr().out.count("was changed since is not known): farvox ") == 4


def test_a_training_whose_data_changed_is_refused_and_what_was_trained_can_be_evaluated(
    recipe, tmp_path, make_corpus, capsys
):
    make_corpus(tmp_path / "data", speakers=["a", "b", "c", "d"], takes=3)
    file = recipe(data={"train": [str(tmp_path / "data")], "num_frames": 40, "workers": 0},
                  prepare=[], adapt=[], evaluate=EVALUATE[:1])  # fmt: skip
    assert farvox("run", file) == 0
    wav = Path(DataDir.open(tmp_path / "data").wav_paths[2])
    write_audio(wav, 0.5 * read_audio(wav))
    capsys.readouterr()
    assert farvox("run", file) == 1
    said = capsys.readouterr().err
    assert f"({wav})" in said and "is evaluated by --from adapt" in said
    assert farvox("run", file, "--from", "adapt") == 0


def test_embeddings_of_a_data_dir_that_moved_in_the_recipe_are_made_again(recipe, tmp_path, corpus, capsys):
    """The data dir has the name that another one had."""
    changed = {"data": str(tmp_path / "other/dev"), "trials": str(corpus / "dev/trials")}
    shutil.copytree(corpus / "dev", tmp_path / "other/dev")
    first = recipe(prepare=[], adapt=[], evaluate=EVALUATE[:1])
    assert farvox("run", first) == 0
    out = tmp_path / "exp/train/embeddings/dev"
    second = recipe(prepare=[], adapt=[], evaluate=[EVALUATE[0] | changed])
    capsys.readouterr()
    assert farvox("run", second) == 0
    line = f"{out}: holds embeddings of {corpus}/dev, not of {tmp_path}/other/dev; they are replaced"
    assert line in capsys.readouterr().err.splitlines()
    assert json.loads((out / "meta.json").read_text())["data_dir"] == str(tmp_path / "other/dev")
    assert farvox("run", second, "--from", "extract") == 0
    assert "replaced" not in capsys.readouterr().err


def test_stages_are_not_run_by_each_of_several_processes(recipe, tmp_path, capsys, monkeypatch):
    path = recipe()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["run", str(path), "--run-dir", str(tmp_path / "ranks")]) == 1
    assert "start those before the training with --to prepare" in capsys.readouterr().err
    assert not (tmp_path / "ranks").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["run", str(path), "--run-dir", str(tmp_path / "ranks"), "--to", "prepare"]) == 0


def test_stages_can_be_run_one_by_one(recipe, tmp_path, capsys):
    file = recipe()
    assert farvox("run", file, "--to", "train") == 0
    assert finished_epochs(tmp_path / "exp" / "train") == [0]
    assert not (tmp_path / "exp" / "wider").exists()
    assert farvox("run", file, "--from", "extract") == 1
    assert "wider" in capsys.readouterr().err
    for stage in ("adapt", "extract", "score", "evaluate"):
        assert farvox("run", file, "--from", stage, "--to", stage) == 0
    assert "report: " in capsys.readouterr().out


@pytest.mark.slow
def test_scores_of_two_models_are_not_one_row_of_the_table(recipe, tmp_path, capsys):
    """One list was scored by hand with the other system's embeddings, in the place of its scores."""
    file = recipe()
    assert farvox("run", file) == 0
    scores = {name: tmp_path / f"exp/{name}/scores" for name in ("train", "wider")}
    for suffix in (".txt", ".txt.meta.json"):
        (scores["train"] / f"seen{suffix}").write_bytes((scores["wider"] / f"seen{suffix}").read_bytes())
    capsys.readouterr()
    assert farvox("run", file, "--from", "evaluate") == 1
    said = capsys.readouterr().err
    assert (
        f"{scores['train'] / 'seen.txt'}: of another model than {scores['train'] / 'all pairs.txt'}" in said
    )
    assert farvox("run", file, "--from", "extract") == 0  # the remedy
    assert "not known" not in capsys.readouterr().out


def test_the_run_dir_and_any_field_can_be_set(recipe, tmp_path):
    words = ("--run-dir", tmp_path / "other", "--schedule.epochs", 2, "--to", "train")
    assert farvox("run", recipe(), *words) == 0
    assert finished_epochs(tmp_path / "other" / "train") == [0, 1]


def test_stages_the_wrong_way_round_are_refused(recipe, capsys):
    assert farvox("run", recipe(), "--from", "score", "--to", "train") != 0
    assert "--from score comes after --to train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapt": [ADAPT, ADAPT]}, "[[adapt]] name = 'wider': give each a name of its own"),
        ({"adapt": [{"name": "train"}]}, "[[adapt]] name = 'train'"),
        ({"adapt": [{"set": {}}]}, "[[adapt]]: name is missing"),
        ({"adapt": [{"name": ""}]}, "[[adapt]] name = ''"),
        ({"adapt": [{"name": "../x"}]}, "without '/'"),
        ({"evaluate": [*EVALUATE, EVALUATE[0]]}, "[[evaluate]] name = 'all pairs'"),
        (
            {"adapt": [{"name": "x", "set": {"optm": {}}}]},
            "[[adapt]] x: unknown key 'optm'; did you mean 'optim'",
        ),
        ({"prepare": [], "adapt": []}, "[[evaluate]] seen: "),
        ({"prepare": ["rm -rf /nowhere"]}, "prepare: 'rm -rf /nowhere' does not begin with one of prepare"),
        ({"prepare": ["combine $work/x $work/missing"]}, "missing"),
    ],
)
def test_faults_of_a_recipe_are_named(changes, message, recipe, capsys):
    assert farvox("run", recipe(**changes)) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


@pytest.fixture(scope="module")
def far(corpus):
    """The takes of ``dev`` as channels: each speaker's first is the enrolment, the others are an array."""
    table = DataDir.open(corpus / "dev").table
    names = [name if name.endswith("_0") else f"{name[:2]}_far_{name[-1]}" for name in table["utt_id"]]
    distance = ["near" if name.endswith("_0") else "far" for name in names]
    lines = [f"{name}\t{where}\t{name[-1]}\n" for name, where in zip(names, distance, strict=True)]
    speakers = ("d0", "d1", "d2")
    pairs = [f"{e}_0 {t}_far_{{}} {('nontarget', 'target')[e == t]}\n" for e in speakers for t in speakers]
    files = {"utt2cond": "utt_id\tdistance\tchannel\n" + "".join(lines), "trials": "".join(pairs)}
    write_data_dir(corpus / "far", table.with_columns(utt_id=pl.Series(names)), files=files)
    return corpus / "far"


NORMALISED = {
    "name": "normalised", "data": "$corpus/far", "trials": "$corpus/far/trials", "channels": "weighted",
    "centre": "$corpus/train", "norm": "as-norm", "cohort": "$corpus/train", "top": 2,
    "cohort_speakers": "$corpus/train", "by": ["distance"], "cohort_by": "duration", "cohort_edges": [1.0],
}  # fmt: skip
EXPANDED = {
    "name": "expanded", "data": "$corpus/far", "trials": "$corpus/far/trials", "channels": "expand",
    "by": ["channel", "enrol.distance"],
}  # fmt: skip


def test_a_recipe_scores_as_the_verbs_do(recipe, far, corpus, tmp_path, capsys):
    """The whole far-field back-end in one recipe, and the same by hand."""
    of_cohort = {"name": "threshold", "by": [], "conditions": ["$corpus/far"], "threshold": 0.5}
    file = recipe(evaluate=[NORMALISED, EXPANDED, NORMALISED | of_cohort], adapt=[], prepare=[])
    assert farvox("run", file) == 0
    out, model = capsys.readouterr().out, tmp_path / "exp/train"
    assert farvox("extract", model, far, tmp_path / "far", "--quality", "--device", "cpu") == 0
    assert farvox("extract", model, corpus / "train", tmp_path / "cohort", "--device", "cpu") == 0
    words = ("score", far / "trials", tmp_path / "far", "--out")
    cohort = ("--cohort", tmp_path / "cohort", "--cohort-speakers", corpus / "train", "--top", 2)
    rules = ("--channels", "weighted", "--centre", tmp_path / "cohort", "--norm", "as-norm")
    by = ("--cohort-by", "duration", "--cohort-edges", 1, "--conditions", far, corpus / "train")
    assert farvox(*words, tmp_path / "a", *rules, *cohort, *by) == 0
    assert (model / "scores/normalised.txt").read_bytes() == (tmp_path / "a").read_bytes()
    expanded = ("--channels", "expand", "--out-trials", tmp_path / "b-trials")
    assert farvox(*words, tmp_path / "b", *expanded) == 0
    assert (model / "scores/expanded.txt").read_bytes() == (tmp_path / "b").read_bytes()
    assert (model / "scores/expanded.trials").read_bytes() == (tmp_path / "b-trials").read_bytes()

    lines = [line.split() for line in out.splitlines()]
    by_hand = ("evaluate", tmp_path / "b-trials", tmp_path / "b", "--conditions", far)
    capsys.readouterr()
    assert farvox(*by_hand, "--by", "channel", "--by", "enrol.distance") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()][-5:]
    start = lines.index(["expanded", "by", "channel,", "enrol.distance"])
    assert lines[start + 1] == ["system", *rows[0]] and rows[0][0] == "channel"
    assert lines[start + 2 : start + 6] == [["trained", *row] for row in rows[1:]]
    assert ["normalised", "by", "distance"] in lines
    assert ["threshold", "at", "the", "threshold", "0.5"] in lines
    assert "expanded by channel, enrol.distance" in (tmp_path / "exp/report.html").read_text()
    saved = json.loads((tmp_path / "exp/results.json").read_text())["results"]
    cells = next(each["conditions"] for each in saved if each["trial_list"] == "expanded")
    assert [list(cell["condition"]) for cell in cells] == [["channel", "enrol.distance"]] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "s-norm"}, "[[evaluate]] far: norm s-norm needs a cohort"),
        (
            {"channels": "median"},
            "[[evaluate]] far: channels = 'median'; it must be one of mean-norm,",
        ),
        ({"norm": "z-norm"}, "norm = 'z-norm'; it must be one of s-norm, as-norm"),
        ({"norm": "as-norm", "cohort": "$corpus/nobody"}, "corpus0/nobody/wav.scp is not there"),
        ({"enrol_map": "$corpus/nomap"}, "corpus0/nomap is not there"),
        ({"top": 5}, "[[evaluate]] far: top goes with norm as-norm"),
        ({"conditions": ["$corpus/far"]}, "[[evaluate]] far: conditions are for by"),
    ],
)
def test_faults_of_a_back_end_are_named_before_training(changes, message, recipe, far, tmp_path, capsys):
    table = {"name": "far", "data": "$corpus/far", "trials": "$corpus/far/trials", **changes}
    assert farvox("run", recipe(evaluate=[table], adapt=[], prepare=[])) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "exp/train").exists()


def test_a_recipe_without_trial_lists_ends_after_training(recipe, capsys):
    assert farvox("run", recipe(evaluate=[], adapt=[], prepare=[])) == 0
    assert "no [[evaluate]]" in capsys.readouterr().out


def test_an_utterance_that_cannot_be_embedded_is_named_with_the_key_that_leaves_it_out(
    recipe, tmp_path, capsys, corpus
):
    (tmp_path / "text.wav").write_text("no audio")
    scp = (corpus / "train/wav.scp").read_text() + f"zz {tmp_path}/text.wav\n"
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort/wav.scp").write_text(scp)
    plain = {"name": "all pairs", "data": "$corpus/dev", "trials": "$corpus/dev/trials"}
    table = {**plain, "centre": str(tmp_path / "cohort")}
    assert farvox("run", recipe(prepare=[], adapt=[], evaluate=[table])) == 1
    err = capsys.readouterr().err
    assert "'zz'" in err and "skip_bad = true in [[evaluate]] all pairs" in err and "--skip-bad" not in err
    assert farvox("run", recipe(prepare=[], adapt=[], evaluate=[table | {"skip_bad": True}])) == 0
    (listed,) = (tmp_path / "exp").rglob("embeddings/cohort/rejected.tsv")
    assert listed.read_text().splitlines()[1].startswith("zz\t")


@pytest.mark.slow
def test_finished_weights_are_mixed_with_the_start_and_centred(recipe, tmp_path, corpus, capsys):
    assert farvox("run", recipe(), "--to", "train") == 0
    start = {"model": str(tmp_path / "exp" / "train"), "classifier": "keep"}
    finish = {"start": 0.25, "centre": str(corpus / "more_renamed")}
    root = tmp_path / "exp" / "further"
    file = recipe(init=start, adapt=[], evaluate=EVALUATE[:1], run_dir=str(root), finish=finish)
    assert farvox("run", file) == 0
    finished = root / "train" / "finished"
    found = extract(open_embedder(finished, "cpu"), DataDir.open(corpus / "more_renamed"))
    mean_E = found.embeddings.mean(0)
    np.testing.assert_allclose(mean_E, 0, atol=1e-4)
    models = (finished, root / "train", start["model"])
    mixed, tuned, first = (read_weights(find_model(each) / "model.safetensors") for each in models)
    for name, tensor in mixed.items():
        if tensor.is_floating_point() and "embedding" not in name:
            torch.testing.assert_close(tensor, 0.75 * tuned[name] + 0.25 * first[name], atol=1e-6, rtol=1e-5)
    found = extract(open_embedder(finished, "cpu"), DataDir.open(corpus / "dev"))
    scored = EmbeddingSet.load(root / "train/embeddings/dev")
    np.testing.assert_allclose(scored.embeddings, found.embeddings, atol=1e-6)
    before = (finished / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert farvox("run", file) == 0
    assert (finished / "model.safetensors").stat().st_mtime_ns == before
    recording = Path(DataDir.open(corpus / "more_renamed").wav_paths[0])
    os.utime(recording, ns=(1, recording.stat().st_mtime_ns + 10**9))  # it may be another one now
    assert farvox("run", file, "--to", "train") == 0
    again = (finished / "model.safetensors").stat().st_mtime_ns
    assert again != before
    before = again
    assert farvox("run", file, "--finish.start", "0.5") == 0
    assert (finished / "model.safetensors").stat().st_mtime_ns != before
    assert not [path.name for path in finished.parent.iterdir() if "mixed" in path.name]
    assert farvox("run", recipe(finish={"start": 0.5})) == 1
    assert "finish.start is a share of the starting model, and there is none" in capsys.readouterr().err
