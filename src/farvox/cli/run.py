"""``farvox run``: the stages of a recipe, one after the other.

``prepare`` runs the recipe's data verbs, ``train`` the pre-training, ``adapt`` every further training,
``extract``, ``score`` and ``evaluate`` take every trained system over every trial list and end in one
table and a report.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from farvox.cli.recipes import load_recipe
from farvox.errors import RecipeError
from farvox.options import from_table, merge, taken_from, to_table
from farvox.pipelines.evaluate import EvaluateOptions, evaluate_conditions
from farvox.pipelines.recipe import EvaluateTable, Recipe, default_run_dir, find_recipe
from farvox.pipelines.score import ScoreOptions, Scores, score
from farvox.progress import to_stderr
from farvox.report.text import aligned, condition_rows

if TYPE_CHECKING:
    from farvox.report.plots import ScoreSet
    from farvox.zoo import Embedder

DATA_VERBS = ("prepare", "check", "combine", "subset", "trials", "enhance", "rirs", "noises", "simulate")

QUALITY_RULES = ("best", "weighted")
"""Channel rules that need the quality of each recording."""


@dataclass(frozen=True)
class System:
    """One trained model of the run: a row of the table."""

    name: str
    recipe: Recipe
    run_dir: Path


@dataclass(frozen=True)
class Plan:
    """What a recipe comes to: its systems, its trial lists, and where everything goes.

    Raises:
        RecipeError: names of ``[[adapt]]`` or ``[[evaluate]]``, which become folders and files, clash; or the
            fields of an ``[[evaluate]]`` contradict each other.
    """

    recipe: Recipe
    root: Path

    def __post_init__(self) -> None:
        for table, names, taken in (
            ("adapt", [adapt.name for adapt in self.recipe.adapt], {"train", "pre-trained"}),
            ("evaluate", [evaluate.name for evaluate in self.recipe.evaluate], set()),
        ):
            for name in names:
                if not name.strip(". ") or "/" in name or name in taken or names.count(name) > 1:
                    raise RecipeError(
                        f"[[{table}]] name = '{name}': give each a name of its own, without '/'"
                    )
        for evaluate in self.recipe.evaluate:
            if evaluate.conditions and not evaluate.by:
                raise RecipeError(f"[[evaluate]] {evaluate.name}: conditions are for by, which names none")

    @property
    def systems(self) -> list[System]:
        """The pre-trained model, then every adapted one."""
        first = System("pre-trained", self.recipe, self.root / "train")
        return [first, *(self._adapted(n) for n in range(len(self.recipe.adapt)))]

    def _adapted(self, number: int) -> System:
        adapt = self.recipe.adapt[number]
        table = merge(to_table(self.recipe), {"init": {"model": str(self.root / "train")}})
        table = merge({**table, "adapt": [], "features": {}}, adapt.set)
        return System(
            adapt.name, from_table(Recipe, table, f"[[adapt]] {adapt.name}"), self.root / adapt.name
        )

    @property
    def dirs(self) -> dict[Path, bool]:
        """Every data dir that is extracted, and whether the quality of its recordings is asked for."""
        evaluate = self.recipe.evaluate
        names = [e.data for e in evaluate] + [data for e in evaluate for data in e.dirs]
        return dict.fromkeys(names, False) | {e.data: True for e in evaluate if e.channels in QUALITY_RULES}

    def embeddings(self, system: System, data: Path) -> Path:
        """The folder of a data dir's embeddings by a system; dirs of one name are numbered."""
        same = [each for each in self.dirs if each.name == data.name]
        number = f"-{same.index(data) + 1}" if len(same) > 1 else ""
        return system.run_dir / "embeddings" / f"{data.name}{number}"

    def scoring(self, system: System, evaluate: EvaluateTable) -> ScoreOptions:
        """The rules by which a trial list is scored by a system: embeddings stand for the data dirs."""
        return taken_from(
            ScoreOptions,
            evaluate,
            centre=self.embeddings(system, evaluate.centre) if evaluate.centre else None,
            cohort=self.embeddings(system, evaluate.cohort) if evaluate.cohort else None,
        )

    def scores(self, system: System, evaluate: EvaluateTable) -> Path:
        """Where the scores of a trial list by a system are."""
        return system.run_dir / "scores" / f"{evaluate.name}.txt"

    def trials(self, system: System, evaluate: EvaluateTable) -> Path:
        """The list that these scores are of: with ``expand`` one of single channels, beside them."""
        expanded = system.run_dir / "scores" / f"{evaluate.name}.trials"
        return expanded if evaluate.channels == "expand" else evaluate.trials


