"""An exported model without torch: what is accepted, what is refused, and what it computes."""

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from farvox.errors import AudioError, ModelError
from farvox.export import export_onnx
from farvox.features.frontend import FrontEndConfig, build_frontend
from farvox.models.registry import build_model
from farvox.zoo import Card, Model, open_embedder
from farvox.zoo.onnx import FORMAT, OnnxEmbedder, with_metadata

pytestmark = pytest.mark.slow  # because of the one export

CONFIG = FrontEndConfig(num_mels=20)
SIZES = {"num_mels": 20, "channels": 16, "pooled_channels": 24, "embedding_dim": 16}


@pytest.fixture(scope="module")
def small():
    """A network of few channels, untrained."""
    torch.manual_seed(0)
    described = {
        "format": "farvox-model/1",
        "frontend": CONFIG.to_dict(),
        "model": {"name": "xvector", "kwargs": SIZES},
        "embedding_dim": 16,
    }
    return Model(build_model("xvector", **SIZES).eval(), build_frontend(CONFIG), described)


@pytest.fixture(scope="module")
def path(small, tmp_path_factory):
    """It, exported."""
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    export_onnx(small, Card(name="small", threshold=0.5), path)
    return path


def wave(num_samples=20_000, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def graph_of(path):
    """The file without its metadata."""
    import onnx

    proto = onnx.load(path)
    del proto.metadata_props[:]
    return proto.SerializeToString()


def metadata_of(path):
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path).metadata_props if entry.key != "sha256"}


def refused(path, content):
    (other := path.with_name("other.onnx")).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        OnnxEmbedder(other)
    assert str(caught.value).startswith(f"{other}: ")
    return str(caught.value)


def test_an_embedding_is_that_of_torch(small, path):
    emb_E = open_embedder(path).embed(wave())
    assert (emb_E.shape, emb_E.dtype) == ((16,), np.float32)
    theirs_E = small.embed(torch.from_numpy(wave())[None])[0].numpy()
    np.testing.assert_allclose(emb_E, theirs_E, rtol=0, atol=1e-4 * np.abs(theirs_E).max())


def test_an_embedding_does_not_depend_on_batch_threads_or_optimisation(path):
    waves_BT = np.stack([wave(seed=n) for n in range(5)])
    alone_BE = np.stack([OnnxEmbedder(path, threads=1).embed(wav_T) for wav_T in waves_BT])
    np.testing.assert_allclose(OnnxEmbedder(path).embed_batch(waves_BT), alone_BE, rtol=1e-5, atol=1e-6)
    optimised = OnnxEmbedder(path, optimise=True)
    np.testing.assert_allclose(optimised.embed_batch(waves_BT), alone_BE, rtol=1e-5, atol=1e-6)


def test_threads_may_share_an_embedder(path):
    embedder = OnnxEmbedder(path)
    waves = [wave(8_000 + 37 * n, seed=n) for n in range(40)]
    one_by_one = [embedder.embed(wav_T) for wav_T in waves]
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_allclose(list(pool.map(embedder.embed, waves)), one_by_one, rtol=1e-5, atol=1e-6)
    with embedder.side_by_side(3) as pool:
        np.testing.assert_allclose(list(pool.map(embedder.embed, waves)), one_by_one, rtol=1e-5, atol=1e-6)


def test_a_waveform_that_is_too_short_is_refused(path):
    embedder = OnnxEmbedder(path)
    assert embedder.embed(wave(embedder.min_samples)).shape == (16,)
    with pytest.raises(AudioError, match=f"needs at least {embedder.min_samples}"):
        embedder.embed(wave(embedder.min_samples - 1))


