"""The benchmarks: every stage is in the base, the docs show the base, and a lost ratio is seen."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("_bench", "run"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return runpy.run_path(str(BENCHMARKS / "run.py"), run_name="run")


def row(harness, name, ours, reference=(8.0, 8.0, 8.0), **more):
    fields = {"stage": "scoring", "name": name, "unit": "s", "ours": ours, "reference": list(reference)}
    return harness["row_of"]({**fields, **more})


def test_a_ratio_lost_by_more_than_a_fifth_fails(harness):
    base = [row(harness, "a", [1.0, 1.0, 1.0]), row(harness, "b", [2.0, 2.0, 2.0])]
    assert harness["lost"](base, base) == []
    slower = [row(harness, "a", [1.2, 1.2, 1.2]), row(harness, "b", [2.6, 2.6, 2.6])]
    assert [fault.split(":")[1].strip() for fault in harness["lost"](base, slower)] == ["b"]
    assert harness["lost"](base, base[:1]) == ["scoring: b: no longer measured"]


def test_a_slower_machine_loses_nothing(harness):
    base = [row(harness, "a", [1.0, 1.0, 1.0])]
    assert harness["lost"](base, [row(harness, "a", [3.0, 3.0, 3.0], (24.0, 24.0, 24.0))]) == []


def test_more_of_a_rate_is_better(harness):
    base = [row(harness, "a", [200.0], (50.0,), unit="samples/s")]
    assert base[0].ratio == 4
    assert len(harness["lost"](base, [row(harness, "a", [150.0], (50.0,), unit="samples/s")])) == 1


def test_targets_are_of_the_figure_or_of_the_ratio(harness):
    assert row(harness, "a", [1.0], (8.0,), target=["figure <=", 1.5]).reached is True
    assert row(harness, "a", [2.0], (8.0,), target=["figure <=", 1.5]).reached is False
    assert row(harness, "a", [2.0], (8.0,), target=["ratio >=", 4.0]).reached is True
    assert row(harness, "a", [90.0], (8.0,), unit="x", target=["figure >=", 100.0]).reached is False


def test_runs_of_the_same_rows_are_pooled(harness):
    pooled = harness["merged"]([row(harness, "a", [1.0], (8.0,))], [row(harness, "a", [2.0], (8.0,))])
    assert [each.ratios for each in pooled] == [[8.0, 4.0]]


@pytest.mark.skipif(not (BENCHMARKS / "results/base.json").exists(), reason="no base yet")
def test_the_base_knows_only_stages_that_there_are_and_the_docs_show_it(harness):
    found = json.loads((BENCHMARKS / "results/base.json").read_text())
    assert {fields["stage"] for fields in found["rows"]} <= set(harness["stages"]())
    assert harness["for_the_page"](found) in (BENCHMARKS.parent / "docs/performance.md").read_text()
