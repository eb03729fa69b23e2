"""Both ECAPA-TDNN; embeddings against the originals' are in test_against_originals.py and tests/zoo."""

import pytest
import torch
from torch import nn

from farvox.errors import AudioError
from farvox.models.options import EcapaOptions, SpeechBrainEcapaOptions
from farvox.models.tdnn import (
    EcapaTdnn,
    NormedAttentiveStatistics,
    Res2Conv,
    SpeechBrainEcapa,
    ecapa_sizes,
    speechbrain_ecapa_sizes,
)

ECAPA = {
    **{"num_mels": 40, "channels": 128, "aggregate_channels": 96, "embedding_dim": 12, "scale": 8},
    **{"bottleneck": 16, "pooling": "asp", "embedding_norm": True},
}


@pytest.mark.parametrize(
    "kwargs", [{}, {"pooling": "asp-local"}, {"pooling": "tstp"}, {"embedding_norm": False, "scale": 4}]
)
def test_the_sizes_of_an_ecapa_are_told_by_its_weights(kwargs):
    network = EcapaTdnn(EcapaOptions(**ECAPA | kwargs, summed_inputs=False))
    assert ecapa_sizes(network.state_dict()) == ECAPA | kwargs


def test_a_network_without_norm_of_the_embedding_ends_with_the_linear_layer():
    torch.manual_seed(0)
    network = EcapaTdnn(EcapaOptions(**ECAPA | {"embedding_norm": False})).eval()
    assert isinstance(network.embedding_norm, nn.Identity)
    assert network(torch.randn(2, 20, 40)).shape == (2, 12)
    assert not any(name.startswith("embedding_norm") for name in network.state_dict())


SPEECHBRAIN = {
    **{"num_mels": 40, "channels": 32, "aggregate_channels": 48, "embedding_dim": 12, "scale": 2},
    **{"bottleneck": 16, "attention_channels": 24},
}


def small_speechbrain():
    torch.manual_seed(0)
    return SpeechBrainEcapa(SpeechBrainEcapaOptions(**SPEECHBRAIN)).eval()


def test_the_sizes_of_speechbrain_s_are_read_off_its_weights():
    assert speechbrain_ecapa_sizes(small_speechbrain().state_dict()) == SPEECHBRAIN


def test_for_speechbrain_s_five_frames_are_enough_and_four_are_not():
    assert small_speechbrain()(torch.randn(2, 5, 40)).isfinite().all()
    with pytest.raises(AudioError, match="at least 5"):
        small_speechbrain()(torch.randn(2, 4, 40))


def test_speechbrain_s_first_chunk_passes_as_it_is():
    torch.manual_seed(0)
    x_BCF = torch.randn(2, 64, 20)
    out = Res2Conv(64, 3, dilation=2, scale=4, reflect=True)(x_BCF)
    assert torch.equal(out[:, :16], x_BCF[:, :16])
    assert not torch.isclose(out[:, 16:], x_BCF[:, 16:]).any(dim=-1).all()


def test_speechbrain_s_attention_sees_every_frame_beside_the_utterance_as_a_whole():
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


def test_in_speechbrain_s_a_constant_utterance_has_a_finite_gradient():
    network = small_speechbrain()
    feats_BFM = torch.ones(2, 20, 40, requires_grad=True)
    network(feats_BFM).square().sum().backward()
    assert feats_BFM.grad.isfinite().all()
