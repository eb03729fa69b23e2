"""White-space separated columns of a text file: what trial lists and score files are made of.

A file whose lines are all alike is parsed at once as CSV, its ids straight into numbers: ten million lines
in a second or two, and little more memory than the numbers. Any other (runs of spaces, tabs between spaces,
a fault) is read block by block, and a block that turns out irregular line by line, to be put right or to
name the line at fault.
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
NUMBERS_PER_BLOCK = 1 << 20
AUDIO_SUFFIXES = (".wav", ".flac", ".m4a")
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


def encoded_columns(path: Path, widths: tuple[int, ...]) -> tuple[NDArray[np.int32], pl.Series]:
    """The columns as numbers of their strings, int32 [width, num_lines], and the strings.

    Arguments and errors are those of `column_blocks`.
    """
    table = IdTable()
    frame = _regular_file(path, widths, pl.Categorical)
    if frame is not None:
        return np.stack([table.encode(column) for column in frame]), table.values
    blocks = [
        np.stack([table.encode(column) for column in block]) for _, block in column_blocks(path, widths)
    ]
    return np.concatenate(blocks, axis=1), table.values


def encoded_pairs_and_scores(path: Path) -> tuple[NDArray[np.int32], pl.Series, NDArray[np.float64]] | None:
    """Of lines ``id id number``: the ids as numbers [2, num_lines], their strings, and the numbers.

    None where that cannot be had at once: a line is irregular, or a number is none.
    """
    frame = _regular_file(path, (3,), pl.Float64)
    if frame is None:
        return None
    table = IdTable()
    *ids, numbers = frame
    return np.stack([table.encode(column) for column in ids]), table.values, numbers.to_numpy()


class IdTable:
    """Numbers strings in the order in which they first appear, whole columns at a time."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def encode(self, column: pl.Series) -> NDArray[np.int32]:
        """The number of every value of ``column``; values not met before get the next numbers."""
        if column.dtype == pl.Categorical:
            return self._renumbered(column)
        unique = column.unique(maintain_order=True)
        codes = [self._codes.setdefault(value, len(self._codes)) for value in unique]
        numbers = pl.Series(codes, dtype=pl.Int32)
        return column.replace_strict(unique, numbers, return_dtype=pl.Int32).to_numpy()

    def _renumbered(self, column: pl.Series) -> NDArray[np.int32]:
        """A column whose strings have numbers already, but not those of this table."""
        given = column.to_physical().to_numpy()
        first_line = np.full(int(given.max()) + 1, len(given))
        for start in range(0, len(given), NUMBERS_PER_BLOCK):
            block = given[start : start + NUMBERS_PER_BLOCK]
            np.minimum.at(first_line, block, np.arange(start, start + len(block)))
        lines = np.sort(first_line[first_line < len(given)])
        number_of = np.zeros(len(first_line), np.int32)
        number_of[given[lines]] = [
            self._codes.setdefault(value, len(self._codes))
            for value in column.gather(lines).cast(pl.String).to_list()
        ]
        numbers: NDArray[np.int32] = number_of[given]
        return numbers

    @property
    def values(self) -> pl.Series:
        """The strings in the order of their numbers."""
        return pl.Series(list(self._codes), dtype=pl.String)


def stem_of(utt_id: str) -> str:
    """An id as it is matched: without an audio suffix, VoxCeleb's ``id/video/file`` joined by ``-``."""
    for suffix in AUDIO_SUFFIXES:
        utt_id = utt_id.removesuffix(suffix)
    return utt_id.replace("/", "-")


def stems_of(utt_ids: pl.Series) -> pl.Series:
    """`stem_of` of each."""
    for suffix in AUDIO_SUFFIXES:
        utt_ids = utt_ids.str.strip_suffix(suffix)
    return utt_ids.str.replace_all("/", "-", literal=True)


def _regular_file(path: Path, widths: tuple[int, ...], last: type[pl.DataType]) -> pl.DataFrame | None:
    """The columns of a file whose lines are all alike, the ids as categories, else None."""
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            first = file.readline()
        width = len(first.split())
        if width not in widths:
            return None
        kinds = [pl.Categorical] * (width - 1) + [last]
        frame = pl.read_csv(
            path, separator="\t" if b"\t" in first else " ", has_header=False, quote_char=None, glob=False,
            schema={f"column_{n + 1}": kind for n, kind in enumerate(kinds)},
        )  # fmt: skip
    except (OSError, pl.exceptions.PolarsError):  # unreadable, not UTF-8, or lines of different widths
        return None
    blanks = r"[ \t\r\x0b\x0c]"  # inside a field: the separator is not the same everywhere
    for column in frame:
        if column.has_nulls() or (column.dtype == pl.Float64 and not column.is_finite().all()):
            return None
        if column.dtype == pl.Categorical and column.unique().cast(pl.String).str.contains(blanks).any():
            return None
    return frame


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
