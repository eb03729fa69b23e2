"""The ONNX graph of a model folder, made once and kept: onnxruntime is faster than torch, and sooner ready.

It lies beside the weights, or in the cache where the folder cannot be written. Its metadata hold the SHA-256
of the ``config.json`` and the weights that it was made of; it is never used for others. Only where a graph is
made is torch imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from farvox.cache import cache_path
from farvox.errors import CheckpointError, FarvoxError, ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.progress import to_stderr
from farvox.zoo.card import Card
from farvox.zoo.model import CONFIG, GRAPH, WEIGHTS, load_folder, read_config, require_torch, why_no_graph
from farvox.zoo.onnx_backend import ExportedModel

VERSION = b"1"
"""Version of the graphs; with a new one all that are kept are made again."""
SOURCE = "source"
"""The entry of a kept graph's metadata that holds `source_of` its model folder."""

Exported = TypeVar("Exported", bound=ExportedModel)


def open_kept_graph(folder: Path, name: str, card: Card, open_file: Callable[[Path], Exported]) -> Exported:
    """Open the graph of a model folder; it is made first if there is none that is whole and of these weights.

    Args:
        folder: the model folder.
        name: of the model, as the user knows it.
        card: the model's, which takes the place of the graph's.
        open_file: opens an ``.onnx`` file.

    Raises:
        ModelError: no graph can be made of this model, or its embeddings are not torch's.
        CheckpointError: the weights are damaged.
        MissingExtraError: torch or onnxruntime is not installed.
        FarvoxError: neither the folder nor the cache can be written.
    """
    if reason := why_no_graph(FrontEndConfig.from_dict(read_config(folder)["frontend"])):
        raise ModelError(f"{name}: {reason}")
    source, notes = source_of(folder), []
    places = (folder / GRAPH, cache_path() / "graphs" / f"{source[:32]}.onnx")
    for place in filter(Path.is_file, places):
        try:
            exported = open_file(place)
        except ModelError as error:
            notes.append(str(error))
            continue
        if exported.metadata.get(SOURCE) == source:
            exported.card = card
            return exported
        notes.append(f"{place}: not made of the weights that are beside it now")
    require_torch(name)
    from farvox.zoo.export import export_onnx, require_export

    require_export()
    model = load_folder(folder)
    for note in (*notes, f"{name}: writing {GRAPH}, which is faster than torch; this takes seconds, once"):
        to_stderr(note)
    faults = []
    for place in places:
        try:
            export_onnx(model, card, place, extra={SOURCE: source})
        except (ModelError, CheckpointError):
            raise
        except FarvoxError as error:
            faults.append(error)
            continue
        exported = open_file(place)
        exported.card = card
        return exported
    raise faults[0]


def source_of(folder: Path) -> str:
    """SHA-256 of all that a graph is made of: ``config.json``, the weights, and the version of the writer.

    Raises:
        CheckpointError: one of the files cannot be read.
    """
    found = hashlib.sha256(VERSION)
    for name in (CONFIG, WEIGHTS):
        try:
            with (folder / name).open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read: {error.strerror}") from error
    return found.hexdigest()
