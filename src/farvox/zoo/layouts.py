"""How other toolkits lay out their checkpoints: one entry a network, its names translated to ours.

A checkpoint fits a layout when every weight is accounted for: translated, or dropped by name. Sizes are read
off the translated weights by the ``*_sizes`` function that stands beside each network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from farvox.features.frontend import FrontEndConfig

if TYPE_CHECKING:
    from torch import Tensor

Renames = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


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
    """

    model: str
    frontend: Mapping[str, Any]
    renames: Renames = ()
    dropped: str = ""
    part: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    reshape: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    def name(self, theirs: str) -> str | None:
        """Our name of a weight; None for one that is dropped."""
        if self.dropped and re.match(self.dropped, theirs):
            return None
        for pattern, replacement in self.renames:
            theirs = re.sub(pattern, replacement, theirs)
        return theirs

    def translated(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights by our names, without those that are dropped."""
        ours = {name: tensor for theirs, tensor in weights.items() if (name := self.name(theirs))}
        return self.reshape(ours) if self.reshape else ours

    def sizes(self, ours: Mapping[str, Tensor]) -> dict[str, Any]:
        """Keyword arguments of the network that the translated weights are of; empty if they are of none."""
        try:
            return {**_size_reader(self.model)(ours), **self.fixed}
        except (KeyError, IndexError, ValueError, ZeroDivisionError):  # absent, or of too few dimensions
            return {}

    def frontend_config(self, num_mels: int) -> FrontEndConfig:
        """The front-end in full."""
        return FrontEndConfig(num_mels=num_mels, **self.frontend)


def _size_reader(model: str) -> Callable[[Mapping[str, Tensor]], dict[str, Any]]:
    from farvox.models import campplus, ffsvc

    return {
        "campplus": campplus.campplus_sizes,
        "ffsvc-resnet34": ffsvc.resnet34_sizes,
        "ffsvc-ecapa": ffsvc.ecapa_sizes,
    }[model]


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
_WESPEAKER = {"sample_scale": 32768.0, "window": "hamming"}
_CLASSIFIER = r"projection\."

LAYOUTS: dict[str, Layout] = {
    "ffsvc-resnet34": Layout("ffsvc-resnet34", {"kind": "ffsvc-mel"}, part="model"),
    "ffsvc-ecapa": Layout("ffsvc-ecapa", {"kind": "ffsvc-mel"}, part="model"),
    "3dspeaker-campplus": Layout("campplus", {"sample_scale": 1.0}, _CAMPPLUS),
    "wespeaker-campplus": Layout(
        "campplus", _WESPEAKER, _CAMPPLUS, dropped=_CLASSIFIER, fixed={"pooling": "tstp"}
    ),
}
"""The layouts by the names that ``farvox import --arch`` takes."""
