"""An exported model run by onnxruntime: it is the model it was made of, and nothing else is taken for one."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from farvox import Verifier
from farvox.cli.main import main
from farvox.errors import AudioError, ModelError
from farvox.verifier import SqliteStore
from farvox.zoo import open_embedder
from farvox.zoo.onnx_backend import FORMAT, OnnxEmbedder, with_metadata

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Blocked())
"""


def without(modules, code, *words):
    """Run code in another process where some modules cannot be imported, and warnings are errors."""
    blocked = BLOCKED.format(names=modules)
    command = [sys.executable, "-W", "error", "-c", blocked + code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def waves(num_utterances, num_samples, seed=0):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((num_utterances, num_samples))).astype(np.float32)


def assert_close(found_E, expected_E):
    """Within 1e-4 of the largest number."""
    assert found_E.shape == expected_E.shape and found_E.dtype == expected_E.dtype == np.float32
    assert np.abs(found_E - expected_E).max() < 1e-4 * np.abs(expected_E).max()


@pytest.fixture(scope="session")
def embedder(exported):
    return OnnxEmbedder(exported)


@pytest.fixture(scope="session")
def by_torch(model_folder):
    return open_embedder(model_folder)


@pytest.fixture(scope="session")
def foreign():
    """A whole ONNX file that farvox did not write."""
    from onnx import TensorProto, helper

    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "T"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "rectifier", sides[:1], sides[1:])
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


METADATA = {
    "format": FORMAT,
    "farvox_version": "0",
    "config": '{"frontend": {}, "model": {"name": "xvector", "kwargs": {}}, "embedding_dim": 4}',
    "card": "{}",
    "digest": "0" * 64,
    "min_samples": "400",
}


def refused(path, content):
    """The message that a file with this content is refused with."""
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        OnnxEmbedder(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [None, 4001, 16_000, 54_321])
@pytest.mark.parametrize("num_utterances", [1, 3])
def test_it_gives_what_torch_gives_at_any_length_and_batch(embedder, by_torch, num_utterances, num_samples):
    wav_BT = waves(num_utterances, num_samples or by_torch.min_samples)
    emb_BE = embedder.embed_batch(wav_BT)
    assert emb_BE.shape == (num_utterances, 16)
    for wav_T, emb_E in zip(wav_BT, emb_BE, strict=True):
        assert_close(emb_E, by_torch.embed(wav_T))
        assert_close(embedder.embed(wav_T), emb_E)


@pytest.mark.slow
def test_samples_of_another_type_or_order_in_memory_are_taken(embedder):
    wav_T = waves(1, 16_000)[0]
    np.testing.assert_array_equal(embedder.embed(wav_T.astype(np.float64)), embedder.embed(wav_T))
    every_second_T = np.repeat(wav_T, 2)[::2]
    np.testing.assert_array_equal(embedder.embed(every_second_T), embedder.embed(wav_T))


