"""Scoring a million trials, against a loop that calls scipy's cosine for each (as the baseline does).

The loop is timed on a part of the trials and its time per trial multiplied; that part's scores must agree.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cosine

from farvox.metrics.detection import detection_error
from farvox.score.cosine import cosine_scores
from farvox.score.scores import write_scores
from farvox.score.trials import read_trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--looped", type=int, default=20_000, help="trials of the loop")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    num_utterances, looped = 20_000, min(options.looped, options.trials)
    embeddings_NE = rng.standard_normal((num_utterances, 256)).astype(np.float32)
    utt_ids = [f"utt{n:06}" for n in range(num_utterances)]
    sides = rng.integers(num_utterances, size=(options.trials, 2))
    labels = rng.integers(2, size=options.trials)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "trials")
        pairs = zip(labels, sides, strict=True)
        path.write_text("".join(f"{key} {utt_ids[a]} {utt_ids[b]}\n" for key, (a, b) in pairs))

        start = time.perf_counter()
        slow = [1 - cosine(embeddings_NE[a], embeddings_NE[b]) for a, b in sides[:looped]]
        loop = (time.perf_counter() - start) / looped * options.trials
        print(f"{options.trials:,} trials; a loop of scipy's cosine: {loop:.1f} s (from {looped:,} of them)")

        start = time.perf_counter()
        trials = read_trials(path)
        read = time.perf_counter()
        scores = cosine_scores(trials.resolve(utt_ids), embeddings_NE)
        scored = time.perf_counter()
        write_scores(Path(name, "scores"), trials, scores)
        written = time.perf_counter()
        detection_error(scores, labels)
        evaluated = time.perf_counter()
    worst = np.abs(scores[:looped] - slow).max()
    assert worst < 1e-6, f"the scores differ by {worst}"
    for what, took in (
        ("reading the list", read - start),
        ("resolving and scoring", scored - read),
        ("writing the scores", written - scored),
        ("EER and minDCF", evaluated - written),
    ):
        print(f"  {what:<22} {took:6.2f} s")
    print(f"  scoring: {loop / (scored - read):.0f} times as fast as the loop; scores agree to {worst:.0e}")


if __name__ == "__main__":
    main()
