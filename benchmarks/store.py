"""Identifying one of 100,000 enrolled speakers, against a plain loop over the rows of a file without secrets.

The loop reads every template from the file and compares it in numpy, as a store without anything in memory
would; its best speaker must be the same.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np
from _bench import Bench
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
    bench = Bench(__doc__)
    bench.parser.add_argument("--speakers", type=int, default=100_000)
    bench.parser.add_argument("--dim", type=int, default=192)
    options = bench.parse()
    options.speakers //= 50 if options.quick else 1
    rng = np.random.default_rng(0)
    rows_NE = rng.standard_normal((options.speakers, options.dim), dtype=np.float32)
    probes_PE = rng.standard_normal((20, options.dim), dtype=np.float32)
    figures: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speakers.sqlite")
        os.environ["FARVOX_KEYS"] = str(Path(folder, "keys"))
        enrolments = [enrolment(f"speaker{n:07}", row_E) for n, row_E in enumerate(rows_NE)]
        start = time.perf_counter()
        with SqliteStore(path) as store:
            store.add(*enrolments)
        figures.append(("enrolling all at once", time.perf_counter() - start))
        plain = Path(folder, "plain.sqlite")
        with sqlite3.connect(plain) as db:
            db.execute("CREATE TABLE enrolment (name TEXT, template BLOB)")
            rows = ((each.name, each.template_E.tobytes()) for each in enrolments)
            db.executemany("INSERT INTO enrolment VALUES (?, ?)", rows)
        expected = plain_loop(plain, probes_PE[0])
        size = path.stat().st_size / 1e6

        with SqliteStore(path) as store, SqliteStore(path) as other:
            start = time.perf_counter()
            found = store.best(probes_PE[0], DIGEST)[0][0]
            figures.append(("opening, loading and the first search", time.perf_counter() - start))
            assert found == expected, f"{found} was found, and {expected} by the loop"
            bench.compare(
                "a search among 100,000 enrolled speakers",
                ours=lambda: [store.best(probe_E, DIGEST, top=5) for probe_E in probes_PE],
                reference=lambda: plain_loop(plain, probes_PE[0]),
                reference_share=1 / len(probes_PE),
                count=len(probes_PE),
                unit="searches/s",
                reference_is="a loop over the rows of the file",
                floor=20e9 / (4 * options.dim * options.speakers),
                floor_is="one pass over the templates at 20 GB/s",
            )
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
    for what, seconds in figures:
        print(f"  {what:<42} {1000 * seconds:8.1f} ms")
    bench.finish()


if __name__ == "__main__":
    main()
