"""SIGKILLs at random moments: 200 of a training of two processes, and 25 of each verb that writes much.

``KILLS=5`` in the environment makes them fewer.
"""

import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import tomli_w

from farvox.options import merge
from kills import Shell, case_of, kill_a_training, kill_a_verb
from zoo.conftest import hub, small_checkpoint  # noqa: F401

VERBS = ("extract", "convert", "simulate", "rirs", "pack", "enrol", "pull", "selftrain", "evaluate")


@pytest.fixture
def shell(running, tmp_path):
    with tempfile.TemporaryDirectory(prefix="k") as temporary:
        yield Shell(tmp_path, Path(temporary))


def note(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)


def test_a_training_of_two_processes(tiny_recipe, shell, tell):
    changes = {"data": {"workers": 1, "epoch_size": 64}, "log": {"save_steps": 3}}
    recipe = shell.folder / "recipe.toml"
    recipe.write_text(tomli_w.dumps(merge(tiny_recipe, changes)))
    count = int(os.environ.get("KILLS", 200))
    tally = kill_a_training(shell, recipe, count, random.Random(), 30, note)
    tell("SIGKILL of a training of two processes", **tally.counts())
    assert (tally.kills, tally.torn, tally.left) == (count, 0, [])


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb(verb, shell, corpus, model_folder, voices, tiny_recipe, hub, small_checkpoint, tell):  # noqa: F811
    place = hub / "owner/small/resolve/v1/small.pt"
    place.parent.mkdir(parents=True)
    shutil.copy(small_checkpoint, place)
    case = case_of(verb, shell, corpus, model_folder, voices, tiny_recipe)
    count = int(os.environ.get("KILLS", 25))
    tally = kill_a_verb(shell, case, count, random.Random(), note)
    tell(f"SIGKILL of {verb}", **tally.counts())
    assert (tally.kills, tally.torn, tally.left) == (count, 0, [])
