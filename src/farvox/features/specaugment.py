"""SpecAugment (Park et al., 2019): bands of time and of frequency are blanked out during training.

Masks are drawn in the data-loader workers from the example's own random stream (numpy), and applied on the
device to the whole batch at once (torch).

Shape suffixes: B utterance, F frame, M mel, K mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from farvox.errors import UsageError
from farvox.options import AtLeast, AtMost, Options

if TYPE_CHECKING:
    from torch import Tensor

WidthRange = tuple[Annotated[int, AtLeast(0)], int]


@dataclass(frozen=True, kw_only=True)
class SpecAugmentOptions(Options):
    """``[specaugment]``: masks over the features of a training chunk.

    Raises:
        UsageError: a range is upside down.
    """

    kind: Literal["farvox", "ffsvc", "both"] = "farvox"
    """Masks: "farvox" masks time or frequency, half and half; "ffsvc" does so too but with the published
    baseline's frequency limit, which is always 4 whatever mel_width says; "both" masks time and frequency."""
    time_width: WidthRange = (10, 20)
    """Range of the limit of a time mask, in frames."""
    mel_width: WidthRange = (5, 10)
    """Range of the limit of a frequency mask, in mels."""
    num_time: Annotated[int, AtLeast(0), AtMost(1000)] = 1
    """Time masks when time is masked."""
    num_mel: Annotated[int, AtLeast(0), AtMost(1000)] = 1
    """Frequency masks when frequency is masked."""
    probability: Annotated[float, AtLeast(0), AtMost(1)] = 1 / 3
    """Chance that the utterance is masked at all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("time_width", "mel_width"):
            least, greatest = getattr(self, name)
            if least > greatest:
                raise UsageError(f"{name} goes from the least to the greatest, not {[least, greatest]}")


def draw_masks(
    rng: Generator, num_frames: int, num_mels: int, options: SpecAugmentOptions = SpecAugmentOptions()
) -> NDArray[np.int64]:
    """Draw the masks of one utterance.

    A mask has its limit drawn uniformly from the range given (both ends included), its width uniformly
    below that limit, and its start uniformly where it fits, as the baseline does with torchaudio's
    ``TimeMasking(limit)``.

    Returns:
        int64 [K, 4], K = max(num_time, num_mel) whatever was drawn, so that utterances can be stacked; a
        row is (first frame, frames, first mel, mels), and a length of 0 masks nothing.
    """
    masks_K4 = np.zeros((max(options.num_time, options.num_mel), 4), dtype=np.int64)
    if rng.random() >= options.probability:
        return masks_K4
    time_only = options.kind != "both" and rng.random() < 0.5
    if options.kind == "both" or time_only:
        for mask in masks_K4[: options.num_time]:
            mask[:2] = _draw_band(rng, num_frames, options.time_width)
    if not time_only:
        for mask in masks_K4[: options.num_mel]:
            mask[2:] = _draw_band(rng, num_mels, (4, 4) if options.kind == "ffsvc" else options.mel_width)
    return masks_K4


def apply_masks(feats_BFM: Tensor, masks_BK4: Tensor) -> Tensor:
    """A copy of features with the bands that `draw_masks` gave at 0, the mean of mean-normalised features."""
    masks_BK4 = masks_BK4.to(feats_BFM.device, non_blocking=True)
    in_time_BF = _covered(masks_BK4[..., 0], masks_BK4[..., 1], feats_BFM.shape[1])
    in_mel_BM = _covered(masks_BK4[..., 2], masks_BK4[..., 3], feats_BFM.shape[2])
    return feats_BFM.masked_fill(in_time_BF[:, :, None] | in_mel_BM[:, None, :], 0.0)


def _draw_band(rng: Generator, size: int, limits: tuple[int, int]) -> tuple[int, int]:
    limit = min(int(rng.integers(limits[0], limits[1] + 1)), size)
    width = rng.random() * limit
    return int(rng.random() * (size - width)), int(width)


def _covered(start_BK: Tensor, length_BK: Tensor, size: int) -> Tensor:
    """The places, of ``size``, that any of the bands covers: bool [B, size]."""
    import torch

    place = torch.arange(size, device=start_BK.device)
    after_start = place >= start_BK[..., None]
    return (after_start & (place < (start_BK + length_BK)[..., None])).any(dim=1)
