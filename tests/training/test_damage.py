"""Every kind of damage to every file of a checkpoint is named, and the last whole one is used."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import tomli_w
import torch

from farvox.cli.main import main
from farvox.errors import CheckpointError, RecipeError
from farvox.options import from_table, kinds, merge
from farvox.progress import silent
from farvox.training.checkpoint import (
    begin_run_dir,
    checkpoint_folder,
    checkpoints_of,
    faults_of,
    finished_epochs,
    load_state,
    prune_checkpoints,
    starting_folder,
)
from farvox.training.distributed import World
from farvox.training.log import mend_log
from farvox.training.options import TrainOptions
from farvox.training.trainer import train
from farvox.zoo import Card, copy_with_card, find_model, load_model
from farvox.zoo.find import FREE, TRAINING

FILES = (
    "model.safetensors",
    "classifier.safetensors",
    "optimizer.safetensors",
    "state.json",
    "config.json",
    "recipe.toml",
    "manifest.json",
)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def options(changed):
    return from_table(TrainOptions, changed({"schedule": {"epochs": 3}}), "recipe")


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """A run of three epochs."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(options, run_dir, ALONE)
    return run_dir


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def begin(options):
    """A function that tells which checkpoint a run goes on after, and what it says."""

    def begin(run_dir, changes=None):
        notes = []
        now = from_table(TrainOptions, merge(tomli(options), changes or {}), "recipe")
        folder = begin_run_dir(now, run_dir, ALONE, notes.append, resume=True)
        return folder and folder.name, "\n".join(notes)

    return begin


def tomli(options):
    from farvox.options import to_table

    return to_table(options)


def flip(path):
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 1
    path.write_bytes(content)


def cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


def swap(path):
    other = path.parent.parent / "epoch_000" / path.name
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


