"""Fine-tuning: a run that starts from a model."""

import polars as pl
import pytest
import torch

from farvox.datadir.kaldi import DataDir, write_data_dir
from farvox.errors import CheckpointError, ModelError, RecipeError
from farvox.options import from_table, merge
from farvox.training import trainer
from farvox.training.distributed import World
from farvox.training.options import TrainOptions
from farvox.training.start import class_names

SPEAKERS = [f"s{n}" for n in range(6)]

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module", params=["aam", "subcentre-aam", "softmax"])
def head(request):
    return {"name": request.param}


@pytest.fixture(scope="module")
def pretrained(head, changed, tmp_path_factory):
    """A run dir with epochs 0 and 1."""
    run_dir = tmp_path_factory.mktemp("pretrained")
    trainer.train(from_table(TrainOptions, changed({"head": head}), "recipe"), run_dir, ALONE)
    return run_dir


@pytest.fixture
def start(changed, pretrained, head, tmp_path):
    """A function that puts a run together that starts from the pre-trained one."""

    def build(changes, model=pretrained, **init):
        table = changed({"head": head} | changes) | {"init": {"model": str(model), **init}}
        return trainer.Run(from_table(TrainOptions, table, "recipe"), ALONE)

    return build


def rows_of(run, weights, names):
    """The classifier's rows of some classes, from the network's own numbering."""
    k = getattr(run.head, "num_subcentres", 1)
    return torch.cat([weights[k * run.classes.index(name) :][:k] for name in names])


def same_network(run, tensors):
    state = run.network.state_dict()
    return all(torch.equal(state[name], tensors[f"model.{name}"]) for name in state)


def test_a_new_classifier_belongs_to_the_new_speakers(start, corpus, weights, pretrained):
    run = start({"data": {"train": [str(corpus / "more")]}})
    assert run.classes == ["a0", "s3", "s4", "s5", "t9"] and run.head.num_classes == 5
    assert same_network(run, weights(pretrained, 1))


def test_a_kept_classifier_is_the_models(start, weights, pretrained):
    run = start({}, classifier="keep")
    assert run.classes == SPEAKERS
    assert torch.equal(run.head.weight, weights(pretrained, 1)["classifier.weight"])


def test_a_classifier_of_other_speakers_cannot_be_kept(start, corpus):
    with pytest.raises(RecipeError, match=r"6 classes, the data dirs have 5, and 5 .*'extend'"):
        start({"data": {"train": [str(corpus / "more")]}}, classifier="keep")


def test_an_extended_classifier_needs_a_speaker_of_the_model(start, corpus, tmp_path):
    strangers = DataDir.open(corpus / "more").table.with_columns(speaker_id=pl.lit("stranger"))
    write_data_dir(tmp_path / "strangers", strangers)
    with pytest.raises(RecipeError, match=r"none of the 6 classes .* is in the data dirs \('stranger'"):
        start({"data": {"train": [str(tmp_path / "strangers")]}}, classifier="extend")


def test_an_extended_classifier_keeps_its_rows_and_labels_speakers_by_name(
    start, corpus, weights, pretrained
):
    run = start({"data": {"train": [str(corpus / "more")]}}, classifier="extend")
    assert run.classes == [*SPEAKERS, "a0", "t9"]
    old = weights(pretrained, 1)["classifier.weight"]
    assert torch.equal(rows_of(run, run.head.weight, SPEAKERS), old)
    assert len(run.head.weight) * 6 == len(old) * 8
    for row in range(len(run.table)):
        assert run.table.utt_ids[row].startswith(run.classes[run.dataset[0, 0, row].label] + "_")


def test_speeds_extend_a_classifier_by_speakers_of_their_own(start, weights, pretrained):
    run = start({"data": {"speeds": [0.9, 1.0, 1.1]}}, classifier="extend")
    faster = [f"{name}@1.1" for name in SPEAKERS]
    assert run.classes == [*SPEAKERS, *(f"{name}@0.9" for name in SPEAKERS), *faster]
    labels = {run.classes[run.dataset[0, position, 0].label] for position in range(30)}
    assert labels == {"s0", "s0@0.9", "s0@1.1"}
    assert torch.equal(rows_of(run, run.head.weight, SPEAKERS), weights(pretrained, 1)["classifier.weight"])


