import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.errors import UsageError
from farvox.features.specaugment import SpecAugmentOptions, apply_masks, draw_masks
from farvox.rng import rng_for


def draws(count, **options):
    return [draw_masks(rng_for(3, 0, i), 200, 80, SpecAugmentOptions(**options)) for i in range(count)]


def within_five_sigma(count, total, probability):
    return abs(count - total * probability) < 5 * math.sqrt(total * probability * (1 - probability))


@pytest.mark.parametrize("kind", ["farvox", "ffsvc"])
def test_a_third_of_the_utterances_is_masked_in_time_or_in_frequency(kind):
    masks = np.concatenate(draws(6000, kind=kind, time_width=(100, 100), mel_width=(40, 40)))
    assert not np.any((masks[:, 1] > 0) & (masks[:, 3] > 0))
    # a width is floor(U * limit): 0 once in `limit`
    assert within_five_sigma(np.sum(masks[:, 1] > 0), 6000, 1 / 6 * 99 / 100)
    assert within_five_sigma(np.sum(masks[:, 3] > 0), 6000, 1 / 6 * (3 / 4 if kind == "ffsvc" else 39 / 40))


def test_time_masks_follow_torchaudios_law_with_a_random_limit():
    """TimeMasking(limit) masks floor(U * limit) frames; the baseline draws the limit from 10 to 20."""
    masks = np.concatenate(draws(12000, kind="both", probability=1.0))
    widths = Counter(masks[:, 1].tolist())
    for width in range(20):
        law = sum(1 / limit for limit in range(10, 21) if width < limit) / 11
        assert within_five_sigma(widths[width], 12000, law)
    assert max(widths) == 19
    assert set(masks[:, 3].tolist()) == set(range(10))


def test_the_published_baseline_never_masks_more_than_three_mels():
    masks = np.concatenate(draws(2000, kind="ffsvc", probability=1.0))
    assert set(masks[:, 3].tolist()) == {0, 1, 2, 3}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["farvox", "ffsvc", "both"]),
    num_frames=st.integers(1, 60),
    num_mels=st.integers(1, 20),
    num_time=st.integers(0, 3),
    num_mel=st.integers(1, 3),
    position=st.integers(0, 10**6),
)
def test_masks_stay_inside_and_stack(kind, num_frames, num_mels, num_time, num_mel, position):
    masks_K4 = draw_masks(
        rng_for(1, 0, position), num_frames, num_mels,
        SpecAugmentOptions(kind=kind, num_time=num_time, num_mel=num_mel, probability=1.0),
    )  # fmt: skip
    assert masks_K4.shape == (max(num_time, num_mel), 4)
    assert masks_K4.min() >= 0
    assert np.all(masks_K4[:, 0] + masks_K4[:, 1] <= num_frames)
    assert np.all(masks_K4[:, 2] + masks_K4[:, 3] <= num_mels)


def test_masks_are_set_by_the_stream_alone():
    assert np.array_equal(draws(50), draws(50))


def test_probability_zero_masks_nothing():
    assert not np.any(draws(50, probability=0.0))


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="kind = 'time'; it must be one of farvox, ffsvc, both"):
        SpecAugmentOptions(kind="time")
    with pytest.raises(UsageError, match="time_width goes from the least to the greatest"):
        SpecAugmentOptions(time_width=(20, 10))


def test_masked_bands_are_zero_and_the_rest_is_untouched():
    feats_BFM = torch.randn(7, 50, 20) + 5
    options = SpecAugmentOptions(kind="both", num_time=2, num_mel=3, probability=1.0)
    masks_BK4 = np.stack([draw_masks(rng_for(2, 0, i), 50, 20, options) for i in range(7)])
    expected_BFM = feats_BFM.clone()
    for b, masks_K4 in enumerate(masks_BK4):
        for first_frame, frames, first_mel, mels in masks_K4:
            expected_BFM[b, first_frame : first_frame + frames] = 0
            expected_BFM[b, :, first_mel : first_mel + mels] = 0
    before_BFM = feats_BFM.clone()
    assert torch.equal(apply_masks(feats_BFM, torch.from_numpy(masks_BK4)), expected_BFM)
    assert torch.equal(feats_BFM, before_BFM)


def test_empty_masks_change_nothing():
    feats_BFM = torch.randn(2, 30, 10)
    assert torch.equal(apply_masks(feats_BFM, torch.zeros(2, 1, 4, dtype=torch.int64)), feats_BFM)
