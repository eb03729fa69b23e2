"""A run that was stopped anywhere within an epoch and continued is the run that was not stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import tomli_w
import torch

from farvox.audio.files import write_audio
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.errors import CheckpointError, StoppedError
from farvox.options import from_table
from farvox.training.checkpoint import TrainingState, checkpoints_of, faults_of, load_state
from farvox.training.distributed import World
from farvox.training.options import TrainOptions
from farvox.training.saver import Saver, own_totals
from farvox.training.trainer import Run

TRAINING = {
    "model": {
        "name": "ffsvc-resnet34",
        "num_mels": 24,
        "channels": 8,
        "blocks": [1, 1, 1, 1],
        "embedding_dim": 16,
    },
    "data": {"speeds": [1.0, 0.9], "epoch_size": 100, "workers": 2},
    "specaugment": {"probability": 0.5},
    "optim": {"batch_size": 4, "name": "adam", "lr": 1e-3},
    "schedule": {"epochs": 2, "kind": "cosine", "warmup_epochs": 1, "margin_epochs": [0, 2]},
}


def names(run_dir):
    return [folder.name for folder in checkpoints_of(run_dir)]


def wait_for(run_dir, steps):
    log, deadline = run_dir / "log.jsonl", time.monotonic() + 600  # of a busy machine
    while not (log.exists() and log.read_bytes().count(b'"step", ') >= steps):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextmanager
def signal_after(run_dir, steps, number=signal.SIGTERM, wait_for=wait_for):
    """Send this process a signal when the log of a run has the figures of so many steps."""

    def send():
        wait_for(run_dir, steps)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        (3, {}),
        (20, {"data": {"workers": 0}, "validate": {"data": "dev", "trials": "dev/trials"}}),
        (26, {"optim": {"accumulate": 2, "precision": "bf16"}}),
        (30, {"optim": {"shard_head": True, "sample_classes": 0.6}}),
        (28, {"optim": {"name": "sgd", "checkpointing": True}, "data": {"features": "workers"}}),
        (10, {"data": {"sampling": "speaker"}, "head": {"name": "subcentre-aam"}}),
    ],
)
def test_a_run_stopped_by_a_signal_goes_on_in_the_same_bits(
    steps, changes, tmp_path, corpus, train_here, same_weights, logged
):
    changes = {**TRAINING, **{key: {**TRAINING.get(key, {}), **value} for key, value in changes.items()}}
    if "validate" in changes:
        changes["validate"] = {key: str(corpus / value) for key, value in changes["validate"].items()}
    once, run = tmp_path / "once", tmp_path / "run"
    train_here(once, changes)
    message = r"ended by SIGTERM: saved at .*; the same command goes on"
    with signal_after(run, steps), pytest.raises(StoppedError, match=message) as caught:
        train_here(run, changes)
    assert caught.value.status == 143 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    last = checkpoints_of(run)[-1]
    done = load_state(last).step
    assert steps <= done < 50 and not faults_of(last)
    assert (last.name == f"epoch_{done // 25:03d}_step_{done % 25:06d}") or done == 25
    train_here(run, changes)
    assert same_weights(once, run, 1)
    for kind in ("step", "epoch"):
        assert logged(once, kind) == logged(run, kind)
    assert names(run) == ["epoch_000", "epoch_001"]


@pytest.mark.slow
@pytest.mark.parametrize("when", [{"save_steps": 3}, {"save_minutes": 1e-6}])
def test_a_run_that_is_killed_goes_on_after_what_was_saved_within_the_epoch(
    when, tmp_path, changed, train_here, same_weights, logged
):
    changes = {**TRAINING, "data": {**TRAINING["data"], "workers": 0}}
    once, run, recipe = tmp_path / "once", tmp_path / "run", tmp_path / "tiny.toml"
    train_here(once, changes)
    recipe.write_text(tomli_w.dumps(changed(changes | {"log": {"every": 1, **when}})))
    command = [sys.executable, "-m", "farvox", "train", str(recipe), "--run-dir", str(run)]
    for steps in (10, 40):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(run, steps)
        child.kill()
        child.wait()
        state = load_state(checkpoints_of(run)[-1])
        assert state.step >= steps - 4 and (state.within % 3 == 0 or "save_steps" not in when)
    train_here(run, changes)
    assert same_weights(once, run, 1)
    for kind in ("step", "epoch"):
        assert logged(once, kind) == logged(run, kind)


def test_a_second_interrupt_ends_a_run_at_once_and_a_late_signal_is_not_lost(tmp_path):
    with pytest.raises(KeyboardInterrupt), Saver(None, tmp_path, ""):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)


def test_a_signal_does_not_wait_for_the_end_of_a_validation(tmp_path, train_here, logged, wait_until):
    """Of an hour of audio; and the same command validates."""
    long_T = np.zeros(60 * 16000, np.float32)
    long_T[::100] = 0.1
    write_audio(tmp_path / "one.wav", long_T)
    table = [Utterance(f"{n}", str(tmp_path / "one.wav"), "ab"[n % 2]) for n in range(60)]
    trials = "".join(f"{(n + 1) % 2} 0 {n}\n" for n in range(1, 60))
    write_data_dir(tmp_path / "dev", table, files={"trials": trials})
    validate = {"data": str(tmp_path / "dev"), "trials": str(tmp_path / "dev/trials")}
    changes = {"validate": validate, "schedule": {"epochs": 1}, "data": {"epoch_size": 16}}
    saved = tmp_path / "run/checkpoints/epoch_000_step_000002"

    def wait_for(run_dir, steps):
        wait_until(saved.exists, seconds=600.0)

    message = "ended by SIGTERM: saved at the end of epoch 0, before its validation; the same command goes on"
    with signal_after(tmp_path / "run", 2, wait_for=wait_for), pytest.raises(StoppedError, match=message):
        train_here(tmp_path / "run", changes)
    assert names(tmp_path / "run") == [saved.name] and not logged(tmp_path / "run", "epoch")
    write_audio(tmp_path / "one.wav", long_T[:16000])
    train_here(tmp_path / "run", changes)
    (epoch,) = logged(tmp_path / "run", "epoch")
    assert names(tmp_path / "run") == ["epoch_000"] and epoch["eer"] is not None


def test_a_signal_between_the_last_step_and_the_validation_ends_the_run_before_it(tmp_path, changed):
    run = Run(from_table(TrainOptions, changed({}), "recipe"), World(0, 1, torch.device("cpu")))
    with pytest.raises(StoppedError, match="before its validation"), Saver(run, tmp_path, "") as saver:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        with saver.before_validation(0):
            pytest.fail("the validation began")


def test_a_damaged_checkpoint_within_an_epoch_costs_its_steps_only(
    tmp_path, train_here, same_weights, logged, capsys
):
    once, run = tmp_path / "once", tmp_path / "run"
    train_here(once, TRAINING)
    with signal_after(run, 30), pytest.raises(StoppedError):
        train_here(run, TRAINING)
    last = checkpoints_of(run)[-1]
    (last / "state.json").write_text("{}")
    train_here(run, TRAINING)
    assert f"{last}/state.json: damaged" in capsys.readouterr().out
    assert same_weights(once, run, 1) and logged(once) == logged(run)


def test_sums_over_a_part_of_an_epoch_are_the_own_ones_or_the_mean_of_other_processes():
    def own(rank, size, *totals):
        state = TrainingState(epoch=3, step=9, classes=("a",), within=2, totals=totals)
        return own_totals(state, World(rank, size, torch.device("cpu"))).tolist()

    two = (1.0, 2.0, 3.0, 4.0, 3.0, 6.0, 9.0, 4.0)
    assert (own(0, 2, *two), own(1, 2, *two)) == ([1, 2, 3, 4], [3, 6, 9, 4])
    assert own(0, 1, *two) == own(3, 4, *two) == [2, 4, 6, 4]
    assert own(0, 1) == own(1, 2) == [0, 0, 0, 0]
    with pytest.raises(CheckpointError, match="epoch 3, step 2"):
        own(0, 1, *two[:6])


@pytest.mark.slow
def test_two_processes_stopped_by_a_signal_go_on_in_the_same_bits(tmp_path, changed, same_weights, logged):
    """With BatchNorm statistics of each process, and dropout."""
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tomli_w.dumps(changed({**TRAINING, "log": {"every": 1}})))
    command = [sys.executable, "-m", "farvox", "train", str(recipe), "--gpus", "2", "--run-dir"]
    once, run = tmp_path / "once", tmp_path / "run"
    subprocess.run([*command, str(once)], check=True)
    for steps in (4, 30):
        child = subprocess.Popen([*command, str(run)], stderr=subprocess.PIPE, text=True)
        wait_for(run, steps)
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=600)
        last = checkpoints_of(run)[-1]
        assert child.returncode == 143 and "Traceback" not in err and not faults_of(last)
        assert f"saved at epoch {load_state(last).epoch}" in err
        assert len(load_state(last).totals) == 8 and load_state(last).step >= steps
    subprocess.run([*command, str(run)], check=True)
    assert same_weights(once, run, 1)
    for kind in ("step", "epoch"):
        assert logged(once, kind) == logged(run, kind)
