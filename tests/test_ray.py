"""A Ray cluster as engine: the files are those of one machine, whoever dies; what cannot work is named."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import farvox
from farvox.cli.main import main
from farvox.errors import JobError, ModelError, SpeakerError
from farvox.jobs import Job, cut
from farvox.ray_engine import MOST_LOST, compute_on_ray, on_ray
from farvox.zoo import open_embedder
from farvox.zoo.embedder import FileEmbedder
from test_sharding import OF_VERBS, begin_verb, home, tree

ray = pytest.importorskip("ray", reason="needs ray, of the extra ray")
pytestmark = pytest.mark.slow
__all__ = ["home"]  # a fixture
SMALL = {"object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    """A cluster whose head does no work, with one machine of one CPU; this process is connected to it."""
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
        try:
            patch.setenv("RAY_ADDRESS", cluster.address)
            cluster.add_node(num_cpus=1, **SMALL)
            ray.init(log_to_driver=False, logging_level="ERROR")  # so that all tests have the same workers
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
            signal.signal(signal.SIGTERM, before)


def test_the_token_of_this_user_is_shown_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "")  # put back in the end
        monkeypatch.delenv(name)
    with on_ray():
        assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("a token")
    with on_ray():
        assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with on_ray():
        assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.parametrize("verb", OF_VERBS)
def test_the_files_are_those_of_this_machine(verb, home, cluster, capsys):
    if verb == "extract":
        Path("broken.wav").write_bytes(b"RIFF\0\0\0\0 no audio")
        first, *others = Path("data/wav.scp").read_text().splitlines()
        Path("data/wav.scp").write_text("\n".join([f"{first.split()[0]} broken.wav", *others]) + "\n")
    command = [*OF_VERBS[verb].split(), *["--skip-bad"] * (verb == "extract")]
    begin_verb(verb)
    assert main(command) == 0
    whole, said = tree("out"), capsys.readouterr().out
    begin_verb(verb)
    assert main([*command, "--engine", "ray"]) == 0
    assert tree("out") == whole
    assert capsys.readouterr().out.splitlines()[-1:] == said.splitlines()[-1:]


def squares(folder, first=lambda number: None):
    """A function of batches of numbers; ``first`` is called with the first of each, the first time alone."""

    def compute(batch):  # sent by value, as the workers do not know this module
        mark = folder / f"{batch.start}.begun"
        if not mark.exists():
            mark.touch()
            first(batch.start)
        return "".join(f"{number**2}\n" for number in batch).encode()

    return compute


def job_in(folder, **options):
    return Job(what="squares", note=print, kept=folder / "kept", out=folder / "out", **options)


def texts(paths):
    return [path.read_text() for path in paths]


EXPECTED = ["0\n1\n4\n", "9\n16\n25\n", "36\n49\n64\n", "81\n"]


def test_a_machine_that_dies_costs_what_it_was_doing(cluster, tmp_path, wait_until):
    other = cluster.add_node(num_cpus=1, **SMALL)
    other_id, found = other.node_id, []

    def first(number):
        import time

        import ray

        from farvox.atomic import atomic_file

        there = tmp_path / "there"
        if ray.get_runtime_context().get_node_id() == other_id:
            with atomic_file(tmp_path / "kept/half"):
                there.touch()
                time.sleep(600)  # until it is killed
        while not there.exists():
            time.sleep(0.01)  # or this machine would do all

    def run():
        with on_ray():
            paths = job_in(tmp_path).run_kept(
                squares(tmp_path, first), cut(range(10), 3), tmp_path / "kept", ".txt"
            )
            found.extend(texts(paths))

    worker = threading.Thread(target=run)
    worker.start()
    try:
        wait_until((tmp_path / "there").exists)
    finally:
        cluster.remove_node(other, allow_graceful=False)
        worker.join()
    assert found == EXPECTED
    assert sorted(path.suffix for path in (tmp_path / "kept").iterdir()) == [".txt"] * 4  # and nothing half


def test_a_worker_that_is_killed_once_is_replaced(cluster, tmp_path):
    def first(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with on_ray():
        paths = job_in(tmp_path).run_kept(
            squares(tmp_path, first), cut(range(10), 3), tmp_path / "kept", ".txt"
        )
    assert texts(paths) == EXPECTED


def test_a_batch_that_kills_its_worker_again_and_again_ends_the_work(cluster, tmp_path):
    def compute(batch):
        if batch.start == 3:
            os._exit(1)
        return b"done"

    said = rf"squares: {MOST_LOST} workers died of one batch after 3 of 6 .*start again.* kept in {tmp_path}"
    with on_ray(), pytest.raises(JobError, match=said):
        job_in(tmp_path).run_kept(compute, cut(range(6), 3), tmp_path / "kept", ".txt")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["000000000.txt"]


@pytest.mark.parametrize("error", [SpeakerError("no 'anna'"), OSError(28, "full", "a.wav"), KeyError("x")])
def test_an_error_is_that_of_the_function(error, cluster, tmp_path):
    def compute(batch):
        raise error

    with on_ray(), pytest.raises(type(error)) as caught:
        job_in(tmp_path).run_kept(compute, cut(range(6), 3), tmp_path / "kept", ".txt")
    assert (str(caught.value), caught.value.args) == (str(error), error.args)


def test_a_machine_with_another_farvox_or_other_files_is_refused(cluster, tmp_path, monkeypatch):
    own = f"/proc/self/task/{threading.get_native_id()}"  # which no other process sees
    with on_ray():
        with pytest.raises(
            JobError, match=f"{os.uname().nodename} does not see {own}; all machines must share"
        ):
            list(compute_on_ray(len, ["a"], 1, reads=[own]))
        before = farvox.__version__
        monkeypatch.setattr(farvox, "__version__", "0.0.1")
        said = rf"{sys.executable} has farvox {before}, and this machine 0\.0\.1: install the same"
        with pytest.raises(JobError, match=said):
            list(compute_on_ray(len, ["a"], 1))


def test_a_cluster_that_does_not_answer_is_named(home):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and listens to nobody
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        command = [sys.executable, "-m", "farvox", *OF_VERBS["pack"].split(), "--engine", "ray"]
        environment = os.environ | {"RAY_ADDRESS": address}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"farvox pack: the Ray cluster at {address} cannot be used" in done.stderr
    assert "start one with 'ray start --head', or unset RAY_ADDRESS" in done.stderr


def test_a_machine_that_computes_by_another_library_is_refused(model_folder):
    embedder = open_embedder(model_folder, backend="torch")
    make, (of, backend, *more) = FileEmbedder(embedder).__reduce__()
    with pytest.raises(ModelError, match=r"by torch .* began by torch 1\.0: install the same on all"):
        make(of, "torch 1.0", *more)
    assert make(of, backend, *more)([]) == (b"", {})


def test_a_verb_whose_machine_is_killed_in_the_middle_goes_on_also_what_the_other_engine_began(home, cluster):
    command = [
        "simulate",
        "data",
        "out",
        "--t60",
        "0.2",
        "0.3",
        "--channels",
        "0",
        "--copies",
        "3",
        "--jobs",
        "1",
    ]
    assert main(command) == 0
    whole, batches = tree("out"), sorted(Path("out/batches").glob("*.tsv"))
    kept, todo = batches[0], batches[1:]
    before = kept.stat().st_mtime_ns
    for path in [*todo, *Path("out").glob("*2*")]:  # a run that broke off after the first batch
        path.unlink()
    other = cluster.add_node(num_cpus=1, **SMALL)

    def kill():
        while not any(path.exists() for path in todo):
            time.sleep(0.01)
        cluster.remove_node(other, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    command[-1] = "4"
    status = main([*command, "--engine", "ray"])
    killer.join(120)
    assert status == 0 and tree("out") == whole
    assert kept.stat().st_mtime_ns == before


def test_a_signal_ends_a_verb_and_leaves_nothing_half_written(home, cluster, wait_until):
    command = [
        "simulate",
        "data",
        "out",
        "--t60",
        "0.2",
        "0.3",
        "--channels",
        "0",
        "--copies",
        "1000",
        "--engine",
        "ray",
    ]
    with subprocess.Popen([sys.executable, "-m", "farvox", *command], stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: list(Path("out").glob("batches/*.tsv")) or process.poll() is not None)
            process.terminate()
            said = process.communicate(timeout=120)[1].decode()
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert said.endswith("farvox simulate: ended by SIGTERM\n") and "Traceback" not in said
    assert not [name for name in os.listdir() if name.startswith(".")]
    assert not [path for path in Path("out").rglob(".*")]
