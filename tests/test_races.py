"""Two processes write one output: what is there in the end is that of one of them, whole, and no litter.

`tests/soak/test_races.py` runs each of `KINDS` twenty times; here a few run twice.
"""

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from farvox.audio.files import write_audio
from farvox.cli.main import main
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from zoo.conftest import serving


def tree(path: Path) -> object:
    """Every file of an output, hidden ones too; but for the times of files, which no two writers share."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix != ".state"]
    return {os.path.relpath(file, path): file.read_bytes() for file in files if file.is_file()}


def weights(run_dir: Path) -> object:
    """The weights of every epoch."""
    return [file.read_bytes() for file in sorted(run_dir.glob("checkpoints/epoch_*/model.safetensors"))]


def systems(folder: Path) -> object:
    """The scores that the page of a report, and its figures as data, are of."""
    files = (folder / "report.html", folder / "results.json")
    return [[name for name in ("scores-a", "scores-b") if name in file.read_text()] for file in files]


def with_origin(path: Path) -> object:
    """A score file and what lies beside it."""
    return path.read_bytes(), path.with_name(f"{path.name}.meta.json").read_bytes()


def names(path: Path) -> object:
    """Everyone enrolled in a store."""
    from farvox.verifier import SqliteStore

    return sorted(each.name for each in SqliteStore(path).listing())


@dataclass(frozen=True)
class Kind:
    """A kind of output: the commands of two writers.

    Attributes:
        one, other: words of command lines, or programs; OUT stands for the output.
        out: its name.
        before: a folder that the output is a copy of when the race begins.
        look: what must be of one writer alone.
        both: the writers add to one another, so that both must be there.
    """

    one: str
    other: str
    out: str = "out"
    before: str = ""
    look: Callable[[Path], Any] = tree
    both: bool = False


CACHE = """
from farvox.cache import cached_folder
from pathlib import Path
import os, time
os.environ["FARVOX_CACHE"] = "OUT"
def build(folder):
    for number in range(20):
        (folder / f"part-{number}").write_text("whole")
        time.sleep(0.01)
