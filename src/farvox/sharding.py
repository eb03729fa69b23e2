"""Shards: parts of the work of one verb, done apart from one another, for the arrays of batch systems.

The promise is an equation, whatever N::

    join(shard 1/N, ..., shard N/N) == one run

A shard does every Nth batch of the work, and keeps the results where a run that goes on looks for them: so
the join is that run, which finds everything done. A folder beside the output, ``OUT.shards``, has a plan (N,
and what the results depend on) and a record of each shard that was begun; it goes when they are joined.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from farvox.atomic import discard, remove_stale, write_json
from farvox.errors import JobError, UsageError
from farvox.parsing import parse_json, read_record
from farvox.progress import Note, silent
from farvox.writers import one_part, one_writer

Item = TypeVar("Item")

FOLDER, PLAN = ".shards", "plan.json"


class ShardDoneError(Exception):
    """A shard has nothing more to do: its work ends here, and the block of `one_shard` with it."""


@dataclass(frozen=True)
class WorkShard:
    """One of ``count`` shards, counted from 1; with number 0 what joins them."""

    out: Path
    number: int
    count: int
    command: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its record, and of what it keeps apart from others."""
        return f"{self.number:05d}-of-{self.count:05d}"

    @property
    def record(self) -> Path:
        """The file that says that it was begun, by which command, and whether it is done."""
        return folder_of(self.out) / f"{self.name}.json"

    def own(self, batches: Sequence[Item]) -> Sequence[Item]:
        """The batches that this shard does."""
        return batches[self.number - 1 :: self.count] if self.number else batches

    def write_record(self, *, is_done: bool) -> None:
        """Write its record."""
        command = {"command": list(self.command), "folder": os.getcwd()}
        write_json(self.record, {"done": is_done, **command})


_now: ContextVar[WorkShard | None] = ContextVar("shard", default=None)


def folder_of(out: Path) -> Path:
    """The folder of the plan and the records of an output."""
    return out.with_name(out.name + FOLDER)


def current_shard(out: Path | None) -> WorkShard | None:
    """The shard of ``out`` that is being done or joined here; None where the work is done in one run.

    Raises:
        JobError: shards of ``out`` were begun, so that it may not be made in one run.
    """
    if out is None:
        return None
    out, shard = Path(os.path.realpath(out)), _now.get()
    if shard is not None and shard.out == out:
        return shard
    if (folder := folder_of(out)).exists():
        raise JobError(
            f"{out}: is being made in shards; 'farvox join {shlex.quote(str(out))}' joins them, or remove "
            f"{folder} to make it in one run, which takes what they have done"
        )
    return None


@contextmanager
def one_shard(
    out: str | Path, part: str | None, *, command: Sequence[str] = (), note: Note = silent
) -> Iterator[None]:
    """Do only a shard of the work of the block, and none of what follows in it; all of it without ``part``.

    Args:
        out: what the work writes.
        part: the shard as ``I/N``, I from 1 to N, which is 99,999 at most.
        command: words by which `farvox join` repeats the work.
        note: takes lines for people.

    Raises:
        BusyError: another process does this shard.
        JobError: other shards were begun with another N, other settings or other data.
        UsageError: ``part`` is no shard.
    """
    if part is None:
        yield
        return
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(
            f"--shard {part}: it is I/N, shard I of N, I from 1 to N, and N is 99,999 at most (of Slurm: "
            "--array=1-N)"
        )
    shard = WorkShard(Path(os.path.realpath(out)), int(match[1]), int(match[2]), tuple(command))
    with one_part(shard.out, shard.record):
        token = _now.set(shard)
        try:
            yield
        except ShardDoneError:
            name = shlex.quote(str(out))
            note(f"shard {part} of {out} is done; 'farvox join {name}' joins them when all are")
        else:
            raise JobError(f"{out}: nothing of this is done in shards; leave out --shard")
        finally:
            _now.reset(token)


@contextmanager
def joined(out: str | Path) -> Iterator[tuple[list[str], Path]]:
    """Yield the command of the shards and its folder; the block does the work again, and finds it done.

    Raises:
        JobError: no shard was begun, or one is missing or not done; all such are named.
    """
    final = Path(os.path.realpath(out))
    folder = folder_of(final)
    try:
        count = int(parse_json((folder / PLAN).read_text("utf-8"))["shards"])
    except (OSError, ValueError, TypeError, KeyError):
        raise JobError(
            f"{out}: has no shards to join (no {folder / PLAN}); commands with --shard I/N make them"
        ) from None
    shards = [WorkShard(final, number, count) for number in range(1, count + 1)]
    records = {shard.number: read_record(shard.record) for shard in shards}
    known = next(filter(None, records.values()), {})
    command = [str(word) for word in known.get("command", ())]
    missing = [str(number) for number, record in records.items() if not record]
    undone = [str(number) for number, record in records.items() if record and not record["done"]]
    faults = [f"never begun: {','.join(missing)}"] * bool(missing)
    faults += [f"begun, but not done: {','.join(undone)}"] * bool(undone)
    if faults:
        raise JobError(
            f"{out}: {len(missing + undone):,} of {count:,} shards cannot be joined ({'; '.join(faults)}); "
            f"start each, unless it is running: {shlex.join(['farvox', *command])} --shard I/{count}"
        )
    with one_writer(final):
        token = _now.set(WorkShard(final, 0, count))
        try:
            yield command, Path(str(known.get("folder", ".")))
        finally:
            _now.reset(token)
        remove_stale(final, deep=True)
        discard(folder)
