"""farvox without torch, in another process: what needs it says so, what does not goes on."""

import subprocess
import sys

NO_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_importing_the_zoo_does_not_import_torch():
    assert run("import sys, farvox.zoo; sys.exit('torch' in sys.modules)").returncode == 0


def test_listing_the_models_goes_on_and_names_the_two_ways_out():
    done = run(NO_TORCH + "from farvox.cli.main import main; sys.exit(main(['models']))")
    assert (done.returncode, done.stderr) == (0, "")
    assert "campplus-zh-en" in done.stdout
    assert "models need torch: pip install 'farvox[torch]'; or, " in done.stdout
    assert "farvox export MODEL OUT.onnx" in done.stdout


def test_embeddings_can_be_imported_without_torch(tmp_path):
    done = run(
        NO_TORCH + "import numpy as np; from farvox.zoo import import_embeddings; "
        f"np.save({str(tmp_path / 'e.npy')!r}, {{'a': np.ones(3, np.float32)}}, allow_pickle=True); "
        f"import_embeddings({str(tmp_path / 'e.npy')!r}, {str(tmp_path / 'out')!r})"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "embeddings.npy").is_file()


def test_a_name_of_the_zoo_is_answered_with_the_two_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path))
    done = run(NO_TORCH + "from farvox.zoo import open_embedder; open_embedder('campplus-zh-en')")
    assert "MissingExtraError" in done.stderr and "pip install 'farvox[torch]'" in done.stderr
    assert "farvox export campplus-zh-en OUT.onnx" in done.stderr
