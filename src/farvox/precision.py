"""What a device multiplies in: not every one has bf16, and one that has to imitate it is ten times slower."""

from __future__ import annotations

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
