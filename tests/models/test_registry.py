import copy
import json
from importlib.util import find_spec

import pytest
import torch
from torch.nn import functional as fn

from farvox.errors import AudioError, ModelError
from farvox.models.options import HEADS, MODELS
from farvox.models.registry import build_head, build_model

NEEDS_SSL = pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra ssl")
NETWORKS = [pytest.param(name, marks=NEEDS_SSL) if name == "wavlm-ecapa" else name for name in MODELS]
TINY_WAVLM = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    **{"conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2]},
    **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 1},
}
SMALL = {
    "resnet34": {"channels": 4, "blocks": [1, 1, 1, 1], "embedding_dim": 12, "num_mels": 20},
    "ecapa": {"channels": 16, "embedding_dim": 12, "num_mels": 20, "bottleneck": 8},
    "xvector": {"channels": 16, "pooled_channels": 24, "embedding_dim": 12, "num_mels": 20},
    "campplus": {
        **{"num_mels": 20, "front_channels": 16, "channels": 16, "blocks": [1, 2, 1], "growth": 16},
        **{"bottleneck": 32, "embedding_dim": 12},
    },
    "eres2netv2": {"channels": 4, "base_width": 32, "blocks": [1] * 4, "embedding_dim": 12, "num_mels": 20},
    "speechbrain-ecapa": {
        **{"channels": 32, "embedding_dim": 12, "num_mels": 20, "scale": 2, "bottleneck": 16},
        **{"attention_channels": 16},
    },
    "ffsvc-resnet34": {"channels": 4, "blocks": [1, 1, 1, 1], "embedding_dim": 12, "num_mels": 20},
    "ffsvc-ecapa": {"channels": 16, "embedding_dim": 12, "num_mels": 20, "bottleneck": 8},
    "wavlm-ecapa": {
        **{"channels": 16, "embedding_dim": 12, "num_mels": 20, "bottleneck": 8, "wavlm": TINY_WAVLM},
    },
}
NUM_PARAMETERS = {
    "resnet34": 6_634_336,  # WeSpeaker: "6.63 M"
    "ecapa": 6_191_104,  # the paper: 6.2 M
    "xvector": 4_347_868,
    "campplus": 6_848_544,  # 3D-Speaker: "7.2 M" with embeddings of 512, 327,680 weights more
    "eres2netv2": 17_859_632,  # 3D-Speaker: "17.86 M"
    "speechbrain-ecapa": 20_767_552,  # SpeechBrain's own count
    "ffsvc-resnet34": 5_454_688,
    "ffsvc-ecapa": 20_117_888,
    "wavlm-ecapa": 102_333_565,  # WavLM Base (the paper: 94.70 M with the mask, 94.38 M here) and ECAPA
}


def small(name, **kwargs):
    torch.manual_seed(0)
    return build_model(name, **SMALL[name] | kwargs)


def features(num_utterances=3, num_frames=30, num_mels=20):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(num_utterances, num_frames, num_mels, generator=generator)


