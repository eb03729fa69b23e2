"""Parts of a network that are held still."""

import pytest
import torch

from farvox.errors import RecipeError
from farvox.models.registry import build_model
from farvox.training.network import find_frozen

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
