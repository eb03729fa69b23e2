"""One process and two are the same run."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from farvox.models.registry import build_head, build_model
from farvox.options import from_table, merge
from farvox.training import trainer
from farvox.training.distributed import SyncBatchNorm, World, join_world, synchronise_batchnorm
from farvox.training.launch import launch_ranks
from farvox.training.objective import TrainingModel
from farvox.training.options import TrainOptions

RESNET = {"name": "resnet34", "num_mels": 24, "channels": 16, "blocks": [1, 1, 1, 1], "embedding_dim": 16}
ECAPA = {"name": "ecapa", "num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16}

# Small steps: with larger ones, on one process too, weights that differ by 1e-7 soon part by 1e-3. With
# these a learning rate larger by a millionth moves the losses of ECAPA by 1e-4 within the twenty steps.
TWENTY_STEPS = {
    "data": {"epoch_size": 320, "num_frames": 60},
    "head": {"scale": 8.0},
    "optim": {"batch_size": 16},
    "schedule": {"epochs": 1},
}
TRAININGS = [
    {**merge(TWENTY_STEPS, {"optim": {batchnorm: True, "lr": lr}}), "model": model}
    for model, lr in ((RESNET, 1e-5), (ECAPA, 1e-4))
    for batchnorm in ("freeze_batchnorm", "sync_batchnorm")
]
TAUGHT = merge(
    TWENTY_STEPS,
    {
        "init": {"classifier": "means"},
        "distill": {"weight": 10.0},
        "optim": {
            "freeze_batchnorm": True,
            "l2_sp": 0.1,
            "freeze": ["first", "blocks.0"],
            "release_epoch": 1,
            "accumulate": 2,
            "lr": 1e-3,
            "channels_last": True,
        },
        "augment": {"kind": "farvox", "noise_probability": 1.0},
        "schedule": {"epochs": 2},
        "data": {"epoch_size": 160},
    },
)
AGREED = merge(TAUGHT, {"agree": {"weight": 5.0}, "optim": {"freeze": [], "release_epoch": 0}})
DRAWINGS = [
    {
        "data": {"speeds": [0.9, 1.0, 1.1], "workers": accumulate - 1},
        "specaugment": {"probability": 0.9},
        "optim": {"accumulate": accumulate},
    }
    for accumulate in (1, 2)
]
DRAWINGS.append(merge(DRAWINGS[0], {"agree": {"weight": 1.0}}))
ALONE = World(0, 1, torch.device("cpu"))


def names(changes):
    return f"{changes['model']['name']}-{'-'.join(key for key, on in changes['optim'].items() if on is True)}"


def train(world, table, run_dir):
    trainer.train(from_table(TrainOptions, table, "recipe"), run_dir, world)


def draw(world, table, run_dir):
    """Content of all batches of a run."""
    run = trainer.Run(from_table(TrainOptions, table, "recipe"), world)
    return [
        [
            (position, int(label), wav_T.numpy().tobytes(), masks_K4.tolist())
            for position, label, wav_T, masks_K4 in zip(
                batch.positions, batch.labels_B, batch.wav_BT, batch.masks_BK4, strict=True
            )
        ]
        for batch in run.batches(0)
    ]


def step_in_double_precision(world, model):
    """Losses of twenty bold steps, with BatchNorm over all ranks."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = build_model(**model)
    if world.size > 1:
        synchronise_batchnorm(network)
    training = TrainingModel(network, build_head("aam", 16, 6)).double()
    wrapped = DistributedDataParallel(training) if world.size > 1 else training
    optimizer = torch.optim.SGD(training.parameters(), lr=0.01, momentum=0.9)
    draws, found = torch.Generator().manual_seed(1), []
    for _ in range(20):
        feats_BFM = torch.randn(8, 30, 24, generator=draws, dtype=torch.float64)
        labels_B = torch.randint(0, 6, (8,), generator=draws)
        mine = slice(world.rank, None, world.size)
        optimizer.zero_grad()
        loss, *_ = wrapped(feats_BFM[mine], labels_B[mine])
        loss.backward()
        optimizer.step()
        found.append(float(world.mean(loss.detach())))
    return found


