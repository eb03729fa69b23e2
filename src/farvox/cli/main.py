"""The ``farvox`` command: finds the verb, imports only what that verb needs, turns errors into exit codes.

Exit status: 0 done, 1 the input is at fault (a message, no traceback), 2 wrong usage, 128 + n ended by signal
n. Verbs that answer a question give the answer as their status, 0 yes and 1 no, and 2 whenever there is none.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any, NamedTuple

import farvox
from farvox.atomic import json_text
from farvox.children import end_with_parent, ending, on_signals
from farvox.errors import FarvoxError, StoppedError, UsageError
from farvox.machine import fault_of_memory, is_out_of_memory
from farvox.progress import to_stderr, to_stdout


class Verb(NamedTuple):
    """A verb: its function as module:function, one line of help, and words after it that are an example."""

    function: str
    summary: str
    example: str


GROUPS: dict[str, dict[str, Verb]] = {
    "start here": {
        "sample": Verb("farvox.cli.data:sample", "make recordings to try farvox with", "recordings"),
        "verify": Verb(
            "farvox.cli.verify:verify",
            "are two recordings of the same speaker?",
            "recordings/anna/near_1.wav recordings/anna/far.wav",
        ),
        "listen": Verb(
            "farvox.cli.verify:listen",
            "is it the same speaker? Decide while the speech comes",
            "recordings/anna/near_1.wav --source recordings/anna/far.wav",
        ),
        "enrol": Verb("farvox.cli.verify:enrol", "remember a speaker", "anna recordings/anna/near_1.wav"),
        "identify": Verb(
            "farvox.cli.verify:identify", "which enrolled speaker is it?", "recordings/anna/far.wav"
        ),
        "speakers": Verb("farvox.cli.verify:speakers", "list the enrolled speakers", ""),
        "forget": Verb("farvox.cli.verify:forget", "remove an enrolled speaker", "anna"),
        "serve": Verb("farvox.cli.serve:serve", "answer the same over HTTP", "--port 8000"),
        "sweep": Verb("farvox.cli.verify:sweep", "forget who was enrolled long ago", "365"),
        "rekey": Verb("farvox.cli.verify:rekey", "renew the keys of the enrolled speakers", ""),
    },
    "data": {
        "prepare": Verb(
            "farvox.cli.data:prepare", "turn a corpus on disk into data dirs", "folder recordings data/mine"
        ),
        "check": Verb("farvox.cli.data:check", "validate a data dir or a run dir", "data/mine/all"),
        "subset": Verb(
            "farvox.cli.data:subset",
            "keep some speakers of a data dir",
            "data/mine/all data/two --speakers 1-2",
        ),
        "pack": Verb(
            "farvox.cli.data:pack",
            "put the audio of a data dir into a few large files",
            "data/mine/all data/packed",
        ),
        "join": Verb(
            "farvox.cli.data:join", "join what shards of pack, extract and others have made", "data/packed"
        ),
        "trials": Verb(
            "farvox.cli.data:trials", "draw a trial list from a data dir", "data/mine/all data/mine/trials"
        ),
    },
    "across a room": {
        "rirs": Verb(
            "farvox.cli.data:rirs", "make room impulse responses, or measure them", "data/rirs --rooms 20"
        ),
        "noises": Verb(
            "farvox.cli.data:noises",
            "make noise from the pauses of recordings",
            "data/mine/all data/noises --least 0.1",
        ),
        "simulate": Verb(
            "farvox.cli.data:simulate",
            "make far-field copies of a data dir",
            "data/mine/all data/far --array circular4",
        ),
        "enhance": Verb(
            "farvox.cli.data:enhance",
            "beamform or dereverberate the channels of every take",
            "data/far data/enhanced --by source,point --beamform mvdr",
        ),
        "combine": Verb(
            "farvox.cli.data:combine", "merge data dirs into one", "data/mix data/mine/all data/far"
        ),
    },
    "training": {
        "adapt": Verb(
            "farvox.cli.recipes:adapt",
            "fine-tune a model for your own rooms, from folders of recordings",
            "--speech recordings --out exp/adapted",
        ),
        "recipes": Verb("farvox.cli.recipes:recipes", "list the recipes that come with farvox", ""),
        "run": Verb("farvox.cli.recipes:run", "run the stages of a recipe one after the other", "demo"),
        "train": Verb(
            "farvox.cli.recipes:train",
            "train or fine-tune a model from a recipe",
            "quickstart --optim.lr 0.01",
        ),
        "selftrain": Verb(
            "farvox.cli.recipes:selftrain",
            "rounds of clustering and training on the clusters",
            "ffsvc2022/task2-selftrain",
        ),
        "replay": Verb(
            "farvox.cli.models:replay",
            "run a training step that was not finite again",
            "exp/mine/replay/epoch_000_step_000002",
        ),
        "average": Verb(
            "farvox.cli.models:average",
            "average the weights of several models",
            "exp/average exp/demo/close exp/demo/mix",
        ),
    },
    "models": {
        "models": Verb(
            "farvox.cli.models:models",
            "list the pretrained models and the network architectures",
            "campplus-zh-en",
        ),
        "pull": Verb("farvox.cli.models:pull", "fetch a pretrained model", "campplus-zh-en"),
        "export": Verb(
            "farvox.cli.models:export",
            "write a model as ONNX, for devices without torch",
            "campplus-zh-en exp/campplus.onnx",
        ),
        "import": Verb(
            "farvox.cli.models:import_checkpoint",
            "convert a foreign checkpoint",
            "downloads/resnet34/model_37.pkl exp/baseline --arch ffsvc-resnet34",
        ),
    },
    "from embeddings to decisions": {
        "extract": Verb(
            "farvox.cli.models:extract",
            "turn a data dir into embeddings",
            "campplus-zh-en data/mine/all exp/mine/embeddings",
        ),
        "cluster": Verb(
            "farvox.cli.models:cluster",
            "find the speakers of embeddings that nobody labelled",
            "exp/mine/embeddings exp/mine/clusters --clusters 3 --min-size 1",
        ),
        "score": Verb(
            "farvox.cli.score:score",
            "score a trial list",
            "data/mine/trials exp/mine/embeddings --out exp/mine/scores",
        ),
        "evaluate": Verb(
            "farvox.cli.score:evaluate",
            "EER, minDCF and a report from scores",
            "data/mine/trials exp/mine/scores --report exp/mine/report.html",
        ),
        "fuse": Verb(
            "farvox.cli.score:fuse",
            "make one score a trial of those of several systems",
            "data/mine/trials mine=exp/mine/scores other=exp/other/scores --save exp/mine/fusion.json",
        ),
        "calibrate": Verb(
            "farvox.cli.score:calibrate",
            "choose a threshold and fit probabilities on scored trials",
            "data/mine/trials exp/mine/scores --save exp/mine/calibration.json",
        ),
        "submit": Verb(
            "farvox.cli.score:submit",
            "write the scores as a challenge takes them",
            "data/mine/trials exp/mine/scores exp/mine/scores.txt",
        ),
    },
}
"""The verbs in groups; those of the first need nothing but farvox."""

VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}

ANSWERS = {"verify": "same", "listen": "decision", "identify": "name"}
"""Verbs whose status is their answer, and its name in JSON: with them 1 is never a fault."""


FEWER_JOBS = (r"^(?!.*--jobs[ =]1\b)", "give fewer --jobs")
LESS_MEMORY: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (("", "lower data.workers, or cut the longest recordings of validate.data"),),
    "extract": (
        (r"^(?!.*--threads[ =]1\b)", "give fewer --threads (--threads 1: one utterance at a time)"),
        ("", "cut the longest recordings, and name another OUT"),
    ),
    "score": (
        ("--norm", "take a smaller cohort ('farvox subset', or --cohort-speakers: one embedding a speaker)"),
        ("", "split the trial list and score its parts one after the other: the scores are the same"),
    ),
    "evaluate": (
        ("--intervals|--against", "leave out --intervals and --against"),
        ("--by", "leave out --by"),
        ("", "evaluate on a machine with more memory"),
    ),
    "cluster": (
        ("spectral|ahc", "choose --method kmeans"),
        ("", "extract and cluster a 'farvox subset' of the data dir"),
    ),
    "trials": (
        ("^(?!.*--num-nontarget)", "draw them with --num-nontarget"),
        ("", "draw from a 'farvox subset'"),
    ),
    **dict.fromkeys(("prepare", "check", "pack", "enhance", "rirs", "noises", "simulate"), (FEWER_JOBS,)),
}
"""What needs less memory, by the verb that ran out of it, with the words of a command that it is left for."""


def usage() -> str:
    """The text of ``farvox --help``."""
    width = max(map(len, VERBS))
    groups = []
    for title, verbs in GROUPS.items():
        lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in verbs.items()]
        groups.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(
        [
            "usage: farvox VERB ...",
            "Far-field speaker verification: from corpora to a decision.",
            *groups,
            "'farvox VERB --help' explains a verb, with an example; 'farvox --version' prints the version.",
        ]
    )


class _Ended(KeyboardInterrupt):
    """A signal asks this process to end; Ctrl-C is one of several."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status.

    A signal that asks to end raises `KeyboardInterrupt`; a second one ends the process at once.
    """

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        ending.append(number)
        raise _Ended(number)

    def end_again(lost: sys.UnraisableHookArgs) -> None:
        """Raise anew what came in the middle of a callback, as imports have them, and went no further."""
        if isinstance(error := lost.exc_value, _Ended):
            signal.signal(error.number, end)
            threading.Timer(0.05, os.kill, (os.getpid(), error.number)).start()
        else:
            hook(lost)

    ending.clear()
    end_with_parent()
    words = list(sys.argv[1:] if argv is None else argv)
    hook, sys.unraisablehook = sys.unraisablehook, end_again
    try:
        with on_signals(end):
            return run_verb(words)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, _Ended) else int(signal.SIGINT)
        what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        to_stderr(f"{' '.join(['farvox', *words[:1]])}: {what}")
        _answer_none(words, error, what)
        return 2 if words[:1] and words[0] in ANSWERS else 128 + number
    finally:
        sys.unraisablehook = hook


def run_verb(words: Sequence[str]) -> int:
    """Run one verb, perhaps within another; returns the exit status. `KeyboardInterrupt` passes through."""
    words = list(words)
    if len(words) > 1 and words[0].replace("_", "-").startswith("--local-rank="):
        words[:2] = words[1::-1]  # torch.distributed.launch puts it before the verb
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot spell must not end an answer
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if words[:1] and words[0] in ANSWERS:
        try:
            return _run(words, fault=2)
        except Exception as error:  # a bug must not look like an answer
            traceback.print_exc()
            _answer_none(words, error)
            raise SystemExit(2) from None
    return _run(words, fault=1)


def _run(words: list[str], fault: int) -> int:
    """Run a verb; what the input or the system is at fault for becomes a message and the status ``fault``."""
    name = " ".join(["farvox", *words[:1]])

    def fail(error: BaseException, message: str, status: int = fault) -> int:
        to_stderr(f"{name}: {message}")
        _answer_none(words, error, message)
        return status

    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except StoppedError as error:
        return fail(error, str(error), error.status)
    except FarvoxError as error:
        return fail(error, str(error), 2 if isinstance(error, UsageError) else fault)
    except ModuleNotFoundError as error:
        install = missing_package(error.name or "")
        if install is None:
            raise
        return fail(error, install)
    except BrokenPipeError:  # nobody reads on, as in "farvox check DIR | head -1"
        _drop_stdout()
        return fault
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        if is_out_of_memory(error):
            ways = [way for left, way in LESS_MEMORY.get(words[0], ()) if re.search(left, " ".join(words))]
            remedy = ", or ".join(ways) or "close other programs, or shorten the input"
            first = " ".join(str(error).splitlines()[:1])
            return fail(error, f"{fault_of_memory(error)} ({first}); {remedy}")
        if not isinstance(error, OSError):
            raise
        is_full = error.errno == errno.ENOSPC
        why = "the disk is full: free some space on it" if is_full else error.strerror
        if error.filename is not None:
            return fail(error, f"{os.fsdecode(error.filename)}: {why}")
        if is_full:
            to_stderr(f"{name}: {why}")
            _drop_stdout()
        else:
            raise
        return fault


def _answer_none(words: list[str], error: BaseException, message: str = "") -> None:
    """With --json, print that a verb of `ANSWERS` has no answer, and why, so that stdout always is JSON."""
    if words[:1] and words[0] in ANSWERS and "--json" in words:
        code = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
        fault = {"code": code, "message": message or str(error)}
        indent = None if words[0] == "listen" else 2  # it prints a line for each look
        to_stdout(json_text({ANSWERS[words[0]]: None, "error": fault}, indent))


def missing_package(module: str) -> str | None:
    """Say how to install the package of a module; None unless farvox's own metadata lists it.

    Where farvox runs from a checkout and has no metadata, any module but its own is taken for a package.
    """
    package = module.split(".")[0].replace("_", "-")
    try:
        requirements = metadata.requires("farvox") or []
    except metadata.PackageNotFoundError:
        requirements = [package] if package not in ("", "farvox") else []
    extras: list[str] = []  # one entry a requirement; "" is what farvox itself asks for
    bring: set[str] = set()
    for requirement in requirements:
        extra = re.search(r"extra == ['\"]([\w-]+)", requirement)
        extras.append(extra[1] if extra else "")
        if re.split(r"[^\w.-]", requirement)[0].replace("_", "-") == package:
            bring.add(extras[-1])
    if not bring:
        return None
    smallest = min(sorted(bring), key=lambda name: extras.count(name) if name else 0)
    install = f"'farvox[{smallest}]'" if smallest else package
    return f"the package '{package}' is not installed: pip install {install}"


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        to_stdout(usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        to_stdout(f"farvox {farvox.__version__}")
        return 0
    if words[0] not in VERBS:
        from farvox.options import nearest

        fault = f"farvox: unknown verb '{words[0]}'{nearest(words[0], VERBS)}"
        to_stderr(f"{fault}\nusage: farvox VERB ...\n'farvox --help' lists the verbs")
        return 2
    return run_words(words)


def run_words(words: Sequence[str]) -> int:
    """Run a verb by its words, and raise its errors; returns its status."""
    name, *words = words
    module, function = VERBS[name].function.split(":")
    verb: Callable[..., Any] = getattr(importlib.import_module(module), function)
    if getattr(verb, "parses_its_own_words", False):
        status = verb(words)
    else:
        from farvox.cli.flags import parse

        status = parse(verb, words, f"farvox {name}", VERBS[name].example)
    return int(status or 0)


def _open_closed_streams() -> None:
    """Give stdin, stdout and stderr that the caller has closed to the null device, as most programs expect.

    Python makes None of them, and the next file that is opened would get their number: what a library writes
    to stderr would end up in it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one, as a rule
            if null != number:
                os.dup2(null, number)
                os.close(null)
        setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _drop_stdout() -> None:
    """Leave nothing that Python would try, and fail, to write when it ends."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
