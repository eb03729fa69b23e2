"""White-space separated columns of a text file, block by block: what trial lists and score files are made of.

Ten million lines are read in a few seconds and a bounded amount of memory: a block is parsed at
once as CSV, and only a block that turns out irregular (runs of spaces, tabs between spaces, a
fault) is read again line by line, to be put right or to name the line at fault.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.errors import TrialError

BLOCK_BYTES = 1 << 26
_UTF8_BOM = b"\xef\xbb\xbf"


def column_blocks(path: Path, widths: tuple[int, ...]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield ``(number of the first line, columns)`` for each block of lines, every column a string.

    Args:
        path: a UTF-8 text file; columns are separated by spaces or tabs; empty lines may end the file.
        widths: the numbers of columns that are allowed; every line has as many as the first one.

    Raises:
        TrialError: the file is missing or empty, or a line, named ``FILE:LINE``, is blank, is not
            UTF-8 or has another number of columns.
    """
    first_line, width, blank_line = 1, None, None
    for block in _blocks_of_lines(path):
        text = block.rstrip()
        num_lines = block.count(b"\n") + (not block.endswith(b"\n"))
        if text:
            if blank_line is not None:
                raise TrialError(f"{path}:{blank_line}: blank line")
            width = width or _width_of_first_line(path, first_line, text, widths)
            yield first_line, _parse(path, first_line, text, width)
        end_of_text = first_line + text.count(b"\n") + bool(text)
        first_line += num_lines
        if blank_line is None and end_of_text < first_line:
            blank_line = end_of_text
    if width is None:
        raise TrialError(f"{path}: the file is empty")


class IdTable:
    """Numbers strings in the order in which they first appear, whole columns at a time."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def encode(self, column: pl.Series) -> NDArray[np.int32]:
        """The number of every value of ``column``; values not met before get the next numbers."""
        unique = column.unique(maintain_order=True)
        codes = [self._codes.setdefault(value, len(self._codes)) for value in unique]
        numbers = pl.Series(codes, dtype=pl.Int32)
        return column.replace_strict(unique, numbers, return_dtype=pl.Int32).to_numpy()

    @property
    def values(self) -> pl.Series:
        """The strings in the order of their numbers."""
        return pl.Series(list(self._codes), dtype=pl.String)


def stem_of(utt_id: str) -> str:
    """An id as it is matched: without an audio suffix, VoxCeleb's ``id/video/file`` joined by ``-``."""
    for suffix in (".wav", ".flac", ".m4a"):
        utt_id = utt_id.removesuffix(suffix)
    return utt_id.replace("/", "-")


def _blocks_of_lines(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            start = file.read(len(_UTF8_BOM)).removeprefix(_UTF8_BOM)
            while block := start + file.read(BLOCK_BYTES):
                start = b""
                yield block if block.endswith(b"\n") else block + file.readline()
    except OSError as error:
        raise TrialError(f"{path}: {error.strerror}") from None


def _width_of_first_line(path: Path, line: int, text: bytes, widths: tuple[int, ...]) -> int:
    first = text.partition(b"\n")[0]
    if not first.strip():
        raise TrialError(f"{path}:{line}: blank line")
    if (width := len(first.split())) not in widths:
        allowed = " or ".join(map(str, widths))
        raise TrialError(f"{path}:{line}: {_columns(width)}, where {allowed} are expected")
    return width


def _parse(path: Path, first_line: int, text: bytes, width: int) -> pl.DataFrame:
    names = [f"column_{n + 1}" for n in range(width)]
    frame = _parse_regular(text)
    if frame is not None and frame.width == width:
        return frame.rename(dict(zip(frame.columns, names, strict=True)))
    rows = _rows(path, first_line, text, width)
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _parse_regular(text: bytes) -> pl.DataFrame | None:
    """The columns of lines that are all alike and separated by single spaces or single tabs, else None."""
    separator = "\t" if b"\t" in text else " "
    if separator == "\t" and b" " in text:
        return None
    try:
        frame = pl.read_csv(text, separator=separator, has_header=False, quote_char=None, infer_schema=False)
    except pl.exceptions.PolarsError:  # lines of different widths, or not UTF-8
        return None
    return None if any(column.has_nulls() for column in frame) else frame


def _rows(path: Path, first_line: int, text: bytes, width: int) -> list[list[str]]:
    rows = []
    for number, line in zip(itertools.count(first_line), text.split(b"\n"), strict=False):
        try:
            row = [word.decode() for word in line.split()]
        except UnicodeDecodeError:
            raise TrialError(f"{path}:{number}: not UTF-8 text") from None
        if not row:
            raise TrialError(f"{path}:{number}: blank line")
        if len(row) != width:
            raise TrialError(f"{path}:{number}: {_columns(len(row))}, where the first line has {width}")
        rows.append(row)
    return rows


def _columns(count: int) -> str:
    return f"{count} column" if count == 1 else f"{count} columns"
