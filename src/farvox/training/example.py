"""``[augment]`` and ``[specaugment]`` of a recipe become the functions that change an example."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from farvox.augment.chain import build_augmenter
from farvox.errors import RecipeError
from farvox.features.specaugment import draw_masks
from farvox.rng import rng_for
from farvox.training.dataset import Augment, DrawMasks


def open_augmenter(augment: Mapping[str, Any], sample_rate: int) -> Augment:
    """The augmenter that ``[augment]`` describes; without entries it changes nothing.

    Raises:
        RecipeError: an unknown key (with the nearest name) or a value that cannot be.
    """
    _refuse_unknown(augment, build_augmenter, "augment", given=("sample_rate",))
    try:
        return build_augmenter(**{"kind": "none", **augment}, sample_rate=sample_rate)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"[augment] of the recipe: {error}") from None


def mask_law(
    specaugment: Mapping[str, Any], num_frames: int, num_mels: int, frontend: str = "kaldi-fbank"
) -> DrawMasks | None:
    """The SpecAugment that ``[specaugment]`` describes, given a random stream; None without entries.

    Raises:
        RecipeError: an unknown key (with the nearest name), a value that cannot be, or a front-end without
            mels.
    """
    if not specaugment:
        return None
    if frontend == "waveform":
        raise RecipeError(
            "[specaugment] of the recipe: masks blank bands of mels, and the front-end is a waveform, "
            "which has none; leave [specaugment] out"
        )
    _refuse_unknown(specaugment, draw_masks, "specaugment", given=("rng", "num_frames", "num_mels"))
    law: DrawMasks = partial(draw_masks, num_frames=num_frames, num_mels=num_mels, **specaugment)
    try:
        for position in range(20):
            law(rng_for(0, 0, position))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"[specaugment] of the recipe: {error}") from None
    return law


def _refuse_unknown(
    table: Iterable[str], function: Callable[..., Any], name: str, given: tuple[str, ...]
) -> None:
    """Every key of ``[name]`` must be a parameter of ``function`` that the trainer does not give itself."""
    known = [key for key in inspect.signature(function).parameters if key not in given]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
            raise RecipeError(f"[{name}] of the recipe: unknown key '{key}'; {hint}")
