"""Recipes: tables of a TOML file as options, with names in paths expanded."""

import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from farvox.cli.recipes import load_recipe
from farvox.errors import RecipeError
from farvox.options import from_table, merge, to_table
from farvox.pipelines.recipe import (
    Recipe,
    expand_paths,
    read_recipe,
    read_toml,
    recipe_names,
    recipe_to_toml,
    refuse_contradictions,
)

EVALUATE = {"name": "x", "data": "d", "trials": "t"}

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
keys = st.text("abcdefgh_", min_size=1, max_size=6)
scalars = st.one_of(words, st.integers(-(2**40), 2**40), st.booleans(), st.floats(allow_nan=False))
tables = st.dictionaries(keys, st.one_of(scalars, st.lists(words, max_size=3)), max_size=3)
recipes = st.fixed_dictionaries(
    {},
    optional={
        "title": words,
        "notes": st.lists(words, max_size=3),
        "seed": st.integers(0, 2**62),
        "paths": st.dictionaries(keys, words, max_size=3),
        "model": st.fixed_dictionaries({}, optional={"name": st.just("ecapa"), "scale": st.integers(2, 9)}),
        "data": st.fixed_dictionaries(
            {},
            optional={
                "train": st.lists(words, max_size=3),
                "speeds": st.lists(st.floats(0.5, 2), max_size=3),
            },
        ),
        "optim": st.fixed_dictionaries({}, optional={"lr": st.floats(0, 1), "sync_batchnorm": st.booleans()}),
        "adapt": st.lists(
            st.fixed_dictionaries({"name": keys, "set": tables}),
            max_size=2,
            unique_by=lambda each: each["name"],
        ),
        "evaluate": st.lists(
            st.fixed_dictionaries({"name": keys, "data": words, "trials": words}),
            max_size=2,
            unique_by=lambda each: each["name"],
        ),
    },
)


@pytest.mark.parametrize(("older", "choice"), [(True, "on"), (False, "off")])
def test_an_older_recipe_says_true_or_false_of_channels_last(older, choice):
    table = {"optim": {"channels_last": older, "lr": 0.5}}
    recipe = from_table(Recipe, table, "my.toml")
    assert recipe.optim.channels_last == choice and recipe.optim.lr == 0.5
    assert table["optim"]["channels_last"] is older


@given(recipes)
def test_a_recipe_written_as_toml_is_read_back_as_it_was(table):
    recipe = from_table(Recipe, table, "my.toml")
    assert from_table(Recipe, tomllib.loads(recipe_to_toml(recipe)), "again") == recipe
    assert from_table(Recipe, to_table(recipe), "again") == recipe


def test_a_recipe_without_entries_is_the_default():
    assert from_table(Recipe, {}, "my.toml") == Recipe()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"modle": {}}, "my.toml: unknown key 'modle'; did you mean 'model'?"),
        ({"data": {"num_frame": 3}}, "my.toml: unknown key 'data.num_frame'; did you mean 'num_frames'?"),
        ({"optim": {"zzz": 3}}, "my.toml: unknown key 'optim.zzz'; known keys: name, lr, "),
        (
            {"evaluate": [{"trial": ""}]},
            "my.toml: [[evaluate]]: unknown key 'trial'; did you mean 'trials'?",
        ),
        ({"evaluate": [{"name": "x", "data": "d"}]}, "my.toml: [[evaluate]] x: trials is missing"),
        (
            {"evaluate": [EVALUATE | {"norm": "s-norm"}]},
            "my.toml: [[evaluate]] x: norm s-norm needs a cohort",
        ),
        ({"adapt": [{"set": {}}]}, "my.toml: [[adapt]]: name is missing"),
        ({"seed": "1"}, "my.toml: seed must be of type int, not '1'"),
        ({"seed": True}, "my.toml: seed must be of type int, not True"),
        ({"optim": {"lr": "fast"}}, "my.toml: optim.lr must be of type float, not 'fast'"),
        ({"optim": {"lr": True}}, "my.toml: optim.lr must be of type float, not True"),
        ({"optim": 3}, "my.toml: optim must be a table, not 3"),
        ({"model": "ecapa"}, "my.toml: model must be a table, not 'ecapa'"),
        ({"data": {"train": "dir"}}, "my.toml: data.train must be a list, not 'dir'"),
        ({"data": {"train": [1]}}, "my.toml: data.train must be of type Path, not 1"),
        ({"data": {"sampling": "random"}}, "data.sampling = 'random'; it must be one of utterance, speaker"),
        ({"optim": {"name": "lion"}}, "optim.name = 'lion'; it must be one of sgd, adam, adamw"),
        ({"optim": {"clip_norm": -1}}, "my.toml: optim.clip_norm = -1.0; it must be at least 0"),
        ({"log": {"every": 0}}, "my.toml: log.every = 0; it must be at least 1"),
        ({"seed": -1}, "my.toml: seed = -1; it must be at least 0"),
        ({"device": "tpu"}, "device = 'tpu'; it must be one of auto, cpu, cuda, mps"),
        ({"optim": {"channels_last": "yes"}}, "optim.channels_last = 'yes'; it must be one of auto, on, off"),
        ({"selftrain": {"share": 1.0}}, "selftrain.share = 1.0; it must be below 1"),
    ],
)
def test_a_fault_is_named_where_it_stands(table, message):
    with pytest.raises(RecipeError) as caught:
        from_table(Recipe, table, "my.toml")
    assert message in str(caught.value)