def test_a_waveform_may_be_a_view(path):
    wav_CT = np.asfortranarray(np.stack([wave(), wave(seed=1)]))
    assert np.array_equal(OnnxEmbedder(path).embed(wav_CT[1]), OnnxEmbedder(path).embed(wave(seed=1)))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no model '.*none\.onnx': there is no such file"):
        OnnxEmbedder(tmp_path / "none.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match=r"folder\.onnx: cannot be read: "):
        OnnxEmbedder(tmp_path / "folder.onnx")


def test_other_onnx_files_are_refused(path):
    assert "not one that 'farvox export' wrote" in refused(path, graph_of(path))
    assert "not one that 'farvox export' wrote" in refused(path, b"")
    foreign = with_metadata(graph_of(path), {"format": "somebody's"})
    assert "not one that 'farvox export' wrote" in refused(path, foreign)


def test_files_of_other_kinds_are_refused(path):
    assert "no ONNX file" in refused(path, b"RIFF\x24\x00\x00\x00WAVEfmt ")
    assert "no ONNX file" in refused(path, b"\xff" * 100)


def test_a_file_that_was_cut_is_refused(path):
    content = path.read_bytes()
    for size in (1, 100, len(content) // 2, len(content) - 1):
        refused(path, content[:size])


def test_a_file_with_one_wrong_bit_is_refused(path):
    content = bytearray(path.read_bytes())
    for position in np.linspace(0, len(content) - 1, 60).astype(int):
        content[position] ^= 4
        refused(path, bytes(content))
        content[position] ^= 4


def test_a_file_that_another_tool_saved_again_is_refused(path):
    import onnx

    proto = onnx.load(path)
    proto.graph.doc_string = "changed"
    assert "changed since it was exported" in refused(path, proto.SerializeToString())


def test_a_newer_format_asks_for_a_newer_farvox(path):
    newer = with_metadata(graph_of(path), metadata_of(path) | {"format": "farvox-onnx/2"})
    assert f"its format is farvox-onnx/2, and this farvox reads {FORMAT}: update farvox" in refused(
        path, newer
    )


@pytest.mark.parametrize("key", ["config", "card", "digest", "min_samples"])
def test_incomplete_metadata_are_refused(path, key):
    rest = {name: value for name, value in metadata_of(path).items() if name != key}
    assert f"its metadata lack '{key}'" in refused(path, with_metadata(graph_of(path), rest))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"config": "{"}, "'config' of its metadata is not JSON"),
        ({"card": "[]"}, "'card' of its metadata is not a table"),
        ({"config": "{}"}, "is no model's: "),
        ({"min_samples": "some"}, "is no model's: "),
        ({"card": '{"threshold": 3.0}'}, "model card: the threshold 3.0 is no cosine"),
    ],
)
def test_senseless_metadata_are_refused(path, wrong, message):
    assert message in refused(path, with_metadata(graph_of(path), metadata_of(path) | wrong))


def test_a_graph_that_onnxruntime_cannot_run_is_refused(path):
    import onnx

    proto = onnx.ModelProto.FromString(graph_of(path))
    proto.graph.node[0].op_type = "Unheard"
    content = with_metadata(proto.SerializeToString(), metadata_of(path))
    assert "cannot run it: " in refused(path, content)


def test_the_metadata_are_those_of_the_standard(path):
    content = path.read_bytes()
    seal = content[-64:]
    before = content[: content.rindex(b"\x72", 0, content.rindex(b"sha256"))]
    assert hashlib.sha256(before).hexdigest().encode() == seal
    assert with_metadata(before, {})[-64:] == seal


def test_a_model_replaced_meanwhile_is_noticed(path, tmp_path):
    shutil.copy(path, tmp_path / "m.onnx")
    embedder = OnnxEmbedder(tmp_path / "m.onnx")
    changed = with_metadata(graph_of(path), metadata_of(path) | {"digest": "0"})
    (tmp_path / "m.onnx").write_bytes(changed)
    with pytest.raises(ModelError, match="was replaced by another model"), embedder.side_by_side(2):
        pass


WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name in {names}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Without())
"""


def run(code, without):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT.format(names=without) + code],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_torch_and_onnx_are_not_needed_and_nothing_is_said(path, tmp_path):
    np.save(tmp_path / "wav.npy", wave())
    done = run(
        f"""
import numpy as np
from farvox.zoo import open_embedder
embedder = open_embedder({str(path)!r})
np.save({str(tmp_path / "emb.npy")!r}, embedder.embed(np.load({str(tmp_path / "wav.npy")!r})))
print(embedder.card.name, embedder.sample_rate)
""",
        without=("torch", "onnx", "onnxscript", "safetensors"),
    )
    assert (done.stdout, done.stderr, done.returncode) == ("small 16000\n", "", 0)
    np.testing.assert_array_equal(np.load(tmp_path / "emb.npy"), OnnxEmbedder(path).embed(wave()))


def test_the_extra_that_brings_onnxruntime_is_named(path):
    done = run(
        f"""
from farvox.errors import MissingExtraError
from farvox.zoo import open_embedder
try:
    open_embedder({str(path)!r})
except MissingExtraError as error:
    print(error)
""",
        without=("torch", "onnxruntime"),
    )
    assert (done.stdout, done.stderr) == (
        "exported models need onnxruntime: pip install 'farvox[onnx]'\n",
        "",
    )
