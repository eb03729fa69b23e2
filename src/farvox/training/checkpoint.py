"""Checkpoints, and the run dir that belongs to the options it was begun with.

``checkpoints/epoch_037/`` is itself a MODEL (config.json + model.safetensors) and carries besides
what resuming needs: ``classifier.safetensors``, ``optimizer.safetensors``, ``state.json``, ``recipe.toml``.
``epoch_038_step_000100/`` is the same 100 steps into epoch 38, until that epoch has its own. Each has the
SHA-256 of all its files in ``manifest.json``, and a run goes on after the last that is whole.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tomli_w
import torch
from torch import Tensor

from farvox.atomic import atomic_dir, atomic_file, discard, sha256_of, write_json, write_text
from farvox.audio.remote import is_asked, is_remote, version_of
from farvox.audio.shards import fingerprint
from farvox.audio.stretches import file_of
from farvox.cache import FINGERPRINT
from farvox.datadir.kaldi import CHECKED
from farvox.datadir.strings import StringTable
from farvox.errors import AudioError, CheckpointError, FarvoxError, ModelError, RecipeError
from farvox.jobs import Job, cut, threads
from farvox.manifest import MANIFEST, faults_in, listed_files, renew_manifest, verify_file
from farvox.options import AtLeast, Options, from_table, to_table
from farvox.parsing import parse_json, read_array
from farvox.progress import Note
from farvox.training.distributed import World
from farvox.training.options import TrainOptions, refuse_changes, saved_options
from farvox.training.table import TrainingTable
from farvox.zoo import find_model
from farvox.zoo.find import (
    CHECKPOINT,
    FREE,
    RECIPE,
    STATE,
    checkpoint_name,
    why_misplaced,
    why_of_other_recipe,
)
from farvox.zoo.model import CONFIG, WEIGHTS, are_whole, write_weights

Tensors = dict[str, Tensor]
Packed = tuple[Tensors, dict[str, Any]]
"""The state of an optimiser: tensors by name, and plain numbers."""
START = "start.json"
"""File of a run dir: the folder of the model that the run began with, and the SHA-256 of its weights."""
_AT_ONCE = 1024  # files that a thread looks at
CLASSIFIER, OPTIMIZER = "classifier.safetensors", "optimizer.safetensors"
_REQUIRED = (CONFIG, WEIGHTS, CLASSIFIER, OPTIMIZER, STATE)


@dataclass(frozen=True, kw_only=True)
class TrainingState(Options):
    """The state of a run after an epoch or a part of one: its classes and data, and plain numbers."""

    epoch: int
    """The epoch that is finished or, with within, begun."""
    step: Annotated[int, AtLeast(0)]
    """Optimiser steps so far."""
    classes: tuple[str, ...]
    """Names of the classifier's rows."""
    data: str = ""
    """Fingerprint of the training table."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """Numbers of the optimiser; its tensors are in ``optimizer.safetensors``."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """The loss scaler of fp16."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Mean figures of the epoch."""
    within: Annotated[int, AtLeast(0)] = 0
    """Steps of the epoch that are done; 0: it is finished."""
    totals: tuple[float, ...] = ()
    """With within, four numbers a process: sums of its figures over the steps taken, and their number."""
    skipped: Annotated[int, AtLeast(0)] = 0
    """Steps of the run that were left out because they were not finite."""
    processes: Annotated[int, AtLeast(0)] = 0
    """Processes that took the last step; 0: an earlier farvox did not say."""
    passes: Annotated[int, AtLeast(0)] = 0
    """Passes that a step of the run began with, over all processes; 0: an earlier farvox did not say."""


def checkpoint_folder(run_dir: Path, epoch: int, within: int = 0) -> Path:
    """The folder of the checkpoint of ``epoch``, or of its first ``within`` steps."""
    return run_dir / "checkpoints" / checkpoint_name(epoch, within)


def place_of(folder: Path) -> tuple[int, float]:
    """Epoch of a checkpoint and the steps of it, which are infinitely many where it is finished."""
    match = CHECKPOINT.fullmatch(folder.name)
    assert match
    return int(match[1]), int(match[2] or 0) or math.inf


def checkpoints_of(run_dir: Path) -> list[Path]:
    """All checkpoints of a run, whole or not, in the order of the training."""
    folders = (run_dir / "checkpoints").glob("epoch_*")
    named = (each for each in folders if CHECKPOINT.fullmatch(each.name) and each.is_dir())
    return sorted(named, key=place_of)