def run(words: Sequence[str]) -> int:
    """``farvox run RECIPE [--from STAGE] [--to STAGE] [--run-dir DIR] [--field.name VALUE ...]``."""
    options, overrides = _parser().parse_known_args(list(words))
    recipe = load_recipe(options.recipe, overrides)
    root = Path(options.run_dir or recipe.run_dir or default_run_dir(options.recipe))
    names = list(STAGES)
    first, last = names.index(options.first), names.index(options.last)
    if first > last:
        raise RecipeError(
            f"--from {options.first} comes after --to {options.last}; the order is {' '.join(names)}"
        )
    print(f"recipe {find_recipe(options.recipe)}, results in {root}", flush=True)
    plan = Plan(recipe, root)
    for name in names[first : last + 1]:
        print(f"\n== {name}", flush=True)
        STAGES[name](plan)
    return 0


run.parses_its_own_words = True  # type: ignore[attr-defined]


def prepare_stage(plan: Plan) -> None:
    """Run the recipe's data verbs; a line that was run before in this run dir is not run again."""
    from farvox.atomic import write_text
    from farvox.cli.main import main

    record = plan.root / "prepared.txt"
    done = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    for line in plan.recipe.prepare:
        words = shlex.split(line)
        if not words or words[0] not in DATA_VERBS:
            raise RecipeError(f"prepare: '{line}' does not begin with one of {', '.join(DATA_VERBS)}")
        if line in done:
            print(f"already done (listed in {record}): farvox {line}")
            continue
        print(f"farvox {line}", flush=True)
        if main(words):
            raise RecipeError(f"prepare: 'farvox {line}' failed")
        done.append(line)
        write_text(record, "\n".join(done) + "\n")


def train_stage(plan: Plan) -> None:
    """Train the first system, if there is something to evaluate it on in the end."""
    for evaluate in plan.recipe.evaluate:
        files = [each / "wav.scp" for each in evaluate.dirs]
        for path in (*files, evaluate.trials, evaluate.enrol_map, evaluate.test_map):
            if path and not path.is_file():
                raise RecipeError(f"[[evaluate]] {evaluate.name}: {path} is not there")
    _train(plan.systems[0])


def adapt_stage(plan: Plan) -> None:
    """Train every further system from the first."""
    for system in plan.systems[1:]:
        print(f"-- {system.name}", flush=True)
        _train(system)


def extract_stage(plan: Plan) -> None:
    """Embeddings of every data dir that is evaluated on, centred or normalised by, by every system."""
    from farvox.zoo import open_embedder

    for system in plan.systems:
        extract_for(plan, system, open_embedder(system.run_dir, system.recipe.device))


def extract_for(plan: Plan, system: System, embedder: Embedder) -> None:
    """The embeddings that one system is evaluated by."""
    from farvox.cli.extract import extract_to
    from farvox.datadir.kaldi import DataDir

    for data, quality in plan.dirs.items():
        print(f"{system.name}: {data}", flush=True)
        extract_to(embedder, DataDir.open(data), plan.embeddings(system, data), quality=quality)


def score_stage(plan: Plan) -> None:
    """Score every trial list by every system."""
    for system in plan.systems:
        score_for(plan, system)


def score_for(plan: Plan, system: System) -> None:
    """Score every trial list by one system."""
    for evaluate in plan.recipe.evaluate:
        out, scored = plan.scores(system, evaluate), plan.trials(system, evaluate)
        out.parent.mkdir(parents=True, exist_ok=True)
        embeddings = plan.embeddings(system, evaluate.data)
        score(
            evaluate.trials,
            [embeddings],
            plan.scoring(system, evaluate),
            out=out,
            out_trials=scored if evaluate.channels == "expand" else None,
            note=to_stderr,
        )


