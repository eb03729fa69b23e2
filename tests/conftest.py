"""A small corpus for the tests of training and of the command line."""

import gc
import http.client
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
import venv
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from farvox.audio.files import write_audio
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.synthetic.voice import draw_sentence, draw_voice, synthesise
from kills import running as processes_of

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # processes that are started under nohup would ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)  # and those that a script starts in the background
settings.register_profile("farvox", deadline=None)  # a busy machine makes no test fail
settings.load_profile("farvox")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Without garbage collections, each of which would look at all that was made, and that stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """A cache of the session's own; the models that were pulled are those of the user's."""
    from farvox.cache import cache_path

    folder = tmp_path_factory.mktemp("cache")
    models = cache_path() / "models"
    models.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(models.resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARVOX_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def own_keys(tmp_path_factory):
    """Keys of enrolled speakers of the session's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARVOX_KEYS", str(tmp_path_factory.mktemp("keys")))
        yield


@pytest.fixture(scope="session")
def sides_of_trials():
    """A function that gives, for every trial, the utterances of its enrolment and of its test."""

    def sides_of_trials(resolved):
        bounds = zip(resolved.side_offsets[:-1], resolved.side_offsets[1:], strict=True)
        sides = [tuple(resolved.utt_ids[row] for row in resolved.side_rows[a:b]) for a, b in bounds]
        pairs = zip(resolved.enrol_side, resolved.test_side, strict=True)
        return [(sides[enrol], sides[test]) for enrol, test in pairs]

    return sides_of_trials


@pytest.fixture(scope="session")
def running():
    """A function that gives the processes of a session that still run, by number: their words."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("looks for processes in /proc")

    return processes_of


@pytest.fixture
def other_processes(monkeypatch):
    """Where a verb takes several processes, they are started at once, also for short work."""
    monkeypatch.setattr("farvox.jobs.ALONE", 0)


@pytest.fixture(scope="session")
def in_session():
    """A function that starts a program in a session of its own; it takes SIGHUP, also if we run in nohup."""

    def in_session(command, **options):
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            return subprocess.Popen(command, start_new_session=True, **options)
        finally:
            signal.signal(signal.SIGHUP, before)

    return in_session


@pytest.fixture(scope="session")
def wait_until():
    """A function that waits until another one gives something true, and gives that."""

    def wait_until(condition, seconds=120.0):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.01)
        return found

    return wait_until


def buzz(rng, pitch, formant, num_samples):
    """A voice-like sound: harmonics of a pitch around a formant, with a little noise."""
    t = np.arange(num_samples) / 16000
    harmonics = np.arange(1, 25) * pitch * (1 + 0.02 * rng.standard_normal())
    gains = np.exp(-(((harmonics - formant) / 600) ** 2)) + 0.05
    phases = rng.uniform(0, 2 * np.pi, len(harmonics))
    wav_T = sum(g * np.sin(2 * np.pi * f * t + p) for g, f, p in zip(gains, harmonics, phases, strict=True))
    return (0.05 * wav_T + 0.01 * rng.standard_normal(num_samples)).astype(np.float32)


@pytest.fixture(scope="session")
def make_corpus():
    """A function that writes a data dir of made-up voices, with a list of all trials in it."""

    def make(folder, *, speakers, takes=4, seconds=(0.5, 0.9), seed=0):
        rng = np.random.default_rng(seed)
        utterances = []
        for speaker in speakers:
            pitch, formant = rng.uniform(90, 260), rng.uniform(400, 2500)
            for take in range(takes):
                path = folder / "wav" / f"{speaker}_{take}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                num_samples = int(rng.uniform(*seconds) * 16000)
                write_audio(path, buzz(rng, pitch, formant, num_samples))
                utterances.append(Utterance(f"{speaker}_{take}", str(path), speaker, num_samples))
        pairs = [(a, b) for n, a in enumerate(utterances) for b in utterances[n + 1 :]]
        lines = [f"{int(a.speaker_id == b.speaker_id)} {a.utt_id} {b.utt_id}\n" for a, b in pairs]
        write_data_dir(folder, utterances, files={"trials": "".join(lines)})
        return folder

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, make_corpus):
    """Data dirs ``train`` (six speakers, 24 utterances), ``more`` (three of them and two new) and ``dev``."""
    root = tmp_path_factory.mktemp("corpus")
    make_corpus(root / "train", speakers=[f"s{n}" for n in range(6)])
    make_corpus(root / "more", speakers=["s3", "s4", "s5", "a0", "t9"], takes=2, seed=1)
    make_corpus(root / "dev", speakers=["d0", "d1", "d2"], takes=3, seed=2)
    return root


