"""A whole recipe: its data, its trainings, and every trained system on every trial list.

``prepare`` runs the recipe's data verbs, ``train`` the pre-training, ``adapt`` every further training,
``extract``, ``score`` and ``evaluate`` take every trained system over every trial list and end in one
table and a report.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farvox.atomic import write_text
from farvox.audio.shards import fingerprint
from farvox.children import child
from farvox.errors import CheckpointError, DataDirError, RecipeError
from farvox.jobs import digest
from farvox.options import taken_from
from farvox.parsing import parse_json
from farvox.pipelines.evaluate import EvaluateOptions, evaluate_systems, notes_on
from farvox.pipelines.extract import extract
from farvox.pipelines.finish import finish
from farvox.pipelines.recipe import EvaluateTable, Recipe, adapted, refuse_contradictions
from farvox.pipelines.score import ScoreOptions, Scores, score
from farvox.pipelines.train import train
from farvox.progress import Note, silent
from farvox.report.text import (
    aligned,
    condition_rows_of,
    gain_line,
    pair_lines,
    plain_span,
    rarer,
    rounded,
    span,
)
from farvox.score import QUALITY_RULES
from farvox.writers import writes

if TYPE_CHECKING:
    from farvox.report.figures import ScoreSet
    from farvox.zoo import Embedder


STAGES = ("prepare", "train", "adapt", "extract", "score", "evaluate")

_READ_AUDIO = ("enhance", "noises", "rirs", "simulate")  # these make again only what has to be
_MADE = "made"  # the state of a path that a verb wrote

RunVerb = Callable[[Sequence[str]], int]
"""Runs a data verb by the words of its command line; returns its exit status."""


@dataclass(frozen=True)
class System:
    """A model of the run, trained there unless it is the starting model: a row of the table."""

    name: str
    recipe: Recipe
    run_dir: Path
    start: str = ""

    @property
    def model(self) -> str | Path:
        """The MODEL that is extracted with."""
        return self.start or (self.finished if self.recipe.finish.is_any else self.run_dir)

    @property
    def finished(self) -> Path:
        """The folder of the model with `FinishOptions`."""
        return self.run_dir / "finished"


@dataclass(frozen=True)
class Plan:
    """The systems and trial lists of a recipe, and the place of every result.

    Raises:
        RecipeError: this is one of several processes of torchrun.
    """

    recipe: Recipe
    root: Path

    def __post_init__(self) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise RecipeError(
                "torchrun starts several processes (WORLD_SIZE), each of which would do all stages; start "
                "those before the training with --to prepare, 'farvox train' with torchrun, and the others "
                "with --from extract"
            )

    @property
    def systems(self) -> list[System]:
        """The starting model, if there is one, the first training, then every further one."""
        *before, first = self.recipe.names_of_rows
        start = self.recipe.init.model
        systems = [System(name, self.recipe, self.root / "start", start) for name in before]
        systems.append(System(first, self.recipe, self.root / "train"))
        for adapt in self.recipe.adapt:
            recipe = adapted(self.recipe, adapt, self.root / "train")
            systems.append(System(adapt.name, recipe, self.root / adapt.name))
        return systems

    @property
    def dirs(self) -> dict[Path, bool]:
        """Every data dir that is extracted, and True where the quality of its recordings is needed."""
        evaluate = self.recipe.evaluate
        names = [e.data for e in evaluate] + [data for e in evaluate for data in e.dirs]
        return dict.fromkeys(names, False) | {e.data: True for e in evaluate if e.channels in QUALITY_RULES}

    def embeddings(self, system: System, data: Path) -> Path:
        """The folder of a data dir's embeddings by a system; dirs of one name are numbered."""
        same = [each for each in self.dirs if each.name == data.name]
        number = f"-{same.index(data) + 1}" if len(same) > 1 else ""
        return system.run_dir / "embeddings" / f"{data.name}{number}"

    def scores(self, system: System, evaluate: EvaluateTable) -> Path:
        """The scores of a trial list by a system."""
        return system.run_dir / "scores" / f"{evaluate.name}.txt"

    def trials(self, system: System, evaluate: EvaluateTable) -> Path:
        """The list that these scores belong to: with ``expand`` one of single channels, beside them."""
        expanded = system.run_dir / "scores" / f"{evaluate.name}.trials"
        return expanded if evaluate.channels == "expand" else evaluate.trials


