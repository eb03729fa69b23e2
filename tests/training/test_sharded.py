"""A head in shards is the whole head; of a drawn share, only what is drawn moves."""

import copy
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from farvox.errors import RecipeError
from farvox.models.registry import build_head
from farvox.options import from_table
from farvox.training import trainer
from farvox.training.checkpoint import checkpoint_folder, unpack_optimizer
from farvox.training.distributed import World, join_world
from farvox.training.launch import launch_ranks
from farvox.training.loader import Batch
from farvox.training.objective import TrainingModel
from farvox.training.options import OptimOptions, TrainOptions
from farvox.training.sharded import ShardedHead
from farvox.training.step import Stepper, build_optimizer

ALONE = World(0, 1, torch.device("cpu"))
NUM_CLASSES, EMBEDDING_DIM = 7, 4  # seven over two: shards of three and four
HEADS = [
    {"name": "softmax"},
    {"name": "am"},
    {"name": "aam", "margin": 0.5},
    {"name": "subcentre-aam", "num_subcentres": 2},
]
OPTIMIZERS = ["sgd", "adam"]

BASE = {
    "data": {"epoch_size": 80, "num_frames": 60},
    "head": {"name": "subcentre-aam", "scale": 8.0, "idle_classes": 3},
    "optim": {"batch_size": 8, "lr": 1e-3, "accumulate": 2, "freeze_batchnorm": True},
}
SHARDED = {**BASE, "optim": {**BASE["optim"], "shard_head": True}}
RELEASED = {"freeze": ["network"], "release_epoch": 1, "lr": 1e-2}
SAMPLED = {**BASE, "optim": {**SHARDED["optim"], "sample_classes": 0.5, "name": "adam"}}


class Squeezed(nn.Sequential):
    """A network that takes a feature of one frame."""

    def forward(self, feats_BFM):
        return super().forward(feats_BFM[:, 0])


def build(world, head, optimizer, *, sharded, share=1.0):
    """A stepper in double precision, and its model; weights are the same on every rank."""
    torch.manual_seed(0)
    network = Squeezed(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, EMBEDDING_DIM)).double()
    whole = build_head(**head, embedding_dim=EMBEDDING_DIM, num_classes=NUM_CLASSES).double()
    shard = ShardedHead(whole, world, share=share, seed=5) if sharded else None
    model = TrainingModel(network, shard or whole)
    optim = OptimOptions(name=optimizer, lr=0.05, weight_decay=0.01)
    built = build_optimizer(optim, list(model.parameters()))
    wrapped = trainer._reduced(model, shard, unused=False) if world.size > 1 else model
    stepper = Stepper(wrapped, nn.Identity(), built, world=world, clip_norm=1.0, shard=shard)
    return stepper, model


def batches_of(world, step, count=2):
    """This rank's micro-batches of a step."""
    draws = torch.Generator().manual_seed(step)
    feats = torch.randn(count, 8, 1, 5, generator=draws, dtype=torch.float64)
    labels = torch.randint(0, NUM_CLASSES, (count, 8), generator=draws)
    mine = range(world.rank, 8, world.size)
    no_masks = torch.zeros(len(mine), 0, 4, dtype=torch.int64)
    return [Batch(feats[n, mine], labels[n, mine], no_masks, tuple(mine), None) for n in range(count)]


def take_steps(world, head, optimizer, *, sharded):
    """Figures of ten steps; then all gradients, weights and moments, whole."""
    torch.set_num_threads(1)
    stepper, model = build(world, head, optimizer, sharded=sharded)
    figures = []
    for step in range(10):
        result = stepper.step(batches_of(world, step))
        mean = world.mean(torch.stack([result.loss.double(), result.num_right.double()]))
        figures.append([float(mean[0]), float(mean[1]) * world.size, float(result.grad_norm)])
    shard = stepper.shard
    packed = shard.whole_state(stepper.optimizer) if shard else trainer.checkpoint.pack_optimizer
    head_state, (moments, _) = packed if shard else (model.head.state_dict(), packed(stepper.optimizer))
    gradients = {
        name: shard._gather(p.grad) if shard else p.grad
        for name, p in (shard.part if shard else model.head).named_parameters()
    }
    gradients |= {f"network.{name}": p.grad for name, p in model.network.named_parameters()}
    return figures, {
        "network": {name: value.clone() for name, value in model.network.state_dict().items()},
        "head": head_state,
        "moments": moments,
        "gradients": gradients,
    }


def train(world, table, run_dir):
    trainer.train(from_table(TrainOptions, table, "recipe"), run_dir, world)


def train_and_resume(world, table, run_dir):
    """Train; then copy the run, take its last epoch away and go on."""
    train(world, table, run_dir / "once")
    if world.is_main:
        shutil.copytree(run_dir / "once", run_dir / "again")
        shutil.rmtree(checkpoint_folder(run_dir / "again", 1))
    world.barrier()
    train(world, table, run_dir / "again")


