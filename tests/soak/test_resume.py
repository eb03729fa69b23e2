"""Resuming, at length: killed anywhere, with any number of workers; and far into a run on much data."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import tomli_w
import torch

from farvox.audio.files import write_audio
from farvox.options import from_table
from farvox.training import trainer
from farvox.training.distributed import World
from farvox.training.options import TrainOptions
from farvox.training.saver import Saver

KILLS, UTTERANCES, STEP = 20, 1_000_000, 1_000_000
TRAINING = {
    "device": "cpu",
    "threads": 1,
    "features": {"num_mels": 24},
    "model": {"name": "ecapa", "num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16},
    "head": {"name": "aam"},
    "log": {"every": 1},
}


def write_data(folder, *, utterances, speakers):
    """A data dir whose utterances are links to a hundred files."""
    (folder / "wav").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(100):
        write_audio(folder / f"wav/{number}.wav", 0.1 * rng.standard_normal(16000))
    names = [(f"s{n * speakers // utterances:05}", n) for n in range(utterances)]
    lines = (f"{speaker}-{n:08} {folder}/wav/{n % 100}.wav\n" for speaker, n in names)
    (folder / "wav.scp").write_text("".join(lines))
    (folder / "utt2spk").write_text("".join(f"{speaker}-{n:08} {speaker}\n" for speaker, n in names))
    return [str(folder)]


def start(recipe, run_dir, workers):
    words = ["train", recipe, "--run-dir", run_dir, "--data.workers", workers]
    command = [sys.executable, "-m", "farvox", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def steps_of(run_dir):
    """The figures of every step; one that was taken again had the same."""
    found, log = {}, run_dir / "log.jsonl"
    for line in log.read_text().splitlines() if log.exists() else ():
        figures = json.loads(line) if line.endswith("}") else {}
        if figures.get("kind") == "step":
            assert found.setdefault(figures["step"], figures) == figures
    return found


def test_a_run_killed_at_random_moments_with_other_workers_each_time_has_the_losses_of_one(tmp_path, tell):
    drawn, recipe = random.Random(0), tmp_path / "recipe.toml"
    table = TRAINING | {
        "data": {
            "train": write_data(tmp_path / "data", utterances=500, speakers=10),
            "num_frames": 40, "speeds": [1.0, 0.9], "epoch_size": 2000,
        },
        "specaugment": {"probability": 0.5},
        "optim": {"name": "adam", "lr": 1e-3, "batch_size": 8},
        "schedule": {"epochs": 3, "kind": "cosine", "warmup_epochs": 0.5, "margin_epochs": [0, 2]},
        "log": {"every": 1, "save_steps": 7},
    }  # fmt: skip
    recipe.write_text(tomli_w.dumps(table))
    once, run = tmp_path / "once", tmp_path / "run"
    finish(start(recipe, once, 1))
    whole, kills = steps_of(once), 0
    while kills < KILLS:
        process = start(recipe, run, drawn.randint(0, 4))
        before, wanted = len(steps_of(run)), drawn.randint(1, 40)
        while process.poll() is None and len(steps_of(run)) < min(before + wanted, len(whole) - 40 + kills):
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, 0.05))
        assert process.poll() is None, process.stderr.read().decode()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    finish(start(recipe, run, 2))
    assert steps_of(run) == whole and len(whole) == 750
    for name in ("model", "classifier", "optimizer"):
        one, other = (each / f"checkpoints/epoch_002/{name}.safetensors" for each in (once, run))
        assert one.read_bytes() == other.read_bytes()
    tell("SIGKILL at random steps, 0 to 4 workers: loss traces", kills=kills, steps=len(whole), different=0)


def seconds_to_a_step(recipe, run_dir):
    """From the start of the command to the first figures in the log: by the clock, and of the processor."""
    before, began = len(steps_of(run_dir)), time.perf_counter()
    process = start(recipe, run_dir, 2)
    while len(found := steps_of(run_dir)) == before:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    wall = time.perf_counter() - began
    process.kill()
    _, process.returncode, used = os.wait4(process.pid, 0)
    process.stderr.close()
    return np.array([wall, used.ru_utime + used.ru_stime]), max(found)


def test_a_run_on_a_million_utterances_goes_on_at_step_a_million_as_soon_as_it_starts(tmp_path, tell):
    recipe = tmp_path / "recipe.toml"
    table = TRAINING | {
        "data": {
            "train": write_data(tmp_path / "data", utterances=UTTERANCES, speakers=7000), "num_frames": 40,
        },
        "optim": {"batch_size": 128},
        "schedule": {"epochs": 200, "kind": "constant"},
    }  # fmt: skip
    recipe.write_text(tomli_w.dumps(table))
    seconds_to_a_step(recipe, tmp_path / "cache")  # reads the text files
    fresh, later = [], []
    for number in range(3):
        run_dir = tmp_path / f"run{number}"
        took, step = seconds_to_a_step(recipe, run_dir)
        assert step == 1
        fresh.append(took)
        options = from_table(TrainOptions, tomllib.loads(recipe.read_text()), "recipe")
        run = trainer.Run(options, World(0, 1, torch.device("cpu")))
        epoch, within = divmod(STEP, run.plan.steps_per_epoch)
        saver = Saver(run, run_dir, (run_dir / "recipe.toml").read_text())
        saver.save_within(epoch, within, torch.tensor([1.0, 1.0, 0.0, within]), 0.0)
        took, step = seconds_to_a_step(recipe, run_dir)
        assert step == STEP + 1
        later.append(took)
    wall, processor = np.median(np.subtract(later, fresh), axis=0)
    tell(
        "first step at 1,000,000 of a million utterances, against a fresh start",
        seconds=f"{wall:+.2f}", processor=f"{processor:+.2f}",
    )  # fmt: skip
    assert min(wall, processor) <= 1.0  # the clock is of use on a quiet machine only
