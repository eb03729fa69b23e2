"""Memory of training on a data dir of a million utterances: of the main process, and of each worker besides.

The utterances are links to few files, so that the disk does not matter. A process of its own opens the table,
plans an epoch and reads batches with two workers; measured is the memory that belongs to each process alone
or in shares (PSS of /proc), after as many batches as a worker needs to fill its caches. The reference holds
its utterances in a list and dicts of strings, as the baseline does, and reads them by workers as ours does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _bench import Bench, at_most

SPEAKERS, FILES = 5000, 20


def write_dir(folder: Path, utterances: int) -> None:
    """A data dir of names like VoxCeleb's; built as text, since nothing here is about writing it."""
    from farvox.audio.files import write_audio

    (folder / "wav").mkdir(parents=True)
    for number in range(FILES):
        write_audio(folder / f"wav/{number}.wav", 0.1 * np.random.default_rng(number).standard_normal(64000))
    speakers = [f"id{n * SPEAKERS // utterances:05}" for n in range(utterances)]
    names = [(speaker, f"{speaker}-x6uYqmx31kE-{n:08}") for n, speaker in enumerate(speakers)]
    paths = (f"{folder}/wav/../wav/../wav/{n % FILES}.wav" for n in range(utterances))
    lines = (f"{name} {path}\n" for (_, name), path in zip(names, paths, strict=True))
    (folder / "wav.scp").write_text("".join(lines))
    (folder / "utt2spk").write_text("".join(f"{name} {speaker}\n" for speaker, name in names))


def megabytes(process: int, of: str) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(of)) / 1024


def measured(batches: object, count: int) -> dict[str, float]:
    """MB of this process and, of its workers, the largest share that is a worker's alone."""
    for _ in range(count):
        next(batches)  # type: ignore[call-overload]
    time.sleep(1)
    workers = [child.pid for child in multiprocessing.active_children()]
    peak = max(int(line.split()[1]) for line in status() if line.startswith("VmHWM")) / 1024
    alone = max(megabytes(worker, "Private_") for worker in workers)
    shared = max(megabytes(worker, "Pss:") for worker in workers)
    return {"peak": peak, "private": alone, "worker": shared}


def status() -> list[str]:
    return Path("/proc/self/status").read_text().splitlines()


def ours(folder: Path, count: int) -> dict[str, float]:
    from farvox.training.loader import ChunkDataset, load_batches
    from farvox.training.table import EpochPlan, StepBatches, TrainingTable

    table = TrainingTable.open([folder])
    dataset = ChunkDataset(table, seed=0, num_samples=32240)
    plan = EpochPlan(0, table.speakers_N, 64)
    return measured(load_batches(dataset, StepBatches(plan, 0, 0, 1), workers=2), count)


def baseline(folder: Path, count: int) -> dict[str, float]:
    import soundfile
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Listed(Dataset):
        """Lists of names and paths, as the baseline keeps them."""

        def __init__(self) -> None:
            self.paths = dict(line.split() for line in (folder / "wav.scp").read_text().splitlines())
            self.items = [line.split() for line in (folder / "utt2spk").read_text().splitlines()]
            self.number = {name: n for n, name in enumerate(sorted({speaker for _, speaker in self.items}))}

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
            name, speaker = self.items[row]
            wav_T, _ = soundfile.read(self.paths[name], dtype="float32")
            return torch.from_numpy(wav_T[:32240]), self.number[speaker]

    return measured(iter(DataLoader(Listed(), 64, shuffle=True, num_workers=2, prefetch_factor=4)), count)


def in_a_process(which: str, folder: Path, count: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", which, str(folder), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("which", choices=("ours", "baseline"))
        parser.add_argument("folder", type=Path)
        parser.add_argument("count", type=int)
        options = parser.parse_args(sys.argv[2:])
        found = {"ours": ours, "baseline": baseline}[options.which](options.folder, options.count)
        print(json.dumps(found), flush=True)
        return
    bench = Bench(__doc__, repeats=1)
    bench.parser.add_argument("--utterances", type=int, default=1_000_000)
    options = bench.parse()
    utterances = 10_000 if options.quick else options.utterances
    with tempfile.TemporaryDirectory() as name:
        os.environ["FARVOX_CACHE"] = f"{name}/cache"
        write_dir(Path(name, "data"), utterances)
        count = 4 if options.quick else 60
        runs = [
            {which: in_a_process(which, Path(name, "data"), count) for which in ("ours", "baseline")}
            for _ in range(bench.repeats)
        ]
    for what, key, bound in (
        ("main process, peak", "peak", 1.5),
        ("each worker, its own pages", "private", 0.15),
        ("each worker, with its share of the common ones", "worker", None),
    ):
        bench.record(
            f"memory at {utterances:,} utterances: {what}",
            [run["ours"][key] / 1000 for run in runs],
            [run["baseline"][key] / 1000 for run in runs],
            "GB",
            target=None if bound is None else at_most(bound),
            reference_is="a list and dicts of strings",
        )
    bench.finish()


if __name__ == "__main__":
    main()
