"""From what a user calls a model to the model: the folder it lies in, its weights, its card, its embedder."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from farvox.errors import CheckpointError, FarvoxError, MissingExtraError, ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.options import nearest
from farvox.progress import to_stderr
from farvox.zoo.card import Card
from farvox.zoo.embedder import Backend, Embedder
from farvox.zoo.kept_graph import open_kept_graph
from farvox.zoo.model import (
    CONFIG,
    WEIGHTS,
    Model,
    load_folder,
    pick_device,
    read_config,
    require_torch,
    why_no_graph,
)
from farvox.zoo.onnx_backend import ONNX_SUFFIX, OnnxEmbedder
from farvox.zoo.pretrained import pull, zoo_models
from farvox.zoo.torch_backend import TorchEmbedder

if TYPE_CHECKING:
    from farvox.zoo.openvino_backend import OpenvinoEmbedder


def load_model(spec: str | Path, device: str = "cpu") -> Model:
    """Load a model, in evaluation mode.

    Args:
        spec: see `find_model`.
        device: where the weights go, see `farvox.zoo.model.pick_device`.

    Raises:
        ModelError: there is no such model, or its ``config.json`` is not usable.
        CheckpointError: the weights are damaged or do not fit the network.
        MissingExtraError: torch is not installed.
    """
    return load_folder(find_model(spec), device)


def open_embedder(
    spec: str | Path, device: str = "cpu", *, precision: str = "fp32", backend: str = "auto"
) -> Embedder:
    """Open any MODEL: a model folder, a run dir, ``RUN_DIR@37``, a name of the zoo, or an exported ``.onnx``.

    Args:
        spec: the model.
        device: where torch computes; the others compute on the CPU.
        precision: ``fp32``, or ``bf16`` for torch and OpenVINO.
        backend: ``torch``; ``onnx`` or ``openvino``, which compute from the model's graph and make it if need
            be; ``auto``: onnx where it gives the same embeddings sooner, else torch. The environment variable
            ``FARVOX_BACKEND`` takes the place of ``auto``, but for an ``.onnx`` file.

    Raises:
        ModelError: there is no such model, its description is not usable, or the backend cannot run it so.
        CheckpointError: the weights are damaged or do not fit the network.
        MissingExtraError: what computes is not installed.
    """
    is_exported = Path(spec).suffix == ONNX_SUFFIX
    if backend == "auto" and not is_exported:
        backend = os.environ.get("FARVOX_BACKEND") or backend
    if backend not in get_args(Backend):
        raise ModelError(f"backend '{backend}' is unknown; there are {', '.join(get_args(Backend))}")
    if backend == "torch" and is_exported:
        raise ModelError(
            f"{spec}: an exported model, which torch does not run: name what it was exported from"
        )
    if precision != "fp32" and (backend == "onnx" or (is_exported and backend == "auto")):
        raise ModelError(
            f"onnxruntime has no {precision} on a CPU: add --backend openvino, or leave --precision out"
        )

    def open_file(path: Path) -> OnnxEmbedder | OpenvinoEmbedder:
        if backend == "openvino":
            from farvox.zoo.openvino_backend import OpenvinoEmbedder

            return OpenvinoEmbedder(path, precision)
        return OnnxEmbedder(path)

    if is_exported:
        return open_file(Path(spec))
    folder, card = find_model(spec), read_card(spec)
    is_suited = (
        precision == "fp32"
        and importlib.util.find_spec("onnxruntime") is not None
        and not why_no_graph(FrontEndConfig.from_dict(read_config(folder)["frontend"]))
        and (device == "cpu" or (device == "auto" and pick_device(device) == "cpu"))
    )
    if backend in ("onnx", "openvino") or (backend == "auto" and is_suited):
        try:
            return open_kept_graph(folder, str(spec), card, open_file)
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
    return Card.load(find_model(spec))


def find_model(spec: str | Path) -> Path:
    """The model folder that ``spec`` stands for.

    Args:
        spec: a model folder, a run dir (its last complete epoch), ``RUN_DIR@37``, or the name of a model
            of the zoo, which is pulled if need be. What is on disk comes first.

    Raises:
        ModelError: there is none.
    """
    path, epoch = Path(spec), None
    if is_zoo_name(spec):
        return pull(str(spec))
    if path.suffix == ONNX_SUFFIX and path.is_file():
        raise ModelError(
            f"{path}: an exported model, which cannot be trained, exported again or given a card: name the "
            "model that it was exported from"
        )
    if not path.exists() and (match := re.fullmatch(r"(.+)@(\d+)", str(spec))):
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
        for folder in checkpoints.glob("epoch_*")
        if (match := re.fullmatch(r"epoch_(\d+)", folder.name))
        and (folder / CONFIG).is_file()
        and (folder / WEIGHTS).is_file()
    }
