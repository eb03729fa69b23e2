import copy
import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from farvox.atomic import sha256_of
from farvox.datadir.kaldi import DataDir
from farvox.errors import CheckpointError, ModelError
from farvox.manifest import begin_manifest, renew_manifest
from farvox.progress import silent
from farvox.training.checkpoint import (
    TrainingState,
    check_run,
    checkpoint_folder,
    checkpoints_of,
    compare_audio,
    faults_of,
    finished_epochs,
    load_state,
    pack_optimizer,
    place_of,
    prune_checkpoints,
    read_start,
    record_start,
    refuse_other_data,
    save_checkpoint,
    starting_folder,
    unpack_optimizer,
)
from farvox.training.options import OptimOptions
from farvox.training.step import build_optimizer
from farvox.training.table import TrainingTable
from farvox.zoo.model import write_weights

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
    with pytest.raises(CheckpointError, match=r"does not fit this model: .*shape"):
        unpack_optimizer(bigger, tensors, numbers)
    optimizer = trained("sgd", steps=0)[1]
    with pytest.raises(CheckpointError, match=r"0\.momentum_buffer is of shape \[3\]"):
        unpack_optimizer(optimizer, {"0.momentum_buffer": torch.zeros(3)}, numbers)
    for damaged in ({"numbers": {}}, {"numbers": [], "groups": []}, numbers | {"groups": []}):
        with pytest.raises(CheckpointError, match="does not fit this model"):
            unpack_optimizer(optimizer, tensors, damaged)


def test_an_optimiser_gets_its_rate_back_and_all_else_from_the_recipe():
    tensors, numbers = pack_optimizer(trained("adamw")[1])
    numbers = json.loads(json.dumps(numbers))
    numbers["groups"][0] |= {"lr": 0.75, "weight_decay": 9.0, "betas": [0, 0], "unknown": 1}
    _, optimizer = trained("adamw", steps=0)
    before = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
    unpack_optimizer(optimizer, tensors, numbers)
    after = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
    assert after == before | {"lr": 0.75}


def test_an_optimisers_tensors_lie_in_memory_as_the_weights_do_and_numbers_stay_numbers():
    weight = nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    wide = torch.arange(120, dtype=torch.float64).view(2, 3, 4, 5)
    tensors = {"0.exp_avg": wide.float(), "0.exp_avg_sq": wide.float(), "0.step": torch.tensor(7.0)}
    groups = [{"lr": 0.1, "params": [0]}]
    unpack_optimizer(optimizer, tensors, {"numbers": {"0.a.b": 3}, "groups": groups})
    state = optimizer.state[weight]
    assert state["exp_avg"].stride() == weight.stride() and torch.equal(state["exp_avg"], wide.float())
    assert (state["step"], state["a.b"]) == (7, 3) and not state["exp_avg"].requires_grad
    tensors, numbers = pack_optimizer(optimizer)
    assert set(tensors) == {"0.exp_avg", "0.exp_avg_sq", "0.step"} and numbers["numbers"] == {"0.a.b": 3}


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


def test_a_state_may_leave_out_all_but_the_place(tmp_path):
    (tmp_path / "state.json").write_text('{"epoch": 3, "step": 0, "classes": ["a"]}')
    state = load_state(tmp_path)
    assert (state.data, state.optimizer, state.scaler, state.figures) == ("", {}, {}, {})
    assert (state.within, state.totals, state.skipped, state.processes) == (0, (), 0, 0)
    for key in ("step", "within", "skipped", "processes"):
        (tmp_path / "state.json").write_text(json.dumps({"epoch": 3, "step": 0, "classes": [], key: -1}))
        with pytest.raises(CheckpointError, match=rf"{tmp_path}/state\.json: .*{key}"):
            load_state(tmp_path)


def test_checkpoints_are_in_the_order_of_the_training_and_nothing_else_is_one(tmp_path):
    places = [(2, 0), (1000, 5), (10, 100), (10, 0), (10, 20), (2, 7)]
    for epoch, within in places:
        checkpoint_folder(tmp_path, epoch, within).mkdir(parents=True)
    for name in ("epoch_x", "epoch_003_step_", "epoch_003_old", ".tmp-epoch_003", "epoch_"):
        (tmp_path / "checkpoints" / name).mkdir()
    (tmp_path / "checkpoints/epoch_004").write_text("a file")
    names = [folder.name for folder in checkpoints_of(tmp_path)]
    assert names == [
        "epoch_002_step_000007", "epoch_002", "epoch_010_step_000020", "epoch_010_step_000100", "epoch_010",
        "epoch_1000_step_000005",
    ]  # fmt: skip
    assert [place_of(Path(name)) for name in names[:2]] == [(2, 7), (2, math.inf)]
    assert finished_epochs(tmp_path) == [2, 10] and checkpoints_of(tmp_path / "none") == []


