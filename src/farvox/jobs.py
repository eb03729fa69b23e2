"""One engine for work over many items: batches, processes, progress, and going on after a kill.

The promise is an equation::

    first_k + rest == all

A run that is killed after any k of its batches and started again leaves what an undisturbed run leaves, byte
for byte, whatever the number of processes. Four rules make it hold:

- A batch is a function of its items alone; the cut into batches does not depend on the number of processes.
- A result is written whole or not at all (`farvox.atomic`). `Job.run_kept` keeps it in a file and reads it
  from there, made now or before; with `Job.run` the function itself finds what an earlier run wrote.
- Results come in the order of their items.
- A folder that was begun with other settings is refused (`begin`). A batch is done again when a file that it
  was made from was replaced, or one that it made is not as it was left.

An `Executor` computes the batches: in `processes` or `threads` of this machine, or on others (`elsewhere`).
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from farvox.atomic import atomic_file, refuse_to_replace_foreign, remove_stale, write_json, write_text
from farvox.cache import file_state
from farvox.children import end_with_parent, ending, take_signals
from farvox.errors import AudioError, JobError
from farvox.parsing import parse_json, read_record
from farvox.progress import Note, Progress
from farvox.sharding import PLAN, ShardDoneError, current_shard, folder_of

Item = TypeVar("Item")
BatchType = TypeVar("BatchType")
Items = TypeVar("Items", bound=Sized)
Result = TypeVar("Result")

Rejected = dict[str, str]
"""Items (utterances, paths of audio files) that cannot be used -> the reason."""
REJECTED = "rejected.tsv"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""The environment of a process in which numerical libraries compute on one thread."""
ALONE = 1.0
"""Seconds for which work is done in this process before others are started, which take as long to start."""

_REJECTED = ".rejected"  # suffixes of files of a batch
_STATE = ".state"
_LONGEST = 40  # characters of a setting that a message shows
_worker = {"is busy": False, "is stopped": False}  # of this process, where it is one of a pool


def begin(
    path: Path,
    settings: Mapping[str, object],
    *,
    defaults: Mapping[str, object] = MappingProxyType({}),
    free: Sequence[str] = (),
) -> None:
    """Write the settings that a folder is begun with, or make sure that it was begun with the same ones.

    Args:
        path: a JSON file in the folder; it marks the folder as one that may be gone on with.
        settings: all that the results depend on.
        defaults: what those are of which a folder says nothing, begun before there was such a setting.
        free: those that may be others than before.

    Raises:
        FarvoxError: the folder holds other things.
        JobError: it was begun with other settings, or the file cannot be read.
    """
    refuse_to_replace_foreign(path.parent, (path.name,))
    now = json.loads(json.dumps(settings))
    if not path.exists():
        write_json(path, now, first=True)  # shards begin at one moment
    again = f"choose another name, or remove {path.parent} to begin again"
    try:
        before = {**defaults, **parse_json(path.read_text("utf-8"))}
    except (ValueError, TypeError) as error:
        raise JobError(f"{path}: cannot be read ({error}); {again}") from None
    changes = []
    for key, value in now.items():
        if before.get(key) != value and key not in free:
            texts = [json.dumps(each, ensure_ascii=False) for each in (before.get(key), value)]
            is_short = max(map(len, texts)) <= _LONGEST
            changes.append(f"{key} {texts[0]}, now {texts[1]}" if is_short else f"other: {key}")
    if changes:
        raise JobError(f"{path.parent}: was begun with other settings ({'; '.join(changes)}); {again}")


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of many lines, to stand for them among the settings."""
    found = sha256()
    for line in lines:
        found.update(f"{line}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Batches of ``size`` items; the last one may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class Executor(Protocol):
    """Computes a function of each batch; gives the results in order."""

    def __call__(
        self, function: Callable[[BatchType], Result], batches: Sequence[BatchType], jobs: int | None
    ) -> Generator[Result]:
        """Compute by ``jobs`` workers, or as many as suit the machine; `BrokenProcessPool` if one is lost."""


class WorkersLostError(BrokenProcessPool):
    """Workers that may be replaced were lost again and again; the message says how many, and why."""


def processes(
    function: Callable[[BatchType], Result], batches: Sequence[BatchType], jobs: int | None
) -> Generator[Result]:
    """An `Executor`: processes, one a processor by default; this one alone where one is enough.

    It computes by itself for as long as others take to start: short work is over by then. They end with this
    process, however it ends. What ends the work early interrupts the batches under way.
    """
    jobs = jobs or os.cpu_count() or 1
    begun, done = time.monotonic(), 0
    while done < len(batches) and (jobs == 1 or time.monotonic() - begun < ALONE):
        yield function(batches[done])
        done += 1
    if done < len(batches):
        yield from _in_pool(function, batches[done:], min(jobs, len(batches) - done))


def processes_of_one_thread(
    function: Callable[[BatchType], Result], batches: Sequence[BatchType], jobs: int | None
) -> Generator[Result]:
    """An `Executor`: processes in which numerical libraries compute on one thread.

    Sums in another order differ in their last digits: so the number of processes changes nothing.
    """
    if jobs == 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        yield from map(function, batches)
        return
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # for the processes that are started from here on
    try:
        yield from _in_pool(function, batches, max(1, min(jobs or os.cpu_count() or 1, len(batches))))
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def threads(
    function: Callable[[BatchType], Result], batches: Sequence[BatchType], jobs: int | None
) -> Generator[Result]:
    """An `Executor`: threads of this process, by default as many as suit work that waits for disks."""
    yield from results_of(ThreadPoolExecutor(jobs or min(16, 4 * (os.cpu_count() or 1))), function, batches)


def _in_pool(
    function: Callable[[BatchType], Result], batches: Sequence[BatchType], jobs: int
) -> Generator[Result]:
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker)

    def interrupt() -> None:
        for worker in list((pool._processes or {}).values()):
            worker.terminate()

    yield from results_of(pool, partial(_work, function), batches, interrupt)


def results_of(
    pool: ProcessPoolExecutor | ThreadPoolExecutor,
    function: Callable[[BatchType], Result],
    batches: Sequence[BatchType],
    interrupt: Callable[[], None] | None = None,
) -> Generator[Result]:
    """Results of a pool, which is in the care of a thread of its own.

    A signal raises its exception wherever the main thread is, and in the pool's own code that would leave a
    lock locked for ever. If the work ends early, ``interrupt`` ends the batches under way, which are waited
    for; without it they are left to themselves.
    """
    done: SimpleQueue[Future[Result]] = SimpleQueue()
    is_over: list[bool] = []

    def drive() -> None:
        futures: deque[Future[Result]] = deque()
        try:
            for batch in batches:
                if is_over:
                    return
                futures.append(pool.submit(function, batch))
            while futures and not is_over:
                futures[0].exception()  # waits for it
                done.put(futures.popleft())
        except BaseException as error:
            failed: Future[Result] = Future()
            failed.set_exception(error)
            done.put(failed)
        finally:
            if is_over and interrupt:
                interrupt()
            pool.shutdown(cancel_futures=True)

    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    try:
        for _ in batches:
            yield _next(done).result()
    except BaseException:
        is_over.append(True)
        if interrupt:
            interrupt()
        raise
    finally:
        if interrupt:
            driver.join()
        else:
            pool.shutdown(wait=False, cancel_futures=True)


def _next(done: SimpleQueue[Result]) -> Result:
    """The next result; Ctrl-C is seen within a second, though polars' handler lets system calls go on."""
    while True:
        with suppress(Empty):
            return done.get(timeout=1)


