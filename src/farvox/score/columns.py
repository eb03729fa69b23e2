"""White-space separated columns of a text file, the form of trial lists and score files.

A file is read block by block, a thread reading the next block while strings of this one become numbers: ten
million lines in two seconds, and little more memory than the numbers. A block whose lines are all alike is
parsed at once as CSV; any other (runs of spaces, tabs between spaces, a fault) line by line, so that the line
at fault can be named.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farvox.errors import TrialError
from farvox.parsing import UTF16_MARKS, as_utf8

BLOCK_BYTES = 1 << 24
ROWS_IN_CACHE = 1 << 16
FEWEST_SLOTS, SLOTS_PER_STRING = 1 << 10, 4
AUDIO_SUFFIXES = (".wav", ".WAV", ".flac", ".m4a", ".mp3", ".sph")
_UTF8_BOM = b"\xef\xbb\xbf"
_HEADER_WORDS = {
    "enrol": {"model", "modelid", "enrol", "enrolid", "enroll", "enrollid", "enrolment", "enrollment"},
    "test": {"segment", "segmentid", "test", "testid", "evaluationfileid", "enrollfileid"},
    "side": {"side"},
    "label": {"label", "key", "target", "targettype", "trialtype"},
    "score": {"score", "llr"},
}
"""Names of columns, in lower case and without ``-`` and ``_``; ``enroll-file-id1`` without its number."""

FIRST_CHANNEL = ("a", "A", "1")
NOT_FIRST_CHANNEL = (
    "is not 'a', the first channel of the recording, which is the one that is read: write the other as a file"
    " of its own, with side 'a'"
)


def column_blocks(path: Path, widths: tuple[int, ...]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield ``(number of the first line, columns)`` for each block of lines, every column a string.

    Args:
        path: a UTF-8 text file; columns are separated by spaces or tabs; empty lines may end the file.
        widths: the numbers of columns that are allowed; every line has as many as the first one.

    Raises:
        TrialError: the file is missing or empty, or a line, named ``FILE:LINE``, is blank, is not
            UTF-8 or has another number of columns.
    """
    blocks = _parsed_blocks(path, widths)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = thread.submit(next, blocks, None)
            yield block


def encoded_columns(path: Path, widths: tuple[int, ...]) -> tuple[NDArray[np.int32], pl.Series]:
    """The columns as numbers of their strings, int32 [width, num_lines], and the strings.

    Arguments and errors are those of `column_blocks`.
    """
    table = IdTable()
    blocks = [
        np.stack([table.encode(column) for column in block]) for _, block in column_blocks(path, widths)
    ]
    return np.concatenate(blocks, axis=1), table.values


