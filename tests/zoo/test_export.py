"""What `export_onnx` writes computes what torch computes, and nothing else is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import farvox
from farvox.audio.files import read_audio
from farvox.errors import FarvoxError, ModelError
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig
from farvox.models.options import MODELS
from farvox.models.registry import build_model
from farvox.zoo import Card, Model, load_model
from farvox.zoo.export import OPSET, export_onnx, parity_of, parity_signals
from farvox.zoo.onnx_backend import OnnxEmbedder
from farvox.zoo.torch_backend import model_digest

# Widths of 16 and more: narrower convolutions of torch's crash on some CPUs.
SMALL = {
    "resnet34": {"channels": 16, "blocks": [1, 1, 1, 1]},
    "ecapa": {"channels": 64, "scale": 4, "bottleneck": 16},
    "xvector": {"channels": 16, "pooled_channels": 24},
    "campplus": {
        **{"front_channels": 16, "channels": 16, "blocks": [1, 1, 1], "growth": 16, "bottleneck": 32},
    },
    "eres2netv2": {"channels": 16, "base_width": 64, "blocks": [1, 1, 1, 1]},
    "speechbrain-ecapa": {"channels": 32, "scale": 2, "bottleneck": 16, "attention_channels": 16},
    "ffsvc-resnet34": {"channels": 16, "blocks": [1, 1, 1, 1]},
    "ffsvc-ecapa": {"channels": 32, "scale": 2, "bottleneck": 16},
}
FRONTENDS = {
    "resnet34": {"sample_scale": 32768.0, "window": "hamming"},
    "ecapa": {"mean": "none", "preemphasis": 0.0},
    "xvector": {"sample_rate": 8000, "high_freq": -200.0},
    "campplus": {"sample_scale": 1.0},
    "eres2netv2": {"sample_scale": 1.0},
    "speechbrain-ecapa": {"kind": "speechbrain-fbank"},
    "ffsvc-resnet34": {"kind": "ffsvc-mel"},
    "ffsvc-ecapa": {"kind": "ffsvc-mel"},
}


def small_model(name, **frontend):
    torch.manual_seed(0)
    config = FrontEndConfig(num_mels=20, **FRONTENDS[name] | frontend)
    kwargs = {"num_mels": 20, "embedding_dim": 24} | SMALL[name]
    network = build_model(name, **kwargs)
    with torch.no_grad():  # what training would have made of the norms
        network.train()(torch.randn(8, 60, 20))
    described = {
        "format": "farvox-model/1",
        "frontend": config.to_dict(),
        "model": {"name": name, "kwargs": kwargs},
        "embedding_dim": 24,
    }
    return Model(network.eval(), build_frontend(config), described)


def waves(model, num_utterances, num_samples, seed=1):
    rng = np.random.default_rng(seed)
    rate = model.frontend_config.sample_rate
    t_T = np.arange(num_samples) / rate
    pitch_B1 = rng.uniform(80, 250, (num_utterances, 1))
    tones_BT = sum(np.sin(2 * np.pi * k * pitch_B1 * t_T + k * k) / k for k in range(1, 12))
    return (0.05 * tones_BT + 0.01 * rng.standard_normal(tones_BT.shape)).astype(np.float32)


def assert_parity(model, embedder, wav_BT):
    ours_BE = model.embed(torch.from_numpy(wav_BT)).numpy()
    parity = parity_of("", ours_BE.astype(np.float64), embedder.embed_batch(wav_BT).astype(np.float64))
    assert parity.relative < 1e-4
    assert parity.angular < 1e-6


def test_every_network_has_a_small_form_here():
    assert SMALL.keys() == FRONTENDS.keys() == MODELS.keys() - {"wavlm-ecapa"}


def test_wavlm_is_refused_by_name(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = build_model("wavlm-ecapa", wavlm=sizes | {"num_conv_pos_embedding_groups": 1}, channels=16)
    config = FrontEndConfig(kind="waveform")
    model = Model(network, build_frontend(config), {"frontend": config.to_dict()})
    with pytest.raises(ModelError, match="WavLM cannot be exported"):
        export_onnx(model, Card(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_network_exports_and_agrees_at_lengths_never_traced(name, tmp_path):
    model = small_model(name)
    report = export_onnx(model, Card(), tmp_path / "m.onnx")
    assert (report.opset, report.min_samples) == (OPSET, model.min_samples)
    assert report.num_bytes == (tmp_path / "m.onnx").stat().st_size
    assert report.worst.relative < 1e-4
    embedder = OnnxEmbedder(tmp_path / "m.onnx")
    for num_utterances, num_samples in (
        (1, model.min_samples),
        (3, model.min_samples),
        (5, 12_345),
        (1, 99_999),
    ):
        assert_parity(model, embedder, waves(model, num_utterances, num_samples))
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "xvector"])
def test_the_front_ends_agree_whatever_the_network(name, tmp_path):
    kind = {"resnet34": "speechbrain-fbank", "xvector": "ffsvc-mel"}[name]
    config = FrontEndConfig(kind=kind, num_mels=20)
    model = small_model(name)
    model = Model(model.network, build_frontend(config), model.config | {"frontend": config.to_dict()})
    assert export_onnx(model, Card(), tmp_path / "m.onnx").worst.relative < 1e-4


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, its card and its file."""
    model = small_model("xvector")
    card = Card(name="small", threshold=0.25, threshold_note="made up")
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    export_onnx(model, card, path)
    return model, card, path


