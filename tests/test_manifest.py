"""A damaged file of a model folder is never used; the damage is a real one, of one bit."""

import json
import os
import random
import shutil

import numpy as np
import pytest
import torch

from farvox import manifest
from farvox.atomic import sha256_of
from farvox.cli.main import main
from farvox.errors import CheckpointError
from farvox.manifest import read_weights
from farvox.zoo import Card, average_models, load_model, open_embedder, save_model
from farvox.zoo.model import write_weights


@pytest.fixture
def model(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "small")


def flip(path, place=-9, bit=1):
    """Change one bit of a file, by default in its last numbers or words."""
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def listed(folder):
    return json.loads((folder / "manifest.json").read_text())["sha256"]


LOADS = {
    "verify": open_embedder,
    "torch": lambda folder: open_embedder(folder, backend="torch"),
    "average": lambda folder: average_models(folder.parent / "mean", [folder, folder]),
}


FILES = ("model.safetensors", "config.json", "card.json")


@pytest.mark.parametrize(
    ("load", "name"),
    [(load, name) for load in LOADS for name in FILES if (load, name) != ("average", FILES[2])],
)
def test_a_changed_bit_is_refused_by_whoever_loads_the_model(model, load, name):
    open_embedder(model)  # with a graph of the weights as they were
    flip(model / name)
    with pytest.raises(CheckpointError, match=rf"{name}: damaged or changed.*manifest\.json"):
        LOADS[load](model)


def test_a_bit_flipped_anywhere_is_refused_by_name_or_changes_nothing(model, tmp_path):
    """A bit of the manifest may rename an entry: the files are as they were. A damaged graph is made anew."""
    wav_T = np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype(np.float32)
    expected_E = open_embedder(model).embed(wav_T)
    rng = random.Random(0)
    for name, times in (*((name, 15) for name in (*FILES, "manifest.json")), ("graph.onnx", 2)):
        for _ in range(times):
            shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
            damaged = shutil.copytree(model, tmp_path / "damaged")
            flip(damaged / name, rng.randrange((model / name).stat().st_size), 1 << rng.randrange(8))
            try:
                np.testing.assert_allclose(open_embedder(damaged).embed(wav_T), expected_E, atol=1e-5)
                assert name not in FILES
            except CheckpointError as error:
                assert name in str(error) and "\n" not in str(error)


def test_verify_refuses_a_damaged_model_and_says_what_to_do(model, voices, capsys):
    words = ["verify", str(voices / "a0.wav"), str(voices / "b0.wav"), "--model", str(model), "--vad", "off"]
    assert main(words) in (0, 1)
    capsys.readouterr()
    flip(model / "model.safetensors")
    assert main(words) == 2
    said = capsys.readouterr()
    cure = f"farvox models {model} --renew-manifest"
    assert said.out == "" and "copy it again" in said.err and cure in said.err
    assert main(cure.split()[1:]) == 0  # the remedy, if the change was wanted
    capsys.readouterr()
    assert main(words) in (0, 1)
    assert "manifest" not in capsys.readouterr().err


def test_a_folder_without_a_manifest_is_noted_with_the_command_that_writes_one(model, voices, capsys):
    words = ["verify", str(voices / "a0.wav"), str(voices / "b0.wav"), "--model", str(model), "--vad", "off"]
    before = listed(model)
    (model / "manifest.json").unlink()
    manifest.note_unchecked.cache_clear()
    assert main(words) in (0, 1)
    said, cure = capsys.readouterr().err, f"farvox models {model} --renew-manifest"
    assert said.count("written without a manifest.json") == 1 and f"'{cure}'" in said
    assert main(cure.split()[1:]) == 0
    assert listed(model) == before
    manifest.note_unchecked.cache_clear()
    capsys.readouterr()
    assert main(words) in (0, 1)
    assert "manifest" not in capsys.readouterr().err
    assert main(["models", "--renew-manifest"]) == 2
    assert "farvox pull NAME" in capsys.readouterr().err


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_manifest_does_not_list_is_refused(model, name, capsys):
    """As after a bit of its name flipped there."""
    content = (model / "manifest.json").read_text()
    (model / "manifest.json").write_text(content.replace(name, name.replace("s", "r").replace("c", "g")))
    with pytest.raises(CheckpointError, match=rf"{name}: damaged or changed.*does not list it") as caught:
        open_embedder(model)
    assert "--renew-manifest" in str(caught.value)
    assert len(manifest.damaged_files(model)) == 2  # that it is not listed, and that another is missing
    assert main(["models", str(model), "--renew-manifest"]) == 0
    assert open_embedder(model).embedding_dim == 16
    (model / name).unlink()
    if name != "config.json":  # without that it is no model
        with pytest.raises(CheckpointError, match=rf"{name}: missing, though manifest\.json lists it"):
            open_embedder(model)


def unreadable(path):
    path.write_bytes(path.read_bytes()[:-100])


