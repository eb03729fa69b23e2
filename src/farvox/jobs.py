"""Work shared out among processes, with their results in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from farvox.errors import CorpusError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int | None, what: str
) -> Iterator[Result]:
    """What ``function`` makes of each item, in order; in this process where one is enough.

    Args:
        function: picklable.
        items: what there is to do.
        jobs: processes; as many as there are processors by default.
        what: of this task, for the message: it keeps what is done when it is started again.

    Raises:
        CorpusError: a process was killed.
    """
    jobs = min(jobs or os.cpu_count() or 1, len(items))
    if jobs <= 1:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        yield from pool.map(function, items)
    except BrokenProcessPool:
        raise CorpusError(
            f"{what}: a process was killed (out of memory?); start again, perhaps with fewer --jobs: "
            "what is done is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
