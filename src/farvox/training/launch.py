"""Starting the ranks of a run on this machine; for several machines ``torchrun`` starts them.

torchrun's agent would print a report of thirty lines after the error of a rank, take a rank that lost the
others for the one that failed, and start three seconds later. Here the message of the rank that failed is the
last on the terminal.
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

from farvox.progress import to_stderr

LOST_STATUS = 113
"""Exit status of a rank that had to stop because another one was gone."""
SECONDS_TO_LEAVE = 5.0


def launch_ranks(command: Sequence[str], count: int) -> int:
    """Run ``command`` as ``count`` ranks and wait for them; when one fails, the others are ended.

    `farvox.training.distributed.join_world` finds a rank's place in the environment. Rank 0 prints on this
    terminal; the output of another rank is shown when it fails.

    Returns:
        0, or the exit status of the rank that failed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    with ExitStack() as stack:
        on_sigterm = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        stack.callback(signal.signal, signal.SIGTERM, on_sigterm)
        ranks: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, ranks)
        outputs = [stack.enter_context(tempfile.TemporaryFile()) if rank else None for rank in range(count)]
        for rank, output in enumerate(outputs):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            env = {"OMP_NUM_THREADS": threads, **os.environ, **place, **meeting}
            ranks.append(subprocess.Popen(command, env=env, stdout=output, stderr=output))
        try:
            failed = _wait(ranks)
        except KeyboardInterrupt:  # the terminal interrupts every rank, too: they remove what is half-written
            deadline = time.monotonic() + SECONDS_TO_LEAVE
            while time.monotonic() < deadline and any(rank.poll() is None for rank in ranks):
                time.sleep(0.05)
            raise
        if failed is None:
            return 0
        output, status = outputs[failed], ranks[failed].returncode
        if output:
            output.seek(0)
            to_stderr(f"rank {failed}: {output.read().decode(errors='replace').strip()}")
        if status < 0:
            to_stderr(f"rank {failed} was ended by signal {-status}")
        return status


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for the first rank that fails by its own fault; None: all are done."""
    while True:
        states = [rank.poll() for rank in ranks]
        failed = [number for number, state in enumerate(states) if state not in (None, 0, LOST_STATUS)]
        if failed:
            return failed[0]
        if None not in states:
            return states.index(LOST_STATUS) if LOST_STATUS in states else None
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
