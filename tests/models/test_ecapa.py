"""ECAPA-TDNN; its embeddings against the originals' are in test_against_originals.py and tests/zoo."""

import pytest
import torch
from torch import nn

from farvox.models.ecapa import EcapaTdnn, ecapa_sizes

ECAPA = {
    **{"num_mels": 40, "channels": 128, "aggregate_channels": 96, "embedding_dim": 12, "scale": 8},
    **{"bottleneck": 16, "pooling": "asp", "embedding_norm": True},
}


@pytest.mark.parametrize(
    "kwargs", [{}, {"pooling": "asp-local"}, {"pooling": "tstp"}, {"embedding_norm": False, "scale": 4}]
)
def test_the_sizes_of_an_ecapa_are_told_by_its_weights(kwargs):
    network = EcapaTdnn(**ECAPA | kwargs, summed_inputs=False)
    assert ecapa_sizes(network.state_dict()) == ECAPA | kwargs


def test_a_network_without_norm_of_the_embedding_ends_with_the_linear_layer():
    torch.manual_seed(0)
    network = EcapaTdnn(**ECAPA | {"embedding_norm": False}).eval()
    assert isinstance(network.embedding_norm, nn.Identity)
    assert network(torch.randn(2, 20, 40)).shape == (2, 12)
    assert not any(name.startswith("embedding_norm") for name in network.state_dict())
