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
from typing import Any

import farvox
from farvox.atomic import json_text
from farvox.children import end_with_parent, on_signals
from farvox.errors import FarvoxError, StoppedError, UsageError
from farvox.machine import is_out_of_memory
from farvox.progress import to_stderr, to_stdout

# verb -> (module:function, one line of help). The order is that of the stages.
VERBS: dict[str, tuple[str, str]] = {
    "prepare": ("farvox.cli.data:prepare", "turn a corpus on disk into data dirs"),
    "check": ("farvox.cli.data:check", "validate a data dir or a run dir"),
    "combine": ("farvox.cli.data:combine", "merge data dirs into one"),
    "subset": ("farvox.cli.data:subset", "keep some speakers of a data dir"),
    "pack": ("farvox.cli.data:pack", "put the audio of a data dir into a few large files"),
    "trials": ("farvox.cli.data:trials", "draw a trial list from a data dir"),
    "enhance": ("farvox.cli.data:enhance", "beamform or dereverberate the channels of every take"),
    "rirs": ("farvox.cli.data:rirs", "make room impulse responses, or measure them"),
    "noises": ("farvox.cli.data:noises", "make noise from the pauses of recordings"),
    "simulate": ("farvox.cli.data:simulate", "make far-field copies of a data dir"),
    "train": ("farvox.cli.recipes:train", "train or fine-tune a model from a recipe"),
    "replay": ("farvox.cli.models:replay", "run a training step that was not finite again"),
    "average": ("farvox.cli.models:average", "average the weights of several models"),
    "extract": ("farvox.cli.models:extract", "turn a data dir into embeddings"),
    "cluster": ("farvox.cli.models:cluster", "find the speakers of embeddings that nobody labelled"),
    "score": ("farvox.cli.score:score", "score a trial list"),
    "evaluate": ("farvox.cli.score:evaluate", "EER, minDCF and a report from scores"),
    "submit": ("farvox.cli.score:submit", "write the scores as a challenge takes them"),
    "verify": ("farvox.cli.verify:verify", "are two recordings of the same speaker?"),
    "enrol": ("farvox.cli.verify:enrol", "remember a speaker"),
    "identify": ("farvox.cli.verify:identify", "which enrolled speaker is it?"),
    "forget": ("farvox.cli.verify:forget", "remove an enrolled speaker"),
    "speakers": ("farvox.cli.verify:speakers", "list the enrolled speakers"),
    "calibrate": ("farvox.cli.score:calibrate", "choose a threshold and fit probabilities on scored trials"),
    "fuse": ("farvox.cli.score:fuse", "make one score a trial of those of several systems"),
    "pull": ("farvox.cli.models:pull", "fetch a pretrained model"),
    "export": ("farvox.cli.models:export", "write a model as ONNX, for devices without torch"),
    "import": ("farvox.cli.models:import_checkpoint", "convert a foreign checkpoint"),
    "models": ("farvox.cli.models:models", "list the pretrained models and the network architectures"),
    "recipes": ("farvox.cli.recipes:recipes", "list the recipes that come with farvox"),
    "selftrain": ("farvox.cli.recipes:selftrain", "rounds of clustering and training on the clusters"),
    "run": ("farvox.cli.recipes:run", "run the stages of a recipe one after the other"),
}

ANSWERS = {"verify": "same", "identify": "name"}
"""Verbs whose status is their answer, and its name in JSON: with them 1 is never a fault."""


FEWER_JOBS = (r"^(?!.*--jobs[ =]1\b)", "give fewer --jobs")
LESS_MEMORY = {
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
    **dict.fromkeys(("prepare", "pack", "enhance", "rirs", "noises", "simulate"), (FEWER_JOBS,)),
}
"""What needs less memory, by the verb that ran out of it, with the words of a command that it is left for."""


def usage() -> str:
    """The text of ``farvox --help``."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in VERBS.items()]
    return (
        "usage: farvox VERB ...\n\nFar-field speaker verification: from corpora to a decision.\n\nverbs:\n"
        + "\n".join(lines)
        + "\n\n'farvox VERB --help' explains a verb; 'farvox --version' prints the version."
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
        raise _Ended(number)

    def end_again(lost: sys.UnraisableHookArgs) -> None:
        """Raise anew what came in the middle of a callback, as imports have them, and went no further."""
        if isinstance(error := lost.exc_value, _Ended):
            signal.signal(error.number, end)
            threading.Timer(0.05, os.kill, (os.getpid(), error.number)).start()
        else:
            hook(lost)

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
        except SystemExit as error:  # of tyro, which has said what is wrong
            if error.code:
                _answer_none(words, UsageError("the options are not valid; stderr says why"))
            raise
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
    except (MemoryError, RuntimeError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        ways = [way for left, way in LESS_MEMORY.get(words[0], ()) if re.search(left, " ".join(words))]
        remedy = ", or ".join(ways) or "close other programs, or shorten the input"
        return fail(error, f"out of memory ({' '.join(str(error).splitlines()[:1])}); {remedy}")
    except BrokenPipeError:  # nobody reads on, as in "farvox check DIR | head -1"
        _drop_stdout()
        return fault
    except OSError as error:
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
        to_stdout(json_text({ANSWERS[words[0]]: None, "error": fault}))


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

        to_stderr(f"farvox: unknown verb '{words[0]}'{nearest(words[0], VERBS)}\n\n{usage()}")
        return 2
    return _run_verb(words[0], words[1:])


def _run_verb(name: str, words: list[str]) -> int:
    module, function = VERBS[name][0].split(":")
    verb: Callable[..., Any] = getattr(importlib.import_module(module), function)
    if getattr(verb, "parses_its_own_words", False):
        status = verb(words)
    else:
        from farvox.cli.flags import parse

        status = parse(verb, words, f"farvox {name}")
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