@writes("root")
def run(
    recipe: Recipe,
    root: str | Path,
    *,
    first: str = "prepare",
    last: str = "evaluate",
    note: Note = silent,
    progress: Note = silent,
    run_verb: RunVerb | None = None,
) -> None:
    """Run the stages of a recipe one after the other; training resumes where it stopped.

    Args:
        recipe: see `farvox.pipelines.recipe.read_recipe`.
        root: folder of all results.
        first, last: of `STAGES`, in their order.
        note: called with each line of the results: stages, tables, the path of the report.
        progress: called with lines on what is read and written meanwhile.
        run_verb: runs a data verb; a process of its own by default.

    Raises:
        RecipeError: the stages are out of order, or something that the recipe names is missing.
    """
    if STAGES.index(first) > STAGES.index(last):
        raise RecipeError(f"--from {first} comes after --to {last}; the order is {' '.join(STAGES)}")
    refuse_contradictions(recipe)
    plan = Plan(recipe, Path(root))
    for stage in STAGES[STAGES.index(first) : STAGES.index(last) + 1]:
        note(f"\n== {stage}")
        if stage == "prepare":
            prepare(plan, note, run_verb)
        elif stage == "train":
            for evaluate in recipe.evaluate:  # something to evaluate on in the end
                files = [each / "wav.scp" for each in evaluate.dirs]
                for path in (*files, evaluate.trials, evaluate.enrol_map, evaluate.test_map):
                    if path and not path.is_file():
                        raise RecipeError(f"[[evaluate]] {evaluate.name}: {path} is not there")
            _train("train", plan.systems[len(recipe.names_of_rows) - 1], note)
        elif stage == "adapt":
            for system in plan.systems[len(recipe.names_of_rows) :]:
                note(f"-- {system.name}")
                _train("adapt", system, note)
        elif stage == "extract":
            from farvox.zoo import open_embedder

            for system in plan.systems:
                extract_for(plan, system, open_embedder(system.model, system.recipe.device), note, progress)
        elif stage == "score":
            for system in plan.systems:
                score_for(plan, system, progress)
        elif recipe.evaluate:
            _evaluate(plan, note)
        else:
            note("the recipe has no [[evaluate]]: nothing to show")


def _train(stage: str, system: System, note: Note) -> None:
    """Train and finish one system; a message on what was changed since names the way without training."""
    recipe = system.recipe
    try:
        train(recipe, system.run_dir, note=note)
        if recipe.finish.is_any:
            start = recipe.init.model
            finish(system.run_dir, start, recipe.finish, system.finished, device=recipe.device, note=note)
    except CheckpointError as error:
        after = STAGES[STAGES.index(stage) + 1]
        raise CheckpointError(f"{error}. What was trained before is evaluated by --from {after}") from None


