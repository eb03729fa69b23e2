"""Trained models on disk: save, load, and read what other toolkits saved.

A model is a folder: ``config.json`` says in full what the network and its front-end are,
``model.safetensors`` holds the weights. A folder is a model from the moment ``config.json`` is there,
which is written last. This is the only module that unpickles anything, and it never runs what it reads.

Shape suffixes: B utterance, T sample, E embedding, N row.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pickle
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

import farvox
from farvox.errors import CheckpointError, MissingExtraError, ModelError
from farvox.features.frontend import FrontEndConfig, build_frontend
from farvox.io.atomic import atomic_file, write_json
from farvox.io.embeddings import EmbeddingSet

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from farvox.models.base import EmbeddingNetwork

FORMAT = "farvox-model/1"
CONFIG, WEIGHTS, CLASSIFIER = "config.json", "model.safetensors", "classifier.safetensors"
FOREIGN_CHECKPOINTS = ("ffsvc-resnet34", "ffsvc-ecapa")


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A network with the front-end it was trained on.

    Attributes:
        network: feats_BFM -> emb_BE.
        frontend: wav_BT -> feats_BFM.
        config: the content of ``config.json``.
    """

    network: EmbeddingNetwork
    frontend: nn.Module
    config: dict[str, Any]

    @property
    def frontend_config(self) -> FrontEndConfig:
        """The front-end, in full."""
        return FrontEndConfig.from_dict(self.config["frontend"])

    @property
    def embedding_dim(self) -> int:
        """Numbers per embedding."""
        return self.network.embedding_dim

    @property
    def min_samples(self) -> int:
        """Samples in the shortest utterance that can be embedded."""
        frontend = self.frontend_config
        return max(frontend.min_samples, frontend.num_samples_for(self.network.min_frames))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def embed(self, wav_BT: Tensor) -> Tensor:
        """Embed whole waveforms of one length, in evaluation mode (in which the network is left).

        Args:
            wav_BT: samples in [-1, 1] at the front-end's rate, on any device.

        Returns:
            emb_BE on the model's device, as the network gives them: not length-normalised.

        Raises:
            AudioError: the utterances are too short for the front-end or the network.
        """
        import torch

        self.network.eval()
        with torch.no_grad():
            emb_BE: Tensor = self.network(self.frontend(wav_BT.to(self.device)))
        return emb_BE