@pytest.mark.slow
def test_the_file_says_what_it_is(exported):
    model, card, path = exported
    embedder = OnnxEmbedder(path)
    assert (embedder.config, embedder.card) == (model.config, card)
    assert embedder.digest == model_digest(model)
    assert (embedder.sample_rate, embedder.min_samples) == (8000, model.min_samples)
    assert embedder.embedding_dim == model.embedding_dim == 24
    assert embedder.backend.startswith("onnxruntime ")


@pytest.mark.slow
def test_the_file_is_an_ordinary_onnx_model_that_needs_no_other(exported):
    import onnx

    proto = onnx.load(exported[2], load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata["format"] == "farvox-onnx/1"
    assert metadata["farvox_version"] == farvox.__version__
    assert json.loads(metadata["config"]) == exported[0].config
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    assert {opset.domain: opset.version for opset in proto.opset_import}[""] == OPSET
    assert [value.name for value in proto.graph.input] == ["wav_BT"]
    assert [value.name for value in proto.graph.output] == ["emb_BE"]
    assert str(Path.home()) not in proto.SerializeToString().decode(errors="ignore")


@pytest.mark.slow
def test_a_graph_that_differs_is_not_written(tmp_path):
    with pytest.raises(ModelError, match=r"m\.onnx: not written: .* and 1e-12 is allowed \(1 - cosine"):
        export_onnx(small_model("xvector"), Card(), tmp_path / "m.onnx", tolerance=1e-12)
    assert not list(tmp_path.iterdir())


def test_noise_in_the_front_end_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"adds noise \(dither 1\), .* set 'dither' to 0"):
        export_onnx(small_model("resnet34", dither=1.0), Card(), tmp_path / "m.onnx")


def test_a_name_that_is_no_onnx_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"must end in '\.onnx'"):
        export_onnx(small_model("resnet34"), Card(), tmp_path / "m.pt")
    with pytest.raises(FarvoxError, match="is a folder"):
        (tmp_path / "m.onnx").mkdir()
        export_onnx(small_model("resnet34"), Card(), tmp_path / "m.onnx")


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
def test_the_signals_of_the_parity_check_can_be_embedded(sample_rate):
    signals = parity_signals(sample_rate, min_samples=sample_rate // 40)
    for wav_BT in signals.values():
        assert wav_BT.dtype == np.float32
        assert wav_BT.shape[1] >= sample_rate // 40
        assert np.isfinite(wav_BT).all() and 0 < np.abs(wav_BT).max() <= 1
    quiet_T = signals["speech 20 steps of 16 bits high"][0] * 32768
    assert np.abs(quiet_T).max() == 20 and (quiet_T == np.rint(quiet_T)).all()


@pytest.fixture(scope="module")
def exported_campplus(campplus, tmp_path_factory):
    """The pretrained CAM++, its file, and what its export reported."""
    path = tmp_path_factory.mktemp("campplus") / "campplus.onnx"
    model = load_model(campplus)
    report = export_onnx(model, Card.load(campplus), path)
    return model, OnnxEmbedder(path), report


@pytest.mark.slow
def test_the_real_campplus_agrees_with_torch(exported_campplus):
    model, embedder, report = exported_campplus
    assert report.worst.absolute < 1e-4 and report.worst.relative < 1e-4
    assert_parity(model, embedder, waves(model, 2, 54_321))


@pytest.mark.slow
def test_the_real_campplus_agrees_with_torch_on_20_real_utterances(exported_campplus, corpora, golden):
    model, embedder, _ = exported_campplus
    paths = np.load(golden / "campplus.npz")["paths"]
    assert len(paths) == 20
    for path in paths:
        wav_BT = read_audio(corpora / str(path))[None]
        ours_BE = model.embed(torch.from_numpy(wav_BT)).double().numpy()
        parity = parity_of(str(path), ours_BE, embedder.embed_batch(wav_BT).astype(np.float64))
        assert parity.absolute < 1e-4 and parity.relative < 1e-4 and parity.angular < 1e-8, parity
