"""The graph beside a model's weights: made once, of these weights alone, and never in the way."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.errors import FarvoxError, MissingExtraError, ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.zoo import Card, average_models, load_model, open_embedder, save_model
from farvox.zoo.find import expand_range
from farvox.zoo.onnx_backend import OnnxEmbedder
from farvox.zoo.torch_backend import TorchEmbedder

NO_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, NoTorch())
"""
KWARGS = {"num_mels": 20, "channels": 16, "pooled_channels": 24, "embedding_dim": 12}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FARVOX_BACKEND", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model", seed=0)


def write_model(folder, seed, **frontend):
    torch.manual_seed(seed)
    config = FrontEndConfig(num_mels=20, **frontend)
    save_model(folder, build_model("xvector", **KWARGS), config, "xvector", KWARGS)
    Card(name="small", threshold=0.5).save(folder)
    return folder


def graph_of(folder):
    """The graph that lies beside the weights, opened by itself."""
    return OnnxEmbedder(folder / "graph.onnx")


def wave(num_samples=16_000):
    return (0.1 * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)


def assert_computes_like_torch(embedder, folder):
    found_E, expected_E = embedder.embed(wave()), open_embedder(folder, backend="torch").embed(wave())
    np.testing.assert_allclose(found_E, expected_E, rtol=0, atol=1e-5 * np.abs(expected_E).max())


def test_it_is_made_once_and_is_the_torch_model_in_all_that_is_known_of_it(model, cache, capsys):
    first = open_embedder(model)
    assert isinstance(first, OnnxEmbedder) and first.backend.startswith("onnxruntime ")
    assert capsys.readouterr().err.count("\n") == 1 and first.path == model / "graph.onnx"
    written = first.path.stat().st_mtime_ns
    by_torch = open_embedder(model, backend="torch")
    assert isinstance(by_torch, TorchEmbedder)
    for name in ("config", "card", "digest", "sample_rate", "min_samples", "embedding_dim", "precision"):
        assert getattr(first, name) == getattr(by_torch, name), name
    again = open_embedder(model)
    assert again.path.stat().st_mtime_ns == written and capsys.readouterr().err == ""
    assert_computes_like_torch(again, model)
    assert sorted(path.name for path in model.iterdir()) == [
        "card.json", "config.json", "graph.onnx", "manifest.json", "model.safetensors",
    ]  # fmt: skip
    assert not cache.exists()


def test_from_then_on_verify_does_without_torch(model, voices, capsys):
    words = ["verify", "--model", str(model), str(voices / "a0.wav"), str(voices / "a1.wav"), "--vad", "off"]
    status = main(words)
    answer = capsys.readouterr().out
    code = f"{NO_TORCH}from farvox.cli.main import main\nsys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, answer, "")


def test_it_is_made_again_when_the_weights_are_others(model, capsys):
    open_embedder(model)
    before = (model / "graph.onnx").read_bytes()
    other = write_model(model.parent / "other", seed=1)
    for name in ("model.safetensors", "card.json", "manifest.json"):
        shutil.copy(other / name, model)
    capsys.readouterr()
    embedder = open_embedder(model)
    assert "graph.onnx: not made of the weights that are beside it now" in capsys.readouterr().err
    assert_computes_like_torch(embedder, other)
    assert (model / "graph.onnx").read_bytes() != before
    assert graph_of(model).digest == open_embedder(other, backend="torch").digest


def test_it_is_made_again_when_the_config_is_another(model):
    open_embedder(model)
    config = json.loads((model / "config.json").read_text())
    config["frontend"]["mean"] = "none"
    (model / "config.json").write_text(json.dumps(config))
    (model / "manifest.json").unlink()
    assert_computes_like_torch(open_embedder(model), model)


def test_it_is_made_again_when_the_writer_is_another(model, monkeypatch):
    first = open_embedder(model).metadata["source"]
    monkeypatch.setattr("farvox.zoo.find.VERSION", b"another")
    assert open_embedder(model).metadata["source"] != first


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"a text\n",
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    ],
    ids=["half written", "empty", "foreign", "a changed bit"],
)
def test_a_damaged_one_is_made_again_with_a_note(model, damage, capsys):
    path = open_embedder(model).path
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    capsys.readouterr()
    assert_computes_like_torch(open_embedder(model), model)
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_the_graph_of_another_model_is_not_taken_for_ones_own(model, tmp_path):
    other = write_model(tmp_path / "other", seed=1)
    shutil.copy(open_embedder(other).path, model / "graph.onnx")
    assert_computes_like_torch(open_embedder(model), model)