def of_another_shape(path):
    weights = read_weights(path)
    name = next(name for name, tensor in weights.items() if tensor.dim() > 1)
    path.parent.joinpath("manifest.json").unlink()
    write_weights(path, {**weights, name: weights[name][:1].clone()})


def not_finite(path):
    path.parent.joinpath("manifest.json").unlink()
    write_weights(path, {name: x * float("nan") for name, x in read_weights(path).items()})


DAMAGES = {
    "a truncated file": ("model.safetensors", unreadable, "cannot be read as weights"),
    "a bit of the header": ("model.safetensors", lambda path: flip(path, 8), "cannot be read as weights"),
    "another shape": ("model.safetensors", of_another_shape, "of another shape: "),
    "numbers that are none": ("model.safetensors", not_finite, "not finite: "),
    "a training state": ("optimizer.safetensors", unreadable, "cannot be read as weights"),
    "a table": ("state.json", unreadable, "cannot be read"),
    "a card": ("card.json", lambda path: path.write_text('{"threshold": 7}'), "is no cosine"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_loaded_gets_no_manifest(model, damage, capsys):
    name, damaged, why = DAMAGES[damage]
    write_weights(model / "optimizer.safetensors", {"0.step": torch.zeros(100)})
    (model / "state.json").write_text(json.dumps({"classes": ["a"] * 100}))
    assert main(["models", str(model), "--renew-manifest"]) == 0
    damaged(model / name)
    before = (model / "manifest.json").read_bytes() if (model / "manifest.json").exists() else None
    capsys.readouterr()
    assert main(["models", str(model), "--renew-manifest"]) == 1
    assert f"{model / name}" in (said := capsys.readouterr().err) and why in said
    after = (model / "manifest.json").read_bytes() if (model / "manifest.json").exists() else None
    assert after == before and len(list(model.glob(".tmp-*"))) == 0


def test_a_card_that_is_put_beside_a_manifest_is_refused_until_it_is_entered(model):
    network = load_model(model)
    part = network.config["model"]
    save_model(model, network.network, network.frontend_config, part["name"], part["kwargs"])
    (model / "card.json").write_text('{"threshold": -1.0}')
    with pytest.raises(CheckpointError, match=r"card\.json: damaged or changed"):
        open_embedder(model)
    assert main(["models", str(model), "--renew-manifest"]) == 0
    assert open_embedder(model).card.threshold == -1


def test_whatever_farvox_writes_into_a_folder_renews_its_manifest(model):
    assert listed(model) == {
        name: sha256_of(model / name) for name in ("card.json", "config.json", "model.safetensors")
    }
    Card(name="other", threshold=0.25).save(model)
    assert listed(model)["card.json"] == sha256_of(model / "card.json")
    assert Card.load(model).threshold == 0.25
    loaded = load_model(model)
    flip(model / "model.safetensors")
    Card(name="third").save(model)  # writing one file does not take another's damage for right
    with pytest.raises(CheckpointError, match="damaged or changed"):
        load_model(model)
    part = loaded.config["model"]
    save_model(model, loaded.network, loaded.frontend_config, part["name"], part["kwargs"])
    assert set(listed(model)) == {"config.json", "model.safetensors"}
    assert load_model(model).embedding_dim == 16


@pytest.mark.parametrize("damage", ["", "[]", '{"sha256": 3}', "{"])
def test_a_damaged_manifest_is_damage(model, damage):
    (model / "manifest.json").write_text(damage)
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
        load_model(model)


def test_a_large_file_is_hashed_when_size_time_or_inode_differ(model, tmp_path, monkeypatch):
    """A bit that changed under an unchanged time is found when the file is replaced, or by ``always``."""
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest, "ALWAYS_HASHED", 1000)
    weights = model / "model.safetensors"
    assert weights.stat().st_size > 1000
    good = manifest.verify_file(weights)
    assert len(list((tmp_path / "cache/checked").iterdir())) == 1
    before = weights.stat()
    flip(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert manifest.verify_file(weights) == good  # as documented
    assert "damaged" in manifest.damaged_files(model)[0]
    os.utime(weights)
    with pytest.raises(CheckpointError):
        manifest.verify_file(weights)
    flip(weights)
    assert manifest.verify_file(weights) == good
    shutil.copy2(weights, model / "copy")
    flip(model / "copy")
    os.utime(model / "copy", ns=(weights.stat().st_atime_ns, weights.stat().st_mtime_ns))
    os.replace(model / "copy", weights)  # another inode
    with pytest.raises(CheckpointError):
        manifest.verify_file(weights)


def test_weights_beside_no_manifest_are_read_as_they_are(tmp_path):
    write_weights(tmp_path / "a.safetensors", {"a": torch.ones(3)})
    assert manifest.verify_file(tmp_path / "a.safetensors") is None
    assert read_weights(tmp_path / "a.safetensors")["a"].tolist() == [1, 1, 1]
