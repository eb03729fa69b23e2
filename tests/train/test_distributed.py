"""One process and two are the same run."""

import os
import pickle
import sys

import numpy as np
import pytest
import torch
from torch import nn

from farvox.recipe import merge, parse_recipe
from farvox.train import trainer
from farvox.train.distributed import SyncBatchNorm, World, join_world, synchronise_batchnorm
from farvox.train.launch import launch_ranks

RESNET = {"name": "resnet34", "num_mels": 24, "channels": 16, "blocks": [1, 1, 1, 1], "embedding_dim": 16}
ECAPA = {"name": "ecapa", "num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16}
TWENTY_STEPS = {"data": {"epoch_size": 160}, "schedule": {"epochs": 1}}
GENTLE = 1e-3  # a higher rate turns rounding errors into other trajectories, as it does on one process


def rank_main(folder):
    """What each rank of these tests runs: read a recipe, train, or write down the batches it draws."""
    with open(f"{folder}/job.pickle", "rb") as file:
        task, table, run_dir = pickle.load(file)
    recipe = parse_recipe(table)
    with join_world("cpu") as world:
        if task == "train":
            trainer.train(recipe, run_dir, world)
        else:
            torch.set_num_threads(1)
            run = trainer._build(recipe, run_dir, world)
            with open(f"{folder}/batches.{world.rank}", "wb") as file:
                pickle.dump([batch_content(batch) for batch in run.batches(0)], file)


def batch_content(batch):
    return [
        (position, int(label), wav_T.numpy().tobytes(), masks_K4.tolist())
        for position, label, wav_T, masks_K4 in zip(
            batch.positions, batch.labels_B, batch.wav_BT, batch.masks_BK4, strict=True
        )
    ]


def two_processes(folder, task, table, run_dir):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "job.pickle", "wb") as file:
        pickle.dump((task, table, run_dir), file)
    program = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_distributed as t"
    assert launch_ranks([sys.executable, "-c", f"{program}; t.rank_main({str(folder)!r})"], 2) == 0


def losses(steps):
    return np.array([step["loss"] for step in steps])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_draw_the_global_batches_of_one(accumulate, tmp_path, tiny_recipe):
    changes = {
        "data": {"speeds": [0.9, 1.0, 1.1], "workers": accumulate - 1},
        "specaugment": {"probability": 0.9},
        "optim": {"accumulate": accumulate},
    }
    table = merge(tiny_recipe, changes)
    one = trainer._build(parse_recipe(table), tmp_path, World(0, 1, torch.device("cpu")))
    alone = [batch_content(batch) for batch in one.batches(0)]
    two_processes(tmp_path, "batches", table, tmp_path)
    ranks = []
    for rank in range(2):
        with open(tmp_path / f"batches.{rank}", "rb") as file:
            ranks.append(pickle.load(file))
    steps = len(alone) // accumulate
    assert steps == 6 and all(len(batches) == len(alone) for batches in ranks)
    for step in range(steps):
        part = slice(step * accumulate, (step + 1) * accumulate)
        whole = sorted(example for batch in alone[part] for example in batch)
        dealt = sorted(example for batches in ranks for batch in batches[part] for example in batch)
        assert len(whole) == 8 and dealt == whole


@pytest.mark.slow
@pytest.mark.parametrize("batchnorm", ["freeze_batchnorm", "sync_batchnorm"])
@pytest.mark.parametrize("model", [RESNET, ECAPA], ids=["resnet34", "ecapa"])
def test_two_processes_have_the_losses_of_one(model, batchnorm, tmp_path, changed, train_here, logged):
    changes = {**TWENTY_STEPS, "model": model, "optim": {batchnorm: True, "lr": GENTLE}}
    train_here(tmp_path / "one", changes)
    two_processes(tmp_path / "job", "train", changed(changes), tmp_path / "two")
    one, two = losses(logged(tmp_path / "one")), losses(logged(tmp_path / "two"))
    assert len(one) == len(two) == 20 and np.ptp(one) > 0.1
    print(f"{model['name']} {batchnorm}: largest difference {np.abs(one - two).max():.2e}")
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-4)


def test_a_synchronised_batchnorm_alone_is_a_batchnorm():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv1d(3, 5, 1), nn.BatchNorm1d(5))
    synced = nn.Sequential(nn.Conv1d(3, 5, 1), nn.BatchNorm1d(5))
    synced.load_state_dict(plain.state_dict())
    synchronise_batchnorm(synced)
    assert isinstance(synced[1], SyncBatchNorm) and synced.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(4, 3, 7)
    assert torch.equal(plain(x), synced(x))
    assert torch.equal(plain.eval()(x), synced.eval()(x))
