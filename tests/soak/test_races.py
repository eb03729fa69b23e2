"""Twenty races of two writers for each kind of output; `tests/test_races.py` has the kinds and the check."""

import random
import runpy
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

RACES = runpy.run_path(str(Path(__file__).parents[1] / "test_races.py"))
stage, write = RACES["stage"], RACES["write"]


@pytest.mark.parametrize("kind", RACES["KINDS"])
def test_two_writers_never_mix_and_never_leave_nothing(stage, write, kind, tell):
    tell(f"two writers: {kind}", **RACES["race"](stage, write, RACES["KINDS"][kind], times=20))


WARM = (
    "import sys, {}; from farvox.cli.main import main; print(flush=True); sys.stdin.readline(); "
    "sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.parametrize(
    ("kind", "imports"), [("subset again", "polars"), ("average again", "polars, torch")]
)
def test_after_a_kill_the_old_or_the_new_is_there(stage, kind, imports, tell):
    """As it lies there, before anything of farvox looks at it; the same command goes through afterwards."""
    here = RACES["KINDS"][kind]
    out, words = stage / here.out, [here.out if word == "OUT" else word for word in here.other.split()]
    rng, seconds, found = random.Random(40), 1.0, Counter()
    for number in range(-1, 40):  # the first is not killed
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(stage / here.before, out)
        command = [sys.executable, "-c", WARM.format(imports), *words]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=stage, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as writer:
            writer.stdout.readline()
            writer.stdin.write("go\n")
            writer.stdin.flush()
            start = time.monotonic()
            if number < 0:
                assert writer.wait() == 0
                seconds = time.monotonic() - start
                new = RACES["tree"](out)
                continue
            time.sleep(rng.uniform(0, seconds))
            writer.kill()
        is_new = RACES["tree"](out) == new
        assert is_new or RACES["tree"](out) == RACES["tree"](stage / here.before)
        found["new" if is_new else "old"] += 1
        if number % 8 == 0:
            assert subprocess.run([sys.executable, "-m", "farvox", *words], cwd=stage).returncode == 0
            assert RACES["tree"](out) == new
            assert [path for path in stage.iterdir() if path.name.startswith(".")] == []
    tell(f"SIGKILL of {here.other.split()[0]} onto an existing output", kills=40, **found)
