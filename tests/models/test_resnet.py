"""ResNet34; its embeddings against the original's are in test_against_originals.py and tests/zoo."""

import pytest

from farvox.models.options import ResNet34Options
from farvox.models.resnet import ResNet34, resnet34_sizes

SMALL = {"num_mels": 40, "channels": 16, "blocks": [1, 2, 1, 1], "embedding_dim": 12, "pooling": "tstp"}


@pytest.mark.parametrize("kwargs", [{}, {"pooling": "asp"}, {"pooling": "asp-local"}, {"num_mels": 80}])
def test_the_sizes_are_told_by_the_weights(kwargs):
    assert resnet34_sizes(ResNet34(ResNet34Options(**SMALL | kwargs)).state_dict()) == SMALL | kwargs