@pytest.fixture(scope="session")
def tiny_recipe(corpus):
    """A recipe, as nested tables, that trains in a second on the CPU."""
    return {
        "device": "cpu",
        "threads": 1,
        "data": {"train": [str(corpus / "train")], "num_frames": 30, "workers": 0},
        "features": {"num_mels": 24},
        "model": {
            "name": "xvector",
            "num_mels": 24,
            "channels": 16,
            "pooled_channels": 32,
            "embedding_dim": 16,
        },
        "head": {"name": "aam"},
        "optim": {"batch_size": 8, "lr": 0.01},
        "schedule": {"epochs": 2, "kind": "constant", "warmup_epochs": 0},
        "log": {"every": 1},
    }


@pytest.fixture(scope="session")
def golden():
    """The folder of frozen numbers."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def corpora():
    """The folder of real speech; tests skip where there is none."""
    folder = os.environ.get("FARVOX_CORPORA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real speech: FARVOX_CORPORA names no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def campplus():
    """The folder of the pretrained CAM++, pulled into the user's cache; tests skip where it cannot be had."""
    from farvox.errors import FarvoxError
    from farvox.zoo import pull

    try:
        return pull("campplus-zh-en")
    except FarvoxError as error:
        pytest.skip(f"needs the pretrained model: {error}")


@pytest.fixture
def sample_margins(campplus):
    """A function that makes a sample, and gives two margins to the threshold of the pretrained model.

    They are those of its lowest score of one speaker and of its highest score of two.
    """
    from farvox import Verifier
    from farvox.synthetic.sample import make_sample

    verifier = Verifier.from_pretrained("campplus-zh-en")

    def sample_margins(folder, seed):
        recordings = make_sample(folder, seed=seed)
        signals = [verifier.signal(str(path)) for path in recordings]
        assert not any(signal.warnings for signal in signals)
        emb_NE = verifier.embed(signals)
        pairs = {True: [], False: []}
        for one, other in combinations(range(len(recordings)), 2):
            is_same = recordings[one].parent == recordings[other].parent
            pairs[is_same].append((float(emb_NE[one] @ emb_NE[other]), one, other))
        hardest = min(pairs[True]), max(pairs[False])
        verdicts = [verifier.verify(signals[one], signals[other]) for _, one, other in hardest]
        assert [verdict.score for verdict in verdicts] == pytest.approx(
            [score for score, *_ in hardest], abs=1e-5
        )
        return verdicts[0].score - verifier.card.threshold, verifier.card.threshold - verdicts[1].score

    return sample_margins


@pytest.fixture
def assert_decisions_alike(campplus, corpora):
    """A function that takes CAM++ over all pairs of recordings by its graph and by torch: equal decisions.

    They are some, as a slice says, of the 20 of each of speakers 101 to 125 of speechocean762, sorted.
    """
    from farvox.zoo import open_embedder
    from farvox.zoo.embedder import embed_files

    def assert_decisions_alike(some):
        speakers = sorted((corpora / "speechocean762" / "WAVE").iterdir())[100:125]
        files = [str(path) for speaker in speakers for path in sorted(speaker.iterdir())]
        assert len(files) == 500
        files = files[some]
        ways = [open_embedder("campplus-zh-en", backend=backend) for backend in ("auto", "torch")]
        assert ways[0].backend.startswith("onnxruntime ")
        found = [embed_files(embedder, files, files).astype(np.float64) for embedder in ways]
        found = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in found]
        pairs = np.triu_indices(len(files), 1)
        ours, theirs = ((rows @ rows.T)[pairs] for rows in found)
        assert np.abs(ours - theirs).max() <= 1e-5
        assert (1 - (found[0] * found[1]).sum(axis=1)).max() <= 1e-6
        threshold = ways[0].card.threshold
        assert ((ours >= threshold) == (theirs >= threshold)).all()
        return len(ours)

    return assert_decisions_alike


