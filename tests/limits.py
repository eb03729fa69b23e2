"""A training of little memory, in a process forked from one that has torch: to import it takes seconds."""

import multiprocessing
import os
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from farvox.cli.main import main

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["farvox.training.trainer", "torch._dynamo"])


def train_with(megabytes: int, words: Sequence[object], folder: Path) -> tuple[int | None, str]:
    """Status and messages of a command that has so much beside what it has when it has run before."""
    process = CONTEXT.Process(target=_train, args=(megabytes, [*map(str, words)], folder))
    process.start()
    process.join()
    return process.exitcode, (folder / "said.txt").read_text()


def _train(megabytes: int, words: list[str], folder: Path) -> None:
    said = os.open(folder / "said.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    assert main(["train", words[1], "--run-dir", str(folder / "warm"), "--validate.trials", ""]) == 0
    used = int(re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), used + (megabytes << 20)))
    sys.exit(main(words))