def test_idle_classes_have_no_speaker_and_survive_a_resume_a_keeping_and_an_extension(
    start, corpus, weights, head, changed, tmp_path
):
    table = changed({"head": head | {"idle_classes": 12}})
    here, run_dir = World(0, 1, torch.device("cpu")), tmp_path / "idle"
    trainer.train(
        from_table(TrainOptions, merge(table, {"schedule": {"epochs": 1}}), "recipe"), run_dir, here
    )
    trainer.train(from_table(TrainOptions, table, "recipe"), run_dir, here)
    trained = weights(run_dir, 1)["classifier.weight"]
    idle = [f"idle {n}" for n in range(12)]
    for kept in (start({}, run_dir, classifier="keep"), start(table, run_dir, classifier="keep")):
        assert kept.classes == [*SPEAKERS, *idle] and torch.equal(kept.head.weight, trained)
    more = {"data": {"train": [str(corpus / "more")]}}
    for changes in (more, table | more):
        extended = start(changes, run_dir, classifier="extend")
        assert extended.classes == [*SPEAKERS, *idle, "a0", "t9"]
        assert torch.equal(rows_of(extended, extended.head.weight, [*SPEAKERS, *idle]), trained)
        labels = {extended.dataset[0, 0, row].label for row in range(len(extended.table))}
        assert labels == {3, 4, 5, 18, 19}


def test_reserved_speakers_have_rows_from_the_start_that_are_found_by_name(
    start, corpus, weights, head, changed, tmp_path
):
    run_dir, more = tmp_path / "reserved", str(corpus / "more")
    data = {"reserve": [more], "speeds": [1.0, 0.9]}
    table = changed({"head": head, "data": data})
    trainer.train(from_table(TrainOptions, table, "recipe"), run_dir, ALONE)
    fast = [f"{name}@0.9" for name in (*SPEAKERS, "a0", "t9")]
    expected = [*SPEAKERS, *fast[:6], "a0", "t9", *fast[6:]]
    trained = weights(run_dir, 1)["classifier.weight"]
    for classifier, train in (("keep", [str(corpus / "train"), more]), ("extend", [more])):
        run = start({"data": {"train": train, "speeds": [1.0, 0.9]}}, run_dir, classifier=classifier)
        assert run.classes == expected and torch.equal(run.head.weight, trained)
        labels = {run.classes[run.dataset[0, n, n % len(run.table)].label] for n in range(150)}
        assert {"a0", "a0@0.9", "t9", "t9@0.9"} <= labels


def test_an_earlier_epoch_can_be_started_from(start, weights, pretrained):
    run = start({}, model=f"{pretrained}@0")
    assert same_network(run, weights(pretrained, 0)) and not same_network(run, weights(pretrained, 1))
    with pytest.raises(ModelError, match="no epoch 7; it has 0, 1"):
        start({}, model=f"{pretrained}@7")


def test_what_the_recipe_says_of_the_model_must_agree_with_it(start):
    with pytest.raises(RecipeError, match=r"\[features\] of the recipe differs"):
        start({"features": {"num_mels": 24, "sample_scale": 1.0}})
    with pytest.raises(RecipeError, match=r"model\.name = 'ecapa', but .* is a 'xvector'"):
        start({"model": {"name": "ecapa"}})
    with pytest.raises(CheckpointError, match=r"against \[model\] of the recipe"):
        start({"model": {"name": "xvector", "embedding_dim": 17}})


def test_a_head_of_another_kind_cannot_take_the_classifier(start, head):
    other = {"name": "aam" if head["name"] == "subcentre-aam" else "subcentre-aam"}
    with pytest.raises(CheckpointError, match=r"against \[head\] of the recipe"):
        start({"head": other}, classifier="extend")


def test_a_model_without_a_classifier_can_only_be_given_a_new_one(start, pretrained):
    with pytest.raises(RecipeError, match=r"needs init\.model to be a run dir"):
        start({}, model="", classifier="keep")


def test_fine_tuning_takes_the_models_front_end_and_architecture(start):
    run = start({"features": {}, "model": {}})
    assert (run.model_name, run.frontend_config.num_mels, run.network.embedding_dim) == ("xvector", 24, 16)


def test_every_speed_but_1_makes_new_speakers():
    assert class_names(["a", "b"], (0.9, 1.0)) == ["a@0.9", "b@0.9", "a", "b"]
