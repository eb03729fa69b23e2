"""Files that mean harm: each is refused at once, takes little memory, runs nothing and writes nothing.

Every attack is imported by a process of its own, forked from one that has torch already and nothing else:
what it takes beyond that is what the file makes it take, the process that reads pickles included. The tests'
own process grows, and its size would be counted for whatever it starts.
"""

import ctypes
import io
import itertools
import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from farvox.cli.main import main
from farvox.zoo.onnx_backend import FORMAT, OnnxEmbedder, with_metadata

SECONDS = 10
MEMORY = 500e6
"""Bytes that an import may take besides three times the size of its file."""


@dataclass(frozen=True)
class Outcome:
    status: int
    printed: str
    seconds: float
    """Of the CPU, with its children: others use this machine too."""
    memory: int


def in_status(figure):
    """A figure of this process in bytes, as Linux has it."""
    return 1024 * int(re.search(rf"{figure}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.fixture(scope="module")
def server():
    """A process that runs commands by `run_forked`, which others ask for by `run_apart`."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        SERVERS.append(process)
        yield process
        SERVERS.remove(process)
        process.stdin.close()


@pytest.fixture(autouse=True)
def with_server(server):
    """Every test here may ask it."""


SERVERS = []


def run_apart(words, folder):
    """Run a command in a process forked from a small one."""
    (server,) = SERVERS
    server.stdin.write(json.dumps([words, str(folder)]).encode() + b"\n")
    server.stdin.flush()
    return Outcome(**json.loads(server.stdout.readline()))


def run_forked(words, folder):
    """Run a command in a forked process; its memory is counted with that of its largest child at least."""
    printed = folder / "printed"
    figures, sent = os.pipe()
    if not (child := os.fork()):
        status = 99
        try:
            os.dup2(os.open(printed, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
            sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            ctypes.CDLL(None).malloc_trim(0)  # what the forked process had and did not use is no room for it
            Path("/proc/self/clear_refs").write_text("5")  # the peak of the forked process begins anew
            before = in_status("VmRSS")
            status = main(words)
            children = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            os.write(sent, json.dumps(in_status("VmHWM") - before + children).encode())
        except BaseException as error:
            print(f"Traceback of {error!r}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(sent)
    memory = int(os.read(figures, 1000) or 0)
    os.close(figures)
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    return Outcome(os.waitstatus_to_exitcode(status), printed.read_text(), seconds, memory)


def refused(path, arch, tmp_path, message, words=()):
    """Import a file, which must be refused with a message within the limits, without side effects."""
    before = sorted(p for p in tmp_path.rglob("*") if p.name != "printed")
    words = words or ["import", str(path), str(tmp_path / "out"), "--arch", arch]
    done = run_apart(words, tmp_path)
    assert done.status == 1 and done.printed.startswith(f"farvox {words[0]}: "), done
    assert re.search(message, done.printed) and "Traceback" not in done.printed, done.printed
    assert done.printed.count("\n") == 1 and len(done.printed) < 1000
    assert done.seconds < SECONDS, done
    assert done.memory < 3 * path.stat().st_size + MEMORY, done
    assert sorted(p for p in tmp_path.rglob("*") if p.name != "printed") == before
    return done


# ---------------------------------------------------------------- pickles, opcode by opcode


def text(string):
    return b"X" + struct.pack("<I", len(string.encode())) + string.encode()


def name(module, attribute):
    return b"c" + f"{module}\n{attribute}\n".encode()


def stack_name(module, attribute):
    return text(module) + text(attribute) + b"\x93"


TABLE, SYSTEM, PIPE = name("collections", "OrderedDict"), name("os", "system"), name("os", "_wrap_close")
EMPTY, MINUS_1 = name("numpy.core.multiarray", "_reconstruct"), b"J\xff\xff\xff\xff"
COMMAND = "touch victim"
CALL = text(COMMAND) + b"\x85R"
"""What is on the stack is called with the command."""

CODE = {
    "reduce": SYSTEM + CALL,
    "reduce of posix": name("posix", "system") + CALL,
    "stack_global": stack_name("os", "system") + CALL,
    "inst": b"(" + text(COMMAND) + b"ios\nsystem\n",
    "obj": b"(" + name("subprocess", "Popen") + text(COMMAND) + b"o",
    "newobj": name("subprocess", "Popen") + text(COMMAND) + b"\x85\x81",
    "newobj_ex": name("subprocess", "Popen") + text(COMMAND) + b"\x85}\x92",
    "eval": name("builtins", "eval") + text("__import__('os').system('touch victim')") + b"\x85R",
    "exec of python 2": name("__builtin__", "execfile") + text("victim") + b"\x85R",
    "getattr": name("builtins", "getattr") + SYSTEM + text("__call__") + b"\x86R",
    "a name in a name": stack_name("torch._utils", "_rebuild_tensor.__globals__") + CALL,
    "a path in a module": stack_name("collections.OrderedDict.__init__", "__globals__") + CALL,
    "torch.load": name("torch", "load") + text("victim") + b"\x85R",
    "torch.jit": name("torch.jit", "load") + text("victim") + b"\x85R",
    "numpy's loader": name("numpy", "load") + text("victim") + b"\x85R",
    "numpy's runner": name("numpy.testing._private.utils", "runstring") + text("1") + b"}\x86R",
    "an imported module": name("this", "s") + CALL,
    "extension registry": b"\x82\x01" + CALL,
    "the state of a function": TABLE + b"}" + text("call") + SYSTEM + b"sb",
    "the slots of a stand-in": TABLE + b"N}" + text("call") + b"Ns\x86b",
    "the state of a table": TABLE + b")R}" + text("x") + SYSTEM + b"sb",
    "a persistent name": b"Pvictim\n",
    "a persistent call": SYSTEM + CALL + b"Q",
    "a module of torch": b"(" + text("module") + name("torch.nn", "Linear") + text("a") + text("x") + b"tQ",
    "a default dict": name("collections", "defaultdict") + name("os", "getcwd") + b"\x85R",
    "an operator": name("operator", "attrgetter") + text("system") + b"\x85R",
    "functools": name("functools", "partial") + SYSTEM + text(COMMAND) + b"\x86R)R",
    "codecs": name("_codecs", "decode") + text(COMMAND) + b"\x85R",
    "a type made by hand": name("builtins", "type") + text("X") + b")}\x87R)\x81",
    "copyreg": name("copyreg", "_reconstructor") + PIPE + PIPE + b"N\x87R",
    "a hook of torch's tensors": name("torch._utils", "_rebuild_device_tensor_from_numpy") + CALL,
}  # fmt: skip
LAUGHS = b"]q\x00" + b"".join(
    b"]" + b"h" + bytes([n]) + b"ah" + bytes([n]) + b"aq" + bytes([n + 1]) for n in range(60)
)
KEYS_OF_ONE_HASH = b"}(" + b"".join(
    b"\x8a\x10" + (n * ((1 << 61) - 1)).to_bytes(16, "little") + b"N" for n in range(1, 120_000)
) + b"u"  # fmt: skip
BOMBS = {
    "a memo of 2^31 entries": b"]r\xff\xff\xff\x7f",
    "bytes that are not there": b"\x8e" + struct.pack("<Q", 1 << 40),
    "a bytearray that is not there": b"\x96" + struct.pack("<Q", 1 << 40),
    "a text that is not there": b"\x8d" + struct.pack("<Q", 1 << 62),
    "a frame that is not there": b"\x95" + struct.pack("<Q", 1 << 62) + b"N",
    "a number that is not there": b"\x8b" + struct.pack("<i", (1 << 31) - 1),
    "a number of many digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "a number of many bits": b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000,
    "a thousand laughs": LAUGHS,
    "a list in itself": b"]q\x00h\x00a",
    "a table in itself": b"}q\x00" + text("a") + b"h\x00s",
    "deep lists": b"]" * 1_000_000 + b"a" * 999_999,
    "deep tuples": b"N" + b"\x85" * 1_000_000,
    "many lists": b"(" + b"]" * 12_000_000 + b"l",
    "many memos": b"N" + b"\x94" * 12_000_000,
    "keys of one hash": KEYS_OF_ONE_HASH,
    "keys of one hash in a large file": KEYS_OF_ONE_HASH + b"0B\0\0\0\6" + bytes(6 << 24),
    "many numbers": b"(" + b"K\x01" * 20_000_000 + b"l",
    "texts that grow": b"X" + struct.pack("<I", 30 << 20) + b"\x01" * (30 << 20),
    "marks": b"(" * 5_000_000,
}  # fmt: skip


def tensor(numel, start, shape, stride, key="0", storage="FloatStorage"):
    """The pickle of a tensor as torch writes it."""
    number = lambda n: b"\x8a\x08" + struct.pack("<q", n)  # noqa: E731
    numbers = lambda each: b"(" + b"".join(map(number, each)) + b"t"  # noqa: E731
    pid = b"(" + text("storage") + name("torch", storage) + text(key) + text("cpu") + number(numel) + b"tQ"
    words = pid + number(start) + numbers(shape) + numbers(stride) + b"\x89" + TABLE
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + words + b")RtR"


TENSORS = {
    "stride 0": (tensor(16, 0, (1 << 16, 1 << 16), (0, 0)), "lies in a storage of 16"),
    "beyond the end": (tensor(16, 8, (4, 4), (4, 1)), "lies in a storage of 16"),
    "before the beginning": (tensor(16, -8, (4,), (1,)), "is no size"),
    "strides that go back": (tensor(16, 0, (4, 4), (-4, 1)), "is no size"),
    "more strides than axes": (tensor(16, 0, (4, 4), (4, 1, 1)), "damaged"),
    "a product that overflows": (tensor(16, 0, (1 << 32, 1 << 32), (1 << 32, 1)), "lies in a storage of 16"),
    "a size of 2^63": (tensor(16, 0, (-(1 << 63),), (1,)), "is no size"),
    "a storage longer than its member": (tensor(1 << 40, 0, (1 << 40,), (1,)), "far larger"),
    "a storage elsewhere": (tensor(16, 0, (16,), (1,), key="../../../../etc/passwd"), "damaged"),
    "a storage at an absolute path": (tensor(16, 0, (16,), (1,), key="/etc/passwd"), "damaged"),
    "an unknown storage": (tensor(16, 0, (16,), (1,), storage="QUInt4x2Storage"), "which is code"),
    "objects as storage": (
        name("torch._utils", "_rebuild_tensor_v2") + b"(N" + b"K\x00K\x01\x85K\x01\x85\x89NtR", "damaged"
    ),
}  # fmt: skip


def zipped(pickled, path, **members):
    """A file as torch writes it now."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x04}" + text("model") + pickled + b"s.")
        archive.writestr("m/data/0", bytes(64))
        for member, content in members.items():
            archive.writestr(member, content)
    return path


def old(pickled, path):
    """A file as torch wrote it before 1.6."""
    head = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    keys = pickle.dumps(["0"], 2)
    body = b"\x80\x04}" + text("model") + pickled + b"s."
    path.write_bytes(head + body + keys + struct.pack("<q", 16) + bytes(64))
    return path


def npy(pickled, path, header="{'descr': '|O', 'fortran_order': False, 'shape': (), }"):
    """Objects as numpy writes them."""
    content = header.encode() + b" " * 20 + b"\n"
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content + b"\x80\x04" + pickled + b"."
    )
    return path


