"""Children that end with their parent, however it ends, and signals that ask to end."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from farvox.children import END, OF_ANY_PROGRAM, child, on_signals, signals_held_back

SLEEPS = "from farvox.children import end_with_parent as end; import time; end(); time.sleep(60)"
BUSY = "from farvox.children import end_with_parent as end; end()\nwhile True: sum(range(10000))"
DEAF = "from farvox.children import end_with_parent as end; end(); sum(range(10**11))"
OF_SUBPROCESS = """
import sys, time
from farvox.children import child
with child(sys.argv[1:]), child(sys.argv[1:]):
    print("started", flush=True)
    time.sleep(60)
"""
OF_MULTIPROCESSING = """
import multiprocessing, sys, time
from farvox.children import end_with_parent

def work():
    end_with_parent()
    time.sleep(60)

if __name__ == "__main__":
    start = multiprocessing.get_context(sys.argv[1]).Process
    children = [start(target=work) for _ in range(3)]
    for each in children:
        each.start()
    print("started", flush=True)
    time.sleep(60)
"""
OF_A_THREAD = """
import sys, threading, time
from farvox.children import child
stack = []

def begin():
    stack.append(child(sys.argv[1:]))
    stack[0].__enter__()

thread = threading.Thread(target=begin)
thread.start()
thread.join()
print("started", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.parametrize(
    ("program", "words", "count"),
    [
        pytest.param(OF_SUBPROCESS, [sys.executable, "-c", SLEEPS], 2, id="subprocess"),
        pytest.param(OF_SUBPROCESS, [sys.executable, "-c", BUSY], 2, id="busy"),
        pytest.param(
            OF_SUBPROCESS, [sys.executable, "-c", DEAF], 2, id="in one call that lets no thread run"
        ),
        pytest.param(OF_SUBPROCESS, [*OF_ANY_PROGRAM, "sleep", "60"], 4, id="any program"),
        pytest.param(OF_A_THREAD, [sys.executable, "-c", SLEEPS], 1, id="of a thread that is gone"),
        pytest.param(OF_MULTIPROCESSING, ["fork"], 3, id="forked"),
        pytest.param(OF_MULTIPROCESSING, ["spawn"], 4, id="spawned"),  # and its tracker of resources
    ],
)
def test_children_end_with_a_parent_that_is_ended(
    program, words, count, number, tmp_path, running, wait_until
):
    script = tmp_path / "script.py"
    script.write_text(program)
    parent = subprocess.Popen(
        [sys.executable, str(script), *words], stdout=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdout is not None and parent.stdout.readline() == b"started\n"
    wait_until(lambda: len(running(parent.pid)) == count + 1)
    time.sleep(0.3)  # into their work
    parent.send_signal(number)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not running(parent.pid), 30)  # long before they would end by themselves


def test_a_child_ends_with_its_block_whatever_it_does():
    words = [sys.executable, "-c", f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{BUSY}"]
    with pytest.raises(KeyError), child(words) as process:
        raise KeyError
    assert process.returncode != 0
    with child([*OF_ANY_PROGRAM, sys.executable, "-c", "raise SystemExit(7)"]) as process:
        assert process.wait() == 7
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with pytest.raises(FileNotFoundError), child(["/no/such/program"]):
            pass
    assert len(os.listdir("/dev/fd")) == before


def test_what_a_child_starts_does_not_take_itself_for_the_child():
    program = "import os, farvox.children as c; c.end_with_parent(); print(sorted(os.environ))"
    with child([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        names = set(re.findall(r"FARVOX_\w+", process.communicate()[0]))
    assert names <= {"FARVOX_CACHE", "FARVOX_CORPORA", "FARVOX_KEYS"}


def test_signals_that_are_ignored_stay_so_and_all_are_given_back():
    taken: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handlers = [signal.getsignal(number) for number in END]
    try:
        with on_signals(lambda number, frame: taken.append(number)):
            for number in END:
                os.kill(os.getpid(), number)
        assert taken == [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
        assert [signal.getsignal(number) for number in END] == handlers
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_kept_from_code_that_swallows_what_it_raises():
    def end(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), on_signals(end), signals_held_back():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            pytest.fail("it was not held back")
    with on_signals(end), signals_held_back():
        pass


def test_another_thread_than_the_main_one_takes_no_signals():
    done: list[bool] = []

    def work() -> None:
        with on_signals(signal.SIG_IGN):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
