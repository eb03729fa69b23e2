import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.features.frontend import FrontEndConfig
from farvox.models.options import HEADS, MODELS
from farvox.models.registry import build_model
from farvox.zoo import LAYOUTS, save_model

GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = json.loads((GOLDEN / "foreign_keys.json").read_text())
FOREIGN = {entry["layout"]: entry["shapes"] for name, entry in KEYS.items() if name != "origin"}


@pytest.fixture
def checkpoint(tmp_path):
    network = build_model("ffsvc-resnet34", channels=4, embedding_dim=12)
    torch.save({"model": network.state_dict()}, tmp_path / "model_37.pkl")
    return tmp_path / "model_37.pkl"


def test_models_lists_every_network_and_head_with_its_size(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in [*MODELS, *HEADS])
    assert "20,117,888" in out and "5,454,688" in out


def test_import_makes_a_model_folder(tmp_path, checkpoint, capsys):
    assert main(["import", str(checkpoint), str(tmp_path / "out"), "--arch", "ffsvc-resnet34"]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["embedding_dim"] == 12
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "embeddings of 12 numbers" in capsys.readouterr().out


@pytest.mark.parametrize("arch", [name for name, layout in LAYOUTS.items() if layout.renames])
def test_import_takes_the_checkpoint_of_every_toolkit(tmp_path, capsys, arch):
    weight = runpy.run_path(str(GOLDEN / "make_models.py"))["weight"]
    shapes = FOREIGN["speechbrain-ecapa" if arch == "3dspeaker-ecapa" else arch].items()
    theirs = {name: weight(name, shape).float() if shape else torch.tensor(0) for name, shape in shapes}
    torch.save(theirs, tmp_path / "theirs.pt")
    asked = ["--frontend", arch.partition("-")[0]] if LAYOUTS[arch].same_weights_as else []
    assert main(["import", str(tmp_path / "theirs.pt"), str(tmp_path / "out"), "--arch", arch, *asked]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model"]["name"] == LAYOUTS[arch].model
    assert f"{arch}, " in capsys.readouterr().out


def test_every_layout_can_be_asked_for(capsys):
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    shown = "".join(capsys.readouterr().out.replace("│", "").split())
    assert f"{{{','.join(LAYOUTS)},wavlm,ffsvc-embeddings}}" in shown


def test_import_takes_embeddings_too(tmp_path, capsys):
    np.save(tmp_path / "emb.npy", {"a": np.ones(4, np.float32)}, allow_pickle=True)
    assert (
        main(["import", str(tmp_path / "emb.npy"), str(tmp_path / "out"), "--arch", "ffsvc-embeddings"]) == 0
    )
    assert (tmp_path / "out" / "utt_ids.txt").read_text() == "a\n"
    assert "1 embeddings of 4 numbers" in capsys.readouterr().out


def test_import_replaces_only_what_it_made_of_a_file_of_the_same_name(tmp_path, checkpoint, capsys):
    words = ["import", str(checkpoint), str(tmp_path / "out"), "--arch", "ffsvc-resnet34"]
    assert main(words) == 0 and main(words) == 0
    (other := tmp_path / "other.pkl").write_bytes(checkpoint.read_bytes())
    before = (tmp_path / "out/config.json").read_bytes()
    assert main(["import", str(other), *words[2:]]) == 1
    assert main(["pull", "huggingface:a/b:other.pkl", "--out", *words[2:]]) == 1
    save_model(tmp_path / "own", build_model("xvector"), FrontEndConfig(), "xvector", {})
    assert main([*words[:2], str(tmp_path / "own"), *words[3:]]) == 1
    assert main(["import", str(other), str(tmp_path / "own"), "--arch", "wavlm"]) == 1
    said = capsys.readouterr().err
    assert said.count("holds a model that was not made so (imported: file other.pkl)") == 3
    assert said.count("own: holds a model that was not made so (imported: file model_37.pkl)") == 1
    assert (tmp_path / "out/config.json").read_bytes() == before

    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, {name: np.ones(4, np.float32)}, allow_pickle=True)
    words = ["import", str(tmp_path / "a.npy"), str(tmp_path / "emb"), "--arch", "ffsvc-embeddings"]
    assert main(words) == 0 and main(words) == 0
    assert main(["import", str(tmp_path / "b.npy"), *words[2:]]) == 1
    assert "emb: holds embeddings that were not imported from b.npy" in capsys.readouterr().err
    EmbeddingSet(["u"], np.ones((1, 4), np.float32), {"data_dir": "data"}).save(tmp_path / "emb")
    assert main(words) == 1
    assert EmbeddingSet.load(tmp_path / "emb").utt_ids == ["u"]


def test_a_file_at_fault_is_exit_status_1_and_a_message(tmp_path, checkpoint, capsys):
    assert main(["import", str(checkpoint), str(tmp_path / "out"), "--arch", "ffsvc-ecapa"]) == 1
    err = capsys.readouterr().err
    assert "model_37.pkl: these are the weights of 'ffsvc-resnet34'" in err and "Traceback" not in err


def test_an_unknown_architecture_is_wrong_usage(tmp_path, checkpoint, capsys):
    assert main(["import", str(checkpoint), str(tmp_path / "out"), "--arch", "vgg"]) == 2
    assert "ffsvc-resnet34" in capsys.readouterr().err


def test_models_lists_the_zoo_and_prints_cards(tmp_path, monkeypatch, model_folder, capsys):
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "cache"))
    assert main(["models"]) == 0
    assert "  campplus-zh-en           28 MB  CAM++ for Mandarin and English" in capsys.readouterr().out
    assert main(["models", "campplus-zh-en"]) == 0
    out = capsys.readouterr().out
    assert "licence        Apache-2.0\n" in out and "training data" in out
    assert "listen         decides within 10 s of speech, errors up to 1 and 5 %; speakers 1 to 75" in out
    assert not (tmp_path / "cache").exists(), "looking at a card fetches nothing"
    assert main(["models", str(model_folder)]) == 0
    assert "threshold      0.5;" in capsys.readouterr().out
    assert main(["models", "nowhere"]) == 1


SIZES = {"channels": 4, "pooled_channels": 4, "embedding_dim": 4}


def test_a_folder_of_other_things_is_refused_before_any_audio_is_read(tmp_path, capsys):
    save_model(tmp_path / "model", build_model("xvector", **SIZES), FrontEndConfig(), "xvector", SIZES)
    write_data_dir(tmp_path / "data", [Utterance("a", "/absent.wav")])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.txt").touch()
    words = ["extract", str(tmp_path / "model"), str(tmp_path / "data"), str(tmp_path / "thesis")]
    assert main([*words, "--device", "cpu"]) == 1
    assert "thesis: holds other things" in capsys.readouterr().err
