"""SIGKILL at random moments, and what must hold after each: for tests/end_to_end and tests/soak."""

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import tomli_w

from farvox.options import merge
from farvox.training.checkpoint import checkpoints_of, faults_of

LEFT = (".tmp-*", ".lock-*", ".incoming*", ".old-*", ".mix-*", "*.unfinished")
"""Names of what a run that is whole leaves nowhere."""
OF_LIBRARIES = ("torchinductor_", ".ses")  # what torch and onnxruntime keep among temporary files for ever
SECONDS_TO_END = 120.0  # a second where nothing else runs; the slowest is told, and a hang has no end


def running(session: int) -> dict[int, str]:
    """The processes of a session that still run, by number: their words."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
    return found


@dataclass
class Tally:
    """Counts of a series of kills."""

    kills: int = 0
    launcher_alone: int = 0
    while_a_checkpoint_is_written: int = 0
    torn: int = 0
    runs_to_the_end: int = 0
    slowest_end: float = 0.0
    left: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """For ``tell``."""
        counts = {name.replace("_", " "): value for name, value in vars(self).items() if name != "left"}
        named = {name: value for name, value in counts.items() if value or name == "torn"}
        return {**named, "slowest end": f"{self.slowest_end:.2f} s", "left": len(self.left)}


AT_ONCE = ("-c", "import farvox.jobs; farvox.jobs.ALONE = 0; import farvox.__main__")
"""As ``-m farvox``, and where a verb takes several processes, they are started at once."""


@dataclass
class Shell:
    """Runs ``farvox`` in a folder with a cache and a folder for temporary files of its own.

    The latter is short enough for the paths of sockets, as that of a user is.
    """

    folder: Path
    temporary: Path
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *words: object) -> "subprocess.Popen[bytes]":
        """A command in a session of its own; what it prints is in ``said.txt``."""
        own = {"TMPDIR": str(self.temporary), "FARVOX_CACHE": str(self.folder / "cache")}
        own["FARVOX_KEYS"] = str(self.folder / "store" / "keys")  # which go with the store
        with (self.folder / "said.txt").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, *AT_ONCE, *map(str, words)],
                cwd=self.folder, env={**os.environ, **own, **self.env}, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip

    def run(self, *words: object, timeout: float = 300.0) -> float:
        """Run a command to its end; returns the seconds that it took."""
        start = time.monotonic()
        assert self.start(*words).wait(timeout) == 0, self.said()
        return time.monotonic() - start

    def said(self) -> str:
        """Output of the last command."""
        return (self.folder / "said.txt").read_text(errors="replace")

    def left(self) -> list[str]:
        """What should not be there any more."""
        found = [path for pattern in LEFT for path in self.folder.rglob(pattern)]
        found += [path for path in self.temporary.iterdir() if not path.name.startswith(OF_LIBRARIES)]
        return [str(path) for path in found]


def await_end(session: int, tally: Tally) -> None:
    """Wait until no process of a session runs; they must not take long."""
    start = time.monotonic()
    while left := running(session):
        assert time.monotonic() - start < SECONDS_TO_END, f"still running: {left}"
        time.sleep(0.01)
    tally.slowest_end = max(tally.slowest_end, time.monotonic() - start)


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files below a folder, by their names there, but for hidden ones and those of times."""
    names = {str(file.relative_to(folder)): file for file in files if file.is_file()}
    return {
        name: sha256(content_of(file)).hexdigest()
        for name, file in names.items()
        if "/." not in f"/{name}" and not name.endswith((".state", "-journal", ".keys", ".key"))
    }


def content_of(file: Path) -> bytes:
    """The bytes of a file: of a store those that count, of a report all but its minute."""
    if file.suffix == ".db":
        return rows_of(file).encode()
    content = file.read_bytes()
    return re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC", b"", content) if file.suffix == ".html" else content


def rows_of(database: Path) -> str:
    """Who is enrolled in a store: what a change that a kill cut short is when the store is next opened.

    Templates are sealed anew by each run; that they open is seen by the runs that follow.
    """
    with tempfile.TemporaryDirectory() as folder:
        for file in database.parent.glob(f"{database.name}*"):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder, database.name))) as opened:
            rows = opened.execute("SELECT name, model, num_recordings, seconds FROM enrolment")
            return str(sorted(rows))


def kill(process: "subprocess.Popen[bytes]", whom: str, rng: random.Random) -> bool:
    """SIGKILL of the command alone, of one of the processes that it started, or of all; False: too late."""
    others = [pid for pid in running(process.pid) if pid != process.pid]
    victims = {
        "launcher": [process.pid],
        "rank": others and [rng.choice(others)],
        "all": [process.pid, *others],
    }
    for pid in victims[whom]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(victims[whom]) and process.wait() != 0


