"""A run that was stopped and continued is the run that was not stopped."""

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from farvox.audio.files import read_audio, write_audio
from farvox.audio.remote import remote_audio
from farvox.datadir.kaldi import DataDir
from farvox.errors import CheckpointError, RecipeError
from farvox.training.checkpoint import checkpoint_folder, compare_audio, finished_epochs
from farvox.training.table import TrainingTable

DROPOUT = {
    "model": {
        "name": "ffsvc-resnet34",
        "num_mels": 24,
        "channels": 16,
        "blocks": [1, 1, 1, 1],
        "embedding_dim": 16,
    },
    "data": {"speeds": [1.0, 0.9]},
    "specaugment": {"probability": 0.5},
    "schedule": {"epochs": 3, "kind": "cosine", "warmup_epochs": 1, "margin_epochs": [0, 2]},
}


def stop_after(run_dir, epoch):
    """Take away the later checkpoints: what a killed run leaves behind."""
    for later in finished_epochs(run_dir)[epoch + 1 :]:
        shutil.rmtree(checkpoint_folder(run_dir, later))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_ends_in_the_same_bits(optimizer, tmp_path, train_here, same_weights):
    changes = DROPOUT | {"optim": {"name": optimizer, "lr": 1e-3}}
    train_here(tmp_path / "once", changes)
    for stopped in (0, 1):
        shutil.copytree(tmp_path / "once", tmp_path / f"from{stopped}")
        stop_after(tmp_path / f"from{stopped}", stopped)
        train_here(tmp_path / f"from{stopped}", changes)
        assert same_weights(tmp_path / "once", tmp_path / f"from{stopped}", 2)
    assert not same_weights_of_epochs(tmp_path / "once", 1, 2)


def test_a_run_resumes_in_the_same_bits_before_and_after_its_release(tmp_path, train_here, same_weights):
    optim = {"name": "adam", "lr": 1e-3, "l2_sp": 1e-2, "freeze": ["front"], "release_epoch": 2}
    train_here(tmp_path / "start", DROPOUT | {"schedule": {"epochs": 1}})
    changes = DROPOUT | {"init": {"model": str(tmp_path / "start")}, "optim": optim}
    changes |= {"schedule": {"epochs": 4}}
    train_here(tmp_path / "once", changes)
    for stopped in (0, 2):
        shutil.copytree(tmp_path / "once", tmp_path / f"from{stopped}")
        stop_after(tmp_path / f"from{stopped}", stopped)
        train_here(tmp_path / f"from{stopped}", changes)
        assert same_weights(tmp_path / "once", tmp_path / f"from{stopped}", 3)


@pytest.mark.parametrize(("classify", "agree"), [(1.0, 0.0), (0.0, 0.0), (1.0, 2.0)])
def test_a_taught_run_resumes_in_the_same_bits(classify, agree, tmp_path, train_here, same_weights):
    train_here(tmp_path / "start", DROPOUT | {"schedule": {"epochs": 1}})
    changes = DROPOUT | {
        "init": {"model": str(tmp_path / "start"), "classifier": "means"},
        "distill": {"weight": 10.0, "classify": classify},
        "agree": {"weight": agree},
        "optim": {
            "name": "adam",
            "lr": 1e-3,
            "l2_sp": 1e-3,
            "precision": "bf16",
            "channels_last": True,
            "accumulate": 2,
        },
        "schedule": {"epochs": 3, "kind": "linear", "warmup_epochs": 0.5},
    }
    train_here(tmp_path / "once", changes)
    shutil.copytree(tmp_path / "once", tmp_path / "again")
    stop_after(tmp_path / "again", 0)
    train_here(tmp_path / "again", changes)
    assert same_weights(tmp_path / "once", tmp_path / "again", 2)
    assert not same_weights_of_epochs(tmp_path / "once", 0, 2)


def test_copies_that_nothing_tells_apart_are_told_of(tmp_path, train_here, logged):
    train_here(tmp_path / "alike", {"agree": {"weight": 1.0}, "schedule": {"epochs": 1}})
    assert "agree.weight: the copies of a chunk are alike" in (tmp_path / "alike/train.log").read_text()
    assert max(step["distance"] for step in logged(tmp_path / "alike")) < 1e-5


def same_weights_of_epochs(run_dir, one, other):
    files = (checkpoint_folder(run_dir, epoch) / "model.safetensors" for epoch in (one, other))
    return len({file.read_bytes() for file in files}) == 1


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path, train_here, same_weights):
    train_here(tmp_path / "once", {"schedule": {"epochs": 3}})
    train_here(tmp_path / "twice", {"schedule": {"epochs": 2}})
    train_here(tmp_path / "twice", {"schedule": {"epochs": 3}})
    assert same_weights(tmp_path / "once", tmp_path / "twice", 2)


