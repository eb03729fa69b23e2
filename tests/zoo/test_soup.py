"""Averages of models."""

import shutil

import pytest
import torch

from farvox.errors import ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.zoo import average_models, load_model, save_model
from farvox.zoo.soup import expand_range

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