FORMS = {"zip": (zipped, "ffsvc-resnet34"), "old": (old, "wespeaker-ecapa"), "npy": (npy, "ffsvc-embeddings")}


LONG = ("keys of one hash", "keys of one hash in a large file", "many tensors")
"""Attacks that take seconds."""


def in_turn(attacks, forms):
    """Every attack in one form of file, each form in its turn: one reader reads them all."""
    return [
        pytest.param(attack, form, marks=pytest.mark.slow if attack in LONG else ())
        for attack, form in zip(attacks, itertools.cycle(forms), strict=False)
    ]


@pytest.mark.parametrize(("attack", "form"), in_turn(CODE, FORMS))
def test_code_in_any_form_is_refused_and_not_run(tmp_path, monkeypatch, attack, form):
    monkeypatch.chdir(tmp_path)
    make, arch = FORMS[form]
    refused(
        make(CODE[attack], tmp_path / "m.pkl"), arch, tmp_path, "refused, and nothing in it was run|damaged"
    )


@pytest.mark.parametrize(("attack", "form"), in_turn(BOMBS, FORMS))
def test_a_bomb_is_refused_before_it_takes_time_or_memory(tmp_path, attack, form):
    make, arch = FORMS[form]
    refused(
        make(BOMBS[attack], tmp_path / "m.pkl"),
        arch,
        tmp_path,
        "refused|damaged|not weights|no weights|not hold",
    )