def prepare(plan: Plan, note: Note, run_verb: RunVerb | None = None) -> None:
    """Run the recipe's data verbs; again only where what one reads was changed, or what it made is gone.

    ``prepared.txt`` has each line that is done, a tab, and the state of each path that it names.
    """
    record = plan.root / "prepared.txt"
    texts = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    done = {
        line: parse_json(f"{{{states or '}'}")
        for line, _, states in (text.partition("\t{") for text in texts)
    }
    for line in plan.recipe.prepare:
        words, known, before = shlex.split(line), done.get(line, {}), _states(plan, line)
        changed = [path for path, state in known.items() if before[path] != state]
        changed = [path for path in changed if known[path] != _MADE or not before[path]]
        if line in done and not changed:
            unknown = "" if known else "; whether what it reads was changed since is not known"
            note(f"already done (listed in {record}{unknown}): farvox {line}")
            continue
        if changed:
            what = "was changed since" if before[changed[0]] else "is not there any more"
            note(f"done again, because {changed[0]} {what}:")
        note(f"farvox {line}")
        if (run_verb or _run_in_child)(words):
            raise RecipeError(f"prepare: 'farvox {line}' failed")
        done[line] = {
            path: state
            if words[0] in _READ_AUDIO or (state == before[path] and known.get(path) != _MADE)
            else _MADE
            for path, state in _states(plan, line).items()
            if state
        }
        lines = (f"{each}\t{json.dumps(states)}" if states else each for each, states in done.items())
        write_text(record, "".join(f"{each}\n" for each in lines))


def _run_in_child(words: Sequence[str]) -> int:
    with child([sys.executable, "-m", "farvox", *words]) as process:
        return process.wait()


def _states(plan: Plan, line: str) -> dict[str, str]:
    """The state of every path that a data verb names; empty for what is not there.

    Of a data dir they are its own files, with the audio for verbs that read it; of another folder all files
    but those of the run dir and of paths that the recipe's verbs name themselves.
    """
    from farvox.datadir.conditions import CONDITIONS
    from farvox.datadir.kaldi import AUDIO_FILES, DataDir

    named = {os.path.abspath(word) for each in plan.recipe.prepare for word in shlex.split(each)[1:]}
    named.add(os.path.abspath(plan.root))
    verb, *words = shlex.split(line)
    states = {}
    for path in (word.rpartition("=")[2] if word.startswith("-") else word for word in words):
        files: list[str] = []
        if os.path.isfile(path):
            files = [path]
        elif verb != "prepare" and os.path.isfile(os.path.join(path, "wav.scp")):
            files = [os.path.join(path, name) for name in (*AUDIO_FILES, "utt2spk", CONDITIONS)]
            if verb in _READ_AUDIO:
                with suppress(DataDirError):  # which the verb reports
                    files += DataDir.open(path, remote=plan.recipe.data.remote).wav_paths.to_list()
        elif os.path.isdir(path):
            for folder, folders, names in os.walk(path):
                inside = {name: os.path.abspath(os.path.join(folder, name)) for name in folders}
                inside = {name: place for name, place in inside.items() if not name.startswith(".")}
                folders[:] = sorted(name for name, place in inside.items() if place not in named)
                found = (os.path.join(folder, name) for name in sorted(names) if not name.startswith("."))
                files += (each for each in found if os.path.abspath(each) not in named)
            files = files or [path]
        states[path] = digest([*files, fingerprint(files)]) if files else ""
    return states


def extract_for(plan: Plan, system: System, embedder: Embedder, note: Note, progress: Note) -> None:
    """The embeddings by one system of every data dir that is evaluated on, learned from or normalised by."""
    from farvox.datadir.kaldi import DataDir

    for data, quality in plan.dirs.items():
        note(f"{system.name}: {data}")
        data_dir = DataDir.open(data, remote=plan.recipe.data.remote)
        users = [each for each in plan.recipe.evaluate if data in each.dirs]
        extract(
            embedder,
            data_dir,
            quality=quality,
            skip_bad=any(each.skip_bad for each in users),
            skip_by=f"skip_bad = true in [[evaluate]] {users[0].name} (trials of them are refused then)",
            out=plan.embeddings(system, data),
            replace=True,  # the recipe was changed
            note=progress,
        )


