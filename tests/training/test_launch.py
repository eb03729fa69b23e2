"""Ranks of one run: who fails, is heard, and leaves nobody behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from farvox.training.launch import LOST_STATUS, launch_ranks


def ranks(program, count=2):
    return launch_ranks([sys.executable, "-c", program], count)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_rank_knows_its_place(tmp_path):
    names = "'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR'"
    write = f"open({str(tmp_path)!r} + '/' + e['RANK'], 'w').write(' '.join(e[n] for n in ({names})))"
    assert ranks(f"import os; e = os.environ; {write}", 3) == 0
    places = [(tmp_path / str(rank)).read_text() for rank in range(3)]
    assert places == [f"{rank} {rank} 3 127.0.0.1" for rank in range(3)]


def test_the_rank_that_fails_is_heard_and_ends_the_others(capfd):
    program = """
import os, sys, time
if os.environ["RANK"] == "1":
    print("utterance 'x' is damaged", file=sys.stderr)
    sys.exit(1)
time.sleep(60)
"""
    start = time.monotonic()
    assert ranks(program) == 1
    assert time.monotonic() - start < 30
    assert capfd.readouterr().err == "rank 1: utterance 'x' is damaged\n"


def test_a_rank_that_only_lost_the_others_is_not_the_one_to_blame(capfd):
    program = f"""
import os, sys, time
if os.environ["RANK"] == "0":
    sys.exit({LOST_STATUS})
time.sleep(0.5)
print("the reason", file=sys.stderr)
sys.exit(1)
"""
    assert ranks(program) == 1
    assert capfd.readouterr().err == "rank 1: the reason\n"


def test_a_rank_that_is_killed_is_named(capfd):
    program = "import os; os.environ['RANK'] == '1' and os.kill(os.getpid(), 9)"
    assert ranks(program) == -signal.SIGKILL
    assert "rank 1 was ended by signal 9" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_rank_outlives_its_launcher(number, tmp_path):
    sleeper = f"import os, time; open({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w'); time.sleep(60)"
    program = (
        "import sys; from farvox.training.launch import launch_ranks; "
        f"sys.exit(launch_ranks([sys.executable, '-c', {sleeper!r}], 2))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    while len(list(tmp_path.iterdir())) < 2:
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.send_signal(number)
    assert launcher.wait(20) != 0
    assert not any(is_alive(int(path.name)) for path in tmp_path.iterdir())
