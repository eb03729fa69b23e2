"""Networks and heads by name: a recipe or a ``config.json`` names one and gives plain keyword arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from farvox.errors import ModelError
from farvox.models.base import EmbeddingNetwork
from farvox.models.campplus import CamPlusPlus
from farvox.models.ecapa import EcapaTdnn, SpeechBrainEcapa
from farvox.models.ffsvc import FfsvcEcapaTdnn, FfsvcResNet34
from farvox.models.margin import AamHead, AmHead, CosineHead, SoftmaxHead, SubcentreAamHead
from farvox.models.resnet import ResNet34
from farvox.models.wavlm import WavlmEcapa
from farvox.models.xvector import XVector

MODELS: dict[str, tuple[type[EmbeddingNetwork], str]] = {
    "resnet34": (ResNet34, "ResNet34, statistics over time (as in WeSpeaker)"),
    "ecapa": (EcapaTdnn, "ECAPA-TDNN of the paper (Desplanques 2020)"),
    "xvector": (XVector, "x-vector time-delay network (Snyder 2018)"),
    "campplus": (CamPlusPlus, "CAM++ (Wang 2023), as in 3D-Speaker"),
    "speechbrain-ecapa": (SpeechBrainEcapa, "ECAPA-TDNN as SpeechBrain publishes it"),
    "ffsvc-resnet34": (FfsvcResNet34, "the FFSVC2022 baseline's ResNet34, as published"),
    "ffsvc-ecapa": (FfsvcEcapaTdnn, "the FFSVC2022 baseline's ECAPA-TDNN, as published"),
    "wavlm-ecapa": (WavlmEcapa, "WavLM, frozen or tuned, and ECAPA-TDNN (front-end: waveform)"),
}

HEADS: dict[str, tuple[type[SoftmaxHead] | type[CosineHead], str]] = {
    "softmax": (SoftmaxHead, "linear layer, no margin"),
    "am": (AmHead, "additive margin: cos t - m"),
    "aam": (AamHead, "additive angular margin: cos(t + m)"),
    "subcentre-aam": (SubcentreAamHead, "additive angular margin, several centres a speaker"),
}


def build_model(name: str, **kwargs: Any) -> EmbeddingNetwork:
    """A network by name, with fresh weights from torch's generator.

    Args:
        name: a key of `MODELS`.
        kwargs: keyword arguments of its class; what is left out takes the class's default.

    Raises:
        ModelError: unknown name or keyword (the message has the nearest one), or sizes that do not fit.
    """
    if name not in MODELS:
        raise ModelError(f"unknown model '{name}'{_nearest(name, MODELS)}")
    network = MODELS[name][0]
    _check_keywords(f"model '{name}'", network, kwargs, given=())
    try:
        return network(**kwargs)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(f"model '{name}' cannot be built with {kwargs}: {error}") from error


def build_head(
    name: str,
    embedding_dim: int,
    num_classes: int,
    margin: float = 0.2,
    scale: float = 32.0,
    **kwargs: Any,
) -> SoftmaxHead | CosineHead:
    """A classification head by name, with fresh weights from torch's generator.

    Args:
        name: a key of `HEADS`.
        embedding_dim: size of the embeddings it will be given.
        num_classes: speakers.
        margin: see `farvox.models.margin`; without effect for ``softmax``.
        scale: likewise.
        kwargs: further keyword arguments of its class (``easy_margin``, ``num_subcentres``).

    Raises:
        ModelError: unknown name or keyword, or impossible sizes.
    """
    if name not in HEADS:
        raise ModelError(f"unknown head '{name}'{_nearest(name, HEADS)}")
    head = HEADS[name][0]
    given = ("embedding_dim", "num_classes", "margin", "scale")
    _check_keywords(f"head '{name}'", head, kwargs, given)
    return head(embedding_dim, num_classes, margin=margin, scale=scale, **kwargs)


def _check_keywords(what: str, cls: type, kwargs: dict[str, Any], given: tuple[str, ...]) -> None:
    known = [key for key in inspect.signature(cls).parameters if key not in given]
    for key in kwargs:
        if key not in known:
            raise ModelError(f"{what} has no parameter '{key}'{_nearest(key, known)}")


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean '{near[0]}'?)" if near else f"; there are: {', '.join(known) or 'none'}"
