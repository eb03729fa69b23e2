"""Options of the networks and of the heads: the keys of ``[model]`` and ``[head]`` of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from farvox.errors import UsageError
from farvox.options import Above, AtLeast, AtMost, Options, Part

Size = Annotated[int, AtLeast(1), AtMost(1_000_000)]
Depth = Annotated[int, AtLeast(1), AtMost(1000)]
Share = Annotated[float, AtLeast(0), AtMost(1)]
PoolingName = Literal["tstp", "stats", "asp", "asp-local"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Options of every network."""

    num_mels: Size = 80
    """Features per frame."""
    embedding_dim: Size = 192
    """Size of the embedding."""
    dropout: Share = 0.0
    """Share of the embedding dropped in training."""


@dataclass(frozen=True, kw_only=True)
class ResNetOptions(ModelOptions):
    """Options of every ResNet."""

    channels: Size = 32
    """Width of the first group; the groups have 1, 2, 4 and 8 times as many."""
    blocks: tuple[Depth, Depth, Depth, Depth] = (3, 4, 6, 3)
    """Blocks in each of the four groups; [3, 4, 6, 3] makes it a ResNet34."""
    embedding_dim: Size = 256


@dataclass(frozen=True, kw_only=True)
class ResNet34Options(ResNetOptions):
    """ResNet34, statistics over time (as in WeSpeaker)."""

    pooling: PoolingName = "tstp"
    """Pooling: "tstp" (temporal statistics), "stats" (the same without a floor of the variance), "asp"
    (attentive statistics) or "asp-local" (WeSpeaker's ASTP, without global context)."""


@dataclass(frozen=True, kw_only=True)
class FfsvcResNet34Options(ResNetOptions):
    """The FFSVC2022 baseline's ResNet34, as published."""

    dropout: Share = 0.5


@dataclass(frozen=True, kw_only=True)
class Res2Options(ModelOptions):
    """Options of every network with Res2 convolutions.

    Raises:
        UsageError: the channels cannot be cut into the chunks.
    """

    channels: Size = 512
    """Width of the convolutions."""
    scale: Annotated[int, AtLeast(2)] = 8
    """Chunks of the Res2 convolutions; divides channels."""
    bottleneck: Size = 128
    """Width of the bottlenecks of squeeze-excitation and attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % self.scale:
            raise UsageError(
                f"channels = {self.channels} cannot be cut into scale = {self.scale} equal chunks"
            )


@dataclass(frozen=True, kw_only=True)
class EcapaBackOptions(Res2Options):
    """The options of ECAPA-TDNN that it also has behind WavLM."""

    aggregate_channels: Size | None = None
    """Width after the aggregation; by default 1536 (the paper's), or three times channels if that is less."""
    pooling: PoolingName = "asp"
    """Pooling: "asp" (attentive, the paper's), "asp-local" (WeSpeaker's without global context), "tstp"
    (temporal statistics) or "stats" (the same without a floor of the variance)."""


@dataclass(frozen=True, kw_only=True)
class EcapaOptions(EcapaBackOptions):
    """ECAPA-TDNN of the paper (Desplanques 2020)."""

    dilations: tuple[Size, ...] = (2, 3, 4)
    """Dilation of each block."""
    summed_inputs: bool = True
    """A block takes the sum of the outputs of all layers before it (the paper's section 3.3), not only the
    last one's (WeSpeaker, SpeechBrain)."""
    embedding_norm: bool = True
    """A batch norm ends the network (the paper's; an option in WeSpeaker)."""


@dataclass(frozen=True, kw_only=True)
class SpeechBrainEcapaOptions(Res2Options):
    """ECAPA-TDNN as SpeechBrain publishes it.

    The defaults are those of ``spkrec-ecapa-voxceleb``.
    """

    channels: Size = 1024
    aggregate_channels: Size | None = None
    """Width after the aggregation; by default three times channels."""
    attention_channels: Size = 128
    """Width of the attention's hidden layer."""


@dataclass(frozen=True, kw_only=True)
class FfsvcEcapaOptions(Res2Options):
    """The FFSVC2022 baseline's ECAPA-TDNN, as published."""

    channels: Size = 1024
    embedding_dim: Size = 256
    pooling: Literal["ffsvc", "mended"] = "ffsvc"
    """Pooling: "ffsvc" as published, or "mended" without the division by the number of frames."""
    unused_branch: bool = True
    """Keep the parameters that the baseline has and never uses."""


@dataclass(frozen=True, kw_only=True)
class XVectorOptions(ModelOptions):
    """x-vector time-delay network (Snyder 2018)."""

    channels: Size = 512
    """Width of the first four layers."""
    pooled_channels: Size = 1500
    """Width of the fifth, over which the statistics are taken."""
    embedding_dim: Size = 512
    pooling: PoolingName = "tstp"
    """Pooling: "tstp" (mean and standard deviation, the paper's), "stats" (the same without a floor of the
    variance), "asp" (attentive) or "asp-local" (the same without global context)."""


@dataclass(frozen=True, kw_only=True)
class CamPlusPlusOptions(ModelOptions):
    """CAM++ (Wang 2023), as in 3D-Speaker."""

    front_channels: Size = 32
    """Width of the two-dimensional convolutions."""
    channels: Size = 128
    """Width of the first time-delay layer, which halves the frame rate."""
    blocks: tuple[Depth, Depth, Depth] = (12, 24, 16)
    """Layers in each of the three dense blocks."""
    growth: Size = 32
    """Channels that each dense layer adds."""
    bottleneck: Annotated[int, AtLeast(2), AtMost(1_000_000)] = 128
    """Channels inside a dense layer."""
    pooling: PoolingName = "stats"
    """Pooling: "stats" (3D-Speaker's), "tstp" (WeSpeaker's, the same but for a floor of the variance), "asp"
    (attentive) or "asp-local" (the same without global context)."""


@dataclass(frozen=True, kw_only=True)
class ERes2NetV2Options(ModelOptions):
    """ERes2NetV2 (Chen 2024), as in 3D-Speaker.

    Raises:
        UsageError: the chunks of the first stage would have no channel.
    """

    channels: Size = 64
    """Width of the first stage; the stages have 1, 2, 4 and 8 times as many."""
    blocks: tuple[Depth, Depth, Depth, Depth] = (3, 4, 6, 3)
    """Blocks in each of the four stages."""
    base_width: Size = 26
    """Channels of each chunk of a block for 64 of the width of its stage."""
    scale: Annotated[int, AtLeast(2), AtMost(1000)] = 2
    """Chunks of a block."""
    expansion: Size = 2
    """Channels that a block gives, in widths of its stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels * self.base_width < 64:
            raise UsageError(
                f"channels = {self.channels} and base_width = {self.base_width} leave a chunk no channel; "
                "their product must be at least 64"
            )


@dataclass(frozen=True, kw_only=True)
class WavlmEcapaOptions(EcapaBackOptions):
    """WavLM, frozen or tuned, and ECAPA-TDNN (front-end: waveform).

    Raises:
        UsageError: the convolutions of a frozen WavLM are to be tuned.
    """

    num_mels: Size = 80
    """Samples per frame of the front-end "waveform"."""
    wavlm: Any = None
    """A new WavLM's sizes as a table (those left out are WavLM Base's); or a pretrained one: a folder with
    config.json and model.safetensors, or ORG/NAME or ORG/NAME@REVISION of huggingface.co."""
    tune: bool = False
    """WavLM is trained along; otherwise it stays as it is, bit by bit, and never drops out."""
    tune_extractor: bool = False
    """Its convolutions are trained too; they hardly ever need to be."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tune_extractor and not self.tune:
            raise UsageError("tune_extractor = true needs tune = true: a frozen WavLM is frozen as a whole")


