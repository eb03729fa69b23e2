"""``farvox selftrain``: rounds of clustering unlabelled speech and training on the clusters."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farvox.cli.recipes import load_recipe
from farvox.cli.run import Plan, System, extract_for, prepare_stage, score_for, score_set
from farvox.clustering import ClusterOptions
from farvox.errors import RecipeError
from farvox.options import from_table, merge, taken_from, to_table
from farvox.pipelines.recipe import Recipe, default_run_dir, find_recipe, recipe_to_toml
from farvox.pipelines.rounds import Round, labels_of, table_of_rounds

FREE = (
    "title",
    "notes",
    "run_dir",
    "device",
    "threads",
    "paths",
    "prepare",
    "evaluate",
    "adapt",
    "log",
    "validate",
)
"""Tables of the recipe that may change when a run is continued."""
FREE_HERE = ("rounds", "stable", "truth")
"""Fields of ``[selftrain]`` that may."""


@dataclass(frozen=True)
class Selftraining:
    """A recipe and the folder in which its rounds lie."""

    recipe: Recipe
    root: Path

    @property
    def unlabelled(self) -> Path:
        """The data dir whose speakers are to be found."""
        assert self.recipe.selftrain.data is not None
        return self.recipe.selftrain.data

    def round(self, number: int) -> Round:
        """The folder of a round."""
        return Round(number, self.root / f"round-{number}")

    def model_before(self, number: int) -> str:
        """The MODEL that a round begins with."""
        return self.recipe.init.model if number <= 1 else str(self.round(number - 1).train)

    def training(self, number: int) -> Recipe:
        """The recipe by which a round trains: the run's own, with the pseudo-labelled data dir added."""
        here, data = self.recipe.selftrain, self.recipe.data
        change: dict[str, Any] = {"data": {"train": [*data.train, str(self.round(number).labels)]}}
        if here.share and data.train:
            known = data.domain_weights or (1.0,)
            rest = [weight * (1 - here.share) / sum(known) for weight in known]
            change["data"]["domain_weights"] = [*rest, here.share]
        if here.start == "last" and number > 1:
            change["init"] = {"model": self.model_before(number)}
        table = merge(to_table(self.recipe), change)
        return from_table(Recipe, {**table, "adapt": [], "selftrain": {}}, f"round {number}")


def selftrain(words: Sequence[str]) -> int:
    """``farvox selftrain RECIPE [--run-dir DIR] [--field.name VALUE ...]``."""
    options, overrides = _parser().parse_known_args(list(words))
    recipe = load_recipe(options.recipe, overrides)
    _refuse_unusable(recipe)
    root = Path(options.run_dir or recipe.run_dir or default_run_dir(options.recipe))
    print(f"recipe {find_recipe(options.recipe)}, results in {root}", flush=True)
    run = Selftraining(recipe, root)
    plan = Plan(recipe, root)
    _claim(run)
    prepare_stage(plan)
    _refuse_what_shows_late(run)
    evaluate_stage(run, plan, 0)
    last = 0
    for number in range(1, recipe.selftrain.rounds + 1):
        print(f"\n== round {number}", flush=True)
        extract_stage(run, number)
        cluster_stage(run, number)
        if (run.round(number).facts()["nmi_to_last"] or 0) >= recipe.selftrain.stable:
            print(f"the labels are those of round {number - 1}: nothing is left to learn from them")
            break
        train_stage(run, number)
        evaluate_stage(run, plan, number)
        last = number
    _show(run, last)
    return 0


selftrain.parses_its_own_words = True  # type: ignore[attr-defined]


def extract_stage(run: Selftraining, number: int) -> None:
    """Embeddings of the unlabelled speech by the model that the round begins with."""
    here = run.round(number)
    if _already(here, "extract"):
        return
    from farvox.cli.extract import extract_to
    from farvox.datadir.kaldi import DataDir
    from farvox.zoo import open_embedder

    embedder = open_embedder(run.model_before(number), run.recipe.device)
    extract_to(embedder, DataDir.open(run.unlabelled), here.embeddings)
    here.mark_done("extract")


def cluster_stage(run: Selftraining, number: int) -> None:
    """Cluster, choose the number of clusters, drop what is not confident, write a data dir."""
    here, settings = run.round(number), run.recipe.selftrain
    if _already(here, "cluster"):
        return
    from farvox.cli.embed import summary
    from farvox.datadir.embeddings import EmbeddingSet
    from farvox.datadir.kaldi import DataDir
    from farvox.pipelines.cluster import label
    from farvox.progress import to_stderr

    found = EmbeddingSet.load(here.embeddings)
    earlier = None if number == 1 else labels_of(run.round(number - 1).labels, found.utt_ids)
    facts = label(
        found,
        here.labels,
        taken_from(ClusterOptions, settings),
        saved=here.sweep,
        audio=DataDir.open(run.unlabelled),
        truth=settings.truth,
        seed=run.recipe.seed,
        earlier_N=None if earlier is None else earlier.rank("dense").to_numpy().astype("int32"),
        agreement=settings.agreement,
        prefix=f"round{number}-",
        plot=None if len(settings.numbers) == 1 else here.path / "elbow.png",
        note=to_stderr,
        settings=to_table(settings),
    )
    facts.setdefault("nmi_to_last", None)
    print("\n".join(summary(facts)), flush=True)
    kept_facts = ("clusters", "wccs", "kept", "utterances", "truth", "nmi_to_last")
    here.mark_done("cluster", {name: facts[name] for name in kept_facts})
    here.sweep.unlink(missing_ok=True)