def finished_epochs(run_dir: Path) -> list[int]:
    """Numbers of the epochs that have a checkpoint of their own, in order."""
    return [epoch for epoch, within in map(place_of, checkpoints_of(run_dir)) if math.isinf(within)]


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    write_model: Callable[[Path], None],
    head: Tensors,
    optimizer: Packed,
    recipe: str,
    model_bytes: int = 0,
) -> None:
    """Write one checkpoint folder, whole or not at all; its manifest is the last file of it.

    Args:
        folder: of the epoch, or of a part of it; one that is there already is replaced.
        state: of the run; it gets the optimiser's numbers.
        write_model: called with a folder; writes config.json and model.safetensors there, and a manifest.
        head: state of the classifier.
        optimizer: as `pack_optimizer` gives it.
        recipe: the recipe of the run, as TOML.
        model_bytes: of the network's weights.

    Raises:
        CheckpointError: there is no room for it; says how much it needs.
    """
    tensors, numbers = optimizer
    needed = 1.02 * (model_bytes + sum(each.nbytes for each in [*head.values(), *tensors.values()])) + 1e6
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        if shutil.disk_usage(folder.parent).free < needed:
            raise FarvoxError(f"{folder}: cannot be written: the disk is full")
        with atomic_dir(folder, own_files=(*_REQUIRED, RECIPE, MANIFEST)) as temporary:
            write_model(temporary)
            write_weights(temporary / CLASSIFIER, head)
            write_weights(temporary / OPTIMIZER, tensors)
            write_json(temporary / STATE, to_table(state) | {"optimizer": numbers})
            write_text(temporary / RECIPE, recipe)
            renew_manifest(temporary, *(each.name for each in temporary.iterdir() if each.name != MANIFEST))
    except FarvoxError as error:
        free = shutil.disk_usage(folder.parent).free
        raise CheckpointError(
            f"{error} (a checkpoint takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free there). "
            "The checkpoints before it are as they were: make room, and the same command goes on after them"
        ) from None


