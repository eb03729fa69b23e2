"""What `make soak` runs: hours of kills, races and fuzzing. No other target enters this folder.

Every test says what it did by ``tell``; the table at the end is made of that.
"""

from collections.abc import Callable

import pytest

COLUMN = "soak"


@pytest.fixture
def tell(record_property) -> Callable[..., None]:
    """Add a line to the table: ``tell("SIGKILL of a training", kills=200, torn=0)``."""

    def tell(what: str, **counts: object) -> None:
        record_property(COLUMN, (what, ", ".join(f"{name} {count}" for name, count in counts.items())))

    return tell


def pytest_itemcollected(item) -> None:
    item.add_marker("soak")


def pytest_terminal_summary(terminalreporter) -> None:
    rows = []
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            told = [value for name, value in report.user_properties if name == COLUMN]
            name = report.nodeid.removeprefix("tests/soak/")
            if report.when == "call" or outcome == "skipped":
                rows += [(what, counts, outcome, report.duration) for what, counts in told or [(name, "")]]
    if not rows:
        return
    wide, counts_wide = (max(len(row[n]) for row in rows) for n in (0, 1))
    terminalreporter.section("soak")
    for what, counts, outcome, seconds in rows:
        terminalreporter.write_line(f"{what:<{wide}}  {counts:<{counts_wide}}  {outcome:<7} {seconds:8.0f} s")
