import copy
import json
import os

import pytest
import torch
from torch import nn

from farvox.errors import CheckpointError
from farvox.manifest import begin_manifest, renew_manifest
from farvox.training.checkpoint import (
    TrainingState,
    checkpoint_folder,
    compare_audio,
    finished_epochs,
    load_state,
    pack_optimizer,
    prune_checkpoints,
    save_checkpoint,
    unpack_optimizer,
)
from farvox.training.options import OptimOptions
from farvox.training.step import build_optimizer
from farvox.training.table import TrainingTable
from farvox.zoo import write_weights

OPTIMIZERS = ("sgd", "adam", "adamw")


def trained(name, steps=3):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    optim = OptimOptions(name=name, lr=0.1, weight_decay=0.01)
    optimizer = build_optimizer(optim, list(layer.parameters()))
    take_steps(layer, optimizer, steps)
    return layer, optimizer


def take_steps(layer, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        layer(torch.full((1, 3), float(step + 1))).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_goes_on_where_it_was_packed(name):
    layer, optimizer = trained(name)
    tensors, numbers = copy.deepcopy(pack_optimizer(optimizer))
    again, other = trained(name, steps=0)
    again.load_state_dict(layer.state_dict())
    unpack_optimizer(other, tensors, json.loads(json.dumps(numbers)))
    take_steps(layer, optimizer, 2)
    take_steps(again, other, 2)
    assert torch.equal(layer.weight, again.weight) and torch.equal(layer.bias, again.bias)


def test_the_state_of_another_model_is_refused():
    tensors, numbers = pack_optimizer(trained("sgd")[1])
    bigger = torch.optim.SGD([nn.Parameter(torch.zeros(2)) for _ in range(3)], lr=0.1)
    with pytest.raises(CheckpointError, match="does not fit"):
        unpack_optimizer(bigger, tensors, numbers)


def write_model(folder):
    """A stand-in for a network: what a checkpoint must have of one."""
    begin_manifest(folder)
    (folder / "config.json").write_text("{}")
    write_weights(folder / "model.safetensors", {"a": torch.zeros(1)})
    renew_manifest(folder, "config.json", "model.safetensors")


def save(run_dir, epoch, write_model=write_model):
    layer, optimizer = trained("sgd", steps=1)
    state = TrainingState(epoch=epoch, step=10, classes=("a", "b"), data="print", figures={"loss": 1.0})
    folder = checkpoint_folder(run_dir, epoch)
    save_checkpoint(folder, state, write_model, layer.state_dict(), pack_optimizer(optimizer), "")
    return folder


def test_a_checkpoint_says_where_the_run_stands(tmp_path):
    state = load_state(save(tmp_path, 37))
    assert (state.epoch, state.step, state.classes, state.data) == (37, 10, ("a", "b"), "print")
    assert state.optimizer["groups"][0]["momentum"] == 0.9
    assert finished_epochs(tmp_path) == [37]


def test_a_checkpoint_that_fails_halfway_leaves_nothing(tmp_path):
    def interrupted(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    save(tmp_path, 0)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1, interrupted)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch_000"]


def test_files_of_a_checkpoint_may_be_read_by_whoever_may_read_new_files(tmp_path):
    (tmp_path / "plain").write_text("")
    mode = os.stat(tmp_path / "plain").st_mode
    assert {os.stat(path).st_mode for path in save(tmp_path, 0).iterdir()} == {mode}


def test_only_the_last_checkpoints_are_kept(tmp_path):
    for epoch in (0, 1, 2, 3):
        save(tmp_path, epoch)
    prune_checkpoints(tmp_path, 0)
    assert finished_epochs(tmp_path) == [0, 1, 2, 3]
    prune_checkpoints(tmp_path, 2)
    assert finished_epochs(tmp_path) == [2, 3]


@pytest.mark.parametrize("text", ["", "{}", '{"epoch": 1}', "[1]"])
def test_a_damaged_state_is_refused_by_name(text, tmp_path):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_state(tmp_path)


def test_a_damaged_record_of_the_audio_is_named(tmp_path, corpus):
    table = TrainingTable.open([corpus / "train"])
    compare_audio(table, (), tmp_path, print, has_begun=False)
    (record,) = tmp_path.glob("audio-*.npy")
    record.write_bytes(record.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"audio-time\.npy: damaged .* remove the file and resume"):
        compare_audio(table, (), tmp_path, print, has_begun=True)
    record.unlink()
    compare_audio(table, (), tmp_path, print, has_begun=True)
    assert record.exists()
