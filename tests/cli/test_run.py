"""``farvox run``: all stages of a recipe."""

import re
import time

import pytest
import tomli_w

from farvox.cli.main import main
from farvox.io.embeddings import EmbeddingSet
from farvox.recipe import merge
from farvox.train.checkpoint import finished_epochs

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
    assert re.fullmatch(r"pre-trained( +\d+\.\d\d %   \d\.\d{4}){3}", table[3])
    assert re.fullmatch(r"wider      ( +\d+\.\d\d %   \d\.\d{4}){3}", table[4])
    assert table[5:] == ["The voices are made up.", f"report: {tmp_path}/exp/report.html"]
    assert "The voices are made up." in (tmp_path / "exp" / "report.html").read_text()
    dev = [EmbeddingSet.load(tmp_path / "exp" / "train" / "embeddings" / f"dev-{n}") for n in (1, 2)]
    assert [len(embeddings.utt_ids) for embeddings in dev] == [9, 24]


def test_a_second_run_repeats_no_training_and_no_preparation(recipe, tmp_path, capsys):
    assert farvox("run", recipe()) == 0
    first = capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    start = time.monotonic()
    assert farvox("run", recipe()) == 0
    assert time.monotonic() - start < 10
    second = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    assert second.count("already done") == 3 and "Epoch" not in second
    assert first[first.index("== evaluate") :] == second[second.index("== evaluate") :]


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
        ({"adapt": [{"set": {}}]}, "[[adapt]] name = ''"),
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


def test_a_recipe_without_trial_lists_ends_after_training(recipe, capsys):
    assert farvox("run", recipe(evaluate=[], adapt=[], prepare=[])) == 0
    assert "no [[evaluate]]" in capsys.readouterr().out
