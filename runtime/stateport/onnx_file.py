"""What an ONNX file says about itself, read without the `onnx` package.

Only the outline is read: names, types, shapes, operators, metadata and where the weights lie; the
weights themselves are skipped. The format is Protocol Buffers' wire format
(https://protobuf.dev/programming-guides/encoding/) and the field numbers are those of `onnx.proto`
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .contract import DTYPES, INITIAL_PREFIX, ArraySpec, Axis
from .errors import FileError

# TensorProto.DataType -> NumPy's name for it. Those without one keep ONNX's name.
_DTYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    8: "string", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz",
    19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1",
}  # fmt: skip
_BITS: Final = {
    "float64": 64, "int64": 64, "uint64": 64, "complex64": 64, "complex128": 128,
    "float32": 32, "int32": 32, "uint32": 32, "float16": 16, "bfloat16": 16, "int16": 16,
    "uint16": 16, "uint4": 4, "int4": 4, "float4e2m1": 4,
}  # fmt: skip
_DEEPEST: Final = 32  # graphs within graphs; real files have two or three


@dataclass(frozen=True)
class Weight:
    """One initializer: name, dtype, shape, size in bytes, and the external file it lies in."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    external: str | None


@dataclass(frozen=True)
class OnnxFile:
    """The outline of an ONNX file.

    `initial` are the first values of states, by the states' inputs: the only arrays that are read.
    `tables` are the weights of which a call reads a few rows, as of an embedding.
    """

    path: Path
    nbytes: int
    ir_version: int
    producer: str
    opsets: dict[str, int]
    metadata: dict[str, str]
    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    operators: Counter[str]
    weights: tuple[Weight, ...]
    initial: dict[str, NDArray[Any]]
    tables: frozenset[str] = frozenset()

    @property
    def external_files(self) -> tuple[str, ...]:
        """The files beside this one that hold weights."""
        return tuple(sorted({w.external for w in self.weights if w.external is not None}))


def read(path: Path) -> OnnxFile:
    """Reads the outline of an ONNX file and checks that its external data can be trusted.

    Raises:
        FileError: the file is missing, a folder, empty, truncated or not ONNX, or its weights are
            said to lie outside its own folder or are not there.
    """
    try:
        if path.is_dir():
            raise FileError(f"{path} is a folder; an ONNX file was expected.")
        if path.stat().st_size == 0:
            raise FileError(f"{path} is empty; an ONNX file was expected. Export it again.")
        with path.open("rb") as file:
            # Not closed by hand: an error on the way still holds views into it.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        outline = _Outline().model(memoryview(data))
    except OSError as error:
        raise FileError(f"{path} could not be read: {error.strerror or error}.") from error
    except ValueError as error:  # a NUL in the name
        raise FileError(f"{str(path)!r} can be no file's name: {error}.") from error
    except _MalformedError as error:
        raise FileError(
            f"{path} is not a whole ONNX file ({error}). It may be truncated or of another "
            "format; export or copy it again."
        ) from None
    result = outline.result(path)
    _check_external(result)
    for name, tensor in outline.initial.items():
        result.initial[name] = _array(path, tensor)
    return result


def _array(path: Path, tensor: _Tensor) -> NDArray[Any]:
    """The values of a tensor, from the file itself or from the one beside it."""
    data = bytes(tensor.raw)
    if tensor.external:
        with (path.resolve().parent / tensor.external["location"]).open("rb") as file:
            file.seek(int(tensor.external.get("offset", "0")))
            data = file.read(int(tensor.external.get("length", "-1")))
    if tensor.dtype not in DTYPES or len(data) != tensor.nbytes:
        raise FileError(f"{path} holds no values for {tensor.name!r}. Export it again.")
    return np.frombuffer(data, tensor.dtype).reshape(tensor.dims)


