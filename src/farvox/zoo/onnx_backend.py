"""An exported model (``farvox export``), run by onnxruntime: what a device needs that has no torch.

The file is an ordinary ONNX model whose metadata say what it is. They come last, and last of all the SHA-256
of everything before it, so that a file that was cut, changed or damaged is told from a good one.

Shape suffixes: B utterance, T sample, E embedding.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from farvox.atomic import FileKind
from farvox.errors import ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.parsing import parse_json
from farvox.zoo.card import Card
from farvox.zoo.embedder import Embedding, Wave, import_extra, pool_of, refuse_long, refuse_short, repr_of

FORMAT = "farvox-onnx/1"
INPUT, OUTPUT = "wav_BT", "emb_BE"
SEAL = "sha256"
EXPORTED = FileKind("model that farvox exported", rb"\x08.\x12\x06farvox")
ONNX_SUFFIX = ".onnx"

_GRAPH, _METADATA = 7, 14  # numbers of the fields ``graph`` and ``metadata_props`` of ONNX's ModelProto
# All that a graph of `farvox.zoo.graph` consists of. Nothing else is given to a library that runs graphs:
# no file to read, no library to load, no graph in a graph.
_FIELDS = {
    "model": {1, 2, 3, 7, 8, 14}, "graph": {1, 2, 5, 11, 12}, "operator": {1, 2, 4, 5},
    "attribute": {1, 2, 3, 4, 8, 20}, "constant": {1, 2, 8, 9},
}  # fmt: skip
_OPERATORS = frozenset((
    "Add", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "Div", "Equal", "Expand", "Gather", "Log",
    "MatMul", "Max", "Mul", "Pad", "Range", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape",
    "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose",
    "Unsqueeze",
))  # fmt: skip
_WIDTHS = {1: 4, 7: 8}  # bytes of a float32 and of an int64, by their numbers in ONNX
_NEEDED = ("config", "card", "digest", "min_samples", "farvox_version", SEAL)


class ExportedModel:
    """An ``.onnx`` file, and all of `farvox.zoo.embedder.Embedder` that its metadata tell.

    Raises:
        ModelError: there is no such file, it is none of farvox's, or it is damaged.
    """

    precision: str

    def __init__(self, path: str | Path, *, content: bytes | None = None) -> None:
        self.path: Path = Path(path)
        self._first_content: bytes | None = (content := content or _read(self.path))
        self.metadata: dict[str, str] = (metadata := _checked(self.path, content))
        self.config: dict[str, Any] = _json(self.path, metadata, "config")
        kinds = {"frontend": dict, "model": dict, "embedding_dim": int}
        if bad := [key for key, kind in kinds.items() if not isinstance(self.config.get(key), kind)]:
            raise ModelError(f"{path}: 'config' of its metadata lacks '{bad[0]}', or it is of the wrong kind")
        self.card: Card = Card.from_dict(_json(self.path, metadata, "card"), f"{path}: model card")
        least = metadata["min_samples"]
        if not (least.isdecimal() and len(least) < 10):
            raise ModelError(f"{path}: 'min_samples' of its metadata is no number of samples: {least!r:.40}")
        self.min_samples: int = int(least)
        self.sample_rate: int = FrontEndConfig.from_dict(self.config["frontend"]).sample_rate
        self.embedding_dim: int = self.config["embedding_dim"]

    def __reduce__(self) -> tuple[Any, ...]:
        """With the file's content, as another machine need not have the file."""
        again = partial(type(self), self.path, content=self.content())
        return again, (), {"card": self.card, "precision": self.precision}

    @property
    def digest(self) -> str:
        """See `farvox.zoo.embedder.Embedder`."""
        return self.card.conditioning.digest(self.metadata["digest"])

    def content(self) -> bytes:
        """The file's, which is read again from the second time on, so that it does not stay in memory.

        Raises:
            ModelError: it is no longer the same.
        """
        if self._first_content is not None:
            content, self._first_content = self._first_content, None
            return content
        content = _read(self.path)
        if _checked(self.path, content)[SEAL] != self.metadata[SEAL]:
            raise ModelError(f"{self.path}: was replaced by another model while this one is used")
        return content


