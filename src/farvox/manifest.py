"""The manifest of a model folder, ``manifest.json``: SHA-256 and length of its files; damage is refused.

Files up to `ALWAYS_HASHED` bytes are hashed whenever they are read; a larger one when its size, time of
change or inode differs from those of the last check, which the cache keeps. A graph (``graph.onnx``) has a
hash of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farvox.atomic import sha256_of, visible, write_json, write_text
from farvox.cache import cache_path, file_state
from farvox.errors import CheckpointError, FarvoxError
from farvox.parsing import parse_json
from farvox.progress import to_stderr
from farvox.writers import writes

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
MOST_HEADER = 2 << 20
"""Bytes of the longest header of a safetensors file that is read; that of a WavLM Large has 60,000."""
ALWAYS_HASHED = 200_000_000
"""Bytes of the largest file that is hashed at every load; a quarter of a second on one core."""


def begin_manifest(folder: str | Path) -> None:
    """Write an empty manifest, before the files of a new model are written."""
    write_json(Path(folder) / MANIFEST, {"sha256": {}, "bytes": {}})


def renew_manifest(folder: str | Path, *names: str) -> None:
    """Enter files that were just written; a folder without a manifest gets none, and other entries stay."""
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        entries = (listed_files(folder) or {}).items()
        known = {name: found for name, found in entries if (folder / name).is_file()}
        known |= {name: sha256_of(folder / name) for name in names}
        lengths = {name: (folder / name).stat().st_size for name in sorted(known)}
        write_json(folder / MANIFEST, {"sha256": dict(sorted(known.items())), "bytes": lengths})


@writes("folder")
def write_manifest(folder: Path, load: Callable[[Path], object]) -> None:
    """Enter all files of a folder as they are now, whether it has a manifest or not, if it can be loaded so.

    Args:
        folder: of a model.
        load: loads all of it; what that raises comes through, and the manifest stays as it was.
    """
    path = folder / MANIFEST
    before = path.read_bytes() if path.exists() else None
    begin_manifest(folder)
    try:
        renew_manifest(folder, *_checkable(folder))
        load(folder)
    except BaseException:
        path.unlink() if before is None else write_text(path, before.decode())
        raise


def verify_file(path: str | Path, *, always: bool = False) -> str | None:
    """The SHA-256 of a file of a model folder, which is that of the manifest; None without a manifest.

    With ``always`` a large file is hashed too, whenever it was last checked.

    Raises:
        CheckpointError: the file, or the manifest, is damaged, or was changed by other means than farvox; or
            the file is there or in the manifest, but not both.
    """
    path = Path(path)
    if (known := listed_files(path.parent)) is None:
        return None
    wanted, folder = known.get(path.name), path.parent
    if path.is_file():
        found = sha256_of(path) if always or not wanted else _sha256(path)
    elif wanted is None:
        return None
    else:
        raise CheckpointError(f"{path}: missing, though {MANIFEST} lists it: {_remedy(folder)}")
    if what := _difference(path, found, wanted):
        own = "" if _zoo_name(folder) else f"; if you changed it on purpose, {_how_to_write(folder)}"
        raise CheckpointError(f"{path}: {what}: {_remedy(folder)}{own}")
    return found


def faults_in(folder: Path) -> dict[str, str]:
    """The files of a folder that are not those of its manifest, with what is wrong; all are hashed.

    Raises:
        CheckpointError: the manifest is damaged.
    """
    faults: dict[str, str] = {}
    if (known := listed_files(folder)) is None:
        return faults
    for name in sorted({*known, *_checkable(folder)}):
        if not (folder / name).is_file():
            faults[name] = f"missing, though {MANIFEST} lists it"
        elif what := _difference(folder / name, sha256_of(folder / name), known.get(name)):
            faults[name] = what
    return faults


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU.

    Raises:
        CheckpointError: the file is absent, damaged, or not the one of the manifest beside it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify_file(path)
    try:
        read_header(path)
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as weights: {error}") from error
    return weights


def read_header(path: str | Path) -> tuple[int, Any]:
    """The length of the header of a safetensors file, and what it holds, a table as a rule.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no such header, or one of a million tensors, which the library would believe.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise ValueError(f"its header should have {length:,} bytes")
        return 8 + length, parse_json(file.read(length))


