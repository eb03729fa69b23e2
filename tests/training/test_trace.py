"""N steps, a kill and the rest have the losses and the weights of a run that nobody killed."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import tomli_w

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


def finish(process):
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


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
def test_the_losses_of_a_killed_run_are_those_of_another_for_any_number_of_workers(
    tmp_path, changed, same_weights
):
    recipe, drawn = tmp_path / "recipe.toml", random.Random(0)
    recipe.write_text(tomli_w.dumps(changed(TRAINING)))
    finish(start(recipe, tmp_path / "once", workers=1))
    whole = trace(tmp_path / "once")
    assert list(whole) == list(range(1, STEPS + 1))
    for before, after in ((0, 3), (4, 1)):
        run = tmp_path / f"{before}-{after}"
        kill_at(start(recipe, run, before), run, drawn.randrange(5, STEPS - 10))
        first = trace(run)
        assert 0 < len(first) < STEPS
        finish(start(recipe, run, after))
        assert trace(run) == whole
        assert same_weights(tmp_path / "once", run, 2)
