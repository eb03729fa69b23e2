"""Losses and penalties against hand computations."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from farvox.errors import RecipeError
from farvox.models.margin import AamHead
from farvox.models.registry import build_model
from farvox.training.distributed import World
from farvox.training.loader import Batch
from farvox.training.objective import Anchor, TrainingModel, find_frozen, teacher_of
from farvox.training.options import OptimOptions
from farvox.training.step import Stepper, build_optimizer

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 1])


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


@pytest.fixture
def head():
    torch.manual_seed(1)
    return AamHead(3, 3)


def numbers(seed, rows=4, columns=5):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    """Of two lists of numbers, by hand."""
    norm = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm


@pytest.mark.parametrize(("classify", "distill"), [(1.0, 10.0), (0.5, 2.0), (0.0, 3.0), (1.0, 0.0)])
def test_the_loss_is_the_weighted_sum_of_both(classify, distill, network, head):
    model = TrainingModel(network.eval(), head, classify=classify, distill=distill)
    emb_BE, target_BE = network(numbers(2)).detach(), numbers(3, columns=3)
    found = model(numbers(2), LABELS, target_BE)
    cosines = [cosine(a, b) for a, b in zip(emb_BE.tolist(), target_BE.tolist(), strict=True)]
    distance = 1 - sum(cosines) / 4
    entropy = float(F.cross_entropy(head(emb_BE, LABELS).detach(), LABELS))
    expected = classify * entropy + distill * distance
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(found.distance) == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize(("agree", "others"), [(2.0, {}), (0.7, {"classify": 0.5, "distill": 3.0})])
def test_the_copies_of_a_chunk_are_drawn_together(agree, others, network, head):
    target = (numbers(3, columns=3),) if others else ()
    plain = TrainingModel(network.eval(), head, **others)
    model = TrainingModel(network, head, agree=agree, **others)
    rows = network(numbers(2)).detach().tolist()
    apart = 1 - (cosine(rows[0], rows[1]) + cosine(rows[2], rows[3])) / 2
    losses = [each(numbers(2), LABELS, *target).loss for each in (plain, model)]
    assert float((losses[1] - losses[0]).detach()) == pytest.approx(agree * apart, rel=1e-4)
    distance = float(model(numbers(2), LABELS, *target).distance)
    assert (distance == pytest.approx(apart, rel=1e-4)) == (not others)
    losses[1].backward()
    step = {name: weight.grad for name, weight in network.named_parameters()}
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight -= 1e-3 * step[name]
    assert float(model(numbers(2), LABELS, *target).loss.detach()) < float(losses[1].detach())


def test_without_classification_the_head_is_left_alone(network, head):
    model = TrainingModel(network, head, classify=0.0, distill=1.0)
    model(numbers(2), LABELS, numbers(3, columns=3)).loss.backward()
    assert head.weight.grad is None and not head.weight.requires_grad
    assert all(weight.grad is not None for weight in network.parameters())


def test_a_teacher_does_not_learn_and_hears_in_evaluation_mode(network):
    network(numbers(5, rows=50))
    teacher, before = teacher_of(network), copy.deepcopy(network).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    network(numbers(6))
    target_BE = teacher(numbers(2))
    assert torch.equal(target_BE, before(numbers(2))) and not target_BE.requires_grad
    torch.testing.assert_close(teacher(numbers(2)[:1]), target_BE[:1], rtol=0, atol=1e-6)


def test_the_pull_is_the_gradient_of_the_penalty(network, head):
    weights = list(network.parameters())
    anchor, start = Anchor(weights, 0.3), [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for number, weight in enumerate(weights):
            weight.add_(0.1 * (number + 1))
    loss = network(numbers(2)).square().sum()
    penalty = sum(0.3 / 2 * (w - w0).square().sum() for w, w0 in zip(weights, start, strict=True))
    expected = torch.autograd.grad(loss + penalty, weights, retain_graph=True)
    loss.backward()
    anchor.pull()
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_a_weight_that_nothing_else_moves_is_pulled_back_to_its_start():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    anchor = Anchor([weight], 1.0)
    with torch.no_grad():
        weight.add_(5.0)
    for _ in range(100):
        weight.grad = torch.zeros(2)
        anchor.pull()
        with torch.no_grad():
            weight -= 0.1 * weight.grad
    torch.testing.assert_close(weight.detach(), torch.tensor([1.0, -2.0]), atol=1e-3, rtol=0)


def make_stepper(network, head, *, precision="fp32"):
    model = TrainingModel(network, head, distill=10.0)
    optim = OptimOptions(lr=0.1, weight_decay=0.0, momentum=0.0)
    optimizer = build_optimizer(optim, list(model.parameters()))
    anchor = Anchor(network.parameters(), 0.01)
    return Stepper(
        model, nn.Identity(), optimizer, world=World(0, 1, CPU), precision=precision,
        teacher=teacher_of(network), anchor=anchor,
    )  # fmt: skip


def make_batch(rows):
    no_masks = torch.zeros(len(rows), 0, 4, dtype=torch.int64)
    far, clean = numbers(2)[rows], numbers(4)[rows]
    return Batch(far[:, None], LABELS[rows], no_masks, tuple(rows), clean[:, None])


class Squeezed(nn.Module):
    """A network that takes a feature of one frame."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, feats_BFM):
        return self.network(feats_BFM[:, 0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_accumulated_halves_with_a_teacher_are_the_whole(precision, network, head):
    network.eval()
    found = []
    for parts in ([[0, 1, 2, 3]], [[0, 1], [2, 3]]):
        stepper = make_stepper(Squeezed(copy.deepcopy(network)), copy.deepcopy(head), precision=precision)
        results = [stepper.step([make_batch(rows) for rows in parts]) for _ in range(2)]
        found.append(torch.tensor([[float(r.loss), float(r.distance)] for r in results]))
    assert found[0][1, 1] != found[0][0, 1] > 0.1
    torch.testing.assert_close(found[0], found[1], rtol=1e-5 if precision == "fp32" else 2e-2, atol=0)


SIZES = {"num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16}


def start_from(model_folder, **optim):
    return {"model": {}, "init": {"model": str(model_folder)}, "optim": {"name": "adam", "lr": 1e-3, **optim}}


def moved(one, other):
    """Names of the network's weights and statistics that differ."""
    names = (name for name in one if name.startswith("model."))
    return {name.removeprefix("model.") for name in names if not torch.equal(one[name], other[name])}


@pytest.mark.parametrize("l2_sp", [0.0, 0.1])
def test_a_frozen_part_stands_still_until_it_is_released(l2_sp, tmp_path, train_here, model_folder, weights):
    changes = start_from(model_folder, freeze=["first", "blocks.0"], release_epoch=2, l2_sp=l2_sp)
    train_here(tmp_path, changes | {"schedule": {"epochs": 4}})
    epochs = [weights(tmp_path, epoch) for epoch in range(4)]
    held = ("first.", "blocks.0.")
    assert not [name for name in moved(epochs[0], epochs[1]) if name.startswith(held)]
    assert any(name.startswith("blocks.1.") for name in moved(epochs[0], epochs[1]))
    released = {name for name in moved(epochs[1], epochs[2]) if name.startswith(held)}
    assert any("weight" in name for name in released) and any("running_mean" in name for name in released)


def test_the_classifier_alone_is_trained_on_a_frozen_network(tmp_path, train_here, model_folder, weights):
    train_here(tmp_path, start_from(model_folder, freeze=["network"]))
    one, other = weights(tmp_path, 0), weights(tmp_path, 1)
    assert moved(one, other) == set()
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_a_name_stands_for_whole_parts_only():
    network = build_model("ecapa", **SIZES)
    names = dict(network.named_parameters())
    frozen = find_frozen(network, ["embedding"], 0)
    ours = {name for name, weight in names.items() if any(weight is w for w in frozen.weights)}
    assert ours == {"embedding.weight", "embedding.bias"} & names.keys() and ours
    assert find_frozen(network, [], 0).weights == ()


def test_what_the_network_never_trains_is_not_released():
    network = build_model("ffsvc-ecapa", **SIZES)
    idle = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    frozen = find_frozen(network, ["network"], 1)
    frozen.apply(0)
    assert not any(weight.requires_grad for weight in network.parameters())
    frozen.apply(1)
    assert idle == {name for name, weight in network.named_parameters() if not weight.requires_grad} != set()


def test_a_part_that_is_not_there_is_refused_with_the_nearest():
    network = build_model("ecapa", **SIZES)
    with pytest.raises(RecipeError, match=r"no part 'blocks\.7'.*did you mean 'blocks\.\d'"):
        find_frozen(network, ["blocks.7"], 0)
    with pytest.raises(
        RecipeError, match=r"no part 'zzz'; it has first, blocks, .* \('network' is all of it\)"
    ):
        find_frozen(network, ["zzz"], 0)
