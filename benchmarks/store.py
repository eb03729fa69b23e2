"""Identifying one of 100,000 enrolled speakers, against a plain loop over the rows of the same file.

The loop reads every template from the file and compares it in numpy, as a store without anything in memory
would; its best speaker must be the same.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farvox.verifier.enrolment import Enrolment
from farvox.verifier.store import SqliteStore

DIGEST = "0" * 64


def enrolment(name: str, template_E: NDArray[np.float32]) -> Enrolment:
    return Enrolment(
        name=name,
        template_E=template_E,
        model_digest=DIGEST,
        model_name="noise",
        num_recordings=1,
        seconds=3.0,
    )


def plain_loop(path: Path, probe_E: NDArray[np.float32]) -> str:
    """The best speaker, one row after the other."""
    best = (-2.0, "")
    db = sqlite3.connect(path)
    for name, blob in db.execute("SELECT name, template FROM enrolment"):
        row_E = np.frombuffer(blob, np.float32)
        best = max(best, (float(row_E @ probe_E / np.sqrt(row_E @ row_E)), name))
    db.close()
    return best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speakers", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=192)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows_NE = rng.standard_normal((options.speakers, options.dim), dtype=np.float32)
    probes_PE = rng.standard_normal((20, options.dim), dtype=np.float32)
    figures: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speakers.sqlite")
        enrolments = [enrolment(f"speaker{n:07}", row_E) for n, row_E in enumerate(rows_NE)]
        start = time.perf_counter()
        with SqliteStore(path) as store:
            store.add(*enrolments)
        figures.append(("enrolling all at once", time.perf_counter() - start))
        start = time.perf_counter()
        expected = plain_loop(path, probes_PE[0])
        loop = time.perf_counter() - start
        size = path.stat().st_size / 1e6

        with SqliteStore(path) as store, SqliteStore(path) as other:
            start = time.perf_counter()
            found = store.best(probes_PE[0], DIGEST)[0][0]
            figures.append(("opening, loading and the first search", time.perf_counter() - start))
            assert found == expected, f"{found} was found, and {expected} by the loop"
            took = []
            for probe_E in probes_PE:
                start = time.perf_counter()
                store.best(probe_E, DIGEST, top=5)
                took.append(time.perf_counter() - start)
            figures.append(("a search (median of 20)", float(np.median(took))))
            figures.append(("the slowest of them", max(took)))
            for what, change in (
                ("enrolling one more", lambda: other.add(enrolment("new", rows_NE[0]))),
                ("removing one", lambda: other.remove("new")),
            ):
                start = time.perf_counter()
                change()
                figures.append((what, time.perf_counter() - start))
                start = time.perf_counter()
                store.best(probes_PE[0], DIGEST)
                figures.append(("the search after that by another process", time.perf_counter() - start))
            start = time.perf_counter()
            store.listing()
            figures.append(("listing all", time.perf_counter() - start))
    print(f"{options.speakers:,} speakers of {options.dim} dimensions, a file of {size:.0f} MB")
    print(f"  {'a plain loop over the file':<42} {1000 * loop:8.1f} ms")
    for what, seconds in figures:
        print(f"  {what:<42} {1000 * seconds:8.1f} ms")
    print(f"  a search: {loop / float(np.median(took)):.0f} times as fast as the loop")


if __name__ == "__main__":
    main()