CURVE = {"final_lr": 1e-3, "warmup_epochs": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
def test_a_prolonged_run_says_by_how_much_its_rate_rises_and_the_way_out_keeps_it(
    kind, tmp_path, train_here, logged, capsys, same_weights
):
    curve = {"kind": kind, **CURVE}
    train_here(tmp_path / "run", {"schedule": {**curve, "epochs": 2}})
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    assert "note: the learning rate" not in capsys.readouterr().out
    train_here(tmp_path / "run", {"schedule": {**curve, "epochs": 4}})
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "learning rate rises" in line]
    before, now = map(float, re.search(r"from (\S+) to (\S+):", line).groups())
    rates = [step["lr"] for step in logged(tmp_path / "run")]
    assert (before, now) == pytest.approx((rates[5], rates[6]), rel=1e-4) and before == 1e-3 and now > before
    assert line in (tmp_path / "run/train.log").read_text().splitlines()

    epochs, extend = map(int, re.search(r"--schedule.epochs (\d+) --schedule.extend (\d+)$", line).groups())
    kept = {"schedule": {**curve, "epochs": epochs, "extend": extend}}
    train_here(tmp_path / "kept", kept)
    assert "note: the learning rate" not in capsys.readouterr().out
    assert [step["lr"] for step in logged(tmp_path / "kept")[6:]] == pytest.approx([1e-3] * 6)
    train_here(tmp_path / "at once", kept)
    assert same_weights(tmp_path / "at once", tmp_path / "kept", 3)


def test_a_run_whose_end_is_moved_before_it_is_finished_says_so_too(tmp_path, train_here, capsys):
    curve = {"kind": "linear", **CURVE}
    train_here(tmp_path, {"schedule": {**curve, "epochs": 4}})
    stop_after(tmp_path, epoch=1)
    train_here(tmp_path, {"schedule": {**curve, "epochs": 3}})
    assert "learning rate falls from" in capsys.readouterr().out
    train_here(tmp_path, {"schedule": {**curve, "epochs": 6, "kind": "linear"}})
    assert "learning rate rises from 0.001 to" in capsys.readouterr().out


def test_a_schedule_that_does_not_know_its_end_is_prolonged_without_a_word(tmp_path, train_here, capsys):
    for epochs in (1, 3):
        train_here(tmp_path, {"schedule": {"kind": "multistep", "milestones": [1], "epochs": epochs}})
    assert "learning rate" not in capsys.readouterr().out