def test_a_checkpoint_that_fails_halfway_leaves_nothing(tmp_path):
    def interrupted(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    save(tmp_path, 0)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1, interrupted)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch_000"]


def test_a_checkpoint_that_has_no_room_says_how_much_it_takes(tmp_path):
    def huge(size):
        return torch.zeros(1).expand(size)

    folder, state = save(tmp_path, 0), TrainingState(epoch=1, step=20, classes=("a",))
    head, packed = {"weight": huge(10**14)}, ({"0.exp_avg": huge(2 * 10**14)}, {})
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(checkpoint_folder(tmp_path, 1), state, write_model, head, packed, "", 3 * 10**14)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/checkpoints/epoch_001: cannot be written: the disk is full (")
    assert "a checkpoint takes 1,530,000,001 MB, and " in message and "make room" in message
    free = re.search(r"and ([\d,]+) MB are free there", message)[1]
    assert abs(int(free.replace(",", "")) - shutil.disk_usage(tmp_path).free / 1e6) < 2000
    assert checkpoints_of(tmp_path) == [folder] and faults_of(folder) == []


def test_a_checkpoint_is_written_over_one_that_was_there(tmp_path):
    folder = save(tmp_path, 0)
    (folder / "state.json").write_text("{}")
    assert faults_of(folder) and save(tmp_path, 0) == folder and not faults_of(folder)
    assert set(json.loads((folder / "manifest.json").read_text())["sha256"]) == {
        path.name for path in folder.iterdir() if path.name != "manifest.json"
    }
    other = checkpoint_folder(tmp_path, 1)
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=str(other)):
        save(tmp_path, 1)  # no folder of other things is replaced
    assert (other / "notes.txt").read_text() == "mine"


def test_a_file_that_every_checkpoint_has_is_missed_even_if_no_manifest_lists_it(tmp_path):
    for name in ("classifier.safetensors", "optimizer.safetensors", "state.json"):
        folder = save(tmp_path, 0)
        manifest = json.loads((folder / "manifest.json").read_text())
        for entries in manifest.values():
            del entries[name]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / name).unlink()
        assert faults_of(folder) == [f"{folder / name}: missing"]


def test_other_classes_or_other_data_than_a_checkpoints_are_refused(tmp_path, corpus):
    table = TrainingTable.open([corpus / "train"])
    state = TrainingState(epoch=0, step=0, classes=("a", "b"), data=table.fingerprint())
    refuse_other_data(tmp_path, state, table, ["a", "b"])
    for classes in (["b", "a"], ["a", "b", "c"]):
        pattern = rf"^{tmp_path}: .*\(2 classes there, {len(classes)} now\).*another --run-dir"
        with pytest.raises(CheckpointError, match=pattern):
            refuse_other_data(tmp_path, state, table, classes)
    with pytest.raises(CheckpointError, match="trained on other data"):
        refuse_other_data(tmp_path, state, TrainingTable.open([corpus / "more"]), ["a", "b"])


def test_files_of_a_checkpoint_may_be_read_by_whoever_may_read_new_files(tmp_path):
    (tmp_path / "plain").write_text("")
    mode = os.stat(tmp_path / "plain").st_mode
    assert {os.stat(path).st_mode for path in save(tmp_path, 0).iterdir()} == {mode}


def test_only_the_last_checkpoints_are_kept(tmp_path):
    for epoch in range(6):
        save(tmp_path, epoch)
    for place in ((5, 3), (6, 3), (6, 9)):  # within epochs
        shutil.copytree(checkpoint_folder(tmp_path, 5), checkpoint_folder(tmp_path, *place))
    prune_checkpoints(tmp_path, 0)
    assert finished_epochs(tmp_path) == [*range(6)]
    assert [place_of(each) for each in checkpoints_of(tmp_path)[6:]] == [(6, 9)]
    prune_checkpoints(tmp_path, 2)
    assert finished_epochs(tmp_path) == [4, 5]
    assert checkpoint_folder(tmp_path, 6, 9) in checkpoints_of(tmp_path)


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


