"""``farvox train`` and ``farvox extract`` as a user types them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.options import merge
from farvox.training.checkpoint import checkpoints_of, faults_of
from limits import train_with


@pytest.fixture
def recipe_file(tmp_path, tiny_recipe, corpus):
    """A recipe with validation, on disk."""
    validate = {"data": "$corpus/dev", "trials": "$corpus/dev/trials"}
    changes = {"title": "tiny", "paths": {"corpus": str(corpus)}, "validate": validate}
    table = merge(tiny_recipe, {**changes, "data": {"train": ["$corpus/train"]}})
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(table))
    return tmp_path / "tiny.toml"


def farvox(*words):
    return main([str(word) for word in words])


def in_a_shell(*words, **options):
    command = [sys.executable, "-m", "farvox", *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )


def test_a_recipe_becomes_a_model_and_a_model_embeddings(recipe_file, tmp_path, corpus, capsys):
    run_dir = tmp_path / "run"
    assert farvox("train", recipe_file, "--run-dir", run_dir, "--schedule.kind", "multistep") == 0
    out = capsys.readouterr().out
    assert "24 utterances, 6 speakers, 6 classes; 3 steps of 8 an epoch" in out
    assert re.search(
        r"^Epoch 1  lr 0\.010000  EER \d+\.\d{4}  cost \d\.\d{4}  loss \d+\.?\d*  \d+ s, 0 s left$",
        out,
        re.MULTILINE,
    )
    assert out.splitlines()[-1] == f"model: {run_dir}/checkpoints/epoch_001"
    assert farvox("extract", run_dir, corpus / "dev", tmp_path / "emb", "--device", "cpu") == 0
    assert farvox("extract", f"{run_dir}@0", corpus / "dev", tmp_path / "emb0", "--device", "cpu") == 0
    last, first = (EmbeddingSet.load(tmp_path / name) for name in ("emb", "emb0"))
    assert last.utt_ids == first.utt_ids and (last.embeddings != first.embeddings).any()
    scores = tmp_path / "scores"
    assert farvox("score", corpus / "dev" / "trials", tmp_path / "emb", "--out", scores) == 0
    capsys.readouterr()
    assert farvox("evaluate", corpus / "dev" / "trials", scores, "--json") == 0
    eer = json.loads(capsys.readouterr().out)["eer"]
    assert f"EER {100 * eer:.4f}" in out.splitlines()[-2]


def test_a_second_call_goes_on_and_a_third_has_nothing_to_do(recipe_file, tmp_path, capsys):
    for epochs, trained in ((1, ["0"]), (3, ["1", "2"]), (3, [])):
        words = ("--run-dir", tmp_path / "run", "--schedule.epochs", epochs, "--title", f"{epochs} epochs")
        assert farvox("train", recipe_file, *words) == 0
        assert re.findall(r"^Epoch (\d)", capsys.readouterr().out, re.MULTILINE) == trained


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--optim.lrr", "1"], 2, "unknown key 'optim.lrr'; did you mean 'lr'?"),
        (["--optim.lr", "fast"], 2, "lr must be of type float, not 'fast'"),
        (["--optim.lr"], 2, "--optim.lr needs a value"),
        (["extra"], 2, "'extra' is not of the form --field.name VALUE"),
        (["--data.sampling", "all"], 2, "it must be one of utterance, speaker"),
        (["--paths.corpus", "/nowhere"], 1, "/nowhere"),
        (["--device", "mps"], 1, "device 'mps' is not available here; available: cpu"),
        (["--optim.batch_size", "100"], 1, "lower optim.batch_size"),
    ],
)
def test_faults_are_a_message_and_a_status(words, status, message, recipe_file, tmp_path, capsys):
    assert farvox("train", recipe_file, "--run-dir", tmp_path / "run", *words) == status
    err = capsys.readouterr().err
    assert err.startswith("farvox train: ") and message in err and "Traceback" not in err
    assert status == 1 or len(err.splitlines()) == 3


def test_a_recipe_that_is_not_there_and_words_that_are_missing(capsys):
    assert farvox("train", "no-such-recipe") == 1
    assert "no recipe 'no-such-recipe'" in capsys.readouterr().err
    assert farvox("train") == 2
    fault, usage, more = capsys.readouterr().err.splitlines()
    assert fault.endswith("required: RECIPE") and usage.endswith("[--no-resume] RECIPE") and "--help" in more


def test_damaged_audio_met_by_a_worker_is_one_line(recipe_file, tmp_path, corpus, capsys):
    (tmp_path / "bad").mkdir()
    lines = (corpus / "train" / "wav.scp").read_text().splitlines()
    lines[7] = f"{lines[7].split()[0]} {tmp_path}/gone.wav"
    (tmp_path / "bad" / "wav.scp").write_text("\n".join(lines) + "\n")
    (tmp_path / "bad" / "utt2spk").write_text((corpus / "train" / "utt2spk").read_text())
    words = ("--data.train", f'["{tmp_path}/bad"]', "--data.workers", "2")
    assert farvox("train", recipe_file, "--run-dir", tmp_path / "run", *words) == 1
    err = capsys.readouterr().err.strip()
    assert err.startswith(f"farvox train: utterance 's1_3': {tmp_path}/gone.wav: no such file")
    assert "\n" not in err


@pytest.mark.slow
def test_two_processes_are_one_run_and_that_another_number_goes_on_is_told(recipe_file, tmp_path, capfd):
    words = ["--device", "cpu", "--optim.freeze_batchnorm", "true", "--optim.lr", "1e-4"]
    assert farvox("train", recipe_file, "--run-dir", tmp_path / "one", *words) == 0
    one = capfd.readouterr().out
    assert farvox("train", recipe_file, "--run-dir", tmp_path / "two", "--gpus", "2", *words) == 0
    two = capfd.readouterr().out
    assert "2 process(es) on cpu, fp32" in two and two.count("model: ") == 1
    assert re.findall("^Epoch.*loss", one, re.MULTILINE) == re.findall("^Epoch.*loss", two, re.MULTILINE)
    one_more = ("train", recipe_file, "--run-dir", tmp_path / "one", *words, "--schedule.epochs")
    words = ("train", recipe_file, "--run-dir", tmp_path / "two", *words, "--schedule.epochs")
    assert farvox(*words, 3) == 0
    notes = [line for line in capfd.readouterr().out.splitlines() if line.startswith("note: ")]
    (line,) = (line for line in notes if "process(es)" in line)
    assert line.startswith("note: 2 process(es) trained until here, and 1 go on: the batches are the same")
    assert "of 8, in 2 pass(es) a process of 4 examples each" in line
    assert farvox(*one_more, 3) == 0
    capfd.readouterr()
    losses = []
    for name in ("one", "two"):
        steps = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        losses.append([step["loss"] for step in steps if step["kind"] == "step"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-4)
    assert farvox(*words, 4) == 0
    assert "process(es) trained until here" not in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torch.distributed.run", "torch.distributed.launch"])
def test_the_launchers_of_torch_start_two_processes(launcher, recipe_file, tmp_path):
    """The second is the baseline's, which adds ``--local-rank`` to the words of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = f"--master_port={free.getsockname()[1]}"
    command = [sys.executable, "-W", "ignore", "-m", launcher, "--nproc_per_node=2", port]
    words = ["-m", "farvox", "train", str(recipe_file), "--run-dir", str(tmp_path / "run"), "--device", "cpu"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 process(es) on cpu" in done.stdout and done.stdout.count("model: ") == 1


@pytest.mark.slow
def test_a_fault_of_one_of_two_processes_is_its_message_and_status_1(recipe_file, tmp_path, capfd):
    words = ("--gpus=2", "--run-dir", tmp_path / "run", "--optim.batch_size", "9")
    assert farvox("train", recipe_file, *words) == 1
    err = capfd.readouterr().err
    assert "9 does not divide into 2 process(es)" in err and "Traceback" not in err
    assert "set optim.batch_size to 10, or start 1 process(es), which takes the same batches" in err


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="counts processes in /proc")
@pytest.mark.parametrize("gpus", [1, 2])
def test_an_interrupted_run_leaves_whole_checkpoints_and_no_process(
    gpus, recipe_file, tmp_path, capfd, running
):
    run_dir = tmp_path / "run"
    words = ("--gpus", gpus, "--data.workers", 1, "--schedule.epochs", 100000)
    run = in_a_shell("train", recipe_file, "--run-dir", run_dir, *words)
    while not (run_dir / "checkpoints" / "epoch_001").exists():
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "farvox train: interrupted" in err and "Traceback" not in err
    assert not running(run.pid)
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir() if "_step_" not in path.name)
    assert names == [f"epoch_{number:03d}" for number in range(len(names))]
    assert not [fault for folder in checkpoints_of(run_dir) for fault in faults_of(folder)]
    last = len(names) + 1
    assert farvox("train", recipe_file, "--run-dir", run_dir, "--schedule.epochs", last) == 0
    assert re.findall(r"^Epoch (\d+)", capfd.readouterr().out, re.MULTILINE)[-1] == str(last - 1)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_that_reaches_one_of_two_processes_first_ends_both(rank, recipe_file, tmp_path, running):
    run_dir = tmp_path / "run"
    words = ("--gpus", 2, "--validate.every", 100000, "--schedule.epochs", 100000)
    run = in_a_shell("train", recipe_file, "--run-dir", run_dir, *words)
    while not (run_dir / "checkpoints" / "epoch_001").exists():
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.1)
    place = f"RANK={rank}".encode()
    ranks = [
        pid for pid in running(run.pid) if place in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]
    os.kill(ranks[0], signal.SIGINT)  # the other has heard nothing of it
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "farvox train: interrupted: saved at" in err and "rank" not in err, err