def test_a_finished_run_is_not_trained_again(tmp_path, train_here, capsys):
    folder = train_here(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert train_here(tmp_path) == folder
    assert "has all epochs already, up to 1" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_dir_of_another_recipe_is_refused_with_what_differs(tmp_path, train_here):
    train_here(tmp_path)
    with pytest.raises(RecipeError) as caught:
        train_here(tmp_path, {"optim": {"lr": 0.5}, "head": {"margin": 0.1}, "schedule": {"epochs": 9}})
    lines = str(caught.value).splitlines()
    assert "was begun with another recipe" in lines[0]
    assert lines[1:] == ["  head.margin: None there, 0.1 now", "  optim.lr: 0.01 there, 0.5 now"]


def test_what_leaves_the_weights_alone_may_change(tmp_path, train_here):
    train_here(tmp_path, {"schedule": {"epochs": 1}})
    train_here(
        tmp_path,
        {"data": {"workers": 1, "features": "workers"}, "log": {"every": 5, "keep": 1}},
    )
    assert finished_epochs(tmp_path) == [1]


def test_a_run_begun_when_channels_last_was_true_or_false_goes_on(tmp_path, train_here):
    train_here(tmp_path, {"schedule": {"epochs": 1}})
    saved = tmp_path / "recipe.toml"
    text = saved.read_text()
    assert 'channels_last = "auto"' in text
    saved.write_text(text.replace('channels_last = "auto"', "channels_last = false"))
    train_here(tmp_path)
    assert finished_epochs(tmp_path) == [0, 1]


def test_no_resume_refuses_a_run_dir_with_checkpoints(tmp_path, train_here):
    train_here(tmp_path, {"schedule": {"epochs": 1}}, resume=False)
    with pytest.raises(RecipeError, match="already holds 1 checkpoint"):
        train_here(tmp_path, resume=False)


def test_changed_data_dirs_are_refused(tmp_path, train_here, make_corpus):
    changes = {"data": {"train": [str(tmp_path / "data")]}, "optim": {"batch_size": 2}}
    make_corpus(tmp_path / "data", speakers=["a", "b"], takes=2)
    train_here(tmp_path / "run", changes | {"schedule": {"epochs": 1}})
    make_corpus(tmp_path / "data", speakers=["a", "b"], takes=3)
    with pytest.raises(CheckpointError, match=r"other data \(2 classes there, 2 now.*--run-dir"):
        train_here(tmp_path / "run", changes)


def test_audio_that_was_replaced_meanwhile_is_refused_by_utterance(
    tmp_path, train_here, make_corpus, capsys, same_weights
):
    changes = {"data": {"train": [str(tmp_path / "data")]}, "optim": {"batch_size": 2}}
    make_corpus(tmp_path / "data", speakers=["a", "b"], takes=2)
    run = tmp_path / "run"
    train_here(run, changes | {"schedule": {"epochs": 1}})
    shutil.copytree(run, tmp_path / "removed")
    shutil.copytree(run, tmp_path / "old")
    utterance = list(DataDir.open(tmp_path / "data").utterances())[2]
    wav = Path(utterance.wav_path)
    before = wav.read_bytes(), wav.stat().st_mtime_ns
    write_audio(wav, 0.5 * read_audio(wav))
    pattern = rf"1 of 4 utterances .*'{utterance.utt_id}' \({wav}\).*remove {run}/audio-time.npy"
    with pytest.raises(CheckpointError, match=pattern):
        train_here(run, changes)
    (tmp_path / "removed" / "audio-time.npy").unlink()  # a way out that the message names
    train_here(tmp_path / "removed", changes)
    assert "has no audio-time.npy" in capsys.readouterr().out
    wav.unlink()
    with pytest.raises(CheckpointError, match=pattern):
        train_here(run, changes)
    wav.write_bytes(before[0])  # the other one
    os.utime(wav, ns=(0, before[1]))
    train_here(run, changes)
    assert finished_epochs(run) == [0, 1]
    train_here(tmp_path / "once", changes)
    assert same_weights(run, tmp_path / "once", 1)


def test_a_finished_run_whose_data_changed_is_not_kept_without_a_word(
    tmp_path, train_here, make_corpus, capsys
):
    changes = {"data": {"train": [str(tmp_path / "data")]}, "optim": {"batch_size": 2}}
    make_corpus(tmp_path / "data", speakers=["a", "b"], takes=2)
    shutil.copytree(tmp_path / "data", tmp_path / "before")
    run = tmp_path / "run"
    train_here(run, changes)
    wav = Path(DataDir.open(tmp_path / "data").wav_paths[3])
    kept = shutil.copy2(wav, tmp_path / "kept.wav")
    write_audio(wav, 0.5 * read_audio(wav))
    with pytest.raises(CheckpointError, match=rf"1 of 4 utterances .*{wav}.*start another --run-dir"):
        train_here(run, changes)
    shutil.copy2(kept, wav)  # the remedies
    train_here(run, changes)
    (tmp_path / "data/utt2spk").write_text("".join(f"a_{n} b\nb_{n} a\n" for n in range(2)))
    (tmp_path / "data/spk2utt").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="trained on other data"):
        train_here(run, changes)
    train_here(tmp_path / "another", changes)
    shutil.rmtree(tmp_path / "data")
    capsys.readouterr()
    train_here(run, changes)
    assert "so whether the data of" in capsys.readouterr().out


def write_responses(folder):
    """Put decaying noise in the place of the audio of a data dir."""
    decay_T = np.exp(-np.arange(4000) / 600)
    for path in DataDir.open(folder).wav_paths:
        write_audio(path, 0.2 * decay_T * np.random.default_rng(0).standard_normal(4000))


@pytest.mark.parametrize("what", ["noise", "rirs", "music"])
def test_audio_of_the_augmentation_that_was_replaced_meanwhile_is_refused(
    what, tmp_path, train_here, make_corpus, same_weights
):
    make_corpus(tmp_path / "noise", speakers=["n"], takes=3)
    for name in ("utt2spk", "spk2utt"):
        (tmp_path / "noise" / name).unlink(missing_ok=True)
    if what == "rirs":
        write_responses(tmp_path / "noise")
    augment = {"kind": "farvox", what: [str(tmp_path / "noise")]}
    run, once = tmp_path / "run", tmp_path / "once"
    train_here(once, {"augment": augment})
    shutil.copytree(once, run)
    stop_after(run, 0)
    wav = Path(DataDir.open(tmp_path / "noise").wav_paths[1])
    kept = shutil.copy2(wav, tmp_path / "kept.wav")
    write_audio(wav, 0.5 * read_audio(wav))
    pattern = rf"1 of 3 files of the augmentation .*{wav}: .*remove {run}/augment-time.npy"
    with pytest.raises(CheckpointError, match=pattern):
        train_here(run, {"augment": augment})
    shutil.copy2(kept, wav)
    listing = tmp_path / "noise/wav.scp"
    lines = listing.read_text()
    listing.write_text(lines + f"z {kept}\n")  # an added file changes every draw
    with pytest.raises(CheckpointError, match=rf"the first is {kept}"):
        train_here(run, {"augment": augment})
    listing.write_text(lines)
    train_here(run, {"augment": augment})
    assert same_weights(once, run, 1)


