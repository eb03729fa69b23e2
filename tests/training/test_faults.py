"""Steps that are not finite: nothing is updated, and the message names what did it."""

import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tomli_w
import torch

from farvox.audio.remote import remote_audio
from farvox.cli.main import main
from farvox.datadir.kaldi import DataDir
from farvox.errors import NonFiniteLossError, OutOfMemoryError
from farvox.models.registry import build_head, build_model
from farvox.options import from_table, merge
from farvox.progress import silent
from farvox.training import loader, trainer
from farvox.training.checkpoint import checkpoint_folder, finished_epochs
from farvox.training.distributed import World, join_world
from farvox.training.launch import launch_ranks
from farvox.training.loader import Batch
from farvox.training.log import RunLog
from farvox.training.objective import Losses, TrainingModel
from farvox.training.options import OptimOptions, TrainOptions
from farvox.training.replay import replay
from farvox.training.saver import Saver
from farvox.training.step import Stepper, build_optimizer
from farvox.training.table import EpochPlan, TrainingTable

CPU = torch.device("cpu")
ECAPA = {"num_mels": 24, "channels": 32, "embedding_dim": 16, "bottleneck": 16}
FAULTY = "s1_2"


@pytest.fixture
def damaged(tmp_path, make_corpus):
    """A data dir with one file of finite samples whose power is not finite, and changes of a recipe to it."""
    make_corpus(tmp_path / "data", speakers=["s0", "s1", "s2", "s3"])
    table = DataDir.open(tmp_path / "data").table
    wav = Path(dict(zip(table["utt_id"], table["wav_path"], strict=True))[FAULTY])
    wav_T, rate = soundfile.read(wav, dtype="float32")
    wav_T[::100] = 1e30
    soundfile.write(wav, wav_T, rate, subtype="FLOAT")
    return {"data": {"train": [str(tmp_path / "data")]}, "schedule": {"epochs": 3}}


def put_sound_file(folder):
    """Put a sound file in the place of the damaged one."""
    wav = DataDir.open(folder / "data").wav_paths[6]
    wav_T, rate = soundfile.read(wav, dtype="float32")
    soundfile.write(wav, np.clip(wav_T, -1, 1), rate)


