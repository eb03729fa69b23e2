import json

import pytest
import torch
from safetensors.torch import load_file

from farvox.options import from_table, merge
from farvox.progress import to_stdout
from farvox.training.distributed import World
from farvox.training.options import TrainOptions
from farvox.training.trainer import train


@pytest.fixture(scope="session")
def changed(tiny_recipe):
    """A function that gives the tiny recipe with changes; ``model`` is replaced as a whole."""

    def change(changes):
        return {**merge(tiny_recipe, changes), "model": changes.get("model", tiny_recipe["model"])}

    return change


@pytest.fixture
def train_here(changed):
    """A function that trains the tiny recipe, changed, in this process."""

    def run(run_dir, changes=None, **options):
        recipe = from_table(TrainOptions, changed(changes or {}), "recipe")
        return train(recipe, run_dir, World(0, 1, torch.device("cpu")), note=to_stdout, **options)

    return run


@pytest.fixture
def logged():
    """A function that reads the figures of all steps (or epochs) of a run."""

    def read(run_dir, kind="step"):
        lines = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
        return [line for line in lines if line["kind"] == kind]

    return read


@pytest.fixture
def weights():
    """A function that reads all tensors of one epoch of a run."""

    def read(run_dir, epoch):
        folder = run_dir / "checkpoints" / f"epoch_{epoch:03d}"
        names = ("model", "classifier", "optimizer")
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in names}
        return {f"{name}.{key}": value for name in names for key, value in tensors[name].items()}

    return read


@pytest.fixture
def same_weights(weights):
    """A function that tells whether two runs ended in the same bits."""

    def same(one, other, epoch):
        a, b = weights(one, epoch), weights(other, epoch)
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    return same
