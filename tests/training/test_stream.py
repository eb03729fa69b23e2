"""The stream of training batches is one and the same, wherever it is taken up and whoever reads it."""

import itertools
from contextlib import closing
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farvox.augment import build_augmenter
from farvox.augment.chain import AugmentOptions
from farvox.features.specaugment import SpecAugmentOptions, draw_masks
from farvox.training.loader import ChunkDataset, load_batches
from farvox.training.table import EpochPlan, StepBatches, TrainingTable

BATCH, FIRST_EPOCH, EPOCHS = 8, 3, 2
SAMPLINGS = ("utterance", "speaker")
WEIGHTS = ((), (3.0, 1.0))
WORLDS = (1, 2, 4)
ACCUMULATE = (1, 2)


def masks(rng):
    return draw_masks(rng, 20, 24, SpecAugmentOptions(kind="both", num_mel=2, probability=0.7))


@pytest.fixture(scope="module")
def stream(corpus):
    """A function that reads the global batches of some steps, as ranks and workers share them."""
    table = TrainingTable.open([corpus / "train", corpus / "more"])
    noise = AugmentOptions(kind="farvox", noise=(corpus / "more",), noise_probability=0.5)
    dataset = ChunkDataset(
        table, seed=7, num_samples=3200, speeds=(1.0, 0.9, 1.1), augment=build_augmenter(noise, 16000),
        draw_masks=masks, keep_clean=True,
    )  # fmt: skip

    def read(sampling, weights, *, first=0, count=None, world=1, workers=0, accumulate=1):
        plan = EpochPlan(7, table.speakers_N, BATCH, sampling, table.domains_N, weights)
        epoch, step = divmod(first, plan.steps_per_epoch)
        total = EPOCHS * plan.steps_per_epoch
        steps = range(first, total if count is None else first + count)
        found = [[] for _ in steps]
        for rank in range(world):
            ours = StepBatches(plan, FIRST_EPOCH + epoch, step, FIRST_EPOCH + EPOCHS, rank, world, accumulate)
            assert len(list(ours)) == len(ours) == (total - first) * accumulate
            with closing(load_batches(dataset, ours, workers=workers)) as batches:
                for examples in found:
                    for batch in itertools.islice(batches, accumulate):
                        parts = (batch.labels_B, batch.wav_BT, batch.clean_BT, batch.masks_BK4)
                        for position, label, wav_T, clean_T, masks_K4 in zip(
                            batch.positions, *(part.numpy() for part in parts), strict=True
                        ):
                            drawn_K4 = masks_K4[masks_K4.any(axis=1)]  # the others fill up the batch
                            bits = (wav_T.tobytes(), clean_T.tobytes(), drawn_K4.tobytes())
                            examples.append((position, int(label), *bits))
        return [sorted(examples) for examples in found]

    return cache(read)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_epoch_is_drawn_without_gaps_and_no_two_are_alike(sampling, weights, stream):
    steps = stream(sampling, weights)
    assert len(steps) == 8
    positions = [[position for position, *_ in examples] for examples in steps]
    assert positions == 2 * [list(range(8 * n, 8 * n + 8)) for n in range(4)]
    assert not {wav for step in steps[:4] for _, _, wav, *_ in step} & {
        wav for step in steps[4:] for _, _, wav, *_ in step
    }


def of_a_run(least_workers, most_workers):
    """Sizes and numbers that must not matter, twice: of a run that is ended, and of the one that goes on."""
    one = st.fixed_dictionaries(
        {
            "world": st.sampled_from(WORLDS),
            "workers": st.integers(least_workers, most_workers),
            "accumulate": st.sampled_from(ACCUMULATE),
        }
    )
    return given(
        sampling=st.sampled_from(SAMPLINGS),
        weights=st.sampled_from(WEIGHTS),
        k=st.integers(0, 8),
        before=one,
        after=one,
    )


def assert_first_k_and_rest_are_all(stream, sampling, weights, k, before, after):
    whole = stream(sampling, weights)
    first_k = stream(sampling, weights, count=k, **before)
    rest = stream(sampling, weights, first=k, **after) if k < len(whole) else []
    assert first_k + rest == whole


@of_a_run(0, 0)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_first_k_batches_and_the_rest_are_all_for_any_number_of_ranks(stream, **drawn):
    assert_first_k_and_rest_are_all(stream, **drawn)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
@of_a_run(0, 4)
@settings(max_examples=20)
def test_the_first_k_batches_and_the_rest_are_all_for_any_number_of_workers(stream, **drawn):
    assert_first_k_and_rest_are_all(stream, **drawn)


def test_the_draws_of_a_step_far_into_a_run_need_none_of_those_before():
    """A million utterances, step 1,000,000: one permutation, as for the first step."""
    plan = EpochPlan(0, np.arange(1_000_000) % 7000, 128)
    epoch, step = divmod(1_000_000, plan.steps_per_epoch)
    draws = next(iter(StepBatches(plan, epoch, step, epoch + 1)))
    assert draws == plan.batch(epoch, step) and [d[1] for d in draws] == list(
        range(step * 128, step * 128 + 128)
    )
    assert list(plan._cache) == [epoch]