@pytest.mark.slow
def test_damaged_audio_met_by_one_of_two_processes_is_its_message(recipe_file, tmp_path, corpus, capfd):
    (tmp_path / "bad").mkdir()
    lines = (corpus / "train" / "wav.scp").read_text().splitlines()
    lines[7] = f"{lines[7].split()[0]} {tmp_path}/gone.wav"
    (tmp_path / "bad" / "wav.scp").write_text("\n".join(lines) + "\n")
    (tmp_path / "bad" / "utt2spk").write_text((corpus / "train" / "utt2spk").read_text())
    words = ("--gpus", "2", "--data.train", f'["{tmp_path}/bad"]', "--schedule.epochs", "100")
    assert farvox("train", recipe_file, "--run-dir", tmp_path / "run", *words) == 1
    err = capfd.readouterr().err
    assert f"farvox train: utterance 's1_3': {tmp_path}/gone.wav" in err and "Traceback" not in err


@pytest.mark.slow
def test_the_baselines_ecapa_with_its_unused_branch_trains_on_two_processes(tmp_path, recipe_file, capfd):
    import tomllib

    table = tomllib.loads(recipe_file.read_text())
    table["model"] = {"name": "ffsvc-ecapa", "num_mels": 24, "channels": 32, "embedding_dim": 16}
    recipe_file.write_text(tomli_w.dumps(table))
    assert farvox("train", recipe_file, "--run-dir", tmp_path / "run", "--gpus", "2") == 0
    assert "Epoch 1  " in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory as Linux does")
