"""A model adapted to one's own rooms: folders of recordings become a model with a threshold, and a report.

The recipe says what is trained and judged. Here its data dirs are made of folders, its length is bounded, and
the threshold is chosen when it has run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tomli_w

from farvox.atomic import sha256_of, write_json, write_text
from farvox.errors import CorpusError, FarvoxError, TrialError
from farvox.jobs import begin
from farvox.options import (
    Above,
    AtLeast,
    AtMost,
    Below,
    Metavar,
    Options,
    Table,
    from_table,
    merge,
    taken_from,
    to_table,
)
from farvox.parsing import parse_json
from farvox.pipelines.calibrate import CalibrateOptions, calibrate, speakers_behind
from farvox.pipelines.recipe import Recipe, expand_paths, find_recipe, read_recipe, read_toml
from farvox.pipelines.run import Plan, RunVerb, System, prepare, run
from farvox.pipelines.score import Scores, score
from farvox.pipelines.train import train
from farvox.progress import Note, duration, silent
from farvox.report.text import plain_span, rounded, span
from farvox.rng import rng_for
from farvox.writers import writes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from farvox.datadir.kaldi import DataDir

SETTINGS, RECIPE, MODEL = "adapt.json", "recipe.toml", "model"
KEY = re.compile(
    r"(?<![\w./-])(?:--)?((?:agree|augment|data|init|optim|paths|schedule|validate)\.[a-z_]+)\b(?!\.)"
)
"""A key of the recipe in a message."""
INDEPENDENT = "No speaker, room response or noise of these trials was trained on."
"""A note of the recipe, where it is so."""
TIMED_STEPS = 4
SIZED = 200
"""Responses that measured ones become, in other sizes of their rooms: half as many as are simulated."""
FEW = 0.5
"""Share of the steps of a recipe below which there is a note."""
FEWEST_TRAINED, FEWEST_JUDGED = 2, 3
"""Speakers: training tells them apart, and intervals draw among those who judge."""
ENOUGH_JUDGED, MOST_JUDGED = 10, 50
"""Speakers that are kept for judging: a quarter, but at least the first (or half) and at most the second."""


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(Options):
    """Options of an adaptation: folders of recordings, and the recipe behind it."""

    speech: Annotated[Path, Metavar("DIR")]
    """Folder of close-talk speech, with a folder for each speaker."""
    rooms: Annotated[Path | None, Metavar("DIR")] = None
    """Folder or data dir of measured room responses, some to train in beside simulated ones, the others to
    judge in; by default all are simulated."""
    noise: Annotated[Path | None, Metavar("DIR")] = None
    """Folder or data dir of background noise; by default noise is made."""
    test: Annotated[Path | None, Metavar("DIR")] = None
    """Folder of other speakers to judge by, laid out as the speech; by default a quarter of its speakers are
    kept for that."""
    pattern: Annotated[str | None, Metavar("FORM")] = None
    """Form of every file's path in both, where a speaker has no folder, such as "{speaker}_{take}.wav"."""
    model: Annotated[str | None, Metavar("MODEL")] = None
    """Model to start from; by default that of the recipe."""
    recipe: str = "adapt"
    """Recipe behind it: a TOML file, or a name that "farvox recipes" lists."""
    minutes: Annotated[float, Above(0)] | None = None
    """Longest training; a few steps are timed first. By default it is as long as the recipe says."""
    far: Annotated[float, Above(0), Below(1)] = 0.01
    """Share of the trials of different speakers that the threshold accepts."""
    seed: Annotated[int, AtLeast(0)] = 1
    """Everything drawn at random follows from it."""
    skip_bad: bool = False
    """Leave out recordings that cannot be used, and list them in OUT/data/speech/rejected.tsv."""
    max_rejects: Annotated[float, AtLeast(0), AtMost(1)] = 0.001
    """Share of the recordings that may be of no use without --skip-bad."""


