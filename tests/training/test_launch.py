"""Ranks of one run: who fails, is heard, and leaves nobody behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tomli_w

from farvox.children import END
from farvox.options import merge
from farvox.training.launch import LOST_STATUS, launch_ranks


def ranks(program, count=2):
    return launch_ranks([sys.executable, "-c", program], count)


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


def test_a_rank_that_stands_still_is_ended_when_the_others_have_told(capfd, monkeypatch):
    monkeypatch.setattr("farvox.training.launch.SECONDS_TO_LEAVE", 0.5)
    program = f"""
import os, sys, time
if os.environ["RANK"] == "0":
    time.sleep(600)
print("rank 0 is missing", file=sys.stderr)
sys.exit({LOST_STATUS})
"""
    assert ranks(program) == LOST_STATUS
    assert capfd.readouterr().err == "rank 1: rank 0 is missing\n"


def test_a_rank_that_is_killed_is_named(capfd):
    program = "import os; os.environ['RANK'] == '1' and os.kill(os.getpid(), 9)"
    assert ranks(program) == -signal.SIGKILL
    assert "rank 1 was ended by signal 9" in capfd.readouterr().err


@pytest.fixture
def started(in_session, wait_until):
    """A function that starts a launcher, whose ranks have written a file each when it returns."""

    def started(rank_program, folder, count=2):
        program = (
            "import sys; from farvox.training.launch import launch_ranks; "
            f"sys.exit(launch_ranks([sys.executable, '-c', {rank_program!r}], {count}))"
        )
        launcher = in_session([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
        wait_until(lambda: len(list(folder.iterdir())) == count)
        return launcher

    return started


RANK = """
import os, signal, time
from farvox.children import END, end_with_parent
end_with_parent()
seen = []
place = {folder!r} + "/" + os.environ["RANK"]

def note(number, frame):
    seen.append(number)
    open(place, "a").write(f"{{number}} ")

for number in END:
    signal.signal(number, note)
open(place, "w").close()
while not seen:
    time.sleep(0.01)
time.sleep({seconds})
raise SystemExit(128 + seen[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", END, ids=lambda number: number.name)
@pytest.mark.parametrize("by", [os.kill, os.killpg])
def test_every_rank_is_asked_once_to_end(by, number, tmp_path, running, started):
    launcher = started(RANK.format(folder=str(tmp_path), seconds=0.5), tmp_path)
    by(launcher.pid, number)
    assert launcher.wait(30) == 128 + number and launcher.stderr.read() == ""
    assert [path.read_text() for path in tmp_path.iterdir()] == [f"{number.value} "] * 2
    assert not running(launcher.pid)
    launcher.stderr.close()


@pytest.mark.slow
def test_ranks_that_were_asked_to_end_may_take_their_time(tmp_path, started):
    launcher = started(RANK.format(folder=str(tmp_path), seconds=7), tmp_path)
    start = time.monotonic()
    launcher.terminate()
    assert launcher.wait(30) == 128 + signal.SIGTERM
    assert time.monotonic() - start > 6
    launcher.stderr.close()


def test_a_second_signal_ends_the_ranks_at_once(tmp_path, running, wait_until, started):
    launcher = started(RANK.format(folder=str(tmp_path), seconds=60), tmp_path)
    launcher.send_signal(signal.SIGTERM)
    wait_until(lambda: all(path.read_text() for path in tmp_path.iterdir()))
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(10) == 128 + signal.SIGTERM and "ended at once" in launcher.stderr.read()
    assert not running(launcher.pid)
    launcher.stderr.close()


def test_no_rank_outlives_a_launcher_that_is_killed(tmp_path, running, wait_until, started):
    launcher = started(RANK.format(folder=str(tmp_path), seconds=60), tmp_path)
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not running(launcher.pid), 30)
    launcher.stderr.close()


def test_a_program_that_knows_nothing_of_its_launcher_is_ended_too(tmp_path, running, wait_until, started):
    sleeper = f"import os, time; open({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w'); time.sleep(60)"
    launcher = started(sleeper, tmp_path)
    launcher.terminate()
    assert launcher.wait(20) != 0
    assert not running(launcher.pid)
    launcher.stderr.close()


def listening(pids):
    """Local addresses, in hexadecimal as the kernel has them, at which processes listen."""
    inodes, found = set(), []
    for pid in pids:
        with suppress(OSError):
            inodes |= {os.readlink(file)[8:-1] for file in Path(f"/proc/{pid}/fd").iterdir()}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.append(words[1].partition(":")[0])
    return found


@pytest.mark.slow
def test_two_processes_of_a_training_listen_to_this_machine_alone(tiny_recipe, tmp_path, running):
    recipe, run_dir = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(tomli_w.dumps(merge(tiny_recipe, {"schedule": {"epochs": 5}})))
    words = ["train", str(recipe), "--run-dir", str(run_dir), "--gpus", "2"]
    seen = set()
    with subprocess.Popen([sys.executable, "-m", "farvox", *words], start_new_session=True) as run:
        while run.poll() is None:
            seen |= {*listening(running(run.pid))}
            time.sleep(0.05)
    assert run.returncode == 0
    assert seen == {"0100007F"}
