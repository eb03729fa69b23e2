"""Microsoft's WavLM, in the form and by the code that the baseline has, gives the same here."""

import importlib
import sys
import types

import pytest
import torch

from farvox.models.registry import build_model
from farvox.models.wavlm import hidden_layers
from farvox.zoo.foreign import import_wavlm

pytest.importorskip("transformers")

SIZES = {
    "encoder_layers": 3, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "encoder_attention_heads": 4,
    "conv_feature_layers": "[(24,10,5)] + [(24,3,2)] * 2 + [(24,2,2)]", "conv_pos": 16, "conv_pos_groups": 4,
    "relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": 32, "max_distance": 80,
    "dropout": 0.0, "attention_dropout": 0.0, "encoder_layerdrop": 0.0, "mask_prob": 0.0,
}  # fmt: skip
ECAPA = {"num_mels": 160, "channels": 16, "bottleneck": 8, "embedding_dim": 8}
BASE = {"extractor_mode": "default", "layer_norm_first": False}
LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True, "normalize": True, "conv_bias": True}


@pytest.fixture
def original(published, monkeypatch):
    """The baseline's model/wavlm.py as a module."""
    package = types.ModuleType("model")
    package.__path__ = [str(published / "baseline")]
    monkeypatch.setitem(sys.modules, "model", package)
    yield importlib.import_module("model.wavlm")
    for name in ("model.wavlm", "model.wavlm_modules"):
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
def test_layers_and_gradients_are_those_of_the_baselines_code(original, tmp_path, kind):
    """A step of SGD with learning rate 1 changes every weight by its gradient, whatever its name."""
    torch.manual_seed(4)
    config = SIZES | kind
    theirs = original.WavLM(original.WavLMConfig(config)).train()
    # It adds to this input in place afterwards, which torch refuses today where dropout makes no copy.
    theirs.encoder.pos_conv.register_forward_pre_hook(lambda _, inputs: (inputs[0].clone(),))
    with torch.no_grad():  # biases and norms that are not those of a new network
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))

    def imported(name):
        torch.save({"cfg": config, "model": theirs.state_dict()}, tmp_path / f"{name}.pt")
        import_wavlm(tmp_path / f"{name}.pt", tmp_path / name)
        network = build_model(
            "wavlm-ecapa", wavlm=str(tmp_path / name), tune=True, tune_extractor=True, **ECAPA
        )
        return network.train().backbone

    ours = imported("before")
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    wav_BT = torch.randn(2, 6400)
    num_layers = SIZES["encoder_layers"]
    (_, results), _ = theirs.extract_features(wav_BT, output_layer=num_layers, ret_layer_results=True)
    whole_BFD, _ = theirs.extract_features(wav_BT)  # WavLM Large ends in a layer norm
    expected = [*(layer_FBD.transpose(0, 1) for layer_FBD, _ in results[:-1]), whole_BFD]
    found = hidden_layers(ours, wav_BT)
    assert len(found) == len(expected) == num_layers + 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    weight_BFD = torch.randn_like(whole_BFD)
    for network, last_BFD in ((theirs, whole_BFD), (ours, found[-1])):
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        (last_BFD * weight_BFD).sum().mul(0.01).backward()
        optimizer.step()
    stepped = imported("after").state_dict()
    largest = 0.0
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, stepped[name], rtol=1e-4, atol=1e-4, msg=name)
        largest = max(largest, float((tensor - before[name]).abs().max()))
    assert largest > 1e-2