@pytest.fixture(scope="session")
def voices(tmp_path_factory):
    """A folder with ``a0.wav a1.wav a2.wav b0.wav b1.wav b2.wav``: sentences of two made-up speakers."""
    folder = tmp_path_factory.mktemp("voices")
    for speaker, name in ((1, "a"), (2, "b")):
        voice = draw_voice(np.random.default_rng(speaker))
        for take in range(3):
            rng = np.random.default_rng([speaker, take])
            wav_T = synthesise(voice, draw_sentence(rng, 2.0), rng)
            write_audio(folder / f"{name}{take}.wav", 0.3 * wav_T / np.abs(wav_T).max())
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A small ECAPA-TDNN of random weights; its card has a threshold and a calibration."""
    import torch

    from farvox.features.frontend import FrontEndConfig
    from farvox.models.registry import build_model
    from farvox.zoo import Calibration, Card, save_model

    folder = tmp_path_factory.mktemp("model") / "small"
    torch.manual_seed(0)
    kwargs = {"num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16}
    save_model(folder, build_model("ecapa", **kwargs), FrontEndConfig(num_mels=24), "ecapa", kwargs)
    Card(name="small", threshold=0.5, calibration=Calibration(10.0, -5.0)).save(folder)
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory, model_folder):
    """The model of ``model_folder`` as an ONNX file. An export takes long: tests that use it are slow."""
    from farvox.zoo import Card, load_model
    from farvox.zoo.export import export_onnx

    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    export_onnx(load_model(model_folder), Card.load(model_folder), path)
    return path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("farvox-*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The site-packages of an environment with a wheel of this checkout, and all that is installed here."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "farvox" not in path.name:
            (packages / path.name).symlink_to(path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return packages


@pytest.fixture(scope="session")
def s3_server():
    """URL of a server that answers as S3 does, on this machine."""
    pytest.importorskip("s3fs", reason="needs s3fs, of the extra s3")
    pytest.importorskip("moto", reason="needs moto[server], of the extra dev")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(url, timeout=60).close()
                break
            time.sleep(0.05)
        assert process.poll() is None, "the server did not start"
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(s3_server, monkeypatch, request):
    """URL of a bucket of the test's own, with all that it takes to reach it in the environment."""
    import fsspec

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    fsspec.filesystem("s3").clear_instance_cache()  # it knows the server of another test
    name = f"bucket-{abs(hash(request.node.nodeid))}"
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}"
    fsspec.filesystem("s3").clear_instance_cache()


class _Proxy(BaseHTTPRequestHandler):
    """Hands on what it is asked, but spoils some answers."""

    protocol_version = "HTTP/1.1"

    def do_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault_of(f"{self.command} {self.path}")
        if fault == "hang up":
            self.close_connection = True
            return
        if fault == "busy":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        upstream = http.client.HTTPConnection(self.server.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if fault == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any

    def log_message(self, *words):
        pass


@pytest.fixture
def way_to_store(bucket, s3_server, monkeypatch):
    """A way to the server of ``bucket``, which all requests take.

    ``requests`` has them, as ``GET /bucket/key``; ``faults`` those of the next requests. ``fault_of`` may be
    replaced: it gives the fault of a request.
    """
    import fsspec

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    server.upstream, server.faults, server.requests = s3_server.removeprefix("http://"), [], []

    def fault_of(request):
        server.requests.append(request)
        return server.faults.pop(0) if server.faults else None

    server.fault_of = fault_of
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    fsspec.filesystem("s3").clear_instance_cache()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
