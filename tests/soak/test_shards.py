"""Sixteen shards, three of them killed at random moments and started again, are joined as one run."""

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

VERBS = {
    "pack": "pack corpus out --shard-size 0.02 --jobs 1",
    "extract": "extract model corpus out --device cpu --threads 1 --backend torch",
}
SHARDS, KILLED = 16, 3


def start(words):
    return subprocess.Popen(
        [sys.executable, "-m", "farvox", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(words):
    with start(words) as process:
        said = process.communicate()[1]
    return process.returncode, said


def tree(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("verb", VERBS)
def test_killed_shards_are_started_again_and_joined(
    verb, tmp_path, monkeypatch, make_corpus, model_folder, tell
):
    monkeypatch.chdir(tmp_path)
    make_corpus(Path("corpus"), speakers=[f"s{n:03}" for n in range(130)])
    Path("model").symlink_to(model_folder)
    drawn, words = random.Random(0), VERBS[verb].split()
    assert finish(words)[0] == 0
    whole = tree("out")
    Path("out").rename("whole")
    order = drawn.sample(range(1, SHARDS + 1), SHARDS)
    to_kill, lost = drawn.sample(order[1:], KILLED), []
    seconds = 0.0  # of the last shard that was left alone
    for number in order:
        begun = time.monotonic()
        with start([*words, "--shard", f"{number}/{SHARDS}"]) as process:
            if number in to_kill:
                time.sleep(drawn.uniform(0, seconds))
                process.kill()
            process.communicate()
        seconds = seconds if number in to_kill else time.monotonic() - begun
        lost += [number] * (process.returncode != 0)
    assert set(lost) <= set(to_kill)
    status, said = finish(["join", "out"])
    named = [
        int(n) for text in re.findall(r"(?:never begun|not done): ([\d,]+)", said) for n in text.split(",")
    ]
    assert (status == 0) == (not named), said
    assert set(named) <= set(lost)  # one may have been done when its process was killed
    for number in named:
        assert finish([*words, "--shard", f"{number}/{SHARDS}"])[0] == 0
    assert not named or finish(["join", "out"])[0] == 0
    assert tree("out") == whole
    assert not Path("out.shards").exists() and not list(tmp_path.glob(".*"))
    tell(f"{SHARDS} shards of {verb}", killed=len(to_kill), unfinished=len(named), differing=0)
