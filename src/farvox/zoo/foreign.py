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
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from farvox.errors import CheckpointError, ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.io.embeddings import EmbeddingSet
from farvox.zoo.model import Model, fill, load_model, require_torch, save_model, write_weights

if TYPE_CHECKING:
    from torch import Tensor

CLASSIFIER = "classifier.safetensors"
FOREIGN_CHECKPOINTS = ("ffsvc-resnet34", "ffsvc-ecapa")


def import_checkpoint(path: str | Path, out: str | Path, arch: str) -> Model:
    """Turn a checkpoint of the FFSVC2022 baseline (``model_37.pkl``) into a model folder.

    The sizes are read off the weights, the front-end is the baseline's. The classifier goes to
    ``classifier.safetensors`` beside the model, if there is one.

    Args:
        path: what the baseline's ``torch.save`` wrote: a dict with ``model`` and maybe ``classifier``,
            ``optimizer`` and ``scheduler``. It is read as weights and plain values, never executed.
        out: the model folder.
        arch: one of `FOREIGN_CHECKPOINTS`.

    Raises:
        ModelError: ``arch`` is unknown.
        CheckpointError: the file is damaged, holds code, or has other weights than ``arch``.
    """
    require_torch()
    from farvox.models.registry import build_model

    if arch not in FOREIGN_CHECKPOINTS:
        raise ModelError(f"unknown architecture '{arch}': {' or '.join(FOREIGN_CHECKPOINTS)}")
    path = Path(path)
    saved = _read_torch_pickle(path)
    weights = _weights_of(saved, "model", path)
    for other in set(FOREIGN_CHECKPOINTS) - {arch}:
        if _sizes(other, weights):
            raise CheckpointError(f"{path}: these are the weights of '{other}', not of '{arch}'")
    kwargs = _sizes(arch, weights)
    network = build_model(arch, **kwargs)
    fill(network, weights, path)

    frontend_config = FrontEndConfig(kind="ffsvc-mel", num_mels=network.num_mels)
    imported = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (Path(out) / CLASSIFIER).unlink(missing_ok=True)
    if "classifier" in saved:
        write_weights(Path(out) / CLASSIFIER, _weights_of(saved, "classifier", path))
    save_model(out, network, frontend_config, arch, kwargs, {"imported": imported})
    return load_model(out)


def _sizes(arch: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keyword arguments of the network the weights are of; empty if they are not of ``arch``."""
    from farvox.models import ffsvc

    try:
        return ffsvc.resnet34_sizes(weights) if arch == "ffsvc-resnet34" else ffsvc.ecapa_sizes(weights)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):  # absent, or of too few dimensions
        return {}


def _read_torch_pickle(path: Path) -> dict[str, Any]:
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
        raise CheckpointError(f"{path}: holds a {type(saved).__name__}, not a dict with 'model'")
    return saved


def _weights_of(saved: Mapping[str, Any], part: str, path: Path) -> dict[str, Tensor]:
    """One state dict of a checkpoint, without the prefix that DataParallel adds."""
    import torch

    weights = saved.get(part)
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in weights.items()
    ):
        held = ", ".join([*map(str, list(saved)[:6]), *(["..."] if len(saved) > 6 else [])])
        raise CheckpointError(f"{path}: no weights under '{part}'; it holds {held}")
    prefix = "module." if all(name.startswith("module.") for name in weights) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def import_embeddings(path: str | Path, out: str | Path) -> EmbeddingSet:
    """Turn the baseline's embeddings (``np.save`` of a dict: utterance -> vector) into an `EmbeddingSet`.

    Args:
        path: the ``.npy`` file. Its pickle may only rebuild numpy arrays and plain values.
        out: the folder to write.

    Raises:
        CheckpointError: the file is damaged, holds code, or is no such dict.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            saved = _read_object_array(file)
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


def _read_object_array(file: IO[bytes]) -> Any:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
    if not dtype.hasobject or shape != ():
        raise ValueError(f"an array of {dtype} and shape {shape}")
    return _ArrayUnpickler(file).load().item()
