"""What a device multiplies in: not every one has bf16, and one that has to imitate it is ten times slower."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, ARM


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions that multiply bf16.

    A torch too old to tell of a CPU says no; so does this of Apple's GPUs, of which nothing was measured.
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and any(capabilities.get(name) for name in _CPU_BF16)


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` is bf16 where the device has it, else fp32; any other is what it says."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "fp32"


def is_channels_last(choice: str, precision: str, device: torch.device) -> bool:
    """Whether a network is trained with all channels of a place side by side in memory.

    Args:
        choice: ``on``, ``off``, or ``auto``, which leaves the order as it is.
        precision: of the training.
        device: it runs there.
    """
    return choice == "on"


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
