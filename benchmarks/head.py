"""One step of a classifier of very many classes: a tenth of them drawn (PartialFC), against all of them.

Forward, backward and fused optimiser, one process on the CPU, batch 128; 200,000 classes of 192 dimensions.
Each side is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

from _bench import Bench

CLASSES, DIMENSION, BATCH, SHARE = 200_000, 192, 128, 0.1


def main() -> None:
    bench = Bench(__doc__)
    bench.parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    bench.parser.add_argument("--steps", type=int, default=5, help="timed, after two that are not")
    options = bench.parse()
    classes = CLASSES // 20 if options.quick else CLASSES
    if options.one:
        print(json.dumps(measure(bench, options.one, classes, options.steps)))
        return
    found: dict[float, list[dict[str, float]]] = {SHARE: [], 1.0: []}
    for _ in range(bench.repeats):
        for share, figures in found.items():
            words = ["--one", str(share), "--steps", str(options.steps), "--clock", bench._clock]
            words += ["--quick"] if options.quick else []
            run = subprocess.run(
                [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
            )
            figures.append(json.loads(run.stdout.splitlines()[-1]))
    ours, whole = found[SHARE], found[1.0]
    bench.record(
        "a step of 200,000 classes, a tenth drawn",
        [figures["seconds"] for figures in ours],
        [figures["seconds"] for figures in whole],
        reference_is="all classes in every step",
    )
    bench.record(
        "its peak memory",
        [figures["memory"] for figures in ours],
        [figures["memory"] for figures in whole],
        unit="GB",
        reference_is="all classes in every step",
        note="of which weights and momentum are 0.31 GB on both sides",
    )
    bench.finish()


def measure(bench: Bench, share: float, classes: int, steps: int) -> dict[str, float]:
    """Seconds of the fastest step, and the process's peak memory in GB."""
    import torch

    from farvox.models.registry import build_head
    from farvox.training.distributed import World
    from farvox.training.options import OptimOptions
    from farvox.training.sharded import ShardedHead
    from farvox.training.step import build_optimizer

    torch.manual_seed(0)
    whole = build_head("aam", embedding_dim=DIMENSION, num_classes=classes)
    head = ShardedHead(whole, World(0, 1, torch.device("cpu")), share=share)
    optimizer = build_optimizer(OptimOptions(lr=0.1, weight_decay=1e-4), list(head.parameters()))

    def step(number: int) -> None:
        emb_BE = torch.randn(BATCH, DIMENSION, requires_grad=True)
        labels_B = torch.randint(0, classes, (BATCH,))
        head.draw(labels_B, optimizer, 0, number)
        optimizer.zero_grad(set_to_none=True)
        head(emb_BE, labels_B)[0].backward()
        optimizer.step()

    took = [bench.seconds(lambda number=number: step(number)) for number in range(steps + 2)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": min(took[2:]), "memory": peak}


if __name__ == "__main__":
    main()