MODELS: dict[str, type[ModelOptions]] = {
    "resnet34": ResNet34Options,
    "ecapa": EcapaOptions,
    "xvector": XVectorOptions,
    "campplus": CamPlusPlusOptions,
    "eres2netv2": ERes2NetV2Options,
    "speechbrain-ecapa": SpeechBrainEcapaOptions,
    "ffsvc-resnet34": FfsvcResNet34Options,
    "ffsvc-ecapa": FfsvcEcapaOptions,
    "wavlm-ecapa": WavlmEcapaOptions,
}
"""Options of the networks, by the names of the networks."""
MODEL = Part(MODELS)


@dataclass(frozen=True, kw_only=True)
class HeadOptions(Options):
    """Options of every head."""

    margin: Annotated[float, AtLeast(0), AtMost(math.pi)] = 0.2
    """Margin by which the true class is made harder; without effect for "softmax", in radians for "aam"."""
    scale: Annotated[float, Above(0)] = 32.0
    """Length to which the cosines are stretched before the softmax; without effect for "softmax"."""
    idle_classes: Annotated[int, AtLeast(0), AtMost(1_000_000)] = 0
    """Further classes that no speaker has, which only ever push away."""


@dataclass(frozen=True, kw_only=True)
class SoftmaxOptions(HeadOptions):
    """Linear layer, no margin."""


@dataclass(frozen=True, kw_only=True)
class AmOptions(HeadOptions):
    """Additive margin: cos t - m."""


@dataclass(frozen=True, kw_only=True)
class AamOptions(HeadOptions):
    """Additive angular margin: cos(t + m)."""

    easy_margin: bool = False
    """Leave angles beyond a right one as they are. Otherwise cos t - m sin(pi - m) takes the place of
    cos(t + m) where t + m would pass pi."""
    num_subcentres: Size = 1
    """Centres of each class, of which the nearest counts."""


@dataclass(frozen=True, kw_only=True)
class SubcentreAamOptions(AamOptions):
    """Additive angular margin, several centres a speaker."""

    num_subcentres: Size = 3


HEADS: dict[str, type[HeadOptions]] = {
    "softmax": SoftmaxOptions,
    "am": AmOptions,
    "aam": AamOptions,
    "subcentre-aam": SubcentreAamOptions,
}
"""Options of the heads, by the names of the heads."""
HEAD = Part(HEADS, default="aam")
