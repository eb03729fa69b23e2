"""What a run does and leaves behind."""

import json
import math
import re

import numpy as np
import pytest
import torch

from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir
from farvox.errors import AudioError, FarvoxError, NonFiniteLossError, RecipeError, TrialError
from farvox.metrics.detection import detection_error
from farvox.options import merge
from farvox.score.cosine import cosine_scores
from farvox.score.trials import read_trials
from farvox.training.checkpoint import finished_epochs
from farvox.zoo import load_model, open_embedder

EPOCH_LINE = re.compile(
    r"Epoch (\d+)  lr \d\.\d{6}  EER \d+\.\d{4}  cost \d\.\d{4}  loss \d+\.?\d*  \d+ s, \d+ s left"
)


def validation(corpus, **more):
    return {"validate": {"data": str(corpus / "dev"), "trials": str(corpus / "dev" / "trials"), **more}}


def test_a_run_learns_and_leaves_a_model_for_every_epoch(tmp_path, train_here, logged):
    folder = train_here(tmp_path, {"schedule": {"epochs": 8}, "optim": {"lr": 0.05}})
    assert finished_epochs(tmp_path) == list(range(8)) and folder.name == "epoch_007"
    losses = [epoch["loss"] for epoch in logged(tmp_path, "epoch")]
    assert losses[-1] < 0.5 * losses[0]
    assert load_model(tmp_path).embedding_dim == load_model(f"{tmp_path}@3").embedding_dim == 16


def test_the_line_of_an_epoch_is_the_baselines(tmp_path, train_here, corpus, capsys, logged):
    schedule = {"schedule": {"epochs": 2, "warmup_epochs": 2, "kind": "multistep"}}
    train_here(tmp_path, validation(corpus) | schedule)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    assert [EPOCH_LINE.fullmatch(line)[1] for line in lines] == ["0", "1"]
    assert "lr 0.005000" in lines[0] and "lr 0.010000" in lines[1]
    assert lines == [line for line in (tmp_path / "train.log").read_text().splitlines() if "Epoch" in line]
    figures = logged(tmp_path, "epoch")[1]
    assert f"EER {100 * figures['eer']:.4f}  cost {figures['min_dcf']:.4f}" in lines[1]


def test_validation_may_be_rarer_but_never_misses_the_last_epoch(tmp_path, train_here, corpus, logged):
    train_here(tmp_path, validation(corpus, every=2) | {"schedule": {"epochs": 5}})
    assert ["eer" in epoch for epoch in logged(tmp_path, "epoch")] == [False, True, False, True, True]


def test_the_embeddings_of_each_validation_are_kept_on_request(tmp_path, train_here, corpus, logged):
    kept = validation(corpus)
    kept["validate"]["keep_embeddings"] = True
    train_here(tmp_path, kept | {"schedule": {"epochs": 2}})
    found = [EmbeddingSet.load(tmp_path / f"validation/epoch_{epoch:03}") for epoch in (0, 1)]
    assert all(set(each.utt_ids) <= set(DataDir.open(corpus / "dev").utt_ids) for each in found)
    assert not np.array_equal(found[0].embeddings, found[1].embeddings)
    digests = [open_embedder(f"{tmp_path}@{epoch}", backend="torch").digest for epoch in (0, 1)]
    assert [(each.meta["digest"], each.meta["epoch"]) for each in found] == list(
        zip(digests, (0, 1), strict=True)
    )
    resolved = read_trials(corpus / "dev" / "trials").resolve(found[1].utt_ids)
    scores = cosine_scores(resolved, found[1].embeddings)
    result = detection_error(scores, read_trials(corpus / "dev" / "trials").target)
    assert logged(tmp_path, "epoch")[1]["eer"] == pytest.approx(result.eer)


