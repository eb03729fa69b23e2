"""Files that ``torch.save`` and ``np.save`` of others wrote, read by a process that can do no harm.

A pickle is a program. This one runs in a Python of its own, without torch, numpy or farvox, whose memory,
time and files the system limits. Every name that the program may use is a stand-in of `NAMES`, which
describes an array instead of making one. What comes back is that description as JSON, and the bytes of the
arrays. But for `read_pickled` this module is the program of that process: it imports only Python itself.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

MOST_LEVELS = 16
"""Tables and lists in each other; a checkpoint with its optimiser has five."""
BYTES_A_VALUE, FREE_VALUES = 64, 100_000
"""Bytes that a file has for each of its values, at least, but for some; an embedding has 400."""

_SECONDS = 7  # of the clock, for each megabyte that is read
_ZIP, _NUMPY = b"PK\x03\x04", b"\x93NUMPY"
_MAGIC = (0x1950A86A20F9469CFC6C, 1001)  # of torch before its files were zips, and the version of that format
_HEADER = rb"\{'descr': '\|O', 'fortran_order': (True|False), 'shape': \(\), *\}\s*"
_SIZES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint8": 1,
}  # fmt: skip
_OF_TORCH = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "uint8", "UntypedStorage": "uint8",
}  # fmt: skip
_OF_NUMPY = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16",
    "i1": "int8", "u1": "uint8", "O8": "object",
}  # fmt: skip


class RefusedError(Exception):
    """The file asks for something that no checkpoint needs."""


class Standin:
    """All that a pickle can make but plain values, and a value that no import needs."""

    __slots__ = ()

    def __init__(self, *words: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Refuse what a pickle may do to an object after it was made."""
        raise RefusedError(f"it changes a {type(self).__name__}")


class AllowedName(Standin):
    """A name that a pickle may use, with the function that stands for it."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self.call = name, call

    def __call__(self, *words: Any) -> Any:
        """Call the function."""
        return self.call(*words)


class AnyDict(dict[Any, Any]):
    """An ``OrderedDict`` or a ``Counter``."""

    def __setstate__(self, state: object) -> None:
        """Leave out the attributes that torch gives a table of weights."""


class Storage(Standin):
    """The bytes of one or several tensors, which lie in the file under a key."""

    __slots__ = ("dtype", "key", "num_bytes")

    def __init__(self, dtype: str, key: str, number: int) -> None:
        self.dtype, self.key, self.num_bytes = dtype, key, _size(number) * _SIZES[dtype]


class DType(Standin):
    """One of numpy's plain types of numbers, or that of objects."""

    __slots__ = ("is_swapped", "name")

    def __init__(self, code: str, *flags: object) -> None:
        self.name, self.is_swapped = _OF_NUMPY[code], False

    def __setstate__(self, state: Any) -> None:
        """Take the order of the bytes, which is all that such a type has."""
        _, order, *parts = state
        if order not in ("<", ">", "|") or tuple(parts[:5]) != (None, None, None, -1, -1):
            raise RefusedError("the type of an array has parts")
        self.is_swapped = order == ">"


class ArrayPlace(Standin):
    """A tensor of torch or an array of numpy, whose content is a `Storage`, bytes, or a list of objects."""

    __slots__ = ("content", "dtype", "is_swapped", "shape", "start", "stride")

    def __init__(self, *words: object) -> None:
        self.content: Storage | bytes | list[Any] | None = None

    def fill(self, content: Storage | bytes, dtype: str, start: int, shape: Any, stride: Any) -> ArrayPlace:
        """Describe the array; it must lie within its content and have no more numbers."""
        self.content, self.dtype, self.start, self.is_swapped = content, dtype, _size(start), False
        self.shape, self.stride = tuple(map(_size, shape)), tuple(map(_size, stride))
        held = (content.num_bytes if isinstance(content, Storage) else len(content)) // _SIZES[dtype]
        number = math.prod(self.shape)
        end = 1 + start + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if number and max(end, number) > held:
            raise RefusedError(f"a tensor of {number:,} numbers lies in a storage of {held:,}")
        return self

    def __setstate__(self, state: Any) -> None:
        """Take the state of an array of numpy."""
        self.take(*state)

    def take(
        self, version: int, shape: Any, dtype: DType, is_fortran: bool, content: bytes | list[Any]
    ) -> ArrayPlace:
        """Describe an array of numpy by its state."""
        if dtype.name == "object":
            self.content, self.dtype = list(content), dtype.name
            return self
        steps = [1]
        for size in shape[:: 1 if is_fortran else -1][:32]:
            steps.append(steps[-1] * _size(size))
        if steps.pop() * _SIZES[dtype.name] != len(content):
            raise ValueError(f"{len(content)} bytes for an array of shape {shape}")
        self.fill(bytes(content), dtype.name, 0, shape, steps[:: 1 if is_fortran else -1])
        self.is_swapped = dtype.is_swapped
        return self


