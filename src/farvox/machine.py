"""Properties of the machine: bf16 of a device, memory that is available or freed."""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, ARM
_ISA = "ONEDNN_MAX_CPU_ISA"  # the instructions that torch's convolutions may use
_ISA_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
_KILLED = "is killed by signal: killed"  # of torch, on a process of a DataLoader
_OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "bad_alloc", _KILLED,
    "can't start new thread", "failed to map segment", "could not create a primitive",
    "size calculation overflowed",
)  # fmt: skip
_GROUP = Path("/sys/fs/cgroup")  # as a container sees it
_GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT, _ALL, _LARGEST = 64 << 20, -1, 1 << 30


def has_bf16(device: torch.device) -> bool:
    """True where the device has instructions that multiply bf16; imitating them is ten times slower.

    False for a torch without this information, on Apple's GPUs, which were not measured, and on a CPU where
    the environment keeps oneDNN from these instructions.
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    allowed = os.environ.get(_ISA, "").upper() not in _ISA_WITHOUT_BF16
    return device.type == "cpu" and allowed and any(map(has_instructions, _CPU_BF16))


def has_instructions(name: str) -> bool:
    """True where the CPU has the instructions that torch calls so; False for a torch that does not know."""
    import torch

    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(name))


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn ``auto`` into bf16 where the device has it, else into fp32; any other precision stays."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "fp32"


def is_out_of_memory(error: BaseException) -> bool:
    """True of an error which says that there is no more memory, of this machine or of the device.

    Python and numpy raise MemoryError, torch a RuntimeError: ``torch.OutOfMemoryError`` for a GPU, one with a
    telling text for a CPU, or for a worker process of a DataLoader that was killed, perhaps by the system. A
    thread that cannot be started is a RuntimeError, a file that cannot be mapped an OSError, a library an
    ImportError; oneDNN, by which torch convolves, says no more than that it could not create a primitive.
    """
    text = f"{error} {error.__cause__}".lower()  # torch may say how a process ended in the cause alone
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError) and any(each in text for each in _OUT_OF_MEMORY)
    )


def fault_of_memory(error: BaseException, full: str = "out of memory") -> str:
    """The words for an error of `is_out_of_memory`; who has killed a process, and why, is not known."""
    killed = "a process that reads was killed by a signal, perhaps for want of memory"
    return killed if _KILLED in f"{error} {error.__cause__}".lower() else full


def available_memory() -> float:
    """Bytes the process can still take, of the system and of its control group; infinite if unknown.

    What the system keeps of files counts as free, and so does swap space.
    """
    found = [math.inf]
    with suppress(OSError, ValueError, KeyError):  # no Linux
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
        found.append(sizes["MemAvailable"] + sizes["SwapFree"])
    for limit, used, files in _GROUP_FILES:
        with suppress(OSError, ValueError, KeyError):  # "max" where there is no limit
            kept = dict(line.split() for line in (_GROUP / files).read_text("ascii").splitlines())
            free = int((_GROUP / limit).read_text("ascii")) - int((_GROUP / used).read_text("ascii"))
            found.append(free + int(kept.get("total_inactive_file", kept.get("inactive_file", 0))))
    return min(found)


def keep_freed_memory(*, all_of_it: bool = False) -> None:
    """Let this process keep what it frees, up to 64 MB, for what it allocates next.

    With ``all_of_it`` there is no limit: a training step on a CPU frees gigabytes and needs them again.

    glibc returns large blocks to the system and asks for new ones, and the system clears every page on
    first touch: for arrays of a few hundred kB, used once and freed, as a loader makes them, that takes
    several times as long as filling them. Without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST if all_of_it else _KEPT)
        mallopt(_TRIM_THRESHOLD, _ALL if all_of_it else _KEPT)


def return_freed_memory() -> None:
    """Give back to the system what this process has freed; without glibc nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def is_installed(module: str) -> bool:
    """A module can be imported, as far as that is known without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # somebody blocks it
        return False
