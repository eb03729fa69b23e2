"""The choice of "auto" on the devices there are."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from farvox.audio.files import write_audio
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
    assert is_out_of_memory(OSError(12, "Cannot allocate memory")) and not is_out_of_memory(OSError(28, "x"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN's, seen under a limit


WITHOUT_MEMORY = """
import re, resource, sys, threading
from farvox.audio.files import read_audio
from farvox.machine import is_out_of_memory
what, more, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if what == "thread":
    threading.stack_size(64 << 20)
    work = lambda: threading.Thread(target=print).start()
elif what == "library":
    work = lambda: __import__("_sqlite3")
elif what == "onnxruntime":
    from farvox.zoo.onnx_backend import OnnxEmbedder
    import numpy as np
    embedder, wav_T = OnnxEmbedder(path, threads=1), np.ones(16000 * 240, np.float32)
    embedder.embed(wav_T[:16000])
    work = lambda: embedder.embed(wav_T)
else:
    read_audio(what)  # brings the decoder
    work = lambda: read_audio(path)
used = int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))
try:
    work()
except BaseException as error:
    print(type(error).__name__, is_out_of_memory(error), error)
"""
"""Does something with so many bytes more of address space than are in use, and prints how that ends."""


def without_memory(what: object, more: int, path: object = "") -> str:
    """The kind of the error, whether it counts as one of memory, and its text."""
    command = [sys.executable, "-c", WITHOUT_MEMORY, str(what), str(more), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr
    return done.stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits the memory as Linux does")
def test_a_thread_and_a_library_that_find_no_memory_are_told_from_other_errors():
    assert without_memory("thread", 1 << 20).startswith("RuntimeError True can't start new thread")
    assert re.match("ImportError True .*failed to map segment", without_memory("library", 0))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits the memory as Linux does")
def test_a_recording_that_finds_no_memory_is_not_called_damaged(tmp_path):
    noise_T = 0.1 * np.random.default_rng(0).standard_normal(16000 * 300).astype(np.float32)
    short, long = tmp_path / "short.flac", tmp_path / "long.flac"
    write_audio(short, noise_T[:16000])
    write_audio(long, noise_T)
    assert re.match("(MemoryError|OSError) True", without_memory(short, 8 << 20, long))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits the memory as Linux does")
def test_an_exported_model_that_finds_no_memory_says_so(exported):
    found = without_memory("onnxruntime", 16 << 20, exported)
    assert found.startswith("MemoryError True onnxruntime: "), found
