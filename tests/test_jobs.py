import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farvox.atomic import atomic_file
from farvox.cache import file_state
from farvox.errors import FarvoxError, JobError
from farvox.jobs import Job, begin, cut, digest, processes, processes_of_one_thread, threads

EXECUTORS = (processes, processes_of_one_thread, threads)
pytestmark = pytest.mark.usefixtures("other_processes")


def squares(batch: range) -> bytes:
    return "".join(f"{number**2}\n" for number in batch).encode()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("jobs", [1, 3, None])
def test_results_come_in_order(executor, jobs):
    job = Job(what="factorials", note=print, jobs=jobs, executor=executor)
    assert list(job.run(math.factorial, range(20), count=lambda _: 1)) == [*map(math.factorial, range(20))]
    assert list(job.run(math.factorial, [])) == []


def number_and_process(number: int) -> tuple[int, int]:
    time.sleep(0.02)
    return number, os.getpid()


def test_short_work_is_done_in_this_process_and_the_rest_of_longer_work_in_others(monkeypatch):
    for alone, least in ((60, 8), (0.05, 1)):
        monkeypatch.setattr("farvox.jobs.ALONE", alone)
        found = list(Job(what="", note=print, jobs=2).run(number_and_process, range(8), count=lambda _: 1))
        assert [number for number, _ in found] == [*range(8)]
        is_here = [process == os.getpid() for _, process in found]
        assert is_here == sorted(is_here, reverse=True) and least <= sum(is_here)
    assert sum(is_here) < 8


def test_a_batch_is_a_run_of_items_and_every_item_is_in_one():
    assert cut(range(7), 3) == [range(3), range(3, 6), range(6, 7)]
    assert cut([], 3) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(kept=st.sets(st.integers(0, 9)), jobs=st.sampled_from([1, 2]))
def test_what_is_kept_and_the_rest_are_all(kept, jobs, tmp_path_factory):
    """The promise of the engine, whatever was kept; what is there is not computed again."""
    folder, computed = tmp_path_factory.mktemp("kept"), []

    def compute(batch: range) -> bytes:
        computed.append(batch.start // 3)
        return squares(batch)

    job = Job(what="squares", note=print, jobs=jobs, executor=threads)
    batches = cut(range(28), 3)
    whole = job.run_kept(compute, batches, folder / "all", ".txt")
    before = contents(folder / "all")
    assert [path.name for path in whole] == [f"{start:09d}.txt" for start in range(0, 28, 3)]
    for number, path in enumerate(whole):
        if number not in kept:
            path.unlink()
    computed.clear()
    assert job.run_kept(compute, batches, folder / "all", ".txt") == whole
    assert contents(folder / "all") == before
    assert sorted(computed) == sorted(set(range(10)) - kept)


def test_a_write_that_breaks_off_leaves_nothing(tmp_path):
    def fail_at_the_end(batch: range) -> bytes:
        return squares(batch) if batch.start < 6 else "no bytes"  # type: ignore[return-value]

    job = Job(what="squares", note=print, jobs=1)
    with pytest.raises(TypeError):
        job.run_kept(fail_at_the_end, cut(range(9), 3), tmp_path / "kept", ".txt")
    assert sorted(contents(tmp_path / "kept")) == ["000000000.txt", "000000003.txt"]


def test_a_run_that_goes_on_counts_what_is_done(tmp_path):
    lines: list[str] = []
    job = Job(what="squares", note=lines.append, jobs=1, text=lambda: "all well")
    batches = cut(range(9), 3)
    job.run_kept(squares, batches[:2], tmp_path, ".txt")
    list(job.run(squares, batches[2:], done=6))
    assert lines == []  # all in less than ten seconds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farvox.progress.SECONDS_BETWEEN_LINES", 0)
        job.run_kept(squares, batches, tmp_path, ".txt")
    (line,) = lines
    assert line.startswith("squares: 9 of 9, ") and line.endswith(", all well")


def dies_once(mark: Path) -> str:
    """Ends its process, as the system does without memory, where nobody did so before."""
    with atomic_file(mark) as half_written:
        if not mark.exists():
            mark.touch()
            os._exit(1)
        half_written.touch()
    return mark.name


def test_a_process_that_dies_ends_the_work_and_it_can_be_started_again(tmp_path):
    job = Job(what="copies made", note=print, jobs=2, kept=tmp_path)
    marks = [tmp_path / "a"] * 3
    with pytest.raises(JobError, match=rf"copies made.* killed .* of 3 .*start again.* kept in {tmp_path}"):
        list(job.run(dies_once, marks, count=lambda _: 1))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert list(job.run(dies_once, marks, count=lambda _: 1)) == ["a"] * 3


def test_an_error_in_a_process_is_that_of_the_function():
    for executor in EXECUTORS:
        job = Job(what="", note=print, jobs=2, executor=executor)
        with pytest.raises(ValueError):
            list(job.run(math.factorial, [2, 1, -1], count=int))


def test_processes_of_one_thread_have_the_environment_of_one_and_leave_ours_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    for jobs in (1, 2):
        job = Job(what="", note=print, jobs=jobs, executor=processes_of_one_thread)
        assert list(job.run(os.getenv, ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])) == ["1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


def test_a_folder_begun_with_other_settings_is_refused_and_the_difference_shown(tmp_path):
    path = tmp_path / "out/simulate.json"
    before = {"seed": 0, "snr": (5.0, 20.0), "source": digest("abc"), "kind": "copies"}
    begin(path, before)
    begin(path, before)
    for change, shown in (
        ({"seed": 1}, r"\(seed 0, now 1\)"),
        ({"snr": [5, 10]}, r"\(snr \[5\.0, 20\.0\], now \[5, 10\]\)"),
        ({"source": digest("abd")}, r"\(other: source\)"),
        ({"seed": 1, "copies": 2}, r"\(seed 0, now 1; copies null, now 2\)"),
    ):
        with pytest.raises(JobError, match=rf"out: was begun with other settings {shown}.* remove .*out"):
            begin(path, before | change)
    begin(path, before | {"seed": 1}, free=("seed",))
    begin(path, before | {"talker": "alike"}, defaults={"talker": "alike"})  # an earlier program had no such
    with pytest.raises(JobError, match=r'\(talker "alike", now "turned"\)'):
        begin(path, before | {"talker": "turned"}, defaults={"talker": "alike"})
    begin(path, {"seed": 0})  # an earlier program wrote more than is asked for
    assert json.loads(path.read_text())["snr"] == [5.0, 20.0]


def test_a_folder_of_other_things_and_settings_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FarvoxError, match="holds other things"):
        begin(tmp_path / "simulate.json", {})
    for text in ("{", "[1]"):
        (tmp_path / "simulate.json").write_text(text)
        with pytest.raises(JobError, match=r"simulate\.json: cannot be read .* remove"):
            begin(tmp_path / "simulate.json", {"seed": 0})


