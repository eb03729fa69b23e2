"""Every recipe parses, its parts accept it, and each family runs all its stages on corpora in miniature."""

import dataclasses
import json

import pytest

from farvox.cli.main import main
from farvox.cli.recipes import load_recipe
from farvox.features.frontend import FrontEndConfig
from farvox.features.specaugment import draw_masks
from farvox.models.registry import build_head, build_model
from farvox.options import from_table, merge, to_table
from farvox.pipelines.recipe import Recipe, default_run_dir, find_recipe, read_toml, recipe_names
from farvox.rng import rng_for
from farvox.training.options import AUGMENT, SPECAUGMENT
from farvox.training.step import Schedule
from farvox.training.table import EpochPlan

RECIPES = recipe_names()
PUBLISHED = [name for name in RECIPES if name.startswith(("ffsvc2022/", "himia/", "voxceleb/"))]

SMALL = [
    "--data.num_frames", "40", "--data.workers", "0", "--data.epoch_size", "8", "--optim.batch_size", "4",
    "--optim.precision", "fp32", "--device", "cpu", "--threads", "1",
]  # fmt: skip
NARROW = {
    "ffsvc-resnet34": ["--model.channels", "16", "--model.embedding_dim", "32"],
    "ffsvc-ecapa": [
        "--model.channels", "128", "--model.embedding_dim", "32", "--model.bottleneck", "16",
    ],
    "resnet34": ["--model.channels", "16", "--model.embedding_dim", "32"],
    "ecapa": ["--model.channels", "128", "--model.embedding_dim", "32"],
    "eres2netv2": ["--model.channels", "16", "--model.embedding_dim", "32", "--model.blocks", "[1,1,1,1]"],
    "wavlm-ecapa": [
        "--model.channels", "64", "--model.wavlm",
        "{hidden_size = 16, num_hidden_layers = 2, num_attention_heads = 2, intermediate_size = 32, "
        "conv_dim = [16, 16], conv_kernel = [10, 3], conv_stride = [5, 4], "
        "num_conv_pos_embeddings = 4, num_conv_pos_embedding_groups = 1}",
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def named_corpora(monkeypatch):
    """The environment that the docs ask for."""
    monkeypatch.setenv("FARVOX_CORPORA", "corpora")


def systems(name):
    """The recipe itself and each of its adaptations, as recipes."""
    recipe = load_recipe(name)
    yield recipe
    for adapt in recipe.adapt:
        yield from_table(Recipe, merge(to_table(recipe), adapt.set), f"{name}: {adapt.name}")


def test_the_published_systems_are_there():
    assert set(PUBLISHED) == {
        "ffsvc2022/resnet34-pretrain", "ffsvc2022/resnet34-pretrain-dp", "ffsvc2022/resnet34-finetune",
        "ffsvc2022/ecapa-pretrain", "ffsvc2022/ecapa-pretrain-dp", "ffsvc2022/ecapa-finetune",
        "ffsvc2022/reserved-pretrain", "ffsvc2022/reserved-finetune",
        "ffsvc2022/wavlm-ecapa", "ffsvc2022/task2-selftrain", "ffsvc2022/resnet34-large-margin",
        "himia/ecapa-pretrain", "himia/ecapa-ftmix", "voxceleb/resnet34", "voxceleb/ecapa",
        "voxceleb/eres2netv2",
    }  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_a_title_and_trials_to_end_with(name):
    recipe = load_recipe(name)
    assert recipe.title and recipe.evaluate
    assert all(each.name and each.data and each.trials for each in recipe.evaluate)


@pytest.mark.parametrize("name", RECIPES)
def test_the_parts_of_a_recipe_are_accepted_by_what_they_configure(name):
    for recipe in systems(name):
        features = FrontEndConfig.from_dict(recipe.features)
        model = dict(recipe.model) or {"name": "campplus"}  # of init.model
        if "wavlm" in model:  # a file of its own, which is not at hand
            model["wavlm"] = {"num_hidden_layers": 1}
        network = build_model(model.pop("name"), **model)
        assert model.get("num_mels", 80) == features.num_mels
        assert build_head(**recipe.head, embedding_dim=network.embedding_dim, num_classes=3)
        options = SPECAUGMENT.read(recipe.specaugment, "[specaugment]")
        masks = draw_masks(rng_for(0, 0, 0), recipe.data.num_frames, features.num_mels, options)
        assert AUGMENT.read(recipe.augment, "[augment]").kind
        assert masks.shape[1] == 4
        rows = rng_for(0, 0, 0).integers(9, size=recipe.optim.batch_size)
        domains = rows % max(1, len(recipe.data.train))
        plan = EpochPlan(0, rows, recipe.optim.batch_size, recipe.data.sampling, domains)
        assert plan.steps_per_epoch == 1
        assert not recipe.data.domain_weights or len(recipe.data.domain_weights) == len(recipe.data.train)


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_says_in_full_is_the_same_recipe(name):
    recipe = from_table(Recipe, read_toml(find_recipe(name)), name)
    assert from_table(Recipe, to_table(recipe), name) == recipe


@pytest.fixture
def at_home(home, tmp_path, monkeypatch):
    """The user's folder with corpora; what a command makes goes beside them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora").symlink_to(home / "corpora")
    (tmp_path / "downloads").symlink_to(home / "downloads")
    return tmp_path


def prepare_ffsvc():
    assert main(["prepare", "ffsvc2020", "corpora/FFSVC2020_supplement", "data/ffsvc2020"]) == 0
    assert main(["prepare", "ffsvc2022", "corpora/FFSVC2022", "data/ffsvc2022"]) == 0


def figures_of(run_dir, trial_list):
    return (run_dir / "train/scores" / f"{trial_list}.txt").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name for name in PUBLISHED if not name.endswith(("-finetune", "-ftmix", "-selftrain", "-large-margin"))],
)
def test_a_pretraining_goes_from_corpora_to_scores(at_home, capsys, name):
    recipe = load_recipe(name)
    if recipe.data.reserve:
        prepare_ffsvc()
    words = [
        *SMALL,
        *NARROW[recipe.model["name"]],
        "--schedule.epochs",
        "1",
        "--schedule.margin_epochs",
        "[]",
    ]
    assert main(["run", name, *words]) == 0
    run_dir = default_run_dir(name)
    for each in recipe.evaluate:
        assert len(figures_of(run_dir, each.name)) > 0
    assert "EER" in capsys.readouterr().out
    config = json.loads((run_dir / "train/checkpoints/epoch_000/config.json").read_text())
    assert config["model"]["name"] == recipe.model["name"]
    assert config["frontend"]["kind"] == recipe.features["kind"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet34", "ecapa"])
def test_a_published_checkpoint_is_fine_tuned_for_ffsvc2022(at_home, capsys, arch):
    name = f"ffsvc2022/{arch}-finetune"
    recipe = load_recipe(name)
    assert main(["import", f"downloads/{arch}/model_37.pkl", "exp/published", "--arch", f"ffsvc-{arch}"]) == 0
    prepare_ffsvc()
    first = recipe.schedule.first_epoch
    words = [*SMALL, "--paths.pretrained", "exp/published", "--schedule.epochs", str(first + 1)]
    assert main(["run", name, *words]) == 0
    assert len(figures_of(default_run_dir(name), "FFSVC2022-dev")) == 27
    folder = default_run_dir(name) / f"train/checkpoints/epoch_{first:03}"
    assert json.loads((folder / "config.json").read_text())["model"]["name"] == recipe.model["name"]


@pytest.mark.slow
def test_the_large_margin_goes_on_at_epoch_40_with_the_classifier_of_the_pretraining(at_home):
    first = ["--schedule.first_epoch", "39", "--schedule.epochs", "40", "--validate.trials", ""]
    pretrain = ["ffsvc2022/resnet34-pretrain-dp", *SMALL, *NARROW["ffsvc-resnet34"], *first]
    assert main(["run", *pretrain, "--to", "train"]) == 0
    name = "ffsvc2022/resnet34-large-margin"
    last = ["--schedule.epochs", "41", "--validate.trials", ""]
    assert main(["run", name, *SMALL, "--data.num_frames", "60", *last]) == 0
    runs = [
        default_run_dir(f"ffsvc2022/resnet34-{part}") / "train" for part in ("pretrain-dp", "large-margin")
    ]
    states = [next((run / "checkpoints").iterdir()) / "state.json" for run in runs]
    before, after = (json.loads(state.read_text())["classes"] for state in states)
    assert before == after and (runs[1] / "checkpoints/epoch_040").is_dir()
    assert len(figures_of(default_run_dir(name), "Vox-O")) > 0


def test_the_learning_rates_of_the_fine_tuning_are_those_of_train_dist_py():
    """Its warm-up of 5 epochs is over at epoch 38, and a fresh MultiStepLR counts from there."""
    for name in ("ffsvc2022/resnet34-finetune", "ffsvc2022/task2-selftrain"):
        recipe = load_recipe(name)
        schedule = Schedule(dataclasses.replace(recipe.schedule, epochs=70), recipe.optim.lr, 10)
        found = [schedule.lr_at(epoch, 0) for epoch in (38, 47, 48, 57, 58, 67, 68)]
        assert found == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6])
        assert (recipe.optim.name, recipe.optim.momentum, recipe.optim.weight_decay) == ("sgd", 0.9, 1e-3)


@pytest.mark.slow
def test_rows_reserved_while_pretraining_are_those_of_the_fine_tuning_and_its_large_margin(at_home):
    prepare_ffsvc()
    words = [*SMALL, "--data.epoch_size", "16", "--optim.batch_size", "8", "--schedule.epochs", "1"]
    narrow = [*NARROW["resnet34"], "--schedule.margin_epochs", "[]", "--validate.trials", ""]
    assert main(["run", "ffsvc2022/reserved-pretrain", *words, *narrow, "--to", "train"]) == 0
    assert main(["run", "ffsvc2022/reserved-finetune", *words]) == 0
    first, root = (default_run_dir(f"ffsvc2022/reserved-{part}") for part in ("pretrain", "finetune"))
    folders = (first / "train", root / "train", root / "large-margin")
    states = [next((folder / "checkpoints").glob("*0/state.json")) for folder in folders]
    classes = [json.loads(state.read_text())["classes"] for state in states]
    assert classes[0] == classes[1] == classes[2]
    assert len(classes[0]) == 3 * (4 + 3)  # three speeds of VoxCeleb2's speakers and of the supplement's
    for folder in folders[1:]:
        assert len((folder / "scores/FFSVC2022-dev.txt").read_text().splitlines()) == 27
    assert len(list((root / "large-margin/checkpoints").iterdir())) == 4


@pytest.mark.slow
def test_task_2_clusters_the_supplement_and_trains_on_the_clusters(at_home):
    name = "ffsvc2022/task2-selftrain"
    assert (
        main(["import", "downloads/resnet34/model_37.pkl", "exp/published", "--arch", "ffsvc-resnet34"]) == 0
    )
    prepare_ffsvc()
    few = ["--selftrain.clusters", "2:6", "--selftrain.rounds", "1", "--selftrain.min_size", "1"]
    words = [*SMALL, *few, "--paths.pretrained", "exp/published", "--schedule.epochs", "39"]
    assert main(["selftrain", name, *words]) == 0
    rows = (default_run_dir(name) / "rounds.tsv").read_text().splitlines()
    assert len(rows) == 3 and rows[2].startswith("1\t")


@pytest.mark.slow
def test_the_homework_goes_on_from_epoch_43_with_himia_mixed_in(at_home, capsys):
    words = [*SMALL, *NARROW["ffsvc-ecapa"]]
    last = ["--schedule.first_epoch", "43", "--schedule.epochs", "44"]
    assert main(["run", "himia/ecapa-pretrain", *words, *last]) == 0
    assert main(["run", "himia/ecapa-ftmix", *SMALL, "--schedule.epochs", "45"]) == 0
    run_dir = default_run_dir("himia/ecapa-ftmix")
    assert len(figures_of(run_dir, "HI-MIA-mic")) == len(figures_of(run_dir, "HI-MIA-1m")) == 9
    state = json.loads((run_dir / "train/checkpoints/epoch_044/state.json").read_text())
    assert len(state["classes"]) == 4 + 3