def test_out_of_memory_names_what_needs_less_and_that_helps(recipe_file, tmp_path):
    big = "--validate.trials= --model.channels 256 --data.num_frames 8000 --schedule.epochs 1"
    words = ["train", recipe_file, *big.split(), "--optim.batch_size", 16]

    def run(name, *more, megabytes=1000):
        return train_with(megabytes, [*words, "--run-dir", tmp_path / name, *more], tmp_path)

    status, said = run("run")
    assert status == 1 and "Traceback" not in said, said
    first, *ways = said[said.index("farvox train:") :].splitlines()
    assert "epoch 0, step 1: this machine's memory is full" in first
    found = dict(re.match(r"  ([a-z_.]+) = (\S+?)[: ]", way).groups() for way in ways)
    expected = {"optim.accumulate": "2", "optim.checkpointing": "true", "data.num_frames": "4000"}
    assert found.items() >= expected.items() and found.keys() - expected <= {"optim.precision"}
    thrifty = [word for name, value in found.items() for word in (f"--{name}", value.strip("'"))]
    status, said = run("thrifty", *thrifty)
    assert status == 0, said
    status, said = run("small", *thrifty, "--optim.accumulate", "8", "--data.num_frames", "100000")
    assert status == 1 and "optim.checkpointing" not in said
    assert "optim.accumulate" not in said and "data.num_frames = 50000" in said
    assert run("begun", megabytes=100_000)[0] == 0
    for megabytes in range(1750, 500, -250):  # a machine with wider vectors or fewer threads needs less
        shutil.copytree(tmp_path / "begun", tmp_path / "once", dirs_exist_ok=True)
        status, said = run("once", "--schedule.epochs", "2", megabytes=megabytes)
        if status:
            break
    if not status:
        pytest.skip("this machine finds memory at every limit")
    assert "(this run dir takes only checkpointing and workers; the others need a new" in said
    status, said = run(
        "begun", "--schedule.epochs", "2", "--optim.checkpointing", "true", megabytes=megabytes
    )
    if status and "memory is full" in said:
        pytest.skip("between 250 MB more and less this machine shows no limit that checkpointing meets")
    assert status == 0, said


@pytest.mark.slow
def test_one_example_on_each_of_two_processes_needs_batchnorm_over_both(tmp_path, recipe_file, capfd):
    import tomllib

    table = tomllib.loads(recipe_file.read_text())
    table["model"] = {"name": "ecapa", "num_mels": 24, "channels": 16, "embedding_dim": 8, "bottleneck": 8}
    table["optim"]["batch_size"], table["data"]["epoch_size"] = 2, 8
    recipe_file.write_text(tomli_w.dumps(table))
    words = ("--gpus", "2", "--run-dir", tmp_path / "run")
    assert farvox("train", recipe_file, *words) == 1
    err = capfd.readouterr().err
    assert "optim.sync_batchnorm = true" in err and "Traceback" not in err
    assert farvox("train", recipe_file, *words, "--optim.sync_batchnorm", "true") == 0
