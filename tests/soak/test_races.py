"""Twenty races of two writers for each kind of output; `tests/test_races.py` has the kinds and the check."""

import runpy
from pathlib import Path

import pytest

RACES = runpy.run_path(str(Path(__file__).parents[1] / "test_races.py"))
stage, write = RACES["stage"], RACES["write"]


@pytest.mark.parametrize("kind", RACES["KINDS"])
def test_two_writers_never_mix_and_never_leave_nothing(stage, write, kind, tell):
    tell(f"two writers: {kind}", **RACES["race"](stage, write, RACES["KINDS"][kind], times=20))