def load_state(folder: Path) -> TrainingState:
    """Read ``state.json``.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    verify_file(folder / STATE)
    try:
        table = parse_json((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError("no table")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / STATE}: not the state of a training: {error}") from None
    return from_table(TrainingState, table, str(folder / STATE), CheckpointError)


def faults_of(folder: Path) -> list[str]:
    """The faults of a checkpoint, each as ``FILE: what``; none where it is whole."""
    try:
        faults = faults_in(folder)
    except CheckpointError as error:
        return [str(error)]
    for name in _REQUIRED:
        if not (folder / name).is_file():
            faults.setdefault(name, "missing")
        elif name.endswith(".safetensors") and not are_whole(folder / name):
            faults.setdefault(name, "damaged: its length is not the one of its header")
    if not (folder / MANIFEST).exists() and (folder / RECIPE).exists():  # not of an earlier farvox
        faults[MANIFEST] = "missing"
    for name in faults:
        for other in checkpoints_of(folder.parent.parent) if (folder / name).is_file() else ():
            with suppress(CheckpointError):
                if (listed_files(other) or {}).get(name) == sha256_of(folder / name):
                    faults[name] += f"; it is that of {other.name}"
    if not faults:
        try:
            load_state(folder)
            if what := why_misplaced(folder):
                faults[STATE] = what
        except CheckpointError as error:
            return [str(error)]
    return [f"{folder / name}: {what}" for name, what in faults.items()]


def refuse_other_data(
    folder: Path, state: TrainingState, table: TrainingTable, classes: Sequence[str]
) -> None:
    """Refuse to take the checkpoint ``folder`` for one of these utterances, speakers and classes.

    Raises:
        CheckpointError: the data dirs were changed.
    """
    if (state.classes, state.data) != (tuple(classes), table.fingerprint()):
        raise CheckpointError(
            f"{folder}: trained on other data ({len(state.classes)} classes there, {len(classes)} now): the "
            "data dirs were changed since the run began, or a check of the audio leaves others out: "
            f"put them back (without {CHECKED}, if there was no check), or go on from these weights in "
            f"another --run-dir, by --init.model {folder.parent.parent}"
        )


def of_other_data(
    run_dir: Path, table: TrainingTable, classes: Sequence[str] | None = None
) -> dict[Path, CheckpointError]:
    """The checkpoints of a run that are of other utterances, speakers or, if given, classes; and why."""
    found = {}
    for folder in checkpoints_of(run_dir):
        try:
            state = load_state(folder)
            refuse_other_data(folder, state, table, state.classes if classes is None else classes)
        except CheckpointError as error:
            found[folder] = error
    return found


def pack_optimizer(optimizer: torch.optim.Optimizer) -> Packed:
    """Split an optimiser's state into tensors (``<parameter>.<name>``) and JSON-able numbers."""
    state = optimizer.state_dict()
    states = state["state"].items()
    flat = {f"{number}.{name}": value for number, entries in states for name, value in entries.items()}
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in flat.items() if name not in tensors}
    return tensors, {"numbers": numbers, "groups": state["param_groups"]}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], packed: Mapping[str, Any]
) -> None:
    """Put the state that `pack_optimizer` took apart back into ``optimizer``."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    try:
        for key, value in [*tensors.items(), *packed["numbers"].items()]:
            number, name = key.split(".", 1)
            if isinstance(value, Tensor) and value.dim() and value.shape != weights[int(number)].shape:
                raise ValueError(f"{key} is of shape {list(value.shape)}")
            state.setdefault(int(number), {})[name] = value
        own = optimizer.state_dict()["param_groups"]  # but for the rate all is of the recipe
        groups = [
            {**group, "lr": float(saved["lr"]), "params": saved["params"]}
            for group, saved in zip(own, packed["groups"], strict=True)
        ]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        for weight, entries in optimizer.state.items():  # in the weight's memory order, as if never saved
            for name, value in entries.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    entries[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value).detach()
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"the optimiser state does not fit this model: {error!r}") from None


def prune_checkpoints(run_dir: Path, keep: int, saved: Path | None = None) -> None:
    """Delete all but the last ``keep`` epochs, 0 keeps all, and what was saved within one before ``saved``.

    Args:
        run_dir: of the run.
        keep: epochs that are kept.
        saved: the newest checkpoint that counts; later ones are damaged ones that the run has yet to reach.

    Nothing is deleted where none of those that would be kept is whole.
    """
    every = [each for each in checkpoints_of(run_dir) if not saved or place_of(each) <= place_of(saved)]
    epochs = [each for each in every if math.isinf(place_of(each)[1])]
    kept = [*every[-1:], *reversed(epochs[-keep:])]
    outdated = [each for each in every if each not in kept]
    if outdated and any(not faults_of(each) for each in kept):
        for each in outdated:
            discard(each)


def begin_run_dir(
    options: TrainOptions,
    run_dir: Path,
    world: World,
    note: Note,
    *,
    resume: bool,
    unfit: Mapping[Path, CheckpointError] = {},
) -> Path | None:
    """Begin a run dir, or make sure that it can be gone on with; returns the checkpoint to go on after.

    A new run dir gets ``recipe.toml``: the options, with all else that a recipe has. Checkpoints that are
    damaged, or of another recipe than the options, are named by ``note``, and the last before them is taken.

    Args:
        options: of the run.
        run_dir: of the run.
        world: the ranks, which call it together.
        note: called with a line for people.
        resume: continue a run dir that holds checkpoints, instead of refusing it.
        unfit: whole checkpoints that cannot be gone on after either, and why.

    Raises:
        RecipeError: it holds checkpoints, and was begun with other options or must not be continued.
        CheckpointError: it holds checkpoints, and none is whole, or those that are whole are all unfit.
    """
    place = torch.tensor([-1, 0], device=world.device)
    if world.is_main:
        every = checkpoints_of(run_dir)
        if every and not resume:
            raise RecipeError(f"{run_dir} already holds {len(every)} checkpoint(s): choose another --run-dir")
        saved, text = run_dir / RECIPE, tomli_w.dumps(to_table(options))
        if found := _last_whole(options, run_dir, every, unfit, note):
            epoch, within = place_of(found)
            place = place.new_tensor([epoch, 0 if math.isinf(within) else within])
            if (found / RECIPE).exists():
                text = (found / RECIPE).read_text("utf-8")
        with suppress(RecipeError):
            if found:
                refuse_changes(saved, options, TrainOptions, FREE, run_dir)
                text = ""
        if found and text:
            note(f"note: {saved} was removed, damaged or edited since the run began, and is written again")
        if text:
            write_text(saved, text)
    epoch, within = world.max(place).tolist()
    return checkpoint_folder(run_dir, epoch, within) if epoch >= 0 else None


def _last_whole(
    options: TrainOptions,
    run_dir: Path,
    every: Sequence[Path],
    unfit: Mapping[Path, CheckpointError],
    note: Note,
) -> Path | None:
    """The last checkpoint that is whole, of these options and not unfit; None where there is none at all."""
    faults: list[str] = []
    refused: FarvoxError | None = next((unfit[each] for each in reversed(every) if each in unfit), None)
    for folder in reversed(every):
        saved = folder / RECIPE if (folder / RECIPE).exists() else run_dir / RECIPE
        here = []
        try:
            verify_file(folder / RECIPE)
            if saved.exists():
                refuse_changes(saved, options, TrainOptions, FREE, run_dir)
        except RecipeError as error:
            refused, here = refused or error, [f"{folder}: is of another recipe: {error}"]
        except CheckpointError as error:
            here = faults_of(folder) or [str(error)]
        here = here or ([str(unfit[folder])] if folder in unfit else faults_of(folder))
        if not here:
            break
        faults += here
    else:
        if refused:
            raise refused
        if faults:
            listing = "\n  ".join(faults[:20])
            raise CheckpointError(
                f"{run_dir}: none of its {len(every)} checkpoint(s) is whole:\n  {listing}\n"
                f"Put these files back from a copy; or remove {run_dir / 'checkpoints'}, to begin anew"
            )
        return None
    if faults:
        listing = "\n  ".join(faults)
        note(
            f"note: {run_dir} goes on after {folder.name}, the last whole checkpoint; these are not used, "
            f"and are replaced when it gets there:\n  {listing}"
        )
    if not (folder / RECIPE).exists():
        what = "without a recipe.toml" if (folder / MANIFEST).exists() else f"without a {MANIFEST}"
        note(f"note: {folder}: written {what} by an earlier farvox, so not all damage to it can be seen")
    return folder


def check_run(run_dir: Path, note: Note) -> list[str]:
    """The faults of a run dir, each as ``FILE: what``: of its checkpoints, recipe, records and logs.

    Args:
        run_dir: of the run.
        note: called with a line on what is not known, or stands in the way of going on only.
    """
    faults, first = [], None
    for folder in checkpoints_of(run_dir):
        if found := faults_of(folder):
            faults += found
            continue
        if what := why_of_other_recipe(folder):
            faults.append(f"{folder}: {what}")
            continue
        state = load_state(folder)
        first = first or (folder.name, state)
        if (state.classes, state.data) != (first[1].classes, first[1].data):
            faults.append(f"{folder / STATE}: is of other data or classes than that of {first[0]}")
        elif not (folder / RECIPE).exists():
            note(f"note: {folder}: of an earlier farvox, so not all damage to it can be seen")
    try:
        saved_options(run_dir / RECIPE, TrainOptions)
    except RecipeError as error:
        of = f"{run_dir / RECIPE}: "
        faults.append(f"{of}{str(error).removeprefix(of)}")
    try:
        if (start := read_start(run_dir)) and not (Path(start["folder"]) / WEIGHTS).is_file():
            note(f"note: {run_dir / START}: {start['folder']}, which the run began with, is not there")
        elif start and sha256_of(Path(start["folder"]) / WEIGHTS) != start["sha256"]:
            faults.append(f"{run_dir / START}: {start['folder']} has other weights than the run began with")
    except CheckpointError as error:
        faults.append(str(error))
    for path in sorted(run_dir.glob("*-*.npy")):
        try:
            read_array(path)
        except (OSError, ValueError) as error:
            faults.append(f"{path}: damaged: {error}")
    for name, read in (("log.jsonl", parse_json), ("train.log", str)):
        path = run_dir / name
        for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
            try:
                read(line.decode())
            except ValueError as error:
                faults.append(f"{path}:{number}: damaged: {error}")
                break
    return faults


def read_start(run_dir: Path) -> dict[str, str]:
    """The content of ``start.json``: ``folder`` and ``sha256``; empty where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = run_dir / START
    if not path.exists():
        return {}
    try:
        table = parse_json(path.read_text("utf-8"))
        return {key: str(table[key]) for key in ("folder", "sha256")}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise CheckpointError(f"{path}: damaged ({error!r}): put it back, or remove it") from None