def count_torn(run_dir: Path, whole: dict[str, str]) -> int:
    """Checkpoints of a run that are not whole, or not those of the undisturbed run."""
    return sum(
        bool(faults_of(folder))
        or any(
            whole.get(name, digest) != digest
            for name, digest in digests(run_dir, folder.glob("*.safetensors")).items()
        )
        for folder in checkpoints_of(run_dir)
    )


def kill_a_training(
    shell: Shell, recipe: Path, count: int, rng: random.Random, epochs: int, note: Callable[[str], object]
) -> Tally:
    """Kill trainings of two processes, each time resumed, and compare what they end with.

    Half of the kills are of the launcher alone, the others of a rank or of all processes. A quarter come
    while a checkpoint is written. Half of the resumes come at once, when ranks may not have ended yet.
    """
    tally, previous = Tally(), 0
    words = ("train", recipe, "--gpus", 2, "--schedule.epochs", epochs)
    seconds = shell.run(*words, "--run-dir", "whole", "--log.keep", epochs)
    whole = digests(shell.folder / "whole", shell.folder.glob("whole/checkpoints/*/*.safetensors"))
    note(f"an undisturbed run of {epochs} epochs takes {seconds:.0f} s")
    while True:
        run_dir = shell.folder / f"run{tally.runs_to_the_end}"
        whom = ("launcher", "all", "launcher", "rank")[tally.kills % 4]
        while_writing, is_killed = (tally.kills // 4 + tally.kills) % 4 == 3, False
        start = time.monotonic()
        process = shell.start(*words, "--run-dir", run_dir, "--log.keep", 2)
        if previous:
            await_end(previous, tally)
        moment = time.monotonic() + rng.uniform(0, 0.7 * seconds)
        while process.poll() is None and not is_killed and tally.kills < count:
            if time.monotonic() < moment:
                time.sleep(0.01)
            elif not while_writing or any((run_dir / "checkpoints").glob(".tmp-*")):
                time.sleep(rng.uniform(0, 0.003) if while_writing else 0)
                is_killed = kill(process, whom, rng)
            else:
                time.sleep(0.0005)
        if is_killed:
            previous = process.pid
            tally.kills += 1
            tally.launcher_alone += whom == "launcher"
            tally.while_a_checkpoint_is_written += while_writing
            if rng.random() < 0.5:
                await_end(previous, tally)
                tally.torn += count_torn(run_dir, whole)
            note(f"{tally.kills} of {count}: {whom}{' while writing' * while_writing}; {tally.counts()}")
            continue
        assert process.wait(600) == 0, shell.said()
        await_end(process.pid, tally)
        kept = [folder.name for folder in checkpoints_of(run_dir)]
        assert kept == [f"epoch_{epoch:03d}" for epoch in range(epochs)][-2:]
        tally.torn += count_torn(run_dir, whole)
        tally.left += shell.left()
        tally.runs_to_the_end += 1
        seconds = min(seconds, time.monotonic() - start)  # others use the machine less than they did
        note(f"run {tally.runs_to_the_end} ended after {tally.kills} kills: {tally.counts()}")
        if tally.kills == count:
            return tally
        shutil.rmtree(run_dir)
        previous = 0


@dataclass
class Case:
    """A verb that is killed.

    Attributes:
        words: of the command.
        outputs: what it writes, below the folder.
        whole: those of the outputs that are at any moment as before or as after.
        before: words of the command that made what was there before; empty: nothing was.
        volatile: tells files that differ from run to run.
    """

    name: str
    words: Sequence[object]
    outputs: Sequence[str]
    whole: Sequence[str]
    before: Sequence[object] = ()
    volatile: Callable[[str], bool] = lambda name: False


def kill_a_verb(
    shell: Shell, case: Case, count: int, rng: random.Random, note: Callable[[str], object]
) -> Tally:
    """Kill a verb at random moments, each time from the start, and run it again to its end."""
    tally = Tally()

    def contents(names: Sequence[str]) -> dict[str, str]:
        paths = [shell.folder / name for name in names]
        files = [file for path in paths for file in (path, *path.rglob("*")) if not case.volatile(file.name)]
        return digests(shell.folder, files)

    def put_back() -> None:
        for name in case.outputs:
            path, kept = shell.folder / name, shell.folder / "kept" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            if kept.is_dir():
                shutil.copytree(kept, path, symlinks=True)
            elif kept.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(kept, path)

    if case.before:
        shell.run(*case.before)
        for name in case.outputs:
            (shell.folder / "kept" / name).parent.mkdir(parents=True, exist_ok=True)
            (shell.folder / name).rename(shell.folder / "kept" / name)
    put_back()
    before = {name: contents([name]) for name in case.whole}
    seconds = shell.run(*case.words)
    after, all_of_it = {name: contents([name]) for name in case.whole}, contents(case.outputs)
    assert all_of_it and not shell.left(), shell.left()
    note(f"{case.name}: an undisturbed run takes {seconds:.1f} s")
    while tally.kills < count:
        put_back()
        process = shell.start(*case.words)
        time.sleep(rng.uniform(0, seconds))
        whom = ("launcher", "all")[tally.kills % 2]
        if not kill(process, whom, rng):
            continue
        if rng.random() < 0.5:
            await_end(process.pid, tally)
            for name in case.whole:
                if (now := contents([name])) not in (before[name], after[name]):
                    note(f"{case.name}: neither old nor new: {name} ({sorted(now)[:9]})")
                    tally.torn += 1
        tally.kills += 1
        shell.run(*case.words)
        await_end(process.pid, tally)
        tally.runs_to_the_end += 1
        if others := {name for name, _ in contents(case.outputs).items() ^ all_of_it.items()}:
            note(f"{case.name}: other than undisturbed: {sorted(others)[:9]}")
            tally.torn += 1
        tally.left += shell.left()
        note(f"{case.name}, {tally.kills} of {count}: {whom}; {tally.counts()} {' '.join(tally.left)}")
    return tally


def m4a_of(path: Path, pitch: float) -> None:
    """A second of a tone in the format of VoxCeleb2: AAC at 16 kHz, mono."""
    wav_T = (0.3 * np.sin(2 * np.pi * pitch * np.arange(16000) / 16000)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wav_T[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def case_of(verb: str, shell: Shell, corpus: Path, model: Path, voices: Path, recipe: dict[str, Any]) -> Case:
    """A case of a verb, with what it reads: data dirs, a model, recordings, a training of a second."""
    train, dev = corpus / "train", corpus / "dev"
    of_model = ("--model", model, "--backend", "torch", "--store", "store/speakers.db")
    scores = f"""
import numpy as np
trials = [line.split() for line in open({str(dev / "trials")!r})]
for seed in range(2):
    rng = np.random.default_rng(seed)
    with open(f"scores{{seed}}", "w") as file:
        for label, enrol, test in trials:
            print(enrol, test, f"{{int(label) + rng.standard_normal():.4f}}", file=file)
"""
    report = (
        "evaluate",
        dev / "trials",
        "--report",
        "report.html",
        "--tables",
        "tables.md",
        "--plot",
        "det.svg",
    )
    if verb == "convert":
        for number in range(150):
            m4a_of(
                shell.folder / f"vox/dev/aac/id{number // 10:05d}/{number % 10:011d}/00001.m4a", 100 + number
            )
        words = ("prepare", "voxceleb2", "vox", "out", "--convert", "flac", "--jobs", 2)
        return Case(verb, words, ["out"], ["out/vox2_dev/wav.scp", "out/vox2_dev/utt2spk"])
    if verb == "enrol":
        others = ("enrol", "anna", voices / "a0.wav", *of_model)
        words = ("enrol", "anna", voices / "a1.wav", voices / "a2.wav", "--replace", *of_model)
        return Case(verb, words, ["store"], ["store"], others)
    if verb == "evaluate":
        (shell.folder / "scores.py").write_text(scores)
        subprocess.run([sys.executable, "scores.py"], cwd=shell.folder, check=True)
        files = ["report.html", "tables.md", "det.svg"]
        return Case(verb, (*report, "scores1"), files, files, (*report, "scores0"))
    if verb == "selftrain":
        table = merge(recipe, {
            "init": {"model": str(model)}, "features": {}, "schedule": {"epochs": 1}, "model": {},
            "selftrain": {"data": str(train), "rounds": 1, "clusters": "3:6", "stable": 1.5, "min_size": 1},
            "evaluate": [{"name": "dev", "data": str(dev), "trials": str(dev / "trials")}],
        })  # fmt: skip
        table["model"], table["features"] = {}, {}
        (shell.folder / "recipe.toml").write_text(tomli_w.dumps(table))
        kinds = (".safetensors", ".npy", "scores", "rounds.tsv", "utt2spk")
        words = ("selftrain", "recipe.toml", "--run-dir", "out")
        return Case(verb, words, ["out"], [], volatile=lambda name: not name.endswith(kinds))
    words, whole = {
        "extract": (("extract", model, train, "out", "--backend", "torch"), ["out"]),
        "simulate": (
            ("simulate", train, "out", "--noise", dev, "--jobs", 2),
            ["out/wav.scp", "out/utt2cond"],
        ),
        "rirs": (
            ("rirs", "out", "--rooms", 12, "--per-room", 2, "--jobs", 2),
            ["out/wav.scp", "out/utt2cond"],
        ),
        "pack": (("pack", train, "out", "--shard-size", 0.05, "--jobs", 2), ["out/wav.scp", "out/utt2spk"]),
        "pull": (
            ("pull", "huggingface:owner/small@v1:small.pt", "--out", "out", "--arch", "3dspeaker-campplus"),
            ["out"],
        ),
    }[verb]
    return Case(verb, words, ["out"], whole)