assert len(list(cached_folder("kind", "name", ["recipe.toml"], build).iterdir())) == 21
"""
TRAIN, SCORE = "train recipe.toml --run-dir OUT --seed", "score data/trials embeddings-a --out OUT"
KINDS = {
    "prepare": Kind("prepare folder speech-a OUT", "prepare folder speech-b OUT"),
    "subset": Kind("subset data OUT --speakers 1-2", "subset data OUT --speakers 3-4"),
    "subset again": Kind("subset data OUT --speakers 1-2", "subset data OUT --speakers 3-4", before="subset"),
    "combine": Kind("combine OUT data", "combine OUT half"),
    "check --fix": Kind("check data --fix OUT", "check half --fix OUT"),
    "pack": Kind("pack data OUT --codec flac --jobs 1", "pack data OUT --codec wav --jobs 1"),
    "trials": Kind("trials data OUT", "trials data OUT --num-nontarget 3"),
    "rirs": Kind(*(f"rirs OUT --rooms 2 --jobs 1 --seed {seed}" for seed in (1, 2))),
    "noises": Kind(*(f"noises pauses OUT --least {least} --jobs 1" for least in (0.1, 0.2))),
    "simulate": Kind(*(f"simulate half OUT --rirs rirs --jobs 1 --seed {seed}" for seed in (1, 2))),
    "enhance": Kind(*(f"enhance takes OUT --beamform {name} --jobs 1" for name in ("mvdr", "delay-and-sum"))),
    "train": Kind(f"{TRAIN} 1", f"{TRAIN} 2", look=weights),
    "average": Kind("average OUT a b", "average OUT a b --weights 1 2"),
    "average again": Kind("average OUT a b", "average OUT a b --weights 1 2", before="average"),
    "import": Kind(*(f"import {x}/a.pkl OUT --arch ffsvc-resnet34" for x in "ab")),
    "pull": Kind(*(f"pull huggingface:us/{x}@v1:a.pkl --out OUT --arch ffsvc-resnet34" for x in "ab")),
    "export": Kind("export a OUT", "export b OUT", out="out.onnx"),
    "extract": Kind(*(f"extract {x} data OUT --backend torch" for x in "ab")),
    "cluster": Kind(*(f"cluster embeddings-a OUT --clusters {count}" for count in (2, 3))),
    "score": Kind(SCORE, f"{SCORE} --centre embeddings-a", look=with_origin),
    "calibrate --save": Kind(*(f"calibrate data/trials scores-{x} --far 0.3 --save OUT" for x in "ab")),
    "a card": Kind(
        *(f"calibrate data/trials scores-a --model OUT --far {far}" for far in (0.3, 0.5)), before="a"
    ),
    "fuse --save": Kind(*(f"fuse data/trials {x}=scores-{x} --save OUT" for x in "ab")),
    "evaluate --report": Kind(
        *(f"evaluate data/trials scores-{x} --report OUT" for x in "ab"),
        look=systems,
    ),
    "submit": Kind(*(f"submit data/trials scores-{x} OUT" for x in "ab"), out="out.txt"),
    "enrol": Kind(
        *(
            f"enrol {x} data/wav/{x}_0.wav --store OUT --model a --vad off --backend torch"
            for x in ("ann", "bob")
        ),
        look=names,
        both=True,
    ),
    "the cache": Kind(CACHE, CACHE),
}
QUICK = (
    "subset again",
    "pack",
    "average again",
    "extract",
    "calibrate --save",
    "enrol",
    "the cache",
)


@pytest.fixture(scope="session")
def stage(tmp_path_factory, make_corpus, tiny_recipe):
    """A folder with all that the writers read."""
    import torch

    from farvox.features.frontend import FrontEndConfig
    from farvox.models.registry import build_model
    from farvox.zoo import save_model

    folder = tmp_path_factory.mktemp("stage")
    data = DataDir.open(make_corpus(folder / "data", speakers=["ann", "bob", "cid", "dee"], takes=3))
    write_data_dir(folder / "half", data.table.head(6))
    rng = np.random.default_rng(0)
    for number, (path, speaker) in enumerate(data.table.select("wav_path", "speaker_id").iter_rows()):
        place = folder / f"speech-{'ab'[number % 2]}" / speaker / Path(path).name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    for number in range(2):
        echo_R = rng.standard_normal(4000) * np.exp(-np.arange(4000) / 400)
        echo_R[0] = 10
        write_audio(folder / "rirs" / f"{number}.wav", (0.05 * echo_R).astype(np.float32))
    takes = [Utterance(f"take-{n}", str(folder / f"channels/{n}.wav"), "ann") for n in range(3)]
    for take in takes:
        speech_T = 0.1 * rng.standard_normal(8000)
        write_audio(Path(take.wav_path), np.stack([speech_T, np.roll(speech_T, 3)]).astype(np.float32))
    write_data_dir(folder / "takes", takes)
    levels_T = np.repeat([0.1, 0.001] * 4, 4000)
    pauses = [Utterance(f"pause-{n}", str(folder / f"pauses/{n}.wav"), "ann") for n in range(3)]
    for each in pauses:
        write_audio(Path(each.wav_path), (levels_T * rng.standard_normal(len(levels_T))).astype(np.float32))
    write_data_dir(folder / "pauses", pauses)
    sizes = {"channels": 4, "blocks": (1, 1, 1, 1), "embedding_dim": 12, "num_mels": 20}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        config = FrontEndConfig(num_mels=20, sample_scale=1.0, window="hamming")
        save_model(folder / name, build_model("resnet34", **sizes), config, "resnet34", sizes)
        network = build_model("ffsvc-resnet34", channels=4, embedding_dim=12)
        torch.save({"model": network.state_dict()}, folder / name / "a.pkl")
        (folder / f"hub/us/{name}/resolve").mkdir(parents=True)
        (folder / f"hub/us/{name}/resolve/v1").symlink_to(folder / name)
    (folder / "recipe.toml").write_text(tomli_w.dumps(tiny_recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            *(f"extract {x} data embeddings-{x} --backend torch" for x in "ab"),
            *(f"score data/trials embeddings-{x} --out scores-{x}" for x in "ab"),
            "subset data subset --speakers 2-3",
            "average average a b --weights 2 1",
        ):
            assert main(words.split()) == 0
    return folder


SERVER = """
import json, os, sys, time, traceback
import matplotlib.pyplot, onnxruntime, polars, torch
from farvox.cli.main import main

