"""How long a command takes that has next to nothing to do: what is paid before any work.

The reference is a process that only imports what the FFSVC2022 baseline's scoring.py does (torch, scipy, ...;
not torchaudio, which does not load here). ``farvox verify`` is timed with the cached campplus-zh-en, or with
random weights of its size where it was never fetched.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _bench import Bench, at_most

from farvox.audio.files import write_audio
from farvox.datadir.embeddings import EmbeddingSet
from farvox.zoo.pretrained import is_pulled, zoo_model

BASELINE = "import os, argparse, warnings, torch, numpy, scipy.spatial.distance, torch.nn, torch.utils.data"
FARVOX = [sys.executable, "-m", "farvox"]


def main() -> None:
    bench = Bench(__doc__, repeats=5)
    bench.parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        a_task(folder)
        trials, scores = str(folder / "trials"), str(folder / "scores")
        commands = {
            "farvox --help": (["--help"], at_most(0.3)),
            "farvox score, 4 trials": (["score", trials, str(folder / "emb"), "--out", scores], None),
            "farvox evaluate, 4 trials": (["evaluate", trials, scores], None),
            "farvox verify, two recordings of 3 s": (
                ["verify", str(folder / "a.wav"), str(folder / "b.wav"), "--vad", "off", *model(folder)],
                at_most(2.5),
            ),
        }
        for what, (words, target) in commands.items():
            bench.compare(
                what,
                ours=lambda words=words: run([*FARVOX, *words]),
                reference=lambda: run([sys.executable, "-c", BASELINE]),
                reference_is="a process that imports what the baseline's scoring.py does",
                target=target,
                floor=floor(),
                floor_is="python -c pass",
            )
    bench.finish()


def floor() -> float:
    return min(seconds_of([sys.executable, "-c", "pass"]) for _ in range(3))


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    run(command)
    return time.perf_counter() - start


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode > 1:  # 1 is an answer of verify
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")


def a_task(folder: Path) -> None:
    """Two recordings, and four trials of as many embeddings."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_audio(folder / f"{name}.wav", 0.1 * rng.standard_normal(48_000))
    utt_ids = list("abcd")
    EmbeddingSet(utt_ids, rng.standard_normal((4, 192), dtype=np.float32), {}).save(folder / "emb")
    (folder / "trials").write_text("1 a b\n0 a c\n0 b d\n1 c d\n")


def model(folder: Path) -> list[str]:
    """The cached model, which is the default, or random weights."""
    if is_pulled(zoo_model("campplus-zh-en")):
        return []
    from verify import random_model

    return ["--model", str(random_model(folder / "random"))]


if __name__ == "__main__":
    main()