@pytest.mark.parametrize(("attack", "form"), in_turn(TENSORS, ["zip", "old"]))
def test_a_tensor_that_is_not_in_the_file_is_refused(tmp_path, attack, form):
    make, arch = FORMS[form]
    pickled, message = TENSORS[attack]
    refused(make(pickled, tmp_path / "m.pkl"), arch, tmp_path, f"{message}|damaged")


def test_tensors_that_lie_on_one_another_are_refused(tmp_path):
    many = b"(" + b"".join(tensor(1 << 18, 0, (1 << 18,), (1,), key="1") for _ in range(200)) + b"l"
    path = zipped(many, tmp_path / "m.pt", **{"m/data/1": bytes(1 << 20)})
    refused(path, "ffsvc-resnet34", tmp_path, "lie on one another")


# ---------------------------------------------------------------- archives


def bomb(path, compression):
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        archive.writestr(
            "m/data.pkl", b"\x80\x04}" + text("model") + tensor(1 << 27, 0, (1 << 27,), (1,)) + b"s."
        )
        with archive.open("m/data/0", "w") as member:
            for _ in range(128 if compression == zipfile.ZIP_BZIP2 else 512):
                member.write(bytes(1 << 20))


def overlapping(path):
    """The directory of a zip lists one member's bytes a thousand times."""
    content = bytes(1 << 20)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x04N.")
        archive.writestr("m/data/0", content)
        member = archive.getinfo("m/data/0")
        for number in range(1, 1000):
            again = zipfile.ZipInfo(f"m/data/{number}")
            again.file_size = again.compress_size = member.file_size
            again.CRC, again.header_offset = member.CRC, member.header_offset
            archive.filelist.append(again)


