"""A model on disk: ``config.json`` says in full what it is, ``model.safetensors`` holds the weights.

A folder is a model from the moment ``config.json`` is there. ``manifest.json`` has the SHA-256 of both.

Shape suffixes: B utterance, T sample, E embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import farvox
from farvox.atomic import atomic_file, atomic_update, visible, write_json
from farvox.errors import CheckpointError, ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.manifest import (
    MANIFEST,
    begin_manifest,
    note_unchecked,
    read_header,
    read_weights,
    renew_manifest,
    verify_file,
)
from farvox.parsing import parse_json
from farvox.reprs import short_repr
from farvox.writers import writes
from farvox.zoo.card import CARD, Card
from farvox.zoo.embedder import import_extra

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from farvox.models.base import EmbeddingNetwork

FORMAT = "farvox-model/1"
CONFIG, WEIGHTS, GRAPH = "config.json", "model.safetensors", "graph.onnx"
OF_A_MODEL = frozenset((CONFIG, WEIGHTS, GRAPH, CARD, MANIFEST))
"""The files that speak of the weights that they lie beside, and go with them."""


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

    __repr__ = short_repr

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
        """The device of the weights."""
        return next(self.network.parameters()).device

    def embed(self, wav_BT: Tensor) -> Tensor:
        """Embed whole waveforms of one length, in evaluation mode (in which the network is left).

        Samples in [-1, 1] at the front-end's rate, on any device, become emb_BE on the model's, not
        length-normalised.

        Raises:
            AudioError: the utterances are too short for the front-end or the network.
        """
        import torch

        self.network.eval()
        with torch.no_grad():
            emb_BE: Tensor = self.network(self.frontend(wav_BT.to(self.device)))
        return emb_BE


@writes("folder")
def save_model(
    folder: str | Path,
    network: EmbeddingNetwork,
    frontend_config: FrontEndConfig,
    model_name: str,
    model_kwargs: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder; other files that are in it stay, but for the card of the model that was there.

    The arguments are those of `write_new_model`. A model that is there already is replaced at one moment.
    """
    with atomic_update(folder, OF_A_MODEL.__contains__) as new:
        write_new_model(new, network, frontend_config, model_name, model_kwargs, extra)


