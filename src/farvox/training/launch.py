"""Starting the ranks of a run on this machine.

``torchrun`` does the same for many machines; here a fault stays readable: what the rank that failed
said is the last thing on the terminal.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType
from typing import IO

LOST_STATUS = 113
"""Exit status of a rank that had to stop because another one was gone."""
SECONDS_TO_LEAVE = 5.0


def launch_ranks(command: Sequence[str], count: int) -> int:
    """Run ``command`` as ``count`` ranks and wait for them; when one fails, the others are ended.

    Args:
        command: the same for every rank; `farvox.training.distributed.join_world` finds its place in the
            environment. Rank 0 talks on this terminal, another rank is heard when it fails.
        count: number of ranks.

    Returns:
        0, or the exit status of the rank that failed.
    """
    with ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _leave))
        ranks: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, ranks)
        ears = [stack.enter_context(tempfile.TemporaryFile()) if rank else None for rank in range(count)]
        port = _free_port()
        for rank, ear in enumerate(ears):
            env = _environment(rank, count, port)
            ranks.append(subprocess.Popen(command, env=env, stdout=ear, stderr=ear))
        try:
            failed = _wait(ranks)
        except KeyboardInterrupt:  # the terminal told every rank: let it tidy away what is half-written
            _let_leave(ranks)
            raise
        if failed is None:
            return 0
        _repeat(failed, ears[failed], ranks[failed].returncode)
        return ranks[failed].returncode


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    threads = str(max(1, (os.cpu_count() or 1) // count))
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"OMP_NUM_THREADS": threads, **os.environ, **place, **meeting}


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for the first rank that fails by its own fault; None: all are done."""
    while True:
        states = [rank.poll() for rank in ranks]
        guilty = [number for number, state in enumerate(states) if state not in (None, 0, LOST_STATUS)]
        if guilty:
            return guilty[0]
        if None not in states:
            return states.index(LOST_STATUS) if LOST_STATUS in states else None
        time.sleep(0.05)


def _let_leave(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + SECONDS_TO_LEAVE
    while time.monotonic() < deadline and any(rank.poll() is None for rank in ranks):
        time.sleep(0.05)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        rank.terminate()
    for rank in ranks:
        try:
            rank.wait(SECONDS_TO_LEAVE)
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


def _repeat(rank: int, ear: IO[bytes] | None, status: int) -> None:
    if ear:
        ear.seek(0)
        print(f"rank {rank}: {ear.read().decode(errors='replace').strip()}", file=sys.stderr)
    if status < 0:
        print(f"rank {rank} was ended by signal {-status}", file=sys.stderr)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
