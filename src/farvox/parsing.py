"""JSON, TOML and numpy arrays, which somebody else may have written or a disk damaged.

Whatever is wrong with one is a ValueError, and reading it takes no more than its size asks for.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from farvox.errors import FarvoxError

MOST_LEVELS = 64
"""Levels of lists and tables in each other; farvox writes five."""

_ARRAY_HEADER = re.compile(
    rb"\{'descr': '([<>|][fiu][1248])', 'fortran_order': (False|True), 'shape': \(([\d, ]{0,200})\), *\}\s*"
)
_MOST_ROWS = 1 << 48
_MAP_FIXED = 0x10  # of Linux and macOS
PAGE = 4096
"""Bytes at a multiple of which the numbers of parts begin and end; numpy reads no header above 10,000."""
_MOST_DOTS = 1000


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, nested deeper than `MOST_LEVELS`, or has two values of one name.
    """
    with _plain_words():
        return _shallow(json.loads(text, object_pairs_hook=_table))


UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""First bytes of a text that Windows calls Unicode."""


def as_utf8(path: str | Path, start: bytes = b"") -> str:
    """The words for how a text file, which starts so, becomes UTF-8."""
    encoding = "UTF-16" if start.startswith(UTF16_MARKS) else "ENCODING"
    return f"convert it: iconv -f {encoding} -t UTF-8 {path} > OUT"


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: it is no TOML, or nested deeper than `MOST_LEVELS`, or has a line of over 1,000 dots: the
            memory for a dotted key grows with the square of its length.
    """
    if any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
        raise ValueError(f"a line has more than {_MOST_DOTS:,} dots")
    with _plain_words():
        table: dict[str, Any] = _shallow(tomllib.loads(text))
        return table


@contextmanager
def _plain_words() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):  # which is for programmers
            most = sys.get_int_max_str_digits()
            raise ValueError(f"it has a whole number of more than {most:,} digits") from None
        raise


_TOO_DEEP = f"nested deeper than {MOST_LEVELS} levels"


def read_record(path: Path) -> dict[str, Any]:
    """The table of a JSON file in which farvox keeps what it has done; empty where there is none.

    Raises:
        FarvoxError: it is damaged.
    """
    try:
        return dict(parse_json(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise FarvoxError(f"{path}: damaged ({error}): begin anew in another folder") from None


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name is there twice")
    return table


def _shallow(value: Any) -> Any:
    """The value itself, which others may walk down without running out of stack."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MOST_LEVELS):
        within = [each.values() if isinstance(each, dict) else each for each in level]
        level = [inner for each in within for inner in each if isinstance(inner, (dict, list))]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


def read_array(path: str | Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file of plain numbers; ``mapped``: in memory only where it is touched.

    numpy's own reader builds any type that the header asks for.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, or not as long as its header says.
    """
    with open(path, "rb") as file:
        dtype, order, shape = _read_header(file)
        start = file.tell()
        if not math.prod(shape):
            return np.empty(shape, dtype)
        if mapped:
            return np.memmap(path, dtype, "r", start, shape, order)  # type: ignore
        return np.fromfile(file, dtype).reshape(shape, order=order)  # type: ignore


def _read_header(file: BinaryIO) -> tuple[np.dtype[Any], str, tuple[int, ...]]:
    """The type, the order and the shape of the array of a ``.npy`` file, of which the header is read."""
    name, magic, version = Path(file.name).name, file.read(6), file.read(2)
    length = int.from_bytes(file.read(2 if version == b"\1\0" else 4), "little")
    header = _ARRAY_HEADER.fullmatch(file.read(length) if length < 1 << 16 else b"")
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    if magic != b"\x93NUMPY" or not header:
        raise ValueError(f"{name} is no .npy file of numbers")
    dtype, order = np.dtype(header[1].decode()), "F" if header[2] == b"True" else "C"
    shape = tuple(map(int, header[3].replace(b" ", b"").strip(b",").split(b",") if header[3] else ()))
    if math.prod(shape) * dtype.itemsize != size - start or max(shape, default=0) > _MOST_ROWS:
        raise ValueError(f"{name} has {size - start:,} bytes for {dtype} of shape {shape}")
    return dtype, order, shape


def write_part(path: Path, rows_NE: npt.NDArray[np.float32]) -> None:
    """Write a ``.npy`` file whose numbers begin at a page, so that `map_parts` can map several as one."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {rows_NE.shape}, }}"
    with path.open("wb") as file:
        file.write(
            b"\x93NUMPY\1\0" + (PAGE - 10).to_bytes(2, "little") + head.encode().ljust(PAGE - 11) + b"\n"
        )
        np.ascontiguousarray(rows_NE, "<f4").tofile(file)


def map_parts(paths: Sequence[Path]) -> npt.NDArray[np.float32]:
    """The rows of several ``.npy`` files as one array [N, E], in memory only where it is touched.

    The system maps the files behind one another. Where it cannot, because its pages are larger or a file is
    not by `write_part`, they are read into memory.

    Raises:
        OSError: a file cannot be read.
        ValueError: one is damaged, or they do not fit one another.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in paths]
        heads = [_read_header(file) for file in files]
        for path, (dtype, order, shape) in zip(paths, heads, strict=True):
            if dtype != np.float32 or order != "C" or len(shape) != 2 or shape[1:] != heads[0][2][1:]:
                raise ValueError(f"{path.name} has {dtype} of shape {shape}, other than {paths[0].name}")
        sizes = [4 * math.prod(shape) for *_, shape in heads]
        ends = [*(file.tell() for file in files), *sizes[:-1]]
        if any(end % mmap.ALLOCATIONGRANULARITY for end in ends) or not all(sizes):
            return np.concatenate([read_array(path, mapped=True) for path in paths])
        space = mmap.mmap(-1, sum(sizes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
        whole = np.frombuffer(space, np.float32)  # keeps the space, which takes the files along when it goes
        place = whole.ctypes.data
        system = ctypes.CDLL(None, use_errno=True).mmap
        system.restype, failed = ctypes.c_void_p, ctypes.c_void_p(-1).value
        system.argtypes = [*(ctypes.c_void_p, ctypes.c_size_t), *3 * (ctypes.c_int,), ctypes.c_long]
        for file, size in zip(files, sizes, strict=True):
            flags = mmap.MAP_SHARED | _MAP_FIXED
            if system(place, size, mmap.PROT_READ, flags, file.fileno(), file.tell()) == failed:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), file.name)
            place += size
    return whole.reshape(-1, heads[0][2][1])
