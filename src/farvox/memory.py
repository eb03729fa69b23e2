"""What the C library does with memory that is given back."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT, _ALL, _LARGEST = 64 << 20, -1, 1 << 30


def keep_freed_memory(*, all_of_it: bool = False) -> None:
    """Let this process keep what it frees, up to 64 MB, for what it allocates next.

    With ``all_of_it`` there is no limit: a training step on a CPU frees gigabytes and wants them again.

    glibc hands large blocks back to the system and asks for them anew, and the system clears every page on
    first touch: for arrays of a few hundred kB, used once and freed, as a loader makes them, that takes
    several times as long as filling them. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST if all_of_it else _KEPT)
        mallopt(_TRIM_THRESHOLD, _ALL if all_of_it else _KEPT)