ARCHIVES = {
    "a deflated bomb": (lambda path: bomb(path, zipfile.ZIP_DEFLATED), "compressed"),
    "a bzip2 bomb": (lambda path: bomb(path, zipfile.ZIP_BZIP2), "compressed"),
    "members on one another": (overlapping, "larger than the file"),
    "names that collide": (
        lambda path: zipped(b"N", path, **{"m/data.pkl": b"\x80\x04N."}), "two of its members have one name"
    ),
    "two roots": (lambda path: zipped(b"N", path, **{"n/data.pkl": b"\x80\x04N."}), "damaged"),
    "a root outside": (lambda path: path.write_bytes(zip_of({"../data.pkl": b"N."})), "not weights"),
    "no pickle": (lambda path: path.write_bytes(zip_of({"m/data/0": b"x"})), "damaged"),
    "another byte order": (lambda path: zipped(b"N", path, **{"m/byteorder": b"big"}), "order of bytes"),
    "a tar": (lambda path: path.write_bytes(b"sys_info" + bytes(2000)), "damaged"),
    "a long directory": (
        lambda path: path.write_bytes(b"PK\x03\x04" + b"PK\x05\x06" + b"\xff" * 18), "damaged"
    ),
}  # fmt: skip


def zip_of(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for member, each in members.items():
            archive.writestr(member, each)
    return content.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("attack", ARCHIVES)
def test_an_archive_that_is_larger_inside_is_refused(tmp_path, attack):
    make, message = ARCHIVES[attack]
    make(tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "wespeaker-resnet34", tmp_path, message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pt", "printed"]


# ---------------------------------------------------------------- numpy


def array(dtype, shape=b"K\x04\x85", content=b"C\x10" + bytes(16), state=b"\x89"):
    """The pickle of an array as numpy writes it."""
    empty = EMPTY + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    return empty + b"(K\x01" + shape + dtype + state + content + b"tb"


def dtype(code, state=b""):
    return name("numpy", "dtype") + text(code) + b"\x89\x88\x87R" + state


STATE = b"(K\x03" + text("|")
HIDDEN = STATE + b"N" + text("a") + b"\x85}" + text("a") + dtype("O8") + b"K\x00\x86sK\x10K\x01K\x3ftb"
OBJECT = dtype("O8", STATE + b"NNN" + MINUS_1 + MINUS_1 + b"K\x3ftb")
ARRAYS = {
    "an object field hidden in the state": array(dtype("V16", HIDDEN)),
    "the same behind a plain type": array(dtype("f4", HIDDEN)),
    "a subarray": array(dtype("f4", STATE + dtype("O8") + b"K\x04\x85\x86NNK\x10K\x01K\x00tb")),
    "an object type without flags": array(dtype("O8", STATE + b"NNN" + MINUS_1 + MINUS_1 + b"K\x00tb")),
    "addresses as objects": array(OBJECT, content=b"C\x20" + b"\x41" * 32),
    "more numbers than bytes": array(dtype("f4"), shape=b"J\x00\x00\x00\x7f\x85"),
    "a product that overflows": array(dtype("f4"), shape=2 * (b"\x8a\x05" + bytes(4) + b"\1") + b"\x86"),
    "a negative size": array(dtype("f4"), shape=b"J\xff\xff\xff\xff\x85"),
    "a text as bytes": array(dtype("f4"), content=text("a" * 16)),
    "an object that is no array": EMPTY + name("builtins", "dict") + b"K\x00\x85C\x01b\x87R",
    "a state twice": array(dtype("f4")) + b"(K\1K\x08\x85" + dtype("f4") + b"\x89C\x10" + bytes(16) + b"tb",
    "a buffer too short": (
        name("numpy.core.numeric", "_frombuffer") + b"(C\1a" + dtype("f4") + b"K\x40\x85" + text("C") + b"tR"
    ),
    "a scalar of objects": name("numpy.core.multiarray", "scalar") + OBJECT + b"C\x08" + bytes(8) + b"\x86R",
}  # fmt: skip


@pytest.mark.parametrize("attack", ARRAYS)
def test_an_array_whose_type_lies_is_refused(tmp_path, attack):
    inner = b"}" + text("utt") + ARRAYS[attack] + b"s"
    outer = array(OBJECT, shape=b")", content=b"]" + inner + b"a")
    path = npy(outer, tmp_path / "e.npy")
    refused(path, "ffsvc-embeddings", tmp_path, "refused|damaged|the embedding of 'utt'")


HEADERS = {
    "numbers": "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }",
    "fields": "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (), }",
    "a large shape": "{'descr': '|O', 'fortran_order': False, 'shape': (9999999999,), }",
    "an expression": "__import__('os').system('touch victim')",
    "deep": "(" * 20_000,
}


@pytest.mark.parametrize("attack", HEADERS)
def test_a_header_that_numpy_does_not_write_is_refused(tmp_path, attack):
    refused(npy(b"N", tmp_path / "e.npy", HEADERS[attack]), "ffsvc-embeddings", tmp_path, "damaged")


# ---------------------------------------------------------------- safetensors


def safetensors(path, header, content=bytes(64), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content)
    return path


def entry(shape=(16,), begin=0, end=64, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS_OF_TENSORS = {
    "a length of 2^63": lambda path: safetensors(path, {"a": entry()}, length=(1 << 63) - 1),
    "a length of 2^64 - 1": lambda path: safetensors(path, {"a": entry()}, length=(1 << 64) - 1),
    "a length beyond the file": lambda path: safetensors(path, {"a": entry()}, length=1 << 20),
    "a length of nothing": lambda path: safetensors(path, {"a": entry()}, length=0),
    "tensors on one another": lambda path: safetensors(path, {"a": entry(), "b": entry()}),
    "an end beyond the file": lambda path: safetensors(path, {"a": entry((1 << 30,), 0, 1 << 32)}),
    "a hole": lambda path: safetensors(path, {"a": entry((8,), 32, 64)}),
    "an end before the beginning": lambda path: safetensors(path, {"a": entry((16,), 64, 0)}),
    "an offset below 0": lambda path: safetensors(path, {"a": entry((16,), -64, 0)}),
    "another shape": lambda path: safetensors(path, {"a": entry((17,))}),
    "a product that overflows": lambda path: safetensors(path, {"a": entry((1 << 32, 1 << 32))}),
    "a size below 0": lambda path: safetensors(path, {"a": entry((-4, -4))}),
    "a size of many digits": lambda path: safetensors(path, {"a": entry((10**4000,))}),
    "an unknown type": lambda path: safetensors(path, {"a": entry(dtype="Q32")}),
    "complex numbers": lambda path: safetensors(path, {"a": entry((8,), dtype="C64")}),
    "four bits": lambda path: safetensors(path, {"a": entry((128,), dtype="F4")}),
    "one name twice": lambda path: safetensors(
        path, json.dumps({"a": entry(), "b": entry((8,), 0, 32)}).encode().replace(b'"b"', b'"a"')
    ),
    "deep metadata": lambda path: safetensors(path, b'{"__metadata__":' + b"[" * 200_000 + b"}"),
    "no JSON": lambda path: safetensors(path, b"{" * 100),
    "not UTF-8": lambda path: safetensors(path, b'{"\xff": 1}'),
    "many tensors": lambda path: safetensors(path, {f"a{n}": entry((0,), 0, 0) for n in range(300_000)}, b""),
    "fewer tensors": lambda path: safetensors(path, {f"a{n}": entry((0,), 0, 0) for n in range(30_000)}, b""),
    "spaces": lambda path: safetensors(path, b" " * 90_000_000),
    "tensors of no numbers": lambda path: safetensors(path, {"a": entry((1 << 62, 0), 0, 0)}, b""),
}  # fmt: skip


@pytest.mark.parametrize(
    "attack",
    [pytest.param(each, marks=pytest.mark.slow if each in LONG else ()) for each in HEADERS_OF_TENSORS],
)
def test_a_header_of_tensors_that_lies_is_refused(tmp_path, attack):
    path = HEADERS_OF_TENSORS[attack](tmp_path / "m.safetensors")
    refused(
        path,
        "wespeaker-resnet34",
        tmp_path,
        "cannot be read as weights|not the weights|not weights|no weights|more than any",
    )


def test_the_weights_of_a_model_folder_are_read_as_carefully(tmp_path, model_folder):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model/manifest.json").unlink()
    for attack in ("a length of 2^63", "an end beyond the file", "one name twice"):
        HEADERS_OF_TENSORS[attack](tmp_path / "model/model.safetensors")
        words = [
            "extract",
            str(tmp_path / "model"),
            str(tmp_path),
            str(tmp_path / "out"),
            "--backend",
            "torch",
        ]
        done = run_apart(words, tmp_path)
        assert (done.status, "Traceback" in done.printed) == (
            1,
            False,
        ) and "cannot be read" in done.printed, done


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("ecapa", {"channels": 1 << 40}),
        ("ecapa", {"channels": 1 << 17}),
        ("ecapa", {"channels": 10**400}),
        ("ecapa", {"dilations": [1] * 100_000}),
        ("resnet34", {"blocks": [10**6, 1, 1, 1], "channels": 1}),
        ("xvector", {"num_mels": 24, "embedding_dim": 1 << 62}),
    ],
)
def test_a_model_folder_that_asks_for_a_huge_network_is_refused(tmp_path, model_folder, name, kwargs):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model/manifest.json").unlink()
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["model"] = {"name": name, "kwargs": kwargs}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    words = ["extract", str(tmp_path / "model"), str(tmp_path), str(tmp_path / "out"), "--backend", "torch"]
    done = run_apart(words, tmp_path)
    assert (done.status, "Traceback" in done.printed) == (1, False) and "config.json" in done.printed, done
    assert done.seconds < SECONDS and done.memory < MEMORY, done


# ---------------------------------------------------------------- graphs


def graph(nodes=None, constants=(), **changes):
    """A sealed file with a graph that is right but for what is changed."""
    from onnx import TensorProto, helper

    taken = helper.make_tensor_value_info("wav_BT", TensorProto.FLOAT, ["B", "T"])
    given = helper.make_tensor_value_info("emb_BE", TensorProto.FLOAT, ["B", 4])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], np.array([1]).tobytes(), raw=True)
    wide = helper.make_tensor("wide", TensorProto.FLOAT, [4], np.ones(4, np.float32).tobytes(), raw=True)
    plain = [
        helper.make_node("ReduceMean", ["wav_BT", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "wide"], ["emb_BE"]),
    ]
    made = helper.make_graph([*(nodes or []), *plain], "g", [taken], [given], [axes, wide, *constants])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    for key, value in changes.items():
        if key != "metadata":
            setattr(model, key, value)
    config = {"frontend": {}, "model": {"name": "xvector", "kwargs": {}}, "embedding_dim": 4}
    metadata = {
        "format": FORMAT, "farvox_version": "0", "config": json.dumps(config), "card": "{}", "digest": "0",
        "min_samples": "400",
    }  # fmt: skip
    return model, metadata | changes.get("metadata", {})