def train_stage(run: Selftraining, number: int) -> None:
    """The ordinary training, on the recipe's data dirs and the pseudo-labelled one."""
    here = run.round(number)
    if _already(here, "train"):
        return
    from farvox.cli.train import train_recipe

    train_recipe(run.training(number), here.train)
    here.mark_done("train")


def evaluate_stage(run: Selftraining, plan: Plan, number: int) -> None:
    """EER on the recipe's trial lists, if it has any."""
    here = run.round(number)
    known = here.facts().get("eer", {})
    whole = all(each.name in known for each in run.recipe.evaluate)
    if not run.recipe.evaluate or _already(here, "evaluate", whole):
        return
    from farvox.metrics.detection import detection_error
    from farvox.zoo import open_embedder

    system = System(f"round {number}", run.recipe, here.path / "evaluation")
    extract_for(plan, system, open_embedder(run.model_before(number + 1), run.recipe.device))
    score_for(plan, system)
    eer = {}
    for each in run.recipe.evaluate:
        found = score_set(plan, system, each)
        eer[each.name] = detection_error(found.scores, found.target).eer
    here.mark_done("evaluate", {"eer": eer})


def _already(here: Round, stage: str, whole: bool = True) -> bool:
    if whole and here.is_done(stage):
        print(f"already done (listed in {here.path / 'done.txt'}): {stage}")
        return True
    print(f"-- {stage}", flush=True)
    return False


def _show(run: Selftraining, last: int) -> None:
    """The table of rounds, on stdout and in ``rounds.tsv``."""
    from farvox.atomic import write_text

    facts = [run.round(0).facts()]
    while (here := run.round(len(facts))).is_done("cluster") and len(facts) <= run.recipe.selftrain.rounds:
        facts.append(here.facts())
    rows = table_of_rounds(facts, [each.name for each in run.recipe.evaluate])
    write_text(run.root / "rounds.tsv", "".join("\t".join(row) + "\n" for row in rows))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True)))
    print(f"model: {run.model_before(last + 1)}")


def _refuse_unusable(recipe: Recipe) -> None:
    here = recipe.selftrain
    for wrong, what in (
        (not here.data, "selftrain.data is missing: name the data dir whose speakers are to be found"),
        (not recipe.init.model, "init.model is missing: self-training begins with a trained model"),
        (
            bool(here.share and not recipe.data.domain_weights and len(recipe.data.train) > 1),
            "selftrain.share divides a batch between data.train and the clusters; with several data "
            "dirs there, data.domain_weights must divide their part",
        ),
    ):
        if wrong:
            raise RecipeError(what)


def _refuse_what_shows_late(run: Selftraining) -> None:
    """Refuse now what the first clustering would, hours from now."""
    from farvox.clustering.labels import true_labels
    from farvox.datadir.kaldi import DataDir

    here = run.recipe.selftrain
    numbers = here.numbers
    unlabelled = DataDir.open(run.unlabelled)
    if max(numbers) > len(unlabelled):
        raise RecipeError(
            f"selftrain.clusters = '{here.clusters}': {here.data} has {len(unlabelled):,} utterances"
        )
    if here.truth:
        true_labels(here.truth, unlabelled.utt_ids.to_list())


def _claim(run: Selftraining) -> None:
    """Write ``recipe.toml``, or refuse to go on with another recipe than the one that is there."""
    from farvox.atomic import write_text

    saved = run.root / "recipe.toml"
    now = _fixed(to_table(run.recipe))
    if saved.exists():
        before = _fixed(to_table(from_table(Recipe, tomllib.loads(saved.read_text("utf-8")), str(saved))))
        changed = [key for key in now if now[key] != before[key]]
        if changed:
            raise RecipeError(
                f"{run.root} was begun with another recipe ({', '.join(changed)} differ): "
                "choose another --run-dir, or undo the change"
            )
    write_text(saved, recipe_to_toml(run.recipe))


def _fixed(table: dict[str, Any]) -> dict[str, Any]:
    """The parts of a recipe that decide what the rounds come to."""
    here = {key: value for key, value in table["selftrain"].items() if key not in FREE_HERE}
    optim = {key: value for key, value in table["optim"].items() if key != "channels_last"}
    return {key: value for key, value in table.items() if key not in FREE} | {
        "selftrain": here,
        "optim": optim,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="farvox selftrain",
        description="Rounds of: extract the unlabelled speech, cluster it, train on the clusters as if they "
        "were speakers, evaluate. A run that was interrupted goes on where it stopped.",
        epilog="Any field of the recipe can be set with --field.name VALUE, as in 'farvox train --help'.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or a name that 'farvox recipes' lists")
    parser.add_argument("--run-dir", metavar="DIR", help="where results go (default: exp/<recipe>)")
    return parser
