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


def test_each_kind_of_machine_has_its_own_base(harness, monkeypatch, tmp_path, capsys):
    names = harness["write_base"].__globals__
    monkeypatch.setitem(names, "BASE", tmp_path / "base.json")
    monkeypatch.setitem(names, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(f"head\n{harness['BEGIN']}old{harness['END']}tail\n")
    one = {**harness["machine"](), "flags": "avx2"}
    other = {**one, "flags": "avx2 avx512f"}

    def found(on, stage, ours):
        return {
            "machine": on,
            "rows": [{"stage": stage, "name": "a", "unit": "s", "ours": [ours], "reference": [8.0]}],
        }

    for each in (found(one, "x", 1.0), found(other, "x", 4.0), found(one, "y", 1.0), found(one, "x", 2.0)):
        harness["write_base"](each)
    kept = [[(row["stage"], row["ours"]) for row in each["rows"]] for each in harness["read_base"]()]
    assert kept == [[("x", [2.0]), ("y", [1.0])], [("x", [4.0])]]
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("head\n") and page.endswith("tail\n") and "old" not in page
    assert page.count("(avx2), ") == page.count("(avx2 avx512f), ") == 1
    now = [row(harness, "a", [2.2], (8.0,), stage="x")]
    assert harness["check"](one, now, ["x"], []) == 0
    assert harness["check"]({**one, "cores": 99}, now, ["x"], []) == 1
    assert "has no figures of 99 cores" in capsys.readouterr().out


@pytest.mark.skipif(not (BENCHMARKS / "results/base.json").exists(), reason="no base yet")
def test_the_base_knows_only_stages_that_there_are_and_the_docs_show_it(harness):
    base = json.loads((BENCHMARKS / "results/base.json").read_text())
    kinds = [harness["kind_of"](found["machine"]) for found in base]
    assert len(set(kinds)) == len(kinds)
    assert {fields["stage"] for found in base for fields in found["rows"]} <= set(harness["stages"]())
    assert harness["for_the_page"](base) in (BENCHMARKS.parent / "docs/performance.md").read_text()