def test_what_was_made_from_replaced_files_or_is_gone_is_made_again(tmp_path, monkeypatch):
    sources, copies = ([tmp_path / f"{kind}-{number}" for number in range(6)] for kind in ("source", "copy"))
    for source in sources:
        source.write_bytes(b"before")
    lines: list[str] = []

    def copy(batch: range) -> bytes:
        for number in batch:
            copies[number].write_bytes(sources[number].read_bytes())
        return b"done"

    def fingerprint(batch: range) -> str:
        return digest(map(file_state, (sources[number] for number in batch)))

    def outputs(batch: range, content: bytes) -> list[Path]:
        assert content == b"done"
        return [copies[number] for number in batch]

    def run() -> list[str]:
        lines.clear()
        job = Job(what="copies made", note=lines.append, jobs=1, executor=threads)
        job.run_kept(copy, cut(range(6), 2), tmp_path / "kept", ".txt", inputs=fingerprint, outputs=outputs)
        return lines

    def replace(path: Path, content: bytes) -> None:  # of the same size and time
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_bytes(content)
        os.utime(path, ns=times)

    assert run() == [] and run() == []
    os.utime(sources[1], ns=(0, 0))
    copies[4].unlink()
    (line,) = run()
    assert line.startswith(
        "copies made: 4 of 6 are done again, because files that they are made from were replaced"
    )
    assert copies[4].exists() and run() == []
    replace(sources[0], b"after!")
    assert run() == []  # size and time are as they were
    monkeypatch.setenv("FARVOX_FINGERPRINT", "digest")
    assert "6 of 6" in run()[0]  # the earlier runs took no digests
    assert copies[0].read_bytes() == b"after!"
    replace(sources[0], b"later!")
    assert "2 of 6" in run()[0] and copies[0].read_bytes() == b"later!"


def test_a_batch_that_fails_when_made_again_is_not_taken_for_done(tmp_path):
    source = tmp_path / "source"

    def work(batch: range) -> bytes:
        return source.read_bytes()

    def run() -> bytes:
        job = Job(what="copies made", note=print, jobs=1, executor=threads)
        (path,) = job.run_kept(
            work, [range(1)], tmp_path / "kept", ".txt", inputs=lambda _: str(source.exists())
        )
        return path.read_bytes()

    source.write_bytes(b"1")
    assert run() == b"1"
    source.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            run()