def _start_worker() -> None:
    """Make a process of a pool end with the one that started it, or at a signal that asks for it.

    A batch under way is interrupted, and removes what it has half-written.
    """

    def end(number: int, _: object) -> None:
        ending.append(number)
        was_stopped, _worker["is stopped"] = _worker["is stopped"], True
        if not _worker["is busy"]:
            os._exit(1)
        if not was_stopped:
            raise KeyboardInterrupt

    take_signals(end)
    end_with_parent()


def _work(function: Callable[[BatchType], Result], batch: BatchType) -> Result:
    _worker["is busy"] = True
    try:
        return function(batch)
    finally:
        _worker["is busy"] = False
        if _worker["is stopped"]:
            os._exit(1)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Work over many items, as people see it, and who does it."""

    what: str
    """The items that are counted, for people: ``copies made``."""
    note: Note
    """Takes lines for people."""
    jobs: int | None = None
    """Workers; as many as suit the machine where None."""
    executor: Executor = processes
    kept: Path | None = None
    """The folder that keeps what is done, for the message of a run that breaks off."""
    text: Callable[[], str] = str
    """Gives what stands beside the count."""
    out: Path | None = None
    """The output of the verb, which may be made in shards (`farvox.sharding`) and by other machines; None: in
    one run only, and here."""
    reads: Sequence[str] = ()
    """Some of the files that are read, by which a machine shows that it sees them."""

    def own(self, batches: Sequence[BatchType], settings: Mapping[str, object]) -> Sequence[BatchType]:
        """The batches that are to be done here: of a shard only some.

        Args:
            batches: all there are.
            settings: all that the results depend on, unless `begin` was called with it.

        Raises:
            JobError: a shard, or what joins them, has other settings than those before.
        """
        shard = current_shard(self.out)
        if shard is None:
            return batches
        begin(folder_of(shard.out) / PLAN, {"shards": shard.count, **settings})
        if shard.number:
            shard.write_record(is_done=False)
        return shard.own(batches)

    def end(self, rejected: Rejected | None = None) -> None:
        """End the work of a shard, for what follows is not its own; nothing, where there are no shards.

        Args:
            rejected: what cannot be used, which is only noted here: it is for all shards together to judge.

        Raises:
            ShardDoneError: this is a shard.
        """
        shard = current_shard(self.out)
        if shard is None or not shard.number:
            return
        for name, why in sorted((rejected or {}).items()):
            self.note(f"'{name}' cannot be used: {' '.join(why.split())}")
        shard.write_record(is_done=True)
        raise ShardDoneError

    def run(
        self,
        function: Callable[[BatchType], Result],
        batches: Sequence[BatchType],
        *,
        count: Callable[[Any], int] = len,
        done: int = 0,
    ) -> Iterator[Result]:
        """Results of a function of each batch, in order.

        Args:
            function: picklable; it finds by itself what an earlier run wrote of a batch.
            batches: see `cut`; ``count`` gives the number of items of one.
            done: further items, which an earlier run finished.

        Raises:
            JobError: a worker was lost.
        """
        total = done + sum(map(count, batches))
        executor = self.executor
        if self.out is not None and (of_job := elsewhere.get()):
            executor = of_job(self)
        with Progress(self.what, total, self.note, done=done) as progress:
            try:
                with closing(executor(function, batches, self.jobs)) as results:
                    for batch, result in zip(batches, results, strict=True):
                        progress.advance(count(batch), self.text())
                        yield result
            except BrokenProcessPool as error:
                if self.kept:
                    remove_stale(self.kept, deep=True)
                kept = f": what is done is kept in {self.kept}" if self.kept else ""
                how = str(error) if isinstance(error, WorkersLostError) else "a process was killed"
                raise JobError(
                    f"{self.what}: {how} after {progress.done:,} of {total:,} (out of memory?)"
                    f"; start again, perhaps with fewer --jobs{kept}"
                ) from None

    def run_kept(
        self,
        function: Callable[[Items], bytes | tuple[bytes, Rejected]],
        batches: Sequence[Items],
        folder: Path,
        suffix: str,
        *,
        inputs: Callable[[Items], str] | None = None,
        outputs: Callable[[Items, bytes], Iterable[str | Path]] | None = None,
    ) -> list[Path]:
        """Files of ``folder`` that hold the results of a function of each batch, in order.

        A file is named by the number of its first item, ``000000064.tsv``. A batch whose file is there is not
        computed again, unless

        - files that it was made from were replaced since, or files that it wrote are missing or changed;
          `note` is called with the number of such items. The state of both is in a file beside it,
          ``000000064.state``; a batch without one (of an earlier farvox) is kept, with a note, if all files
          that it wrote are there;
        - items of it were rejected, which may be repaired since; they are in ``000000064.rejected``, see
          `rejected_of`. What joins shards takes them as they are.

        A shard, which does some of the batches, ends here. Errors as `run`.

        Args:
            function: as of `run`; gives the content of the file of a batch.
            batches: as of `run`.
            folder: of the files.
            suffix: of the files.
            inputs: gives the fingerprint of the files that a batch is made from; picklable.
            outputs: gives the files that a batch wrote besides, by its items and content; picklable.
        """
        firsts = accumulate(map(len, batches), initial=0)
        paths = [folder / f"{first:09d}{suffix}" for first, _ in zip(firsts, batches, strict=False)]
        own = self.own(list(zip(paths, batches, strict=True)), {})
        shard = current_shard(self.out)
        is_join = shard is not None and not shard.number
        todo, num_changed, num_unknown = [], 0, 0
        for path, batch in own:
            state = path.with_suffix(_STATE)
            if not path.exists() or (path.with_suffix(_REJECTED).exists() and not is_join):
                todo.append((path, batch))
            elif inputs or outputs:
                made = list(outputs(batch, path.read_bytes())) if outputs else []
                now = _state(inputs and inputs(batch), made)
                if not state.exists() and all(map(os.path.exists, made)):
                    write_text(state, now)
                    num_unknown += len(batch)
                elif not state.exists() or state.read_text("utf-8") != now:
                    todo.append((path, batch))
                    num_changed += len(batch)
        total = sum(len(batch) for _, batch in own)
        if num_changed:
            self.note(
                f"{self.what}: {num_changed:,} of {total:,} are done again, because files that they are made"
                " from were replaced, or files that were made are missing or changed"
            )
        if num_unknown:
            self.note(
                f"{self.what}: {num_unknown:,} of {total:,} were done by an earlier farvox and are kept, but"
                " whether files that they are made from were replaced since is not known"
            )
        done = total - sum(len(batch) for _, batch in todo)
        work = partial(_write_result, function, inputs, outputs)
        for _ in self.run(work, todo, count=lambda file: len(file[1]), done=done):
            pass
        self.end(rejected_of(path for path, _ in own))
        return paths


elsewhere: ContextVar[Callable[[Job], Executor] | None] = ContextVar("elsewhere", default=None)
"""Gives what computes the jobs that may be computed elsewhere, see `Job.out`."""


def _write_result(
    function: Callable[[Items], bytes | tuple[bytes, Rejected]],
    inputs: Callable[[Items], str] | None,
    outputs: Callable[[Items, bytes], Iterable[str | Path]] | None,
    file: tuple[Path, Items],
) -> None:
    path, batch = file
    if path.exists():  # no old result lies beside a new state, and none is taken for a new one
        for made in outputs(batch, path.read_bytes()) if outputs else ():
            Path(made).unlink(missing_ok=True)
        path.unlink()
    before = inputs and inputs(batch)  # a file that is replaced meanwhile differs the next time
    outcome = function(batch)
    content, rejected = outcome if isinstance(outcome, tuple) else (outcome, {})
    if rejected:
        write_json(path.with_suffix(_REJECTED), rejected)
    if inputs or outputs:
        write_text(path.with_suffix(_STATE), _state(before, outputs and outputs(batch, content)))
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
    if not rejected:
        path.with_suffix(_REJECTED).unlink(missing_ok=True)


def _state(inputs: str | None, outputs: Iterable[str | Path] | None) -> str:
    """Digest of the fingerprint of inputs, and of the states of outputs, wherever these lie."""
    states = [inputs or ""]
    for path in outputs or ():
        try:
            states.append(file_state(path))
        except OSError as error:
            states.append(error.strerror or str(error))
    return digest(states) + "\n"


def rejected_of(paths: Iterable[Path]) -> Rejected:
    """The items of batches that were rejected; ``paths`` are those of `Job.run_kept`."""
    found = (read_record(path.with_suffix(_REJECTED)) for path in paths)
    return {name: why for each in found for name, why in each.items()}


def list_rejected(table: Path, rejected: Rejected, among: Iterable[str] | None = None) -> None:
    """Write the table of what cannot be used, ``utt_id`` and ``reason``; without any, remove it.

    Where ``rejected`` is the whole truth ``among`` some utterances only, the table keeps the lines of others.
    """
    if among is not None and table.is_file():
        known = set(among)
        lines = (line.partition("\t") for line in table.read_text("utf-8").splitlines()[1:])
        rejected = {utt_id: why for utt_id, _, why in lines if utt_id not in known} | rejected
    if not rejected:
        table.unlink(missing_ok=True)
        return
    rows = (f"{utt_id}\t{' '.join(why.split())}\n" for utt_id, why in sorted(rejected.items()))
    write_text(table, "utt_id\treason\n" + "".join(rows))


def report_rejected(
    table: Path | None,
    rejected: Rejected,
    total: int,
    *,
    what: str,
    skip_bad: bool,
    note: Note,
    max_rejects: float = 1.0,
    skip_by: str = "--skip-bad",
    unit: str = "utterance",
    later: str | None = None,
) -> None:
    """List the utterances that cannot be used in a table, or remove that of an earlier run.

    Args:
        table: see `list_rejected`; None: there is none.
        rejected: utterance -> reason.
        total: number of all utterances.
        what: cannot be done with them: ``packed``.
        skip_bad: they are left out, with a note; otherwise each is noted.
        note: takes lines for people.
        max_rejects: share of all that is left out at most.
        skip_by: what the user sets so that they are left out, for the message.
        unit: what they are, for people.
        later: the place of the table where the command ends well, if it is another.

    Raises:
        AudioError: there are some, and they are not to be left out, or none is left, or they are too many.
    """
    if table:
        list_rejected(table, rejected)
    if not rejected:
        return
    where = table or "those above"
    count = f"{len(rejected):,} of {total:,} {unit}s cannot be {what}"
    if skip_bad and len(rejected) < total and len(rejected) <= max_rejects * total:
        note(f"{count} and were left out; {later or where} names each with the reason")
        return
    lines = {utt_id: " ".join(why.split()) for utt_id, why in sorted(rejected.items())}
    for utt_id, why in lines.items():
        note(f"'{utt_id}': {why}")
    utt_id, why = next(iter(lines.items()))
    if skip_bad and len(rejected) == total:
        raise AudioError(
            f"{count}, so that none is left; {where} names each, the first is {unit} '{utt_id}': {why}. Give "
            "others, or repair some"
        )
    if skip_bad:
        count += f", which is more than {100 * max_rejects:g} %"
        skip_by = f"--max-rejects {math.ceil(1000 * len(rejected) / total) / 1000:g}"
    raise AudioError(
        f"{count}; {where} names each, the first is {unit} '{utt_id}': {why}. Repair them, or leave them "
        f"out with {skip_by}; what is done is kept"
    )
