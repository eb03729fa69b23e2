"""The layouts of other toolkits' checkpoints: one entry a network, its names translated to ours.

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
Weights = Mapping[str, "Tensor"]


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
    from farvox.models import campplus, ffsvc, resnet, tdnn

    return {
        "campplus": campplus.campplus_sizes,
        "resnet34": resnet.resnet34_sizes,
        "ecapa": tdnn.ecapa_sizes,
        "speechbrain-ecapa": tdnn.speechbrain_ecapa_sizes,
        "ffsvc-resnet34": ffsvc.resnet34_sizes,
        "ffsvc-ecapa": ffsvc.ecapa_sizes,
    }[model]


# ---------------------------------------------------------------- names


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
_POOL: Renames = (
    (r"^pool\.linear1\.", "pool.hidden."),
    (r"^pool\.linear2\.", "pool.weights."),
)
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


def _context_apart(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """An attention over frames with mean and deviation appended, as one over frames and one over the rest."""
    hidden, weights = ours.get("pool.hidden.weight"), ours.get("pool.weights.weight")
    if hidden is None or weights is None or hidden.shape[1] != 3 * weights.shape[0]:
        return ours
    frame, context = hidden[:, : weights.shape[0]], hidden[:, weights.shape[0] :]
    return ours | {"pool.hidden.weight": frame, "pool.context.weight": context}


# ---------------------------------------------------------------- relatives that have no network here

_BOTTLENECK_NETS: dict[tuple[int, ...], str] = {
    (3, 4, 6, 3): "ResNet50", (3, 4, 23, 3): "ResNet101", (3, 8, 36, 3): "ResNet152",
    (6, 16, 48, 3): "ResNet221", (10, 20, 64, 3): "ResNet293",
}  # fmt: skip


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

_WESPEAKER: dict[str, Any] = {"sample_scale": 32768.0, "window": "hamming"}
_CLASSIFIER = r"projection\."

LAYOUTS: dict[str, Layout] = {
    "ffsvc-resnet34": Layout("ffsvc-resnet34", {"kind": "ffsvc-mel"}, part="model"),
    "ffsvc-ecapa": Layout("ffsvc-ecapa", {"kind": "ffsvc-mel"}, part="model"),
    "3dspeaker-campplus": Layout(
        "campplus", {"sample_scale": 1.0}, _CAMPPLUS,
        takes="CAM++ over 80 mels", foreign_variant=_campplus_variant,
    ),
    "wespeaker-campplus": Layout(
        "campplus", _WESPEAKER, _CAMPPLUS, dropped=_CLASSIFIER, fixed={"pooling": "tstp"},
        takes="CAM++ over 80 mels with TSTP pooling", foreign_variant=_campplus_variant,
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
        foreign_variant=_speechbrain_ecapa_variant,
    ),
}  # fmt: skip
"""The layouts by the names that ``farvox import --arch`` takes."""
