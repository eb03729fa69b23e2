"""From what a user calls a model to the model: its folder, weights, card and embedder; averages of models.

The ONNX graph of a model folder is made once and kept, because onnxruntime is faster than torch, and sooner
ready. It lies beside the weights, or in the cache where the folder cannot be written. Its metadata hold the
SHA-256 of the ``config.json`` and the weights that it was made of; it is never used for others. Only where a
graph is made is torch imported.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from farvox.atomic import atomic_dir, atomic_file, sha256_of, visible
from farvox.audio.conditioning import Band
from farvox.cache import cache_path
from farvox.errors import CheckpointError, FarvoxError, MissingExtraError, ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.machine import is_installed
from farvox.manifest import MANIFEST, begin_manifest, read_weights, renew_manifest, verify_file
from farvox.options import differences, nearest, not_a_choice
from farvox.parsing import parse_json, parse_toml
from farvox.progress import to_stderr
from farvox.writers import one_writer, writes
from farvox.zoo.card import Card
from farvox.zoo.embedder import Backend, Embedder
from farvox.zoo.foreign import CLASSIFIER
from farvox.zoo.model import (
    CONFIG,
    GRAPH,
    WEIGHTS,
    Model,
    load_folder,
    pick_device,
    read_config,
    refuse_other_model,
    require_torch,
    save_model,
    why_no_graph,
)
from farvox.zoo.onnx_backend import EXPORTED, ONNX_SUFFIX, ExportedModel, OnnxEmbedder, with_card
from farvox.zoo.pretrained import pull, zoo_models
from farvox.zoo.torch_backend import TorchEmbedder

if TYPE_CHECKING:
    from torch import Tensor

    from farvox.zoo.openvino_backend import OpenvinoEmbedder

VERSION = b"1"  # of the graphs; with a new one all that are kept are made again
SOURCE = "source"  # the entry of a kept graph's metadata that holds `_source_of` its model folder
Exported = TypeVar("Exported", bound=ExportedModel)
STATE = "state.json"
"""File of a checkpoint: the state of the training, with the epoch that it is of."""
CHECKPOINT = re.compile(r"epoch_(\d+)(?:_step_(\d+))?")
"""Name of the folder of a checkpoint, see `checkpoint_name`."""
RECIPE = "recipe.toml"
"""File of a run dir and of each checkpoint: all settings of the run."""
OWN_TABLES = ("features", "augment", "specaugment", "model", "head")
"""Tables of a recipe that are written as they were given; others may have had fewer entries."""
TRAINING = (*OWN_TABLES, "seed", "data", "init", "distill", "agree", "optim", "schedule")
"""Entries of a recipe that the weights depend on."""
FREE = (
    "device", "threads", "wait_minutes", "data.workers", "data.features", "data.remote", "data.max_rejects",
    "augment.pack", "optim.checkpointing", "optim.channels_last", "optim.shard_head", "optim.skip_nonfinite",
    "log.", "validate.", "schedule.epochs", "schedule.extend",
)  # fmt: skip
"""Options that may change when a run is continued: its length, and those that leave the weights alone."""
_RANGE = re.compile(r"(.+)@(\d{1,9})\.\.(\d{1,9})")


def load_model(spec: str | Path, device: str = "cpu") -> Model:
    """Load a model, see `find_model`, on a device, see `farvox.zoo.model.pick_device`, in evaluation mode.

    Raises:
        ModelError: there is no such model, or its ``config.json`` is not usable.
        CheckpointError: the weights are damaged or do not fit the network.
        MissingExtraError: torch is not installed.
    """
    return load_folder(find_model(spec), device)


def open_embedder(
    spec: str | Path,
    device: str = "cpu",
    *,
    precision: str = "fp32",
    backend: str = "auto",
    band: Band = "full",
) -> Embedder:
    """Open any MODEL: a model folder, a run dir, ``RUN_DIR@37``, a name of the zoo, or an exported ``.onnx``.

    Args:
        spec: the model.
        device: where torch computes; the others compute on the CPU.
        precision: ``fp32``, or ``bf16`` for torch and OpenVINO.
        backend: ``torch``; ``onnx`` or ``openvino``, which compute from the model's graph and make it if need
            be; ``auto``: onnx where it gives the same embeddings sooner, else torch. The environment variable
            ``FARVOX_BACKEND`` takes the place of ``auto``, but for an ``.onnx`` file.
        band: "narrow" leaves nothing above 4 kHz of any recording; see `Card.for_band`.

    Raises:
        UsageError: there is no such band.
        ModelError: there is no such model, its description is not usable, or the backend cannot run it so.
        CheckpointError: the weights are damaged or do not fit the network.
        MissingExtraError: what computes is not installed.
    """
    is_exported = Path(spec).suffix == ONNX_SUFFIX
    if backend == "auto" and not is_exported:
        backend = os.environ.get("FARVOX_BACKEND") or backend
    if backend not in get_args(Backend):
        where = "FARVOX_BACKEND: " if backend == os.environ.get("FARVOX_BACKEND") else ""
        raise ModelError(f"{where}backend '{backend}' is unknown; there are {', '.join(get_args(Backend))}")
    if band not in get_args(Band):
        raise not_a_choice("band", band, get_args(Band))
    if backend == "torch" and is_exported:
        raise ModelError(
            f"{spec}: an exported model, which torch does not run: name what it was exported from"
        )
    if precision != "fp32" and (backend == "onnx" or (is_exported and backend == "auto")):
        raise ModelError(
            f"onnxruntime has no {precision} on a CPU: add --backend openvino, or leave --precision out"
        )
    open_file: Callable[[Path], OnnxEmbedder | OpenvinoEmbedder] = OnnxEmbedder
    if backend == "openvino":
        from farvox.zoo.openvino_backend import OpenvinoEmbedder

        open_file = partial(OpenvinoEmbedder, precision=precision)
    if is_exported:
        exported = open_file(Path(spec))
        exported.card = exported.card.for_band(band)
        return exported
    folder, card = find_model(spec), read_card(spec).for_band(band)
    is_suited = (
        precision == "fp32"
        and is_installed("onnxruntime")
        and not why_no_graph(FrontEndConfig.from_dict(read_config(folder)["frontend"]))
        and (device == "cpu" or (device == "auto" and pick_device(device) == "cpu"))
    )
    if backend in ("onnx", "openvino") or (backend == "auto" and is_suited):
        try:
            return _open_kept_graph(folder, str(spec), card, open_file)
        except (CheckpointError, MissingExtraError):
            raise
        except FarvoxError as error:
            if backend != "auto":
                raise
            to_stderr(f"{error}; torch computes instead")
    require_torch(spec)
    return TorchEmbedder(load_folder(folder, device), card, precision)


def read_card(spec: str | Path) -> Card:
    """The card of any MODEL, see `open_embedder`; empty where it has none. Nothing is fetched.

    Raises:
        ModelError: there is no such model, or its card is damaged.
    """
    if Path(spec).suffix == ONNX_SUFFIX:
        return open_embedder(spec).card
    if is_zoo_name(spec):
        return zoo_models()[str(spec)].card
    return Card.load(locate_model(spec))


def find_model(spec: str | Path) -> Path:
    """The model folder that ``spec`` stands for.

    That is a model folder, a run dir (its last complete epoch), ``RUN_DIR@37``, or the name of a model of the
    zoo, which is pulled if need be. What is on disk comes first.

    Raises:
        ModelError: there is none.
        CheckpointError: it is a checkpoint of another epoch than its folder is called, or of another run than
            the one that it lies in, or that is not known.
    """
    folder = locate_model(spec)
    verify_file(folder / STATE)
    verify_file(folder / RECIPE)
    if what := why_misplaced(folder):
        raise CheckpointError(
            f"{folder / STATE}: {what}: put the checkpoint of that epoch back, or name another, as RUN_DIR@N"
        )
    if what := why_of_other_recipe(folder):
        raise CheckpointError(
            f"{folder}: {what}: put back what was there, or copy the checkpoint out of the run dir to use it"
        )
    return folder


def checkpoint_name(epoch: int, within: int = 0) -> str:
    """Name of the folder of the checkpoint of ``epoch``, or of its first ``within`` steps."""
    return f"epoch_{epoch:03d}" + (f"_step_{within:06d}" if within else "")


def why_misplaced(folder: Path) -> str:
    """The words for a checkpoint in a run that is of another epoch than its folder is called; else empty.

    Raises:
        CheckpointError: its state cannot be read.
    """
    path = Path(os.path.abspath(folder)) / STATE
    match = CHECKPOINT.fullmatch(path.parent.name)
    if not match or path.parent.parent.name != "checkpoints" or not path.is_file():
        return ""
    try:
        table = parse_json(path.read_text("utf-8"))
        place = int(table["epoch"]), int(table.get("within", 0))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{folder / STATE}: not the state of a training: {error!r}") from None
    if place == (int(match[1]), int(match[2] or 0)):
        return ""
    return f"is of {checkpoint_name(*place)}, and the folder is called {path.parent.name}"


def why_of_other_recipe(folder: Path) -> str:
    """The words for a checkpoint in a run dir of another recipe; else, or where none is known, empty."""
    path = Path(os.path.abspath(folder))
    if not CHECKPOINT.fullmatch(path.name) or path.parent.name != "checkpoints":
        return ""
    run_recipe = Path(os.path.normpath(folder / "../..")) / RECIPE
    try:
        tables = [parse_toml(each.read_text("utf-8")) for each in (path / RECIPE, run_recipe)]
    except (OSError, ValueError):
        return ""
    here, there = ({key: table[key] for key in TRAINING if key in table} for table in tables)
    for name, (own, other) in differences(here, there, FREE).items():
        if None not in (own, other) or name.startswith(tuple(f"{each}." for each in OWN_TABLES)):
            return (
                f"is of another run, or {run_recipe} was edited: {name} is {own!r} in the recipe of the "
                f"checkpoint and {other!r} in that of the run"
            )
    return ""


def locate_model(spec: str | Path) -> Path:
    """As `find_model`, but a checkpoint is taken for the epoch that its folder is called.

    Raises:
        ModelError: there is none.
    """
    path, epoch = Path(spec), None
    if is_zoo_name(spec):
        return pull(str(spec))
    if path.suffix == ONNX_SUFFIX and path.is_file():
        raise ModelError(
            f"{path}: an exported model, which cannot be trained or exported again: name the model that "
            "it was exported from"
        )
    if not path.exists() and (match := re.fullmatch(r"(.+)@(\d{1,9})", str(spec))):
        path, epoch = Path(match[1]), int(match[2])
    if epoch is None and (path / CONFIG).is_file():
        return path
    epochs = _complete_epochs(path / "checkpoints")
    if epoch in epochs or (epoch is None and epochs):
        return epochs[max(epochs) if epoch is None else epoch]
    if epochs:
        raise ModelError(f"{path} has no epoch {epoch}; it has {', '.join(map(str, sorted(epochs)))}")
    if not path.is_dir():
        hint = nearest(str(spec), zoo_models()) or f"; the zoo has {', '.join(zoo_models())}"
        raise ModelError(f"no model '{spec}': there is no such folder{hint}")
    raise ModelError(
        f"no model in '{path}': neither {CONFIG} (a model folder) "
        f"nor a complete checkpoints/epoch_NNN (a run dir) is in it"
    )


def is_zoo_name(spec: str | Path) -> bool:
    """``spec`` is a name of the zoo, and no model on disk is called the same."""
    on_disk = (Path(spec) / CONFIG).is_file() or (Path(spec) / "checkpoints").is_dir()
    return str(spec) in zoo_models() and not on_disk


def _complete_epochs(checkpoints: Path) -> dict[int, Path]:
    return {
        int(match[1]): folder
        for folder in visible(checkpoints, "epoch_*")
        if (match := re.fullmatch(r"epoch_(\d+)", folder.name))
        and ((folder / MANIFEST).is_file() or all((folder / name).is_file() for name in (CONFIG, WEIGHTS)))
    }


@writes("out")
def copy_with_card(spec: str | Path, card: Card, out: str | Path) -> None:
    """Copy any MODEL, see `open_embedder`, with another card; the model itself stays as it is.

    Args:
        spec: the model; an ``.onnx`` file becomes such a file only.
        card: of the copy.
        out: a folder, or a file ending in ``.onnx``, which is made of the model's graph.

    Raises:
        ModelError: there is no such model, or it has no graph.
        CheckpointError: a file of it is damaged.
        FarvoxError: ``out`` holds something else, or cannot be written.
    """
    if Path(out).suffix == ONNX_SUFFIX:
        exported = open_embedder(spec, backend="auto" if Path(spec).suffix == ONNX_SUFFIX else "onnx")
        assert isinstance(exported, OnnxEmbedder)
        with atomic_file(out, EXPORTED) as unfinished:
            unfinished.write_bytes(with_card(exported, card))
        return
    folder = find_model(spec)
    with atomic_dir(out, own_files=(CONFIG,)) as copy:
        begin_manifest(copy)
        names = [each for each in (CONFIG, WEIGHTS, CLASSIFIER, GRAPH) if (folder / each).is_file()]
        for name in names:
            if name != GRAPH:  # which has a seal of its own
                verify_file(folder / name)
            shutil.copyfile(folder / name, copy / name)
        renew_manifest(copy, *(name for name in names if name != GRAPH))
        card.save(copy)


def _open_kept_graph(folder: Path, name: str, card: Card, open_file: Callable[[Path], Exported]) -> Exported:
    """Open the graph of a model folder; it is made first if there is none that is whole and of these weights.

    The model's card takes the place of the graph's. A ``FarvoxError`` of no other class says that neither the
    folder nor the cache can be written.
    """
    if reason := why_no_graph(FrontEndConfig.from_dict(read_config(folder)["frontend"])):
        raise ModelError(f"{name}: {reason}")
    source, notes = _source_of(folder), []
    places = (folder / GRAPH, cache_path() / "graphs" / f"{source[:32]}.onnx")

    def open_kept(place: Path) -> Exported | None:
        try:
            exported = open_file(place)
        except ModelError as error:
            notes.append(str(error))
            return None
        exported.card = card
        if exported.metadata.get(SOURCE) == source:
            return exported
        notes.append(f"{place}: not made of the weights that are beside it now")
        return None

    for place in filter(Path.is_file, places):
        if exported := open_kept(place):
            return exported
    require_torch(name)
    from farvox.zoo.export import export_onnx, require_export

    require_export()
    model = load_folder(folder)
    for note in (*notes, f"{name}: writing {GRAPH}, to compute faster than torch; this takes seconds, once"):
        to_stderr(note)
    faults = []
    for place in places:
        try:
            with one_writer(place, wait=True):  # another process may have made it meanwhile
                if place.is_file() and (exported := open_kept(place)):
                    return exported
                export_onnx(model, card, place, extra={SOURCE: source})
        except (ModelError, CheckpointError):
            raise
        except FarvoxError as error:
            faults.append(error)
            continue
        if exported := open_kept(place):
            return exported
    raise faults[0]


def _source_of(folder: Path) -> str:
    """SHA-256 of all that a graph is made of: ``config.json``, the weights, and the version of the writer."""
    found = hashlib.sha256(VERSION)
    for name in (CONFIG, WEIGHTS):
        try:
            found.update(bytes.fromhex(verify_file(folder / name) or sha256_of(folder / name)))
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read: {error.strerror}") from error
    return found.hexdigest()


@writes("out")
def average_models(out: str | Path, models: Sequence[str | Path], weights: Sequence[float] = ()) -> int:
    """Write the mean of some models' weights, running statistics included; returns the number of models.

    Args:
        out: the folder to write.
        models: MODELs, see `find_model`, of one architecture and front-end; ``RUN_DIR@30..37`` stands for
            the epochs 30 to 37 of a run.
        weights: share of each, in any unit; empty: all alike.

    Raises:
        ModelError: there are fewer than two models, one is not there, they differ in architecture or
            front-end, or the weights are not as many positive numbers.
        CheckpointError: the weights of one are damaged.
    """
    require_torch()
    names = [name for spec in models for name in expand_range(str(spec))]
    if len(names) < 2:
        raise ModelError(f"an average needs two models or more, not {len(names)}")
    weights = list(weights) or [1.0] * len(names)
    if len(weights) != len(names) or not all(0 < weight < float("inf") for weight in weights):
        raise ModelError(f"give a positive weight for each of the {len(names)} models, not {weights}")
    refuse_other_model(out, "average", models=names)
    shares = [weight / sum(weights) for weight in weights]
    model = mean_of_models(names, shares)
    save_model(
        out, model.network, model.frontend_config, model.config["model"]["name"],
        model.config["model"]["kwargs"], extra={"average": {"models": names, "weights": shares}},
    )  # fmt: skip
    return len(names)


def mean_of_models(models: Sequence[str | Path], shares: Sequence[float]) -> Model:
    """The first of some models, with the mean of their weights, each with its share of 1.

    Raises:
        ModelError: a model is not there, or they differ in architecture or front-end.
        CheckpointError: the weights of one are damaged.
    """
    import torch

    folders = [find_model(each) for each in models]
    config, *others = (read_config(folder) for folder in folders)
    for folder, other in zip(folders[1:], others, strict=True):
        for part in ("frontend", "model"):
            if other[part] != config[part]:
                raise ModelError(
                    f"{folders[0]} and {folder} cannot be averaged: they differ in '{part}' of config.json: "
                    f"{config[part]} and {other[part]}"
                )
    total: dict[str, Tensor] = {}
    for folder, share in zip(folders, shares, strict=True):
        tensors = read_weights(folder / WEIGHTS)
        if total and total.keys() != tensors.keys():
            name = sorted(total.keys() ^ tensors.keys())[0]
            raise ModelError(f"{folder}: the weights are not those of the other models: '{name}'")
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():  # of counts the largest stays
                total[name] = torch.maximum(total[name], tensor) if name in total else tensor
            elif name in total:
                total[name] += share * tensor.double()
            else:
                total[name] = share * tensor.double()
    model = load_folder(folders[0])
    model.network.load_state_dict(total)
    return model


def expand_range(spec: str) -> list[str]:
    """``RUN_DIR@30..37`` as eight MODELs; anything else as it is.

    Raises:
        ModelError: the range ends before it begins.
    """
    if not (match := _RANGE.fullmatch(spec)):
        return [spec]
    first, last = int(match[2]), int(match[3])
    if last < first:
        raise ModelError(f"{spec}: the range ends before it begins")
    return [f"{match[1]}@{epoch}" for epoch in range(first, last + 1)]
