"""One optimiser step of training (forward, backward, check, update), against the same network run plainly.

The reference is the FFSVC2022 baseline's loop: eager float32, contiguous, its optimiser not fused, the loss
looked at. Chunks of 2 s (200 frames of 80 mels), an additive angular margin over 6,000 speakers. Every
variant is a process of its own, since what one leaves in the allocator would help the next; they take turns.
Ours are in bf16, on a CPU without it in fp32, in both orders of memory; the target is of the order that
``optim.channels_last = "auto"`` takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import torch
from _bench import Bench, times

from farvox.machine import keep_freed_memory, resolve_precision
from farvox.models.registry import build_head, build_model
from farvox.training.distributed import World
from farvox.training.loader import Batch
from farvox.training.objective import TrainingModel
from farvox.training.options import OptimOptions
from farvox.training.step import Stepper, build_optimizer

FRAMES, MELS, CLASSES = 200, 80, 6000
GFLOP = {"ffsvc-resnet34": 27.15, "ffsvc-ecapa": 20.51}  # forward and backward of a chunk
TARGETS = {"ffsvc-resnet34": times(4), "ffsvc-ecapa": times(2.5)}
NAMES = {"ffsvc-resnet34": "ResNet34-C32", "ffsvc-ecapa": "ECAPA-C1024"}
ORDERS = ("", " channels_last", " channels_last compile")


def main() -> None:
    bench = Bench(__doc__, repeats=3)
    bench.parser.add_argument("--batch", type=int, default=32)
    bench.parser.add_argument(
        "--steps", type=int, default=4, help="timed steps of a process, after as many that are not"
    )
    quickest = resolve_precision("auto", torch.device("cpu"))
    precisions = ["fp32"] if quickest == "fp32" else ["fp32", "bf16"]
    variants = [precision + order for precision in precisions for order in ORDERS]
    orders = [quickest, f"{quickest} channels_last"]
    bench.parser.add_argument("--variants", nargs="*", default=orders, help=f"of {', '.join(variants)}")
    bench.parser.add_argument(
        "--all", action="store_true", help="all variants (compiling takes a minute each)"
    )
    bench.parser.add_argument("--one", nargs=2, metavar=("MODEL", "VARIANT"), help=argparse.SUPPRESS)
    options = bench.parse()
    size = (4, 1) if options.quick else (options.batch, options.steps)
    if options.one:
        print(json.dumps(measure(bench, *options.one, *size)))
        return
    peak = apart(bench, "peak", quickest, size)
    print(f"  products of 4096 x 4096 matrices in {quickest}: {peak:.0f} GFLOP/s")
    for model, name in NAMES.items():
        chosen = variants if options.all else options.variants
        auto = orders[build_model(model).is_faster_in_channels_last(torch.device("cpu"), quickest)]
        figures: dict[str, list[float]] = {variant: [] for variant in (*chosen, "reference")}
        for _ in range(bench.repeats):
            for variant, found in figures.items():
                found.append(apart(bench, model, variant, size))
        for variant in chosen:
            bench.record(
                f"{name} step, {variant}",
                figures[variant],
                figures["reference"],
                unit="samples/s",
                reference_is="eager float32, contiguous, its optimiser not fused",
                target=TARGETS[model] if variant == auto else None,
                note="what a recipe with auto does" if variant == auto else "",
                published={"ffsvc-resnet34": 5.4, "ffsvc-ecapa": 10.0}[model],
                floor=peak / GFLOP[model],
                floor_is=f"{GFLOP[model]} GFLOP at {peak:.0f} GFLOP/s",
            )
    bench.finish()


def apart(bench: Bench, model: str, variant: str, size: tuple[int, int]) -> float:
    """The figure of another process."""
    words = ["--one", model, variant, "--batch", str(size[0]), "--steps", str(size[1])]
    clock = ["--clock", bench._clock]
    run = subprocess.run(
        [sys.executable, __file__, *words, *clock], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(json.loads(run.stdout.splitlines()[-1]))


def measure(bench: Bench, model: str, variant: str, batch: int, steps: int) -> float:
    """Samples a second of the fastest step; of ``peak``, GFLOP a second."""
    torch.manual_seed(0)
    if model == "peak":
        a, b = torch.randn(2, 4096, 4096).to(torch.bfloat16 if variant == "bf16" else torch.float32)
        return max(2 * 4096**3 / bench.seconds(lambda: a @ b) / 1e9 for _ in range(12))
    feats_BFM = torch.randn(batch, FRAMES, MELS)
    labels_B = torch.randint(0, CLASSES, (batch,))
    work = reference_step if variant == "reference" else our_step
    step = work(model, variant.split(), feats_BFM, labels_B)
    for _ in range(steps):  # the first ones touch new memory, the reference's for longer
        step()
    return batch / min(bench.seconds(step) for _ in range(steps))


def reference_step(model, words, feats_BFM, labels_B):
    """The baseline's loop body: forward, zero, backward, update, and the loss looked at."""
    network, head = build_model(model).train(), build_head("aam", 256, CLASSES).train()
    optimizer = torch.optim.SGD(
        [*network.parameters(), *head.parameters()], lr=0.01, momentum=0.9, weight_decay=1e-3, foreach=False
    )

    def step() -> float:
        logits_BC = head(network(feats_BFM), labels_B)
        loss = torch.nn.functional.cross_entropy(logits_BC, labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(model, words, feats_BFM, labels_B):
    """The trainer's."""
    keep_freed_memory(all_of_it=True)
    network = build_model(model)
    if "channels_last" in words:
        network.use_channels_last()
    head = build_head("aam", 256, CLASSES)
    training = TrainingModel(network, head, compiled="compile" in words).train()
    optimizer = build_optimizer(OptimOptions(lr=0.01, weight_decay=1e-3), list(training.parameters()))
    frontend, alone = torch.nn.Identity(), World(0, 1, torch.device("cpu"))
    stepper = Stepper(training, frontend, optimizer, world=alone, precision=words[0])
    no_masks = torch.zeros(len(labels_B), 0, 4, dtype=torch.int64)
    batch = Batch(feats_BFM, labels_B, no_masks, tuple(range(len(labels_B))))
    return lambda: stepper.step([batch])


if __name__ == "__main__":
    main()
