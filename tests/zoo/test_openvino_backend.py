"""An exported model run by OpenVINO: the embeddings of torch, in bf16 nearly so."""

import subprocess
import sys

import numpy as np
import pytest

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.errors import AudioError, ModelError
from farvox.zoo import open_embedder

PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16"])


@pytest.fixture
def opened(exported):
    """A function that opens the exported model in a precision that this machine has."""
    openvino = pytest.importorskip("openvino", reason="needs the extra openvino")
    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def opens(precision):
        if precision == "bf16" and not has_bf16:
            pytest.skip("this CPU has no bf16")
        return open_embedder(exported, backend="openvino", precision=precision)

    return opens


def waves():
    """Lengths that no other has, one of them hardly heard."""
    rng = np.random.default_rng(0)
    lengths = (8000, 12_345, 40_000, 64_000)
    found = [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in lengths]
    found[2] *= 0.01
    return found


def near(found_E, expected_E, precision):
    if precision == "fp32":
        return np.abs(found_E - expected_E).max() < 1e-4 * np.abs(expected_E).max()
    return found_E @ expected_E > 0.999 * np.linalg.norm(found_E) * np.linalg.norm(expected_E)


@pytest.mark.slow
@PRECISIONS
def test_embeddings_are_those_of_torch(opened, model_folder, precision):
    embedder, by_torch = opened(precision), open_embedder(model_folder)
    assert embedder.backend.startswith("openvino 2") and embedder.precision == precision
    assert (embedder.digest, embedder.card, embedder.config) == (
        by_torch.digest, by_torch.card, by_torch.config,
    )  # fmt: skip
    for wav_T in waves():
        assert near(embedder.embed(wav_T), by_torch.embed(wav_T), precision)
    with pytest.raises(AudioError, match="too few"):
        embedder.embed(np.ones(embedder.min_samples - 1, np.float32))


@pytest.mark.slow
@PRECISIONS
def test_embeddings_are_the_same_side_by_side(opened, precision):
    embedder = opened(precision)
    alone = [embedder.embed(wav_T) for wav_T in waves()]
    for workers in (1, 2, 3):
        with embedder.side_by_side(workers) as pool:
            together = list(pool.map(embedder.embed, waves()))
        for found_E, expected_E in zip(together, alone, strict=True):
            np.testing.assert_allclose(found_E, expected_E, atol=1e-5 * np.abs(expected_E).max())


@pytest.mark.slow
def test_what_computed_is_written_down(opened, exported, voices, tmp_path):
    opened("bf16")
    write_data_dir(tmp_path / "data", [Utterance(name, str(voices / f"{name}.wav")) for name in ("a0", "b1")])
    words = ["extract", str(exported), str(tmp_path / "data")]
    assert main([*words, str(tmp_path / "a")]) == 0
    assert main([*words, str(tmp_path / "b"), "--backend", "openvino", "--precision", "bf16"]) == 0
    exact, found = (EmbeddingSet.load(tmp_path / name) for name in "ab")
    assert exact.meta["precision"] == "fp32" and exact.meta["backend"].startswith("onnxruntime ")
    assert found.meta["precision"] == "bf16" and found.meta["backend"].startswith("openvino ")
    for found_E, expected_E in zip(found.embeddings, exact.embeddings, strict=True):
        assert near(found_E, expected_E, "bf16")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "bf16"], "onnxruntime has no bf16 on a CPU: add --backend openvino, or leave"),
        (["--backend", "torch"], "an exported model, which torch does not run: name what it was exported"),
    ],
)
def test_what_cannot_be_had_says_what_to_do(exported, tmp_path, capsys, words, message):
    write_data_dir(tmp_path / "data", [Utterance("a", "/absent.wav")])
    assert main(["extract", str(exported), str(tmp_path / "data"), str(tmp_path / "out"), *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_without_openvino_the_extra_is_named(exported):
    code = (
        "import sys\nsys.modules['openvino'] = None\n"
        "from farvox.errors import MissingExtraError\nfrom farvox.zoo import open_embedder\n"
        "try:\n    open_embedder(sys.argv[1], backend='openvino')\nexcept MissingExtraError as error:\n"
        "    print(error)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'farvox[openvino]'" in done.stdout


@pytest.mark.slow
def test_a_cpu_without_bf16_is_told(exported, monkeypatch):
    openvino = pytest.importorskip("openvino", reason="needs the extra openvino")
    monkeypatch.setattr(openvino.Core, "get_property", lambda *asked: ["FP32"])
    with pytest.raises(ModelError, match="this CPU has no bf16"):
        open_embedder(exported, backend="openvino", precision="bf16")
    assert open_embedder(exported, backend="openvino").embed(waves()[0]).any()