def rank_main(folder):
    """What each of the two processes runs: every job, one after the other; what it finds goes to a file."""
    with join_world("cpu") as world:
        jobs = pickle.loads((Path(folder) / "jobs").read_bytes())
        found = {key: globals()[task](world, *words) for key, (task, words) in jobs.items()}
        (Path(folder) / f"found.{world.rank}").write_bytes(pickle.dumps(found))


@pytest.fixture(scope="module")
def taught(changed, corpus, model_folder):
    """A fine-tuning with all that holds on to the starting model, and one in pairs; noise is other speech."""

    def whole(changes):
        table = merge(changed(changes), {"init": {"model": str(model_folder)}})
        return merge(table, {"augment": {"noise": [str(corpus / "more")]}}) | {"model": {}}

    return {"taught": whole(TAUGHT), "agreed": whole(AGREED)}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory, changed, taught):
    """What two processes found in all jobs of this module: a dict for each rank; runs are in ``folder``."""
    folder = tmp_path_factory.mktemp("two")
    jobs = {names(t): ("train", (changed(t), folder / names(t))) for t in TRAININGS}
    jobs |= {name: ("train", (table, folder / name)) for name, table in taught.items()}
    jobs |= {n: ("draw", (changed(d), folder / str(n))) for n, d in enumerate(DRAWINGS)}
    jobs |= {model["name"]: ("step_in_double_precision", (model,)) for model in (RESNET, ECAPA)}
    (folder / "jobs").write_bytes(pickle.dumps(jobs))
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_distributed as t"
    assert launch_ranks([sys.executable, "-c", f"{program}; t.rank_main({str(folder)!r})"], 2) == 0
    return folder, [pickle.loads((folder / f"found.{rank}").read_bytes()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(DRAWINGS)))
def test_two_processes_draw_the_global_batches_of_one(number, on_two, tmp_path, changed):
    alone = draw(ALONE, changed(DRAWINGS[number]), tmp_path)
    ranks = [found[number] for found in on_two[1]]
    accumulate = DRAWINGS[number]["optim"]["accumulate"]
    steps = len(alone) // accumulate
    assert steps == (12 if number == 2 else 6) and all(len(batches) == len(alone) for batches in ranks)
    for step in range(steps):
        part = slice(step * accumulate, (step + 1) * accumulate)
        whole = sorted(example for batch in alone[part] for example in batch)
        dealt = sorted(example for batches in ranks for batch in batches[part] for example in batch)
        assert len(whole) == 8 and dealt == whole


@pytest.mark.slow
@pytest.mark.parametrize("changes", TRAININGS, ids=names)
def test_two_processes_have_the_losses_of_one(changes, on_two, tmp_path, train_here, logged):
    train_here(tmp_path, changes)
    one, two = (
        np.array([step["loss"] for step in logged(run)]) for run in (tmp_path, on_two[0] / names(changes))
    )
    assert len(one) == len(two) == 20 and np.ptp(one) > 0.1
    print(f"largest difference {np.abs(one - two).max():.1e}")
    np.testing.assert_allclose(two[:10], one[:10], rtol=0, atol=2e-4)
    np.testing.assert_allclose(two, one, rtol=0, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["taught", "agreed"])
def test_two_processes_are_taught_as_one(name, on_two, tmp_path, taught, logged):
    train(ALONE, taught[name], tmp_path)
    for figure, least in (("loss", 0.01), ("distance", 1e-4)):
        one, two = (np.array([step[figure] for step in logged(run)]) for run in (tmp_path, on_two[0] / name))
        assert len(one) == len(two) == 20 and np.ptp(one) > least
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=0)
    said = (on_two[0] / name / "train.log").read_text()
    assert "channels_last is left out" in said


@pytest.mark.slow
@pytest.mark.parametrize("model", [RESNET, ECAPA], ids=["resnet34", "ecapa"])
def test_synchronised_batchnorm_is_exact_where_rounding_does_not_blur_it(model, on_two):
    one = step_in_double_precision(ALONE, model)
    two, other = (found[model["name"]] for found in on_two[1])
    assert two == other and np.ptp(one) > 1
    np.testing.assert_allclose(two, one, rtol=0, atol=2e-5)


def test_what_was_frozen_stays_frozen_in_a_synchronised_batchnorm():
    network = build_model("ffsvc-ecapa", num_mels=24, channels=32, embedding_dim=16, bottleneck=16)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    synchronise_batchnorm(network)
    assert "block1.bns.0.weight" in frozen
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == frozen


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