def test_whole_numbers_do_for_floats():
    recipe = from_table(Recipe, {"optim": {"lr": 1}, "data": {"speeds": [1, 0.9]}}, "my.toml")
    assert type(recipe.optim.lr) is float and recipe.data.speeds == (1.0, 0.9)


def test_a_file_that_is_absent_or_no_toml_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"no\.toml: no such recipe file"):
        read_toml(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("seed = 1\nlr ==\n")
    with pytest.raises(RecipeError, match=r"bad\.toml: not a TOML file: .*line 2"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"bytes\.toml: not a TOML file"):
        read_toml(tmp_path / "bytes.toml")


def test_names_in_paths_are_expanded_everywhere_but_in_titles(monkeypatch):
    monkeypatch.setenv("FARVOX_TEST_CORPORA", "/corpora")
    table = {
        "title": "costs $5",
        "notes": ["$5 more"],
        "paths": {"root": "$FARVOX_TEST_CORPORA/x", "data": "${root}/data"},
        "data": {"train": ["$data/train", "$$literal"]},
        "prepare": ["prepare himia $root $data"],
        "adapt": [{"name": "mix", "set": {"data": {"train": ["$data/far"]}}}],
        "seed": 3,
    }
    expanded = expand_paths(table)
    assert expanded["paths"] == {"root": "/corpora/x", "data": "/corpora/x/data"}
    assert expanded["data"]["train"] == ["/corpora/x/data/train", "$literal"]
    assert expanded["prepare"] == ["prepare himia /corpora/x /corpora/x/data"]
    assert expanded["adapt"][0]["set"]["data"]["train"] == ["/corpora/x/data/far"]
    assert (expanded["title"], expanded["notes"], expanded["seed"]) == ("costs $5", ["$5 more"], 3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"data": {"train": ["$corpra/x"]}},
            "data.train = '$corpra/x': $corpra is not known; give --paths.corpra DIR",
        ),
        (
            {"paths": {"a": "$NOT_SET_ANYWHERE"}},
            "set the environment variable NOT_SET_ANYWHERE, or give --paths.a DIR",
        ),
        ({"data": {"train": ["$HOME/x"]}}, "$HOME is not known"),
        ({"validate": {"data": "5$"}}, "validate.data = '5$': "),
    ],
)
def test_a_name_that_is_not_known_is_refused(table, message):
    with pytest.raises(RecipeError) as caught:
        expand_paths(table)
    assert message in str(caught.value)


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
        (
            {"optim": {"batch_size": 10, "accumulate": 2}, "agree": {"weight": 1.0}},
            r"10 does not .* 2 accumulation steps of pairs \(agree\.weight\): set optim.batch_size to 12",
        ),
        ({"agree": {"weight": -1.0}}, r"agree\.weight = -1\.0; it must be at least 0"),
        (
            {
                "agree": {"weight": 1.0},
                "data": {"domain_weights": [3.0, 1.0], "train": ["a", "b"]},
                "optim": {"batch_size": 2},
            },
            "at least one of the 1 chunks of a batch",
        ),
        ({"schedule": {"first_epoch": 44, "epochs": 40}}, "ends before its first epoch, 44"),
        (
            {"schedule": {"kind": "exponential"}},
            r"needs 0 < schedule\.final_lr <= optim\.lr, not 0 and 0\.01",
        ),
        ({"schedule": {"kind": "cosine", "extend": 2}}, "rate is 0 at the end .*set schedule.final_lr"),
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
        ({"distill": {"classify": 0.0}}, "nothing to minimise$"),
        (
            {"distill": {"classify": 0.0}, "agree": {"weight": 1.0}},
            r"nothing to minimise, for agree\.weight alone would make all embeddings one",
        ),
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
        ({"adapt": [{"name": "a\\b"}]}, r"a file can have"),
        ({"adapt": [{"name": "x\x1b[2J"}]}, r"a file can have"),
        ({"adapt": [{"name": "é" * 101}]}, r"at most 200 bytes"),
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


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"optim": {"name": "adam", "momentum": 0.9}}, ["optim.momentum", "optim.name = 'adam'", "'sgd'"]),
        ({"optim": {"name": "adamw", "nesterov": False}}, ["optim.nesterov", "'adamw'"]),
        ({"schedule": {"kind": "constant", "milestones": [3]}}, ["schedule.milestones", "'constant'"]),
        ({"schedule": {"final_lr": 1e-5}}, ["schedule.final_lr", "'multistep'", "'cosine'"]),
        ({"specaugment": {"kind": "ffsvc", "mel_width": [2, 5]}}, ["specaugment.mel_width", "'ffsvc'"]),
        (
            {"head": {"name": "softmax", "margin": 0.1, "scale": 30}},
            ["head.margin", "head.scale", "'softmax'"],
        ),
        (
            {"adapt": [{"name": "x", "set": {"optim": {"name": "adam", "momentum": 0.5}}}]},
            ["[[adapt]] x: optim.mom"],
        ),
    ],
)
def test_an_option_that_was_written_and_has_no_effect_is_noted(tables, words, tmp_path):
    path, notes = tmp_path / "recipe.toml", []
    path.write_text(tomli_w.dumps({"model": {"name": "xvector"}, **tables}))
    read_recipe(str(path), note=notes.append)
    assert all(any(word in note and str(path) in note for note in notes) for word in words)


