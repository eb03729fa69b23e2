"""``farvox export``."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.zoo import Card, open_embedder, save_model

SIZES = {"num_mels": 20, "channels": 16, "pooled_channels": 24, "embedding_dim": 16}


@pytest.fixture
def folder(tmp_path):
    """A model folder with a card."""
    torch.manual_seed(0)
    network = build_model("xvector", **SIZES)
    save_model(tmp_path / "model", network, FrontEndConfig(num_mels=20), "xvector", SIZES)
    Card(name="small", threshold=0.5).save(tmp_path / "model")
    return tmp_path / "model"


def test_the_graph_of_a_model_folder_is_not_replaced(folder, tmp_path, capsys):
    embedding_E = open_embedder(folder, backend="onnx").embed(np.full(8000, 0.1, np.float32))
    before = (folder / "graph.onnx").read_bytes()
    (tmp_path / "link").symlink_to(folder)
    for out in (folder / "graph.onnx", tmp_path / "link/graph.onnx"):
        assert main(["export", str(folder), str(out)]) == 1
        assert f"{out}: is the graph that the model of its folder computes by" in capsys.readouterr().err
    assert (folder / "graph.onnx").read_bytes() == before
    assert np.array_equal(open_embedder(folder).embed(np.full(8000, 0.1, np.float32)), embedding_E)


@pytest.mark.slow
def test_export_writes_a_file_that_is_a_model_and_says_how_near_it_is(folder, tmp_path, capfd):
    out = tmp_path / "new" / "small.onnx"
    assert main(["export", str(folder), str(out)]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"{out}: 0.")
    assert " MB, opset 20; waveforms from 2640 samples at 16000 Hz\n" in said.out
    assert "onnxruntime against torch, 9 signals: embeddings differ by " in said.out
    exported, own = open_embedder(out), open_embedder(folder)
    assert (exported.card, exported.digest, exported.config) == (own.card, own.digest, own.config)


def test_export_refuses_what_it_cannot_write_before_it_loads_the_model(tmp_path, capsys):
    assert main(["export", str(tmp_path / "no_model"), str(tmp_path / "model.pt")]) == 1
    assert "the name of an exported model must end in '.onnx'" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "no_model"), str(tmp_path / "model.onnx")]) == 1
    assert f"no model '{tmp_path / 'no_model'}'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_export_does_not_write_over_a_folder(tmp_path, capsys):
    (tmp_path / "m.onnx").mkdir()
    assert main(["export", str(tmp_path / "no_model"), str(tmp_path / "m.onnx")]) == 1
    assert "m.onnx: is a folder, and a file is to be written there" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_exported_answers_as_its_model_does(exported, model_folder, voices, capsys):
    answers = []
    for model, backend in ((exported, "auto"), (model_folder, "torch")):
        words = [str(voices / "a0.wav"), str(voices / "b0.wav"), "--vad", "off", "--json"]
        status = main(["verify", "--model", str(model), "--backend", backend, *words])
        answers.append((status, json.loads(capsys.readouterr().out)))
    (status, ours), (torch_status, theirs) = answers
    assert status == torch_status == (0 if theirs["same"] else 1)
    assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
    assert (ours["same"], ours["threshold"], ours["model"]) == (theirs["same"], 0.5, "small")
    assert ours["backend"].startswith("onnxruntime ") and theirs["backend"].startswith("torch ")


@pytest.mark.slow
def test_what_is_exported_extracts_as_its_model_does(exported, model_folder, corpus, tmp_path):
    for model, out in ((exported, "onnx"), (model_folder, "torch")):
        words = ["extract", str(model), str(corpus / "dev"), str(tmp_path / out), "--device", "cpu"]
        assert main(words) == 0
    ours, theirs = (EmbeddingSet.load(tmp_path / out) for out in ("onnx", "torch"))
    assert list(ours.utt_ids) == list(theirs.utt_ids) and len(ours.utt_ids) == 9
    gap_N = np.abs(ours.embeddings - theirs.embeddings).max(axis=1)
    assert (gap_N < 1e-4 * np.abs(theirs.embeddings).max(axis=1)).all()
    assert ours.meta["backend"].startswith("onnxruntime ") and ours.meta["model"] == theirs.meta["model"]


@pytest.mark.slow
def test_the_card_of_what_is_exported_is_printed(exported, model_folder, capsys):
    assert main(["models", str(exported)]) == 0
    card = capsys.readouterr().out
    assert "small" in card and "threshold      0.5;" in card and "calibration    llr = 10" in card
    assert main(["models", str(model_folder)]) == 0
    assert card == capsys.readouterr().out


@pytest.mark.slow
def test_what_is_exported_cannot_be_exported_again(exported, tmp_path, capsys):
    assert main(["export", str(exported), str(tmp_path / "again.onnx")]) == 1
    assert str(exported) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("absent", ["onnxruntime"])
def test_export_names_the_extra_that_brings_what_it_needs(absent, folder, tmp_path):
    code = f"""
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name == {absent!r}:
            raise ModuleNotFoundError("absent", name=name)

sys.meta_path.insert(0, Without())
from farvox.cli.main import main
sys.exit(main(["export", {str(folder)!r}, {str(tmp_path / "m.onnx")!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert done.stderr == f"farvox export: export needs {absent}: pip install 'farvox[export]'\n"


@pytest.mark.slow
def test_a_device_needs_no_more_packages_than_its_page_says(exported, voices, tmp_path):
    """docs/device.md: numpy soundfile soxr onnxruntime tyro rich platformdirs."""
    code = (
        "import sys\n"
        "absent = ('torch', 'polars', 'scipy', 'matplotlib', 'av', 'safetensors', 'tomli_w')\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in absent:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from farvox.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    store, model = ["--store", str(tmp_path / "s.sqlite")], ["--model", str(exported), "--vad", "off"]
    first, second = str(voices / "a0.wav"), str(voices / "a1.wav")
    for words, statuses in (
        (["verify", first, second, *model], (0, 1)),
        (["enrol", "ann", first, *model, *store], (0,)),
        (["identify", first, *model, *store], (0,)),
        (["speakers", *store], (0,)),
        (["forget", "ann", *store], (0,)),
        (["models", str(exported)], (0,)),
    ):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode in statuses and "Traceback" not in done.stderr, done.stderr
