"""Checkpoints and embeddings that other toolkits saved, read as data and never executed; and the way back.

What is a pickle is read by `farvox.zoo.unpickle`, and written only here. A checkpoint fits a layout when
every weight is accounted for: translated to our name, or dropped by name. Sizes are read off the translated
weights by the ``*_sizes`` function that stands beside each network.

Shape suffixes: E embedding, N row.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farvox.atomic import (
    FileKind,
    atomic_file,
    atomic_update,
    refuse_to_replace,
    refuse_to_replace_foreign,
    sha256_of,
    write_json,
)
from farvox.errors import CheckpointError, DataDirError, ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.manifest import begin_manifest, read_weights, renew_manifest
from farvox.parsing import parse_json
from farvox.writers import writes
from farvox.zoo.model import (
    OF_A_MODEL,
    Model,
    fill,
    load_folder,
    no_larger_than,
    refuse_other_model,
    require_torch,
    write_new_model,
    write_weights,
)
from farvox.zoo.unpickle import read_pickled

if TYPE_CHECKING:
    from torch import Tensor

    from farvox.datadir.embeddings import EmbeddingSet


CLASSIFIER, STATE = "classifier.safetensors", "state.json"
BASELINE_FILES = {
    ".pkl": FileKind("checkpoint as the baseline saves one", rb"PK\x03\x04.{26}[^/]+/data\.pkl.{,200}?model"),
    ".npy": FileKind("embeddings as the baseline saves them", rb"\x93NUMPY.{1,10}\{'descr': '\|O'"),
}
_MOST_WEIGHTS = 10_000
BARE = ""  # the entry for weights that are all a file holds
Renames = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
Weights = Mapping[str, "Tensor"]
_CAMPPLUS: Renames = (
    (r"^head\.", "front."),
    (r"\.shortcut\.", ".downsample."),
    (r"^xvector\.tdnn\.linear\.", "first."),
    (r"^xvector\.tdnn\.nonlinear\.batchnorm\.", "first_norm."),
    (r"^xvector\.out_nonlinear\.batchnorm\.", "norm."),
    (r"^xvector\.dense\.linear\.", "embedding."),
    (r"^xvector\.dense\.nonlinear\.batchnorm\.", "embedding_norm."),
    (r"^xvector\.transit1\.", "blocks.0."),
    (r"^xvector\.transit2\.", "blocks.1."),
    (r"^xvector\.transit3\.", "blocks.2."),
    (r"^(blocks\.\d)\.nonlinear\.batchnorm\.", r"\1.norm."),
    (r"^(blocks\.\d)\.linear\.", r"\1.conv."),
    (r"^xvector\.block1\.", "blocks.0.layers."),
    (r"^xvector\.block2\.", "blocks.1.layers."),
    (r"^xvector\.block3\.", "blocks.2.layers."),
    (r"\.layers\.tdnnd(\d+)\.", lambda match: f".layers.{int(match[1]) - 1}."),
    (r"\.nonlinear([12])\.batchnorm\.", r".norm\1."),
    (r"(\.layers\.\d+)\.linear1\.", r"\1.conv1."),
    (r"\.cam_layer\.linear_local\.", ".conv2."),
    (r"\.cam_layer\.linear1\.", ".mask.squeeze."),
    (r"\.cam_layer\.linear2\.", ".mask.excite."),
)
_LOCAL_ATTENTION = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2"}
_ERES2NETV2: Renames = (
    (r"\.convs\.(\d+)\.", r".chunks.\1.0."),
    (r"\.bns\.(\d+)\.", r".chunks.\1.1."),
    (r"\.(conv|bn)3\.", r".\g<1>2."),
    (r"\.shortcut\.", ".downsample."),
    (r"\.fuse_models\.", ".fusions."),
    (r"^fuse34\.", "fusion."),
    (r"\.local_att\.(\d)\.", lambda match: f".{_LOCAL_ATTENTION[match[1]]}."),
    (r"^layer3_ds\.", "shrink."),
    (r"^seg_1\.", "embedding."),
)
_POOL: Renames = ((r"^pool\.linear1\.", "pool.hidden."), (r"^pool\.linear2\.", "pool.weights."))
_WESPEAKER_RESNET: Renames = (
    (r"^(conv1|bn1|layer\d)\.", r"front.\1."),
    (r"\.shortcut\.", ".downsample."),
    (r"^seg_1\.", "embedding."),
    *_POOL,
)
_WESPEAKER_ECAPA: Renames = (
    (r"^bn2\.", "embedding_norm."),
    (r"^bn\.", "pool_norm."),
    (r"^conv\.", "aggregate."),
    (r"^linear\.", "embedding."),
    (r"^layer1\.", "first."),
    (r"^layer(\d)\.se_res2block\.", lambda match: f"blocks.{int(match[1]) - 2}.layers."),
    (r"\.convs\.(\d+)\.", r".convs.\1.conv."),
    (r"\.bns\.(\d+)\.", r".convs.\1.norm."),
    (r"\.bn\.", ".norm."),
    (r"\.layers\.3\.linear1\.", ".layers.3.squeeze."),
    (r"\.layers\.3\.linear2\.", ".layers.3.excite."),
    *_POOL,
)
_SPEECHBRAIN_ECAPA: Renames = (
    (r"\.(conv|norm)\.\1\.", r".\1."),  # their convolutions and norms are wrapped
    (r"^asp\.tdnn\.conv\.", "pool.hidden."),
    (r"^asp\.tdnn\.norm\.", "pool.hidden_norm."),
    (r"^asp\.conv\.", "pool.weights."),
    (r"^asp_bn\.norm\.", "pool_norm."),
    (r"^mfa\.", "aggregate."),
    (r"^fc\.conv\.", "embedding."),
    (r"^blocks\.0\.(conv|norm)\.", r"first.\1."),
    (r"^blocks\.(\d)\.", lambda match: f"blocks.{int(match[1]) - 1}.layers."),
    (r"\.layers\.tdnn1\.", ".layers.0."),
    (r"\.layers\.res2net_block\.blocks\.", ".layers.1.convs."),
    (r"\.layers\.tdnn2\.", ".layers.2."),
    (r"\.layers\.se_block\.conv1\.conv\.", ".layers.3.squeeze."),
    (r"\.layers\.se_block\.conv2\.conv\.", ".layers.3.excite."),
)
_BOTTLENECK_NETS: dict[tuple[int, ...], str] = {
    (3, 4, 6, 3): "ResNet50", (3, 4, 23, 3): "ResNet101", (3, 8, 36, 3): "ResNet152",
    (6, 16, 48, 3): "ResNet221", (10, 20, 64, 3): "ResNet293",
}  # fmt: skip
_WESPEAKER: dict[str, Any] = {"sample_scale": 32768.0, "window": "hamming"}
_CLASSIFIER = r"projection\."


@writes("out")
def import_checkpoint(
    path: str | Path,
    out: str | Path,
    arch: str,
    *,
    frontend: str | None = None,
    spk2utt: str | Path | None = None,
    epoch: int | None = None,
) -> Model:
    """Turn a checkpoint of another toolkit into a model folder.

    The sizes are read off the weights, the front-end is the toolkit's. The classifier of the FFSVC2022
    baseline goes to ``classifier.safetensors`` beside the model, if there is one; others' are left out. With
    the names of its classes training goes on with it (``init.classifier`` ``keep`` and ``extend``).

    Args:
        path: what the toolkit's ``torch.save`` wrote: weights by name, or a dict with them under ``model``
            (the baseline's ``model_37.pkl``) or ``state_dict``; or a ``.safetensors`` file of the same names.
            It is read as weights and plain values, never executed.
        out: the model folder.
        arch: a key of `LAYOUTS`.
        frontend: the toolkit whose features it was trained on (``3dspeaker``), or their kind
            (``kaldi-fbank``), where the weights of two toolkits cannot be distinguished.
        spk2utt: that of the data dir it was trained on: its speakers, in this order, are the classes.
        epoch: the last one that it was trained for; by default the number in a name like ``model_37.pkl``.

    Raises:
        ModelError: ``arch`` is unknown, or no weights like these go with ``frontend``.
        CheckpointError: the file is damaged, holds code, has other weights than ``arch``, may be of either of
            two toolkits (and ``frontend`` is not given), or its classifier has not as many classes as
            ``spk2utt`` has speakers.
    """
    require_torch()
    from farvox.models.registry import build_model

    if arch not in LAYOUTS:
        raise ModelError(f"unknown architecture '{arch}'; there are {', '.join(LAYOUTS)}")
    path = Path(path)
    refuse_other_model(out, "imported", file=path.name)
    saved = _read(path)
    theirs = _weights_of(saved, LAYOUTS[arch].part)
    arch = _with_frontend(path, arch, frontend, theirs or {})
    layout = LAYOUTS[arch]
    weights = {} if theirs is None or layout.variant(theirs) else layout.translated(theirs)
    kwargs = layout.sizes(weights)
    if not kwargs:
        raise CheckpointError(f"{path}: {_why_not(saved, arch)}")
    with no_larger_than(weights, path):
        network = build_model(layout.model, **kwargs)
    wanted = network.state_dict()
    for name, tensor in weights.items():  # pointwise convolutions as linear layers
        if name in wanted and tensor.ndim == wanted[name].ndim + 1:
            weights[name] = tensor.squeeze(-1)
    counts = {name: count for name, count in wanted.items() if name.endswith("num_batches_tracked")}
    fill(network, {**counts, **weights}, path)

    sha256 = sha256_of(path)
    imported: dict[str, str | int] = {"file": path.name, "arch": arch, "sha256": sha256}
    if epoch is None and (numbered := re.fullmatch(r"model_(\d+)", path.stem)):
        epoch = int(numbered[1])
    if epoch is not None:
        imported["epoch"] = epoch
    classifier = (_weights_of(saved, "classifier") if layout.part else None) or {}
    if "weight" in classifier and (width := classifier["weight"].shape[-1]) != network.embedding_dim:
        raise CheckpointError(
            f"{path}: its classifier is for embeddings of {width} numbers, and its network gives "
            f"{network.embedding_dim}: they are of two models"
        )
    if epoch is not None and epoch < 0:
        raise ModelError(f"epoch {epoch}: epochs are counted from 0")
    classes = [] if spk2utt is None else _classes(path, classifier, Path(spk2utt))
    frontend_config = layout.frontend_config(network.num_mels)
    with atomic_update(out, (OF_A_MODEL | {CLASSIFIER, STATE}).__contains__) as new:
        write_new_model(new, network, frontend_config, layout.model, kwargs, {"imported": imported})
        if classifier:
            write_weights(new / CLASSIFIER, classifier)
        if classes:  # as a checkpoint of a training has them
            write_json(new / STATE, {"epoch": -1 if epoch is None else epoch, "step": 0, "classes": classes})
        renew_manifest(new, *(name for name in (CLASSIFIER, STATE) if (new / name).is_file()))
    return load_folder(Path(out))


@writes("out")
def import_wavlm(path: str | Path, out: str | Path) -> dict[str, Any]:
    """Turn Microsoft's WavLM (``WavLM-Large.pt``) into the folder that ``wavlm`` of a recipe names.

    Args:
        path: the file; it is read as weights and plain values, never executed.
        out: the folder: ``config.json`` and ``model.safetensors``, as the library transformers has them.

    Returns:
        The settings of the checkpoint (``cfg``).

    Raises:
        CheckpointError: the file is damaged, holds code, or is no WavLM that transformers has.
        MissingExtraError: torch or transformers is not installed.
    """
    require_torch()
    from farvox.models import wavlm

    path = Path(path)
    described: object = {}
    with suppress(OSError, ValueError):
        described = parse_json((Path(out) / wavlm.PREPROCESSOR).read_text("utf-8"))
    if not isinstance(described, dict) or list(described) != ["do_normalize"]:  # not by this function
        refuse_other_model(out, "imported", file=path.name)
    saved = _read(path)
    config, theirs = saved.get("cfg"), _weights_of(saved, "model")
    if not isinstance(config, dict) or not theirs:
        raise CheckpointError(
            f"{path}: not Microsoft's WavLM, a dict with 'cfg' and 'model'; it holds {_first(saved)}"
        )
    try:
        content, weights = wavlm.from_microsoft(config, theirs)
    except ModelError as error:
        raise CheckpointError(f"{path}: {error}") from error
    with atomic_update(out, OF_A_MODEL.__contains__) as new:
        begin_manifest(new)
        write_weights(new / wavlm.WEIGHTS, weights)
        write_json(new / wavlm.CONFIG, content)
        write_json(new / wavlm.PREPROCESSOR, {"do_normalize": bool(config.get("normalize", False))})
        renew_manifest(new, wavlm.WEIGHTS, wavlm.CONFIG, wavlm.PREPROCESSOR)
    return config


def _with_frontend(path: Path, arch: str, frontend: str | None, theirs: Weights) -> str:
    """The layout of these weights that goes with a front-end, where two layouts differ in that alone."""
    layout = LAYOUTS[arch]
    fitting = [arch]
    if layout.same_weights_as and not any(
        layout.dropped and re.match(layout.dropped, name) for name in theirs
    ):
        fitting.append(layout.same_weights_as)
    toolkits = " or ".join(f"--frontend {name.partition('-')[0]}" for name in fitting)
    if frontend is None:
        fits = layout.sizes(layout.translated(theirs)) and not layout.variant(theirs)
        if len(fitting) > 1 and fits:
            raise CheckpointError(
                f"{path}: '{fitting[0]}' and '{fitting[1]}' cannot be distinguished: the weights are the "
                f"same, the features are not. Say {toolkits}, whichever trained it"
            )
        return arch
    chosen = [
        name
        for name in fitting
        if frontend in (name.partition("-")[0], LAYOUTS[name].frontend_config(1).kind)
    ]
    if len(chosen) != 1:
        raise ModelError(f"--frontend {frontend}: does not say what '{arch}' was trained on: say {toolkits}")
    return chosen[0]


def _classes(path: Path, classifier: Mapping[str, Tensor], spk2utt: Path) -> list[str]:
    """The names of a classifier's rows: the baseline numbers the speakers by the lines of ``spk2utt``."""
    from farvox.datadir.kaldi import read_table  # with polars, which a device need not have

    if "weight" not in classifier:
        raise CheckpointError(f"{path}: holds no classifier of the FFSVC2022 baseline; leave --spk2utt out")
    speakers: list[str] = read_table(spk2utt)["utt_id"].to_list()
    if len(speakers) != (num_classes := len(classifier["weight"])):
        raise CheckpointError(
            f"{path}: its classifier has {num_classes:,} classes, and {spk2utt} {len(speakers):,} speakers: "
            "give the spk2utt of the data dir that it was trained on"
        )
    return speakers


def export_checkpoint(folder: Path, out: str | Path) -> None:
    """Write a model as the FFSVC2022 baseline saves one (``model_37.pkl``), with its classifier, if any.

    Args:
        folder: a model folder.
        out: the file, ending in ``.pkl``. The baseline loads ``exp/<save_dir>/model_<epoch>.pkl``.

    Raises:
        ModelError: the baseline has no such network, or computes another way with these weights.
        CheckpointError: the weights are damaged.
    """
    require_torch()
    import torch

    if Path(out).suffix != ".pkl":
        raise ModelError(f"{out}: the name of a checkpoint for the baseline must end in '.pkl'")
    refuse_to_replace(out, BASELINE_FILES[".pkl"])
    model = load_folder(folder)
    name, kwargs = model.config["model"]["name"], model.config["model"]["kwargs"]
    if name not in ("ffsvc-resnet34", "ffsvc-ecapa") or model.frontend_config.kind != "ffsvc-mel":
        raise ModelError(
            f"{folder}: a '{name}' on {model.frontend_config.kind}; the baseline has 'ffsvc-resnet34' and "
            "'ffsvc-ecapa' on ffsvc-mel"
        )
    changed = {"pooling": "ffsvc", "unused_branch": True}
    if others := [
        f"{key} = {kwargs[key]!r}" for key in changed if kwargs.get(key, changed[key]) != changed[key]
    ]:
        raise ModelError(f"{folder}: the baseline's network has no {' and no '.join(others)}")
    head = folder / CLASSIFIER
    classifier = read_weights(head) if head.is_file() else {}
    content = io.BytesIO()
    torch.save({"model": model.network.state_dict(), "classifier": classifier}, content)
    with atomic_file(out, BASELINE_FILES[".pkl"]) as unfinished:
        unfinished.write_bytes(content.getbuffer())


def export_embeddings(embeddings: EmbeddingSet, out: str | Path) -> None:
    """Write embeddings as the baseline saves them: ``np.save`` of a dict, utterance -> vector.

    Args:
        embeddings: of any model.
        out: the file, ending in ``.npy``.

    Raises:
        ModelError: it does not.
    """
    if Path(out).suffix != ".npy":
        raise ModelError(f"{out}: the name of embeddings for the baseline must end in '.npy'")
    refuse_to_replace(out, BASELINE_FILES[".npy"])
    rows = np.asarray(embeddings.embeddings, np.float32)
    with atomic_file(out, BASELINE_FILES[".npy"]) as unfinished, unfinished.open("wb") as file:
        np.save(file, np.array(dict(zip(embeddings.utt_ids, rows, strict=True))), allow_pickle=True)


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
        entries: dict[str, Any] = {layout.part: weights for layout in LAYOUTS.values()}  # it has none itself
    else:
        saved = read_pickled(path, "a file of torch.save (.pt, .ckpt, .pkl), nor a .safetensors")
        if not isinstance(saved, dict):
            raise CheckpointError(f"{path}: holds a {type(saved).__name__}, not weights by name")
        entries = {BARE: saved.get("state_dict", saved), **saved}
    if any(isinstance(each, dict) and len(each) > _MOST_WEIGHTS for each in entries.values()):
        raise CheckpointError(f"{path}: holds over {_MOST_WEIGHTS:,} weights, more than any network has")
    return entries


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


@writes("out")
def import_embeddings(path: str | Path, out: str | Path) -> EmbeddingSet:
    """Turn the baseline's embeddings (``np.save`` of a dict: utterance -> vector) into an `EmbeddingSet`.

    Args:
        path: the ``.npy`` file. Its pickle may only rebuild numpy arrays and plain values.
        out: the folder to write.

    Raises:
        CheckpointError: the file is damaged, holds code, or is no such dict.
    """
    from farvox.datadir.embeddings import OWN_FILES, EmbeddingSet  # with polars, which a device need not have

    path = Path(path)
    refuse_to_replace_foreign(out, OWN_FILES)
    with suppress(DataDirError):  # there are none, or damaged ones
        if EmbeddingSet.load(out).meta.get("imported") != path.name:
            raise CheckpointError(
                f"{out}: holds embeddings that were not imported from {path.name}; they are not replaced: "
                "choose another OUT, or remove it first"
            )
    saved = read_pickled(path, "a dict saved by numpy (.npy)")
    if not isinstance(saved, dict) or not saved:
        raise CheckpointError(f"{path}: does not hold a dict of embeddings")
    rows = [np.asarray(row) for row in saved.values()]
    for utt_id, row in zip(saved, rows, strict=True):
        if not isinstance(utt_id, str) or row.dtype.kind != "f" or row.shape != rows[0].shape[:1]:
            raise CheckpointError(
                f"{path}: the embedding of '{utt_id}' is {row.dtype} of shape {row.shape}, "
                f"not {rows[0].shape[:1]} floating-point numbers"
            )
        if not utt_id or re.search(r"\s", utt_id):
            raise CheckpointError(f"{path}: '{utt_id}' is no name of an utterance: it is empty or has blanks")
        if not 0 < float(np.linalg.norm(row.astype(np.float64))) < np.inf:
            raise CheckpointError(f"{path}: the embedding of '{utt_id}' is zero or not finite")
    embeddings = EmbeddingSet(list(saved), np.stack(rows).astype(np.float32), {"imported": path.name})
    embeddings.save(out)
    return embeddings


@dataclass(frozen=True, slots=True)
class Layout:
    """The checkpoint of one network as one toolkit saves it.

    Attributes:
        model: the network's name in `farvox.models.registry.MODELS`.
        frontend: what the toolkit feeds it, but for the number of mels.
        renames: pairs (regular expression, replacement), applied to each name one after the other.
        dropped: regular expression of names that belong to no embedding, such as the classifier's.
        part: the entry of the file that holds the weights; empty where the file is nothing but weights.
        fixed: keyword arguments of the network that no weight tells.
        reshape: a last step on the translated weights, where one of theirs is several of ours.
        takes: which of the toolkit's networks the layout is for, in words.
        foreign_variant: from their weights, which other network of the family they are, in words.
        same_weights_as: the layout of another toolkit that has the same weights and other features; a weight
            that is `dropped` shows that a file is not of that one.
    """

    model: str
    frontend: Mapping[str, Any]
    renames: Renames = ()
    dropped: str = ""
    part: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    reshape: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    takes: str = ""
    foreign_variant: Callable[[Weights], str] | None = None
    same_weights_as: str = ""

    def name(self, theirs: str) -> str | None:
        """Our name of a weight; None for one that is dropped."""
        if self.dropped and re.match(self.dropped, theirs):
            return None
        for pattern, replacement in self.renames:
            theirs = re.sub(pattern, replacement, theirs)
        return theirs

    def translated(self, weights: Weights) -> dict[str, Tensor]:
        """Weights by our names, without those that are dropped; none if no rule says anything of any."""
        ours: dict[str, Tensor] = {}
        for theirs, tensor in weights.items():
            name = self.name(theirs)
            if name is not None:
                ours[f"{name} (twice)" if name in ours else name] = tensor
        if self.renames and ours.keys() <= weights.keys():
            return {}
        return self.reshape(ours) if self.reshape else ours

    def sizes(self, ours: Weights) -> dict[str, Any]:
        """Keyword arguments of the network that the translated weights are of; empty if they are of none."""
        try:
            return {**_size_reader(self.model)(ours), **self.fixed}
        except (KeyError, IndexError, ValueError, ZeroDivisionError):  # absent, or of too few dimensions
            return {}

    def variant(self, theirs: Weights) -> str:
        """The name of a relative of the network that the weights are of; empty if they are of none."""
        try:
            return self.foreign_variant(theirs) if self.foreign_variant else ""
        except (KeyError, IndexError, ValueError, ZeroDivisionError):
            return ""

    def frontend_config(self, num_mels: int) -> FrontEndConfig:
        """The front-end in full."""
        return FrontEndConfig(num_mels=num_mels, **self.frontend)


def _size_reader(model: str) -> Callable[[Weights], dict[str, Any]]:
    from farvox.models import campplus, eres2net, ffsvc, resnet, tdnn

    return {
        "campplus": campplus.campplus_sizes,
        "eres2netv2": eres2net.eres2netv2_sizes,
        "resnet34": resnet.resnet34_sizes,
        "ecapa": tdnn.ecapa_sizes,
        "speechbrain-ecapa": tdnn.speechbrain_ecapa_sizes,
        "ffsvc-resnet34": ffsvc.resnet34_sizes,
        "ffsvc-ecapa": ffsvc.ecapa_sizes,
    }[model]


# ---------------------------------------------------------------- names


def _context_apart(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """An attention over frames with mean and deviation appended, as one over frames and one over the rest."""
    hidden, weights = ours.get("pool.hidden.weight"), ours.get("pool.weights.weight")
    if hidden is None or weights is None or hidden.shape[1] != 3 * weights.shape[0]:
        return ours
    frame, context = hidden[:, : weights.shape[0]], hidden[:, weights.shape[0] :]
    return ours | {"pool.hidden.weight": frame, "pool.context.weight": context}


# ---------------------------------------------------------------- relatives that have no network here


def _wespeaker_resnet_variant(theirs: Weights) -> str:
    channels, num_statistics = theirs["conv1.weight"].shape[0], theirs["seg_1.weight"].shape[1]
    groups = [{name.split(".")[1] for name in theirs if name.startswith(f"layer{i}.")} for i in range(1, 5)]
    blocks = tuple(map(len, groups))
    if "layer1.0.convs.0.weight" in theirs:
        return "a Res2Net or ERes2Net"
    if "layer1.0.conv3.weight" in theirs:
        return f"{_BOTTLENECK_NETS.get(blocks, 'a ResNet')} with blocks of three convolutions (bottlenecks)"
    if "seg_2.weight" in theirs:
        return "a network with two embedding layers (two_emb_layer)"
    if blocks not in ((2, 2, 2, 2), (3, 4, 6, 3)):
        return f"a ResNet with {', '.join(map(str, blocks))} blocks"
    return _relative(theirs, 80, 80 * channels, num_statistics)


def _wespeaker_ecapa_variant(theirs: Weights) -> str:
    num_mels, aggregate = theirs["layer1.conv.weight"].shape[1], theirs["conv.weight"].shape[0]
    return _relative(theirs, num_mels, aggregate, theirs["linear.weight"].shape[1])


def _campplus_variant(theirs: Weights) -> str:
    channels = theirs["xvector.out_nonlinear.batchnorm.weight"].shape[0]
    num_statistics = theirs["xvector.dense.linear.weight"].shape[1]
    if any(name.startswith("xvector.stats.") for name in theirs):
        return "a CAM++ with a pooling that has weights"
    front = theirs["xvector.tdnn.linear.weight"].shape[1] // theirs["head.conv1.weight"].shape[0]
    return _relative(theirs, 8 * front, channels, num_statistics)


def _eres2netv2_variant(theirs: Weights) -> str:
    if "layer1.0.convs.0.weight" in theirs and "layer3_ds.weight" not in theirs:
        return "a Res2Net or ERes2Net (not ERes2NetV2)"
    channels = theirs["layer3_ds.weight"].shape[0]
    if "seg_2.weight" in theirs:
        return "a network with two embedding layers (two_emb_layer)"
    return _relative(theirs, 80, 10 * channels, theirs["seg_1.weight"].shape[1])


def _relative(theirs: Weights, num_mels: int, channels: int, num_statistics: int) -> str:
    """A variant that these networks can have: another front-end, or another pooling of the channels."""
    if any(name.startswith("frontend.") for name in theirs):
        return "a network with a trained front-end (names that begin with 'frontend.')"
    if num_mels != 80:
        return f"a network for features of {num_mels} numbers a frame"
    odd = [name for name in theirs if re.match(r"pool\.(?!linear[12]\.)", name)]
    if odd:
        return f"a network with another pooling (it has the weight '{odd[0]}')"
    if num_statistics != 2 * channels:
        return (
            f"a network with another pooling or other features ({num_statistics} statistics, "
            f"where mean and deviation at 80 mels are {2 * channels})"
        )
    return ""


def _speechbrain_ecapa_variant(theirs: Weights) -> str:
    seen, aggregate = theirs["asp.tdnn.conv.conv.weight"].shape[1], theirs["mfa.conv.conv.weight"].shape[0]
    if any(".shortcut." in name for name in theirs):
        return "an ECAPA-TDNN with blocks of different widths"
    return "an ECAPA-TDNN whose attention has no global context" if seen == aggregate else ""


# ---------------------------------------------------------------- the table

LAYOUTS: dict[str, Layout] = {
    "ffsvc-resnet34": Layout("ffsvc-resnet34", {"kind": "ffsvc-mel"}, part="model"),
    "ffsvc-ecapa": Layout("ffsvc-ecapa", {"kind": "ffsvc-mel"}, part="model"),
    "3dspeaker-campplus": Layout(
        "campplus", {"sample_scale": 1.0}, _CAMPPLUS,
        takes="CAM++ over 80 mels", foreign_variant=_campplus_variant,
    ),
    "3dspeaker-eres2netv2": Layout(
        "eres2netv2", {"sample_scale": 1.0}, _ERES2NETV2,
        takes="ERes2NetV2 over 80 mels with TSTP pooling and one embedding layer",
        foreign_variant=_eres2netv2_variant,
    ),
    "wespeaker-campplus": Layout(
        "campplus", _WESPEAKER, _CAMPPLUS, dropped=_CLASSIFIER, fixed={"pooling": "tstp"},
        takes="CAM++ over 80 mels with TSTP pooling", foreign_variant=_campplus_variant,
        same_weights_as="3dspeaker-campplus",
    ),
    "wespeaker-resnet34": Layout(
        "resnet34", _WESPEAKER, _WESPEAKER_RESNET, dropped=_CLASSIFIER, reshape=_context_apart,
        takes="ResNet18 and ResNet34 over 80 mels with TSTP or ASTP pooling and one embedding layer",
        foreign_variant=_wespeaker_resnet_variant,
    ),
    "wespeaker-ecapa": Layout(
        "ecapa", _WESPEAKER, _WESPEAKER_ECAPA, dropped=_CLASSIFIER, fixed={"summed_inputs": False},
        reshape=_context_apart, takes="ECAPA-TDNN over 80 mels with ASTP or TSTP pooling",
        foreign_variant=_wespeaker_ecapa_variant,
    ),
    "speechbrain-ecapa": Layout(
        "speechbrain-ecapa", {"kind": "speechbrain-fbank"}, _SPEECHBRAIN_ECAPA, reshape=_context_apart,
        takes="ECAPA-TDNN with blocks of one width and global context",
        foreign_variant=_speechbrain_ecapa_variant, same_weights_as="3dspeaker-ecapa",
    ),
    "3dspeaker-ecapa": Layout(
        "speechbrain-ecapa", {"sample_scale": 1.0}, _SPEECHBRAIN_ECAPA, reshape=_context_apart,
        takes="ECAPA-TDNN with blocks of one width and global context",
        foreign_variant=_speechbrain_ecapa_variant,
    ),
}  # fmt: skip
"""The layouts by the names that ``farvox import --arch`` takes."""
