"""k-means on embeddings, and how long a sweep over the numbers of clusters takes, extrapolated.

A few Lloyd iterations are timed at two numbers of clusters, with the assignment of all utterances apart.
Times are CPU seconds, summed over threads, so that what else the machine does changes them little.
Against numpy: the assignment of a part of the utterances by a product of matrices and its arg-max.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from farvox.adapt.kmeans import kmeans, nearest

ITERATIONS, PER_CLUSTER = 25, 256


def embeddings(count: int, dimension: int) -> np.ndarray:
    """Unit embeddings of speakers with about 6,900 utterances each, as in the FFSVC2020 supplement."""
    rng = np.random.default_rng(0)
    speakers = rng.standard_normal((max(count // 6864, 2), dimension), dtype=np.float32)
    unit_NE = np.empty((count, dimension), np.float32)
    for start in range(0, count, 65_536):
        block = unit_NE[start : start + 65_536]
        rng.standard_normal(out=block, dtype=np.float32)
        block += speakers[rng.integers(len(speakers), size=len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return unit_NE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=50_000, help="823726 for the FFSVC2020 supplement")
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--clusters", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--timed", type=int, default=10, help="Lloyd iterations that are timed")
    options = parser.parse_args()
    unit_NE = embeddings(options.utterances, options.dimension)
    count = len(unit_NE)
    print(f"{count:,} embeddings of {options.dimension} dimensions")
    kmeans(unit_NE[:2000], 10, iterations=1)  # what is paid once
    for number in options.clusters:
        start = time.process_time()
        found = kmeans(unit_NE, number, iterations=1)
        once = time.process_time() - start
        start = time.process_time()
        kmeans(unit_NE, number, iterations=1 + options.timed)
        iteration = max(time.process_time() - start - once, 0.0) / options.timed
        start = time.process_time()
        labels_N, _ = nearest(unit_NE, found.centres_KE)
        assign = time.process_time() - start
        part = unit_NE[:20_000]
        start = time.process_time()
        by_numpy = (part @ found.centres_KE.T).argmax(axis=1)
        numpy_assign = (time.process_time() - start) / len(part) * count
        assert np.mean(by_numpy == labels_N[: len(part)]) > 0.999
        sample = min(count, PER_CLUSTER * number)
        print(
            f"  K = {number}: {iteration:.2f} s an iteration on {sample:,} utterances, "
            f"{assign:.2f} s to assign all ({numpy_assign / assign:.1f} times as fast as numpy), "
            f"{once + (ITERATIONS - 1) * iteration:.0f} CPU s in all",
            flush=True,
        )
    per_step = max(iteration, 1e-9) / (sample * number)  # seconds a utterance and cluster, at the largest K
    per_assign = assign / (count * number)
    seeding = max(once - iteration - assign, 0) / number**2
    numbers = np.arange(10, 2000, 10, dtype=np.float64)
    steps = ITERATIONS * numbers * np.minimum(count, PER_CLUSTER * numbers)
    total = (per_step * steps + per_assign * count * numbers + seeding * numbers**2).sum()
    whole = (
        ITERATIONS * per_step * count * numbers + per_assign * count * numbers + seeding * numbers**2
    ).sum()
    print(
        f"  extrapolated to K in range(10, 2000, 10), {ITERATIONS} iterations each: {total / 3600:.1f} CPU h "
        f"on {PER_CLUSTER} utterances a cluster, {whole / 3600:.1f} CPU h on all; "
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
    )


if __name__ == "__main__":
    main()