def evaluate_stage(plan: Plan) -> None:
    """One table of figures, one for each list that is looked at by conditions, and the report."""
    from farvox.report.page import write_report

    if not plan.recipe.evaluate:
        print("the recipe has no [[evaluate]]: nothing to show")
        return
    trial_lists = {
        e.name: [score_set(plan, system, e) for system in plan.systems] for e in plan.recipe.evaluate
    }
    print(_table(trial_lists))
    by_condition = {
        f"{e.name} by {', '.join(e.by)}": _by_condition(plan, e, trial_lists[e.name])
        for e in plan.recipe.evaluate
        if e.by
    }
    for heading, rows in by_condition.items():
        print("\n".join(["", heading, *aligned(rows)]))
    path = write_report(
        plan.root / "report.html", plan.recipe.title or "farvox", trial_lists,
        notes=plan.recipe.notes, tables=by_condition,
    )  # fmt: skip
    for note in plan.recipe.notes:
        print(note)
    print(f"report: {path}")


def score_set(plan: Plan, system: System, evaluate: EvaluateTable) -> ScoreSet:
    """The scores of a system on a trial list, with the labels.

    Raises:
        RecipeError: the trial list has no labels.
    """
    from farvox.report.plots import ScoreSet
    from farvox.score.scores import read_scores
    from farvox.score.trials import read_trials

    trials = read_trials(plan.trials(system, evaluate))
    if trials.target is None:
        raise RecipeError(
            f"{evaluate.trials} has no labels: '{evaluate.name}' can be scored, but not evaluated"
        )
    return ScoreSet(system.name, read_scores(plan.scores(system, evaluate), trials), trials.target)


def _by_condition(plan: Plan, evaluate: EvaluateTable, found: list[ScoreSet]) -> list[list[str]]:
    """Every system's figures in every condition, as rows of text below a head."""
    from farvox.score.trials import read_trials

    sources = evaluate.conditions or (evaluate.data,)
    rows: list[list[str]] = []
    for system, scores in zip(plan.systems, found, strict=True):
        trials = read_trials(plan.trials(system, evaluate))
        options = EvaluateOptions(by=evaluate.by, conditions=sources)
        head, *cells = condition_rows(evaluate_conditions(Scores(trials, scores.scores), options))
        rows += [] if rows else [["system", *head]]
        rows += [[system.name, *cell] for cell in cells]
    return rows


def _table(trial_lists: dict[str, list[ScoreSet]]) -> str:
    """Systems as rows, trial lists as columns: EER in per cent and minDCF."""
    from farvox.metrics.detection import detection_error

    names = [system.name for system in next(iter(trial_lists.values()))]
    width = max(map(len, names))
    lines = [" " * width + "".join(f"  {name:>22}" for name in trial_lists)]
    lines.append(" " * width + f"  {'EER      minDCF':>22}" * len(trial_lists))
    for row, name in enumerate(names):
        figures = [
            detection_error(systems[row].scores, systems[row].target) for systems in trial_lists.values()
        ]
        lines.append(
            f"{name:<{width}}" + "".join(f"  {100 * f.eer:>11.2f} %   {f.min_dcf:.4f}" for f in figures)
        )
    return "\n".join(lines)


STAGES: dict[str, Callable[[Plan], None]] = {
    "prepare": prepare_stage,
    "train": train_stage,
    "adapt": adapt_stage,
    "extract": extract_stage,
    "score": score_stage,
    "evaluate": evaluate_stage,
}


def _train(system: System) -> None:
    from farvox.cli.train import train_recipe

    train_recipe(system.recipe, system.run_dir)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="farvox run",
        description="Run the stages of a recipe: "
        + " ".join(STAGES)
        + ". Training resumes where it stopped.",
        epilog="Any field of the recipe can be set with --field.name VALUE, as in 'farvox train --help'.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or a name that 'farvox recipes' lists")
    parser.add_argument("--from", dest="first", choices=list(STAGES), default="prepare", help="first stage")
    parser.add_argument("--to", dest="last", choices=list(STAGES), default="evaluate", help="last stage")
    parser.add_argument("--run-dir", metavar="DIR", help="where results go (default: exp/<recipe>)")
    return parser