@pytest.mark.slow
def test_threads_do_not_change_an_embedding(exported, embedder):
    wav_BT = waves(5, 20_000)
    expected_BE = embedder.embed_batch(wav_BT)
    tolerance = 1e-5 * np.abs(expected_BE).max()
    for other in (OnnxEmbedder(exported, threads=1), OnnxEmbedder(exported, threads=3)):
        alone_BE = np.stack([other.embed(wav_T) for wav_T in wav_BT])
        np.testing.assert_allclose(alone_BE, expected_BE, rtol=0, atol=tolerance)
        np.testing.assert_allclose(other.embed_batch(wav_BT), expected_BE, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_a_shorter_waveform_is_an_audio_error(embedder):
    with pytest.raises(AudioError, match=rf"needs at least {embedder.min_samples}"):
        embedder.embed(waves(1, embedder.min_samples - 1)[0])


@pytest.mark.slow
def test_the_file_knows_all_that_the_folder_knows(exported, embedder, by_torch):
    opened = open_embedder(exported)
    assert isinstance(opened, OnnxEmbedder) and opened.backend.startswith("onnxruntime ")
    assert embedder.card == by_torch.card and embedder.card.name == "small"
    assert embedder.card.threshold == 0.5 and embedder.card.calibration.scale == 10.0
    assert embedder.config == by_torch.config
    assert embedder.digest == by_torch.digest and len(embedder.digest) == 64
    for name in ("sample_rate", "min_samples", "embedding_dim"):
        assert getattr(embedder, name) == getattr(by_torch, name), name


@pytest.mark.slow
def test_several_threads_may_embed_at_once(embedder):
    wavs = [waves(1, 8000 + 400 * n, seed=n)[0] for n in range(8)]
    alone = [embedder.embed(wav_T) for wav_T in wavs]
    with ThreadPoolExecutor(4) as pool:
        for found_E, expected_E in zip(pool.map(embedder.embed, wavs), alone, strict=True):
            np.testing.assert_allclose(found_E, expected_E, atol=1e-5 * np.abs(expected_E).max())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_embeddings_are_the_same_side_by_side(exported, workers):
    embedder = OnnxEmbedder(exported)
    wavs = [waves(1, 8000 + 400 * n, seed=n)[0] for n in range(6)]
    alone = [embedder.embed(wav_T) for wav_T in wavs]
    for _ in range(2):
        with embedder.side_by_side(workers) as pool:
            together = list(pool.map(embedder.embed, wavs))
        for found_E, expected_E in zip(together, alone, strict=True):
            np.testing.assert_allclose(found_E, expected_E, atol=1e-5 * np.abs(expected_E).max())


@pytest.mark.slow
def test_a_file_replaced_while_it_is_used_is_not_mixed_with_the_new_one(exported, foreign, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(exported.read_bytes())
    embedder = OnnxEmbedder(path, threads=2)
    path.write_bytes(with_metadata(foreign, METADATA))
    with embedder.side_by_side(2) as pool:  # by what was read when the file was opened
        assert pool.submit(embedder.embed, waves(1, 16_000)[0]).result().shape == (16,)
    with pytest.raises(ModelError, match="was replaced by another model"):
        embedder.embed(waves(1, 16_000)[0])


@pytest.mark.slow
def test_without_torch_it_embeds_and_verifies(exported, embedder, voices, tmp_path):
    code = (
        "import numpy as np\nfrom farvox.cli.main import main\nfrom farvox.zoo import open_embedder\n"
        "file, wav, out, a, b = sys.argv[1:]\n"
        "np.save(out, open_embedder(file).embed(np.load(wav)))\n"
        "status = main(['verify', '--model', file, a, b, '--vad', 'off'])\n"
        "assert not any(name.split('.')[0] == 'torch' for name in sys.modules)\nsys.exit(status)"
    )
    wav_T = waves(1, 12_345)[0]
    np.save(tmp_path / "wav.npy", wav_T)
    files = [exported, tmp_path / "wav.npy", tmp_path / "emb.npy", voices / "a0.wav", voices / "a1.wav"]
    done = without(("torch", "onnx", "onnxscript", "safetensors"), code, *files)
    verdict = Verifier(embedder, vad="off").verify(voices / "a0.wav", voices / "a1.wav")
    assert (done.returncode, done.stderr) == (0 if verdict.same else 1, "")
    assert done.stdout.startswith(f"score        {verdict.score:.4f}   threshold 0.5\n")
    assert "probability " in done.stdout
    np.testing.assert_allclose(np.load(tmp_path / "emb.npy"), embedder.embed(wav_T), rtol=1e-6)


@pytest.mark.slow
def test_a_speaker_enrolled_by_torch_is_identified_by_the_file(exported, model_folder, voices, tmp_path):
    with SqliteStore(tmp_path / "speakers.sqlite") as store:
        by_folder = Verifier.from_pretrained(model_folder, store=store, vad="off")
        by_folder.enrol("ann", [voices / "a0.wav", voices / "a1.wav"])
        by_folder.enrol("bob", voices / "b0.wav")
        found = Verifier.from_pretrained(exported, store=store, vad="off").identify(voices / "b0.wav", top=2)
    assert found.name == "bob" and found.score == pytest.approx(1.0, abs=1e-5)
    assert (found.num_speakers, found.num_others) == (2, 0)


@pytest.mark.slow
def test_onnxruntime_says_nothing_of_its_own(exported, voices):
    """In a process of its own, for what a library says when it is first loaded."""
    code = (
        "import sys\nfrom farvox.cli.main import main\n"
        "sys.exit(main(['verify', '--model', *sys.argv[1:], '--vad', 'off']))"
    )
    words = map(str, (exported, voices / "a0.wav", voices / "a1.wav"))
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode in (0, 1) and done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("percent", [10, 50, 97])
def test_a_file_that_was_cut_is_refused(exported, tmp_path, percent):
    content = exported.read_bytes()
    message = refused(tmp_path / "cut.onnx", content[: len(content) * percent // 100])
    assert message == "no ONNX file, or a damaged one; export the model again"


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(1, 7))
def test_a_file_cut_between_its_metadata_is_refused(exported, tmp_path, cut):
    """Where the rest is a whole ONNX file, and only the seal, or an entry, is missing."""
    import onnx

    proto = onnx.load(exported)
    del proto.metadata_props[-cut:]
    assert "lack" in refused(tmp_path / "cut.onnx", proto.SerializeToString())


@pytest.mark.slow
def test_one_changed_bit_breaks_the_seal(exported, tmp_path):
    content = bytearray(exported.read_bytes())
    content[len(content) // 2] ^= 1
    message = refused(tmp_path / "m.onnx", bytes(content))
    assert message == "damaged, or changed since it was exported; export the model again"


@pytest.mark.slow
def test_a_changed_bit_is_noticed_anywhere(exported, tmp_path):
    content = bytearray(exported.read_bytes())
    for position in np.linspace(0, len(content) - 1, 60).astype(int):
        content[position] ^= 4
        assert refused(tmp_path / "m.onnx", bytes(content)), position
        content[position] ^= 4


@pytest.mark.slow
def test_a_file_that_another_tool_saved_again_is_refused(exported, tmp_path):
    import onnx

    proto = onnx.load(exported)
    proto.graph.doc_string = "changed"
    assert "changed since it was exported" in refused(tmp_path / "m.onnx", proto.SerializeToString())


def test_the_seal_is_the_hash_of_all_that_comes_before_it(foreign):
    import onnx

    content = with_metadata(foreign, METADATA)
    before = content[: content.rindex(b"\x72", 0, content.rindex(b"sha256"))]
    assert hashlib.sha256(before).hexdigest().encode() == content[-64:]
    entries = {entry.key: entry.value for entry in onnx.ModelProto.FromString(content).metadata_props}
    assert entries == METADATA | {"sha256": content[-64:].decode()}


def test_something_appended_breaks_the_seal(foreign, tmp_path):
    content = with_metadata(foreign, METADATA)
    assert "changed since it was exported" in refused(tmp_path / "m.onnx", content + foreign)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no model '.*absent\.onnx': there is no such file"):
        open_embedder(tmp_path / "absent.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match=r"folder\.onnx: cannot be read: "):
        open_embedder(tmp_path / "folder.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"a text file\n",
        b"PK\x03\x04",
        b"@a",
        bytes(1000),
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"\xff" * 100,
    ],
)
def test_what_is_no_onnx_file_at_all_is_refused(tmp_path, content):
    message = refused(tmp_path / "text.onnx", content)
    assert message == "no ONNX file, or a damaged one; export the model again"


def test_the_onnx_file_of_somebody_else_is_refused(foreign, tmp_path):
    assert "not one that 'farvox export' wrote" in refused(tmp_path / "m.onnx", foreign)
    theirs = with_metadata(foreign, {"format": "another-toolkit/1"})
    assert "not one that 'farvox export' wrote" in refused(tmp_path / "m.onnx", theirs)


def test_a_newer_format_is_refused(foreign, tmp_path):
    newer = with_metadata(foreign, METADATA | {"format": "farvox-onnx/2"})
    message = refused(tmp_path / "m.onnx", newer)
    assert message == "its format is farvox-onnx/2, and this farvox reads farvox-onnx/1: update farvox"


@pytest.mark.parametrize("key", [key for key in METADATA if key != "format"])
def test_metadata_that_lack_something_are_refused(foreign, tmp_path, key):
    lacking = {name: value for name, value in METADATA.items() if name != key}
    assert f"its metadata lack '{key}'" in refused(tmp_path / "m.onnx", with_metadata(foreign, lacking))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"config": "{"}, "'config' of its metadata is not JSON"),
        ({"config": "[]"}, "'config' of its metadata is not a table"),
        ({"config": "{}"}, "'config' of its metadata lacks 'frontend'"),
        ({"config": '{"frontend": {}, "model": {"name": "x"}, "embedding_dim": "a"}'}, "'embedding_dim'"),
        ({"min_samples": "many"}, "'min_samples' of its metadata is no number of samples"),
        ({"card": "[]"}, "'card' of its metadata is not a table"),
        ({"card": '{"threshold": 3.0}'}, "model card: the threshold 3.0 is no cosine"),
        ({"card": '{"treshold": 1}'}, "model card: unknown"),
        ({}, "the graph takes ['x'] and gives ['y']"),
    ],
)
def test_a_sealed_file_that_makes_no_sense_is_refused(foreign, tmp_path, changed, message):
    assert message in refused(tmp_path / "m.onnx", with_metadata(foreign, METADATA | changed))


