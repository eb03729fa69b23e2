"""Throughput of an extraction by the Ray engine, as a share of that of the local one; two workers each.

Undisturbed, and without the start of the cluster and of its workers. The recordings are as many as the local
engine does in the minutes that are given. Not part of `make bench`, which it would outlast. The model has
random weights: ECAPA-TDNN of 512 channels. ::

    python benchmarks/engines.py 10
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from farvox.audio.files import write_audio
from farvox.datadir.kaldi import Utterance, write_data_dir
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.pipelines.extract import BATCH, extract
from farvox.progress import to_stderr
from farvox.ray_engine import on_ray
from farvox.zoo import Card, open_embedder, save_model

WORKERS, RATE, SECONDS, FILES = 2, 16000, 5, 64
FIRST = 8 * BATCH
"""Utterances that tell the speed, and with which workers are started and load the model."""


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        paths = [folder / f"{number}.wav" for number in range(FILES)]
        for path in paths:
            write_audio(path, 0.1 * rng.standard_normal(SECONDS * RATE).astype(np.float32))
        network = build_model("ecapa", num_mels=80, channels=512)
        save_model(
            folder / "model", network, FrontEndConfig(num_mels=80), "ecapa", {"num_mels": 80, "channels": 512}
        )
        Card(name="random").save(folder / "model")
        embedder = open_embedder(folder / "model")

        def measure(count: int, engine: str) -> float:
            """Utterances a second."""
            names = [f"{number:07d}" for number in range(count)]
            utterances = [Utterance(each, str(paths[n % FILES]), each) for n, each in enumerate(names)]
            data = write_data_dir(folder / "data", utterances)
            out = folder / f"{engine}-{count}"
            begun = time.monotonic()
            extract(embedder, data, threads=WORKERS, out=out, note=to_stderr)
            return count / (time.monotonic() - begun)

        count = int(1.2 * measure(FIRST, "local") * 60 * minutes) // BATCH * BATCH + BATCH
        found = {"local": measure(count, "local")}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = import_module("ray")
        os.environ["RAY_ADDRESS"] = "local"
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        stack.callback(ray.shutdown)
        stack.enter_context(on_ray())
        measure(FIRST, "ray")
        found["ray"] = measure(count, "ray")
        same = (folder / f"local-{count}/embeddings.npy").read_bytes()
        if same != (folder / f"ray-{count}/embeddings.npy").read_bytes():
            raise SystemExit("the embeddings differ")
    for engine, rate in found.items():
        print(f"{engine}: {count:,} of {SECONDS} s in {count / rate / 60:.2f} min, {rate:.2f} a second")
    print(f"ratio: {found['ray'] / found['local']:.3f}; the same embeddings")


if __name__ == "__main__":
    main()