class OnlySizes(SimpleHTTPRequestHandler):
    def send_header(self, name, value):
        if name != "Last-Modified":
            super().send_header(name, value)

    def log_message(self, *words):
        pass


@pytest.mark.parametrize(("handler", "is_told"), [(OnlySizes, False), (SimpleHTTPRequestHandler, True)])
def test_audio_at_a_url_is_compared_as_far_as_its_host_tells(handler, is_told, tmp_path, make_corpus):
    make_corpus(tmp_path / "data", speakers=["a"], takes=2)
    wavs = [Path(path) for path in DataDir.open(tmp_path / "data").wav_paths]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory="/"))
    with ThreadPoolExecutor(1) as pool, remote_audio():
        pool.submit(server.serve_forever)
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            listing = "".join(f"{wav.stem} {address}{wav}\n" for wav in wavs)
            (tmp_path / "data/wav.scp").write_text(listing)
            table, lines = TrainingTable.open([tmp_path / "data"]), []
            compare_audio(table, (), tmp_path, lines.append, has_begun=False)
            compare_audio(table, (), tmp_path, lines.append, has_begun=True)
            assert any("tells only sizes" in line for line in lines) != is_told
            os.utime(wavs[1], (0, 0))
            with nullcontext() if not is_told else pytest.raises(CheckpointError, match="1 of 2 utterances"):
                compare_audio(table, (), tmp_path, lines.append, has_begun=True)
        finally:
            server.shutdown()
            server.server_close()


def test_conditions_that_choose_rirs_are_compared(tmp_path, train_here, make_corpus):
    make_corpus(tmp_path / "rirs", speakers=["r"], takes=2)
    write_responses(tmp_path / "rirs")
    conditions = tmp_path / "rirs/utt2cond"
    ids = DataDir.open(tmp_path / "rirs").utt_ids
    conditions.write_text("utt_id\tt60\n" + "".join(f"{utt_id}\t0.5\n" for utt_id in ids))
    changes = {"augment": {"kind": "farvox", "rirs": [str(tmp_path / "rirs")], "rir_t60": [0.1, 0.9]}}
    train_here(tmp_path / "run", changes)
    conditions.write_text(conditions.read_text().replace(f"{ids[0]}\t0.5", f"{ids[0]}\t1.50"))
    with pytest.raises(CheckpointError, match=f"the first is {conditions}"):
        train_here(tmp_path / "run", changes)


def test_a_run_whose_starting_model_was_trained_on_goes_on_from_what_it_began_with(
    tmp_path, train_here, same_weights, capsys
):
    changes = {"init": {"model": str(tmp_path / "start")}, "optim": {"l2_sp": 1.0}, "model": {}}
    train_here(tmp_path / "start", {"schedule": {"epochs": 1}})
    train_here(tmp_path / "once", changes)
    shutil.copytree(tmp_path / "once", tmp_path / "run")
    stop_after(tmp_path / "run", 0)
    train_here(tmp_path / "start", {"schedule": {"epochs": 2}})
    capsys.readouterr()
    train_here(tmp_path / "run", changes)
    line = next(line for line in capsys.readouterr().out.splitlines() if "by now" in line)
    assert str(checkpoint_folder(tmp_path / "start", 1)) in line
    assert f"keeps to {checkpoint_folder(tmp_path / 'start', 0)}" in line
    assert same_weights(tmp_path / "once", tmp_path / "run", 1)
    train_here(tmp_path / "run", changes)  # finished
    assert "by now" in capsys.readouterr().out

    stop_after(tmp_path / "run", 0)
    shutil.rmtree(tmp_path / "away", ignore_errors=True)
    shutil.move(checkpoint_folder(tmp_path / "start", 0), tmp_path / "away")  # log.keep removes such
    with pytest.raises(CheckpointError, match=r"init\.model = '.*start'.* began with .*epoch_000, whose"):
        train_here(tmp_path / "run", changes)
    shutil.move(tmp_path / "away", checkpoint_folder(tmp_path / "start", 0))
    train_here(tmp_path / "run", changes)
    assert same_weights(tmp_path / "once", tmp_path / "run", 1)


def test_the_resolved_recipe_is_in_the_run_dir_before_the_first_step(tmp_path, train_here):
    with pytest.raises(RecipeError, match="the network has no part 'nowhere'"):
        train_here(tmp_path, {"optim": {"freeze": ["nowhere"]}})
    assert 'name = "xvector"' in (tmp_path / "recipe.toml").read_text()
    train_here(tmp_path, {"schedule": {"epochs": 1}})
    state = json.loads((checkpoint_folder(tmp_path, 0) / "state.json").read_text())
    assert state["classes"] == [f"s{n}" for n in range(6)] and state["step"] == 3
