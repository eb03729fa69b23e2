"""Checkpoints and embeddings that other toolkits saved, read as data and never executed.

This is the only module of farvox that unpickles anything.

Shape suffixes: E embedding, N row.
"""

from __future__ import annotations

import hashlib
import importlib
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farvox.errors import CheckpointError, ModelError
from farvox.zoo.layouts import LAYOUTS
from farvox.zoo.model import Model, fill, load_folder, read_weights, require_torch, save_model, write_weights

if TYPE_CHECKING:
    from torch import Tensor

    from farvox.datadir.embeddings import EmbeddingSet

CLASSIFIER = "classifier.safetensors"
BARE = ""  # the entry for weights that are all a file holds


def import_checkpoint(path: str | Path, out: str | Path, arch: str) -> Model:
    """Turn a checkpoint of another toolkit into a model folder.

    The sizes are read off the weights, the front-end is the toolkit's. The classifier of the FFSVC2022
    baseline goes to ``classifier.safetensors`` beside the model, if there is one; others' are left out.

    Args:
        path: what the toolkit's ``torch.save`` wrote: weights by name, or a dict with them under ``model``
            (the baseline's ``model_37.pkl``) or ``state_dict``; or a ``.safetensors`` file of the same names.
            It is read as weights and plain values, never executed.
        out: the model folder.
        arch: a key of `LAYOUTS`.

    Raises:
        ModelError: ``arch`` is unknown.
        CheckpointError: the file is damaged, holds code, or has other weights than ``arch``.
    """
    require_torch()
    from farvox.models.registry import build_model

    if arch not in LAYOUTS:
        raise ModelError(f"unknown architecture '{arch}'; there are {', '.join(LAYOUTS)}")
    path, layout = Path(path), LAYOUTS[arch]
    saved = _read(path)
    theirs = _weights_of(saved, layout.part)
    weights = {} if theirs is None or layout.variant(theirs) else layout.translated(theirs)
    kwargs = layout.sizes(weights)
    if not kwargs:
        raise CheckpointError(f"{path}: {_why_not(saved, arch)}")
    network = build_model(layout.model, **kwargs)
    wanted = network.state_dict()
    for name, tensor in weights.items():  # pointwise convolutions as linear layers
        if name in wanted and tensor.ndim == wanted[name].ndim + 1:
            weights[name] = tensor.squeeze(-1)
    counts = {name: count for name, count in wanted.items() if name.endswith("num_batches_tracked")}
    fill(network, {**counts, **weights}, path)

    imported = {"file": path.name, "arch": arch, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (Path(out) / CLASSIFIER).unlink(missing_ok=True)
    if layout.part and (classifier := _weights_of(saved, "classifier")):
        write_weights(Path(out) / CLASSIFIER, classifier)
    frontend_config = layout.frontend_config(network.num_mels)
    save_model(out, network, frontend_config, layout.model, kwargs, {"imported": imported})
    return load_folder(Path(out))


def _why_not(saved: Mapping[str, Any], arch: str) -> str:
    """A sentence on the content of a file that does not hold the weights of ``arch``."""
    found, relatives = [], []
    for name, layout in LAYOUTS.items():
        theirs = _weights_of(saved, layout.part)
        if theirs is None:
            continue
        if variant := layout.variant(theirs):
            relatives.append(f"{variant}, which farvox does not have; '{name}' takes {layout.takes}")
        elif layout.sizes(layout.translated(theirs)):
            found.append(f"'{name}'")
    if found:
        return f"these are the weights of {' or '.join(found)}, not of '{arch}'"
    if relatives:
        return f"these are the weights of {relatives[0]}"
    if {"model_config", "state_dict"} <= saved.keys():
        return (
            "a dict with 'model_config' and 'state_dict', as ReDimNet is published; "
            f"farvox has no ReDimNet, only {', '.join(LAYOUTS)}"
        )
    part = LAYOUTS[arch].part
    if (weights := _weights_of(saved, part)) is None:
        where = f"no weights under '{part}'" if part else "not a file of weights by name"
        return f"{where}; it holds {_first(name for name in saved if name != BARE)}"
    return f"these are not the weights of '{arch}', nor of another known network; there are {_first(weights)}"


def _first(names: Iterable[Any], most: int = 6) -> str:
    listed = [str(name) for name in names]
    return ", ".join([*listed[:most], *(["..."] if len(listed) > most else [])]) or "nothing"


def _read(path: Path) -> dict[str, Any]:
    """The entries of a file; under `BARE` its weights, if they lie there without being under a name."""
    if path.suffix == ".safetensors":
        weights = read_weights(path)
        return {layout.part: weights for layout in LAYOUTS.values()}  # the format has no entries to lie in
    import torch

    try:
        with torch.serialization.safe_globals([Counter]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to programmers on odd pickles, which end up below
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = (
            f"it refers to '{code[1]}', which is code"
            if code
            else "it is not made of weights and plain values"
        )
        raise CheckpointError(f"{path}: refused, and nothing in it was run: {why}") from error
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        raise CheckpointError(f"{path}: not a torch checkpoint, or a damaged one") from error
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path}: holds a {type(saved).__name__}, not weights by name")
    return {BARE: saved.get("state_dict", saved), **saved}


def _weights_of(saved: Mapping[str, Any], part: str) -> dict[str, Tensor] | None:
    """One state dict of a checkpoint without the prefix that DataParallel adds; None if there is none."""
    import torch

    weights = saved.get(part)
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in weights.items()
    ):
        return None
    prefix = "module." if weights and all(name.startswith("module.") for name in weights) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def import_embeddings(path: str | Path, out: str | Path) -> EmbeddingSet:
    """Turn the baseline's embeddings (``np.save`` of a dict: utterance -> vector) into an `EmbeddingSet`.

    Args:
        path: the ``.npy`` file. Its pickle may only rebuild numpy arrays and plain values.
        out: the folder to write.

    Raises:
        CheckpointError: the file is damaged, holds code, or is no such dict.
    """
    from farvox.datadir.embeddings import EmbeddingSet  # with polars, which a device need not have

    path = Path(path)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, _, dtype = readers[version](file)
            if not dtype.hasobject or shape != ():
                raise ValueError(f"an array of {dtype} and shape {shape}")
            saved = _ArrayUnpickler(file).load().item()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused, and nothing in it was run: {error}") from error
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        raise CheckpointError(f"{path}: not a dict saved by numpy, or a damaged one: {error}") from error
    if not isinstance(saved, dict) or not saved:
        raise CheckpointError(f"{path}: does not hold a dict of embeddings")
    rows = [np.asarray(row) for row in saved.values()]
    for utt_id, row in zip(saved, rows, strict=True):
        if not isinstance(utt_id, str) or row.dtype.kind != "f" or row.shape != rows[0].shape[:1]:
            raise CheckpointError(
                f"{path}: the embedding of '{utt_id}' is {row.dtype} of shape {row.shape}, "
                f"not {rows[0].shape[:1]} floating-point numbers"
            )
    embeddings = EmbeddingSet(list(saved), np.stack(rows).astype(np.float32), {"imported": path.name})
    embeddings.save(out)
    return embeddings


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and plain values, by the names of numpy 1 and 2; refuses all else."""

    _allowed = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.numeric", "_frombuffer"),
            ("numpy._core.numeric", "_frombuffer"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it refers to '{module}.{name}', which is code")
        return getattr(importlib.import_module(module.replace("numpy.core", "numpy._core")), name)