def _size(number: object) -> int:
    if type(number) is not int or not 0 <= number < 1 << 60:
        raise ValueError(f"{number!r:.40} is no size")
    return number


def _tensor(storage: Storage, start: int, shape: Any, stride: Any, *_: object) -> ArrayPlace:
    return ArrayPlace().fill(storage, storage.dtype, start, shape, stride)


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": AnyDict,
    "collections.Counter": AnyDict,
    "_codecs.encode": lambda text, *_: text.encode("latin-1"),  # bytes of the protocol that torch uses
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": Standin,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.storage.UntypedStorage": Standin,
    "torch.Size": list,
    "torch.device": Standin,
    "numpy.ndarray": Standin,
    "numpy.dtype": DType,
}
_CALLS |= {f"torch.{name}": Standin for name in (*_SIZES, *_OF_TORCH, "bool")}
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray._reconstruct"] = ArrayPlace
    _CALLS[f"{_core}.multiarray.scalar"] = Standin
    _CALLS[f"{_core}.numeric._frombuffer"] = lambda content, dtype, shape, order: ArrayPlace().take(
        1, shape, dtype, order == "F", content
    )
NAMES = {
    (module, name): AllowedName(name, call)
    for (module, _, name), call in ((path.rpartition("."), call) for path, call in _CALLS.items())
}
"""By module and name, all that a pickle may refer to."""


