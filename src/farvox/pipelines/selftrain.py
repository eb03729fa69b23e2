"""Self-training: rounds of extracting unlabelled speech, clustering it, and training on the clusters.

A run dir holds ``round-0`` (the first model, evaluated) and ``round-1``, ``round-2``, ...; in each of them
``done.txt`` lists the finished stages, so that a run which was interrupted goes on with the next one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from farvox.atomic import write_json, write_text
from farvox.audio.shards import fingerprint
from farvox.clustering import ClusterOptions
from farvox.datadir.conditions import CONDITIONS
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import AUDIO_FILES, DataDir, values_of
from farvox.errors import CheckpointError, RecipeError
from farvox.jobs import digest
from farvox.metrics.clustering import normalised_mutual_information, purity
from farvox.options import taken_from, to_table
from farvox.parsing import read_record
from farvox.pipelines.cluster import label
from farvox.pipelines.extract import extract
from farvox.pipelines.recipe import EvaluateTable, Recipe, recipe_to_toml, refuse_contradictions, with_labels
from farvox.pipelines.run import Plan, RunVerb, System, extract_for, prepare, score_for, score_set
from farvox.pipelines.train import train
from farvox.progress import Note, silent
from farvox.report.results import write_results
from farvox.report.text import cluster_lines, rounded
from farvox.training.options import refuse_changes
from farvox.writers import writes
from farvox.zoo import find_model

FREE = (
    "title", "notes", "run_dir", "device", "threads", "paths.", "prepare", "evaluate", "adapt", "log.",
    "validate.", "optim.channels_last", "selftrain.rounds", "selftrain.skip_bad", "selftrain.stable",
    "selftrain.truth",
)  # fmt: skip
"""Fields of the recipe that may change when a run is continued."""


@dataclass(frozen=True)
class Round:
    """The folder of one round; that of round 0 is for the first model as it came.

    In it are ``embeddings`` of the unlabelled data dir by the model that the round begins with,
    ``sweep.jsonl`` while numbers of clusters are tried, ``labels``, the pseudo-labelled data dir, and
    ``train``, a run dir.
    """

    path: Path

    def is_done(self, stage: str) -> bool:
        """A stage is finished."""
        return stage in self._done()

    def _is_finished(self, stage: str, note: Note, again: str = "") -> bool:
        """`is_done`, with a line on it for people; ``again`` is why it has to be done again nevertheless."""
        done = self.is_done(stage) and not again
        why = f" (again: {again})" * self.is_done(stage)
        note(f"already done (listed in {self.path / 'done.txt'}): {stage}" if done else f"-- {stage}{why}")
        return done

    def mark_done(self, stage: str, facts: dict[str, Any] | None = None) -> None:
        """Note that a stage is finished, and its results."""
        if facts:
            write_json(self.path / "round.json", self.facts() | facts)
        write_text(self.path / "done.txt", "\n".join(dict.fromkeys([*self._done(), stage])) + "\n")

    def facts(self) -> dict[str, Any]:
        """The results of the finished stages."""
        return read_record(self.path / "round.json")

    def _done(self) -> list[str]:
        path = self.path / "done.txt"
        return path.read_text("utf-8").split() if path.exists() else []


@dataclass(frozen=True)
class Selftraining(Plan):
    """A recipe and the folder in which its rounds lie.

    ``kept`` is the folder of the first model, where ``init.model`` is another one by now.
    """

    kept: str = ""

    def round(self, number: int) -> Round:
        """The folder of a round."""
        return Round(self.root / f"round-{number}")

    def evaluated(self, number: int) -> System:
        """The model that a round ends with, and the folder of its embeddings and scores."""
        return System(f"round {number}", self.recipe, self.round(number).path / "evaluation")

    def _model_before(self, number: int) -> str:
        """The MODEL that a round begins with."""
        first = self.kept or self.recipe.init.model
        return first if number <= 1 else str(self.round(number - 1).path / "train")


@writes("root")
def selftrain(
    recipe: Recipe,
    root: str | Path,
    *,
    note: Note = silent,
    progress: Note = silent,
    run_verb: RunVerb | None = None,
) -> str:
    """Run rounds of self-training until the labels are stable; an interrupted run goes on where it stopped.

    Args:
        recipe: its ``[selftrain]`` names the unlabelled data dir, its ``init.model`` the first model.
        root: folder of all rounds.
        note: called with each line of the results.
        progress: called with lines on what is read and written meanwhile.
        run_verb: runs a data verb; a process of its own by default.

    Returns:
        The MODEL that the last round trained.

    Raises:
        RecipeError: the recipe cannot be self-trained by, or ``root`` was begun with another one.
        CheckpointError: ``root`` was begun with another model or other data than lie there now.
    """
    refuse_contradictions(recipe, selftrains=True)
    here = recipe.selftrain
    assert here.data is not None
    run = Selftraining(recipe, Path(root))
    saved = run.root / "recipe.toml"
    if saved.exists():
        refuse_changes(saved, recipe, Recipe, FREE, saved.parent)
    write_text(saved, recipe_to_toml(recipe))
    prepare(run, note, run_verb)
    unlabelled = DataDir.open(here.data, remote=recipe.data.remote)
    if max(here.numbers) > len(unlabelled):
        raise RecipeError(
            f"selftrain.clusters = '{here.clusters}': {here.data} has {len(unlabelled):,} utterances"
        )
    if here.truth:
        values_of(here.truth, unlabelled.utt_ids)
    run = _begin(run, note)

    _evaluate_round(run, 0, note, progress)
    last = 0
    for number in range(1, here.rounds + 1):
        note(f"\n== round {number}")
        this = run.round(number)
        if not this._is_finished("extract", note):
            from farvox.zoo import open_embedder

            embedder = open_embedder(run._model_before(number), recipe.device)
            extract(
                embedder,
                unlabelled,
                skip_bad=here.skip_bad,
                skip_by="selftrain.skip_bad = true",
                out=this.path / "embeddings",
                note=progress,
            )
            this.mark_done("extract")
        if not this._is_finished("cluster", note):
            _cluster_round(run, number, unlabelled, note, progress)
        if (this.facts()["nmi_to_last"] or 0) >= here.stable:
            note(f"the labels are those of round {number - 1}: nothing is left to learn from them")
            break
        this._is_finished("train", note)  # on the recipe's data dirs and the pseudo-labelled one
        model = run._model_before(number) if here.start == "last" and number > 1 else None
        train(with_labels(recipe, this.path / "labels", model), this.path / "train", note=note)
        this.mark_done("train")
        _evaluate_round(run, number, note, progress)
        last = number

    facts = [run.round(0).facts()]
    while (this := run.round(len(facts))).is_done("cluster") and len(facts) <= here.rounds:
        facts.append(this.facts())
        if here.truth:  # which may be another one by now
            utt_ids = EmbeddingSet.load(this.path / "embeddings").ids
            sides = (
                values_of(this.path / "labels/utt2cluster", utt_ids, "label"),
                values_of(here.truth, utt_ids),
            )
            labels_N, truth_N = (each.str.split(" ").list.first().rank("dense").to_numpy() for each in sides)
            nmi = normalised_mutual_information(labels_N, truth_N)
            facts[-1]["truth"] = {"nmi": nmi, "purity": purity(labels_N, truth_N)}
    rows = table_of_rounds(facts, [each.name for each in recipe.evaluate])
    write_text(run.root / "rounds.tsv", "".join("\t".join(row) + "\n" for row in rows))
    pairs = [(run.evaluated(n), each) for n in range(last + 1) for each in recipe.evaluate]
    pairs = [each for each in pairs if run.scores(*each).is_file()]  # scores of a finished round may be gone
    write_results(
        run.root / "results.json",
        {"title": recipe.title, "notes": recipe.notes, "rounds": facts},
        trials=[run.trials(*each) for each in pairs],
        scores=[run.scores(*each) for each in pairs],
    )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    note("")
    for row in rows:
        note("  ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True)))
    return run._model_before(last + 1)


def _begin(run: Selftraining, note: Note) -> Selftraining:
    """Record the first model and the unlabelled data, or make sure that the run began with them.

    Returns:
        The run, with the folder of the first model that it keeps to.

    Raises:
        CheckpointError: they were changed since the first round.
    """
    from farvox.audio.remote import remote_audio
    from farvox.training.checkpoint import START, compare_audio, record_start, starting_folder
    from farvox.training.table import TrainingTable

    data, model = run.recipe.selftrain.data, run.recipe.init.model
    assert data is not None
    is_extracted = run.round(1).is_done("extract")
    has_begun = is_extracted or run.round(0).is_done("evaluate")
    folder = starting_folder(model, run.root, note, has_begun=has_begun)
    assert folder is not None
    record = run.root / START
    with remote_audio(run.recipe.data.remote):
        table = TrainingTable.open([data], labelled=False)
        found = table.fingerprint()
        before = read_record(record).get("data")
        if is_extracted and before not in (None, found):
            raise CheckpointError(
                f"{run.root}: {data} has other utterances or speakers than when the run began: put it back, "
                "or start another --run-dir"
            )
        compare_audio(table, (), run.root, note, has_begun=is_extracted)
    record_start(folder, run.root, found)
    is_moved = os.path.abspath(find_model(model)) != os.path.abspath(folder)
    return replace(run, kept=str(folder) if is_moved else "")


def _cluster_round(run: Selftraining, number: int, unlabelled: DataDir, note: Note, progress: Note) -> None:
    """Cluster, choose the number of clusters, drop what is not confident, write a data dir."""
    here, settings = run.round(number), run.recipe.selftrain
    found = EmbeddingSet.load(here.path / "embeddings")
    earlier_N = None
    if number > 1:  # a line of utt2cluster: utterance, label, cosine
        lines = values_of(run.round(number - 1).path / "labels/utt2cluster", found.ids, "label")
        earlier_N = lines.str.split(" ").list.first().rank("dense").to_numpy().astype("int32")
    facts = label(
        found,
        here.path / "labels",
        taken_from(ClusterOptions, settings),
        saved=here.path / "sweep.jsonl",
        audio=unlabelled,
        truth=settings.truth,
        seed=run.recipe.seed,
        earlier_N=earlier_N,
        agreement=settings.agreement,
        prefix=f"round{number}-",
        plot=None if len(settings.numbers) == 1 else here.path / "elbow.png",
        note=progress,
        settings=to_table(settings),
    )
    facts.setdefault("nmi_to_last", None)
    note("\n".join(cluster_lines(facts)))
    kept_facts = ("clusters", "wccs", "kept", "utterances", "truth", "nmi_to_last")
    here.mark_done("cluster", {name: facts[name] for name in kept_facts})


def _evaluate_round(run: Selftraining, number: int, note: Note, progress: Note) -> None:
    """EER on the recipe's trial lists, if it has any."""
    here = run.round(number)
    known, before = here.facts().get("eer", {}), here.facts().get("evaluated", {})
    now = {each.name: _state_of(run, each) for each in run.recipe.evaluate}
    why = [f"'{name}' is new" for name in now if name not in known]
    why += [
        f"data, trials or options of '{name}' were changed"
        for name in now
        if before.get(name) not in (None, now[name])
    ]
    if not run.recipe.evaluate or here._is_finished("evaluate", note, ", ".join(why)):
        return
    from farvox.metrics.detection import detection_error
    from farvox.zoo import open_embedder

    system = run.evaluated(number)
    embedder = open_embedder(run._model_before(number + 1), run.recipe.device)
    extract_for(run, system, embedder, note, progress)
    score_for(run, system, progress)
    eer, num_rarer = {}, {}
    for each in run.recipe.evaluate:
        scored = score_set(run, system, each)
        found = detection_error(scored.scores, scored.target)
        eer[each.name], num_rarer[each.name] = found.eer, found.num_rarer
    here.mark_done("evaluate", {"eer": eer, "num_rarer": num_rarer, "evaluated": now})


