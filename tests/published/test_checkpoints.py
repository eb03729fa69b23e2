"""A checkpoint of the baseline's own classes goes on here as it would have gone on there.

In double precision: Adam makes a step of the rounding where a gradient is zero (a bias before a batch norm).
"""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from farvox.models.registry import build_head, build_model
from farvox.training.distributed import World
from farvox.training.loader import Batch
from farvox.training.objective import TrainingModel
from farvox.training.options import OptimOptions
from farvox.training.start import starting_point
from farvox.training.step import Stepper, build_optimizer
from farvox.zoo import export_checkpoint, import_checkpoint, load_model

SPEAKERS = [f"id{number:05}" for number in (3, 1, 2, *range(4, 13))]  # the baseline does not sort them
OPTIMIZERS = {
    "sgd": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-3},  # of train_dist.py
    "adam": {"lr": 1e-3, "weight_decay": 2e-5},  # of train.py
}


@pytest.fixture(scope="session")
def baseline(published):
    """The baseline's modules by name, as published."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"baseline_{name}", published / f"baseline/{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return {name: load(name) for name in ("resnet", "tdnn", "classifier")}


def their_parts(baseline, arch):
    """A small network and classifier of the baseline's classes, with running statistics that are not new."""
    torch.manual_seed(1)
    if arch == "ffsvc-resnet34":
        network = baseline["resnet"].ResNet34StatsPool(in_planes=8, embedding_size=16, dropout=0)
    else:
        network = baseline["tdnn"].ECAPA_TDNN(in_dim=80, embedding_size=16, hidden_dim=64)
    classifier = baseline["classifier"].AAMSoftmax(16, len(SPEAKERS), device_id=None, m=0.2, s=32)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.randn(8, 80, 60))
    return network, classifier


def batches():
    rng = np.random.default_rng(7)
    for _ in range(3):
        feats_BMF = torch.from_numpy(rng.standard_normal((6, 80, 50)))
        yield feats_BMF, torch.from_numpy(rng.integers(len(SPEAKERS), size=6))


def their_steps(network, classifier, optimizer):
    """The loop of train.py and train_dist.py."""
    network.train(), classifier.train()
    losses = []
    for feats_BMF, labels_B in batches():
        loss = nn.CrossEntropyLoss()(classifier(network(feats_BMF), labels_B), labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("arch", ["ffsvc-resnet34", "ffsvc-ecapa"])
def test_three_steps_from_a_checkpoint_are_the_baselines(baseline, arch, optimizer, tmp_path):
    theirs, classifier = their_parts(baseline, arch)
    saved = {"model": theirs.state_dict(), "classifier": classifier.state_dict()}
    torch.save(saved, tmp_path / "model_37.pkl")
    (tmp_path / "spk2utt").write_text("".join(f"{speaker} {speaker}-1\n" for speaker in SPEAKERS))
    import_checkpoint(tmp_path / "model_37.pkl", tmp_path / "model", arch, spk2utt=tmp_path / "spk2utt")

    start = starting_point(str(tmp_path / "model"), {}, {})
    kwargs = start.model_kwargs if arch == "ffsvc-ecapa" else {**start.model_kwargs, "dropout": 0.0}
    assert start.classes_for("keep", sorted(SPEAKERS)) == SPEAKERS
    network = build_model(start.model_name, **kwargs)
    start.load_network(network)
    head = build_head("aam", 16, len(SPEAKERS), margin=0.2, scale=32)
    start.load_head(head, len(SPEAKERS))
    training = TrainingModel(network, head).double().train()
    options = {"momentum": 0.0, **OPTIMIZERS[optimizer]}
    ours = build_optimizer(OptimOptions(name=optimizer, **options), list(training.parameters()))
    stepper = Stepper(training, nn.Identity(), ours, world=World(0, 1, torch.device("cpu")))
    losses = []
    for feats_BMF, labels_B in batches():
        no_masks = torch.zeros(len(labels_B), 0, 4, dtype=torch.int64)
        batch = Batch(feats_BMF.transpose(1, 2).contiguous(), labels_B, no_masks, tuple(range(len(labels_B))))
        losses.append(float(stepper.step([batch]).loss))

    theirs.double(), classifier.double()
    every = [*theirs.parameters(), *classifier.parameters()]
    build = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
    expected = their_steps(theirs, classifier, build(every, **OPTIMIZERS[optimizer]))
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)
    found = network.state_dict()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    torch.testing.assert_close(head.weight, classifier.weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("arch", ["ffsvc-resnet34", "ffsvc-ecapa"])
def test_what_is_exported_the_baselines_code_loads(baseline, arch, tmp_path):
    theirs, classifier = their_parts(baseline, arch)
    torch.save(
        {"model": theirs.state_dict(), "classifier": classifier.state_dict()}, tmp_path / "model_37.pkl"
    )
    model = import_checkpoint(tmp_path / "model_37.pkl", tmp_path / "model", arch)
    export_checkpoint(tmp_path / "model", tmp_path / "model_38.pkl")
    again, classifier_again = their_parts(baseline, arch)
    for part in (again, classifier_again):
        for weight in part.parameters():
            nn.init.zeros_(weight)
    checkpoint = torch.load(tmp_path / "model_38.pkl")
    again.load_state_dict(checkpoint["model"])  # as test.py, train.py and train_dist.py do
    classifier_again.load_state_dict(checkpoint["classifier"])
    feats_BFM = torch.randn(2, 120, 80)
    with torch.no_grad():
        expected = model.network.eval()(feats_BFM)
        found = again.eval()(feats_BFM.transpose(1, 2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(classifier_again.weight, classifier.weight)
    assert load_model(tmp_path / "model").config["imported"]["epoch"] == 37
