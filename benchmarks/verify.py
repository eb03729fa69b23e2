"""CAM++ by onnxruntime, against torch in the same run: cold start, time per utterance, memory.

The weights are those of campplus-zh-en if they are in the cache already, else random ones of the same size. A
cold start is a process of its own, from its beginning to the first embedding; memory is the most it ever had.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from farvox.export import export_onnx
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.zoo import Card, Embedder, TorchEmbedder, load_model, save_model
from farvox.zoo.onnx import OnnxEmbedder
from farvox.zoo.pull import is_pulled
from farvox.zoo.table import zoo_model

NAME = "campplus-zh-en"
COLD = """
import sys
import numpy as np
from farvox.zoo import open_embedder
open_embedder(sys.argv[1]).embed(np.load(sys.argv[2]))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(status["VmHWM"].split()[0])  # ru_maxrss would be that of the process this one was forked from
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model folder, instead of the cached one")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.model or cached_model() or random_model(Path(name, "random"))
        model, path = load_model(folder), Path(name, "campplus.onnx")
        report = export_onnx(model, Card(), path)
        print(
            f"CAM++ ({'random weights' if folder.parent == Path(name) else folder}): exported in "
            f"{report.seconds:.0f} s, {report.num_bytes / 1e6:.1f} MB; embeddings differ from torch's by "
            f"{report.worst.absolute:.1e} at most"
        )
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            for seconds in (3, 10):
                backends: dict[str, Embedder] = {
                    "torch": TorchEmbedder(model),
                    "onnxruntime": OnnxEmbedder(path, threads),
                    "the same, optimised": OnnxEmbedder(path, threads, optimise=True),
                }
                compare_utterance(backends, seconds, threads, options.repeats)
        np.save(wav := Path(name, "wav.npy"), noise(3))
        compare_cold_start({"torch": folder, "onnxruntime": path}, wav, options.repeats)


def cached_model() -> Path | None:
    model = zoo_model(NAME)
    return model.folder if is_pulled(model) else None


def random_model(folder: Path) -> Path:
    torch.manual_seed(0)
    save_model(folder, build_model("campplus"), FrontEndConfig(sample_scale=1.0), "campplus", {})
    return folder


def noise(seconds: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(16000 * seconds, dtype=np.float32)


def compare_utterance(backends: dict[str, Embedder], seconds: int, threads: int, repeats: int) -> None:
    """Best of several, the backends taking turns, so that a disturbance is nobody's alone."""
    wav_T = noise(seconds)
    took = dict.fromkeys(backends, float("inf"))
    for _ in range(repeats):
        for name, embedder in backends.items():
            took[name] = min(took[name], timed(lambda embedder=embedder: embedder.embed(wav_T)))
    print(f"  an utterance of {seconds} s, {threads} thread{'s' * (threads > 1)}")
    for name, best in took.items():
        print(f"    {name:<20} {1000 * best:6.0f} ms, {took['torch'] / best:.1f} times torch's speed")


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare_cold_start(models: dict[str, Path], wav: Path, repeats: int) -> None:
    took = dict.fromkeys(models, float("inf"))
    memory = dict.fromkeys(models, 0)
    for _ in range(repeats):
        for name, path in models.items():
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", COLD, str(path), str(wav)], capture_output=True, text=True, check=True
            )
            took[name] = min(took[name], time.perf_counter() - start)
            memory[name] = int(done.stdout)
    print("  cold start: from the process's beginning to the embedding of 3 s")
    for name, best in took.items():
        print(
            f"    {name:<20} {best:6.2f} s, {took['torch'] / best:.1f} times torch's speed; "
            f"{memory[name] / 1024:.0f} MB of memory"
        )


if __name__ == "__main__":
    main()