def test_validation_needs_labels_and_says_so_before_training(tmp_path, train_here, corpus):
    blind = tmp_path / "blind"
    blind.write_text("d0_0 d0_1\n")
    with pytest.raises(TrialError, match="needs a trial list with labels"):
        train_here(tmp_path / "run", {"validate": {"data": str(corpus / "dev"), "trials": str(blind)}})
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(("label", "kind"), [("1", "target"), ("0", "non-target")])
def test_validation_needs_both_kinds_of_trials_and_says_so_before_training(
    tmp_path, train_here, corpus, label, kind
):
    one_sided = tmp_path / "one-sided"
    one_sided.write_text(f"{label} d0_0 d0_1\n{label} d0_0 d1_1\n")
    with pytest.raises(TrialError, match=f"one-sided: all trials are {kind}"):
        train_here(tmp_path / "run", {"validate": {"data": str(corpus / "dev"), "trials": str(one_sided)}})
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_one_speaker_is_nothing_to_classify(tmp_path, train_here, make_corpus):
    make_corpus(tmp_path / "one", speakers=["alone"], takes=8)
    with pytest.raises(RecipeError, match=r"one speaker, 'alone'.*distill.classify = 0"):
        train_here(tmp_path / "run", {"data": {"train": [str(tmp_path / "one")], "speeds": [1.0]}})