def damaged_files(folder: Path) -> list[str]:
    """Messages on the files of a folder that are not those of its manifest, or on the lack of one."""
    if not folder.is_dir():
        return []
    faults = []
    try:
        if (known := listed_files(folder)) is None:
            return [f"{folder}: written without a {MANIFEST}, so whether its files are damaged is not known"]
        for name in sorted({*known, *_checkable(folder)}):
            try:
                verify_file(folder / name, always=True)
            except (OSError, CheckpointError) as error:
                faults.append(str(error))
    except (OSError, CheckpointError) as error:
        faults.append(str(error))
    return faults


@cache  # once in a process
def note_unchecked(folder: Path) -> None:
    """Say that the files of a folder are in no manifest, and how they get into one."""
    cure = f"'farvox pull {name}' makes it anew" if (name := _zoo_name(folder)) else _how_to_write(folder)
    to_stderr(
        f"note: {folder}: written without a {MANIFEST}, so its files are not checked for damage; {cure}"
    )


def _checkable(folder: Path) -> list[str]:
    """The files of a folder that a manifest lists: descriptions, recipes and weights, but no graph."""
    files = (path for path in visible(folder) if path.suffix in (".json", ".safetensors", ".toml"))
    return [path.name for path in files if path.name != MANIFEST]


def listed_files(folder: Path) -> dict[str, str] | None:
    """The SHA-256 of each file that a folder's manifest lists; None without a manifest.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / MANIFEST
    try:
        known = parse_json(path.read_text("utf-8"))["sha256"]
        return {str(name): str(found) for name, found in known.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged ({error!r}): {_remedy(folder)}") from None


def _difference(path: Path, found: str, wanted: str | None) -> str:
    """The words for a file that is not the one its manifest lists; empty where it is."""
    if not wanted:
        return f"damaged or changed: its SHA-256 is {found[:12]}..., and {MANIFEST} does not list it"
    length, listed = path.stat().st_size, None
    with suppress(OSError, ValueError, KeyError, TypeError):  # an earlier farvox listed no lengths
        listed = parse_json((path.parent / MANIFEST).read_text("utf-8"))["bytes"][path.name]
    other = "" if listed in (None, length) else f" and it has {length:,} bytes instead of {listed}"
    if found == wanted and not other:
        return ""
    return f"damaged or changed: its SHA-256 is {found[:12]}..., in {MANIFEST} {wanted[:12]}...{other}"


def _zoo_name(folder: Path) -> str:
    """The name of the model of the zoo that a folder of the cache holds; empty for any other folder."""
    is_pulled = folder.absolute().parent == (cache_path() / "models").absolute()
    return folder.name.rpartition("-")[0] if is_pulled else ""


def _how_to_write(folder: Path) -> str:
    return f"'farvox models {folder} --renew-manifest' enters the files as they are"


def _remedy(folder: Path) -> str:
    if name := _zoo_name(folder):
        return f"'farvox pull {name}' repairs it"
    return "copy it again from where it came from, or make the model again"


def _sha256(path: Path) -> str:
    """SHA-256 of a file; of a large one that is as it was when it was last hashed, from the cache."""
    found = os.stat(path)
    if found.st_size <= ALWAYS_HASHED:
        return sha256_of(path)
    state = f"{file_state(path)}\t{found.st_ino}"
    place = cache_path() / "checked" / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    with suppress(OSError, ValueError):
        before, _, known = place.read_text("utf-8").rpartition("\t")
        if before == state:
            return known
    known = sha256_of(path)
    with suppress(FarvoxError):  # where there is no cache to write, it is hashed each time
        write_text(place, f"{state}\t{known}")
    return known
