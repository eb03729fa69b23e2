"""A checkpoint reads as torch and numpy read it, though neither is there where it is read."""

import os
import pickle
import signal
import subprocess
import sys
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.errors import CheckpointError
from farvox.zoo import unpickle
from farvox.zoo.unpickle import MOST_LEVELS, read_pickled

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8,
)  # fmt: skip


def read_again(value, path, **how):
    torch.save(value, path, **how)
    return read_pickled(path, "a torch checkpoint")


def same(found, expected):
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_type_and_layout_come_back(tmp_path, dtype, old):
    base = torch.arange(24).reshape(2, 3, 4).to(dtype)
    value = {
        "plain": base,
        "turned": base.permute(2, 0, 1),
        "part": base[1:, ::2],
        "shared": base[0],
        "empty": torch.empty(0, 5, dtype=dtype),
        "number": torch.tensor(3).to(dtype),
        "parameter": torch.nn.Parameter(base.float()).data,
    }
    assert same(read_again(value, tmp_path / "m.pt", _use_new_zipfile_serialization=not old), value)


@pytest.mark.parametrize("old", [False, True])
def test_a_whole_training_state_comes_back(tmp_path, old):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(2, 3)).sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [2, 3])
    value = {
        "model": network.state_dict(),
        "optimizer": optimiser.state_dict(),
        "scheduler": {key: each for key, each in schedule.state_dict().items() if not callable(each)},
        "parameters": torch.nn.ParameterList(network.parameters()).state_dict(),
        "epoch": 37, "loss": float("nan"), "name": "x\udc80\u4eba", "done": True, "none": None,
        3: [1, (2.5, -1)], "counts": Counter("aab"), "sizes": torch.Size([2, 3]), "more": OrderedDict(a=1),
    }  # fmt: skip
    found = read_again(value, tmp_path / "m.pt", _use_new_zipfile_serialization=not old)
    assert found.keys() == value.keys()
    assert same(found["model"], value["model"]) and same(found["optimizer"], value["optimizer"])
    assert np.isnan(found["loss"]) and (found["epoch"], found["done"], found["none"]) == (37, True, None)
    assert (found["name"], found[3], found["sizes"]) == (value["name"], [1, [2.5, -1]], [2, 3])
    assert (found["counts"], found["more"]) == ({"a": 2, "b": 1}, {"a": 1})


def test_a_value_that_no_import_needs_is_none(tmp_path):
    value = {"kind": torch.float32, "device": torch.device("cpu"), "digits": 10**5000, "bytes": b"abc"}
    assert read_again(value, tmp_path / "m.pt") == dict.fromkeys(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=25)
@given(value=PLAIN)
def test_plain_values_come_back(value, tmp_path_factory):
    assert same(read_again(value, tmp_path_factory.mktemp("plain") / "m.pt"), value)


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8", "<i8", "|u1"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_of_numpy_come_back(tmp_path, kind, protocol):
    value = {"a": np.arange(6).astype(kind).reshape(2, 3), "b": np.asfortranarray(np.ones((2, 3), kind))}
    value |= {"c": np.ones((0, 4), kind), "d": np.array(7, kind)}
    with (tmp_path / "e.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(value, dtype=object), file, protocol=protocol)
    found = read_pickled(tmp_path / "e.npy", "a dict")
    assert found.keys() == value.keys()
    for name, expected in value.items():
        assert found[name].dtype == expected.dtype and found[name].shape == expected.shape
        np.testing.assert_array_equal(found[name], expected)


def test_nesting_is_limited(tmp_path):
    value = 1
    for _ in range(MOST_LEVELS):
        value = {"a": value}
    assert same(read_again(value, tmp_path / "m.pt"), value)
    with pytest.raises(CheckpointError, match="lie in one another"):
        read_again([value], tmp_path / "m.pt")


@pytest.mark.parametrize("old", [False, True])
def test_every_truncation_is_an_error_and_no_flipped_byte_is_another_kind_of_one(tmp_path, old):
    torch.save(
        {"model": {"a": torch.arange(50.0)}}, tmp_path / "m.pt", _use_new_zipfile_serialization=not old
    )
    content = (tmp_path / "m.pt").read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 15):
        (tmp_path / "m.pt").write_bytes(content[:place])
        with pytest.raises(CheckpointError):
            read_pickled(tmp_path / "m.pt", "a torch checkpoint")
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "m.pt").write_bytes(flipped)
        try:
            read_pickled(tmp_path / "m.pt", "a torch checkpoint")
        except CheckpointError as error:
            assert "m.pt: " in str(error)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent", "/dev/zero"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_pickled(type(tmp_path)(path), "a torch checkpoint")


def test_the_reading_process_ends_with_its_parent(tmp_path):
    torch.save({"a": torch.zeros(20_000_000)}, tmp_path / "m.pt")  # more than a pipe holds
    with (tmp_path / "m.pt").open("rb") as file:
        command = [sys.executable, "-I", "-S", unpickle.__file__]
        reader = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert reader.stdout.read(1) and reader.poll() is None
    reader.stdout.close()  # as the end of the parent does
    assert reader.wait(60) != 0


def test_it_needs_neither_torch_nor_numpy_nor_farvox(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "m.pt")
    code = (
        f"import runpy, sys; runpy.run_path({unpickle.__file__!r}, run_name='__main__');"
        "assert not {'torch', 'numpy', 'farvox'} & set(sys.modules)"
    )
    with (tmp_path / "m.pt").open("rb") as file:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], stdin=file, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert -done.returncode != signal.SIGSEGV


@pytest.mark.slow
def test_a_large_file_of_embeddings_is_within_the_limits(tmp_path):
    rng = np.random.default_rng(0)
    value = {f"utterance-{n:06d}": rng.standard_normal(16).astype(np.float32) for n in range(100_000)}
    np.save(tmp_path / "e.npy", value, allow_pickle=True)
    found = read_pickled(tmp_path / "e.npy", "a dict")
    assert list(found) == list(value)
    np.testing.assert_array_equal(np.stack(list(found.values())), np.stack(list(value.values())))
