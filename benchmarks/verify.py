"""CAM++ by onnxruntime, against torch in the same run: cold start, time per utterance, memory.

The weights are those of campplus-zh-en if they are in the cache already, else random ones of the same size. A
cold start is a process of its own, from its beginning to the first embedding; memory is the most it ever had.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from _bench import Bench

from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.zoo import Card, Embedder, TorchEmbedder, load_model, save_model
from farvox.zoo.export import export_onnx
from farvox.zoo.onnx_backend import OnnxEmbedder
from farvox.zoo.pretrained import is_pulled, zoo_model

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
    bench = Bench(__doc__, repeats=10)
    bench.parser.add_argument("--model", type=Path, help="a model folder, instead of the cached one")
    options = bench.parse()
    with tempfile.TemporaryDirectory() as name:
        folder = options.model or cached_model() or random_model(Path(name, "random"))
        model, path = load_model(folder), Path(name, "campplus.onnx")
        report = export_onnx(model, Card(), path)
        print(
            f"CAM++ ({'random weights' if folder.parent == Path(name) else folder}): exported in "
            f"{report.num_bytes / 1e6:.1f} MB; embeddings differ from torch's by "
            f"{report.worst.absolute:.1e} at most"
        )
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            for seconds in (3, 10):
                backends: dict[str, Embedder] = {
                    "torch": TorchEmbedder(model),
                    "onnxruntime": OnnxEmbedder(path, threads),
                }
                compare_utterance(bench, backends, seconds, threads)
        np.save(wav := Path(name, "wav.npy"), noise(3))
        compare_cold_start(bench, {"torch": folder, "onnxruntime": path}, wav)
    bench.finish()


def cached_model() -> Path | None:
    model = zoo_model(NAME)
    return model.folder if is_pulled(model) else None


def random_model(folder: Path) -> Path:
    torch.manual_seed(0)
    save_model(folder, build_model("campplus"), FrontEndConfig(sample_scale=1.0), "campplus", {})
    return folder


def noise(seconds: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(16000 * seconds, dtype=np.float32)


def compare_utterance(bench: Bench, backends: dict[str, Embedder], seconds: int, threads: int) -> None:
    """The backends in turn, so that a disturbance is nobody's alone."""
    wav_T = noise(seconds)
    took: dict[str, list[float]] = {name: [] for name in backends}
    for embedder in backends.values():
        embedder.embed(wav_T)
    for _ in range(bench.repeats):
        for name, embedder in backends.items():
            took[name].append(bench.seconds(lambda embedder=embedder: embedder.embed(wav_T)))
    for name in list(backends)[1:]:
        what = f"CAM++ by {name}, {seconds} s, {threads} thread{'s' * (threads > 1)}"
        bench.record(what, took[name], took["torch"], reference_is="torch, eager")


def compare_cold_start(bench: Bench, models: dict[str, Path], wav: Path) -> None:
    """A process from its beginning to the embedding of 3 s."""
    took: dict[str, list[float]] = {name: [] for name in models}
    memory = dict.fromkeys(models, 0)
    for _ in range(bench.repeats):
        for name, path in models.items():
            command = [sys.executable, "-c", COLD, str(path), str(wav)]
            out = Path(wav.parent, "memory")
            took[name].append(
                bench.seconds(
                    lambda command=command, out=out: out.write_bytes(subprocess.check_output(command))
                )
            )
            memory[name] = int(out.read_text())
    bench.record(
        "cold start of CAM++ by onnxruntime", took["onnxruntime"], took["torch"], reference_is="torch"
    )
    print("; ".join(f"{name}: {used / 1024:.0f} MB of memory" for name, used in memory.items()))


if __name__ == "__main__":
    main()
