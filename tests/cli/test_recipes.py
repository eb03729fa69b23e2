"""Words on the command line that change a recipe."""

from pathlib import Path

import pytest

from farvox.cli.main import main
from farvox.cli.recipes import parse_overrides
from farvox.errors import RecipeError
from farvox.options import described, from_table, merge
from farvox.pipelines.recipe import Recipe


def test_the_command_line_changes_fields():
    given_words = [
        *("--optim.lr", "0.1", "--data.train", '["a", "b"]', "--title=a b", "--optim.clip-norm", "5"),
        *("--optim.sync_batchnorm", "true", "--model.name", "ecapa", "--schedule.kind=constant"),
        *("--schedule.gamma", "-1e-4", "--paths.root", "/a=b", "--run_dir=exp/x"),
    ]
    changes = parse_overrides(given_words)
    assert changes == {
        "optim": {"lr": 0.1, "clip_norm": 5, "sync_batchnorm": True},
        "data": {"train": ["a", "b"]},
        "title": "a b",
        "model": {"name": "ecapa"},
        "schedule": {"kind": "constant", "gamma": -1e-4},
        "paths": {"root": "/a=b"},
        "run_dir": "exp/x",
    }
    table = merge({"optim": {"lr": 1.0, "momentum": 0.5}, "seed": 4}, changes)
    recipe = from_table(Recipe, table, "my.toml")
    assert (recipe.optim.lr, recipe.optim.momentum, recipe.seed) == (0.1, 0.5, 4)
    assert recipe.data.train == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("given_words", "message"),
    [
        (["optim.lr", "1"], "'optim.lr' is not of the form --field.name VALUE"),
        (["--optim.lr"], "--optim.lr needs a value"),
        (["--"], "'--' is not of the form"),
        (["--seed", "1", "2"], "'2' is not of the form"),
    ],
)
def test_words_that_change_nothing_are_refused(given_words, message):
    with pytest.raises(RecipeError) as caught:
        parse_overrides(given_words)
    assert message in str(caught.value)


def test_the_last_word_on_a_field_counts():
    assert parse_overrides(["--optim", "3", "--optim.lr", "1", "--optim.lr", "2"]) == {"optim": {"lr": 2}}


@pytest.mark.parametrize("verb", ["train", "run", "selftrain"])
def test_the_help_of_a_verb_explains_every_field_of_a_recipe(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    rows = list(described(Recipe))
    assert {"--model.channels", "[[evaluate]] norm", "--augment.noise"} <= {
        name if name.startswith("[[") else f"--{name}" for name, _, _ in rows
    }
    for name, _, doc in rows:
        assert doc and f"{name} {' '.join(doc.split())}" in text, name
