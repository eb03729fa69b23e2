import math
import os

import pytest

from farvox.errors import CorpusError
from farvox.jobs import in_processes


@pytest.mark.parametrize("jobs", [1, 3, None])
def test_results_come_in_order(jobs):
    assert list(in_processes(math.factorial, range(20), jobs, "here")) == [*map(math.factorial, range(20))]
    assert list(in_processes(math.factorial, [], jobs, "here")) == []


def test_a_process_that_dies_ends_the_work_with_a_word_on_what_to_do():
    with pytest.raises(CorpusError, match=r"out: a process was killed .* fewer --jobs: what is done is kept"):
        list(in_processes(os._exit, [1, 1, 1], 2, "out"))