class OnnxEmbedder(ExportedModel):
    """An ``.onnx`` file as an `farvox.zoo.embedder.Embedder`; several threads may use it at once.

    One `embed` takes ``threads`` CPU threads, but for those `side_by_side`; 0 for one a core.

    Raises:
        ModelError: there is no such file, it is none of farvox's, or it is damaged.
        MissingExtraError: onnxruntime is not installed.
    """

    precision: str = "fp32"
    __repr__ = repr_of

    def __init__(self, path: str | Path, threads: int = 0, *, content: bytes | None = None) -> None:
        super().__init__(path, content=content)
        self._threads = threads or num_cores()
        self._sessions: dict[int, Any] = {}  # by the number of threads
        self._alone, self._lock = threading.local(), threading.Lock()
        self._session(1)

    @property
    def backend(self) -> str:
        """Onnxruntime with its version."""
        return f"onnxruntime {_runtime().__version__}"

    def embed(self, wav_T: Wave) -> Embedding:
        """See `Embedder`."""
        wav_T = self.card.conditioning.apply(wav_T, self.sample_rate)
        refuse_long(self, len(wav_T))
        emb_E: Embedding = self.embed_batch(wav_T[None])[0]
        return emb_E

    def embed_batch(self, wav_BT: Wave) -> Embedding:
        """Embed several waveforms of one length, as they are: emb_BE."""
        refuse_short(wav_BT.shape[1], self.min_samples)
        session = self._session(getattr(self._alone, "threads", self._threads))
        try:
            found = session.run([OUTPUT], {INPUT: np.ascontiguousarray(wav_BT, dtype=np.float32)})
        except Exception as error:  # onnxruntime has kinds of its own
            if "allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(f"onnxruntime: {error}") from None
            raise
        emb_BE: Embedding = found[0]
        return emb_BE

    def side_by_side(self, workers: int = 0) -> AbstractContextManager[ThreadPoolExecutor]:
        """See `Embedder`."""
        return pool_of(workers or num_cores(), setattr, self._alone, "threads", 1)

    def _session(self, threads: int) -> Any:
        """The session that runs the graph on a number of threads, made when it is first asked for."""
        with self._lock:
            if threads in self._sessions:
                return self._sessions[threads]
            content, runtime = self.content(), _runtime()
            options = runtime.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            # Threads that wait by spinning starve other work.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.log_severity_level = 4  # what is fatal is raised as well
            options.enable_mem_reuse = False  # planning it takes longer than loading, and saves nothing here
            try:
                session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise ModelError(
                    f"{self.path}: {self.backend} cannot run it: {f'{error}'.strip()}"
                ) from error
            taken, given = [x.name for x in session.get_inputs()], [x.name for x in session.get_outputs()]
            if (taken, given) != ([INPUT], [OUTPUT]):
                raise ModelError(
                    f"{self.path}: the graph takes {taken} and gives {given}, not '{INPUT}' and '{OUTPUT}'"
                )
            if (width := session.get_outputs()[0].shape[1:]) != [self.embedding_dim]:
                raise ModelError(
                    f"{self.path}: the graph gives embeddings of {width} numbers, and its metadata say "
                    f"{self.embedding_dim}; export the model again"
                )
            return self._sessions.setdefault(threads, session)


def with_metadata(graph: bytes, metadata: Mapping[str, str]) -> bytes:
    """A serialised ONNX model with metadata and their seal appended, as `OnnxEmbedder` wants it."""
    entries = (encode((_METADATA, encode((1, key), (2, value)))) for key, value in metadata.items())
    content = graph + b"".join(entries)
    return content + encode((_METADATA, encode((1, SEAL), (2, hashlib.sha256(content).hexdigest()))))


def with_card(exported: ExportedModel, card: Card) -> bytes:
    """The content of an exported model, with another card; its digest changes with the conditioning only."""
    content = exported.content()
    first = next(start for number, _, start in _fields(memoryview(content)) if number == _METADATA)
    kept = {key: value for key, value in exported.metadata.items() if key != SEAL}
    return with_metadata(content[:first], {**kept, "card": json.dumps(asdict(card), ensure_ascii=False)})


