"""SpeechBrain's ECAPA-TDNN; its embeddings against the original's are in tests/zoo/test_layouts.py."""

import pytest
import torch

from farvox.errors import AudioError
from farvox.models.speechbrain import (
    NormedAttentiveStatistics,
    ReflectedRes2Conv,
    SpeechBrainEcapa,
    speechbrain_ecapa_sizes,
)

SMALL = {
    **{"num_mels": 40, "channels": 32, "aggregate_channels": 48, "embedding_dim": 12, "scale": 2},
    **{"bottleneck": 16, "attention_channels": 24},
}


def small():
    torch.manual_seed(0)
    return SpeechBrainEcapa(**SMALL).eval()


def test_the_sizes_are_told_by_the_weights():
    assert speechbrain_ecapa_sizes(small().state_dict()) == SMALL


def test_five_frames_are_enough_and_four_are_not():
    assert small()(torch.randn(2, 5, 40)).isfinite().all()
    with pytest.raises(AudioError, match="at least 5"):
        small()(torch.randn(2, 4, 40))


def test_the_first_chunk_passes_as_it_is():
    torch.manual_seed(0)
    x_BCF = torch.randn(2, 64, 20)
    out = ReflectedRes2Conv(64, 3, dilation=2, scale=4)(x_BCF)
    assert torch.equal(out[:, :16], x_BCF[:, :16])
    assert not torch.isclose(out[:, 16:], x_BCF[:, 16:]).any(dim=-1).all()


def test_the_attention_sees_every_frame_beside_the_utterance_as_a_whole():
    """As it is published: mean and deviation appended to every frame, then one convolution."""
    torch.manual_seed(0)
    pool = NormedAttentiveStatistics(16, 24).double().eval()
    x_BCF = torch.randn(2, 16, 30, dtype=torch.float64)
    mean, std = x_BCF.mean(dim=-1, keepdim=True), x_BCF.std(dim=-1, keepdim=True, correction=0)
    seen = torch.cat([x_BCF, mean.expand_as(x_BCF), std.expand_as(x_BCF)], dim=1)
    weight = torch.cat([pool.hidden.weight.squeeze(-1), pool.context.weight], dim=1)
    hidden = torch.einsum("hc,bcf->bhf", weight, seen) + pool.hidden.bias[:, None]
    alpha_BCF = pool.weights(pool.hidden_norm(hidden.relu()).tanh()).softmax(dim=-1)
    first, second = (alpha_BCF * x_BCF).sum(-1), (alpha_BCF * x_BCF**2).sum(-1)
    expected = torch.cat([first, (second - first**2).sqrt()], dim=1)
    torch.testing.assert_close(pool(x_BCF), expected, rtol=0, atol=1e-12)


def test_a_constant_utterance_has_a_finite_gradient():
    network = small()
    feats_BFM = torch.ones(2, 20, 40, requires_grad=True)
    network(feats_BFM).square().sum().backward()
    assert feats_BFM.grad.isfinite().all()
