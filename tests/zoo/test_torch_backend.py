"""A model run by torch: faster than the network as it was trained, and the same embeddings."""

import numpy as np
import pytest
import torch

from farvox.errors import ModelError
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig
from farvox.machine import has_bf16
from farvox.models.registry import build_model
from farvox.models.resnet import fold_batch_norms
from farvox.zoo import Model, TorchEmbedder
from farvox.zoo.embedder import memory_for

needs_bf16 = pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this CPU has no bf16")
SIZES = {
    "resnet34": {"channels": 16, "blocks": [1, 2, 1, 1], "embedding_dim": 24},
    "ffsvc-resnet34": {"channels": 16, "blocks": [2, 1, 1, 1], "embedding_dim": 24},
    "campplus": {"blocks": (1, 1, 1), "embedding_dim": 24},
    "eres2netv2": {"channels": 16, "blocks": (1, 1, 1, 1), "embedding_dim": 24},
    "ecapa": {"channels": 64, "embedding_dim": 24},
    "xvector": {"channels": 64, "pooled_channels": 64, "embedding_dim": 24},
}
BATCH_NORMS_2D = {
    **{"resnet34": 14, "ffsvc-resnet34": 14, "campplus": 12, "eres2netv2": 27, "ecapa": 0, "xvector": 0}
}


def made(name):
    """A model whose batch norms have seen something."""
    torch.manual_seed(0)
    network = build_model(name, **SIZES[name])
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, 0, 0.1)
    frontend = FrontEndConfig()
    config = {"frontend": frontend.to_dict(), "model": {"name": name, "kwargs": SIZES[name]}}
    return Model(network.eval(), build_frontend(frontend), config)


def waves():
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in (8000, 20_161, 33_000)]


def count_2d(network):
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", SIZES)
def test_folded_batch_norms_change_an_embedding_by_no_more_than_rounding(name):
    model = made(name)
    embedder = TorchEmbedder(model)
    before = count_2d(model.network)
    for wav_T in waves():
        expected_E = model.embed(torch.from_numpy(wav_T)[None])[0].numpy()
        np.testing.assert_allclose(embedder.embed(wav_T), expected_E, atol=1e-5 * np.abs(expected_E).max())
    assert count_2d(model.network) == before  # the model itself stays as it is


@pytest.mark.parametrize("name", SIZES)
def test_every_two_dimensional_batch_norm_is_folded(name):
    network = made(name).network
    there = count_2d(network)
    assert fold_batch_norms(network) == there == BATCH_NORMS_2D[name]
    assert count_2d(network) == 0


def test_the_memory_of_an_eres2netv2_is_counted_by_its_width():
    needed = {name: memory_for(TorchEmbedder(made(name)), 60 * 16000) for name in ("campplus", "eres2netv2")}
    assert needed == pytest.approx({"campplus": 0.2e9, "eres2netv2": 1.1e9 / 4})  # of 32 channels, not 128


@needs_bf16
@pytest.mark.parametrize("name", SIZES)
def test_bf16_is_near(name):
    model = made(name)
    exact, near = TorchEmbedder(model), TorchEmbedder(model, precision="bf16")
    assert (exact.precision, near.precision) == ("fp32", "bf16") and exact.digest == near.digest
    for wav_T in waves():
        expected_E, found_E = exact.embed(wav_T), near.embed(wav_T)
        cosine = expected_E @ found_E / np.linalg.norm(expected_E) / np.linalg.norm(found_E)
        assert found_E.dtype == np.float32 and cosine > 0.999 and not np.array_equal(found_E, expected_E)


@needs_bf16
def test_features_stay_in_fp32(monkeypatch):
    model, seen = made("xvector"), []
    monkeypatch.setattr(model.network, "forward", lambda feats_BFM: seen.append(feats_BFM) or feats_BFM[:, 0])
    wav_T = waves()[0]
    TorchEmbedder(model, precision="bf16").embed(wav_T)
    assert torch.equal(seen[0], model.frontend(torch.from_numpy(wav_T)[None]))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_embeddings_are_the_same_side_by_side(precision):
    embedder = TorchEmbedder(made("resnet34"), precision=precision)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = [embedder.embed(wav_T) for wav_T in waves()]
    torch.set_num_threads(threads)
    with embedder.side_by_side(3) as pool:
        together = list(pool.map(embedder.embed, waves()))
    for found_E, expected_E in zip(together, alone, strict=True):
        np.testing.assert_allclose(found_E, expected_E, atol=1e-5 * np.abs(expected_E).max())


def test_bf16_is_refused_on_a_cpu_that_would_imitate_it(monkeypatch):
    monkeypatch.setattr("farvox.zoo.torch_backend.has_bf16", lambda device: False)
    with pytest.raises(ModelError, match="this CPU has no bf16, and imitating it is slow: leave --precision"):
        TorchEmbedder(made("xvector"), precision="bf16")


def test_a_precision_that_is_none_is_refused():
    with pytest.raises(ModelError, match="precision 'int8' is unknown: fp32 or bf16"):
        TorchEmbedder(made("xvector"), precision="int8")
