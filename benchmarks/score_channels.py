"""Trials with sides of 16 channels, as many as FFSVC2022 has, against a loop as the homework's.

The embeddings lie on disk as 'farvox extract' leaves them; time counts from there to the written score file.
The loop is timed on a part of the trials and its time per trial multiplied; that part's scores must agree.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from farvox.cli.score import score
from farvox.io.embeddings import EmbeddingSet
from farvox.score.channels import FUSION
from farvox.score.norm import cohort_embeddings, cohort_scores

DIMENSION = 256
RULES = ("sum", *(name for name in FUSION if name != "sum"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=441_600)
    parser.add_argument("--tests", type=int, default=70_000, help="test sides")
    parser.add_argument("--enrolments", type=int, default=4_000)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--looped", type=int, default=2_000, help="trials of the loop")
    parser.add_argument("--rules", nargs="*", default=RULES)
    parser.add_argument("--cohort", type=int, default=6_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make(folder, options, rng)
        embeddings = EmbeddingSet.load(folder / "embeddings")
        pairs = [line.split() for line in (folder / "trials").open()][: options.looped]
        start = time.perf_counter()
        expected = _loop(embeddings, pairs, options.channels)
        loop = (time.perf_counter() - start) / len(pairs) * options.trials
        what = f"{options.trials:,} trials, {options.tests:,} test sides of {options.channels} channels"
        print(f"{what}: a loop takes {loop:.0f} s (from {len(pairs):,} of them)")
        del embeddings
        for rule in options.rules:
            start, used = time.perf_counter(), time.process_time()
            score(folder / "trials", (folder / "embeddings",), folder / "scores", channels=rule)
            took, used = time.perf_counter() - start, time.process_time() - used
            print(
                f"  {rule:<10} {took:5.1f} s ({used:.1f} s of CPU), {loop / took:.1f} times the loop's speed"
            )
            if rule == "sum":
                lines = (line.split() for line in (folder / "scores").open())
                found = [float(words[2]) for words, _ in zip(lines, pairs, strict=False)]
                worst = np.abs(np.array(found) - expected).max()
                assert worst < 1e-6, f"the scores differ by {worst}"
                print(f"             scores agree with the loop's to {worst:.0e}")
    if options.cohort:
        sides_SE = rng.standard_normal((options.tests + options.enrolments, DIMENSION))
        sides_SE /= np.linalg.norm(sides_SE, axis=1, keepdims=True)
        cohort_CE = cohort_embeddings(rng.standard_normal((options.cohort, DIMENSION)))
        for top in (None, 300):
            start, used = time.perf_counter(), time.process_time()
            cohort_scores(sides_SE, cohort_CE, top)
            took, used = time.perf_counter() - start, time.process_time() - used
            kind = "s-norm" if top is None else f"as-norm, top {top}"
            print(
                f"  {kind}: {len(sides_SE):,} sides by {options.cohort:,}: {took:.1f} s ({used:.1f} s of CPU)"
            )
    print(f"  most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB, files included")


def _make(folder: Path, options: argparse.Namespace, rng: np.random.Generator) -> None:
    enrols = [f"SV{n:04}_7_01_N0001" for n in range(options.enrolments)]
    tests = [f"SV{n // 100:04}_2_{{}}_S{n % 100:04}" for n in range(options.tests)]
    channels = [test.format(f"{n:02}") for test in tests for n in range(options.channels)]
    emb_NE = rng.standard_normal((len(enrols) + len(channels), DIMENSION), dtype=np.float32)
    quality = rng.uniform(0, 30, len(emb_NE)).astype(np.float32)
    EmbeddingSet([*enrols, *channels], emb_NE, quality=quality).save(folder / "embeddings")
    sides = zip(
        rng.integers(len(enrols), size=options.trials),
        rng.integers(len(tests), size=options.trials),
        strict=True,
    )
    (folder / "trials").write_text("".join(f"{enrols[e]}.wav {tests[t]}.wav\n" for e, t in sides))


def _loop(embeddings: EmbeddingSet, pairs: list[list[str]], num_channels: int) -> list[float]:
    row = {utt_id: n for n, utt_id in enumerate(embeddings.utt_ids)}
    scores = []
    for enrol, test in pairs:
        one = embeddings.embeddings[row[enrol[:-4]]]
        total = sum(
            embeddings.embeddings[row[test[:-4].replace("{}", f"{n:02}")]] for n in range(num_channels)
        )
        scores.append(float(one @ total / (np.linalg.norm(one) * np.linalg.norm(total))))
    return scores


if __name__ == "__main__":
    main()