def starting_folder(model: str, run_dir: Path, note: Note, *, has_begun: bool) -> Path | None:
    """The folder of the MODEL that a run starts from; of one that has begun, the folder that it began with.

    Raises:
        CheckpointError: its weights are not those that the run began with.
        ModelError: there is no such model.
    """
    if not model:
        return None
    begun, now = read_start(run_dir) if has_begun else {}, None
    if not begun:
        if has_begun:
            note(f"{run_dir}: has no {START}, so whether init.model has changed since it began is not known")
        return find_model(model)
    with suppress(ModelError, CheckpointError):
        now = Path(os.path.abspath(find_model(model)))
    for folder in (Path(begun["folder"]), now or run_dir):  # it may have been moved
        if (folder / WEIGHTS).is_file() and sha256_of(folder / WEIGHTS) == begun["sha256"]:
            if now not in (folder, None):
                note(
                    f"init.model = '{model}' is {now} by now; {run_dir} keeps to {folder}, which it began"
                    " with (start another --run-dir for the other)"
                )
            return folder
    raise CheckpointError(
        f"init.model = '{model}': {run_dir} began with {begun['folder']}, whose {WEIGHTS} (SHA-256"
        f" {begun['sha256']}) was changed or removed since: put it back, or start another --run-dir"
    )