def test_audio_that_was_replaced_added_or_removed_is_counted_and_the_first_is_named(tmp_path, make_corpus):
    data, run, notes = tmp_path / "data", tmp_path / "run", []
    make_corpus(tmp_path / "made", speakers=["a", "b"], takes=2)
    wavs = list(map(str, DataDir.open(tmp_path / "made").wav_paths))
    run.mkdir(), data.mkdir()

    def compare(num, noise=(), has_begun=True):
        (data / "wav.scp").write_text("".join(f"{Path(wav).stem} {wav}\n" for wav in wavs[:num]))
        table = TrainingTable.read([data], labelled=False)
        compare_audio(table, noise, run, notes.append, has_begun=has_begun)

    compare(3, wavs[:2], has_begun=False)
    assert {path.name for path in run.iterdir()} == {"audio-time.npy", "augment-time.npy"}
    assert np.load(run / "audio-time.npy").dtype == np.uint64 and len(np.load(run / "audio-time.npy")) == 3
    compare(3, wavs[:2])
    compare(3)  # without augmentation there is nothing to compare
    assert not notes

    def refused(pattern, *given):
        with pytest.raises(CheckpointError, match=rf"^{run}: the audio of {pattern}"):
            compare(*given)

    refused(rf"1 of 3 utterances .*first is 'b_1' \({wavs[3]}\)", 4)
    refused("1 of 3 utterances .*first is the end of the list", 2)
    both = [wavs[1], wavs[0], wavs[2]]
    refused(rf"3 of 2 files of the augmentation .* is {wavs[1]}: .*{run}/augment-time\.npy", 3, both)
    os.utime(wavs[1], (0, 0))
    refused(rf"1 of 3 utterances .*'a_1' \({wavs[1]}\).* {run}/audio-time\.npy", 3)
    (run / "audio-time.npy").unlink()  # the remedy that it names
    compare(3, wavs[:1], False)
    compare(3)
    (run / "augment-time.npy").unlink()
    compare(3, wavs[:1])
    assert len(notes) == 1 and f"{run}: has no augment-time.npy" in notes[0]


def test_audio_is_compared_by_digest_on_request(tmp_path, make_corpus, monkeypatch):
    make_corpus(tmp_path / "data", speakers=["a"], takes=2)
    monkeypatch.setenv("FARVOX_FINGERPRINT", "digest")
    table = TrainingTable.open([tmp_path / "data"])
    compare_audio(table, (), tmp_path, silent, has_begun=False)
    assert (tmp_path / "audio-digest.npy").exists()
    wav = Path(table.wav_paths[1])
    os.utime(wav, (0, 0))
    compare_audio(table, (), tmp_path, silent, has_begun=True)
    content, time = wav.read_bytes(), wav.stat().st_mtime_ns
    wav.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(wav, ns=(time, time))
    with pytest.raises(CheckpointError, match="1 of 2 utterances"):
        compare_audio(table, (), tmp_path, silent, has_begun=True)


def test_a_run_keeps_to_the_model_that_it_began_with(tmp_path, monkeypatch):
    run, notes = tmp_path / "run", []
    (tmp_path / "start").mkdir()
    write_model(tmp_path / "start")
    run.mkdir()
    monkeypatch.chdir(tmp_path)
    record_start(Path("start"), run)
    assert read_start(run) == {
        "folder": str(tmp_path / "start"),
        "sha256": sha256_of(Path("start/model.safetensors")),
    }
    assert "data" not in json.loads((run / "start.json").read_text())
    record_start(Path("start"), run, "print")
    assert json.loads((run / "start.json").read_text())["data"] == "print"

    def begun(model, has_begun=True):
        return starting_folder(model, run, notes.append, has_begun=has_begun)

    assert begun("") is None and begun("start") == tmp_path / "start" == tmp_path / begun("start", False)
    shutil.copytree("start", "moved")
    shutil.rmtree("start")
    assert begun("moved") == tmp_path / "moved" and not notes
    with pytest.raises(ModelError, match="start"):
        begun("start", has_begun=False)
    with pytest.raises(CheckpointError, match=rf"'start': {run} began with {tmp_path}/start, whose model"):
        begun("start")
    shutil.copytree("moved", "start")
    write_weights(Path("moved/model.safetensors"), {"a": torch.ones(1)})
    assert begun("moved") == tmp_path / "start"
    assert (
        len(notes) == 1
        and f"'moved' is {tmp_path}/moved by now" in notes[0]
        and f"to {tmp_path}/start" in notes[0]
    )
    (run / "start.json").unlink()
    assert read_start(run) == {} and begun("start") == Path("start")
    assert len(notes) == 2 and f"{run}: has no start.json" in notes[1]


def test_check_of_a_run_names_the_line_of_a_log_and_the_checkpoint_of_another_recipe(tmp_path):
    notes = []
    save(tmp_path, 0)
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n{"a": 2}\n{\n{\n')
    (tmp_path / "train.log").write_bytes("Epoch é\n".encode())
    faults = check_run(tmp_path, notes.append)
    assert [fault.split(": ")[0] for fault in faults] == [
        f"{tmp_path}/recipe.toml",
        f"{tmp_path}/log.jsonl:3",
    ]
    assert "cannot be read" in faults[0] and "damaged" in faults[1] and not notes
    recipe = checkpoint_folder(tmp_path, 0) / "recipe.toml"
    recipe.unlink()
    (recipe.parent / "manifest.json").unlink()
    assert len(check_run(tmp_path, notes.append)) == 2
    assert len(notes) == 1 and f"{recipe.parent}: of an earlier farvox" in notes[0]