def test_the_card_is_the_one_of_today(model):
    open_embedder(model)
    Card(name="small", threshold=0.25).save(model)
    assert open_embedder(model).card.threshold == 0.25


def test_a_model_saved_in_its_place_takes_the_graph_away(model):
    open_embedder(model)
    write_model(model, seed=1)
    assert not (model / "graph.onnx").exists()


@pytest.fixture
def refuses(monkeypatch):
    """Let the system refuse to write below some folders."""

    def refuse(*folders):
        def write_bytes(path, content):
            if any(path.is_relative_to(folder) for folder in folders):
                raise OSError(28, "No space left on device")
            with path.open("wb") as file:
                return file.write(content)

        monkeypatch.setattr(Path, "write_bytes", write_bytes)

    return refuse


def test_where_the_folder_cannot_be_written_it_lies_in_the_cache(model, cache, refuses, capsys):
    refuses(model)
    first = open_embedder(model)
    assert first.path.parent == cache / "graphs" and not (model / "graph.onnx").exists()
    capsys.readouterr()
    assert open_embedder(model).path == first.path and capsys.readouterr().err == ""
    assert_computes_like_torch(first, model)


def test_where_nothing_can_be_written_torch_computes(model, cache, refuses, capsys):
    refuses(model, cache)
    embedder = open_embedder(model)
    assert isinstance(embedder, TorchEmbedder)
    assert "graph.onnx: cannot be written: " in (err := capsys.readouterr().err)
    assert "torch computes instead" in err
    assert not list(cache.rglob("*.onnx")) and not (model / "graph.onnx").exists()
    assert not [path for path in model.iterdir() if path.name.startswith(".")]
    with pytest.raises(FarvoxError, match="cannot be written"):
        open_embedder(model, backend="onnx")


def test_a_graph_that_differs_from_torch_is_not_used(model, monkeypatch, capsys):
    from farvox.zoo import graph

    monkeypatch.setitem(graph._UNARY, "relu", "Tanh")
    assert isinstance(open_embedder(model), TorchEmbedder)
    assert "onnxruntime's embeddings are not torch's" in capsys.readouterr().err
    assert not (model / "graph.onnx").exists()


