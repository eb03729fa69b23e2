"""Mutants of the code whose faults nobody would see: 85 % and more are killed by the code's own tests.

mutmut changes a copy of the sources by a little at a time, and runs the tests that reach what it changed. The
mutants that survive are named at the end; `survivors.md` says why those that were looked at may.
``FARVOX_MUTANTS=DIR`` keeps the copies, so that a run that was interrupted goes on.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAST = 0.85
QUICK = ["-m", "not slow"]
PARTS = {
    "metrics": (["src/farvox/metrics/*.py"], ["tests/metrics"], QUICK),
    "training plan": (
        ["src/farvox/training/table.py"],
        ["tests/training/test_table.py", "tests/training/test_stream.py"],
        QUICK,
    ),
    "checkpoints": (
        ["src/farvox/training/checkpoint.py"],
        ["tests/training/test_checkpoint.py", "tests/training/test_damage.py"],
        QUICK,
    ),
    "saver": (
        ["src/farvox/training/saver.py"],
        ["tests/training/test_within.py"],
        ["-k", "not two_processes"],
    ),
    "manifests": (["src/farvox/manifest.py"], ["tests/test_manifest.py"], QUICK),
}
"""Of each part: what is changed, its tests, and which of them are run."""
SETTINGS = """[mutmut]
source_paths=
    src/farvox
only_mutate=
    {mutated}
process_isolation=forkserver
also_copy=
    src
    tests
    benchmarks
    recipes
    pyproject.toml
pytest_add_cli_args_test_selection=
    {tests}
pytest_add_cli_args=
    -p
    no:cacheprovider
    {which}
"""


@pytest.mark.parametrize("part", PARTS)
def test_the_tests_kill_most_mutants(part, tmp_path, tell):
    pytest.importorskip("mutmut", reason="needs mutmut, which 'make soak' installs")
    mutated, tests, which = ("\n    ".join(each) for each in PARTS[part])
    folder = Path(os.environ.get("FARVOX_MUTANTS", tmp_path)) / part.replace(" ", "-")
    for name in ("src", "tests", "benchmarks", "recipes"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "mutants/src").mkdir(parents=True, exist_ok=True)  # or Python remembers that it is not there
    (folder / "setup.cfg").write_text(SETTINGS.format(mutated=mutated, tests=tests, which=which))
    path = f"{folder}/mutants/src:{os.environ.get('PYTHONPATH', '')}"  # for processes that tests start
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    run = partial(subprocess.run, cwd=folder, env=env)
    with open(folder / "mutmut.log", "wb") as log:
        for words in (["run", "--max-children", str(os.cpu_count() or 1)], ["export-cicd-stats"]):
            run([sys.executable, "-m", "mutmut", *words], stdout=log, stderr=log)
    listed = run([sys.executable, "-m", "mutmut", "results"], capture_output=True, text=True)
    stats = json.loads((folder / "mutants/mutmut-cicd-stats.json").read_text())
    killed = stats["killed"] + stats["timeout"] + stats["segfault"] + stats["suspicious"]
    total = killed + stats["survived"] + stats["no_tests"]
    tell(f"mutants of {part}", killed=killed, of=total, share=f"{killed / total:.1%}")
    assert killed / total >= LEAST, listed.stdout