def write_new_model(
    folder: Path,
    network: EmbeddingNetwork,
    frontend_config: FrontEndConfig,
    model_name: str,
    model_kwargs: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of a model into a new folder.

    Args:
        folder: without a model.
        network: what ``build_model(model_name, **model_kwargs)`` gave, trained.
        frontend_config: the front-end it was trained on.
        model_name: of `farvox.models.registry.MODELS`.
        model_kwargs: it was built with.
        extra: further entries of ``config.json``, where the model comes from for instance.

    Raises:
        ModelError: an entry of ``extra`` has the name of one of the format's own.
    """
    config = {
        "format": FORMAT,
        "farvox_version": farvox.__version__,
        "frontend": frontend_config.to_dict(),
        "model": {"name": model_name, "kwargs": network.kwargs_to_save(model_kwargs)},
        "embedding_dim": network.embedding_dim,
    }
    if clash := sorted(config.keys() & (extra or {}).keys()):
        raise ModelError(f"{folder}: the entry '{clash[0]}' of {CONFIG} is the format's own")
    begin_manifest(folder)
    write_weights(folder / WEIGHTS, network.state_dict())
    write_json(folder / CONFIG, config | dict(extra or {}))
    renew_manifest(folder, WEIGHTS, CONFIG)


def refuse_other_model(out: str | Path, entry: str, **origin: object) -> None:
    """Refuse to write a model folder over one that has another origin, before any work.

    Args:
        out: the folder to write.
        entry: of ``config.json`` that tells where a model comes from: ``imported``, ``average``.
        origin: what that says of a model that is replaced.

    Raises:
        ModelError: it says something else of the one that is there, or nothing.
    """
    path = Path(out) / CONFIG
    if not path.exists():
        return
    known: object = None
    with suppress(OSError, ValueError, AttributeError):
        known = parse_json(path.read_text("utf-8")).get(entry)
    if not isinstance(known, dict) or any(known.get(key) != value for key, value in origin.items()):
        what = ", ".join(f"{key} {value}" for key, value in origin.items())
        raise ModelError(
            f"{out}: holds a model that was not made so ({entry}: {what}), and that is not replaced; choose "
            "another OUT, or remove it first"
        )


def load_folder(folder: Path, device: str = "cpu") -> Model:
    """Load the model of a folder, in evaluation mode. Errors as `farvox.zoo.find.load_model`."""
    require_torch()
    from farvox.features.fbank import build_frontend
    from farvox.models.registry import build_model

    device, config = pick_device(device), read_config(folder)
    frontend_config = FrontEndConfig.from_dict(config["frontend"])
    with one_thread():
        weights = read_weights(folder / WEIGHTS)
        with no_larger_than(weights, folder / CONFIG):
            try:
                network = build_model(config["model"]["name"], **config["model"]["kwargs"])
            except ModelError as error:
                raise ModelError(f"{folder / CONFIG}: {error}") from None
        if network.num_mels != frontend_config.num_mels:
            raise ModelError(
                f"{folder / CONFIG}: the front-end gives {frontend_config.num_mels} mels, "
                f"the network takes {network.num_mels}"
            )
        fill(network, weights, folder / WEIGHTS)
    network.to(device).eval()
    frontend = build_frontend(frontend_config).to(device).eval()
    return Model(network, frontend, config)


def load_all(folder: Path) -> None:
    """Load all that a folder's manifest lists: a model, a checkpoint of a run, or a WavLM for recipes.

    Raises:
        CheckpointError: a file of it is damaged, or the weights do not fit the network.
        ModelError: ``config.json`` or the card is not usable.
        MissingExtraError: the network needs a library that is not installed.
    """
    require_torch()
    from farvox.models.registry import build_model

    tables = {}
    for path in visible(folder, "*.json"):
        try:
            tables[path.name] = parse_json(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from None
    for path in visible(folder, "*.safetensors"):
        read_weights(path)
    if isinstance(config := tables.get(CONFIG), dict) and config.get("model_type") == "wavlm":
        build_model("wavlm-ecapa", wavlm=str(folder))
    else:
        load_folder(folder)
    Card.load(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a model folder's ``config.json``.

    Raises:
        ModelError: it is missing, damaged or not a farvox model's.
        CheckpointError: it is not the one of the folder's manifest.
    """
    path = folder / CONFIG
    if verify_file(path) is None and path.is_file():
        note_unchecked(folder)
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
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


def are_whole(path: Path) -> bool:
    """A safetensors file is there and as long as its header says; the numbers are not looked at."""
    try:
        start, header = read_header(path)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(ends) and start + max(ends) == path.stat().st_size
    except (OSError, ValueError, AttributeError, TypeError, KeyError, IndexError):
        return False


def write_weights(path: str | Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors by name as a safetensors file, whole or not at all."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    with atomic_file(path) as unfinished:  # not save_file, which keeps the file from all but its owner
        unfinished.write_bytes(content)


def fill(network: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights into a network strictly; the message says that they come from ``source``.

    Raises:
        CheckpointError: a weight is missing, unexpected, of another shape or not finite; such are named.
    """
    import torch

    wanted = network.state_dict()
    shared = [name for name in wanted if name in weights]
    faults = {
        "missing": [name for name in wanted if name not in weights],
        "unexpected": [name for name in weights if name not in wanted],
        "of another shape": [
            f"{name} {list(weights[name].shape)} instead of {list(wanted[name].shape)}"
            for name in shared
            if weights[name].shape != wanted[name].shape
        ],
        "not finite": [name for name in shared if not torch.isfinite(weights[name]).all()],
    }
    if any(faults.values()):
        what = "; ".join(f"{kind}: {_listed(names)}" for kind, names in faults.items() if names)
        raise CheckpointError(f"{source}: the weights do not fit {type(network).__name__}: {what}")
    network.load_state_dict(dict(weights))


@contextmanager
def no_larger_than(weights: Mapping[str, Tensor], source: str | Path) -> Iterator[None]:
    """Refuse the network that is built inside if it is far larger than the ``weights`` that it is built for.

    Sizes that a file tells can ask for any amount of memory, which is only taken when weights are drawn.

    Raises:
        CheckpointError: it is, or no network has such sizes.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    numbers = (1 << 20) + 2 * sum(tensor.numel() for tensor in weights.values())
    tensors = 100 + 2 * len(weights)

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal numbers, tensors
        if parameter is not None:
            numbers, tensors = numbers - parameter.numel(), tensors - 1
        if numbers < 0 or tensors < 0:
            raise CheckpointError(f"{source}: a network of such sizes has far more weights than there are")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except (RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{source}: no network has such sizes: {f'{error}'.splitlines()[0]}") from error
    finally:
        hook.remove()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one CPU thread: many small operations only wait for each other on several."""
    import torch

    own_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(own_threads)


def _listed(names: list[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def require_torch(model: str | Path = "MODEL") -> None:
    """Say what to do without torch, which ``model`` needs, if it is not there.

    Raises:
        MissingExtraError: torch is not installed.
    """
    import_extra(
        "torch",
        "models need torch: pip install 'farvox[torch]'; or, to verify without it, run "
        f"'farvox export {model} OUT.onnx' on a machine that has it and give OUT.onnx as MODEL",
    )


def pick_device(device: str) -> str:
    """``auto`` becomes cuda, mps or cpu, whichever is there first.

    Raises:
        ModelError: the device asked for is not there.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name in present if present[name])
    if not present.get(device, False):
        there = ", ".join(name for name in present if present[name])
        raise ModelError(f"device '{device}' is not available here; available: {there}")
    return device


def why_no_graph(config: FrontEndConfig) -> str:
    """The reason why a model with this front-end has no graph; empty if it has one."""
    if config.kind == "waveform":
        return (
            "WavLM cannot be exported: its attention is not written as a graph; use the model folder itself"
        )
    if config.dither:
        return (
            f"the front-end adds noise (dither {config.dither:g}), which no graph draws as torch does; set "
            "'dither' to 0 in the model's config.json, delete its manifest.json and export that"
        )
    return ""