class Unpickler(pickle.Unpickler):
    """Reads one pickle with the stand-ins of `NAMES`, and keeps the storages that it names, by their keys."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name."""
        if (module, name) not in NAMES:
            raise RefusedError(f"it refers to '{module}.{name}', which is code")
        return NAMES[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        """A storage, which torch keeps beside the pickle."""
        kind, of, key, _, number, *view = pid
        if kind != "storage" or not isinstance(key, str) or any(view):
            raise RefusedError("it is not made of weights and plain values")
        storage = Storage(_OF_TORCH[of.name], key, number)
        if self.storages.setdefault(key, storage).num_bytes != storage.num_bytes:
            raise ValueError(f"the storage {key} has two sizes")
        return storage


Opener = Callable[[Storage], IO[bytes]]
"""A function that opens the bytes of a storage."""


def read(file: IO[bytes], size: int) -> tuple[Any, Opener]:
    """The value that a file of ``size`` bytes holds, and where its storages are."""
    head = file.read(6)
    file.seek(0)
    if head.startswith(_ZIP):
        return _read_zip(file, size)
    if head != _NUMPY:
        return _read_old(file)
    file.seek(len(_NUMPY))
    length = int.from_bytes(file.read(2 if file.read(2) == b"\1\0" else 4), "little")
    if not re.fullmatch(_HEADER, file.read(min(length, 1 << 16))):
        raise ValueError("numbers, or several objects")
    (value,) = Unpickler(file).load().content
    return value, lambda storage: io.BytesIO()  # numpy has none


def _read_zip(file: IO[bytes], size: int) -> tuple[Any, Opener]:
    archive = zipfile.ZipFile(file)
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise RefusedError("two of its members have one name")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise RefusedError("its members are compressed, which torch never does")
    if sum(member.file_size for member in members.values()) > size:
        raise RefusedError("its members are larger than the file")
    (root,) = (name.removesuffix("data.pkl") for name in members if re.fullmatch(r"[^/]+/data\.pkl", name))
    if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
        raise RefusedError("a machine with another order of bytes wrote it")

    def opened(storage: Storage) -> IO[bytes]:
        member = members[f"{root}data/{storage.key}"]
        if member.file_size != storage.num_bytes:
            raise ValueError(f"{member.filename} has {member.file_size} bytes, not {storage.num_bytes}")
        return archive.open(member)

    with archive.open(f"{root}data.pkl") as content:
        return Unpickler(content).load(), opened


def _read_old(file: IO[bytes]) -> tuple[Any, Opener]:
    if tuple(Unpickler(file).load() for _ in _MAGIC) != _MAGIC:
        raise ValueError("neither a zip nor a file of older torch")
    Unpickler(file).load()  # sizes of C's types
    unpickler, starts = Unpickler(file), {}
    value, keys = unpickler.load(), Unpickler(file).load()
    for key in keys:
        file.seek(8, os.SEEK_CUR)  # past the number of elements
        starts[key] = file.tell()
        file.seek(unpickler.storages[key].num_bytes, os.SEEK_CUR)

    def opened(storage: Storage) -> IO[bytes]:
        file.seek(starts[storage.key])
        return file

    return value, opened


class Description:
    """The description of a value: a plain one as it is, any other as a list that begins with its kind.

    Attributes:
        contents: what holds the bytes of the arrays, by its key in the description.
    """

    def __init__(self, size: int) -> None:
        self.contents: dict[str, Storage | bytes] = {}
        self._values_left, self._bytes_left = FREE_VALUES + size // BYTES_A_VALUE, 4 * size

    def of(self, value: Any, level: int = 0) -> Any:
        """Describe a value, as None if no import needs it."""
        self._values_left -= 1
        if level > MOST_LEVELS:
            raise RefusedError("its tables and lists lie in one another")
        if self._values_left < 0:
            raise RefusedError("it holds more values than a file of its size does, or tables in one another")
        if isinstance(value, dict):
            pairs = ((self.of(key, level + 1), self.of(each, level + 1)) for key, each in value.items())
            return ["dict", list(pairs)]
        if isinstance(value, (list, tuple)):
            return ["list", [self.of(each, level + 1) for each in value]]
        if isinstance(value, ArrayPlace) and isinstance(value.content, (Storage, bytes)):
            self._bytes_left -= math.prod(value.shape) * _SIZES[value.dtype]
            if self._bytes_left < 0:
                raise RefusedError("its tensors are far larger than the file, or lie on one another")
            kind, key = "array", f"array {len(self.contents)}"
            if isinstance(value.content, Storage):
                kind, key = "tensor", f"storage {value.content.key}"
            self.contents[key] = value.content
            return [kind, key, value.dtype, value.is_swapped, value.start, value.shape, value.stride]
        is_plain = isinstance(value, (str, float)) or (isinstance(value, int) and value.bit_length() < 64)
        return value if is_plain else None


def limits(size: int) -> tuple[int, int]:
    """Seconds of the CPU and bytes of memory that reading ``size`` bytes, of a file or so far, may take."""
    return 5 + size // (20 << 20), (300 << 20) + 3 * size


def most_text(size: int) -> int:
    """Bytes of the longest description of a file."""
    return (1 << 20) + 2 * size


class TimedFile(io.FileIO):
    """A file whose reader has the more time of the CPU, the more it has read: what reads on slowly ends."""

    num_read = 0

    def readinto(self, buffer: Any) -> int | None:
        """Read, and allow the time for it."""
        import resource

        number = super().readinto(buffer)
        self.num_read += number or 0
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (min(limits(self.num_read)[0], most), most))
        signal.alarm(_SECONDS)
        return number