SCRIPT = """
import sys, time
from pathlib import Path
import farvox.jobs
from farvox.jobs import Job, cut
from farvox.atomic import write_text
farvox.jobs.ALONE = 0

def work(batch):
    out = Path(sys.argv[1])
    for number in batch:
        while len(list((out / "files").glob("[0-9]*"))) >= int(sys.argv[3]):
            time.sleep(0.01)  # until it is ended
        write_text(out / "files" / f"{number}.txt", f"{number**3}")
    return str(list(batch)).encode()

if __name__ == "__main__":
    job = Job(what="cubes", note=print, jobs=int(sys.argv[2]))
    job.run_kept(work, cut(range(40), 3), Path(sys.argv[1], "batches"), ".txt")
"""


def start(folder: Path, jobs: int, most: int = 41) -> "subprocess.Popen[str]":
    """Begin to write forty files; when ``most`` of them are there, the work waits for its end."""
    (folder.parent / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(folder.parent / "script.py"), str(folder), str(jobs), str(most)]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, start_new_session=True)


def run_to_the_end(folder: Path, jobs: int) -> dict[str, bytes]:
    with start(folder, jobs) as process:
        process.communicate()
    assert process.returncode == 0
    return tree(folder)


def tree(folder: Path) -> dict[str, bytes]:
    names = {"files": "[0-9]*", "batches": "[0-9]*"}
    return {
        f"{part}/{path.name}": path.read_bytes()
        for part, name in names.items()
        for path in (folder / part).glob(name)
    }


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_that_is_killed_goes_on_and_ends_the_same(jobs, tmp_path, running, wait_until):
    """Killed outright in the middle, three times; the processes it started end with it."""
    whole = run_to_the_end(tmp_path / "whole", jobs)
    for most in (6, 12, 20):
        with start(tmp_path / "cut", jobs, most) as process:
            wait_until(lambda n=most: len([*tmp_path.glob("cut/files/[0-9]*")]) >= n)
            process.kill()
        wait_until(lambda session=process.pid: not running(session), 30)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut/batches").glob("[0-9]*")}
    assert 0 < len(done) < 14
    assert run_to_the_end(tmp_path / "cut", jobs) == whole
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [True, False], ids=["by Ctrl-C", "by a signal to the program"])
def test_an_interrupted_run_leaves_no_process_and_no_half_written_file(to_all, tmp_path, running, wait_until):
    with start(tmp_path / "out", 2, 5) as process:
        wait_until(lambda: len(tree(tmp_path / "out")) > 4)
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert errors.count("Traceback") <= 2, errors  # of the program and of the batch that it waited for
    assert errors.rstrip().endswith("KeyboardInterrupt")
    wait_until(lambda: not running(process.pid), 30)
    assert not list(tmp_path.rglob(".tmp-*"))
    assert len(run_to_the_end(tmp_path / "out", 1)) == 40 + 14


def naps(mark: Path) -> None:
    try:
        mark.touch()
        time.sleep(300 if mark.name != "0" else 0.5)
    finally:
        mark.with_suffix(".left").touch()


def test_work_that_is_given_up_interrupts_what_is_under_way(tmp_path, wait_until):
    job = Job(what="naps", note=print, jobs=2)
    start = time.monotonic()
    for _ in job.run(naps, [tmp_path / str(number) for number in range(4)], count=lambda _: 1):
        wait_until(lambda: len([*tmp_path.glob("[1-3]")]) > 1)
        break
    assert time.monotonic() - start < 200
    assert {path.stem for path in tmp_path.glob("*.left")} == {path.name for path in tmp_path.glob("[0-3]")}


AIMED = """
import os, signal, sys, threading, time
import farvox.jobs
from farvox.jobs import Job
farvox.jobs.ALONE = 0

class Ended(KeyboardInterrupt): ...

def end(*_):
    raise Ended

def aim():
    end = time.monotonic() + 1
    while time.monotonic() < end:
        code = sys._current_frames()[threading.main_thread().ident].f_code
        if code.co_name == "__enter__" and code.co_filename == threading.__file__:
            break
    os.kill(os.getpid(), signal.SIGTERM)

if __name__ == "__main__":
    sys.setswitchinterval(1e-6)
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=aim, daemon=True).start()
    for _ in Job(what="", note=print, jobs=2).run(abs, range(300_000), count=lambda _: 1):
        pass
"""


@pytest.mark.slow
def test_a_signal_that_comes_while_a_lock_of_the_pool_is_taken_ends_the_work(tmp_path):
    """Every other time it left the lock locked, and the program waited for ever."""
    (tmp_path / "script.py").write_text(AIMED)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=60
        )
        assert done.returncode == 1 and done.stderr.rstrip().endswith("Ended")