def _check_external(file: OnnxFile) -> None:
    folder = file.path.resolve().parent
    for name in file.external_files:
        try:
            target = (folder / name).resolve()
            inside = not Path(name).is_absolute() and target.is_relative_to(folder)
            present = inside and target.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL
            raise FileError(
                f"{file.path} keeps weights in {name[:80]!r}, which can be no file's name. "
                "Export it again."
            ) from error
        if not inside:
            raise FileError(
                f"{file.path} keeps weights in {name!r}, which lies outside its own folder. "
                "Such a file is refused; its external data must stand beside it."
            )
        if not present:
            raise FileError(
                f"{file.path} keeps weights in {name!r}, which is not there. "
                "Copy the two files together."
            )


class _MalformedError(Exception):
    """The bytes are not what the format says."""


class _Fields:
    """The fields of one message, in order, as (number, value) pairs."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def __iter__(self) -> Iterator[tuple[int, int | memoryview]]:
        while self._at < len(self._data):
            key = self._varint()
            number, wire = key >> 3, key & 7
            if number == 0:
                raise _MalformedError("a field has the number zero")
            if wire == 0:
                yield number, self._varint()
            elif wire == 2:
                yield number, self._take(self._varint())
            elif wire in (1, 5):
                yield number, self._take(8 if wire == 1 else 4)
            else:
                raise _MalformedError(f"a field has the unknown wire type {wire}")

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            if self._at >= len(self._data):
                raise _MalformedError("it ends in the middle of a number")
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise _MalformedError("a number is too long")

    def _take(self, length: int) -> memoryview:
        if length > len(self._data) - self._at:
            raise _MalformedError(
                f"a field claims {length} bytes where {len(self._data) - self._at} are left"
            )
        start, self._at = self._at, self._at + length
        return self._data[start : self._at]


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _MalformedError("a number stands where a text or message should")
    return value


def _int(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _MalformedError("a message stands where a number should")
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(value: int | memoryview) -> str:
    try:
        return str(_bytes(value), "utf-8")
    except UnicodeDecodeError as error:
        raise _MalformedError("a name is not UTF-8") from error


def _ints(value: int | memoryview) -> list[int]:
    """A repeated integer: one of them, or several packed into one field."""
    if isinstance(value, int):
        return [_int(value)]
    packed, numbers = _Fields(value), []
    while packed._at < len(value):
        numbers.append(_int(packed._varint()))
    return numbers


def _entry(value: int | memoryview) -> tuple[str, str]:
    """A StringStringEntryProto."""
    found = {number: _text(content) for number, content in _Fields(_bytes(value))}
    return found.get(1, ""), found.get(2, "")


@dataclass
class _Tensor:
    """A TensorProto without its values, but for those that are short of a copy: `raw`."""

    name: str = ""
    dtype: str = "unknown"
    dims: list[int] = field(default_factory=list)
    external: dict[str, str] = field(default_factory=dict)
    raw: memoryview = field(default_factory=lambda: memoryview(b""))

    @property
    def nbytes(self) -> int:
        return (prod(self.dims) * _BITS.get(self.dtype, 8) + 7) // 8


@dataclass
class _Outline:
    """Collects the outline while the file is walked through."""

    ir_version: int = 0
    producer: list[str] = field(default_factory=lambda: ["", ""])
    opsets: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    inputs: list[ArraySpec] = field(default_factory=list)
    outputs: list[ArraySpec] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    weights: list[Weight] = field(default_factory=list)
    initial: dict[str, _Tensor] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    graphs: int = 0

    def model(self, data: memoryview) -> _Outline:
        for number, value in _Fields(data):
            if number == 1:
                self.ir_version = _int(value)
            elif number in (2, 3):
                self.producer[number - 2] = _text(value)
            elif number == 7:
                self.graph(_bytes(value), depth=0)
            elif number == 8:
                self.opset(_bytes(value))
            elif number == 14:
                key, text = _entry(value)
                self.metadata[key] = text
            elif number == 25:  # a function: its nodes stand in field 7
                for inner, node in _Fields(_bytes(value)):
                    if inner == 7:
                        self.node(_bytes(node), depth=1)
        if self.ir_version <= 0 or self.graphs != 1 or not self.opsets:
            raise _MalformedError("it has no IR version, no graph or no opset")
        return self

    def result(self, path: Path) -> OnnxFile:
        return OnnxFile(
            path=path,
            nbytes=path.stat().st_size,
            ir_version=self.ir_version,
            producer=" ".join(self.producer).strip(),
            opsets=self.opsets,
            metadata=self.metadata,
            inputs=self._without_weights(self.inputs),
            outputs=tuple(self.outputs),
            operators=self.operators,
            weights=tuple(self.weights),
            initial={},
            tables=frozenset(self.tables),
        )

    def _without_weights(self, inputs: list[ArraySpec]) -> tuple[ArraySpec, ...]:
        # Before IR version 4 every initializer was an input too.
        weights = {weight.name for weight in self.weights}
        return tuple(spec for spec in inputs if spec.name not in weights)

    def opset(self, data: memoryview) -> None:
        domain, version = "", 0
        for number, value in _Fields(data):
            if number == 1:
                domain = _text(value)
            elif number == 2:
                version = _int(value)
        self.opsets[domain or "ai.onnx"] = version

    def graph(self, data: memoryview, depth: int) -> None:
        if depth > _DEEPEST:
            raise _MalformedError("its graphs are nested too deeply")
        self.graphs += depth == 0
        for number, value in _Fields(data):
            if number == 1:
                self.node(_bytes(value), depth)
            elif number == 5:
                self.tensor(_bytes(value))
            elif depth == 0 and number == 11:
                self.inputs.append(_value_info(_bytes(value)))
            elif depth == 0 and number == 12:
                self.outputs.append(_value_info(_bytes(value)))

    def node(self, data: memoryview, depth: int) -> None:
        operator, domain = "", ""
        operands = []
        for number, value in _Fields(data):
            if number == 1:
                operands.append(value)
            elif number == 4:
                operator = _text(value)
            elif number == 7:
                domain = _text(value)
            elif number == 5:
                self.attribute(_bytes(value), depth)
        if operator == "Gather" and operands:
            self.tables.add(_text(operands[0]))
        self.operators[operator if domain in ("", "ai.onnx") else f"{domain}::{operator}"] += 1

    def attribute(self, data: memoryview, depth: int) -> None:
        for number, value in _Fields(data):
            if number in (5, 10):
                self.tensor(_bytes(value))
            elif number in (6, 11):
                self.graph(_bytes(value), depth + 1)

    def tensor(self, data: memoryview) -> None:
        tensor = _Tensor()
        for number, value in _Fields(data):
            if number == 1:
                tensor.dims.extend(_ints(value))
            elif number == 2:
                tensor.dtype = _DTYPES.get(_int(value), "unknown")
            elif number == 8:
                tensor.name = _text(value)
            elif number == 9:
                tensor.raw = _bytes(value)
            elif number == 13:
                tensor.external.update([_entry(value)])
        location = tensor.external.get("location", "") if tensor.external else None
        if tensor.name.startswith(INITIAL_PREFIX):
            self.initial[tensor.name.removeprefix(INITIAL_PREFIX)] = tensor
        self.weights.append(
            Weight(tensor.name, tensor.dtype, tuple(tensor.dims), tensor.nbytes, location)
        )


def _value_info(data: memoryview) -> ArraySpec:
    name, dtype = "", "unknown"
    shape: tuple[Axis, ...] = ()
    for number, value in _Fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for kind, content in _Fields(_bytes(value)):
                if kind == 1:  # a tensor; sequences, maps and optionals stay "unknown"
                    dtype, shape = _tensor_type(_bytes(content))
    return ArraySpec(name, dtype, shape)


def _tensor_type(data: memoryview) -> tuple[str, tuple[Axis, ...]]:
    dtype = "unknown"
    shape: list[Axis] = []
    for number, value in _Fields(data):
        if number == 1:
            dtype = _DTYPES.get(_int(value), "unknown")
        elif number == 2:
            shape = [_axis(_bytes(dim)) for one, dim in _Fields(_bytes(value)) if one == 1]
    return dtype, tuple(shape)


def _axis(data: memoryview) -> Axis:
    """A size, or a name; "?" where there is none. Other exporters write 0 or -1 for that."""
    axis: Axis = "?"
    for number, value in _Fields(data):
        if number == 1:
            axis = size if (size := _int(value)) > 0 else "?"
        elif number == 2:
            axis = _text(value) or "?"
    return axis
