"""What an ONNX file says about itself, read without the `onnx` package.

Only the outline is read: names, types, shapes, operators, metadata and where the weights lie; the
weights themselves are skipped. The field numbers are those of `onnx.proto`
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..contract import DTYPES, INITIAL_PREFIX, MOST_ARRAYS, MOST_STATE, ArraySpec, Axis
from ..errors import FileError
from ..files.paths import opened
from ..files.reading import MOST_DIMENSIONS, check_shape
from ..shown import shown
from .external_data import Span, check_external, read_span, span_of
from .protobuf import Fields, MalformedError, bytes_of, entry_of, int_of, ints_of, text_of

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
#: Nodes, attributes, tensors and the like: so many in every file, and one more for so many bytes.
_MOST_MESSAGES: Final = 100_000
_BYTES_PER_MESSAGE: Final = 24
_NO_VALUES: Final = memoryview(b"")


@dataclass(frozen=True, slots=True)
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
        with opened(path, "an ONNX file") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FileError(f"{path} is empty; an ONNX file was expected. Export it again.")
            # Not closed by hand: an error on the way still holds views into it.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        outline = _Outline().model(memoryview(data))
        result = outline.result(path, len(data))
    except MalformedError as error:
        raise FileError(
            f"{path} is not a whole ONNX file ({error}). It may be truncated or of another "
            "format; export or copy it again."
        ) from None
    check_external(path, outline.external)
    result.initial.update(_initial(path, outline.initial))
    return result


def _initial(path: Path, tensors: Mapping[str, _Tensor]) -> dict[str, NDArray[Any]]:
    """The first values of states, from the file itself or from the one beside it."""
    if sum(tensor.nbytes for tensor in tensors.values()) > MOST_STATE:
        raise FileError(
            f"{path} holds first states of more than {MOST_STATE} bytes; this stateport carries no "
            "more."
        )
    arrays = {}
    for name, tensor in tensors.items():
        span, size = tensor.external, tensor.nbytes
        data = bytes(tensor.raw) if span is None else read_span(path, span, size)
        if tensor.dtype not in DTYPES or len(data) != size:
            raise FileError(f"{path} holds no values for {shown(tensor.name)}. Export it again.")
        arrays[name] = np.frombuffer(data, tensor.dtype).reshape(tensor.dims)
    return arrays


@dataclass
class _Tensor:
    """A TensorProto without its values, but for those that are short of a copy: `raw`."""

    name: str = ""
    dtype: str = "unknown"
    dims: list[int] = field(default_factory=list)
    entries: dict[str, str] = field(default_factory=dict)
    raw: memoryview = _NO_VALUES
    external: Span | None = None

    @property
    def nbytes(self) -> int:
        return (prod(self.dims) * _BITS.get(self.dtype, 8) + 7) // 8

    def add_dims(self, value: int | memoryview) -> None:
        """Takes a further size, or several that are packed into one field."""
        self.dims.extend(ints_of(value, MOST_DIMENSIONS + 1))
        if len(self.dims) > MOST_DIMENSIONS:
            raise MalformedError(f"the weight {shown(self.name)} has too many dimensions")

    def check(self) -> _Tensor:
        """Holds shape and place against what they can be."""
        try:
            check_shape(self.dims)
            if self.entries:
                self.external = span_of(self.entries, self.nbytes, exact=self.dtype != "unknown")
        except ValueError as error:
            raise MalformedError(f"the weight {shown(self.name)} has {error}") from error
        return self


@dataclass
class _Outline:
    """Collects the outline while the file is walked through.

    `external` are the files beside this one that hold weights, and how long each has to be.
    """

    ir_version: int = 0
    producer: list[str] = field(default_factory=lambda: ["", ""])
    opsets: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    inputs: list[ArraySpec] = field(default_factory=list)
    outputs: list[ArraySpec] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    weights: list[Weight] = field(default_factory=list)
    initial: dict[str, _Tensor] = field(default_factory=dict)
    external: dict[str, int] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    graphs: int = 0
    messages: int = 0
    most_messages: int = _MOST_MESSAGES

    def model(self, data: memoryview) -> _Outline:
        self.most_messages += len(data) // _BYTES_PER_MESSAGE
        for number, value in Fields(data):
            if number == 1:
                self.ir_version = int_of(value)
            elif number in (2, 3):
                self.producer[number - 2] = text_of(value)
            elif number == 7:
                self.graph(bytes_of(value), depth=0)
            elif number == 8:
                self.opset(bytes_of(value))
            elif number == 14:
                self.entry(value)
            elif number == 25:  # a function: its nodes stand in field 7
                self.count()
                for inner, node in Fields(bytes_of(value)):
                    if inner == 7:
                        self.node(bytes_of(node), depth=1)
        if self.ir_version <= 0 or self.graphs != 1 or not self.opsets:
            raise MalformedError("it has no IR version, no graph or no opset")
        return self

    def result(self, path: Path, nbytes: int) -> OnnxFile:
        return OnnxFile(
            path=path,
            nbytes=nbytes,
            ir_version=self.ir_version,
            producer=" ".join(self.producer).strip(),
            opsets=self.opsets,
            metadata=self.metadata,
            inputs=self._without_weights(self.inputs),
            outputs=_ports(self.outputs),
            operators=self.operators,
            weights=tuple(self.weights),
            initial={},
            tables=frozenset(self.tables),
        )

    def _without_weights(self, inputs: list[ArraySpec]) -> tuple[ArraySpec, ...]:
        # Before IR version 4 every initializer was an input too.
        weights = {weight.name for weight in self.weights}
        return _ports([spec for spec in inputs if spec.name not in weights])

    def count(self) -> None:
        self.messages += 1
        if self.messages > self.most_messages:
            raise MalformedError(f"more than {self.most_messages} parts are in so few bytes")

    def opset(self, data: memoryview) -> None:
        self.count()
        domain, version = "", 0
        for number, value in Fields(data):
            if number == 1:
                domain = text_of(value)
            elif number == 2:
                version = int_of(value)
        self.opsets[domain or "ai.onnx"] = version

    def entry(self, value: int | memoryview) -> None:
        self.count()
        key, text = entry_of(value)
        if key in self.metadata:  # readers would differ in which of the two they take
            raise MalformedError(f"its metadata have the key {shown(key)} twice")
        self.metadata[key] = text

    def graph(self, data: memoryview, depth: int) -> None:
        self.count()
        if depth > _DEEPEST:
            raise MalformedError("its graphs are nested too deeply")
        self.graphs += depth == 0
        for number, value in Fields(data):
            if number == 1:
                self.node(bytes_of(value), depth)
            elif number == 5:
                self.initializer(bytes_of(value), depth)
            elif number == 15:
                self.sparse(bytes_of(value))
            elif depth == 0 and number in (11, 12):
                self.count()
                (self.inputs if number == 11 else self.outputs).append(_value_info(bytes_of(value)))

    def node(self, data: memoryview, depth: int) -> None:
        self.count()
        operator, domain = "", ""
        first: int | memoryview | None = None
        for number, value in Fields(data):
            if number == 1:
                first = value if first is None else first
            elif number == 4:
                operator = text_of(value)
            elif number == 7:
                domain = text_of(value)
            elif number == 5:
                self.attribute(bytes_of(value), depth)
        if operator == "Gather" and first is not None:
            self.tables.add(text_of(first))
        self.operators[operator if domain in ("", "ai.onnx") else f"{domain}::{operator}"] += 1

    def attribute(self, data: memoryview, depth: int) -> None:
        self.count()
        for number, value in Fields(data):
            if number in (5, 10):
                self.tensor(bytes_of(value))
            elif number in (6, 11):
                self.graph(bytes_of(value), depth + 1)
            elif number in (22, 23):
                self.sparse(bytes_of(value))

    def sparse(self, data: memoryview) -> None:
        """A SparseTensorProto: its values and its indices are tensors."""
        self.count()
        for number, value in Fields(data):
            if number in (1, 2):
                self.tensor(bytes_of(value))

    def initializer(self, data: memoryview, depth: int) -> None:
        tensor = self.tensor(data)
        if depth == 0 and tensor.name.startswith(INITIAL_PREFIX):
            name = tensor.name.removeprefix(INITIAL_PREFIX)
            if name in self.initial:
                raise MalformedError(f"it has the weight {shown(tensor.name)} twice")
            self.initial[name] = tensor

    def tensor(self, data: memoryview) -> _Tensor:
        self.count()
        tensor = _Tensor()
        for number, value in Fields(data):
            if number == 1:
                tensor.add_dims(value)
            elif number == 2:
                tensor.dtype = _DTYPES.get(int_of(value), "unknown")
            elif number == 8:
                tensor.name = text_of(value)
            elif number == 9:
                tensor.raw = bytes_of(value)
            elif number == 13:
                _add(tensor.entries, value)
        self.weigh(tensor.check())
        return tensor

    def weigh(self, tensor: _Tensor) -> None:
        span = tensor.external
        if span is not None:
            self.external[span.name] = max(self.external.get(span.name, 0), span.end)
        self.weights.append(
            Weight(
                tensor.name,
                tensor.dtype,
                tuple(tensor.dims),
                tensor.nbytes,
                None if span is None else span.name,
            )
        )


def _ports(specs: list[ArraySpec]) -> tuple[ArraySpec, ...]:
    """The inputs, or the outputs, of the graph."""
    if len(specs) > 2 * MOST_ARRAYS:
        raise MalformedError(f"its graph has {len(specs)} inputs or outputs")
    for name, count in Counter(spec.name for spec in specs).items():
        if count > 1:
            raise MalformedError(f"its graph has an input or output {shown(name)} twice")
    return tuple(specs)


def _add(entries: dict[str, str], value: int | memoryview) -> None:
    key, text = entry_of(value)
    if key in entries:
        raise MalformedError(f"the place of a weight says {shown(key)} twice")
    entries[key] = text


def _value_info(data: memoryview) -> ArraySpec:
    name, dtype = "", "unknown"
    shape: tuple[Axis, ...] = ()
    for number, value in Fields(data):
        if number == 1:
            name = text_of(value)
        elif number == 2:
            for kind, content in Fields(bytes_of(value)):
                if kind == 1:  # a tensor; sequences, maps and optionals stay "unknown"
                    dtype, shape = _tensor_type(bytes_of(content))
    return ArraySpec(name, dtype, shape)


def _tensor_type(data: memoryview) -> tuple[str, tuple[Axis, ...]]:
    dtype = "unknown"
    shape: list[Axis] = []
    for number, value in Fields(data):
        if number == 1:
            dtype = _DTYPES.get(int_of(value), "unknown")
        elif number == 2:
            shape = [*islice(_axes(bytes_of(value)), MOST_DIMENSIONS + 1)]
    if len(shape) > MOST_DIMENSIONS:
        raise MalformedError("an array has too many dimensions")
    return dtype, tuple(shape)


def _axes(data: memoryview) -> Iterator[Axis]:
    return (_axis(bytes_of(dim)) for number, dim in Fields(data) if number == 1)


def _axis(data: memoryview) -> Axis:
    """A size, or a name; "?" where there is none. Other exporters write 0 or -1 for that."""
    axis: Axis = "?"
    for number, value in Fields(data):
        if number == 1:
            axis = size if (size := int_of(value)) > 0 else "?"
        elif number == 2:
            axis = text_of(value) or "?"
    return axis