def test_every_network_has_a_small_form_here():
    assert SMALL.keys() == MODELS.keys() == NUM_PARAMETERS.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_default_width_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        network = build_model(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_turns_features_into_embeddings(name):
    network = small(name).eval()
    assert network.embedding_dim == 12
    emb_BE = network(features())
    assert emb_BE.shape == (3, 12)
    assert emb_BE.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_an_embedding_does_not_depend_on_its_batch(name):
    network = small(name).eval()
    together_BE = network(features())
    alone_BE = torch.cat([network(feats_FM.unsqueeze(0)) for feats_FM in features()])
    torch.testing.assert_close(together_BE, alone_BE, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shortest_utterance_a_network_takes_is_told(name):
    network = small(name).eval()
    emb_BE = network(features(num_frames=network.min_frames))
    assert emb_BE.isfinite().all()
    if network.min_frames > 1:
        with pytest.raises(AudioError, match=f"at least {network.min_frames}"):
            network(features(num_frames=network.min_frames - 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_another_size_are_refused(name):
    with pytest.raises(ModelError, match=r"\[utterances, frames, 20\]"):
        small(name)(features(num_mels=21))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_trainable_parameter_gets_a_gradient(name):
    network = small(name)
    head = build_head("aam", 12, 3)
    fn.cross_entropy(head(network(features()), torch.arange(3)), torch.arange(3)).backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_small_network_learns_three_speakers(name):
    network, head = small(name, dropout=0.0), build_head("aam", 12, 3, margin=0.1, scale=10.0)
    optimiser = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(15):
        loss = fn.cross_entropy(head(network(features()), torch.arange(3)), torch.arange(3))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_embeddings_under_autocast_are_near_those_of_float32(name):
    network = small(name).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow_BE = network(features()).float()
    assert fn.cosine_similarity(narrow_BE, network(features())).min() > 0.99


@pytest.mark.parametrize("name", NETWORKS)
def test_the_keyword_arguments_survive_json(name):
    again = json.loads(json.dumps(SMALL[name]))
    assert build_model(name, **again).state_dict().keys() == small(name).state_dict().keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_only_acts_in_training(name):
    network = small(name, dropout=0.5)
    feats_BFM = features(num_utterances=4)
    dropped_BE = copy.deepcopy(network).train()(feats_BFM)
    assert (dropped_BE == 0).any()
    assert (network.eval()(feats_BFM) != 0).all()


@pytest.mark.parametrize(
    "name", ["resnet34", "ecapa", "xvector", "campplus", pytest.param("wavlm-ecapa", marks=NEEDS_SSL)]
)
@pytest.mark.parametrize("pooling", ["tstp", "stats", "asp", "asp-local"])
def test_the_pooling_is_a_parameter(name, pooling):
    assert small(name, pooling=pooling).eval()(features()).shape == (3, 12)


def test_an_unknown_network_is_named_with_the_nearest():
    with pytest.raises(ModelError, match=r"name = 'resnet43'; it must be one of .*did you mean 'resnet34'\?"):
        build_model("resnet43")
    with pytest.raises(ModelError, match="one of resnet34, ecapa"):
        build_model("@@")


def test_an_unknown_keyword_is_named_with_the_nearest():
    with pytest.raises(ModelError, match=r"'resnet34': unknown key 'chanels'; did you mean 'channels'"):
        build_model("resnet34", chanels=8)
    with pytest.raises(ModelError, match=r"head 'aam': unknown key 'easy'"):
        build_head("aam", 8, 2, easy=True)
    with pytest.raises(ModelError, match=r"head 'amm': name = 'amm'.* did you mean 'am'"):
        build_head("amm", 8, 2)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("resnet34", {"channels": 0}, "channels = 0; it must be at least 1"),
        ("resnet34", {"blocks": [3, 4, 6]}, "blocks must have 4 entries"),
        ("resnet34", {"blocks": [3, 4, 6, 0]}, "blocks = 0; it must be at least 1"),
        ("resnet34", {"channels": "wide"}, "channels must be of type int, not 'wide'"),
        ("resnet34", {"embedding_dim": 0}, "embedding_dim"),
        ("resnet34", {"pooling": "max"}, "pooling = 'max'"),
        ("ecapa", {"channels": 20}, "scale"),
        ("ffsvc-ecapa", {"channels": 20}, "scale"),
        ("speechbrain-ecapa", {"channels": 20}, "scale"),
        ("campplus", {"blocks": [1, 2]}, "blocks must have 3 entries"),
        ("campplus", {"growth": 0}, "growth"),
        ("eres2netv2", {"channels": 2}, "their product must be at least 64"),
        ("ffsvc-ecapa", {"pooling": "asp"}, "ffsvc, mended"),
        ("wavlm-ecapa", {"tune_extractor": True}, "needs tune = true"),
    ],
)
def test_impossible_sizes_are_refused(name, kwargs, message):
    with pytest.raises(ModelError, match=message):
        build_model(name, **kwargs)


def test_every_head_of_the_list_can_be_built():
    for name in HEADS:
        assert build_head(name, 8, 2, margin=0.1, scale=16.0)(torch.ones(1, 8)).shape == (1, 2)