def score_for(plan: Plan, system: System, progress: Note) -> None:
    """Score every trial list by one system."""
    from farvox.datadir.kaldi import DataDir
    from farvox.training.start import trained_speakers

    data_dirs = [] if system.start else [each for each in system.recipe.data.train if each.is_dir()]
    trained: dict[str, Iterable[str | None]] = {}
    trained |= {str(path): DataDir.open(path, remote=True).speaker_ids for path in data_dirs}
    for folder, speakers in trained_speakers(system.start or system.recipe.init.model).items():
        trained[f"of {folder}"] = speakers
    for evaluate in plan.recipe.evaluate:
        out, scored = plan.scores(system, evaluate), plan.trials(system, evaluate)
        out.parent.mkdir(parents=True, exist_ok=True)
        options = taken_from(
            ScoreOptions,
            evaluate,
            centre=plan.embeddings(system, evaluate.centre) if evaluate.centre else None,
            plda=plan.embeddings(system, evaluate.plda) if evaluate.plda else None,
            cohort=plan.embeddings(system, evaluate.cohort) if evaluate.cohort else None,
            conditions=(evaluate.data, evaluate.cohort, *evaluate.conditions) if evaluate.cohort_by else (),
        )
        score(
            evaluate.trials,
            [plan.embeddings(system, evaluate.data)],
            options,
            out=out,
            out_trials=scored if evaluate.channels == "expand" else None,
            trained=trained,
            note=progress,
        )


def score_set(plan: Plan, system: System, evaluate: EvaluateTable) -> ScoreSet:
    """The scores of a system on a trial list, with the labels.

    Raises:
        RecipeError: the trial list has no labels.
    """
    from farvox.report.figures import ScoreSet

    scored = Scores.read(plan.trials(system, evaluate), plan.scores(system, evaluate))
    if scored.trials.target is None:
        raise RecipeError(
            f"{evaluate.trials} has no labels: '{evaluate.name}' can be scored, but not evaluated"
        )
    return ScoreSet(system.name, scored.values, scored.trials.target)