@writes("out")
def adapt(
    out: str | Path,
    options: AdaptOptions,
    *,
    note: Note = silent,
    progress: Note = silent,
    run_verb: RunVerb | None = None,
) -> Path:
    """Fine-tune a model on folders of speech, judge it on other speakers, and choose its threshold.

    An interrupted run goes on in ``out``, where ``recipe.toml`` is all that it does.

    Args:
        out: folder of the results.
        options: the folders, and the recipe behind it.
        note: called with each line of the results.
        progress: called with lines on what is read and written meanwhile.
        run_verb: runs a data verb; a process of its own by default.

    Returns:
        The model folder, with its threshold and figures in its card.

    Raises:
        JobError: ``out`` was begun with other options.
        CorpusError: no speakers, too few, or some of them are in ``speech`` and in ``test``.
        FarvoxError: see `farvox.pipelines.run.run`.
    """
    out = Path(out).absolute()
    with messages_of(out, options.recipe):
        drafted, saved = out / "data" / RECIPE, out / RECIPE
        # where a folder was refused the options may be others
        if (out / SETTINGS).exists() and not drafted.exists():
            write_json(out / SETTINGS, to_table(options))
        begin(out / SETTINGS, to_table(options), free=("skip_bad", "max_rejects"))
        if not drafted.exists():
            write_text(drafted, tomli_w.dumps(with_folders(out, options, note)))
        before = table = read_toml(saved if saved.exists() else drafted)
        if options.skip_bad:
            table = {**table, "prepare": [*map(_skipping, table.get("prepare", ()))]}
        if not saved.exists() and options.minutes:
            table = bounded(out, table, options.minutes, note, run_verb)
        if not saved.exists() or table != before:
            write_text(saved, tomli_w.dumps(table))
        recipe = read_recipe(str(saved))
        plan = Plan(recipe, out)
        run(recipe, out, last="score", note=note, progress=progress, run_verb=run_verb)
        lines = choose_threshold(plan, plan.systems[-1], options.far, progress)
        run(replace(recipe, notes=(*recipe.notes, *lines)), out, first="evaluate", note=note)
        complete_card(plan, plan.systems[-1], options)
        return out / MODEL


@contextmanager
def messages_of(out: Path, recipe: str) -> Iterator[None]:
    """Let errors of training, whose options an adaptation does not have, name what it has."""
    saved = out / RECIPE
    try:
        yield
    except FarvoxError as error:
        text = str(error).replace("--run-dir", "--out")
        run_it = f"by 'farvox run {saved} --run-dir {out} --from "
        text = re.sub(r"by\s--from\s(\w+)", lambda stage: f"{run_it}{stage[1]}'", text)
        if (keys := dict.fromkeys(KEY.findall(text))) and saved.exists():
            text += f" ({', '.join(keys)}: to be set in {saved}, which the same command reads again, or, for"
            text += f" another --out, in your own: 'farvox recipes {recipe} > mine.toml', --recipe mine.toml)"
        error.args = (text,)
        raise