def encode(*fields: tuple[int, int | float | str | bytes]) -> bytes:
    """Encode a protobuf message, as ONNX files consist of: its fields by number."""
    parts = []
    for number, value in fields:
        if isinstance(value, float):
            parts += [_varint(number << 3 | 5), struct.pack("<f", value)]
        elif isinstance(value, int):
            parts += [_varint(number << 3), _varint(value & (1 << 64) - 1)]
        else:
            content = value.encode() if isinstance(value, str) else value
            parts += [_varint(number << 3 | 2), _varint(len(content)), content]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"no model '{path}': there is no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def _checked(path: Path, content: bytes) -> dict[str, str]:
    """The metadata of a file that farvox wrote, unchanged since."""
    metadata: dict[str, str] = {}
    last_start, graphs = 0, []
    try:
        for number, value, start in _fields(memoryview(content)):
            if number == _METADATA:
                pair = {which: str(text, "utf-8") for which, text, _ in _fields(value)}
                metadata[pair[1]] = pair.get(2, "")
            elif number == _GRAPH:
                graphs.append(value)
            last_start = start
        if not graphs:  # some text reads as a message too
            raise ValueError("there is no graph")
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: no ONNX file, or a damaged one; export the model again") from error
    written = metadata.get("format", "")
    if not written.startswith("farvox-onnx/"):
        raise ModelError(
            f"{path}: an ONNX file, but not one that 'farvox export' wrote: it does not say what it takes "
            "and gives, nor where it comes from"
        )
    if written != FORMAT:
        raise ModelError(f"{path}: its format is {written}, and this farvox reads {FORMAT}: update farvox")
    if missing := [key for key in _NEEDED if key not in metadata]:
        raise ModelError(f"{path}: its metadata lack '{missing[0]}'; export the model again")
    if hashlib.sha256(memoryview(content)[:last_start]).hexdigest() != metadata[SEAL]:
        raise ModelError(f"{path}: damaged, or changed since it was exported; export the model again")
    try:
        _refuse_other_graphs(memoryview(content), graphs)
    except (IndexError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path}: holds {error}, which no graph of farvox has, and is not run; export the model again"
        ) from error
    return metadata


def _refuse_other_graphs(model: memoryview, graphs: Sequence[memoryview]) -> None:
    """Refuse, with a ValueError that names it, whatever the graphs of `farvox.zoo.graph` do not have."""

    def parts(kind: str, message: memoryview) -> Iterator[tuple[int, Any]]:
        for number, value, _ in _fields(message):
            if number not in _FIELDS[kind]:
                raise ValueError(f"a field {number} of a {kind}")
            yield number, value

    list(parts("model", model))
    if len(graphs) != 1:
        raise ValueError("two graphs")
    for number, value in parts("graph", graphs[0]):
        if number == 1:
            for which, each in parts("operator", value):
                if which == 4 and (name := str(each, "utf-8")) not in _OPERATORS:
                    raise ValueError(f"an operator {name!r:.40}")
                if which == 5:
                    list(parts("attribute", each))
        elif number == 5:
            sizes, held, kind = [], -1, 0
            for which, each in parts("constant", value):
                if which == 1:
                    sizes.append(int(each))
                elif which == 2:
                    kind = int(each)
                elif which == 9:
                    held = len(each)
            if math.prod(sizes) * _WIDTHS.get(kind, 0) != held:
                raise ValueError(f"a constant of sizes {sizes[:9]} in {held:,} bytes")


def _fields(message: memoryview) -> Iterator[tuple[int, Any, int]]:
    """The fields of a protobuf message: number, content (bytes, or a number), and where the field starts.

    Raises:
        ValueError, IndexError: this is no protobuf message, or it ends in the middle of a field.
    """
    position = 0
    while position < len(message):
        start = position
        tag, position = _read_varint(message, position)
        if tag & 7 == 0:
            value, position = _read_varint(message, position)
            yield tag >> 3, value, start
            continue
        if tag & 7 == 2:
            size, position = _read_varint(message, position)
        elif tag & 7 == 5:
            size = 4
        else:
            raise ValueError(f"a field of wire type {tag & 7}")
        if position + size > len(message):
            raise ValueError("the last field is cut")
        yield tag >> 3, message[position : position + size], start
        position += size


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _json(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        values = parse_json(metadata[key])
    except ValueError as error:
        raise ModelError(f"{path}: '{key}' of its metadata is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: '{key}' of its metadata is not a table")
    return values


def _runtime() -> Any:
    return import_extra("onnxruntime", "exported models need onnxruntime: pip install 'farvox[onnx]'")


def num_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