def _evaluate(plan: Plan, note: Note) -> None:
    """One table of figures, one for each list that is looked at by conditions, and the report."""
    from farvox.datadir.embeddings import shared_origin
    from farvox.metrics.detection import detection_error
    from farvox.report.page import Section, write_report
    from farvox.report.results import provenance, write_results
    from farvox.report.sections import provenance_section
    from farvox.score.scores import read_score_meta, replaced_inputs

    recipe, systems = plan.recipe, plan.systems
    remarks: dict[str, None] = {}
    for system in systems:
        paths = [plan.scores(system, each) for each in recipe.evaluate]
        metas = {str(path): read_score_meta(path) for path in paths}
        shared_origin(metas, "run the stages again --from extract", note)
        remarks |= dict.fromkeys(line for meta in metas.values() for line in meta.get("leaks", []))
        remarks |= dict.fromkeys(line for each in metas.items() for line in replaced_inputs(*each))
    trial_lists = {e.name: [score_set(plan, system, e) for system in systems] for e in recipe.evaluate}
    published = {each.name: each.published for each in recipe.evaluate if each.published}
    names = [system.name for system in systems] + ["published"] * bool(published)
    width = max(map(len, names))
    note(" " * width + "".join(f"  {name:>22}" for name in trial_lists))
    note(" " * width + f"  {'EER      minDCF':>22}" * len(trial_lists))
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for row, system in enumerate(systems):
        figures = [detection_error(found[row].scores, found[row].target) for found in trial_lists.values()]
        cells = (
            f"  {rounded(each.eer, each.num_rarer, '%'):>13}   {rounded(each.min_dcf, each.num_rarer):<6}"
            for each in figures
        )
        note(f"{system.name:<{width}}{''.join(cells)}".rstrip())
        for (name, sets), each in zip(trial_lists.items(), figures, strict=True):
            results[system.name, name] = {"system": system.name, "trial_list": name, **asdict(each)}
            doubts = notes_on(sets[row].scores, sets[row].target, each, "baseline")
            remarks |= dict.fromkeys(f"{name}, {system.name}: {line}" for line in doubts)
    if published:
        cells = (
            "" if each is None else f"{100 * each.eer:>11.2f} %   {each.min_dcf or '-'}"
            for each in map(published.get, trial_lists)
        )
        note(f"{'published':<{width}}{''.join(f'  {cell:<22}' for cell in cells)}".rstrip())
    tables: dict[str, list[list[str]]] = {}
    compared: list[dict[str, Any]] = []
    for evaluate in recipe.evaluate:
        if not (evaluate.by or evaluate.intervals or evaluate.threshold is not None):
            continue
        options = EvaluateOptions(
            intervals=evaluate.intervals,
            data=(evaluate.data,),
            threshold=evaluate.threshold,
            by=evaluate.by,
            bins=evaluate.bins,
            edges=evaluate.edges,
            conditions=evaluate.conditions if evaluate.by else (),
        )
        scored = {
            system.name: [Scores.read(plan.trials(system, evaluate), plan.scores(system, evaluate))]
            for system in reversed(systems)  # each less every earlier one
        }
        found = evaluate_systems(scored, options)
        of_system = {table["system"]: table for table in reversed(found["systems"])}
        for name, table in of_system.items():
            results[name, evaluate.name] |= {
                key: table[key]
                for key in ("intervals", "conditions", "equalised", "at", "dcf")
                if key in table
            }
        if evaluate.intervals:
            tables[f"{evaluate.name}: 95 % intervals"] = [
                ["system", "EER", "minDCF", "EER threshold"],
                *(
                    [
                        name,
                        span(table["intervals"]["eer"], rarer(table), "%"),
                        span(table["intervals"]["min_dcf"], rarer(table)),
                        plain_span(table["intervals"]["threshold"]),
                    ]
                    for name, table in of_system.items()
                ),
            ]
        if evaluate.threshold is not None:
            tables[f"{evaluate.name} at the threshold {evaluate.threshold:g}"] = [
                ["system", "FAR", "FRR", "DCF"],
                *(
                    [
                        name,
                        rounded(table["at"]["far"], table["num_nontarget"], "%"),
                        rounded(table["at"]["frr"], table["num_target"], "%"),
                        rounded(table["dcf"][0]["dcf_at_threshold"], rarer(table)),
                    ]
                    for name, table in of_system.items()
                ),
            ]
        if found["differences"]:
            compared += [{"trial_list": evaluate.name, **pair} for pair in found["differences"]]
            tables[f"{evaluate.name}: differences"] = [
                ["difference"],
                *([line] for line in pair_lines(found)),
            ]
            remarks |= dict.fromkeys(
                gain_line(evaluate.name, pair, found["systems"][0])
                for pair in found["differences"]
                if recipe.init.model
                and (pair["system"], pair["other"]) == (systems[-1].name, systems[0].name)
            )
        if evaluate.by:
            tables[f"{evaluate.name} by {', '.join(evaluate.by)}"] = condition_rows_of(of_system)
    notes = (*recipe.notes, *(f"{name}: {each}" for name, each in published.items()), *remarks)
    for heading, rows in tables.items():
        note("\n".join(["", heading, *aligned(rows)]))
    pairs = [(system, evaluate) for system in systems for evaluate in recipe.evaluate]
    list_paths, score_paths = ([of(*each) for each in pairs] for of in (plan.trials, plan.scores))
    figures_of_list = {name: [results[system.name, name] for system in systems] for name in trial_lists}
    counts = "; ".join(
        f"{name}: {table['num_target']:,} target, {table['num_nontarget']:,} non-target"
        for name, (table, *_) in figures_of_list.items()
    )
    path = write_report(
        plan.root / "report.html",
        recipe.title or "farvox",
        trial_lists,
        tables=figures_of_list,
        notes=notes,
        sections=[
            *(Section(*each) for each in tables.items()),
            provenance_section(provenance(list_paths, score_paths), counts),
        ],
    )
    write_results(
        plan.root / "results.json",
        {"title": recipe.title, "notes": notes, "results": list(results.values()), "differences": compared},
        trials=list_paths,
        scores=score_paths,
    )
    for line in (*notes, f"report: {path}"):
        note(line)