def faulty_steps(changes, seed=3007, batch_size=8):
    """Epoch and step (from 0) of every batch with the damaged utterance, and its position."""
    table = TrainingTable.open(changes["data"]["train"])
    row = [table.utt_ids[n] for n in range(len(table))].index(FAULTY)
    plan = EpochPlan(seed, table.speakers_N, batch_size)
    places = [(epoch, int(np.flatnonzero(plan.rows(epoch) == row)[0])) for epoch in range(3)]
    return [(epoch, position // batch_size, position) for epoch, position in places]


def test_a_step_that_is_not_finite_ends_the_run_and_names_the_utterance(tmp_path, train_here, damaged):
    epoch, step, position = faulty_steps(damaged)[0]
    with pytest.raises(NonFiniteLossError) as caught:
        train_here(tmp_path / "run", damaged)
    first, *lines, remedy = str(caught.value).splitlines()
    positions = f"positions {8 * step} to {8 * step + 7}"
    place = rf"epoch {epoch}, step {step + 1} \({positions}\)"
    assert re.fullmatch(rf"{place}: loss nan, gradient norm nan; nothing was updated", first)
    wav = DataDir.open(tmp_path / "data").wav_paths[6]
    assert f"position {position}, utterance '{FAULTY}' ({wav}, from sample " in lines[0]
    assert "features not finite; samples up to 1e+30" in lines[0]
    assert "1 of 8 examples are not finite by themselves" in lines[1]
    folder = tmp_path / f"run/replay/epoch_{epoch:03d}_step_{step + 1:06d}"
    assert f"'farvox replay {folder}'" in lines[2]
    assert "--optim.skip_nonfinite 1" in remedy and "optim.lr" not in remedy


def test_too_large_a_learning_rate_is_what_is_to_be_lowered_and_no_utterance_is_named(tmp_path, train_here):
    with pytest.raises(NonFiniteLossError) as caught:
        train_here(tmp_path / "run", {"optim": {"lr": 1e30, "weight_decay": 1e30}, "schedule": {"epochs": 3}})
    assert "Lower optim.lr or set optim.clip_norm, with another --run-dir" in str(caught.value)
    assert "skip_nonfinite" not in str(caught.value)
    train_here(tmp_path / "slower", {"optim": {"lr": 1e-3}, "schedule": {"epochs": 3}})


def test_a_process_that_reads_and_is_killed_is_told_as_such(tmp_path, train_here, monkeypatch):
    monkeypatch.setattr(loader, "collate", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(OutOfMemoryError) as caught:  # while the first batch is waited for
        train_here(tmp_path / "run", {"data": {"workers": 1}})
    fault, *ways = str(caught.value).splitlines()
    assert "step 1: a process that reads was killed by a signal, perhaps for want of memory (Data" in fault
    assert "memory is full" not in fault and any("data.workers = 0 (1 now)" in way for way in ways)


def test_weights_that_an_earlier_step_broke_are_named_as_the_reason(tmp_path, train_here):
    with pytest.raises(NonFiniteLossError, match=r"not finite before this step.*Lower optim\.lr"):
        train_here(tmp_path, {"optim": {"lr": 1e30, "weight_decay": 1e30}, "schedule": {"epochs": 3}})


def test_a_replay_is_the_step_again_and_finite_after_the_file_was_replaced(
    tmp_path, train_here, damaged, capsys
):
    with pytest.raises(NonFiniteLossError):
        train_here(tmp_path / "run", damaged)
    (folder,) = (tmp_path / "run/replay").iterdir()
    capsys.readouterr()
    assert main(["replay", str(folder), "--save-audio", str(tmp_path / "heard")]) == 1
    *examples, last = capsys.readouterr().out.splitlines()
    assert len(examples) == 8 and [FAULTY in line for line in examples].count(True) == 1
    assert sum("features not finite" in line for line in examples) == 1
    assert re.fullmatch(r"epoch 0, step \d: loss nan, gradient norm nan: not finite again", last)
    position = faulty_steps(damaged)[0][2]
    heard = {int(path.stem): soundfile.read(path)[0] for path in (tmp_path / "heard").glob("*.wav")}
    assert len(heard) == 8 and [p for p, wav_T in heard.items() if np.abs(wav_T).max() > 1e29] == [position]

    put_sound_file(tmp_path)
    assert main(["replay", str(folder), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(": finite now")
    assert main(["replay", str(tmp_path / "data")]) == 1
    assert "not the folder of a step (no replay.json): give one of RUN_DIR/rep" in capsys.readouterr().err


def test_sound_files_in_the_place_of_damaged_ones_are_enough_or_a_budget(tmp_path, train_here, damaged):
    with pytest.raises(NonFiniteLossError, match="Put sound files in the place of these") as caught:
        train_here(tmp_path / "run", damaged | {"schedule": {"epochs": 1}})
    budget = int(re.search(r"--optim\.skip_nonfinite (\d)$", str(caught.value))[1])
    train_here(
        tmp_path / "run", merge(damaged, {"optim": {"skip_nonfinite": budget}, "schedule": {"epochs": 1}})
    )
    put_sound_file(tmp_path)
    train_here(tmp_path / "sound", damaged)
    assert finished_epochs(tmp_path / "run") == [0] and finished_epochs(tmp_path / "sound") == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # numpy's, of such noise
def test_the_noise_is_named_as_the_reason_where_the_recordings_are_sound(tmp_path, train_here, make_corpus):
    for name in ("noise", "rirs"):
        make_corpus(tmp_path / name, speakers=["n"], takes=1)
    wavs = [DataDir.open(tmp_path / name).wav_paths[0] for name in ("noise", "rirs")]
    wav_T, rate = soundfile.read(wavs[0], dtype="float32")
    soundfile.write(wavs[0], 1e19 * wav_T, rate, subtype="FLOAT")
    decay_T = np.exp(-np.arange(4000) / 600)
    soundfile.write(wavs[1], 0.2 * decay_T * np.random.default_rng(0).standard_normal(4000), rate)
    dirs = {
        key: [str(tmp_path / where)]
        for key, where in (("noise", "noise"), ("music", "noise"), ("rirs", "rirs"))
    }
    with pytest.raises(NonFiniteLossError) as caught:
        train_here(tmp_path / "run", {"augment": {"kind": "ffsvc", "pack": False, **dirs}})
    assert re.search(r"samples up to 0\.\d+, (\S+e\+\d+|inf|nan) after augmentation", str(caught.value))
    assert "noise and impulse responses in the data dirs of [augment], for these are sound" in str(
        caught.value
    )


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.mark.slow
def test_a_step_of_audio_on_another_machine_is_replayed(tmp_path, train_here, damaged):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="/"))
    listing = tmp_path / "data/wav.scp"
    address = f"http://127.0.0.1:{server.server_port}"
    listing.write_text(listing.read_text().replace(" /", f" {address}/"))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        try:
            with remote_audio(True), pytest.raises(NonFiniteLossError, match=f"{address}/"):
                train_here(tmp_path / "run", merge(damaged, {"data": {"remote": True}}))
            (folder,) = (tmp_path / "run/replay").iterdir()
            assert [each.utt_id for each in replay(folder, CPU).findings if each.fault] == [FAULTY]
        finally:
            server.shutdown()
            server.server_close()


@pytest.mark.parametrize("features", ["device", "workers"])
def test_the_replay_of_a_step_has_the_loss_and_gradient_of_the_step(
    features, tmp_path, train_here, damaged, logged
):
    """The file is replaced by a sound one: then the same step of a run that gets there is the replay's."""
    changes = merge(damaged, {"data": {"features": features}, "optim": {"accumulate": 2}})
    with pytest.raises(NonFiniteLossError):
        train_here(tmp_path / "run", changes)
    (folder,) = (tmp_path / "run/replay").iterdir()
    put_sound_file(tmp_path)
    found = replay(folder, CPU)
    train_here(tmp_path / "sound", changes)
    step = logged(tmp_path / "sound")[found.step]
    assert found.epoch == 0
    assert (found.loss, found.grad_norm) == pytest.approx((step["loss"], step["grad_norm"]), rel=1e-6)


def test_steps_within_the_budget_are_left_out_and_logged_and_resumed_runs_count_on(
    tmp_path, train_here, damaged, same_weights, logged
):
    budget = merge(damaged, {"optim": {"skip_nonfinite": 3}})
    train_here(tmp_path / "once", budget)
    log = (tmp_path / "once/train.log").read_text()
    said = re.findall(r"left out: (\d) of optim\.skip_nonfinite = 3", log)
    assert said == ["1", "2", "3"]
    assert [step["step"] for step in logged(tmp_path / "once")] == [
        n + 1 for n in range(6) if n not in {2 * epoch + step for epoch, step, _ in faulty_steps(damaged)}
    ]
    assert all(epoch["loss"] is not None for epoch in logged(tmp_path / "once", "epoch"))
    for kept in (0, 1):
        run = tmp_path / f"from{kept}"
        shutil.copytree(tmp_path / "once", run)
        for later in finished_epochs(run)[kept + 1 :]:
            shutil.rmtree(checkpoint_folder(run, later))
        train_here(run, budget)
        assert same_weights(tmp_path / "once", run, 2)
        state = json.loads((checkpoint_folder(run, 2) / "state.json").read_text())
        assert state["skipped"] == 3


def test_as_many_steps_are_kept_for_a_replay_as_checkpoints(tmp_path, train_here, damaged):
    train_here(tmp_path, merge(damaged, {"optim": {"skip_nonfinite": 3}, "log": {"keep": 2}}))
    kept = [folder.name for folder in sorted((tmp_path / "replay").iterdir())]
    assert [name[:9] for name in kept] == ["epoch_001", "epoch_002"]


def test_a_step_beyond_the_budget_ends_the_run_and_a_larger_budget_goes_on(tmp_path, train_here, damaged):
    with pytest.raises(NonFiniteLossError, match=r"epoch 2.*\n(.*\n)*.*--optim.skip_nonfinite 3"):
        train_here(tmp_path, merge(damaged, {"optim": {"skip_nonfinite": 2}}))
    assert finished_epochs(tmp_path) == [0, 1]
    train_here(tmp_path, merge(damaged, {"optim": {"skip_nonfinite": 3}}))
    assert finished_epochs(tmp_path) == [0, 1, 2]


def test_whoever_looks_late_names_the_batch_of_the_fault(tmp_path, changed, damaged):
    """As on a GPU, which is looked at now and then: the steps after the fault were left out, too."""
    table = changed(merge(damaged, {"log": {"every": 1000}, "data": {"epoch_size": 64}}))
    run = trainer.Run(from_table(TrainOptions, table, "recipe"), World(0, 1, CPU))
    row = [run.table.utt_ids[n] for n in range(len(run.table))].index(FAULTY)
    step = int(np.flatnonzero(run.plan.rows(0) == row)[0]) // 8
    assert step < 6
    look, steps = run.stepper.guard.look, itertools.count()
    run.stepper.guard.look = lambda: look() if next(steps) == 7 else None
    with RunLog(tmp_path, 8, silent, active=True) as log, pytest.raises(NonFiniteLossError) as caught:
        trainer._run_epoch(run, 0, run.batches(0), log, Saver(run, tmp_path, ""), run.state(0, 0))
    assert str(caught.value).startswith(f"epoch 0, step {step + 1} ") and FAULTY in str(caught.value)
    found = replay(tmp_path / f"replay/epoch_000_step_{step + 1:06d}", CPU)
    assert not found.is_finite and [each.utt_id for each in found.findings if each.fault] == [FAULTY]


def state_of(stepper):
    """Everything that a step changes."""
    moments = [value for state in stepper.optimizer.state.values() for value in state.values()]
    scale = [torch.tensor(float(value)) for value in stepper.scaler.state_dict().values()]
    return [x.clone() for x in (*stepper.model.parameters(), *stepper.model.buffers(), *moments, *scale)]


def step_with_a_fault_on_rank_1(world, precision, name):
    """Whether a step was refused, and nothing changed by it, and whether the next one is taken."""
    torch.manual_seed(0)
    model = TrainingModel(build_model("ecapa", **ECAPA), build_head("aam", 16, 6)).train()
    optimizer = build_optimizer(OptimOptions(name=name, lr=0.01), list(model.parameters()))
    wrapped = trainer._reduced(model, None, unused=False)
    stepper = Stepper(wrapped, torch.nn.Identity(), optimizer, world=world, precision=precision)
    draws = torch.Generator().manual_seed(world.rank)

    def batch():
        feats_BFM = torch.randn(4, 40, 24, generator=draws)
        return Batch(feats_BFM, torch.arange(4), torch.zeros(4, 0, 4, dtype=torch.int64), (0, 1, 2, 3))

    stepper.step([batch(), batch()])
    before, faulty = state_of(stepper), batch()
    if world.rank == 1:
        faulty.wav_BT[2, 3, 4] = float("nan")
    try:
        stepper.step([batch(), faulty])
        return "taken"
    except NonFiniteLossError:
        kept = all(torch.equal(one, other) for one, other in zip(before, state_of(stepper), strict=True))
    for _ in range(20):  # the first ones may be too large for the scale of fp16
        stepper.step([batch()])
    changed = not torch.equal(before[0], state_of(stepper)[0])
    return "refused, kept, taken" if kept and changed else f"kept: {kept}, taken: {changed}"


def rank_main(folder):
    """What each of two processes runs."""
    with join_world("cpu") as world:
        kinds = itertools.product(("fp32", "bf16", "fp16"), ("sgd", "adam"))
        found = {kind: step_with_a_fault_on_rank_1(world, *kind) for kind in kinds}
        (Path(folder) / f"found.{world.rank}").write_bytes(pickle.dumps(found))


@pytest.mark.slow
def test_a_fault_of_one_rank_is_refused_by_both_and_changes_nothing_on_either(tmp_path):
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_faults as t"
    assert launch_ranks([sys.executable, "-c", f"{program}; t.rank_main({str(tmp_path)!r})"], 2) == 0
    for rank in range(2):
        found = pickle.loads((tmp_path / f"found.{rank}").read_bytes())
        assert len(found) == 6 and set(found.values()) == {"refused, kept, taken"}, found


def farvox(*words):
    command = [sys.executable, "-m", "farvox", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_two_processes_stop_together_with_one_message_and_one_process_replays(tmp_path, changed, damaged):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tomli_w.dumps(changed(damaged)))
    done = farvox("train", recipe, "--gpus", 2, "--run-dir", tmp_path / "run")
    assert done.returncode == 1 and done.stderr.count("nothing was updated") == 1
    epoch, step, position = faulty_steps(damaged)[0]
    assert f"epoch {epoch}, step {step + 1} " in done.stderr
    assert f"position {position}, utterance '{FAULTY}'" in done.stderr
    (folder,) = (tmp_path / "run/replay").iterdir()
    again = farvox("replay", folder)
    assert again.returncode == 1, again.stderr
    assert again.stdout.splitlines()[-1].endswith("not finite again")


class Infinite(torch.nn.Module):
    """A loss that is infinite, with a gradient that is not."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, feats_BFM, labels_B, target_BE):
        self.seen += 1
        loss = self.weight.sum() + float("inf")
        return Losses(loss, torch.zeros(()), torch.zeros(()))


def test_an_infinite_loss_is_a_fault_whatever_its_gradient():
    model = Infinite()
    optimizer = build_optimizer(OptimOptions(lr=0.1), list(model.parameters()))
    stepper = Stepper(model, torch.nn.Identity(), optimizer, world=World(0, 1, CPU))
    batch = Batch(torch.zeros(2, 3, 4), torch.zeros(2), torch.zeros(2, 0, 4, dtype=torch.int64), (0, 1))
    with pytest.raises(NonFiniteLossError, match=r"loss inf, gradient norm 1\.7"):
        stepper.step([batch])
    assert model.weight.tolist() == [1, 1, 1] and model.seen == 0


class Undefined(torch.autograd.Function):
    """A sum whose gradient is NaN."""

    @staticmethod
    def forward(context, values):
        return values.sum()

    @staticmethod
    def backward(context, gradient):
        return torch.full((3,), float("nan"))


class Broken(Infinite):
    def forward(self, feats_BFM, labels_B, target_BE):
        return Losses(Undefined.apply(self.weight), torch.zeros(()), torch.zeros(()))


def test_a_gradient_that_no_scale_of_fp16_makes_finite_is_a_fault_in_the_end():
    model = Broken()
    optimizer = build_optimizer(OptimOptions(lr=0.1), list(model.parameters()))
    stepper = Stepper(model, torch.nn.Identity(), optimizer, world=World(0, 1, CPU), precision="fp16")
    batch = Batch(torch.zeros(2, 3, 4), torch.zeros(2), torch.zeros(2, 0, 4, dtype=torch.int64), (0, 1))
    for _ in range(16):  # from 2 ** 16 to 1
        stepper.step([batch])
    assert stepper.scaler.get_scale() == 1
    with pytest.raises(NonFiniteLossError, match="loss 3, gradient norm nan"):
        stepper.step([batch])
    assert stepper.scaler.get_scale() == 1 and model.weight.tolist() == [1, 1, 1]