KINDS = {
    "flipped": (flip, "damaged"),
    "cut off": (cut_off, "damaged"),
    "emptied": (lambda path: path.write_bytes(b""), "damaged"),
    "missing": (lambda path: path.unlink(), "missing"),
    "swapped": (swap, "damaged"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_to_a_file_is_named_and_the_epoch_before_is_used(kind, name, run, begin):
    damage, word = KINDS[kind]
    path = run / "checkpoints/epoch_002" / name
    before = path.read_bytes()
    damage(path)
    if path.exists() and path.read_bytes() == before:
        assert (kind, name) == ("swapped", "recipe.toml")  # the same in all epochs
        return
    folder, notes = begin(run)
    assert folder == "epoch_001" and word in notes
    if (kind, name) != ("swapped", "manifest.json"):
        assert f"{path}: " in notes
    else:  # no file is the one that is listed
        assert all(str(path.with_name(other)) in notes for other in FILES[:3])
    if kind == "cut off" and name != "manifest.json":
        assert re.search(r"has [\d,]+ bytes instead of [\d,]+", notes)
    if kind == "swapped" and name != "manifest.json":
        assert "it is that of epoch_000" in notes


def test_a_whole_run_goes_on_without_a_word(run, begin):
    assert begin(run) == ("epoch_002", "")


def test_the_last_epoch_is_trained_again_and_replaces_the_damaged_one(
    whole, run, options, same_weights, capsys
):
    flip(run / "checkpoints/epoch_002/optimizer.safetensors")
    (run / "checkpoints/epoch_001/config.json").unlink()
    notes = []
    train(options, run, ALONE, note=notes.append)
    assert "goes on after epoch_000" in notes[0]
    assert [faults_of(folder) for folder in checkpoints_of(run)] == [[], [], []]
    assert same_weights(whole, run, 2)


@pytest.mark.parametrize("edit", ["state", "folder"])
def test_a_checkpoint_that_is_another_epoch_than_it_is_called_is_named(edit, run, begin):
    last = run / "checkpoints/epoch_002"
    if edit == "folder":
        last.rename(run / "checkpoints/epoch_007")
        folder, notes = begin(run)
        assert "epoch_007/state.json: is of epoch_002, and the folder is called epoch_007" in notes
    else:
        text = (last / "state.json").read_text()
        (last / "state.json").write_text(text.replace('"epoch": 2', '"epoch": 9'))
        assert main(["models", str(last), "--renew-manifest"]) == 0  # on purpose
        folder, notes = begin(run)
        assert "epoch_002/state.json: is of epoch_009" in notes
    assert folder == "epoch_001"


def test_a_checkpoint_of_another_run_is_refused_by_every_reader_of_models_and_named_by_check(
    run, options, corpus, tmp_path, capsys
):
    other = from_table(TrainOptions, merge(tomli(options), {"specaugment": {"num_time": 2}}), "recipe")
    train(other, tmp_path / "other", ALONE)
    last, out = run / "checkpoints/epoch_002", tmp_path / "out"
    shutil.rmtree(last)
    shutil.copytree(tmp_path / "other/checkpoints/epoch_002", last)
    what = f"{last}: is of another run, or {run}/recipe.toml was edited: specaugment."
    for argv in (["extract", run, corpus / "dev", out], ["average", out, f"{run}@1..2"]):
        assert main([str(word) for word in argv]) == 1
        assert what in capsys.readouterr().err and not out.exists()
    assert main(["check", str(run)]) == 1
    assert capsys.readouterr().out.startswith(what)
    assert (
        find_model(shutil.copytree(last, tmp_path / "epoch_002")).name == "epoch_002"
    )  # as the message says
    (last / "recipe.toml").write_bytes((run / "recipe.toml").read_bytes())
    with pytest.raises(CheckpointError, match=r"epoch_002/recipe.toml: damaged or changed"):
        find_model(run)
    assert find_model(f"{run}@1") and find_model(
        shutil.copytree(last.parent / "epoch_001", tmp_path / "epoch_2")
    )
    assert find_model(tmp_path / "other") == tmp_path / "other/checkpoints/epoch_002"


def test_a_run_that_went_on_with_what_may_change_is_read_as_before(run, options, tmp_path):
    now = merge(tomli(options), {"schedule": {"epochs": 4}, "data": {"workers": 1}, "log": {"keep": 9}})
    train(from_table(TrainOptions, now, "recipe"), run, ALONE)
    assert find_model(run).name == "epoch_003"
    older = [line for line in (run / "recipe.toml").read_text().splitlines() if "speeds = " not in line]
    (run / "recipe.toml").write_text("\n".join(older))  # of a farvox that had no such option
    assert find_model(run).name == "epoch_003"


def test_the_tables_that_weights_depend_on_are_those_of_training():
    fixed = {name for name in kinds(TrainOptions) if not {name, f"{name}."} & set(FREE)}
    assert set(TRAINING) == fixed


@pytest.mark.parametrize("edit", ["missing", "edited", "garbage"])
def test_the_recipe_of_a_run_dir_is_written_again_from_a_checkpoint(edit, run, begin):
    saved = run / "recipe.toml"
    before = saved.read_text()
    saved.unlink()
    if edit != "missing":
        saved.write_bytes(before.replace("lr = 0.01", "lr = 0.5").encode() if edit == "edited" else b"\xff=")
    with pytest.raises(RecipeError, match=r"another recipe.*\n  optim.lr: 0.01 there, 0.5 now"):
        begin(run, {"optim": {"lr": 0.5}})  # a recipe that is gone lets no other in
    folder, notes = begin(run)
    assert folder == "epoch_002" and f"{saved} was removed, damaged or edited" in notes
    assert saved.read_text() == before


def test_a_checkpoint_of_another_recipe_is_named_and_the_one_before_is_used(run, options, begin, tmp_path):
    other = from_table(TrainOptions, merge(tomli(options), {"optim": {"lr": 0.5}}), "recipe")
    train(other, tmp_path / "other", ALONE)
    shutil.rmtree(run / "checkpoints/epoch_002")
    shutil.copytree(tmp_path / "other/checkpoints/epoch_002", run / "checkpoints/epoch_002")
    folder, notes = begin(run)
    assert folder == "epoch_001" and "epoch_002: is of another recipe" in notes
    assert "optim.lr: 0.5 there, 0.01 now" in notes


@pytest.fixture(scope="module")
def others(options, corpus, tmp_path_factory):
    """A run of the same recipe whose data dir had other speakers."""
    data = tmp_path_factory.mktemp("others") / "train"
    shutil.copytree(corpus / "train", data)
    speakers = [line.split() for line in (data / "utt2spk").read_text().splitlines()]
    few = {speaker: f"s{number % 3}" for number, (_, speaker) in enumerate(speakers)}
    (data / "utt2spk").write_text("".join(f"{utt} {few[speaker]}\n" for utt, speaker in speakers))
    (data / "spk2utt").unlink(missing_ok=True)
    changed = from_table(TrainOptions, merge(tomli(options), {"data": {"train": [str(data)]}}), "recipe")
    train(changed, data.parent / "run", ALONE)
    return data.parent / "run"


@pytest.fixture
def go_on(changed, run):
    """A function that goes on with the run, to so many epochs, and gives what it says."""

    def go_on(epochs):
        notes = []
        now = from_table(TrainOptions, changed({"schedule": {"epochs": epochs}}), "recipe")
        train(now, run, ALONE, note=notes.append)
        return "\n".join(notes)

    return go_on


@pytest.mark.parametrize("epochs", [3, 4])
def test_a_checkpoint_of_other_classes_is_named_and_the_one_before_is_used(
    epochs, run, others, go_on, whole, same_weights, capsys
):
    folder = run / "checkpoints/epoch_002"
    for path in (others / "checkpoints/epoch_002").iterdir():
        if path.name != "recipe.toml":
            shutil.copy2(path, folder)
    assert main(["models", str(folder), "--renew-manifest"]) == 0  # on purpose
    assert main(["check", str(run)]) == 1
    assert f"{folder}/state.json: is of other data or classes than that of epoch" in capsys.readouterr().out
    assert re.search(r"goes on after epoch_001(?s:.*)epoch_002: trained on other data \(3 cl", go_on(epochs))
    assert len(checkpoints_of(run)) == epochs and same_weights(whole, run, 2)


@pytest.mark.parametrize("name", ["state.json", "classifier.safetensors", "optimizer.safetensors"])
def test_a_file_of_other_classes_that_the_manifest_lists_is_named_and_the_epoch_before_is_used(
    name, run, others, go_on, whole, same_weights
):
    folder = run / "checkpoints/epoch_002"
    shutil.copy2(others / "checkpoints/epoch_002" / name, folder)
    assert main(["models", str(folder), "--renew-manifest"]) == 0  # on purpose
    assert re.search("goes on after epoch_001(?s:.*)epoch_002", go_on(4))
    assert len(checkpoints_of(run)) == 4 and same_weights(whole, run, 2)


def test_a_run_without_a_whole_checkpoint_is_refused_with_the_way_out(run, options, begin):
    for folder in checkpoints_of(run):
        flip(folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"none of its 3 checkpoint\(s\) is whole:\n  .*epoch_002/model"
    ):
        begin(run)
    shutil.rmtree(run / "checkpoints")  # what the message says
    train(options, run, ALONE)
    assert finished_epochs(run) == [0, 1, 2]


def test_checkpoints_of_an_earlier_farvox_are_gone_on_after_with_a_note(run, begin):
    last = run / "checkpoints/epoch_002"
    (last / "recipe.toml").unlink()
    manifest = json.loads((last / "manifest.json").read_text())
    smaller = {name: found for name, found in manifest["sha256"].items() if name != "recipe.toml"}
    (last / "manifest.json").write_text(json.dumps({"sha256": smaller}))
    state = json.loads((last / "state.json").read_text())
    folder, notes = begin(run)
    assert folder == "epoch_002" and "without a recipe.toml by an earlier farvox" in notes
    (last / "manifest.json").unlink()
    (last / "state.json").write_text(
        json.dumps({k: v for k, v in state.items() if k not in ("within", "totals")})
    )
    folder, notes = begin(run)
    assert folder == "epoch_002" and "without a manifest.json by an earlier farvox" in notes
    with pytest.raises(RecipeError, match="another recipe"):
        begin(run, {"optim": {"lr": 0.5}})
    cut_off(last / "optimizer.safetensors")
    folder, notes = begin(run)
    assert folder == "epoch_001" and "optimizer.safetensors: damaged" in notes


def test_the_only_whole_checkpoint_is_never_removed(run):
    for epoch in (1, 2):
        flip(checkpoint_folder(run, epoch) / "model.safetensors")
    prune_checkpoints(run, 1)
    assert finished_epochs(run) == [0, 1, 2]
    prune_checkpoints(run, 1, checkpoint_folder(run, 1))
    assert finished_epochs(run) == [0, 1, 2]
    prune_checkpoints(run, 1, checkpoint_folder(run, 0))  # later ones are not reached yet
    assert finished_epochs(run) == [0, 1, 2]
    shutil.rmtree(checkpoint_folder(run, 2))
    shutil.copytree(checkpoint_folder(run, 0), checkpoint_folder(run, 3))
    prune_checkpoints(run, 1)  # called 3, and of 0
    assert finished_epochs(run) == [0, 1, 3]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", [flip, cut_off, os.unlink])
def test_a_damaged_epoch_is_refused_as_a_model_by_name(name, damage, run):
    damage(run / "checkpoints/epoch_002" / name)
    for spec in (run, f"{run}@2"):
        with pytest.raises(CheckpointError, match=f"epoch_002/{name}: "):
            load_model(spec)
    assert load_model(f"{run}@1") and find_model(run).name == "epoch_002"


@pytest.mark.parametrize("names", [["."], ["model.safetensors", "config.json", "manifest.json"]])
def test_a_checkpoint_of_another_epoch_is_refused_by_every_reader_of_models(
    names, run, corpus, voices, tmp_path, train_here, capsys
):
    """All of it, or all but its state, is of the first epoch."""
    last, dev = run / "checkpoints/epoch_002", corpus / "dev"
    for name in names:
        source = run / "checkpoints/epoch_000" / name
        if source.is_dir():
            shutil.rmtree(last)
            shutil.copytree(source, last)
        else:
            shutil.copy(source, last)
    what = "is of epoch_000, and the folder is called epoch_002" if names == ["."] else "damaged or changed"
    out = tmp_path / "out"
    for argv in (
        ["extract", run, dev, out],
        ["extract", f"{run}@2", dev, out],
        ["extract", last, dev, out],
        ["average", out, f"{run}@1..2"],
        ["export", run, f"{out}.onnx"],
        ["verify", voices / "a0.wav", voices / "a1.wav", "--model", run],
    ):
        assert main([str(word) for word in argv]) > 0, argv
        assert f"{last}/state.json: {what}" in capsys.readouterr().err, argv
        assert not out.exists()
    with pytest.raises(CheckpointError, match=what):
        train_here(out, {"init": {"model": str(run)}})
    with pytest.raises(CheckpointError, match=what):
        copy_with_card(run, Card(), out)
    assert find_model(f"{run}@1").name == "epoch_001"
    copied = shutil.copytree(run / "checkpoints/epoch_001", tmp_path / "epoch_7")
    assert find_model(copied) == copied  # of no run, so that its name says nothing


def test_a_damaged_log_is_mended_with_a_note_when_a_run_goes_on_or_is_done(run, train_here, capsys):
    log, three = run / "log.jsonl", {"schedule": {"epochs": 3}}
    before = log.read_bytes()
    lines = before.splitlines()
    log.write_bytes(before[:-40])
    assert main(["check", str(run)]) == 1
    capsys.readouterr()
    train_here(run, three)
    out = capsys.readouterr().out
    assert f"note: {log}:{len(lines)}: damaged, and left out: " in out
    assert f"{log}: had no record of epoch 2, which is put back from its checkpoint" in out
    assert log.read_bytes() == before and main(["check", str(run)]) == 0
    log.write_bytes(before.replace(lines[1], b"\xff"))  # figures of a step, which nothing else knows
    capsys.readouterr()
    train_here(run, {"schedule": {"epochs": 4}})
    out = capsys.readouterr().out
    assert f"note: {log}:2: damaged" in out and "put back" not in out
    assert log.read_bytes().startswith(before.replace(lines[1] + b"\n", b""))
    shutil.rmtree(run / "checkpoints/epoch_003")
    log.write_bytes(log.read_bytes()[:-40])  # as a kill in the middle of an epoch that is trained again
    train_here(run, {"schedule": {"epochs": 4}})
    assert "damaged" not in capsys.readouterr().out
    assert sum(b'"epoch", ' in line for line in log.read_bytes().splitlines()) == 4


def test_the_record_of_an_epoch_that_was_killed_before_its_checkpoint_is_not_kept(run, logged):
    state, notes = load_state(run / "checkpoints/epoch_002"), []
    mend_log(run, replace(state, within=3), notes.append)  # all its steps, but it is to be finished again
    assert [record["epoch"] for record in logged(run, "epoch")] == [0, 1]
    assert logged(run)[-1]["step"] == state.step and not notes
    mend_log(run, state, notes.append)
    assert [record["epoch"] for record in logged(run, "epoch")] == [0, 1, 2] and len(notes) == 1


def test_a_run_with_more_epochs_than_are_asked_for_says_both_numbers(run, train_here, capsys):
    train_here(run)
    out = capsys.readouterr().out
    assert (
        f"{run} has all epochs already, up to 2\nnote: that is 1 more than asked for: schedule.epochs = 2"
        in out
    )
    assert f"{run}@1 is the model there" in out and find_model(f"{run}@1").name == "epoch_001"


def test_check_of_a_run_without_a_checkpoint_reads_its_recipe_and_logs(run, capsys):
    shutil.rmtree(run / "checkpoints")
    whole = f"{run}: no checkpoint yet; its recipe and logs are whole\n"
    for folder in (run, run.parent):
        assert main(["check", str(folder)]) == 0
        assert capsys.readouterr().out == whole
    (run / "train.log").unlink()
    (run / "log.jsonl").write_text("{\n")
    assert main(["check", str(run)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{run}/log.jsonl:1: damaged") and last == f"{run}: no checkpoint yet"


STATES = {
    "optimizer": {},
    "epoch": "two",
    "step": -1,
    "classes": "abc",
    "within": 0.5,
    "totals": ["x"],
    "scaler": [],
    "figures": 1,
    "unknown": 1,
}


@pytest.mark.parametrize("key", STATES)
def test_a_state_that_says_something_impossible_is_an_error_by_name(key, run, options):
    """Entered in the manifest on purpose, so that only its content can tell."""
    last = run / "checkpoints/epoch_001"
    shutil.rmtree(run / "checkpoints/epoch_002")
    shutil.rmtree(run / "checkpoints/epoch_000")
    state = json.loads((last / "state.json").read_text())
    (last / "state.json").write_text(json.dumps(state | {key: STATES[key]}))
    assert main(["models", str(last), "--renew-manifest"]) == 0
    with pytest.raises(CheckpointError, match="epoch_001"):
        train(options, run, ALONE)


@pytest.mark.parametrize("text", ["[]", "{", "null", '{"epoch": 1}', "[" * 100_000, "1" * 5000, "\xff"])
def test_a_state_that_is_none_is_refused_by_name(text, tmp_path):
    (tmp_path / "state.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_state(tmp_path)


def test_damage_is_told_on_the_command_line_and_the_run_goes_on(run, options, tmp_path, capsys):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tomli_w.dumps(tomli(options)))
    flip(run / "checkpoints/epoch_002/classifier.safetensors")
    assert main(["train", str(recipe), "--run-dir", str(run)]) == 0
    out = capsys.readouterr().out
    assert "epoch_002/classifier.safetensors: damaged or changed" in out
    assert re.findall(r"^Epoch (\d)", out, re.MULTILINE) == ["2"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 50 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=50m", "farvox-test", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_the_checkpoints_before_and_says_what_is_needed(
    small_disk, changed, whole, same_weights
):
    run = small_disk / "run"
    for epochs, is_full in ((1, False), (2, True), (3, True)):
        now = from_table(TrainOptions, changed({"schedule": {"epochs": epochs}}), "recipe")
        if is_full:
            (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))
            with pytest.raises(CheckpointError, match=r"takes 1 MB, and 0 MB are free there.*make room"):
                train(now, run, ALONE)
            (small_disk / "filler").unlink()
            assert [faults_of(folder) for folder in checkpoints_of(run)] == [[]] * (epochs - 1)
            assert not list(run.rglob(".tmp-*"))
        train(now, run, ALONE)
    assert same_weights(whole, run, 2)


LIMITED = """
import resource, sys
from farvox.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_a_file_that_cannot_grow_leaves_the_checkpoints_before(run, options, tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tomli_w.dumps(tomli(options)))
    words = [str(recipe), "--run-dir", str(run), "--schedule.epochs", "4"]
    done = subprocess.run([sys.executable, "-c", LIMITED, *words], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"epoch_003.* cannot be written: .*a checkpoint takes 1 MB, and", done.stderr)
    assert [faults_of(folder) for folder in checkpoints_of(run)] == [[]] * 3
    assert not list(run.rglob(".tmp-*"))
    assert main(["train", *words]) == 0


def test_check_of_a_run_dir_names_every_fault(run, capsys):
    assert main(["check", str(run)]) == 0
    out = capsys.readouterr().out
    assert out == f"{run}: 3 checkpoint(s), all whole: epoch_000, epoch_001, epoch_002\n"
    assert main(["check", str(run.parent)]) == 0
    assert capsys.readouterr().out == out
    faults = {
        "checkpoints/epoch_000/model.safetensors: damaged": flip,
        "checkpoints/epoch_001/state.json: missing": os.unlink,
        "checkpoints/epoch_002/optimizer.safetensors: damaged": cut_off,
        "log.jsonl:1: damaged": lambda path: path.write_text("{" + path.read_text()),
        "train.log:2: damaged": lambda path: path.write_bytes(path.read_bytes() + b"\xff\n"),
        "audio-time.npy: damaged": cut_off,
        "recipe.toml: cannot be read": lambda path: path.write_text("[["),
        "start.json: damaged": lambda path: path.write_text('{"folder": 1}'),
    }
    (run / "train.log").write_text("a\n")
    for place, damage in faults.items():
        damage(run / place.split(":")[0])
    assert main(["check", str(run)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(faults)
    assert all(any(line.startswith(f"{run}/{place}") for line in lines) for place in faults), lines


def test_check_tells_an_edited_recipe_and_a_starting_model_that_changed(run, capsys):
    saved, start = run / "recipe.toml", run.parent / "start"
    saved.write_text(saved.read_text().replace("lr = 0.01", "lr = 0.5"))
    shutil.copytree(run / "checkpoints/epoch_002", start)
    (run / "start.json").write_text(json.dumps({"folder": str(start), "sha256": "0"}))
    assert main(["check", str(run)]) == 1
    out = capsys.readouterr().out
    what = (
        f"is of another run, or {saved} was edited: optim.lr is 0.01 in the recipe of the checkpoint and 0.5"
    )
    assert all(f"{folder}: {what} in that of the run\n" in out for folder in checkpoints_of(run))
    assert f"{run}/start.json: {start} has other weights" in out
    shutil.rmtree(start)
    assert main(["check", str(run)]) == 1
    assert "which the run began with, is not there" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"folder": 1}', "[" * 100_000])
def test_a_damaged_record_of_the_start_is_refused_and_may_be_removed(text, run, whole):
    (run / "start.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"{run}/start.json: damaged .*remove it"):
        starting_folder(str(whole), run, silent, has_begun=True)
    (run / "start.json").unlink()
    assert starting_folder(str(whole), run, silent, has_begun=True) == whole / "checkpoints/epoch_002"
