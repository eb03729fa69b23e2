"""k-means on embeddings, against scikit-learn's algorithm in numpy; with --sweep, how long a sweep takes.

For the sweep a few Lloyd iterations are timed at some numbers of clusters, with the assignment of all
utterances apart. Times are then CPU seconds, summed over threads, so that what else the machine does changes
them little. Against numpy: the assignment of a part by a product of matrices and its arg-max.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from _bench import Bench, at_most, peak_of_products

from farvox.clustering.kmeans import Clustering, kmeans, nearest

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
    bench = Bench(__doc__, repeats=1)
    bench.parser.add_argument(
        "--sweep", type=int, nargs="*", help="numbers of clusters, to extrapolate a sweep from: 100 400"
    )
    bench.parser.add_argument(
        "--utterances", type=int, default=50_000, help="of the sweep; the FFSVC2020 supplement has 823726"
    )
    bench.parser.add_argument("--dimension", type=int, default=256)
    bench.parser.add_argument("--timed", type=int, default=10, help="Lloyd iterations that are timed")
    options = bench.parse()
    if options.sweep is not None:
        sweep(options)
        return
    scale = 20 if options.quick else 1
    for spread in (0.8, 6.0):  # clusters with hardly anyone between them, and clusters that overlap
        against_plain_lloyd(bench, 100_000 // scale, 1_000 // scale, options.dimension, spread)
    bench.finish()


def against_plain_lloyd(bench: Bench, count: int, number: int, dimension: int, spread: float) -> None:
    """20 iterations on all, against greedy k-means++ and Lloyd in numpy, as scikit-learn has them."""
    rng = np.random.default_rng(0)
    speakers = rng.standard_normal((number, dimension), dtype=np.float32)
    unit_NE = speakers[rng.integers(number, size=count)]
    unit_NE += spread * rng.standard_normal(unit_NE.shape, dtype=np.float32)
    unit_NE /= np.linalg.norm(unit_NE, axis=1, keepdims=True)
    part, steps = number // 10, 2  # a tenth of the first centres, and of the 20 iterations

    def plain(centres: int = part, iterations: int = steps) -> float:
        """The sum of the squared distances to the nearest centre."""
        draws, chosen = 2 + int(np.log(number)), [0]
        distance_N = np.maximum(2 - 2 * unit_NE @ unit_NE[0], 0)
        while len(chosen) < centres:
            total = np.cumsum(distance_N, dtype=np.float64)
            tried = np.minimum(np.searchsorted(total, rng.random(draws) * total[-1]), count - 1)
            left = np.minimum(distance_N, np.maximum(2 - 2 * unit_NE[tried] @ unit_NE.T, 0))
            best = int(np.argmin(left.sum(axis=1)))
            chosen.append(int(tried[best]))
            distance_N = left[best]
        centres_KE = unit_NE[np.resize(chosen, number)].copy()
        for _ in range(iterations):
            label_N = np.empty(count, np.int64)
            for first in range(0, count, 8192):
                near = unit_NE[first : first + 8192] @ centres_KE.T
                label_N[first : first + 8192] = (near - 0.5 * (centres_KE**2).sum(1)).argmax(1)
            centres_KE = means(unit_NE, label_N, number)
        return inertia(unit_NE, label_N, centres_KE)

    def ours() -> Clustering:
        return kmeans(unit_NE, number, iterations=20, per_cluster=0)

    found = ours()
    mine = inertia(unit_NE, found.labels_N, means(unit_NE, found.labels_N, len(found.centres_KE)))
    best = plain(number, 20)
    print(f"  inertia {mine:,.1f}, and {best:,.1f} of scikit-learn's algorithm: {mine / best - 1:+.2%}")
    if mine > 1.01 * best:
        raise SystemExit("the inertia is not within 1 %")
    bench.compare(
        f"k-means of 100,000 x 256, k = 1,000, 20 iterations, spread {spread}",
        ours=ours,
        reference=plain,
        reference_share=0.1,
        reference_is="greedy k-means++ on all and Lloyd, scikit-learn's default, in numpy",
        target=at_most(4.0) if spread < 1 else None,
        published=46.64,
        floor=2 * count * number * dimension * 3 / peak_of_products(),
        floor_is="three iterations' products, 154 GFLOP in float32",
        note=f"inertia {mine / best - 1:+.2%}",
    )


def means(unit_NE: np.ndarray, label_N: np.ndarray, number: int) -> np.ndarray:
    order = np.argsort(label_N, kind="stable")
    present, first = np.unique(label_N[order], return_index=True)
    found_KE = unit_NE[:number].copy()
    sums = np.add.reduceat(unit_NE[order], first, axis=0)
    found_KE[present] = sums / np.diff(first, append=len(order))[:, None]
    return found_KE


def inertia(unit_NE: np.ndarray, label_N: np.ndarray, centres_KE: np.ndarray) -> float:
    return float(((unit_NE - centres_KE[label_N]) ** 2).sum(dtype=np.float64))


def sweep(options: argparse.Namespace) -> None:
    unit_NE = embeddings(options.utterances, options.dimension)
    count = len(unit_NE)
    print(f"{count:,} embeddings of {options.dimension} dimensions")
    kmeans(unit_NE[:2000], 10, iterations=1)  # what is paid once
    for number in options.sweep or [100, 400]:
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