def test_without_onnxruntime_torch_computes_and_nothing_is_said(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert isinstance(open_embedder(model), TorchEmbedder)
    assert capsys.readouterr().err == ""
    with pytest.raises(MissingExtraError, match=r"farvox\[export\]"):
        open_embedder(model, backend="onnx")


def test_a_model_without_a_graph_is_computed_by_torch(tmp_path, capsys):
    model = write_model(tmp_path / "noisy", seed=0, dither=1.0)
    assert isinstance(open_embedder(model), TorchEmbedder)
    assert capsys.readouterr().err == ""
    with pytest.raises(ModelError, match=r"noisy: the front-end adds noise \(dither 1\)"):
        open_embedder(model, backend="onnx")


def test_torch_computes_where_it_is_asked_for(model, monkeypatch):
    monkeypatch.setattr("farvox.zoo.torch_backend.has_bf16", lambda device: True)
    assert open_embedder(model, precision="bf16").backend.startswith("torch ")
    with pytest.raises(ModelError, match="onnxruntime has no bf16"):
        open_embedder(model, precision="bf16", backend="onnx")
    assert open_embedder(model, backend="torch").backend.startswith("torch ")
    monkeypatch.setenv("FARVOX_BACKEND", "torch")
    assert open_embedder(model).backend.startswith("torch ")
    assert not (model / "graph.onnx").exists()
    assert open_embedder(model, backend="onnx").backend.startswith("onnxruntime ")


def test_a_gpu_is_for_torch(model, monkeypatch):
    monkeypatch.setattr("farvox.zoo.find.pick_device", lambda device: "cuda")
    monkeypatch.setattr("farvox.zoo.find.load_folder", lambda folder, device: pytest.skip("asked for a GPU"))
    with pytest.raises(pytest.skip.Exception):
        open_embedder(model, "auto")
    assert not (model / "graph.onnx").exists()


def test_a_backend_that_is_none_is_refused(model, monkeypatch):
    monkeypatch.setenv("FARVOX_BACKEND", "tensorrt")
    with pytest.raises(
        ModelError, match="backend 'tensorrt' is unknown; there are auto, torch, onnx, openvino"
    ):
        open_embedder(model)


def test_openvino_takes_the_graph_too(model):
    pytest.importorskip("openvino")
    assert_computes_like_torch(open_embedder(model, backend="openvino"), model)
    assert (model / "graph.onnx").is_file()


def test_every_epoch_of_a_run_has_its_own(tmp_path):
    for epoch in (0, 1):
        write_model(tmp_path / "run" / "checkpoints" / f"epoch_{epoch:03d}", seed=epoch)
    for spec in (f"{tmp_path}/run@0", f"{tmp_path}/run"):
        assert_computes_like_torch(open_embedder(spec), spec)


def test_embeddings_say_what_computed_them(model, corpus, tmp_path):
    for backend in ("onnxruntime", "torch"):
        words = ["--backend", "torch"] if backend == "torch" else []
        out = tmp_path / backend
        assert main(["extract", str(model), str(corpus / "dev"), str(out), *words]) == 0
        meta = EmbeddingSet.load(out).meta
        assert meta["backend"].startswith(f"{backend} ") and meta["precision"] == "fp32"


@pytest.mark.slow
def test_decisions_on_real_speech_are_those_of_torch(assert_decisions_alike):
    """Of a quarter of what `make soak` looks at."""
    assert_decisions_alike(slice(None, None, 4))


SIZES = {"num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16}


@pytest.fixture
def run_dir(tmp_path):
    """A run dir of three epochs with weights, running statistics and counts of their own."""
    for epoch in range(3):
        torch.manual_seed(epoch)
        network = build_model("ecapa", **SIZES).train()
        for _ in range(epoch + 1):
            network(torch.randn(4, 30, 24))
        save_model(
            tmp_path / f"checkpoints/epoch_00{epoch}", network, FrontEndConfig(num_mels=24), "ecapa", SIZES
        )
    return tmp_path


def state(spec):
    return load_model(spec).network.state_dict()


@pytest.mark.parametrize(("weights", "shares"), [((), (1 / 3, 1 / 3, 1 / 3)), ((1, 1, 2), (0.25, 0.25, 0.5))])
def test_an_average_is_the_mean_of_weights_and_running_statistics(weights, shares, run_dir, tmp_path):
    out = tmp_path / "soup"
    assert average_models(out, [f"{run_dir}@0..2"], weights) == 3
    parts, mean = [state(f"{run_dir}@{epoch}") for epoch in range(3)], state(out)
    counts = [name for name in mean if name.endswith("num_batches_tracked")]
    assert counts and all(int(mean[name]) == 3 for name in counts)
    for name in mean.keys() - set(counts):
        expected = sum(share * part[name].double() for share, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(mean[name], expected.float(), rtol=1e-6, atol=1e-8)
    average = load_model(out).config["average"]
    assert average["models"] == [f"{run_dir}@{epoch}" for epoch in range(3)]
    assert average["weights"] == pytest.approx(shares)


def test_the_average_of_a_model_with_itself_is_the_model(run_dir, tmp_path):
    shutil.copytree(run_dir / "checkpoints/epoch_001", tmp_path / "copy")
    average_models(tmp_path / "out", [f"{run_dir}@1", tmp_path / "copy"])
    before, after = state(f"{run_dir}@1"), state(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_models_of_another_architecture_or_front_end_are_refused(run_dir, tmp_path):
    wide = {**SIZES, "channels": 40}
    save_model(tmp_path / "wide", build_model("ecapa", **wide), FrontEndConfig(num_mels=24), "ecapa", wide)
    faint = FrontEndConfig(num_mels=24, sample_scale=1.0)
    save_model(tmp_path / "faint", build_model("ecapa", **SIZES), faint, "ecapa", SIZES)
    for other, part in (("wide", "model"), ("faint", "frontend")):
        with pytest.raises(ModelError, match=f"cannot be averaged: they differ in '{part}'"):
            average_models(tmp_path / "out", [f"{run_dir}@0", tmp_path / other])
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_averaged_is_said(run_dir, tmp_path):
    with pytest.raises(ModelError, match="two models or more, not 1"):
        average_models(tmp_path / "out", [f"{run_dir}@0"])
    for weights in ((1.0,), (1.0, -1.0), (0.0, 1.0), (1.0, float("nan"))):
        with pytest.raises(ModelError, match="a positive weight for each of the 2 models"):
            average_models(tmp_path / "out", [f"{run_dir}@0..1"], weights)
    with pytest.raises(ModelError, match="has no epoch 3; it has 0, 1, 2"):
        average_models(tmp_path / "out", [f"{run_dir}@0..3"])


def test_a_range_stands_for_its_epochs():
    assert expand_range("exp/a@b@9..11") == ["exp/a@b@9", "exp/a@b@10", "exp/a@b@11"]
    assert expand_range("exp/a@9") == ["exp/a@9"]
    with pytest.raises(ModelError, match="ends before it begins"):
        expand_range("a@3..2")