def _state_of(run: Selftraining, evaluate: EvaluateTable) -> str:
    """A text that differs when a list, its options, its data or their audio were changed."""
    files = [evaluate.trials, evaluate.enrol_map, evaluate.test_map, evaluate.cohort_speakers]
    files.append(evaluate.plda_speakers)
    if evaluate.cohort_by:
        sources = [*evaluate.dirs, *evaluate.conditions]
        files += [each / CONDITIONS if each.is_dir() else each for each in sources]
    paths = [str(path) for path in files if path]
    for data in evaluate.dirs:
        paths += [str(data / name) for name in (*AUDIO_FILES, "utt2spk")]
        paths += DataDir.open(data, remote=run.recipe.data.remote).wav_paths.to_list()
    return digest([json.dumps(to_table(evaluate), sort_keys=True), *paths, fingerprint(paths)]).strip()


def table_of_rounds(facts: Sequence[dict[str, Any]], trial_lists: Sequence[str]) -> list[list[str]]:
    """One row a round, as text: clusters, kept, agreement with the round before, truth, EER of each list."""
    head = ["round", "clusters", "kept", "NMI to last", "NMI", "purity"]
    rows = [[*head, *(f"EER {name}" for name in trial_lists)]]
    for number, each in enumerate(facts):
        truth, eers = each.get("truth") or {}, each.get("eer", {})
        shown = [(each.get("clusters"), ""), (each.get("kept"), ""), (each.get("nmi_to_last"), ".4f")]
        shown += [(truth.get("nmi"), ".4f"), (truth.get("purity"), ".4f")]
        row = [str(number), *("-" if value is None else format(value, form) for value, form in shown)]
        trials = each.get("num_rarer", {})  # of the rarer kind; rounds of an older farvox do not say
        for name in trial_lists:
            row.append(rounded(eers[name], trials.get(name, 10_000), "%") if name in eers else "-")
        rows.append(row)
    return rows