def graph_attacks():
    from onnx import TensorProto, helper

    outside = TensorProto(name="secret", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "../../../../etc/passwd"), ("offset", "0"), ("length", "4")):
        outside.external_data.add(key=key, value=value)
    huge = TensorProto(name="huge", data_type=1, dims=[1 << 31, 1 << 31], raw_data=b"abcd")
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [4], [1, 2, 3, 4])
    texts = helper.make_tensor("texts", TensorProto.STRING, [1], [b"x"])
    inner = helper.make_graph([], "inner", [], [])
    big = helper.make_tensor("big", TensorProto.FLOAT, [1], b"abcd", raw=True)
    config = {"frontend": {}, "model": {"name": "xvector", "kwargs": {}}, "embedding_dim": 5}
    yield "a file elsewhere", graph(constants=[outside]), "a field 1[34] of a constant"
    yield "sizes without numbers", graph(constants=[huge]), "a constant of sizes"
    yield "numbers in another form", graph(constants=[typed]), "of a constant"
    yield "texts", graph(constants=[texts]), "of a constant"
    yield "a loop", graph([helper.make_node("Loop", ["", ""], [], body=inner)]), "an operator 'Loop'"
    yield (
        "a graph in a graph",
        graph([helper.make_node("Relu", ["wav_BT"], ["a"], x=inner)]),
        "of a attribute|attribute",
    )
    yield (
        "a tensor as attribute",
        graph([helper.make_node("Cast", ["wav_BT"], ["a"], value=big)]),
        "attribute",
    )
    yield (
        "a library",
        graph([helper.make_node("Relu", ["wav_BT"], ["a"], domain="evil")]),
        "a field 7 of a operator",
    )
    yield "an unknown operator", graph([helper.make_node("PyOp", ["wav_BT"], ["a"])]), "an operator 'PyOp'"
    yield "a later version", graph(ir_version=1 << 40), "cannot run it|metadata|version"
    yield "a number of many digits", graph(metadata={"min_samples": "9" * 5000}), "no number of samples"
    yield "deep metadata", graph(metadata={"config": "[" * 100_000}), "is not JSON"
    yield "a deep card", graph(metadata={"card": "[" * 100_000}), "is not JSON"
    yield (
        "another width",
        graph(metadata={"config": json.dumps(config)}),
        "embeddings of .4. numbers, and its metadata say 5",
    )
    model, metadata = graph()
    model.functions.add(name="f", domain="d")
    yield "a function", (model, metadata), "a field 25 of a model"
    model, metadata = graph()
    model.graph.sparse_initializer.add()
    yield "sparse constants", (model, metadata), "a field 15 of a graph"


