"""Where a training run starts from: new weights, or a model with its front-end and classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from farvox.errors import CheckpointError, RecipeError
from farvox.features.frontend import FrontEndConfig
from farvox.train.checkpoint import load_state, load_tensors
from farvox.zoo import find_model, read_config


@dataclass(frozen=True)
class StartingPoint:
    """Front-end, architecture and, when training starts from a model, its weights."""

    frontend: FrontEndConfig
    model_name: str
    model_kwargs: dict[str, Any]
    folder: Path | None = None
    network_state: dict[str, Tensor] | None = None
    old_classes: list[str] = field(default_factory=list)

    def load_network(self, network: nn.Module) -> None:
        """Put the model's weights into ``network``.

        Raises:
            CheckpointError: they do not fit.
        """
        assert self.network_state is not None
        try:
            network.load_state_dict(self.network_state)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.folder}: its weights do not fit the recipe's [model]: {error}"
            ) from None

    def classes_for(self, classifier: str, classes: list[str]) -> list[str]:
        """Names of the classifier's rows: those of the data, or the model's own with new ones after them.

        Raises:
            RecipeError: ``keep`` or ``extend`` without a model, or ``keep`` with other speakers.
        """
        if classifier == "new":
            return classes
        if not self.old_classes:
            raise RecipeError(
                f"init.classifier = '{classifier}' needs init.model to be a run dir or one of its checkpoints"
            )
        if classifier == "extend":
            known = set(self.old_classes)
            return self.old_classes + [name for name in classes if name not in known]
        if self.old_classes != classes:
            raise RecipeError(
                f"init.classifier = 'keep': {self.folder} was trained on {len(self.old_classes)} classes, the data "
                f"dirs have {len(classes)} or others; use 'extend' to add classes or 'new' to start afresh"
            )
        return classes

    def load_head(self, head: nn.Module, classes: Sequence[str]) -> None:
        """Copy the model's classifier rows to the front of ``head``'s."""
        assert self.folder is not None
        old = load_tensors(self.folder, "classifier.safetensors")
        new = head.state_dict()
        for name, tensor in old.items():
            if name not in new or new[name].shape[1:] != tensor.shape[1:]:
                raise CheckpointError(
                    f"{self.folder}: its classifier does not fit the recipe's [head]: {name}"
                )
            if tensor.dim() and tensor.shape[0] != new[name].shape[0]:
                rows_per_class = tensor.shape[0] // len(self.old_classes)
                new[name][: len(self.old_classes) * rows_per_class] = tensor
            else:
                new[name] = tensor
        with torch.no_grad():
            head.load_state_dict(new)


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
        return StartingPoint(FrontEndConfig.from_dict(dict(features)), network["name"], kwargs)
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
        load_tensors(folder, "model.safetensors"), classes,
    )  # fmt: skip


def class_names(speakers: Sequence[str], speeds: Sequence[float]) -> list[str]:
    """Names of the classifier's rows: every speaker, then every speaker at each further speed."""
    return [name if factor == speeds[0] else f"{name}@{factor:g}" for factor in speeds for name in speakers]