def key_of(head, optimizer):
    return f"{head['name']}-{optimizer}"


def rank_main(folder):
    """What each of the two processes runs; what it finds goes to a file."""
    with join_world("cpu") as world:
        jobs = pickle.loads((Path(folder) / "jobs").read_bytes())
        found = {
            key: globals()[task](world, *words, **options) for key, (task, words, options) in jobs.items()
        }
        (Path(folder) / f"found.{world.rank}").write_bytes(pickle.dumps(found))


@pytest.fixture(scope="module")
def taught_means(changed, model_folder):
    """A fine-tuning whose classifier starts at the means, with the network frozen: no DDP around it."""
    changes = {
        "init": {"model": str(model_folder), "classifier": "means"},
        "optim": {**BASE["optim"], "freeze": ["network"]},
        "schedule": {"epochs": 1},
    }
    return changed({**BASE, **changes}) | {"model": {}}


@pytest.fixture(scope="module")
def extended(corpus):
    """A function of a run dir: changes that give its classifier more rows, some of them reserved."""

    def after(run_dir):
        return {
            **SHARDED,
            "init": {"model": str(run_dir), "classifier": "extend"},
            "data": {**BASE["data"], "reserve": [str(corpus / "more")], "speeds": [1.0, 0.9]},
            "optim": {**SHARDED["optim"], "precision": "bf16", "l2_sp": 0.1},
            "schedule": {"epochs": 1},
        }

    return after


@pytest.fixture(scope="module")
def on_two(tmp_path_factory, changed, taught_means, extended):
    """What two processes found: a folder of runs, and a dict for each rank."""
    folder = tmp_path_factory.mktemp("two")
    jobs = {
        key_of(head, name): ("take_steps", (head, name), {"sharded": True})
        for head in HEADS
        for name in OPTIMIZERS
    }
    jobs["sharded"] = ("train", (changed(SHARDED), folder / "sharded"), {})
    jobs["first"] = ("train", (changed({**SHARDED, "schedule": {"epochs": 1}}), folder / "first"), {})
    jobs["sampled"] = ("train_and_resume", (changed(SAMPLED), folder / "sampled"), {})
    released = {**SHARDED, "optim": {**SHARDED["optim"], **RELEASED}}
    jobs["released"] = ("train", (changed(released), folder / "released"), {})
    jobs["extended"] = ("train", (changed(extended(folder / "first")), folder / "extended"), {})
    means = {**taught_means, "optim": {**taught_means["optim"], "shard_head": True}}
    jobs["means"] = ("train", (means, folder / "means"), {})
    (folder / "jobs").write_bytes(pickle.dumps(jobs))
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_sharded as t"
    assert launch_ranks([sys.executable, "-c", f"{program}; t.rank_main({str(folder)!r})"], 2) == 0
    return folder, [pickle.loads((folder / f"found.{rank}").read_bytes()) for rank in range(2)]


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head["name"])
def test_two_shards_are_the_whole_head(head, optimizer, on_two):
    figures, states = take_steps(ALONE, head, optimizer, sharded=False)
    (found, parts), (others, elsewhere) = (found[key_of(head, optimizer)] for found in on_two[1])
    assert found == others and np.ptp(np.array(figures)[:, 0]) > 0.1
    np.testing.assert_allclose(np.array(found), np.array(figures), rtol=1e-6)  # losses are float32
    for name in states:
        assert_same(parts[name], states[name], rtol=1e-9, atol=1e-11)
    assert_same(elsewhere["network"], parts["network"], rtol=0, atol=0)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head["name"])
def test_one_shard_is_the_whole_head(head):
    figures, states = take_steps(ALONE, head, "sgd", sharded=False)
    found, parts = take_steps(ALONE, head, "sgd", sharded=True)
    np.testing.assert_allclose(np.array(found), np.array(figures), rtol=1e-6)
    for name in states:
        assert_same(parts[name], states[name], rtol=1e-9, atol=1e-11)


