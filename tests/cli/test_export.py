"""``farvox export``."""

import os
import subprocess
import sys

import pytest
import torch

from farvox.cli.main import main
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


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
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
