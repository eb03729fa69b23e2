"""Ranks of ``torchrun`` that are lost: the others say which, and the group goes on as if nothing had been."""

import os
import signal
import sys
from pathlib import Path

import pytest
import tomli_w

from farvox.options import merge
from farvox.training.launch import launch_ranks

FRAGILE = Path(__file__).with_name("fragile.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TRAINING = {"data": {"epoch_size": 40}, "schedule": {"epochs": 3}}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_recipe):
    """The file of a recipe, in a folder for its runs."""
    path = tmp_path_factory.mktemp("elastic") / "recipe.toml"
    path.write_text(tomli_w.dumps(merge(tiny_recipe, TRAINING)))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe):
    """The run dir of two ranks that nothing happened to."""
    run_dir = recipe.parent / "undisturbed"
    words = ["-m", "farvox", "train", str(recipe), "--run-dir", str(run_dir)]
    assert launch_ranks([sys.executable, *words], 2) == 0
    return run_dir


@pytest.mark.slow
def test_a_rank_that_stands_still_is_named_and_the_group_goes_on_in_the_same_bits(
    recipe, undisturbed, in_session, wait_until, same_weights, logged
):
    run_dir, said = recipe.parent / "stopped", recipe.parent / "said.txt"
    words = [*TORCHRUN, "--max-restarts", "1", str(FRAGILE), "train", str(recipe), "--run-dir", str(run_dir)]
    fragile = f"1:{signal.SIGSTOP.value}:{run_dir / 'checkpoints/epoch_000'}"
    with said.open("wb") as file:
        group = in_session(words, env={**os.environ, "FRAGILE": fragile}, stdout=file, stderr=file)
    leaving = Path(f"{run_dir}.leaving")
    try:
        wait_until(lambda: b"with --wait_minutes" in said.read_bytes() or group.poll() is not None, 600)
        stopped = int(leaving.read_text())
        os.kill(stopped, signal.SIGCONT)  # so that torchrun need not wait half a minute before it kills it
        assert group.wait(600) == 0, said.read_text()
    finally:
        if group.poll() is None:
            os.killpg(group.pid, signal.SIGKILL)  # its ranks see that it is gone, and end
            group.wait()
            if leaving.exists():
                os.kill(int(leaving.read_text()), signal.SIGCONT)
    text = said.read_text()
    assert "rank 0 stops: it has waited 1 s for the other processes of the run at epoch 1, step 1." in text
    assert f"rank 1 (process {stopped} on {os.uname().nodename}) stands still, is cut off or gone" in text
    assert "last heard of at epoch 1, step 1\n" in text
    assert same_weights(undisturbed, run_dir, 2)
    for kind in ("step", "epoch"):
        assert logged(undisturbed, kind) == logged(run_dir, kind)
    left = {*os.listdir(recipe.parent)} - {"recipe.toml", "undisturbed", "stopped", "stopped.leaving"}
    assert left == {"said.txt"}
