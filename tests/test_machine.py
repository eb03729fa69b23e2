"""The choice of "auto" on the devices there are."""

import numpy as np
import pytest
import torch

from farvox.machine import has_bf16, is_out_of_memory, resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({"avx2"}, "fp32"),
        ({"avx512_f"}, "fp32"),
        ({"avx512_bf16"}, "bf16"),
        ({"amx_bf16"}, "bf16"),
        ({"bf16"}, "bf16"),
    ],
)
def test_a_cpu_takes_bf16_only_where_it_has_instructions_for_it(instructions, expected, monkeypatch):
    there = dict.fromkeys(("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16"), False)
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: there | dict.fromkeys(instructions, True), raising=False
    )
    assert resolve_precision("auto", CPU) == expected


def test_a_torch_too_old_to_tell_stays_with_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bf16(CPU) and resolve_precision("auto", CPU) == "fp32"


def test_a_gpu_that_only_imitates_bf16_does_not_count(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or False)
    assert resolve_precision("auto", torch.device("cuda")) == "fp32" and asked == [
        {"including_emulation": False}
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_precision_given_by_name_is_used(precision):
    assert resolve_precision(precision, CPU) == precision


@pytest.mark.parametrize(("allowed", "expected"), [("AVX2", "fp32"), ("avx512_core_amx", "bf16")])
def test_a_cpu_whose_convolutions_are_kept_from_bf16_has_none(allowed, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(
    "ask", [lambda: np.empty(1 << 59), lambda: torch.empty(1 << 50), lambda: bytes(1 << 60)]
)
def test_memory_asked_for_in_vain_is_told_from_other_errors(ask):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        ask()
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(caught.value)
