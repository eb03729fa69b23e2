"""A few SIGKILLs of a training and of some verbs; tests/soak has many, of all."""

import random
import tempfile
from pathlib import Path

import pytest
import tomli_w

from farvox.options import merge
from kills import Shell, case_of, kill_a_training, kill_a_verb


@pytest.fixture
def shell(running, tmp_path):
    with tempfile.TemporaryDirectory(prefix="k") as temporary:
        yield Shell(tmp_path, Path(temporary))


@pytest.mark.slow
def test_killed_trainings_of_two_processes_end_in_the_same_bits(tiny_recipe, shell):
    changes = {"data": {"workers": 1, "epoch_size": 64}, "log": {"save_steps": 3}}
    recipe = shell.folder / "recipe.toml"
    recipe.write_text(tomli_w.dumps(merge(tiny_recipe, changes)))
    tally = kill_a_training(shell, recipe, 5, random.Random(1), 6, print)
    assert (tally.kills, tally.torn, tally.left) == (5, 0, [])


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["rirs", "enrol", "evaluate"])
def test_killed_verbs_leave_the_old_or_the_new_and_end_the_same(
    verb, shell, corpus, model_folder, voices, tiny_recipe
):
    case = case_of(verb, shell, corpus, model_folder, voices, tiny_recipe)
    tally = kill_a_verb(shell, case, 1, random.Random(1), print)
    assert (tally.kills, tally.torn, tally.left) == (1, 0, [])