def main() -> None:
    """Read the file that is stdin; write what it holds to stdout, or why it was not read to stderr."""
    import resource

    sys.excepthook = lambda kind, error, _: sys.stderr.write(f"{kind.__name__}: {error}"[:400]) and None
    size, out = os.fstat(0).st_size, sys.stdout.buffer
    seconds, memory = limits(size)
    for what, most in (
        (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):  # fmt: skip
        with suppress(ValueError, OSError):  # macOS does not limit memory
            resource.setrlimit(what, (most, most))
    signal.alarm(_SECONDS)

    with io.BufferedReader(TimedFile(0), 1 << 20) as file:
        value, opened = read(file, size)
        signal.alarm(_SECONDS * (1 + size // (1 << 20)))  # others use the machine and its disk too
        description = Description(size)
        head, contents = description.of(value), description.contents
        sizes = {
            key: each.num_bytes if isinstance(each, Storage) else len(each) for key, each in contents.items()
        }
        text = json.dumps([head, sizes]).encode()
        if len(text) > most_text(size):
            raise RefusedError("its names and texts are far larger than the file")
        out.write(len(text).to_bytes(8, "little") + text)
        for key, each in contents.items():
            source, left = opened(each) if isinstance(each, Storage) else io.BytesIO(each), sizes[key]
            while left:
                if not (block := source.read(min(left, 1 << 20))):
                    raise EOFError(f"{key} is cut")
                left -= len(block)
                out.write(block)
    out.flush()


def read_pickled(path: Path, what: str) -> Any:
    """The value of a file that ``torch.save`` or ``np.save`` wrote, read by a process of its own.

    Tensors are torch's and arrays numpy's; a value that no import needs is None.

    Args:
        path: the file.
        what: it should be, for the message that it is not.

    Raises:
        CheckpointError: it cannot be read, is damaged, refers to code, or asks for what no such file needs.
    """
    from farvox.errors import CheckpointError
    from farvox.parsing import parse_json

    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for its writer
            raise OSError("it is no file")
        file = path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    size, pipe = os.fstat(file.fileno()).st_size, subprocess.PIPE
    command = [sys.executable, "-I", "-S", __file__]
    with file, subprocess.Popen(command, stdin=file, stdout=pipe, stderr=pipe) as child:
        assert child.stdout and child.stderr
        try:
            length = int.from_bytes(child.stdout.read(8), "little")
            text = child.stdout.read(length) if length <= most_text(size) else b""
            value, sizes = parse_json(text) if 0 < length == len(text) else (None, {})
            contents = {key: bytearray(each) for key, each in sizes.items()}
            is_whole = all(child.stdout.readinto(each) == len(each) for each in contents.values())  # type: ignore[attr-defined]
            why = child.stderr.read().decode(errors="replace")
            status = child.wait()
        finally:
            child.kill()
    if status == 0 and is_whole:
        return _made(value, contents)
    if status in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM):
        why = "RefusedError: to read it takes far longer than a file of its size does"
    elif why.startswith("MemoryError"):
        why = f"RefusedError: to read it takes more than {limits(size)[1] / 1e6:,.0f} MB"
    kind, _, reason = why.partition(": ")
    if kind == "RefusedError":
        raise CheckpointError(f"{path}: refused, and nothing in it was run: {reason}")
    raise CheckpointError(f"{path}: not {what}, or a damaged one ({reason or why or f'status {status}'})")


def _made(value: Any, contents: dict[str, bytearray]) -> Any:
    """The value of a description."""
    if not isinstance(value, list):
        return value
    kind, *parts = value
    if kind == "list":
        return [_made(each, contents) for each in parts[0]]
    if kind == "dict":
        pairs = ((None if isinstance(key, list) else key, each) for key, each in parts[0])
        return {key: _made(each, contents) for key, each in pairs}
    key, dtype, is_swapped, start, shape, stride = parts
    if kind == "array":
        import numpy as np

        flat = np.frombuffer(contents[key], np.dtype(dtype).newbyteorder(">" if is_swapped else "<"))
        if len(shape) == 1:  # an embedding: half the memory of what follows
            return flat
        return np.lib.stride_tricks.as_strided(flat, shape, [step * flat.itemsize for step in stride])
    import torch

    if not contents[key]:
        return torch.empty(shape, dtype=getattr(torch, dtype))
    return torch.frombuffer(contents[key], dtype=getattr(torch, dtype)).as_strided(shape, stride, start)


if __name__ == "__main__":
    main()
