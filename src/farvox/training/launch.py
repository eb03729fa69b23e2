"""Starting the ranks of a run on this machine; for several machines ``torchrun`` starts them.

torchrun's agent would print a report of thirty lines after the error of a rank, take a rank that lost the
others for the one that failed, and start three seconds later. Here the message of the rank that failed is the
last on the terminal.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack

from farvox.children import SECONDS_TO_LEAVE, child, on_signals
from farvox.progress import to_stderr

LISTENER = "FARVOX_LISTENER"
"""Variable of a rank's environment: the number of the open socket at which rank 0 waits for the others."""
LOST_STATUS = 113
"""Exit status of a rank that had to stop because another one was gone."""


def launch_ranks(command: Sequence[str], count: int) -> int:
    """Run ``command`` as ``count`` ranks and wait for them; when one fails, the others are ended.

    `farvox.training.distributed.join_world` finds a rank's place in the environment, and the socket at which
    all meet: it is bound to this machine's own address, which no other machine reaches. Rank 0 prints on this
    terminal; the output of another rank is shown when it fails.

    A signal that asks to end goes to every rank, once; they may take their time to save what they have. At a
    second one they are ended.

    Returns:
        0, or the exit status of the rank that failed, or that of a process that such a signal ended.
    """
    threads = str(max(1, (os.cpu_count() or 1) // count))
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    defaults = {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    asked: list[int] = []
    with ExitStack() as stack:
        stack.enter_context(on_signals(lambda number, frame: asked.append(number)))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        outputs = [stack.enter_context(tempfile.TemporaryFile()) if rank else None for rank in range(count)]
        ranks: list[subprocess.Popen[bytes]] = []
        for rank, output in enumerate(outputs):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            port = str(listener.getsockname()[1])
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LISTENER: str(listener.fileno())}
            started = child(
                command,
                env={**defaults, **os.environ, **place, **meeting},
                pass_fds=() if rank else (listener.fileno(),),
                stdout=output,
                stderr=output,
                process_group=0,  # Ctrl-C on the terminal is passed on by this process, as other signals are
            )
            ranks.append(stack.enter_context(started))
        listener.close()
        failed = _wait(ranks, asked)
        if asked:
            status = ranks[0].poll()
            if status is None:
                to_stderr(
                    "the ranks are ended at once: what the first signal made them save may not be whole"
                )
            return 128 + asked[0] if status is None or status < 0 else status
        if failed is None:
            return 0
        output, status = outputs[failed], ranks[failed].returncode
        if output:
            output.seek(0)
            to_stderr(f"rank {failed}: {output.read().decode(errors='replace').strip()}")
        if status < 0:
            to_stderr(f"rank {failed} was ended by signal {-status}")
        return status


def _wait(ranks: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> int | None:
    """Wait for the first rank that fails by its own fault; None: all are done, or ``asked`` to end.

    Ranks that lost others tell of it; those that stand still then, and do not fail, are ended.
    """
    is_told, lost = False, 0.0
    while True:
        if asked and not is_told:
            is_told = True
            for rank in ranks:
                rank.send_signal(asked[0])
        states = [rank.poll() for rank in ranks]
        if is_told and (states[0] is not None or len(asked) > 1):  # rank 0 writes, the others are of no use
            return None
        failed = [number for number, state in enumerate(states) if state not in (None, 0, LOST_STATUS)]
        if failed and not is_told:
            _end(ranks)
            return failed[0]
        if LOST_STATUS in states and None in states and not is_told:
            lost = lost or time.monotonic()
            if time.monotonic() - lost > 2 * SECONDS_TO_LEAVE:
                _end(ranks)
                return states.index(LOST_STATUS)
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
