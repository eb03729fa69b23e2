"""A recipe that cannot be run is refused before anything is opened."""

import pytest

from farvox.cli.recipes import load_recipe
from farvox.errors import RecipeError
from farvox.options import from_table, merge
from farvox.pipelines.contradictions import refuse_contradictions
from farvox.pipelines.recipe import Recipe, recipe_names

EVALUATE = {"name": "x", "data": "d", "trials": "t"}


@pytest.fixture
def changed(tiny_recipe):
    """A function that gives the tiny recipe with changes; ``model`` is replaced as a whole."""

    def change(changes):
        table = {**merge(tiny_recipe, changes), "model": changes.get("model", tiny_recipe["model"])}
        return from_table(Recipe, table, "my.toml")

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"num_classes": 3}}, "unknown key 'head.num_classes'"),
        ({"specaugment": {"probabilty": 1}}, "'specaugment.probabilty'; did you mean 'probability'"),
        ({"specaugment": {"time_width": 3}}, "specaugment.time_width must be a list"),
        (
            {"features": {"kind": "waveform"}, "specaugment": {"probability": 0.5}},
            r"\[specaugment\] .* a waveform has none; leave it out",
        ),
        ({"augment": {"kidn": "none"}}, "unknown key 'augment.kidn'; did you mean 'kind'"),
        ({"augment": {"kind": "farvox", "noise": 3}}, "augment.noise must be a list"),
        ({"data": {"domain_weights": [1.0, 2.0]}}, r"domain_weights has 2 entries, data\.train 1"),
        ({"data": {"speeds": []}}, r"data\.speeds"),
        ({"optim": {"batch_size": 9, "accumulate": 2}}, "9 does not divide into 1 process"),
        ({"schedule": {"first_epoch": 44, "epochs": 40}}, "ends before its first epoch, 44"),
        (
            {"schedule": {"kind": "exponential"}},
            r"needs 0 < schedule\.final_lr <= optim\.lr, not 0 and 0\.01",
        ),
        ({"schedule": {"margin_epochs": [3]}}, r"margin_epochs = \[3\.0\]: give the epochs where"),
        ({"head": {"idle_classes": -1}}, "head.idle_classes = -1; it must be at least 0"),
        ({"model": {}}, "names no architecture"),
        ({"head": {"name": "aamm"}}, "head.name = 'aamm'; .* did you mean 'aam'"),
        ({"model": {"name": "ecapa", "chanels": 3}}, "'model.chanels'; did you mean 'channels'"),
        ({"model": {"name": "ecapa", "num_mels": 40}}, r"model.num_mels = 40, but features.num_mels = 24"),
        ({"model": {"name": "ecapa", "channels": 20}}, r"\[model\]: channels = 20 .* scale = 8"),
        ({"features": {"num_mel": 3}}, "'features.num_mel'; did you mean 'num_mels'"),
        ({"augment": {"kind": "ffsvc"}}, r"\[augment\]: kind 'ffsvc' needs data dirs"),
        ({"distill": {"weight": 1.0}}, r"distill\.weight needs a model to start from: set init\.model"),
        ({"optim": {"l2_sp": 1e-3}}, r"optim\.l2_sp needs a model"),
        ({"init": {"classifier": "means"}}, "'means' needs a model"),
        ({"distill": {"classify": 0.0}}, "nothing to minimise"),
        ({"optim": {"compile": True, "checkpointing": True}}, "exclude each other"),
        (
            {"distill": {"weight": 1.0, "classify": 0.0}, "optim": {"freeze": ["network"]}},
            "network is frozen",
        ),
        (
            {"data": {"domain_weights": [1.0, 0.01], "train": ["a", "b"]}},
            "every weight must be worth at least",
        ),
        (
            {"data": {"domain_weights": [1.0, -1.0], "train": ["a", "b"]}},
            r"domain_weights = -1\.0; .* above",
        ),
        ({"data": {"domain_weights": [float("nan")]}}, "domain_weights = nan"),
        ({"data": {"speeds": [1.0, 1]}}, r"data\.speeds = \[1\.0, 1\.0\]"),
        ({"optim": {"sample_classes": 0.5}}, "set optim.shard_head = true"),
        ({"optim": {"shard_head": True, "sample_classes": 0.0}}, "sample_classes = 0.0; it must be above 0"),
        ({"optim": {"sample_classes": 1.5}}, "sample_classes = 1.5; it must be at most 1"),
        ({"optim": {"shard_head": True, "precision": "fp16"}}, "use 'bf16'"),
        ({"optim": {"shard_head": True}, "distill": {"classify": 0.0, "weight": 1.0}}, "no head to train"),
        ({"init": {"classifier": "keep"}}, "'keep' needs a model to start from"),
        ({"validate": {"trials": "trials"}}, "set validate.data"),
        ({"adapt": [{"name": "x"}, {"name": "x"}]}, r"\[\[adapt\]\] name = 'x': give each a name of its own"),
        ({"adapt": [{"name": "train"}]}, r"\[\[adapt\]\] name = 'train'"),
        ({"adapt": [{"name": "../x"}]}, "without '/'"),
        ({"adapt": [{"name": "x", "set": {"optm": {}}}]}, r"\[\[adapt\]\] x: unknown key 'optm'"),
        (
            {"adapt": [{"name": "x", "set": {"schedule": {"epochs": 0}}}]},
            r"\] x: schedule.epochs = 0",
        ),
        ({"evaluate": [{**EVALUATE, "conditions": ["d"]}]}, r"\[\[evaluate\]\] x: conditions are for by"),
        ({"evaluate": [EVALUATE, EVALUATE]}, r"\[\[evaluate\]\] name = 'x'"),
        ({"prepare": ["rm -rf /nowhere"]}, "prepare: 'rm -rf /nowhere' does not begin with one of prepare"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused_by_the_names_of_its_fields(changes, message, changed):
    with pytest.raises(RecipeError, match=message):
        refuse_contradictions(changed(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "selftrain.data is missing"),
        ({"selftrain": {"data": "d"}}, "init.model is missing"),
        (
            {"selftrain": {"data": "d", "share": 0.5}, "init": {"model": "m"}, "data": {"train": ["a", "b"]}},
            "data.domain_weights must divide their part",
        ),
        (
            {"selftrain": {"data": "d", "share": 0.001}, "init": {"model": "m"}},
            "every weight must be worth at least one of the 8 examples",
        ),
    ],
)
def test_self_training_needs_more_of_a_recipe(changes, message, changed):
    refuse_contradictions(changed(changes))
    with pytest.raises(RecipeError, match=message):
        refuse_contradictions(changed(changes), selftrains=True)


def test_a_batch_divides_into_the_processes(changed):
    recipe = changed({"optim": {"batch_size": 9, "accumulate": 3}})
    refuse_contradictions(recipe, num_processes=3)
    with pytest.raises(RecipeError, match=r"9 does not divide into 2 process\(es\) x 3"):
        refuse_contradictions(recipe, num_processes=2)


@pytest.mark.parametrize("name", recipe_names())
def test_no_recipe_of_ours_contradicts_itself(name, monkeypatch):
    monkeypatch.setenv("FARVOX_CORPORA", "corpora")
    recipe = load_recipe(name)
    refuse_contradictions(recipe, selftrains=recipe.selftrain.data is not None)
