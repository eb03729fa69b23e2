"""ERes2NetV2; its embeddings against the original's are in tests/zoo/test_foreign.py."""

import pytest
import torch

from farvox.models.eres2net import ERes2NetV2, eres2netv2_sizes
from farvox.models.options import ERes2NetV2Options

SMALL = {
    **{"num_mels": 40, "channels": 8, "blocks": [2, 1, 2, 1], "base_width": 26, "scale": 3, "expansion": 2},
    **{"embedding_dim": 12},
}


def small(**kwargs):
    torch.manual_seed(0)
    return ERes2NetV2(ERes2NetV2Options(**SMALL | kwargs)).eval()


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"num_mels": 80, "scale": 2}, {"channels": 16, "base_width": 27, "expansion": 4}, {"base_width": 8}],
)
def test_the_sizes_are_told_by_the_weights(kwargs):
    assert eres2netv2_sizes(small(**kwargs).state_dict()) == SMALL | kwargs


@pytest.mark.parametrize("num_frames", [1, 2, 7, 8, 9, 50])
def test_utterances_of_every_length_have_a_finite_embedding_and_gradient(num_frames):
    network, feats_BFM = small(), torch.randn(2, num_frames, 40, requires_grad=True)
    emb_BE = network(feats_BFM)
    assert emb_BE.shape == (2, 12) and emb_BE.isfinite().all()
    emb_BE.square().sum().backward()
    assert feats_BFM.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_mels_that_eight_does_not_divide_are_taken():
    assert small(num_mels=20)(torch.randn(2, 30, 20)).shape == (2, 12)
