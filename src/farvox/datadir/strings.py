"""Many strings in one array of bytes, which may be a file that is mapped into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import polars as pl

_NEWLINE = 10
_SCANNED = 1 << 26  # bytes in which ends of lines are looked for at a time
_ITERATED = 65_536


@dataclass(frozen=True, eq=False)
class StringTable(Sequence[str]):
    """N strings in one byte array. ``table[i]`` is a str.

    Attributes:
        text: UTF-8 of all strings, with ``gap`` bytes after each.
        ends_N: place of the first byte after each.
    """

    text: npt.NDArray[np.uint8]
    ends_N: npt.NDArray[np.int64]
    gap: int = 0

    @classmethod
    def of(cls, strings: pl.Series) -> StringTable:
        """Pack a column of strings."""
        ends = strings.str.len_bytes().cast(pl.Int64).cum_sum().to_numpy()
        text = np.frombuffer(strings.str.join("").item().encode(), dtype=np.uint8)
        return cls(text, ends)

    @classmethod
    def of_lines(cls, path: Path) -> StringTable:
        """The lines of a file, which is mapped; what follows the last newline is none.

        Raises:
            OSError: the file cannot be read.
        """
        size = path.stat().st_size
        text = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
        ends = [np.empty(0, np.int64)]
        for start in range(0, size, _SCANNED):
            part = text[start : start + _SCANNED]
            ends.append(start + np.flatnonzero(part == _NEWLINE))
        return cls(text, np.concatenate(ends), gap=1)

    def column(self) -> pl.Series:
        """The strings as a column, which takes memory of its own."""
        starts = range(0, max(1, len(self)), _ITERATED)
        return pl.concat([pl.Series(self[start : start + _ITERATED], dtype=pl.String) for start in starts])

    def __len__(self) -> int:
        return len(self.ends_N)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            rows = range(len(self))[row]
            if not self.gap or rows.step != 1 or not rows:
                return [self[number] for number in rows]
            first = self.ends_N[rows[0] - 1] + self.gap if rows[0] else 0
            return self.text[first : self.ends_N[rows[-1]]].tobytes().decode().split("\n")
        row = range(len(self))[row]
        start = self.ends_N[row - 1] + self.gap if row else 0
        return self.text[start : self.ends_N[row]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _ITERATED):
            yield from self[start : start + _ITERATED]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
