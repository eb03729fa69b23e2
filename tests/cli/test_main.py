"""What the command says and returns when the system refuses, and when nobody listens."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import write_audio
from farvox.cli.main import main, missing_package
from farvox.datadir.kaldi import Utterance, write_data_dir

FARVOX = [sys.executable, "-m", "farvox"]


@pytest.fixture
def speakers(tmp_path: Path) -> Path:
    """A data dir of the speakers A and B."""
    write_audio(tmp_path / "x.wav", np.full(1600, 0.1))
    write_data_dir(tmp_path / "data", [Utterance(f"{s}-1", str(tmp_path / "x.wav"), s) for s in "AB"])
    return tmp_path / "data"


def test_a_refusal_of_the_system_that_names_a_file_is_a_line_and_status_1(
    speakers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/wav.scp").mkdir(parents=True)
    assert main(["subset", str(speakers), str(tmp_path / "out"), "--speakers", "1-1"]) == 1
    assert capsys.readouterr().err.startswith(f"farvox subset: {tmp_path}/out/wav.scp: ")


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    with subprocess.Popen([*FARVOX, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_a_line_and_status_1() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*FARVOX, "--version"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "farvox --version: No space left on device\n")


def test_a_list_is_read_from_a_pipe_and_a_folder_is_refused(speakers: Path, tmp_path: Path) -> None:
    words = [*FARVOX, "subset", str(speakers), str(tmp_path / "out"), "--speakers"]
    done = subprocess.run([*words, "/dev/stdin"], input=b"B\n", capture_output=True)
    assert done.returncode == 0
    assert (tmp_path / "out/spk2utt").read_text() == "B B-1\n"
    done = subprocess.run([*words, str(tmp_path)], capture_output=True)
    assert done.returncode == 1
    assert done.stderr.decode() == f"farvox subset: {tmp_path}: cannot be read: Is a directory\n"


BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Blocked())
from farvox.cli.main import main
sys.exit(main())
"""
"""Program that runs farvox as if the modules named by its first argument were not installed."""


@pytest.mark.parametrize(
    ("module", "words", "status", "install"),
    [
        ("polars", ["check", "data"], 1, "pip install polars"),
        ("polars", ["subset", "data", "out", "--speakers", "A"], 1, "pip install polars"),
        ("polars", ["score", "trials", "emb", "--out", "out"], 1, "pip install polars"),
        ("tyro", ["verify", "x.wav", "x.wav"], 2, "pip install tyro"),
    ],
)
def test_a_package_that_is_missing_is_named_with_what_installs_it(
    module: str, words: list[str], status: int, install: str, speakers: Path
) -> None:
    command = [sys.executable, "-c", BLOCK, module, *words]
    done = subprocess.run(command, cwd=speakers.parent, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == status
    assert done.stderr.startswith(f"farvox {words[0]}: the package '{module}' ")
    assert done.stderr.endswith(f"{install}\n")


def test_the_extra_that_brings_least_is_named_and_a_module_of_nobody_is_a_fault() -> None:
    for module, install in [
        ("torch", "'farvox[torch]'"),
        ("onnxruntime.capi", "'farvox[onnx]'"),
        ("silero_vad", "'farvox[vad]'"),
        ("nara_wpe", "'farvox[wpe]'"),
        ("fsspec", "'farvox[s3]'"),
        ("matplotlib.pyplot", "matplotlib"),
        ("tomli_w", "tomli-w"),
    ]:
        assert str(missing_package(module)).endswith(f"pip install {install}")
    assert missing_package("farvox.nothing") is None
    assert missing_package("nothing") is None