def test_a_graph_that_onnxruntime_cannot_run_is_refused_and_only_once_said(foreign, tmp_path, capfd):
    unknown = foreign.replace(b"Relu", b"Conv")
    message = refused(tmp_path / "m.onnx", with_metadata(unknown, METADATA))
    assert message.startswith("onnxruntime ") and "cannot run it" in message and "Conv" in message
    assert capfd.readouterr() == ("", "")


def test_the_command_line_refuses_by_name_and_without_a_traceback(foreign, voices, tmp_path, capfd):
    (tmp_path / "m.onnx").write_bytes(foreign)
    words = [str(voices / "a0.wav"), str(voices / "a1.wav"), "--vad", "off"]
    assert main(["verify", "--model", str(tmp_path / "m.onnx"), *words]) == 2
    assert "m.onnx: an ONNX file, but not one that 'farvox export' wrote" in capfd.readouterr().err


def test_without_onnxruntime_the_extra_is_named(foreign, tmp_path):
    (tmp_path / "m.onnx").write_bytes(with_metadata(foreign, METADATA))
    code = (
        "from farvox.errors import MissingExtraError\nfrom farvox.zoo import open_embedder\n"
        "try:\n    open_embedder(sys.argv[1])\nexcept MissingExtraError as error:\n    print(error)"
    )
    done = without(("torch", "onnxruntime"), code, tmp_path / "m.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "exported models need onnxruntime: pip install 'farvox[onnx]'\n"
    assert os.fspath(tmp_path) not in done.stdout
