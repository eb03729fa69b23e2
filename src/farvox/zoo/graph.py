"""An ONNX graph that is written while a module computes.

A module is called with a `Symbol` instead of a tensor. torch hands every call of one of its functions with a
symbol to the symbol's graph (``__torch_function__``), which adds the ONNX operators that compute the same.
The values in two example runs are computed along: a size that differs between the runs varies with the input,
any other is fixed, and branches of Python code go the way that both runs take.

torch's own exporter takes a minute for CAM++, and needs two more packages; this one takes a second. It knows
the operations that the networks and front-ends of farvox consist of, and no others.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import farvox
from farvox.errors import ModelError
from farvox.zoo.onnx_backend import encode

OPSET = 20
_IR_VERSION = 9
_LAST = 1 << 62  # as the end of a slice: all that follows
_FLOAT, _INT64 = 1, 7  # of ONNX's TensorProto.DataType
_UNCHANGED = ("contiguous", "detach", "dropout", "float")
_UNARY = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "sqrt": "Sqrt", "log": "Log"}
_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "floordiv": "Div", "sym_max": "Max"}
_BINARY = {**_ARITHMETIC, "truediv": "Div", "matmul": "MatMul", "maximum": "Max"}
_REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax"}


def write_graph(module: nn.Module, examples: tuple[Tensor, Tensor], taken: str, given: str) -> bytes:
    """Serialise what a module computes, on the CPU, as an ONNX model of one input and output, both matrices.

    They are named ``taken`` and ``given``. In the two examples of the input, sizes that may vary differ, and
    so do those that follow from them.

    Raises:
        ModelError: the module uses an operation that is not known here.
    """
    graph = _Graph()
    output = module(Symbol(graph, taken, examples))
    needed, nodes = {output.name}, []
    for node in reversed(graph.nodes):
        if needed.intersection(node[2]):
            nodes.append(node)
            needed.update(node[1])
    sides = []
    for name, (one, other) in ((taken, examples), (given, output.examples)):
        sizes = [
            (1, encode((1, a) if a == b else (2, letter)))
            for a, b, letter in zip(one.shape, other.shape, "BT", strict=True)
        ]
        sides.append(encode((1, name), (2, encode((1, encode((1, _FLOAT), (2, encode(*sizes))))))))
    content = encode(
        *((1, _node(node, {output.name: given})) for node in reversed(nodes)),
        (2, "farvox"),
        *((5, _array(name, array)) for name, array in graph.arrays.items() if name in needed),
        *zip((11, 12), sides, strict=True),
    )
    opset = encode((1, ""), (2, OPSET))
    return encode((1, _IR_VERSION), (2, "farvox"), (3, farvox.__version__), (7, content), (8, opset))


def _array(name: str, array: np.ndarray) -> bytes:
    """A constant, as ONNX has it."""
    kind = {"float32": _FLOAT, "int64": _INT64}[array.dtype.name]
    return encode(*((1, size) for size in array.shape), (2, kind), (8, name), (9, array.tobytes()))


def _node(node: Node, renamed: dict[str, str]) -> bytes:
    """An operator, as ONNX has it."""
    op, inputs, outputs, attributes = node
    fields: list[tuple[int, Any]] = [(1, renamed.get(name, name)) for name in inputs]
    fields += [(2, renamed.get(name, name)) for name in outputs]
    for name, value in attributes.items():
        values, (field, kind) = [value], (4, 3)
        if isinstance(value, float):
            field, kind = 2, 1
        elif isinstance(value, int):
            field, kind = 3, 2
        elif not isinstance(value, str):
            values, field, kind = [int(each) for each in value], 8, 7
        fields.append((5, encode((1, name), *((field, each) for each in values), (20, kind))))
    return encode(*fields, (4, op))


@dataclass(eq=False, repr=False)
class Symbol:
    """A tensor of a graph, or a number that follows from the size of one."""

    graph: _Graph  # records what is done with it
    name: str  # in the graph
    examples: tuple[Any, Any]  # the values in two runs
    is_cpu = False  # so that front-ends do not go through memory in the order that suits a CPU

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = [*args, *(args[0] if isinstance(args[0], list | tuple) else ())]
        symbol = next(each for each in operands if isinstance(each, cls))
        return symbol.graph.call(func, args, kwargs or {})

    @property
    def shape(self) -> tuple[int | Symbol, ...]:
        """Sizes; those that vary are symbols."""
        return tuple(self.graph.size(self, axis) for axis in range(self.examples[0].ndim))

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.examples[0], name)
        if not callable(value) or name in ("dim", "stride"):
            return value
        return lambda *args, **kwargs: self.graph.call(getattr(Tensor, name), (self, *args), kwargs)


def _recorded(func: Callable[..., Any], *, reflected: bool) -> Callable[..., Any]:
    """The method of `Symbol` for an operator of Python."""
    if reflected:
        return lambda self, other: self.graph.call(func, (other, self), {})
    return lambda self, other: self.graph.call(func, (self, other), {})


for _name in ("add", "sub", "mul", "truediv", "floordiv", "matmul", "getitem", "lt", "le", "gt", "ge"):
    setattr(Symbol, f"__{_name}__", _recorded(getattr(operator, _name), reflected=False))
for _name in ("add", "sub", "mul", "truediv", "matmul"):
    setattr(Symbol, f"__r{_name}__", _recorded(getattr(operator, _name), reflected=True))

Node = tuple[str, tuple[str, ...], tuple[str, ...], dict[str, Any]]
"""An operator of ONNX, the names of its inputs and outputs, and its attributes."""


class _Graph:
    """The operators added so far."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []  # in an order in which they can be computed
        self.arrays: dict[str, np.ndarray] = {}  # constants by name
        self._producers: dict[str, Node] = {}
        self._known: dict[Any, Any] = {}  # names of nodes and constants, which are not added twice
        self._sizes: dict[tuple[int, int, int], Symbol] = {}

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute a function in both runs, and add the operators for it."""
        with torch.no_grad():
            one, other = (func(*_in_run(args, run), **_in_run(kwargs, run)) for run in (0, 1))
        if isinstance(one, int | float) and one == other:
            return one
        added = self._emit(func.__name__.strip("_"), (one, other), args, kwargs)
        if isinstance(added, list):
            return [Symbol(self, *each) for each in zip(added, zip(one, other, strict=True), strict=True)]
        return Symbol(self, added, (one, other))

    def size(self, symbol: Symbol, axis: int) -> int | Symbol:
        """A size of a tensor. Sizes of one axis that agree in both runs are taken for the same."""
        one, other = (example.shape[axis] for example in symbol.examples)
        if one == other:
            return int(one)
        if (axis, one, other) not in self._sizes:
            name = self._add("Squeeze", self._add("Shape", symbol, start=axis, end=axis + 1), [0])
            self._sizes[axis, one, other] = Symbol(self, name, (one, other))
        return self._sizes[axis, one, other]

    def _emit(self, name: str, found: tuple[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Add the operators for one of torch's functions; the name of the result, or a list of names.

        ``found`` are its results in the two runs.
        """

        def given(name: str, default: Any = None, position: int = 1) -> Any:
            return kwargs.get(name, args[position] if len(args) > position else default)

        add, x = self._add, args[0]
        match name:
            case _ if name in _UNCHANGED:
                return x.name
            case _ if name in _UNARY:
                return add(_UNARY[name], x)
            case _ if name in _BINARY:
                return add(_BINARY[name], *self._alike(args[:2], whole=name in _ARITHMETIC))
            case _ if name in _REDUCTIONS:
                axes = np.atleast_1d(given("dim")) % x.ndim
                return add(_REDUCTIONS[name], x, axes, keepdims=int(kwargs.get("keepdim", False)))
            case "square":
                return add("Mul", x, x)
            case "log10":
                return add("Mul", add("Log", x), np.float32(1 / math.log(10)))
            case "clamp" | "clamp_min":
                return add("Clip", x, np.float32(given("min")))
            case "hardtanh":
                return add("Clip", x, np.float32(given("min_val")), np.float32(given("max_val")))
            case "silu":
                return add("Mul", x, add("Sigmoid", x))
            case "std":  # with Bessel's correction, as torch has it
                squares = (x - x.mean(dim=given("dim"), keepdim=True)).square().sum(**kwargs)
                return (squares / (x.shape[given("dim")] - 1)).sqrt().name
            case "softmax":
                return add("Softmax", x, axis=given("dim"))
            case "cat":
                return add("Concat", *x, axis=given("dim", 0))
            case "chunk":
                count = len(found[0])
                return add("Split", x, outputs=count, num_outputs=count, axis=given("dim", 0, position=2))
            case "unsqueeze":
                return add("Unsqueeze", x, [given("dim") % (x.ndim + 1)])
            case "squeeze":
                return add("Squeeze", x, [given("dim") % x.ndim])
            case "transpose":
                order = list(range(x.ndim))
                order[args[1]], order[args[2]] = order[args[2]], order[args[1]]
                return add("Transpose", x, perm=order)
            case "flatten":
                start, sizes = given("start_dim", 0), zip(found[0].shape, found[1].shape, strict=True)
                varying = [0 if axis < start else -1 for axis in range(x.ndim)]
                shape = [a if a == b else v for (a, b), v in zip(sizes, varying, strict=False)]
                return add("Reshape", x, shape)
            case "expand":
                return add("Expand", x, np.maximum(args[1:], 1))
            case "full_like":
                return add("Expand", self._alike((x, args[1]))[1], add("Shape", x))
            case "pad":
                ends = np.zeros((x.ndim, 2), np.int64)
                last_axes_first = np.reshape(given("pad"), (-1, 2))
                ends[x.ndim - len(last_axes_first) :] = last_axes_first[::-1]
                return add("Pad", x, ends.T.flatten(), mode=given("mode", "constant", position=2))
            case "linear":
                product = add("MatMul", x, args[1].detach().T)
                return product if args[2] is None else add("Add", product, args[2])
            case "conv1d" | "conv2d":
                _, weight, bias, strides, padding, dilations, group = args
                spread = {"strides": strides, "pads": [*padding] * 2, "dilations": dilations}
                return add("Conv", x, weight, bias, **spread, group=group)
            case "batch_norm":
                return self._batch_norm(x, args[1], args[2], kwargs["weight"], kwargs["bias"], kwargs["eps"])
            case "avg_pool1d" if kwargs == {"ceil_mode": True, "count_include_pad": False}:
                return add("MatMul", x, self._segment_means(x.shape[-1], args[1]))
            case "getitem":
                return self._item(x, args[1] if isinstance(args[1], tuple) else (args[1],))
            case "unfold" if args[1] == -1:
                return self._unfold(x, args[2], args[3])
        raise ModelError(f"the operation '{name}' of torch is none that an exported graph is written for")

    def _batch_norm(
        self, x: Symbol, mean: Tensor, variance: Tensor, weight: Any, bias: Any, epsilon: float
    ) -> str:
        """Add a batch norm; or the convolution before it once more, with the norm in its weights."""
        scale_C = (variance.double() + epsilon).rsqrt() * (1 if weight is None else weight.detach())
        shift_C = (0 if bias is None else bias.detach()) - mean.double() * scale_C
        op, inputs, _, attributes = self._producers[x.name]
        if op != "Conv":
            affine = scale_C.float(), shift_C.float()
            return str(self._add("BatchNormalization", x, *affine, 0 * mean, 0 * mean + 1, epsilon=0.0))
        folded = self.arrays[inputs[1]] * scale_C.numpy().reshape(-1, *[1] * (x.ndim - 1))
        if inputs[2]:
            shift_C += scale_C * torch.from_numpy(self.arrays[inputs[2]])
        return str(self._add("Conv", inputs[0], folded.astype(np.float32), shift_C.float(), **attributes))

    def _segment_means(self, length: Any, size: int) -> str:
        """Add the matrix [F, S] that takes F frames to the mean of each segment of ``size`` frames."""
        first, step = np.int64(0), np.int64(1)
        segment_F = self._add("Div", self._add("Range", first, length, step), np.int64(size))
        segment_S = self._add("Range", first, (length + (size - 1)) // size, step)
        is_in_FS = self._add("Equal", self._add("Unsqueeze", segment_F, [1]), segment_S)
        ones_FS = self._add("Cast", is_in_FS, to=_FLOAT)
        return str(self._add("Div", ones_FS, self._add("ReduceSum", ones_FS, [0])))

    def _item(self, x: Symbol, key: tuple[Any, ...]) -> str:
        """Add the choice by an index of slices, whole numbers and an ellipsis."""
        if Ellipsis in key:
            position = key.index(Ellipsis)
            key = key[:position] + (slice(None),) * (x.ndim - len(key) + 1) + key[position + 1 :]
        parts = {
            axis: part if isinstance(part, slice) else slice(part, part + 1 or None)
            for axis, part in enumerate(key)
            if part != slice(None)
        }
        starts = self._whole_numbers([part.start or 0 for part in parts.values()])
        ends = self._whole_numbers([_LAST if part.stop is None else part.stop for part in parts.values()])
        chosen = self._add("Slice", x, starts, ends, list(parts))
        gone = [axis for axis in parts if not isinstance(key[axis], slice)]
        return str(self._add("Squeeze", chosen, gone) if gone else chosen)

    def _unfold(self, wav_BT: Symbol, size: int, step: int) -> str:
        """Add frames that overlap, copied in pieces of which every frame has a whole number."""
        unit = math.gcd(size, step)
        length: Any = wav_BT.shape[-1]
        whole_BT = self._item(wav_BT, (slice(None), slice(0, length // unit * unit)))
        pieces_BPU = self._add("Reshape", whole_BT, [0, -1, unit])
        end = (length - size) // step * (step // unit) + 1
        first_F = self._add("Unsqueeze", self._add("Range", np.int64(0), end, np.int64(step // unit)), [1])
        frames = self._add("Gather", pieces_BPU, self._add("Add", first_F, np.arange(size // unit)), axis=1)
        return str(self._add("Reshape", frames, [0, -1, size]))

    def _add(self, op: str, *inputs: Any, outputs: int = 0, **attributes: Any) -> Any:
        """Add an operator, unless it is there already; the name of its result, or a list of names."""
        names = tuple(self._name(each) for each in inputs)
        key = (op, names, repr(attributes))
        if key not in self._known:
            results = tuple(f"t{len(self.nodes)}.{number}" for number in range(outputs or 1))
            self.nodes.append((op, names, results, attributes))
            self._producers |= dict.fromkeys(results, self.nodes[-1])
            self._known[key] = list(results) if outputs else results[0]
        return self._known[key]

    def _name(self, value: Any) -> str:
        """The name of an input: of a symbol, a result or a constant; empty for `None`."""
        if value is None or isinstance(value, str | Symbol):
            return value.name if isinstance(value, Symbol) else value or ""
        array = np.asarray(value.detach() if isinstance(value, Tensor) else value, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        name: str = self._known.setdefault(key, f"c{len(self.arrays)}")
        self.arrays.setdefault(name, array)
        return name

    def _alike(self, operands: tuple[Any, ...], *, whole: bool = False) -> list[Any]:
        """Operands of one type: whole numbers among themselves, if that is wanted, or float32."""
        if whole and all(isinstance(example, int) for example in _in_run(operands, 0)):
            return [np.int64(each) if isinstance(each, int) else each for each in operands]
        alike = []
        for each in operands:
            if isinstance(each, Symbol) and not isinstance(each.examples[0], Tensor):
                each = self._add("Cast", each, to=_FLOAT)
            alike.append(np.float32(each) if isinstance(each, int | float) else each)
        return alike

    def _whole_numbers(self, values: list[Any]) -> Any:
        """A vector of whole numbers, some of which may be symbols."""
        if not any(isinstance(value, Symbol) for value in values):
            return values
        parts = [self._add("Unsqueeze", v, [0]) if isinstance(v, Symbol) else [v] for v in values]
        return self._add("Concat", *parts, axis=0)


def _in_run(value: Any, run: int) -> Any:
    """An argument with its value in one of the two runs."""
    if isinstance(value, Symbol):
        return value.examples[run]
    if isinstance(value, slice):
        return slice(_in_run(value.start, run), _in_run(value.stop, run), value.step)
    if isinstance(value, dict):
        return {key: _in_run(each, run) for key, each in value.items()}
    return type(value)(_in_run(each, run) for each in value) if isinstance(value, list | tuple) else value
