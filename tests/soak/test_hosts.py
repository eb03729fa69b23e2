"""Two machines, each a network namespace of its own, train one model by ``torchrun``."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import tomli_w

from farvox.options import merge
from farvox.training.launch import launch_ranks

FRAGILE = Path(__file__).parents[1] / "training/fragile.py"
WEIGHTS = ("model", "classifier", "optimizer")
ADDRESSES = ("10.77.0.1", "10.77.0.2")


@contextmanager
def kept(command):
    """A process that keeps a namespace, until the end of the block."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            process.stdin.write(b"\n")
            process.stdin.flush()
            if not process.stdout.readline():
                pytest.skip(f"needs the right to make network namespaces: {' '.join(command[:4])} failed")
            yield process.pid
        finally:
            process.kill()


@pytest.fixture(scope="module")
def hosts():
    """For each of two namespaces, joined by a cable, the words before a command that runs in it."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("needs unshare, nsenter and ip, of util-linux and iproute2")
    with ExitStack() as stack:
        first = stack.enter_context(kept(["unshare", "--map-root-user", "--net", "cat"]))
        inside = ("nsenter", "--target", str(first), "--user", "--net", "--preserve-credentials")
        second = stack.enter_context(kept([*inside, "unshare", "--net", "cat"]))
        hosts = [inside, (*inside[:2], str(second), *inside[3:])]
        cable = "link add cable type veth peer name cable netns"
        subprocess.run([*inside, "ip", *cable.split(), str(second)], check=True)
        for host, address in zip(hosts, ADDRESSES, strict=True):
            for words in (f"addr add {address}/24 dev cable", "link set cable up", "link set lo up"):
                subprocess.run([*host, "ip", *words.split()], check=True)
        yield hosts


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_recipe):
    """The file of a recipe, in a folder for its runs."""
    path = tmp_path_factory.mktemp("hosts") / "recipe.toml"
    table = {"data": {"epoch_size": 80}, "schedule": {"epochs": 6}}
    path.write_text(tomli_w.dumps(merge(tiny_recipe, table)))
    return path


@pytest.fixture(scope="module")
def local(recipe):
    """The run dir of two ranks of one machine that nothing happened to."""
    run_dir = recipe.parent / "local"
    words = ["-m", "farvox", "train", str(recipe), "--run-dir", str(run_dir)]
    assert launch_ranks([sys.executable, *words], 2) == 0
    return run_dir


@pytest.fixture
def agent(hosts, recipe, in_session):
    """A function that starts torchrun on a host; what it says goes to ``said0.txt`` or ``said1.txt``."""
    with ExitStack() as stack:

        def agent(number, run_dir, *program, nodes="2", **env):
            words = [
                sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1",
                "--max-restarts", "2", "--rdzv-backend", "c10d", "--rdzv-id", run_dir.name,
                "--rdzv-endpoint", f"{ADDRESSES[0]}:29400",
                "--rdzv-conf", f"is_host={not number},last_call_timeout=8",
                "--local-addr", ADDRESSES[number], *program,
            ]  # fmt: skip
            words += ["train", str(recipe), "--run-dir", str(run_dir)]
            said = stack.enter_context((recipe.parent / f"said{number}.txt").open("ab"))
            env = {**os.environ, "GLOO_SOCKET_IFNAME": "cable", **env}
            process = in_session([*hosts[number], *words], env=env, stdout=said, stderr=said)
            stack.callback(process.wait)
            stack.callback(lambda: process.poll() is None and os.killpg(process.pid, signal.SIGKILL))
            return process

        yield agent


def assert_ended(agents, recipe):
    for process in agents:
        said = "".join((recipe.parent / f"said{n}.txt").read_text()[-4000:] for n in range(2))
        assert process.wait(900) == 0, said


def assert_same(one, other):
    names = ["log.jsonl", *(f"checkpoints/epoch_005/{name}.safetensors" for name in WEIGHTS)]
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_two_hosts_have_the_losses_of_two_local_ranks(agent, recipe, local, tell):
    run_dir = recipe.parent / "two"
    assert_ended([agent(number, run_dir, "-m", "farvox") for number in range(2)], recipe)
    assert_same(local, run_dir)
    tell("two hosts in two network namespaces", steps_with_the_same_loss=60)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_of_a_host_that_is_killed_costs_nothing(rank, agent, recipe, local, tell):
    run_dir = recipe.parent / f"killed{rank}"
    fragile = f"{rank}:{signal.SIGKILL.value}:{run_dir / 'checkpoints/epoch_001'}"
    agents = [agent(number, run_dir, str(FRAGILE), FRAGILE=fragile) for number in range(2)]
    assert_ended(agents, recipe)
    assert Path(f"{run_dir}.leaving").exists()
    assert_same(local, run_dir)
    tell("SIGKILL of a rank on one of two hosts", kills=1, torn=0)


def test_the_host_that_is_left_goes_on_alone_with_the_same_batches(agent, recipe, wait_until, tell):
    run_dir = recipe.parent / "alone"
    fragile = f"1:{signal.SIGSTOP.value}:{run_dir / 'checkpoints/epoch_001'}"
    left, lost = (agent(n, run_dir, str(FRAGILE), nodes="1:2", FRAGILE=fragile) for n in range(2))
    wait_until(Path(f"{run_dir}.leaving").exists, 600)
    os.killpg(lost.pid, signal.SIGKILL)
    os.kill(int(Path(f"{run_dir}.leaving").read_text()), signal.SIGKILL)  # it stands still, and cannot end
    assert_ended([left], recipe)
    assert "of 8, in 2 pass(es) a process of 4 examples each" in (run_dir / "train.log").read_text()
    assert (run_dir / "log.jsonl").read_text().count('"step", ') == 60
    tell("one of two hosts is lost", goes_on_alone=1)
