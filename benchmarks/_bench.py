"""What every benchmark shares: two things timed in turn, and a row for the table of ``make bench``.

A stage is a script of its own. It makes its data, and calls `Bench.compare` for each thing it measures:

    bench = Bench(__doc__)          # adds --json, --repeats, --quick, --clock; further options as usual:
    bench.parser.add_argument("--trials", type=int, default=1_000_000)
    options = bench.parse()
    bench.compare(
        "cosine, 1 M trials",       # unique within the script; bench-check compares by it
        ours=lambda: scores(...),
        reference=lambda: loop(part),  # the baseline's algorithm, with the calls the original used
        reference_share=0.02,       # it did this share of the work: its time is divided by it
        target=at_most(0.15),       # of our figure; or at_least(2000); or times(4), of the ratio
        published=6.1,              # the reference's figure in the study of the peers
        floor=0.03, floor_is="12.8 GFLOP at 400 GFLOP/s",
    )
    bench.finish()                  # the rows go to the file of --json

Figures are seconds, less is better. With ``count=3200, unit="samples/s"`` they are ``count / seconds``, and
more is better. Where a stage must time itself (workers, subprocesses), `Bench.record` takes the figures as
lists, one a repeat, taken in turn. The reference is timed right after ours in every repeat, so that a ratio
is of two neighbours in time: on a shared machine figures drift, ratios hold. A ratio is above 1 where ours is
faster. On a machine that is busy with other things, ``--clock cpu`` counts processor seconds, of all threads.

`run.py` finds every script here whose name has no leading underscore, runs them one after the other, and
prints one table; with ``--check`` it fails on a ratio below 0.8 of that in ``results/base.json``, which
holds the figures of each kind of machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

LESS_IS_BETTER = ("s", "GB")
LOST = 0.8
"""A ratio below this share of the one in the base is lost."""


class Target(NamedTuple):
    """What is to be reached: of our ``figure`` (at most or at least), or of the ``ratio`` (at least)."""

    of: str
    bound: float


def at_most(figure: float) -> Target:
    """Our figure may not be above this one (seconds)."""
    return Target("figure <=", figure)


def at_least(figure: float) -> Target:
    """Our figure may not be below this one (a rate)."""
    return Target("figure >=", figure)


def times(ratio: float) -> Target:
    """Ours should be so many times as fast as the reference."""
    return Target("ratio >=", ratio)


@dataclass
class Row:
    """One thing measured. Figures are kept as measured, one a repeat; all else follows from them.

    Attributes:
        stage: the script.
        name: what was measured; unique within the stage.
        unit: "s" or "GB", less is better; anything else is a rate, more is better.
        ours: our figures.
        reference: those of the reference, each measured next to ours.
        reference_is: what the reference is.
        target: see `Target`; None where none is set.
        published: the reference's figure in the study of the peers, from a machine of the same kind.
        floor: the figure that the machine would allow.
        floor_is: where that comes from.
        note: what else a reader must know.
    """

    stage: str
    name: str
    unit: str
    ours: list[float]
    reference: list[float]
    reference_is: str = ""
    target: Target | None = None
    published: float | None = None
    floor: float | None = None
    floor_is: str = ""
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """How many times as fast as the reference, by repeat."""
        pairs = zip(self.ours, self.reference, strict=True)
        return [other / mine if self.unit in LESS_IS_BETTER else mine / other for mine, other in pairs]

    @property
    def ratio(self) -> float:
        """The median of `ratios`."""
        return statistics.median(self.ratios)

    @property
    def figure(self) -> float:
        """The median of ours."""
        return statistics.median(self.ours)

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None where none is set."""
        if self.target is None:
            return None
        if self.target.of == "figure <=":
            return self.figure <= self.target.bound
        return (self.ratio if self.target.of == "ratio >=" else self.figure) >= self.target.bound