def test_logits_far_apart_do_not_overflow():
    head = build_head("softmax", EMBEDDING_DIM, NUM_CLASSES).double()
    emb_BE = 1e5 * torch.randn(8, EMBEDDING_DIM, generator=torch.Generator().manual_seed(1)).double()
    labels_B = torch.arange(8) % NUM_CLASSES
    expected = nn.functional.cross_entropy(head(emb_BE), labels_B)
    entropy, _ = ShardedHead(head, ALONE)(emb_BE, labels_B)
    assert expected > 1e3
    torch.testing.assert_close(entropy, expected)


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "adamw"])
@pytest.mark.parametrize("head", [HEADS[0], HEADS[3]], ids=lambda head: head["name"])
def test_a_sampled_step_moves_the_drawn_rows_and_no_others(head, optimizer):
    stepper = build(ALONE, head, optimizer, sharded=True, share=0.5)[0]
    shard, seen = stepper.shard, []
    for step in range(6):
        before = copy.deepcopy(shard.whole_state(stepper.optimizer))
        labels_B = torch.tensor([step, (step + 1)]) % NUM_CLASSES
        batch = batches_of(ALONE, step, count=1)[0]
        batch = Batch(batch.wav_BT[:2], labels_B, batch.masks_BK4[:2], (0, 1), None)
        shard.draw(labels_B, stepper.optimizer, 0, step)
        drawn = shard._drawn.tolist()
        assert len(drawn) == 4 and set(labels_B.tolist()) <= set(drawn) and drawn == sorted(drawn)
        stepper.step([batch])
        after = shard.whole_state(stepper.optimizer)
        ours = shard._moment_keys(stepper.optimizer, after[1][0])
        assert len(ours) == len(before[0]) * (1 if optimizer == "sgd" else 2)
        was, now = ({**state[0], **{k: state[1][0].get(k) for k in ours}} for state in (before, after))
        for name in now:
            old = torch.zeros_like(now[name]) if was[name] is None else was[name]
            moved = (old != now[name]).view(NUM_CLASSES, -1).any(dim=1)
            assert moved.nonzero().flatten().tolist() == drawn, name
        seen.append(tuple(drawn))
    assert len(set(seen)) > 3


def test_a_sampled_step_has_the_loss_of_a_head_of_the_drawn_classes():
    torch.manual_seed(0)
    whole = build_head("subcentre-aam", EMBEDDING_DIM, NUM_CLASSES, num_subcentres=2).double()
    shard = ShardedHead(copy.deepcopy(whole), ALONE, share=0.6, seed=3)
    emb_BE, labels_B = torch.randn(3, EMBEDDING_DIM).double(), torch.tensor([6, 0, 6])
    shard.draw(labels_B, torch.optim.SGD(shard.parameters()), 2, 9)
    drawn = shard._drawn.tolist()
    small = build_head("subcentre-aam", EMBEDDING_DIM, len(drawn), num_subcentres=2).double()
    small.weight.data = whole.weight.data.view(NUM_CLASSES, -1)[drawn].view(-1, EMBEDDING_DIM)
    places_B = torch.tensor([drawn.index(label) for label in labels_B.tolist()])
    logits_BC = small(emb_BE, places_B)
    entropy, num_right = shard(emb_BE, labels_B)
    torch.testing.assert_close(entropy, nn.functional.cross_entropy(logits_BC, places_B))
    assert int(num_right) == int((logits_BC.argmax(dim=1) == places_B).sum())


def test_more_positives_than_the_share_are_all_drawn():
    shard = build(ALONE, HEADS[2], "sgd", sharded=True, share=0.2)[0].shard
    shard.draw(torch.tensor([1, 3, 5, 6]), torch.optim.SGD(shard.parameters()), 0, 0)
    assert shard._drawn.tolist() == [1, 3, 5, 6]


def test_a_draw_depends_on_seed_epoch_and_step_alone():
    draws = {}
    for epoch, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        head = build_head("aam", EMBEDDING_DIM, 1000)
        shard = ShardedHead(head, ALONE, share=0.1, seed=1)
        shard.draw(torch.tensor([3]), torch.optim.SGD(shard.parameters()), epoch, step)
        drawn = tuple(shard._drawn.tolist())
        assert draws.setdefault((epoch, step), drawn) == drawn and len(drawn) == 100
    assert len(set(draws.values())) == 3


def losses(logged, run):
    return np.array([step["loss"] for step in logged(run)])