def header_of(path: Path) -> list[str | None]:
    """The columns that the first line of a list of NIST or SdSV names; empty where that line is no header.

    Returns:
        `enrol` (a model), `test` (a segment), `side`, `label` or `score` for each column, None for any other.
        A header names models and segments.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline().removeprefix(_UTF8_BOM).decode()
    except (OSError, UnicodeDecodeError):  # what reads the lines says so
        return []
    words = [re.sub(r"[-_]|(?<=file[-_]id)\d+$", "", word.lower()) for word in line.split() if word != "..."]
    kinds = [next((kind for kind, names in _HEADER_WORDS.items() if word in names), None) for word in words]
    return kinds if "enrol" in kinds and "test" in kinds else []


class IdTable:
    """Numbers strings in the order in which they first appear, whole columns at a time.

    A string is known by its hash of 64 bits, looked up in a table with open addressing by numpy, for a whole
    column at once. Two of n strings share a hash, and would be taken for one, with a chance of n² / 2⁶⁵:
    three in a million for ten million strings. No file can be made to: the seed is drawn anew.
    """

    def __init__(self) -> None:
        self._seed = secrets.randbits(63)
        self._strings: list[str] = []
        self._hash_of_code = np.empty(0, np.int64)
        self._code_in_slot = np.full(FEWEST_SLOTS, -1, np.int32)

    @property
    def values(self) -> pl.Series:
        """The strings in the order of their numbers."""
        return pl.Series(self._strings, dtype=pl.String)

    def encode(self, column: pl.Series) -> NDArray[np.int32]:
        """The number of every value of ``column``; values not met before get the next numbers."""
        hashes: NDArray[np.int64] = column.hash(self._seed).to_numpy().view(np.int64)
        codes = self._look_up(hashes)
        new = np.flatnonzero(codes < 0)
        if len(new):
            new_hashes, firsts = np.unique(hashes[new], return_index=True)
            order = np.argsort(firsts)
            self._strings += column.gather(new[firsts[order]]).to_list()
            self._hash_of_code = np.append(self._hash_of_code, new_hashes[order])
            self._fill_slots(len(order))
            codes[new] = self._look_up(hashes[new])
        return codes

    def _look_up(self, hashes: NDArray[np.int64]) -> NDArray[np.int32]:
        """The number of the string with each hash, -1 where there is none."""
        codes = np.full(len(hashes), -1, np.int32)
        last = len(self._code_in_slot) - 1
        for start in range(0, len(hashes) if self._strings else 0, ROWS_IN_CACHE):
            part = hashes[start : start + ROWS_IN_CACHE]
            slots = part & last
            found = self._code_in_slot.take(slots)
            others = np.flatnonzero(self._hash_of_code.take(found, mode="wrap") != part)
            others = others[found[others] >= 0]
            while len(others):  # from slot to slot until the string is found or a slot is free
                slots[others] = (slots[others] + 1) & last
                found[others] = there = self._code_in_slot[slots[others]]
                others = others[(there >= 0) & (self._hash_of_code[there] != part[others])]
            codes[start : start + ROWS_IN_CACHE] = found
        return codes

    def _fill_slots(self, num_new: int) -> None:
        """Put the last strings into slots, or all of them into a larger table."""
        first, last = len(self._strings) - num_new, len(self._code_in_slot) - 1
        if SLOTS_PER_STRING * len(self._strings) > last:
            last = (1 << (SLOTS_PER_STRING * len(self._strings)).bit_length()) - 1
            self._code_in_slot = np.full(last + 1, -1, np.int32)
            first = 0
        codes = np.arange(first, len(self._strings), dtype=np.int32)
        slots = self._hash_of_code[codes] & last
        while len(codes):
            free = self._code_in_slot[slots] < 0
            self._code_in_slot[slots[free]] = codes[free]  # of several for one slot the last stays
            without = self._code_in_slot[slots] != codes
            codes, slots = codes[without], (slots[without] + 1) & last


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


def _parsed_blocks(path: Path, widths: tuple[int, ...]) -> Iterator[tuple[int, pl.DataFrame]]:
    """The blocks of `column_blocks`, each read and parsed when it is asked for."""
    schema: dict[str, type[pl.String]] = {}
    first_line, ended = 1, False
    try:
        with open(path, "rb") as file:
            start = file.read(len(_UTF8_BOM)).removeprefix(_UTF8_BOM)
            if start.startswith(UTF16_MARKS):
                raise TrialError(f"{path}: UTF-16 text, where UTF-8 is expected; {as_utf8(path, start)}")
            while block := start + file.read(BLOCK_BYTES):
                start = b""
                if not block.endswith(b"\n"):
                    block += file.readline()
                text = block if block[-2:].strip() else block.rstrip()
                if not text:
                    ended = True
                    continue
                if ended:
                    raise TrialError(f"{path}:{first_line}: blank line")
                if not schema:
                    width = len(text.partition(b"\n")[0].split())
                    if width not in widths:
                        allowed = " or ".join(map(str, widths))
                        fault = f"{_columns(width)}, where {allowed} are expected" if width else "blank line"
                        if width == 1 and b"," in text.partition(b"\n")[0]:
                            fault += f"; put blanks between columns, not commas: tr , ' ' < {path} > OUT"
                        raise TrialError(f"{path}:1: {fault}")
                    schema = {f"column_{n + 1}": pl.String for n in range(width)}
                frame = _parse_regular(text, schema)
                if frame is None:
                    frame = _parse_by_line(path, first_line, text, schema)
                yield first_line, frame
                first_line += len(frame)
                ended = block[len(text) :].partition(b"\n")[2] != b""
    except OSError as error:
        raise TrialError(f"{path}: {error.strerror}") from None
    if not schema:
        raise TrialError(f"{path}: the file is empty")


def _parse_regular(text: bytes, schema: dict[str, type[pl.String]]) -> pl.DataFrame | None:
    """The columns of lines that are all alike and separated by single spaces or single tabs, else None."""
    first = text.partition(b"\n")[0]
    if first.endswith(b"\r"):
        text = text.replace(b"\r\n", b"\n")
    try:
        frame = pl.read_csv(
            text, separator="\t" if b"\t" in first else " ", has_header=False, quote_char=None, schema=schema
        )
    except (pl.exceptions.PolarsError, OSError):  # different widths, not UTF-8, or "x^", taken for zlib's
        return None
    num_blanks = np.count_nonzero(np.frombuffer(text, np.uint8) <= ord(" "))
    between = len(frame) * frame.width - (not text.endswith(b"\n"))  # of columns and of lines
    return None if num_blanks != between or any(column.has_nulls() for column in frame) else frame


def _parse_by_line(
    path: Path, first_line: int, text: bytes, schema: dict[str, type[pl.String]]
) -> pl.DataFrame:
    """The columns of lines with any white space between words, or the error that names the line at fault."""
    rows = []
    for number, line in enumerate(text.removesuffix(b"\n").split(b"\n"), first_line):
        try:
            row = [word.decode() for word in line.split()]
        except UnicodeDecodeError:
            raise TrialError(f"{path}:{number}: not UTF-8 text; {as_utf8(path)}") from None
        if not row:
            raise TrialError(f"{path}:{number}: blank line")
        if len(row) != len(schema) == line.count(b"\t") + 1:  # a column is empty
            row = line.rstrip(b"\r").decode().split("\t")
        if len(row) != len(schema):
            found, first = _columns(len(row)), len(schema)
            raise TrialError(f"{path}:{number}: {found}, where the first line has {first}")
        rows.append(row)
    return pl.DataFrame(rows, schema, orient="row")


def _columns(count: int) -> str:
    return f"{count} column" if count == 1 else f"{count} columns"