def test_an_adaptation_of_the_wrong_form_is_refused_and_no_traceback(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        tomli_w.dumps({"model": {"name": "xvector"}, "adapt": [{"name": "x", "set": {"optim": 3}}]})
    )
    with pytest.raises(RecipeError, match="optim must be a table"):
        refuse_contradictions(read_recipe(str(path)))


def test_options_that_have_an_effect_or_were_not_written_are_not_noted(tmp_path):
    path, notes = tmp_path / "recipe.toml", []
    path.write_text(tomli_w.dumps({"optim": {"momentum": 0.8}, "schedule": {"kind": "constant"}}))
    recipe = read_recipe(str(path), {"optim": {"name": "adam"}}, note=notes.append)  # of the other optimiser
    assert notes == []
    path.write_text(recipe_to_toml(recipe))  # in full, as a run dir has it
    read_recipe(str(path), note=notes.append)
    assert notes == []
    read_recipe(str(path), {"optim": {"nesterov": True}}, note=notes.append)
    assert len(notes) == 1 and notes[0].startswith("note: command line: optim.nesterov has no effect")


@pytest.mark.parametrize(
    ("head", "fault"),
    [({"margin": -0.1}, "margin = -0.1"), ({"margin": 3.2}, "margin = 3.2"), ({"scale": 0}, "scale = 0")],
)
def test_a_head_that_cannot_train_is_refused(head, fault, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps({"head": {"name": "aam", **head}}))
    with pytest.raises(RecipeError, match=f"recipe.toml: head.{fault}"):
        read_recipe(str(path))


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (
            {"validate": {"keep_embeddings": True}},
            "validate.keep_embeddings has no effect without validate.trials",
        ),
        ({"validate": {"data": "d"}}, "validate.data has no effect without validate.trials"),
        ({"optim": {"release_epoch": 2}}, "optim.release_epoch has no effect without optim.freeze"),
        ({"init": {"mean_utterances": 3}}, "init.mean_utterances has no effect with init.classifier = 'new'"),
        ({"optim": {"release_epoch": 2, "freeze": ["network"]}}, ""),
    ],
)
def test_options_of_what_is_not_used_are_noted(tmp_path, table, line):
    path, notes = tmp_path / "recipe.toml", []
    path.write_text(tomli_w.dumps(table))
    read_recipe(str(path), note=notes.append)
    assert [line in note for note in notes] == [True] * bool(line)


def test_nesterovs_form_of_no_momentum_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps({"optim": {"nesterov": True, "momentum": 0}}))
    with pytest.raises(RecipeError, match=r"optim\.momentum is 0"):
        read_recipe(str(path))
