"""``farvox pull``: a pretrained model from its source to a model folder in the user's cache."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from farvox.cache import cache_path
from farvox.errors import CheckpointError, FarvoxError, ModelError
from farvox.zoo.fetch import FetchError, fetch, sha256_of
from farvox.zoo.foreign import import_checkpoint
from farvox.zoo.model import CONFIG, WEIGHTS, are_whole, require_torch
from farvox.zoo.table import Source, ZooModel, zoo_model

_ADDRESS = re.compile(r"(huggingface|modelscope):([^/:@]+/[^/:@]+)(?:@([^:]+))?:(.+)")


def pull(name: str) -> Path:
    """The model folder of a model of the zoo, fetched if it is not in the cache yet.

    Args:
        name: see ``farvox models``.

    Raises:
        ModelError: there is no such model, or none of its sources gives the pinned file.
        MissingExtraError: torch, which converts it, is not installed.
    """
    return pull_model(zoo_model(name))


def pull_model(model: ZooModel) -> Path:
    """See `pull`. Two processes may pull at once: each finds a whole folder or none."""
    if is_pulled(model):
        return model.folder
    require_torch()
    cache_path().mkdir(parents=True, exist_ok=True)
    print(f"pulling {model.name} ({model.bytes / 1e6:.0f} MB): {model.folder}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=cache_path(), prefix=".tmp-pull-") as folder:
        checkpoint = Path(folder) / Path(model.sources[0].file).name
        _fetch_any(model, checkpoint)
        built = Path(folder) / "model"
        import_checkpoint(checkpoint, built, model.arch)
        model.card.save(built)
        _put(built, model)
    return model.folder


def _put(built: Path, model: ZooModel) -> None:
    """Give a folder its place in the cache; if another process was quicker, its folder is the same."""
    try:
        if model.folder.exists() and not is_pulled(model):
            shutil.rmtree(model.folder)
        model.folder.parent.mkdir(parents=True, exist_ok=True)
        built.rename(model.folder)
    except OSError as error:
        if not is_pulled(model):
            raise FarvoxError(f"{model.folder}: cannot be written: {error}") from error


def pull_address(address: str, out: str | Path, arch: str, sha256: str = "") -> str:
    """Fetch a checkpoint that the zoo does not know and convert it.

    Args:
        address: ``huggingface:OWNER/NAME[@REVISION]:FILE``, or ``modelscope:`` likewise.
        out: the model folder.
        arch: layout of the checkpoint.
        sha256: what the file must hash to; empty where nobody knows.

    Returns:
        the SHA-256 of the file.

    Raises:
        ModelError: the address is malformed, or the file cannot be had there.
        CheckpointError: it is another file than pinned, or not of this layout.
    """
    require_torch()
    source = parse_address(address)
    cache_path().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_path(), prefix=".tmp-pull-") as folder:
        checkpoint = Path(folder) / Path(source.file).name
        try:
            fetch(source, checkpoint)
        except FetchError as error:
            raise ModelError(f"{address}: {error}") from error
        found = sha256_of(checkpoint)
        if sha256 and found != sha256.lower():
            raise CheckpointError(f"{address}: its SHA-256 is {found}, not {sha256.lower()}; it is not used")
        import_checkpoint(checkpoint, out, arch)
    return found


def is_pulled(model: ZooModel) -> bool:
    """Whether a model of the zoo is in the cache, whole."""
    return (model.folder / CONFIG).is_file() and are_whole(model.folder / WEIGHTS)


def is_address(text: str) -> bool:
    """Whether ``text`` begins like an address of a hub, and not like a name of the zoo."""
    return text.startswith(("huggingface:", "modelscope:"))


def parse_address(address: str) -> Source:
    """The source that an address stands for.

    Raises:
        ModelError: it is malformed.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise ModelError(
            f"'{address}' is no address of a checkpoint: write huggingface:OWNER/NAME:FILE or "
            "modelscope:OWNER/NAME@REVISION:FILE"
        )
    kind, name, revision, file = match.groups()
    default = "main" if kind == "huggingface" else "master"
    return Source(kind, name, file, revision or default)  # type: ignore[arg-type]


def _fetch_any(model: ZooModel, checkpoint: Path) -> None:
    """Fetch from the first source that gives the pinned file."""
    faults = []
    for source in model.sources:
        try:
            fetch(source, checkpoint, most_bytes=model.bytes)
        except FetchError as error:
            faults.append(f"  {source}: {error}")
            continue
        found = sha256_of(checkpoint)
        if found == model.sha256:
            return
        faults.append(f"  {source}: its SHA-256 is {found}, not {model.sha256}; it was not used")
    raise ModelError(
        f"'{model.name}' is not here yet and cannot be fetched:\n"
        + "\n".join(faults)
        + f"\ncopy {model.folder} from a machine that has it, or get the file by hand and run "
        f"'farvox import FILE OUT --arch {model.arch}'"
    )
