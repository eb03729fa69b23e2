"""Averages of models: the last checkpoints of a run, or fine-tunings of one model (a soup).

"Model soups" (Wortsman et al., 2022): models that were fine-tuned from the same start lie in one valley
of the loss, and their mean is often better than each; averaging the last checkpoints of a run is the
same within one training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farvox.errors import ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.zoo.find import find_model
from farvox.zoo.model import WEIGHTS, load_folder, read_config, read_weights, require_torch, save_model

if TYPE_CHECKING:
    from torch import Tensor

_RANGE = re.compile(r"(.+)@(\d+)\.\.(\d+)")


def average_models(out: str | Path, models: Sequence[str | Path], weights: Sequence[float] = ()) -> int:
    """Write the mean of some models' weights as a model; BatchNorm's running statistics are averaged too.

    Args:
        out: the folder to write.
        models: MODELs, see `find_model`, of one architecture and front-end; ``RUN_DIR@30..37`` stands for
            the epochs 30 to 37 of a run.
        weights: share of each, in any unit; empty: all alike.

    Returns:
        how many models there were.

    Raises:
        ModelError: there are fewer than two models, one is not there, they differ in architecture or
            front-end, or the weights are not as many positive numbers.
        CheckpointError: the weights of one are damaged.
    """
    require_torch()
    import torch

    names = [name for spec in models for name in expand_range(str(spec))]
    if len(names) < 2:
        raise ModelError(f"an average needs two models or more, not {len(names)}")
    weights = list(weights) or [1.0] * len(names)
    if len(weights) != len(names) or not all(0 < weight < float("inf") for weight in weights):
        raise ModelError(f"give a positive weight for each of the {len(names)} models, not {weights}")
    shares = [weight / sum(weights) for weight in weights]
    folders = [find_model(name) for name in names]
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
    save_model(
        out, model.network, FrontEndConfig.from_dict(config["frontend"]), config["model"]["name"],
        config["model"]["kwargs"], extra={"average": {"models": names, "weights": shares}},
    )  # fmt: skip
    return len(names)


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
