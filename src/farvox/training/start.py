"""Where a training run starts from: new weights, or a model with its front-end and classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from farvox.errors import RecipeError
from farvox.features.frontend import FrontEndConfig
from farvox.models.base import EmbeddingNetwork
from farvox.models.margin import Head
from farvox.training.checkpoint import load_state
from farvox.training.table import TrainingTable
from farvox.zoo import fill, find_model, read_config, read_weights

_IDLE = "idle "


@dataclass(frozen=True)
class StartingPoint:
    """Front-end, architecture and, when training starts from a model, its weights."""

    frontend: FrontEndConfig
    model_name: str
    model_kwargs: dict[str, Any]
    folder: Path | None = None
    network_state: dict[str, Tensor] | None = None
    old_classes: list[str] = field(default_factory=list)

    def load_network(self, network: EmbeddingNetwork) -> None:
        """Put the model's weights, if there is a model, into ``network``.

        Raises:
            CheckpointError: they do not fit.
        """
        if self.network_state is not None:
            fill(network, self.network_state, f"{self.folder} against [model] of the recipe")

    def classes_for(self, classifier: str, classes: list[str]) -> list[str]:
        """Names of the classifier's rows: those of the data, or the model's own with new ones after them.

        Raises:
            RecipeError: ``keep`` or ``extend`` without a model, or ``keep`` with other speakers.
        """
        if classifier in ("new", "means"):
            return classes
        if not self.old_classes:
            raise RecipeError(
                f"init.classifier = '{classifier}' needs init.model to be a run dir or one of its checkpoints"
            )
        if classifier == "extend":
            known = set(self.old_classes)
            return self.old_classes + [name for name in classes if name not in known]
        if set(_speaking(self.old_classes)) != set(_speaking(classes)):
            raise RecipeError(
                f"init.classifier = 'keep': {self.folder} was trained on {len(self.old_classes)} classes, "
                f"the data dirs have {len(classes)} or others; use 'extend' to add classes or 'new' to start "
                "afresh"
            )
        return self.old_classes

    def load_head(self, head: Head, num_classes: int) -> None:
        """Put the model's classifier into ``head``, built for its classes; extend it to ``num_classes``.

        Raises:
            CheckpointError: it does not fit.
        """
        assert self.folder is not None
        path = self.folder / "classifier.safetensors"
        fill(head, read_weights(path), f"{path} against [head] of the recipe")
        head.extend_classes(num_classes - len(self.old_classes))


def starting_point(model: str, features: Mapping[str, Any], network: Mapping[str, Any]) -> StartingPoint:
    """What the recipe's ``init.model``, ``[features]`` and ``[model]`` come to.

    A model brings its front-end and architecture along; what the recipe says besides must agree.

    Raises:
        RecipeError: the recipe names no architecture, or a front-end other than the model's.
    """
    kwargs = {key: value for key, value in network.items() if key != "name"}
    if not model:
        if "name" not in network:
            raise RecipeError("the recipe names no architecture: set model.name ('farvox models' lists them)")
        frontend = FrontEndConfig.from_dict(dict(features))
        return StartingPoint(frontend, network["name"], {"num_mels": frontend.num_mels, **kwargs})
    folder = find_model(model)
    config = read_config(folder)
    frontend = FrontEndConfig.from_dict(config["frontend"])
    if features and FrontEndConfig.from_dict({**config["frontend"], **features}) != frontend:
        raise RecipeError(
            f"[features] of the recipe differs from the front-end of {folder}: "
            f"{dict(features)} against {config['frontend']}; leave [features] out to take the model's"
        )
    name = config["model"]["name"]
    if network.get("name", name) != name:
        raise RecipeError(f"model.name = '{network['name']}', but {folder} is a '{name}'")
    classes = load_state(folder).classes if (folder / "state.json").exists() else []
    return StartingPoint(
        frontend, name, {**config["model"]["kwargs"], **kwargs}, folder,
        read_weights(folder / "model.safetensors"), classes,
    )  # fmt: skip


def class_names(speakers: Sequence[str], speeds: Sequence[float]) -> list[str]:
    """Names of the classifier's rows, speed by speed; a speaker at a speed other than 1 is one of his own.

    Raises:
        RecipeError: there is no speed, or one twice.
    """
    if not speeds or max(Counter(speeds).values()) > 1:
        raise RecipeError(f"data.speeds = {list(speeds)}: give at least one factor, and none twice")
    return [name if factor == 1 else f"{name}@{factor:g}" for factor in speeds for name in speakers]


def reserved_speakers(dirs: Sequence[str], speakers: Sequence[str]) -> list[str]:
    """Speakers of ``data.reserve`` that are not among ``speakers``: rows wait for them from the start.

    Until data of theirs is trained on, such a row only pushes away; a later run with ``keep`` or
    ``extend`` finds it by its name.

    Raises:
        DataDirError: a dir does not say who speaks.
    """
    if not dirs:
        return []
    known = set(speakers)
    return [name for name in TrainingTable.open(dirs).speaker_names if name not in known]


def idle_names(count: object) -> list[str]:
    """Names of ``head.idle_classes``: rows that no speaker has, which only ever push away.

    Two thirds of the HI-MIA homework's classifier are such rows. The space sets them apart from speakers.

    Raises:
        RecipeError: it is not a count.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise RecipeError(f"head.idle_classes = {count!r}: give a number of classes, 0 or more")
    return [f"{_IDLE}{number}" for number in range(count)]


def _speaking(classes: Sequence[str]) -> list[str]:
    return [name for name in classes if not name.startswith(_IDLE)]
