"""CAM++; its embeddings against the originals' are in tests/zoo/test_layouts.py."""

import pytest
import torch
from torch.nn import functional as fn

from farvox.models.campplus import CamPlusPlus, ContextMask, campplus_sizes
from farvox.models.options import CamPlusPlusOptions

SMALL = {"front_channels": 16, "channels": 16, "blocks": [2, 3, 1], "growth": 16, "bottleneck": 32}


def small(**kwargs):
    torch.manual_seed(0)
    return CamPlusPlus(CamPlusPlusOptions(**SMALL | {"num_mels": 40, "embedding_dim": 12} | kwargs)).eval()


def direct_mask(mask, x_BCF):
    """The mask of the paper's equations 4 to 7, computed in every frame."""
    pooled = fn.avg_pool1d(x_BCF, kernel_size=100, stride=100, ceil_mode=True)
    segment_BCF = torch.cat([pooled[..., i // 100, None] for i in range(x_BCF.shape[-1])], dim=-1)
    context_BCF = x_BCF.mean(dim=-1, keepdim=True) + segment_BCF
    return torch.sigmoid(mask.excite(fn.relu(mask.squeeze(context_BCF))))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 99, 100, 101, 199, 200, 250])
def test_a_mask_is_of_the_utterance_and_the_segment(num_frames):
    torch.manual_seed(0)
    mask = ContextMask(32, 16).double()
    x_BCF = torch.randn(2, 32, num_frames, dtype=torch.float64)
    found = mask(x_BCF)
    assert found.shape == (2, 16, num_frames)
    torch.testing.assert_close(found, direct_mask(mask, x_BCF), rtol=0, atol=1e-14)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 199, 200, 201, 399, 401, 500])
def test_utterances_of_every_length_have_a_finite_embedding_and_gradient(num_frames):
    network = small()
    feats_BFM = torch.randn(2, num_frames, 40, requires_grad=True)
    emb_BE = network(feats_BFM)
    assert emb_BE.shape == (2, 12) and emb_BE.isfinite().all()
    emb_BE.square().sum().backward()
    assert feats_BFM.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("kwargs", [{}, {"num_mels": 80, "embedding_dim": 16, "growth": 32}])
def test_the_sizes_are_told_by_the_weights(kwargs):
    network = small(**kwargs)
    assert campplus_sizes(network.state_dict()) == SMALL | {"num_mels": 40, "embedding_dim": 12} | kwargs


def test_mels_that_eight_does_not_divide_are_taken():
    assert small(num_mels=20)(torch.randn(2, 30, 20)).shape == (2, 12)
