"""The ranks' meeting place: they come together in a store, and tell one another there where they are.

Libraries wait for half an hour for a rank that is gone, and do not say for which. Here each rank has a thread
that writes, every second, what the rank is doing. One that waits for the others for too long reads what they
wrote last, names those that are missing, and ends; so does one whose launcher is gone.

`torchrun` keeps one store for all groups that it starts one after the other, in which a new group would find
the addresses of dead ranks. `meet` gives each group a part of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn
from uuid import uuid4

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from farvox.progress import duration, to_stderr
from farvox.training.launch import LISTENER, LOST_STATUS

KeyStore = Any
"""One of ``torch.distributed``, whose types it does not tell."""
BEAT = 1.0
"""Seconds between two signs of life."""
_POLL = 0.05


def meet(rank: int, size: int, seconds: float) -> KeyStore:
    """Wait until all ranks of a group are there; the part of the store that is this group's own.

    Rank 0 puts the numbers that all have drawn into one list. It holds when each rank has found its own in
    it: those of an earlier group, which may still lie in the store, nobody confirms.

    Raises:
        SystemExit: some have not come in time; they are named on stderr.
    """
    listener = os.environ.pop(LISTENER, None)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = TCPStore(
            host, port, size, is_host, timeout=timedelta(seconds=seconds), wait_for_workers=False,
            master_listen_fd=int(listener) if listener and is_host else None,
        )  # fmt: skip
        mine, groups = uuid4().hex, PrefixStore("farvox", store)
        groups.set(f"drawn/{rank}", mine)
        group = ""
        for _ in range(int(seconds / _POLL)):
            if rank == 0:
                drawn = [_read(groups, f"drawn/{number}") for number in range(size)]
                groups.set("all", " ".join(drawn))
            text = _read(groups, "all")
            if mine in text.split(" "):
                group = sha256(text.encode()).hexdigest()[:16]
                groups.set(f"found/{rank}", group)
            missing = [n for n in range(size) if not group or _read(groups, f"found/{n}") != group]
            if rank == 0 and not missing:
                groups.set("complete", group)
            if group and _read(groups, "complete") == group:
                return PrefixStore(group, groups)
            time.sleep(_POLL)
    except (dist.DistError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        _stop(rank, f"{host}:{port}, where the processes of the run meet, cannot be reached: {why}")
    names = "0" if not group else ", ".join(map(str, missing))
    _stop(
        rank,
        f"it has waited {duration(seconds)} at {host}:{port} for the other processes of the run, of which "
        f"there are to be {size}; rank {names} has not come",
    )


class Told(NamedTuple):
    """The last that a rank has told of itself."""

    beat: str
    waits: str
    who: str
    stage: str


class Watch:
    """Tells the other ranks where this one is, until it is closed; ends it where it waits too long for them.

    The time is counted in signs of life of its own, so that it stands still while this process does, as in a
    job that the batch system suspends.

    Args:
        store: of the group.
        rank: of this process.
        size: number of ranks.
        seconds: that it may wait.
    """

    def __init__(self, store: KeyStore, rank: int, size: int, seconds: float) -> None:
        self._store = store.clone()
        self._store.set_timeout(timedelta(seconds=10))
        self._others = [number for number in range(size) if number != rank]
        self.rank, self.seconds = rank, seconds
        self._place = ("the start", False, object())
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._live, name="watch-of-ranks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell and watch no more."""
        self._closed.set()
        self._thread.join()

    def enter(self, stage: str, waits: bool) -> None:
        """Be at another place: a stage of the run, for which this rank needs the others or does not."""
        self._place = (stage, waits, object())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within the block, this rank waits for the others."""
        stage, waits, _ = self._place
        self.enter(stage, True)
        try:
            yield
        finally:
            self.enter(stage, waits)

    def stop(self, why: str) -> NoReturn:
        """End this process, in its main thread, and name the ranks that are missing."""
        stage, *_ = self._place
        self.enter(f"{stage}, where it lost others", True)
        _stop(self.rank, f"{why} at {stage}. {self._missing()}")

    def last_of(self, number: int) -> Told:
        """The last that a rank, this one or another, has told."""
        text = _read(self._store, str(number)) or "0\t\tnever heard of\tthe start"
        return Told(*text.split("\t"))

    def _live(self) -> None:
        parent, place, beats, beat = os.getppid(), self._place, 0, 0
        while not self._closed.wait(BEAT):
            beats, place = (beats + 1 if place is self._place else 0), self._place
            stage, waits, _ = place
            beat += 1
            with suppress(dist.DistError, RuntimeError):  # who keeps the store is gone, or stands still
                record = (
                    str(beat),
                    "waits" * waits,
                    f"process {os.getpid()} on {os.uname().nodename}",
                    stage,
                )
                self._store.set(str(self.rank), "\t".join(record))
            if os.getppid() != parent:
                os._exit(LOST_STATUS)
            if waits and beats * BEAT >= self.seconds:
                told = self._missing()
                if place is self._place:
                    to_stderr(
                        f"rank {self.rank} stops: it has waited {duration(self.seconds)} for the other "
                        f"processes of the run at {stage}. {told}\nThe same command goes on after the last "
                        f"checkpoint; where a stage takes so long, with --wait_minutes {self.seconds / 30:g}"
                    )
                    os._exit(LOST_STATUS)  # the main thread does not return from where it is

    def _missing(self) -> str:
        """The ranks that stand still, or else those that are elsewhere, each with its place, in words."""
        try:
            before = {number: self.last_of(number) for number in self._others}
            time.sleep(3 * BEAT)
            now = {number: self.last_of(number) for number in self._others}
        except (dist.DistError, RuntimeError):
            return "Rank 0 or its torchrun, by whom all meet, stands still, is cut off or gone"
        lines = [
            f"rank {number} ({record.who}) stands still, is cut off or gone: last heard of at {record.stage}"
            for number, record in now.items()
            if record == before[number]
        ] or [
            f"rank {number} ({record.who}) is at {record.stage}"
            for number, record in now.items()
            if not record.waits
        ]
        return "\n  ".join(["Missing:", *lines]) if lines else "All others are there, and need one another"


def _read(store: KeyStore, key: str) -> str:
    """A value of the store; empty where there is none."""
    return store.get(key).decode() if store.check([key]) else ""


def _stop(rank: int, why: str) -> NoReturn:
    to_stderr(f"rank {rank} stops: {why}")
    raise SystemExit(LOST_STATUS)
