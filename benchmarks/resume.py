"""Going on at step 1,000,000 of a training on a million utterances: the time to the first batch.

The reference of the first row is the first batch of a fresh start, by the same code; ours may take a second
more. That of the second row goes on as loaders do that skip batches by their number: a stock random sampler
with a seed, whose batches before are drawn and left out. It does a share of them, since all take a minute.
All read with two workers but the sampler, which reads nothing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from _bench import Bench, at_most, times
from loader_memory import write_dir
from torch.utils.data import BatchSampler, RandomSampler

from farvox.training.loader import ChunkDataset, load_batches
from farvox.training.table import EpochPlan, StepBatches, TrainingTable

BATCH, STEP, SHARE = 128, 1_000_000, 0.02


def skipped(utterances: int, steps: int) -> Iterator[list[int]]:
    """The batches of a stock sampler, epoch after epoch, without the first ``steps``."""
    generator = torch.Generator().manual_seed(0)
    sampler = BatchSampler(RandomSampler(range(utterances), generator=generator), BATCH, drop_last=True)
    batches = (batch for _ in iter(int, 1) for batch in sampler)
    return islice(batches, steps, None)


def main() -> None:
    bench = Bench(__doc__)
    bench.parser.add_argument("--utterances", type=int, default=1_000_000)
    options = bench.parse()
    utterances = 20_000 if options.quick else options.utterances
    with tempfile.TemporaryDirectory() as name:
        write_dir(Path(name), utterances)
        table = TrainingTable.open([Path(name)])
        dataset = ChunkDataset(table, seed=0, num_samples=32240, speeds=(1.0, 0.9, 1.1))

        def first_batch(step: int) -> float:
            began = time.perf_counter()
            plan = EpochPlan(0, table.speakers_N, BATCH)
            epoch, within = divmod(step, plan.steps_per_epoch)
            with closing(
                load_batches(dataset, StepBatches(plan, epoch, within, epoch + 1), workers=2)
            ) as found:
                next(found)
                return time.perf_counter() - began

        def skip() -> float:
            began = time.perf_counter()
            next(skipped(utterances, int(SHARE * STEP)))
            return (time.perf_counter() - began) / SHARE

        first_batch(0)
        found = [(first_batch(STEP), first_batch(0), skip()) for _ in range(bench.repeats)]
    ours, fresh, skips = (list(column) for column in zip(*found, strict=True))
    where = f"first batch at step {STEP:,} of {utterances:,} utterances"
    bench.record(
        where, ours, fresh, "s", reference_is="the first batch of a fresh start, by the same code",
        target=at_most(statistics.median(fresh) + 1.0),
    )  # fmt: skip
    bench.record(
        f"{where}, against skipping", ours, skips, "s", target=times(10),
        reference_is="a stock sampler whose batches before are drawn and skipped",
    )  # fmt: skip
    bench.finish()


if __name__ == "__main__":
    main()