def save_model(
    folder: str | Path,
    network: nn.Module,
    frontend_config: FrontEndConfig,
    model_name: str,
    model_kwargs: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder; other files that are in it stay.

    Args:
        folder: made if need be. A model that is there already is replaced.
        network: what ``build_model(model_name, **model_kwargs)`` gave, trained.
        frontend_config: the front-end it was trained on.
        model_name: its name in `farvox.models.registry.MODELS`.
        model_kwargs: the keyword arguments it was built with.
        extra: further entries of ``config.json``, where the model comes from for instance.

    Raises:
        ModelError: an entry of ``extra`` has the name of one of the format's own.
    """
    config = {
        "format": FORMAT,
        "farvox_version": farvox.__version__,
        "frontend": frontend_config.to_dict(),
        "model": {"name": model_name, "kwargs": dict(model_kwargs)},
        "embedding_dim": network.embedding_dim,
    }
    if clash := sorted(config.keys() & (extra or {}).keys()):
        raise ModelError(f"{folder}: the entry '{clash[0]}' of {CONFIG} is the format's own")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    _write_weights(folder / WEIGHTS, network.state_dict())
    write_json(folder / CONFIG, config | dict(extra or {}))


def load_model(spec: str | Path, device: str | torch.device = "cpu") -> Model:
    """Load a model, in evaluation mode.

    Args:
        spec: a model folder, a run dir (its last complete epoch) or ``RUN_DIR@37``.
        device: where the weights go.

    Raises:
        ModelError: there is no such model, or its ``config.json`` is not usable.
        CheckpointError: the weights are damaged or do not fit the network.
        MissingExtraError: torch is not installed.
    """
    require_torch()
    from farvox.models.registry import build_model

    folder = find_model(spec)
    config = _read_config(folder)
    frontend_config = FrontEndConfig.from_dict(config["frontend"])
    network = build_model(config["model"]["name"], **config["model"]["kwargs"])
    if network.num_mels != frontend_config.num_mels:
        raise ModelError(
            f"{folder / CONFIG}: the front-end gives {frontend_config.num_mels} mels, "
            f"the network takes {network.num_mels}"
        )
    _fill(network, _read_weights(folder / WEIGHTS), folder / WEIGHTS)
    try:
        network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from error
    network.eval()
    frontend = build_frontend(frontend_config).to(device).eval()
    return Model(network, frontend, config)


def find_model(spec: str | Path) -> Path:
    """The model folder that ``spec`` (see `load_model`) stands for.

    Raises:
        ModelError: there is none.
    """
    path, epoch = Path(spec), None
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
        raise ModelError(f"no model '{spec}': there is no such folder")
    raise ModelError(
        f"no model in '{path}': neither {CONFIG} (a model folder) "
        f"nor a complete checkpoints/epoch_NNN (a run dir) is in it"
    )


def _complete_epochs(checkpoints: Path) -> dict[int, Path]:
    return {
        int(match[1]): folder
        for folder in checkpoints.glob("epoch_*")
        if (match := re.fullmatch(r"epoch_(\d+)", folder.name))
        and (folder / CONFIG).is_file()
        and (folder / WEIGHTS).is_file()
    }


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ModelError(f"{path}: not the description of a farvox model ('format' is not '{FORMAT}')")
    model = config.get("model")
    if not isinstance(config.get("frontend"), dict) or not isinstance(model, dict):
        raise ModelError(f"{path}: 'frontend' and 'model' must both be there, each with its entries")
    if not isinstance(model.get("name"), str) or not isinstance(model.get("kwargs"), dict):
        raise ModelError(f"{path}: 'model' must have a 'name' and 'kwargs'")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as weights: {error}") from error
    return weights


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with atomic_file(path) as unfinished:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, unfinished)


def _fill(network: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load weights strictly, naming all that does not fit."""
    import torch

    wanted = network.state_dict()
    faults = [f"no '{name}'" for name in wanted if name not in weights]
    faults += [f"unexpected '{name}'" for name in weights if name not in wanted]
    for name in wanted.keys() & weights.keys():
        if wanted[name].shape != weights[name].shape:
            found, expected = tuple(weights[name].shape), tuple(wanted[name].shape)
            faults.append(f"'{name}' has the shape {found}, not {expected}")
        elif not torch.isfinite(weights[name]).all():
            faults.append(f"'{name}' has values that are not finite")
    if faults:
        raise CheckpointError(f"{source}: does not fit {type(network).__name__}: {'; '.join(faults)}")
    network.load_state_dict(dict(weights))


def require_torch() -> None:
    """Say which extra brings torch, if it is not there.

    Raises:
        MissingExtraError: torch is not installed.
    """
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise MissingExtraError("models need torch: pip install 'farvox[torch]'") from error


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
    from farvox.models import ffsvc
    from farvox.models.registry import build_model

    if arch not in FOREIGN_CHECKPOINTS:
        raise ModelError(f"unknown architecture '{arch}': {' or '.join(FOREIGN_CHECKPOINTS)}")
    path = Path(path)
    saved = _read_torch_pickle(path)
    weights = _weights_of(saved, "model", path)
    try:
        kwargs = ffsvc.resnet34_sizes(weights) if arch == "ffsvc-resnet34" else ffsvc.ecapa_sizes(weights)
        network = build_model(arch, **kwargs)
    except (KeyError, IndexError, ModelError):
        kwargs, network = {}, build_model(arch)  # the comparison below then names what is missing
    _fill(network, weights, path)

    frontend_config = FrontEndConfig(kind="ffsvc-mel", num_mels=network.num_mels)
    imported = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    classifier = _weights_of(saved, "classifier", path) if "classifier" in saved else None
    save_model(out, network, frontend_config, arch, kwargs, {"imported": imported})
    if classifier:
        _write_weights(Path(out) / CLASSIFIER, classifier)
    return load_model(out)


def _read_torch_pickle(path: Path) -> dict[str, Any]:
    import torch

    try:
        with torch.serialization.safe_globals([Counter]):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it refers to '{code[1]}', which is code" if code else str(error).splitlines()[0]
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
    if not isinstance(weights, dict) or not all(isinstance(w, torch.Tensor) for w in weights.values()):
        raise CheckpointError(f"{path}: no weights under '{part}'; it holds {', '.join(map(str, saved))}")
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
        {("numpy", "ndarray"), ("numpy", "dtype")}
        | {
            (f"numpy.{core}.multiarray", name)
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")
        }
        | {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
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