@pytest.mark.slow
def test_a_run_on_two_shards_has_the_losses_and_files_of_one(on_two, tmp_path, train_here, logged, weights):
    train_here(tmp_path, BASE)
    np.testing.assert_allclose(
        losses(logged, on_two[0] / "sharded"), losses(logged, tmp_path), rtol=0, atol=1e-4
    )
    one, two = weights(tmp_path, 1), weights(on_two[0] / "sharded", 1)
    assert_same(two, one, rtol=1e-3, atol=1e-4)
    assert "classifier in 2 shard(s) of up to 5 classes" in (on_two[0] / "sharded/train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [BASE, SHARDED], ids=["whole", "sharded"])
def test_a_run_on_two_shards_goes_on_alone(changes, on_two, tmp_path, train_here, logged, weights):
    shutil.copytree(on_two[0] / "first", tmp_path / "run")
    train_here(tmp_path / "run", changes)
    expected = on_two[0] / "sharded"
    np.testing.assert_allclose(losses(logged, tmp_path / "run"), losses(logged, expected), rtol=0, atol=1e-4)
    assert_same(weights(tmp_path / "run", 1), weights(expected, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_sampled_run_on_two_resumes_in_the_same_bits(on_two, same_weights, weights):
    folder = on_two[0] / "sampled"
    assert same_weights(folder / "once", folder / "again", 1)
    before, after = (weights(folder / "once", epoch)["classifier.weight"] for epoch in (0, 1))
    assert not torch.equal(before, after)


def test_a_sampled_run_alone_resumes_in_the_same_bits(tmp_path, changed, same_weights):
    train_and_resume(ALONE, changed(SAMPLED), tmp_path)
    assert same_weights(tmp_path / "once", tmp_path / "again", 1)


@pytest.mark.slow
def test_shards_start_at_the_means_and_a_frozen_network_needs_no_ddp(on_two, tmp_path, taught_means, logged):
    train(ALONE, taught_means, tmp_path)
    one, two = losses(logged, tmp_path), losses(logged, on_two[0] / "means")
    assert np.ptp(one) > 1e-3
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=0)


@pytest.mark.slow
def test_shards_of_an_extended_classifier_in_bf16(on_two, tmp_path, train_here, extended, logged, weights):
    changes = extended(on_two[0] / "first")
    train_here(tmp_path, {**changes, "optim": {**changes["optim"], "shard_head": False}})
    one, two = losses(logged, tmp_path), losses(logged, on_two[0] / "extended")
    np.testing.assert_allclose(two, one, rtol=0.01)
    rows = [weights(run, 0)["classifier.weight"] for run in (tmp_path, on_two[0] / "extended")]
    assert rows[0].shape[0] == 3 * (9 + 6 + 2 * 2) == rows[1].shape[0]
    torch.testing.assert_close(rows[1], rows[0], rtol=0, atol=2e-3)


@pytest.mark.slow
def test_a_network_is_released_behind_shards(on_two, tmp_path, train_here, logged, weights):
    train_here(tmp_path, {**BASE, "optim": {**BASE["optim"], **RELEASED}})
    one, two = losses(logged, tmp_path), losses(logged, on_two[0] / "released")
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-4)
    first, last = (weights(on_two[0] / "released", epoch) for epoch in (0, 1))
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert any(name.startswith("model.") for name in moved) and "classifier.weight" in moved


def test_a_shard_takes_its_rows_of_a_whole_state():
    stepper, model = build(ALONE, HEADS[3], "adam", sharded=False)
    for step in range(2):
        stepper.step(batches_of(ALONE, step))
    tensors, numbers = trainer.checkpoint.pack_optimizer(stepper.optimizer)
    second = World(1, 2, ALONE.device)
    fresh = build_head(**HEADS[3], embedding_dim=EMBEDDING_DIM, num_classes=NUM_CLASSES).double()
    shard = ShardedHead(fresh, second)
    own = {name: shard.own(whole) for name, whole in model.head.state_dict().items()}
    assert torch.equal(own["weight"], model.head.weight[2 * 3 :])
    other = torch.optim.Adam([*copy.deepcopy(model.network).parameters(), *shard.parameters()])
    unpack_optimizer(other, shard.own_moments(other, tensors), numbers)
    moments = stepper.optimizer.state[model.head.weight]
    assert torch.equal(other.state[shard.part.weight]["exp_avg"], moments["exp_avg"][2 * 3 :])
    assert other.state[shard.part.weight]["step"] == 2


def test_more_ranks_than_classes_are_refused():
    head = build_head("aam", EMBEDDING_DIM, 3)
    with pytest.raises(RecipeError, match="3 classes do not go round 4 processes"):
        ShardedHead(head, World(0, 4, ALONE.device))


def test_the_classifier_of_a_sampled_run_has_the_names_and_rows_of_any_other(tmp_path, train_here):
    for name, changes in (("whole", BASE), ("sampled", SAMPLED)):
        train_here(tmp_path / name, {**changes, "schedule": {"epochs": 1}})
    one, other = (
        load_file(checkpoint_folder(tmp_path / name, 0) / "classifier.safetensors")
        for name in ("whole", "sampled")
    )
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}
    assert one["weight"].shape[0] == 3 * (6 + 3)


def test_a_label_that_was_not_given_to_the_draw_is_refused():
    whole = build_head("softmax", embedding_dim=EMBEDDING_DIM, num_classes=40)
    head = ShardedHead(whole, ALONE, share=0.1)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.draw(torch.tensor([3, 3]), optimizer, 0, 0)
    drawn = head._drawn.tolist()
    head(torch.ones(1, EMBEDDING_DIM), torch.tensor([3]))
    for absent in sorted({0, 20, 39} - set(drawn)):
        with pytest.raises(RuntimeError, match="a label was not given to `draw`"):
            head(torch.ones(1, EMBEDDING_DIM), torch.tensor([absent]))