def test_a_damaged_file_of_the_validation_does_not_cost_the_epoch(tmp_path, train_here, make_corpus):
    make_corpus(tmp_path / "dev", speakers=["d0", "d1"])
    damaged = next(tmp_path.rglob("d1_2.*"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    validate = {"validate": {"data": str(tmp_path / "dev"), "trials": str(tmp_path / "dev" / "trials")}}
    with pytest.raises(AudioError, match="d1_2"):
        train_here(tmp_path / "run", validate)
    assert finished_epochs(tmp_path / "run") == [0]


def test_validation_does_not_change_the_training(tmp_path, train_here, corpus, same_weights):
    train_here(tmp_path / "with", validation(corpus))
    train_here(tmp_path / "without")
    assert same_weights(tmp_path / "with", tmp_path / "without", 1)


def test_figures_are_json_lines_and_tensorboard_on_request(tmp_path, train_here, logged):
    train_here(tmp_path, {"log": {"every": 2, "tensorboard": True}})
    assert [(step["step"], step["epoch"]) for step in logged(tmp_path)] == [(2, 0), (5, 1)]
    assert logged(tmp_path)[0].keys() >= {"loss", "mean_loss", "accuracy", "lr", "grad_norm"}
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 1


def test_weights_are_left_alone_from_the_first_loss_that_is_not_finite(tmp_path, train_here):
    with pytest.raises(NonFiniteLossError, match=r"epoch \d, step \d .*: loss .* nothing was updated"):
        train_here(tmp_path, {"optim": {"lr": 1e30}, "schedule": {"epochs": 3}})
    for path in tmp_path.glob("checkpoints/*/state.json"):
        assert math.isfinite(json.loads(path.read_text())["figures"]["loss"])


def test_two_accumulated_halves_are_a_batch(tmp_path, train_here, weights):
    for name, accumulate in (("one", 1), ("two", 2)):
        optim = {"batch_size": 16, "accumulate": accumulate, "freeze_batchnorm": True, "lr": 1e-3}
        train_here(tmp_path / name, {"optim": optim, "data": {"epoch_size": 64}})
    one, two = (weights(tmp_path / name, 1) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs_and_goes_on(precision, tmp_path, train_here, same_weights, logged):
    changes = {"optim": {"precision": precision}}
    train_here(tmp_path / "once", changes | {"schedule": {"epochs": 2}})
    train_here(tmp_path / "twice", changes | {"schedule": {"epochs": 1}})
    train_here(tmp_path / "twice", changes | {"schedule": {"epochs": 2}})
    assert same_weights(tmp_path / "once", tmp_path / "twice", 1)
    assert all(math.isfinite(step["loss"]) for step in logged(tmp_path / "once"))


@pytest.mark.parametrize("there", [True, False])
def test_auto_is_bf16_where_the_device_has_it_and_a_run_says_what_it_computes_in(
    there, tmp_path, train_here, same_weights, monkeypatch, capsys
):
    for module in ("farvox.machine", "farvox.training.trainer"):
        monkeypatch.setattr(f"{module}.has_bf16", lambda device: there)
    changes = {"schedule": {"epochs": 1}}
    for name in ("auto", "bf16", "fp32"):
        train_here(tmp_path / name, changes | {"optim": {"precision": name}})
        said = capsys.readouterr().out
        assert ("has no bf16 and imitates it" in said) == (name == "bf16" and not there)
    assert same_weights(tmp_path / "auto", tmp_path / ("bf16" if there else "fp32"), 0)
    assert not same_weights(tmp_path / "auto", tmp_path / ("fp32" if there else "bf16"), 0)


def test_an_order_of_memory_that_torch_crashes_on_is_left_out_and_the_log_says_so(
    tmp_path, train_here, capsys
):
    sizes = {"name": "resnet34", "blocks": [1, 1, 1, 1], "num_mels": 24, "embedding_dim": 16}
    for channels in (8, 16):
        changes = {"model": {**sizes, "channels": channels}, "optim": {"channels_last": "on"}}
        train_here(tmp_path / str(channels), {**changes, "schedule": {"epochs": 1}})
        assert ("channels_last is left out" in capsys.readouterr().out) == (channels == 8)


def test_a_network_takes_as_many_mels_as_the_front_end_gives(tmp_path, train_here):
    train_here(tmp_path, {"features": {"num_mels": 20}, "model": {"name": "ecapa", "channels": 32}})
    assert load_model(tmp_path).network.num_mels == 20


def test_the_homeworks_epochs_go_on_at_44(tmp_path, train_here, logged):
    train_here(tmp_path, {"schedule": {"first_epoch": 44, "epochs": 46}})
    assert finished_epochs(tmp_path) == [44, 45]
    assert [epoch["step"] for epoch in logged(tmp_path, "epoch")] == [3, 6]


def test_a_student_needs_no_labels(tmp_path, train_here, corpus, model_folder, logged):
    dir = tmp_path / "unlabelled"
    dir.mkdir()
    (dir / "wav.scp").write_text((corpus / "train" / "wav.scp").read_text())
    changes = {
        "model": {},
        "data": {"train": [str(dir)]},
        "init": {"model": str(model_folder)},
        "augment": {"kind": "farvox", "noise": [str(corpus / "more")], "noise_probability": 1.0},
        "distill": {"weight": 1.0, "classify": 0.0},
        "optim": {"name": "adam", "lr": 1e-3, "freeze_batchnorm": True},
        "schedule": {"epochs": 6},
    }
    folder = train_here(tmp_path / "run", changes)
    distances = [epoch["distance"] for epoch in logged(tmp_path / "run", "epoch")]
    assert distances[-1] < 0.8 * distances[0]
    assert json.loads((folder / "state.json").read_text())["classes"] == ["unlabelled"]


def test_a_run_with_checkpointing_is_the_run_without(tmp_path, train_here, same_weights):
    for name, on in (("kept", False), ("again", True)):
        train_here(tmp_path / name, {"optim": {"checkpointing": on}})
    assert same_weights(tmp_path / "kept", tmp_path / "again", 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, of torch
def test_a_compiled_run_is_the_run_but_for_rounding(tmp_path, train_here, logged, weights):
    for name, on in (("eager", False), ("compiled", True)):
        train_here(tmp_path / name, {"optim": {"compile": on}})
    one, two = ([step["loss"] for step in logged(tmp_path / name)] for name in ("eager", "compiled"))
    assert two == pytest.approx(one, rel=1e-4)
    assert weights(tmp_path / "eager", 1).keys() == weights(tmp_path / "compiled", 1).keys()


def test_speakers_of_validation_or_of_two_dirs_that_are_in_training_are_counted(
    tmp_path, train_here, corpus, make_corpus, capsys
):
    make_corpus(tmp_path / "dev", speakers=["s1", "t9", "d0"], seed=3)
    train = [str(corpus / "train"), str(corpus / "more")]
    validate = {"data": str(tmp_path / "dev"), "trials": str(tmp_path / "dev/trials")}
    more = {"data": {"train": train, "num_frames": 30, "workers": 0}, "schedule": {"epochs": 1}}
    train_here(tmp_path / "run", more | {"validate": validate})
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: 3 of the 8 speakers are in several training dirs, each of them taken for one person "
        f"('s3' in {' and '.join(train)}): rename them in one utt2spk if they are not",
        f"warning: 2 of the 3 speakers of the validation {tmp_path / 'dev'} are also in the training: "
        "'s1', 't9'",
    ]


def test_speakers_that_a_starting_model_was_trained_on_are_counted_in_validation(
    tmp_path, train_here, make_corpus, capsys
):
    """Also those of the model that it began with itself, and of copies at another speed."""
    for name, speakers in {"one": "abcdefgh", "two": "ijklmnop", "three": "qrstuvwx", "dev": "aijz"}.items():
        make_corpus(tmp_path / name, speakers=speakers, seed=3)
    one = {"data": {"train": [str(tmp_path / "one")], "speeds": [1.0, 0.9]}, "schedule": {"epochs": 1}}
    train_here(tmp_path / "first", one)
    two = {"data": {"train": [str(tmp_path / "two")]}, "schedule": {"epochs": 1}, "model": {}}
    train_here(tmp_path / "second", two | {"init": {"model": str(tmp_path / "first")}})
    three = two | {"data": {"train": [str(tmp_path / "three")]}}
    validate = {"data": str(tmp_path / "dev"), "trials": str(tmp_path / "dev/trials")}
    capsys.readouterr()
    train_here(tmp_path / "run", three | {"init": {"model": str(tmp_path / "second")}, "validate": validate})
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    what = f"of the 4 speakers of the validation {tmp_path / 'dev'} are also in the training of init.model"
    assert warnings == [
        f"warning: 2 {what} {tmp_path}/second/checkpoints/epoch_000: 'i', 'j'",
        f"warning: 1 {what} {tmp_path}/first/checkpoints/epoch_000: 'a'",
    ]


def test_speakers_that_are_renamed_in_one_dir_are_two(tmp_path, train_here, corpus, capsys):
    other = tmp_path / "more"
    other.mkdir()
    for name in ("wav.scp", "utt2spk"):
        (other / name).write_bytes((corpus / "more" / name).read_bytes())
    lines = (line.split() for line in (other / "utt2spk").read_text().splitlines())
    (other / "utt2spk").write_text("".join(f"{utt_id} more-{speaker}\n" for utt_id, speaker in lines))
    data = {"train": [str(corpus / "train"), str(other)], "num_frames": 30, "workers": 0}
    train_here(tmp_path / "run", {"data": data, "schedule": {"epochs": 1}})
    assert "11 speakers" in (said := capsys.readouterr().out) and "warning" not in said


def test_validation_of_an_utterance_with_itself_or_wrong_labels_is_refused(tmp_path, train_here, corpus):
    lines = (corpus / "dev/trials").read_text().splitlines()
    label, one, other = lines[0].split()
    for line, message in (
        (f"1 {one} {one}", "one recording.*remove them"),
        (f"{'10'[int(label)]} {one} {other}", "its speakers are"),
    ):
        (tmp_path / "trials").write_text("\n".join([*lines[1:], line]) + "\n")
        with pytest.raises(TrialError, match=f"trials:{len(lines)}: .*{message}"):
            train_here(
                tmp_path / "run",
                {"validate": {"data": str(corpus / "dev"), "trials": str(tmp_path / "trials")}},
            )
    (tmp_path / "trials").write_text("\n".join(lines[1:]) + "\n")  # the remedy: it is removed
    validate = {"data": str(corpus / "dev"), "trials": str(tmp_path / "trials")}
    train_here(tmp_path / "run", {"validate": validate, "schedule": {"epochs": 1}})


TAKES_ONE = {"optim": {"batch_size": 1}, "schedule": {"epochs": 1}, "data": {"epoch_size": 3}}
ECAPA = {"name": "ecapa", "num_mels": 24, "channels": 16, "embedding_dim": 8, "bottleneck": 8}


@pytest.mark.parametrize(
    ("optim", "remedies"),
    [
        ({"batch_size": 1}, [{"batch_size": 2}, {"freeze_batchnorm": True}]),
        (
            {"batch_size": 4, "accumulate": 4},
            [{"batch_size": 8}, {"accumulate": 2}, {"freeze_batchnorm": True}],
        ),
    ],
)
def test_a_pass_of_one_example_with_batchnorm_is_refused_and_the_ways_out_work(
    tmp_path, train_here, optim, remedies
):
    changes = TAKES_ONE | {"model": ECAPA, "data": {"epoch_size": 8}}
    with pytest.raises(RecipeError, match=r"BatchNorm \('pool_norm'\) has no statistics of one") as caught:
        train_here(tmp_path / "run", changes | {"optim": optim})
    for number, remedy in enumerate(remedies):
        for key, value in remedy.items():
            assert f"optim.{key}" in str(caught.value)
            if key == "batch_size":
                assert f"optim.batch_size to {value} or more" in str(caught.value)
        train_here(tmp_path / f"{number}", changes | {"optim": optim | remedy})
        assert finished_epochs(tmp_path / f"{number}") == [0]


def test_a_network_whose_batchnorm_is_over_frames_trains_on_one_example(tmp_path, train_here):
    resnet = {"name": "resnet34", "channels": 4, "embedding_dim": 8}
    train_here(tmp_path / "resnet", TAKES_ONE | {"model": resnet})
    assert finished_epochs(tmp_path / "resnet") == [0]
    held = TAKES_ONE["optim"] | {"freeze": ["network"]}
    train_here(tmp_path / "held", TAKES_ONE | {"model": ECAPA, "optim": held})
    assert finished_epochs(tmp_path / "held") == [0]
    held |= {"release_epoch": 1}
    with pytest.raises(RecipeError, match="one example a pass"):
        later = {"model": ECAPA, "optim": held, "schedule": {"epochs": 2}}
        train_here(tmp_path / "released", TAKES_ONE | later)


ODD = {
    "seed": 1 << 64,
    "threads": 100_000,
    "data.num_frames": 1_000_000,
    "data.workers": 500,
    "data.epoch_size": 1 << 62,
    "features.sample_rate": 10**12,
    "head.scale": "x",
    "head.idle_classes": 10**12,
    "model.channels": 0,
    "model.embedding_dim": 10**9,
    "optim.batch_size": 10**400,
    "optim.l2_sp": 1e300,
    "optim.lr": 10**400,
    "schedule.gamma": 1e31,
    "specaugment.num_time": 10**9,
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("starts", [False, True])
def test_a_value_that_no_training_can_have_is_an_error_by_name(
    name, starts, tmp_path, tiny_recipe, train_here
):
    changes = ODD[name]
    for key in reversed(name.split(".")):
        changes = {key: changes}
    if starts:
        changes = merge({"init": {"model": str(tmp_path / "start")}, "model": {}, "features": {}}, changes)
        train_here(tmp_path / "start", {"schedule": {"epochs": 1}})
    else:
        changes = merge({"model": tiny_recipe["model"]}, changes)
    with pytest.raises(FarvoxError, match=name.split(".")[-1]):
        train_here(tmp_path / "run", changes)


def test_a_rate_beyond_all_reason_is_an_error_of_the_step(tmp_path, train_here):
    with pytest.raises(NonFiniteLossError, match="epoch 0, step "):
        train_here(tmp_path, {"optim": {"lr": 1e12}})