def record_start(folder: Path, run_dir: Path, data: str = "") -> None:
    """Record the model that a run begins with, and a fingerprint of its data."""
    begun = {"folder": os.path.abspath(folder), "sha256": sha256_of(folder / WEIGHTS)}
    write_json(run_dir / START, begun | ({"data": data} if data else {}))


def compare_audio(
    table: TrainingTable, noise: Sequence[str], run_dir: Path, note: Note, *, has_begun: bool
) -> None:
    """Make sure that the audio of a run is what it was when the run began, or record it.

    Args:
        table: the utterances that are trained on.
        noise: the files of the augmentation, in order; in a file of their own.
        run_dir: keeps the record.
        note: called where it cannot be known.
        has_begun: it is compared, where there is a record.

    Raises:
        CheckpointError: another file lies in the place of one, or there are more or fewer; names the first.
    """
    kind = "digest" if os.environ.get(FINGERPRINT) == "digest" else "time"
    for name, what, paths in (
        ("audio", "utterances", table.wav_paths),
        ("augment", "files of the augmentation", noise),
    ):
        if not len(paths):
            continue
        path = run_dir / f"{name}-{kind}.npy"
        job = Job(what=f"files of {name} looked at", note=note, executor=threads)
        parts = job.run(partial(_fingerprints, paths), cut(range(len(paths)), _AT_ONCE))
        now_N = np.frombuffer(b"".join(parts), "<u8")
        remote = filter(is_remote, map(file_of, (paths[row] for row in range(len(paths) * is_asked()))))
        with suppress(AudioError):
            if (url := next(remote, "")) and version_of(url).endswith("\t"):
                note(
                    f"note: {url}: its host tells only sizes, so whether a file there was replaced by one as "
                    "long is not known"
                )
        if not has_begun or not path.exists():
            if has_begun:
                note(f"{run_dir}: has no {path.name}, so whether {name} was replaced since is not known")
            with atomic_file(path) as temporary:
                np.save(temporary, now_N)
            continue
        try:
            before_N = read_array(path)
        except ValueError as error:
            raise CheckpointError(
                f"{path}: damaged ({error}), so whether {name} was replaced since is not known; "
                "where you know that it was not, remove the file and resume"
            ) from None
        least = min(len(before_N), len(now_N))
        changed = np.flatnonzero(before_N[:least] != now_N[:least])
        num_changed = len(changed) + abs(len(before_N) - len(now_N))
        if num_changed:
            first = int(changed[0]) if len(changed) else least
            shown = "the end of the list"
            if first < len(paths):
                shown = f"{paths[first]}" if name != "audio" else f"'{table.utt_ids[first]}' ({paths[first]})"
            raise CheckpointError(
                f"{run_dir}: the audio of {num_changed:,} of {len(before_N):,} {what} was replaced, added or "
                f"removed since the run began, or cannot be reached; the first is {shown}: put it back, or "
                "start another --run-dir. If only the times of the files have changed, remove "
                f"{path} and resume"
            )


def _fingerprints(paths: StringTable | Sequence[str], rows: Sequence[int]) -> bytes:
    """Eight bytes for each audio file."""
    return b"".join(bytes.fromhex(fingerprint([paths[row]])[:16]) for row in rows)