def write(command, error):
    os.dup2(os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    if isinstance(command, str):
        exec(command, {})
        return 0
    sys.argv[1:] = command
    return main(command)

print(flush=True)
for line in sys.stdin:
    commands, errors, gap = json.loads(line)
    start = time.monotonic() + 0.02
    writers = []
    for number, each in enumerate(zip(commands, errors)):
        if not (writer := os.fork()):
            status = 9
            try:
                time.sleep(max(0, start + gap * number - time.monotonic()))
                status = write(*each)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        writers.append(writer)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in writers]), flush=True)
"""
"""A process that has imported all that writers need, and forks them."""


@pytest.fixture(scope="session")
def write(stage):
    """A function that lets writers begin one shortly after the other; gives their statuses and messages."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", SERVER]
    options = {"cwd": stage, "stdin": pipe, "stdout": pipe, "text": True}
    with (
        serving(stage / "hub") as address,
        subprocess.Popen(
            command, env={**os.environ, "HF_ENDPOINT": address, "no_proxy": "127.0.0.1"}, **options
        ) as server,
    ):
        assert server.stdin and server.stdout
        server.stdout.readline()

        def write(kind: Kind, *commands: str, gap: float = 0.0) -> list[tuple[int, str]]:
            assert server.stdin and server.stdout
            out = stage / kind.out
            shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
            if kind.before:
                shutil.copytree(stage / kind.before, out)
            words = [[kind.out if word == "OUT" else word for word in shlex.split(each)] for each in commands]
            programs = [each.replace("OUT", kind.out) if "\n" in each else None for each in commands]
            errors = [f"error-{number}" for number in range(len(commands))]
            order = [[a or b for a, b in zip(programs, words, strict=True)], errors, gap]
            server.stdin.write(json.dumps(order) + "\n")
            server.stdin.flush()
            statuses = json.loads(server.stdout.readline())
            messages = [(stage / name).read_text() for name in errors]
            for name in errors:
                (stage / name).unlink()
            return list(zip(statuses, messages, strict=True))

        yield write
        server.stdin.close()


def race(stage: Path, write: Callable[..., list[tuple[int, str]]], kind: Kind, times: int) -> dict[str, int]:
    """Races with gaps between 0 and the time that one writer takes; counts of what happened."""

    def others() -> set[str]:
        return {name for name in os.listdir(stage) if name != kind.out and not name.startswith("out.")}

    out, before = stage / kind.out, others()
    alone, seconds = [], 0.0
    for command in (kind.one, kind.other):
        start = time.monotonic()
        done = write(kind, command)
        assert done[0][0] == 0, done
        seconds = time.monotonic() - start
        alone.append(kind.look(out))
    counts = {"races": times, "both wrote": 0, "one was refused": 0}
    rng = random.Random(times)
    for number in range(times):
        done = write(kind, kind.one, kind.other, gap=rng.uniform(0, seconds) * (number % 2))
        statuses = [status for status, _ in done]
        assert 0 in statuses and {*statuses} <= {0, 1}, done
        assert not any("Traceback" in error for _, error in done), done
        found = kind.look(out)
        if kind.both:
            assert statuses == [0, 0] and found == [*alone[0], *alone[1]], done
        else:
            assert found in [each for each, status in zip(alone, statuses, strict=True) if status == 0], done
        assert others() == before
        assert {path.name for path in out.rglob(".*")} <= {".made-by.json"}
        counts["both wrote" if statuses == [0, 0] else "one was refused"] += 1
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return counts


@pytest.mark.parametrize("kind", [*QUICK, pytest.param("train", marks=pytest.mark.slow)])
def test_of_two_writers_one_is_there_in_the_end(stage, write, kind):
    race(stage, write, KINDS[kind], times=2)
