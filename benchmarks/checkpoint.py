"""Training that is saved every hundred steps, against the same training that is never saved.

A checkpoint of a ResNet34 with a classifier of 6,000 speakers and SGD is written whole: flushed to the disk,
with the SHA-256 of every file; the one before it is removed when the new one has been hashed again. A run
that is saved after half an hour (``log.save_minutes``) and at the end of an epoch saves far less often.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from _bench import Bench, times

from farvox.features.frontend import FrontEndConfig
from farvox.machine import keep_freed_memory
from farvox.models.registry import build_head, build_model
from farvox.training.checkpoint import (
    TrainingState,
    checkpoint_folder,
    pack_optimizer,
    prune_checkpoints,
    save_checkpoint,
)
from farvox.training.distributed import World
from farvox.training.loader import Batch
from farvox.training.objective import TrainingModel
from farvox.training.options import OptimOptions
from farvox.training.step import Stepper, build_optimizer
from farvox.zoo.model import write_new_model

EVERY, CLASSES = 100, 6000


def main() -> None:
    bench = Bench(__doc__, repeats=3)
    options = bench.parse()
    keep_freed_memory(all_of_it=True)
    torch.manual_seed(0)
    network, head = build_model("ffsvc-resnet34"), build_head("aam", 256, CLASSES)
    model = TrainingModel(network, head).train()
    optimizer = build_optimizer(OptimOptions(lr=0.01), list(model.parameters()))
    stepper = Stepper(model, torch.nn.Identity(), optimizer, world=World(0, 1, torch.device("cpu")))
    size = 2 if options.quick else 8
    labels_B, masks = torch.randint(0, CLASSES, (size,)), torch.zeros(size, 0, 4, dtype=torch.int64)
    batch = Batch(torch.randn(size, 200, 80), labels_B, masks, tuple(range(size)))
    write = partial(
        write_new_model,
        network=network,
        frontend_config=FrontEndConfig(),
        model_name="ffsvc-resnet34",
        model_kwargs={},
    )
    classes = tuple(f"id{number:05d}" for number in range(CLASSES))
    with tempfile.TemporaryDirectory(dir=".") as folder:

        def save(step: int) -> None:
            state = TrainingState(epoch=0, step=step, within=step, classes=classes, totals=(0.0,) * 4)
            place = checkpoint_folder(Path(folder), 0, step)
            save_checkpoint(place, state, write, head.state_dict(), pack_optimizer(optimizer), "seed = 1\n")
            prune_checkpoints(Path(folder), 0, place)

        stepper.step([batch])
        save(1)
        ours, reference, saves = [], [], []
        for repeat in range(bench.repeats):
            steps = EVERY * min(bench.seconds(lambda: stepper.step([batch])) for _ in range(3))
            saves.append(bench.seconds(partial(save, repeat + 2)))
            ours.append(steps + saves[-1])
            reference.append(steps)
    bench.record(
        f"ResNet34-C32, {EVERY} steps and a checkpoint",
        ours,
        reference,
        reference_is="the steps alone",
        target=times(0.98),
        note=f"a checkpoint takes {sorted(saves)[len(saves) // 2]:.2f} s",
    )
    bench.finish()


if __name__ == "__main__":
    main()
