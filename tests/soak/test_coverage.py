"""Lines and branches of ``src/farvox`` that the whole suite reaches, in processes that tests start, too."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = """[run]
branch = true
source_pkgs = farvox
patch = subprocess
parallel = true
data_file = {folder}/.coverage
concurrency = multiprocessing, thread

[report]
exclude_also =
    if TYPE_CHECKING:
    ^\\s*\\.\\.\\.$
"""
ELSEWHERE = {
    "atomic.py": ('if sys.platform == "darwin":',),
    "audio/shards.py": ('if not hasattr(os, "pread"):  # Windows',),
    "machine.py": (
        'if not sys.platform.startswith("linux"):',
        "return bool(torch.cuda.is_bf16_supported(including_emulation=False))",
    ),
    "training/distributed.py": ('if kind == "cuda":',),
    "zoo/onnx_backend.py": ('if hasattr(os, "sched_getaffinity"):', "return os.cpu_count() or 1"),
}
"""Statements for GPUs and other systems, by their first line; what they hold is not counted."""
MOST_LINES_ELSEWHERE = 60


def lines_elsewhere(path: str) -> set[int]:
    """Lines of a module that run on other machines only."""
    text = (ROOT / path).read_text(encoding="utf-8")
    lines, found = text.splitlines(), set()
    for first in ELSEWHERE.get(path.removeprefix("src/farvox/"), ()):
        nodes = [
            node
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.stmt) and lines[node.lineno - 1].strip() == first
        ]
        assert len(nodes) == 1, f"{path}: {first!r} is there {len(nodes)} times"
        found |= set(range(nodes[0].lineno, (nodes[0].end_lineno or nodes[0].lineno) + 1))
    return found


def test_the_lines_for_other_machines_are_few_and_there():
    paths = [f"src/farvox/{name}" for name in ELSEWHERE]
    assert sum(len(lines_elsewhere(path)) for path in paths) <= MOST_LINES_ELSEWHERE


def test_the_suite_reaches_nearly_every_line_and_branch(tmp_path, tell):
    pytest.importorskip("coverage", reason="needs coverage, which 'make soak' installs")
    folder = Path(os.environ.get("FARVOX_COVERAGE", tmp_path))
    (folder / "settings").write_text(SETTINGS.format(folder=folder))
    coverage = [sys.executable, "-m", "coverage"]
    settings = f"--rcfile={folder / 'settings'}"
    if not any(folder.glob(".coverage*")):
        both = ["-n", "2", "--dist", "worksteal"]
        suite = ["run", settings, "-m", "pytest", "-q", "-p", "no:cacheprovider", *both, "tests"]
        done = subprocess.run([*coverage, *suite], cwd=ROOT, capture_output=True, text=True)
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        print(*failed, sep="\n")  # limits of time and memory may not hold where every line is traced
        tell("the suite, traced", says=done.stdout.splitlines()[-1])
        assert done.returncode in (0, 1), done.stdout + done.stderr
        subprocess.run([*coverage, "combine", settings, "-q"], cwd=ROOT, check=True)
    report = folder / "report.json"
    ours = f"--include={ROOT}/src/farvox/*"  # tests install wheels elsewhere, too
    subprocess.run([*coverage, "json", settings, ours, "-q", "-o", str(report)], cwd=ROOT, check=True)
    lines, branches = [0, 0], [0, 0]
    missing = []
    for path, found in json.loads(report.read_text())["files"].items():
        elsewhere = lines_elsewhere(os.path.relpath(ROOT / path, ROOT))
        missed = [line for line in found["missing_lines"] if line not in elsewhere]
        missed_branches = [one for one, _ in found["missing_branches"] if one not in elsewhere]
        summary = found["summary"]
        lines[0] += summary["num_statements"]
        lines[1] += len(missed)
        branches[0] += summary["num_branches"]
        branches[1] += len(missed_branches)
        missing += [f"{path}: {missed}"] if missed else []
    shares = [1 - missed / every for every, missed in (lines, branches)]
    tell("coverage", lines=f"{shares[0]:.1%} of {lines[0]:,}", branches=f"{shares[1]:.1%} of {branches[0]:,}")
    assert shares[0] >= 0.95 and shares[1] >= 0.90, "\n".join(missing)
