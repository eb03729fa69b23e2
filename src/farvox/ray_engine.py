"""A Ray cluster as the engine of jobs: their batches are done on its machines.

The promises of `farvox.jobs` hold, and the files are those of one machine, to the byte:

- A batch that is lost with its worker or machine is done again, and writes the same files anew.
- Each worker is one process with one CPU, in which numerical libraries compute on one thread. It fetches the
  function, with the model in it, once.
- A machine that has another farvox, or does not see the files, is refused before it does anything.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import farvox
from farvox.atomic import remove_stale, temporary_beside
from farvox.errors import JobError, MissingExtraError
from farvox.jobs import ONE_THREAD, Executor, Job, WorkersLostError, elsewhere, results_of
from farvox.progress import to_stderr
from farvox.sharding import current_shard

BatchType = TypeVar("BatchType")
Result = TypeVar("Result")

MOST_LOST = 3
"""Workers that may die of one batch. Machines that die are not counted: their batches are done elsewhere."""

_AT_LEAST = 64  # batches under way on a cluster that may grow
_SECONDS = 10.0  # for a cluster to answer
_here: dict[str, Callable[[Any], Any]] = {}  # of a worker: the function of the job that it works for


@contextmanager
def on_ray() -> Iterator[None]:
    """Do on a Ray cluster what jobs of the block let others do (`Job.out`).

    It is the cluster of the environment variable ``RAY_ADDRESS``, or else the one that this machine is of, or
    one of this machine alone that lasts as long as the block.

    Raises:
        MissingExtraError: ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process: we say what failed
    known = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token"
    if os.environ.get("RAY_AUTH_TOKEN") or os.path.exists(known):  # 'ray start' asks for it, by default
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        ray = import_module("ray")
    except ImportError:
        raise MissingExtraError("--engine ray needs ray: pip install 'farvox[ray]'") from None
    was_connected, token = ray.is_initialized(), elsewhere.set(_executor_of)
    try:
        yield
    finally:
        elsewhere.reset(token)
        if not was_connected:
            ray.shutdown()


def _executor_of(job: Job) -> Executor:
    is_whole = current_shard(job.out) is None
    return partial(compute_on_ray, folder=job.kept, reads=job.reads, is_whole=is_whole)


def compute_on_ray(
    function: Callable[[BatchType], Result],
    batches: Sequence[BatchType],
    jobs: int | None,
    *,
    folder: Path | None = None,
    reads: Sequence[str] = (),
    is_whole: bool = True,
) -> Generator[Result]:
    """An `Executor`: workers of a Ray cluster, by default as many as it has CPUs.

    Args:
        function: as of `Executor`.
        batches: likewise.
        jobs: batches under way at a time.
        folder: the one that the function writes to; every machine must see it.
        reads: some of the files that it reads; likewise.
        is_whole: no other process writes to ``folder``.

    Raises:
        JobError: the cluster does not answer, or a machine of it has another farvox or sees other files.
        WorkersLostError: a batch has killed its worker again and again.
    """
    if not batches:
        return
    ray = import_module("ray")
    _connect(ray)
    if (num_cpus := int(ray.cluster_resources().get("CPU", 0))) < 1:
        to_stderr("note: the Ray cluster has no CPU now; the work begins when a machine joins it")

    @ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": ONE_THREAD})  # type: ignore[untyped-decorator]
    def work(
        version: str, references: list[Any]
    ) -> tuple[Any, str]:  # sent by value, so that it runs anywhere
        import sys

        try:
            from farvox import __version__ as found
        except ImportError:
            found = "no"
        if found != version:
            return None, f"{sys.executable} has farvox {found}, and this machine {version}: install the same"
        from farvox.ray_engine import work_here

        return work_here(references)

    with ExitStack() as stack:
        seen = [path for path in reads if os.path.exists(path)]
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            seen.append(
                str(stack.enter_context(temporary_beside(folder.absolute() / "ray", is_folder=False)))
            )
        shared = ray.put((os.getcwd(), seen, function))
        running: set[Any] = set()
        lost: list[Exception] = []
        is_over = threading.Event()

        def interrupt() -> None:
            is_over.set()
            for task in list(running):
                ray.cancel(task)

        def compute(batch: BatchType) -> Result:
            references, num_lost = [shared, ray.put(batch)], 0
            while True:
                running.add(task := work.remote(farvox.__version__, references))
                if is_over.is_set():
                    ray.cancel(task)
                try:
                    result, fault = ray.get(task)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.TaskCancelledError:
                    raise
                except ray.exceptions.RayError as error:
                    lost.append(error)
                    is_machine = (ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError)
                    num_lost += not isinstance(error, is_machine)
                    if num_lost == MOST_LOST:
                        raise WorkersLostError(f"{num_lost} workers died of one batch") from error
                else:
                    if fault:
                        raise JobError(f"a machine of the Ray cluster cannot be used: {fault}")
                    return result  # type: ignore[no-any-return]
                finally:
                    running.discard(task)

        try:
            yield from results_of(
                ThreadPoolExecutor(jobs or max(_AT_LEAST, 2 * num_cpus)), compute, batches, interrupt
            )
        finally:
            if lost and folder is not None:
                remove_stale(folder, deep=True, anywhere=is_whole)


def work_here(references: list[Any]) -> tuple[Any, str]:
    """In a worker: the result of a batch, or why this machine cannot be used.

    Args:
        references: to what all batches share, and to the batch.
    """
    ray = import_module("ray")
    if (key := references[0].hex()) not in _here:
        home, seen, function = ray.get(references[0])
        with suppress(OSError):  # which is missed where paths begin there
            os.chdir(home)
        for path in seen:
            if not os.path.exists(path):
                return None, (
                    f"{socket.gethostname()} does not see {path}; all machines must share the recordings and "
                    "OUT (FARVOX_CACHE for one in an object store), under the same paths (a network disk)"
                )
        _here.clear()
        _here[key] = function
    return _here[key](ray.get(references[1])), ""


def _connect(ray: Any) -> None:
    """Join the cluster, or start one, unless that was done before."""
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    again = (
        "it may be of another Ray, or ask for a token that is not in ~/.ray/auth_token or RAY_AUTH_TOKEN; "
        "start one with 'ray start --head', or unset RAY_ADDRESS for one of this machine alone"
    )
    host, _, port = address.rpartition(":")
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray._private.worker._worker_logs_enabled = False  # or its errors would come among our results, on stdout
    before = signal.getsignal(signal.SIGTERM)
    slow = threading.Timer(_SECONDS, to_stderr, ["the Ray cluster has not answered yet; waiting for it"])
    slow.daemon = True
    slow.start()
    try:
        if "://" in address:
            raise ValueError("Ray's client cannot do this work")
        if port.isdecimal():  # Ray would wait for many minutes
            socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        why = " ".join(str(error).split())
        raise JobError(
            f"the Ray cluster{f' at {address}' * bool(address)} cannot be used ({why}); {again}"
        ) from error
    finally:
        slow.cancel()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # ours, which Ray has replaced