def with_folders(out: Path, options: AdaptOptions, note: Note) -> Table:
    """The recipe, as nested tables, with the folders of the user in their places."""
    from farvox.corpora.registry import PrepareOptions
    from farvox.corpora.registry import prepare as prepare_corpus
    from farvox.farfield.rirs import audio_of

    def speech_of(folder: Path, name: str) -> tuple[DataDir, list[str]]:
        chosen = taken_from(PrepareOptions, options, seed=None)
        (made,) = prepare_corpus("folder", folder, data / name, chosen, note=note)
        return made, made.speaker_ids.unique().sort().to_list()

    data, rng = out / "data", rng_for(options.seed, 0, 0)
    for each in filter(None, (options.rooms, options.noise)):
        audio_of(each)  # what they lack is said at once
    speech, speakers = speech_of(options.speech, "speech")
    judging = speech
    if options.test:
        judging, judged = speech_of(options.test, "test")
        if shared := sorted({*speakers} & {*judged}):
            raise CorpusError(
                f"{len(shared)} speakers, '{shared[0]}' first, are in {options.speech} and {options.test}: a "
                "model is not judged by those it was trained on; take them out of one, or leave out --test"
            )
    else:
        num = max(len(speakers) // 4, min(ENOUGH_JUDGED, len(speakers) // 2), FEWEST_JUDGED)
        judged = sorted(rng.permutation(speakers)[: min(num, MOST_JUDGED)].tolist())
    trained = sorted({*speakers} - {*judged})
    if len(trained) < FEWEST_TRAINED or len(judged) < FEWEST_JUDGED:
        raise CorpusError(
            f"{options.speech}: has {len(speakers)} speakers"
            + f", and {options.test} {len(judged)}" * bool(options.test)
            + f": {FEWEST_TRAINED} to train on and {FEWEST_JUDGED} to judge by are the fewest"
            + ("" if options.test else ": add some, or name a folder of others with --test")
        )
    if not options.test:
        note(f"{len(judged)} of {len(speakers)} speakers are kept for judging: {data / 'judged.speakers'}")
    _refuse_copies(speech, trained, judging, judged)
    for name, of_part in (("train", trained), ("judged", judged)):
        write_text(data / f"{name}.speakers", "".join(f"{each}\n" for each in of_part))
    table = read_toml(find_recipe(options.recipe))
    lines = list(table.get("prepare", ()))
    changes: Table = {"seed": options.seed, "paths": {"data": _literal(data)}}
    alike = []
    if options.rooms:
        num, is_same = split_files(options.rooms, data / "responses", rng, note, are_rooms=True)
        alike += ["room"] * is_same
        sizes = round(SIZED / num)
        lines = [
            "rirs $data/rooms/sized --measured $data/responses/train"
            + f" --sizes {sizes} --seed 80" * (sizes > 1),
            "rirs $data/rooms/test --measured $data/responses/test",
            *(line for line in lines if line.split()[:2] != ["rirs", "$data/rooms/test"]),
        ]
        simulated = table.get("augment", {}).get("rirs", [])
        changes["augment"] = {"rirs": [*simulated, "$data/rooms/sized"]}
    if options.noise:
        _, is_same = split_files(options.noise, data / "noise", rng, note)
        alike += ["noise"] * is_same
        lines = [line for line in lines if line.split()[:2] != ["prepare", "noise"]]
    changes["prepare"] = lines
    if alike:
        what = " and ".join(alike)
        but = f"No speaker of these trials was trained on; their {what} was: there is only one."
        notes = [each.replace(INDEPENDENT, but) for each in table.get("notes", ())]
        changes["notes"] = notes if notes != table.get("notes", []) else [*notes, but]
    if options.test:
        changes["paths"]["judged"] = _literal(data / "test")
    if options.model:
        changes["init"] = {"model": _literal(options.model)}
    return merge(table, changes)


def _refuse_copies(train_dir: DataDir, trained: list[str], test_dir: DataDir, judged: list[str]) -> None:
    """Refuse files that are trained on, and judge under another speaker's name.

    Raises:
        CorpusError: there are some.
    """
    paths = [
        each.table.filter(each.table["speaker_id"].is_in(some))["wav_path"].to_list()
        for each, some in ((train_dir, trained), (test_dir, judged))
    ]
    sizes = [{*map(os.path.getsize, part)} for part in paths]
    alike = [[each for each in part if os.path.getsize(each) in sizes[0] & sizes[1]] for part in paths]
    of_content, others = ({sha256_of(each): each for each in part} for part in alike)
    if copies := sorted(of_content.keys() & others.keys(), key=of_content.__getitem__):
        raise CorpusError(
            f"{len(copies)} recording(s) under two names, {of_content[copies[0]]} and "
            f"{others[copies[0]]} first: a model is not judged by what it was trained on; remove one of each"
        )


def _literal(path: str | Path) -> str:
    """A path as a recipe has it, in which ``$`` begins a name."""
    return str(path).replace("$", "$$")


def _skipping(line: str) -> str:
    """A line of ``prepare`` that leaves out recordings and responses that cannot be used."""
    reads = line.startswith("simulate ") or (line.startswith("rirs ") and " --measured " in line)
    return " ".join((line, "--skip-bad")) if reads and "--skip-bad" not in line.split() else line


def split_files(
    folder: Path, out: Path, rng: np.random.Generator, note: Note, *, are_rooms: bool = False
) -> tuple[int, bool]:
    """Make data dirs OUT/train and OUT/test of the files of a folder: a quarter, drawn, is for judging.

    Files that say the same are on one side: of equal bytes, copies of one recording (``source`` in the
    utt2cond), responses of one room (``room``, or, if ``are_rooms``, one of several folders below
    ``folder``).

    Returns:
        How many there are to train with, and whether the same judge: there is only one.
    """
    from farvox.datadir.conditions import CONDITIONS, SOURCE, read_conditions
    from farvox.datadir.kaldi import Utterance, write_data_dir
    from farvox.farfield.rirs import audio_of

    files = audio_of(folder)
    known: dict[str, dict[str, str]] = {}
    if (folder / CONDITIONS).exists():
        known = {row["utt_id"]: row for row in read_conditions(folder).iter_rows(named=True)}
    is_dir = (folder / "wav.scp").exists()
    folders = {os.path.dirname(path) for _, path in files if not is_dir}
    of_size = Counter(os.path.getsize(path) for _, path in files if os.path.isfile(path))
    groups: dict[str, list[Utterance]] = {}
    first: dict[str, str] = {}  # content -> group
    for number, (name, path) in enumerate(files):
        row, above = known.get(name, {}), os.path.dirname(path)
        is_below = are_rooms and len(folders) > 1 and above != os.path.abspath(folder)
        group = row.get(SOURCE) or row.get("room") or (above if is_below else path)
        if os.path.isfile(path) and of_size[os.path.getsize(path)] > 1:
            group = first.setdefault(sha256_of(path), group)
        groups.setdefault(group, []).append(Utterance(f"{number:05d}-{name}", path))
    order = [[*groups.values()][n] for n in rng.permutation(len(groups))]
    num = max(len(order) // 4, min(1, len(order) - 1))
    train_, test = (
        [each for group in part for each in group] for part in (order[num:], order[:num] or order)
    )
    together = f" ({len(groups)} that do not say the same)" if len(groups) < len(files) else ""
    note(
        f"{folder}: {len(train_)} files to train with, "
        + (f"{len(test)} others to judge with" if num else "the same to judge with: there is only one")
        + together
    )
    for name, part in (("train", train_), ("test", test)):
        write_data_dir(out / name, sorted(part, key=lambda each: each.utt_id))
    return len(train_), not num


def bounded(out: Path, table: Table, minutes: float, note: Note, run_verb: RunVerb | None) -> Table:
    """A recipe with as many examples an epoch as its epochs can take in that time, by the clock."""
    from farvox.datadir.kaldi import DataDir

    recipe = from_table(Recipe, expand_paths(table), str(out / RECIPE))
    prepare(Plan(recipe, out), note, run_verb)
    batch, folder, ends = recipe.optim.batch_size, out / "timing", [time.monotonic()]
    timed = replace(
        recipe,
        data=replace(recipe.data, epoch_size=TIMED_STEPS * batch),
        schedule=replace(recipe.schedule, epochs=recipe.schedule.first_epoch + 2),
    )

    def look(line: str) -> None:
        if line.startswith("Epoch "):
            ends.append(time.monotonic())

    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    train(timed, folder, note=look)
    shutil.rmtree(folder)
    step = (ends[2] - ends[1]) / TIMED_STEPS
    beginning = max(0.0, ends[1] - ends[0] - TIMED_STEPS * step)
    epochs = recipe.schedule.end - recipe.schedule.first_epoch
    steps = max(1, int((60 * minutes - beginning) / step / epochs))
    whole = recipe.data.epoch_size or sum(len(DataDir.open(each)) for each in recipe.data.train)
    size = min(whole, steps * batch)
    planned = beginning + epochs * size / batch * step
    note(f"a step takes {step:.1f} s: {epochs} epochs of {size // batch} steps, about {duration(planned)}")
    if planned > 60 * minutes:
        note(f"note: that is more than {minutes:g} min: an epoch has a step at least")
    change: Table = {"data": {"epoch_size": size}}
    if size < FEW * whole:
        few = (
            f"note: {epochs * size // batch} steps, and the recipe has {epochs * whole // batch}: so few may "
            "make a model worse; a larger --minutes gives more"
        )
        note(few)
        change["notes"] = [*recipe.notes, few]
    return merge(table, change)


def choose_threshold(plan: Plan, system: System, far: float, progress: Note) -> list[str]:
    """Write the model with a threshold in its card; lines on it, and on its rates for other speakers."""
    from farvox.zoo import Card, copy_with_card

    lists = {each.name: plan.trials(system, each) for each in plan.recipe.evaluate}
    texts = {name: path.read_text(encoding="utf-8") for name, path in lists.items()}
    trials = plan.root / "data" / "all.trials"
    write_text(trials, "".join(texts.values()))
    dirs = dict.fromkeys(plan.embeddings(system, each.data) for each in plan.recipe.evaluate)
    scored = score(trials, list(dirs), out=plan.root / "data" / "all.scores", note=progress)
    names = " and ".join(lists)
    try:
        rates = rates_of_others(scored, far, {name: text.count("\n") for name, text in texts.items()})
    except TrialError as error:
        rates = f"its rates on other speakers are not known: {error}"
    options = CalibrateOptions(
        far=far, model=str(system.model), out=plan.root / MODEL, note=f"{names}; {rates}"
    )
    try:
        found = calibrate(scored, options, note=progress)
    except TrialError as error:
        copy_with_card(system.model, Card(), plan.root / MODEL)
        return [f"the model has no threshold: {error}"]
    sure = found.intervals
    within = f" (95 % {plain_span(sure['threshold'])}, {sure['num_speakers']} speakers)" if sure else ""
    return [f"threshold {found.point.threshold:.4f}{within}: FAR {100 * far:g} % of {names}; {rates}"]


def rates_of_others(scored: Scores, far: float, sizes: dict[str, int]) -> str:
    """FAR and FRR of each list at thresholds that were chosen without the speakers of a trial.

    Args:
        scored: the trials of all lists, one list after the other.
        far: of the thresholds.
        sizes: the number of trials of each list.
    """
    import numpy as np

    from farvox.metrics.bootstrap import rates_at, speaker_bootstrap
    from farvox.score.calibrate import held_out, threshold_at_far

    target = np.asarray(scored.trials.target, bool)
    speakers = speakers_behind(scored, CalibrateOptions())

    def above(rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        return scored.values - threshold_at_far(scored.values[rows], target[rows], far).threshold

    judged_N, (above_N,) = held_out([above], speakers.enrol, speakers.test, across=True)
    list_N = np.repeat(np.arange(len(sizes)), list(sizes.values()))[judged_N]
    texts = []
    for number, name in enumerate(sizes):
        of_list = list_N == number
        drawn = speaker_bootstrap(
            [above_N[of_list]],
            target[judged_N][of_list],
            speakers.enrol[judged_N][of_list],
            speakers.test[judged_N][of_list],
            figures=[partial(rates_at, threshold=0.0)],
        ).systems[0]
        shown = (
            f"{key.upper()} {rounded(drawn[key].value, num, '%')} ({span(drawn[key].interval(), num, '%')})"
            for key, num in (("far", int((~target[judged_N])[of_list].sum())),
                             ("frr", int(target[judged_N][of_list].sum())))
        )  # fmt: skip
        texts.append(f"{name} {', '.join(shown)}")
    return f"with thresholds chosen on other speakers: {'; '.join(texts)}"


def _words(options: AdaptOptions) -> Iterator[str]:
    """The options that were given, as they are typed."""
    for field in fields(options):
        if (value := getattr(options, field.name)) != field.default:
            yield f"--{field.name.replace('_', '-')}"
            yield from () if value is True else (str(value),)


def complete_card(plan: Plan, system: System, options: AdaptOptions) -> None:
    """Enter into the model's card what it is, what it was trained on, and what was measured."""
    from farvox.datadir.kaldi import DataDir
    from farvox.zoo import Card, read_card
    from farvox.zoo.card import Figure

    start = read_card(plan.recipe.init.model)
    results = parse_json((plan.root / "results.json").read_text(encoding="utf-8"))["results"]
    train_dirs: Sequence[DataDir] = [DataDir.open(each) for each in plan.recipe.data.train]
    num_speakers = sum(each.speaker_ids.n_unique() for each in train_dirs)
    card = Card.load(plan.root / MODEL)
    replace(
        card,
        name=plan.root.name,
        title=f"{start.name or plan.recipe.init.model}, adapted",
        licence=start.licence,
        features=start.features,
        training_data=f"{num_speakers} speakers of {options.speech}; before that: {start.training_data}",
        figures=tuple(
            Figure(
                f"{each['trial_list']}, {plan.root.name}",
                each["num_target"] + each["num_nontarget"],
                each["eer"],
                each["min_dcf"],
                shlex.join(["farvox", "adapt", *_words(options), "--out", str(plan.root)]),
            )
            for each in results
            if each["system"] == system.name
        ),
    ).save(plan.root / MODEL)