@pytest.mark.slow
def test_a_graph_that_is_not_farvoxs_is_not_run_and_an_export_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.onnx"
    model, metadata = graph()
    path.write_bytes(with_metadata(model.SerializeToString(), metadata))
    assert OnnxEmbedder(path).embed_batch(np.ones((2, 500), np.float32)).tolist() == [[1.0] * 4] * 2
    for attack, (model, metadata), message in graph_attacks():
        path.write_bytes(with_metadata(model.SerializeToString(), metadata))
        words = ["extract", str(path), str(tmp_path), str(tmp_path / "out")]
        assert refused(path, "", tmp_path, message, words).seconds < SECONDS, attack


# ---------------------------------------------------------------- sizes


def test_weights_that_ask_for_a_huge_network_are_refused(tmp_path, small_checkpoint):
    weights = torch.load(small_checkpoint, weights_only=True)
    names = [key for key in weights if weights[key].ndim > 1]
    for key in ("xvector.tdnn.linear.weight", names[-1]):
        shape = list(weights[key].shape)
        changed = weights | {key: torch.zeros(1 << 20, *[1] * (len(shape) - 1))}
        torch.save(changed, tmp_path / "m.pt")
        refused(tmp_path / "m.pt", "3dspeaker-campplus", tmp_path, "weights|size")


def test_the_harness_sees_what_is_done(tmp_path, monkeypatch, small_checkpoint):
    done = run_apart(
        ["import", str(small_checkpoint), str(tmp_path / "out"), "--arch", "3dspeaker-campplus"], tmp_path
    )
    assert done.status == 0 and (tmp_path / "out" / "model.safetensors").is_file(), done
    monkeypatch.setattr("farvox.cli.main.usage", lambda: str(np.ones(1 << 25).sum()))
    assert run_forked(["--help"], tmp_path).memory > 200e6


if __name__ == "__main__":
    for line in sys.stdin:
        words, folder = json.loads(line)
        print(json.dumps(asdict(run_forked(words, Path(folder)))), flush=True)
