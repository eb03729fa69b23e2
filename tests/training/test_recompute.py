"""Activations computed again give the gradients that kept ones give."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from farvox.models.registry import build_model
from farvox.training.distributed import synchronise_batchnorm
from farvox.training.objective import recompute_stages

SMALL = {
    "ffsvc-resnet34": {"num_mels": 24, "channels": 8, "embedding_dim": 16},
    "resnet34": {"num_mels": 24, "channels": 8, "embedding_dim": 16, "dropout": 0.5},
    "ffsvc-ecapa": {"num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16},
    "ecapa": {"num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16},
    "campplus": {"num_mels": 24, "front_channels": 8, "channels": 32, "blocks": [2, 2, 2]},
    "eres2netv2": {"num_mels": 24, "channels": 16, "embedding_dim": 16, "blocks": [1, 1, 1, 1]},
    "xvector": {"num_mels": 24, "channels": 16, "pooled_channels": 32, "embedding_dim": 16},
}


class Counted(TorchDispatchMode):
    """Counts convolutions."""

    def __init__(self):
        super().__init__()
        self.convolutions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.convolutions += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def gradients(network, feats_BFM):
    """Of two steps, and the buffers they leave."""
    torch.manual_seed(1)
    found = []
    for _ in range(2):
        network.zero_grad()
        network(feats_BFM).square().sum().backward()
        found += [p.grad.clone() for p in network.parameters() if p.grad is not None]
    return found, [b.clone() for b in network.buffers()]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("synchronised", [False, True])
def test_gradients_and_statistics_are_the_same(name, synchronised):
    torch.manual_seed(0)
    plain = build_model(name, **SMALL[name]).train()
    if synchronised:
        synchronise_batchnorm(plain)
    saving = copy.deepcopy(plain)
    recompute_stages(saving)
    assert saving.state_dict().keys() == plain.state_dict().keys()
    feats_BFM = torch.randn(4, 40, 24)
    with Counted() as kept:
        expected = gradients(plain, feats_BFM)
    with Counted() as again:
        found = gradients(saving, feats_BFM)
    assert again.convolutions > 1.5 * kept.convolutions
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_dropout_inside_a_stage_draws_its_masks_again():
    torch.manual_seed(0)
    plain = build_model("xvector", **SMALL["xvector"]).train()
    for stage in plain.stages():
        stage.append(torch.nn.Dropout(0.5))
    saving = copy.deepcopy(plain)
    recompute_stages(saving)
    feats_BFM = torch.randn(4, 40, 24)
    one, other = gradients(plain, feats_BFM)[0], gradients(saving, feats_BFM)[0]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_frozen_statistics_are_used_in_both_passes():
    torch.manual_seed(0)
    plain = build_model("resnet34", **SMALL["resnet34"]).eval()
    saving = copy.deepcopy(plain)
    recompute_stages(saving)
    feats_BFM = torch.randn(4, 40, 24)
    (one, kept), (other, held) = gradients(plain, feats_BFM), gradients(saving, feats_BFM)
    assert all(torch.equal(a, b) for a, b in zip(one + kept, other + held, strict=True))
