"""Trials with sides of 16 channels, as many as FFSVC2022 has, against a loop as the homework's.

The embeddings lie on disk as 'farvox extract' leaves them; time counts from there to the written score file.
The loop is timed on a part of the trials and its time per trial multiplied; that part's scores must agree.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

import numpy as np
from _bench import Bench

from farvox.datadir.embeddings import EmbeddingSet
from farvox.pipelines.score import ScoreOptions, score
from farvox.score.channels import RULES

DIMENSION = 256


def main() -> None:
    bench = Bench(__doc__, repeats=1)
    bench.parser.add_argument("--trials", type=int, default=441_600)
    bench.parser.add_argument("--tests", type=int, default=70_000, help="test sides")
    bench.parser.add_argument("--enrolments", type=int, default=4_000)
    bench.parser.add_argument("--channels", type=int, default=16)
    bench.parser.add_argument("--looped", type=int, default=2_000, help="trials of the loop")
    bench.parser.add_argument(
        "--rules", nargs="*", default=["sum", "mean-norm"], help=f"of {', '.join(RULES)}"
    )
    options = bench.parse()
    if options.quick:
        options.trials, options.tests, options.enrolments = 10_000, 1_000, 100
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make(folder, options, rng)
        embeddings = EmbeddingSet.load(folder / "embeddings")
        pairs = [line.split() for line in (folder / "trials").open()][: options.looped]
        expected = _loop(embeddings, pairs, options.channels)
        for rule in options.rules:
            bench.compare(
                f"441,600 trials with sides of 16 channels, rule {rule}",
                ours=lambda rule=rule: score(
                    folder / "trials",
                    [folder / "embeddings"],
                    ScoreOptions(channels=rule),
                    out=folder / "scores",
                ),
                reference=lambda: _loop(embeddings, pairs, options.channels),
                reference_share=len(pairs) / options.trials,
                reference_is="a loop over the trials and their channels, as the homework's",
                warm=False,
            )
            if rule == "sum":
                lines = (line.split() for line in (folder / "scores").open())
                found = [float(words[2]) for words, _ in zip(lines, pairs, strict=False)]
                worst = np.abs(np.array(found) - expected).max()
                assert worst < 1e-6, f"the scores differ by {worst}"
    print(f"  most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB, files included")
    bench.finish()


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
