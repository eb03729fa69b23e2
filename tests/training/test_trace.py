"""N steps, a kill and the rest have the losses and the weights of a run that nobody killed."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import tomli_w

from farvox.options import merge

TRAINING = {
    "model": {"name": "ecapa", "num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16},
    "data": {"speeds": [1.0, 0.9], "epoch_size": 160},
    "specaugment": {"probability": 0.5},
    "optim": {"name": "adam", "lr": 1e-3},
    "log": {"save_steps": 3},
    "schedule": {"epochs": 3, "kind": "cosine", "warmup_epochs": 0.5, "margin_epochs": [0, 2]},
}
STEPS = 60


def start(recipe, run_dir, workers):
    words = ["train", recipe, "--run-dir", run_dir, "--data.workers", workers]
    command = [sys.executable, "-m", "farvox", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def trace(run_dir):
    """The figures of every step; a step that was taken twice had them twice."""
    found = {}
    for line in (run_dir / "log.jsonl").read_text().splitlines():
        figures = json.loads(line) if line.endswith("}") else {}  # the last line may be torn by the kill
        if figures.get("kind") == "step":
            assert found.setdefault(figures["step"], figures) == figures
    return found


def kill_at(process, run_dir, step):
    """SIGKILL when so many steps are logged."""
    log, deadline = run_dir / "log.jsonl", time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b'"kind": "step"') >= step:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
def test_the_losses_of_a_killed_run_are_those_of_another_for_any_number_of_workers(
    tmp_path, changed, train_here, same_weights
):
    def finish(run_dir, workers):
        train_here(run_dir, merge(TRAINING, {"data": {"workers": workers}}))

    recipe, drawn = tmp_path / "recipe.toml", random.Random(0)
    recipe.write_text(tomli_w.dumps(changed(TRAINING)))
    finish(tmp_path / "once", workers=1)
    whole = trace(tmp_path / "once")
    assert list(whole) == list(range(1, STEPS + 1))
    for before, after in ((0, 3), (4, 1)):
        run = tmp_path / f"{before}-{after}"
        kill_at(start(recipe, run, before), run, drawn.randrange(5, STEPS - 20))
        first = trace(run)
        assert 0 < len(first) < STEPS
        finish(run, after)
        assert trace(run) == whole
        assert same_weights(tmp_path / "once", run, 2)