@dataclass
class Bench:
    """The rows of one script; see the head of this module.

    Attributes:
        doc: the script's docstring, shown by --help.
        repeats: how often each thing is timed, unless --repeats says otherwise.
    """

    doc: str | None
    repeats: int = 3
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stage = Path(sys.argv[0]).stem
        self.parser = argparse.ArgumentParser(
            description=self.doc, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.parser.add_argument("--json", type=Path, help="where the rows go")
        self.parser.add_argument("--repeats", type=int, default=self.repeats)
        self.parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
        self.parser.add_argument("--quick", action="store_true", help="small sizes: does the script work?")

    def parse(self) -> argparse.Namespace:
        """The options."""
        options = self.parser.parse_args()
        self.repeats, self._json, self._clock = options.repeats, options.json, options.clock
        return options

    def compare(
        self,
        name: str,
        *,
        ours: Callable[[], object],
        reference: Callable[[], object],
        reference_share: float = 1.0,
        count: float | None = None,
        unit: str = "s",
        warm: bool = True,
        **more: Any,
    ) -> Row:
        """Time ours and the reference in turn. Further keywords are those of `Row`.

        Args:
            name: see `Row`.
            ours: the work.
            reference: the same work, the other way, or a share of it.
            reference_share: how much of the work the reference does.
            count: how many things the work is about, for a rate.
            unit: of the figure; a rate's where ``count`` is given.
            warm: whether to run ours once before, uncounted.
        """
        if warm:
            ours()
        mine, other = [], []
        for _ in range(self.repeats):
            mine.append(self.seconds(ours))
            other.append(self.seconds(reference) / reference_share)
        if count is not None:
            mine, other = [count / took for took in mine], [count / took for took in other]
        return self.record(name, mine, other, unit=unit, **more)

    def record(
        self, name: str, ours: Sequence[float], reference: Sequence[float], unit: str = "s", **more: Any
    ) -> Row:
        """A row of figures that were taken elsewhere, in turn. Keywords as those of `Row`."""
        row = Row(self.stage, name, unit, list(ours), list(reference), **more)
        self.rows.append(row)
        print(f"  {name}: {told(row.figure)} {unit}, {row.ratio:.3g} x the reference", flush=True)
        return row

    def seconds(self, work: Callable[[], object]) -> float:
        """How long it takes, by the clock that was asked for."""
        clock = time.perf_counter if self._clock == "wall" else processor_seconds
        start = clock()
        work()
        return clock() - start

    def finish(self) -> None:
        """Write the rows to the file of --json."""
        if self._json:
            self._json.write_text(json.dumps([asdict(row) for row in self.rows]))


def peak_of_products() -> float:
    """FLOP a second of a product of float32 matrices, on all cores: the best of a few."""
    import numpy

    a = numpy.random.default_rng(0).standard_normal((4096, 4096), dtype=numpy.float32)
    out, took = numpy.empty_like(a), []
    for _ in range(6):
        start = time.perf_counter()
        numpy.matmul(a, a, out=out)
        took.append(time.perf_counter() - start)
    return float(2 * len(a) ** 3 / min(took))


def processor_seconds() -> float:
    """What this process and its children that have ended took of the processors."""
    mine, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def row_of(fields: dict[str, Any]) -> Row:
    """A row as it was written to JSON."""
    target = fields.get("target")
    return Row(**{**fields, "target": None if target is None else Target(*target)})


def machine() -> dict[str, str | int]:
    """What the figures depend on."""
    model = platform.processor() or platform.machine()
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = dict(
            line.split(":", 1) for line in cpuinfo.read_text().split("\n\n")[0].splitlines() if ":" in line
        )
        found = {key.strip(): value.strip() for key, value in lines.items()}
        model = found.get("model name", model)
        # The last but one tells Zen 5 from Zen 4, where the model says no more than who made it.
        wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vp2intersect", "amx_bf16")
        flags = " ".join(flag for flag in wanted if flag in found.get("flags", "").split())
    import numpy

    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "flags": flags,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def told(figure: float) -> str:
    """Three digits of a figure."""
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"
