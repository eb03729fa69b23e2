"""Networks and heads by name, built with fresh weights."""

from __future__ import annotations

from typing import Any

from farvox.errors import ModelError
from farvox.models.base import EmbeddingNetwork
from farvox.models.campplus import CamPlusPlus
from farvox.models.eres2net import ERes2NetV2
from farvox.models.ffsvc import FfsvcEcapaTdnn, FfsvcResNet34
from farvox.models.margin import AamHead, AmHead, Head, SoftmaxHead
from farvox.models.options import HEAD, MODEL
from farvox.models.resnet import ResNet34
from farvox.models.tdnn import EcapaTdnn, SpeechBrainEcapa, XVector
from farvox.models.wavlm import WavlmEcapa

NETWORKS: dict[str, Any] = {
    "resnet34": ResNet34,
    "ecapa": EcapaTdnn,
    "xvector": XVector,
    "campplus": CamPlusPlus,
    "eres2netv2": ERes2NetV2,
    "speechbrain-ecapa": SpeechBrainEcapa,
    "ffsvc-resnet34": FfsvcResNet34,
    "ffsvc-ecapa": FfsvcEcapaTdnn,
    "wavlm-ecapa": WavlmEcapa,
}
HEAD_TYPES: dict[str, Any] = {"softmax": SoftmaxHead, "am": AmHead, "aam": AamHead, "subcentre-aam": AamHead}


def build_model(name: str, **options: Any) -> EmbeddingNetwork:
    """A network of `farvox.models.options.MODEL` by name, with fresh weights from torch's generator.

    Raises:
        ModelError: unknown name or field (the message has the nearest one), or sizes that do not fit.
    """
    read = MODEL.read({"name": name, **options}, f"model '{name}'", ModelError)
    network: EmbeddingNetwork = NETWORKS[name](read)
    return network


def build_head(name: str, embedding_dim: int, num_classes: int, **options: Any) -> Head:
    """A head of `farvox.models.options.HEAD` by name, with fresh weights from torch's generator.

    Raises:
        ModelError: unknown name or field (the message has the nearest one), or impossible sizes.
    """
    read = HEAD.read({"name": name, **options}, f"head '{name}'", ModelError)
    head: Head = HEAD_TYPES[name](embedding_dim, num_classes, read)
    return head
