# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file says about itself, read without the `onnx` package.

Only the outline is read: names, types, shapes, operators, metadata and the positions of the
weights; the weights themselves are skipped. The field numbers are those of `onnx.proto`
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

from ..contract import DTYPES, INITIAL_PREFIX, MOST_ARRAYS, MOST_STATE, ArraySpec, Axis, names_of
from ..errors import FileError
from ..files.paths import opened
from ..files.reading import MOST_DIMENSIONS, check_shape
from ..shown import shown
from .external_data import Span, check_external, read_span, span_of
from .other_formats import other_format
from .protobuf import Fields, MalformedError, bytes_of, entry_of, int_of, ints_of, text_of

# TensorProto.DataType -> NumPy's name for it. Those without one keep ONNX's name.
_DTYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    8: "string", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz",
    19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1",
}  # fmt: skip
# The fields of TypeProto for values that are no tensors.
_OTHER_TYPES: Final = {4: "sequence", 5: "map", 8: "sparse tensor", 9: "optional"}
_BITS: Final = {
    "float64": 64, "int64": 64, "uint64": 64, "complex64": 64, "complex128": 128,
    "float32": 32, "int32": 32, "uint32": 32, "float16": 16, "bfloat16": 16, "int16": 16,
    "uint16": 16, "uint4": 4, "int4": 4, "float4e2m1": 4,
}  # fmt: skip
_DEEPEST: Final = 32  # graphs within graphs; real files have two or three
#: The most nodes, attributes, tensors and the like: this number, and one more per this many bytes.
_MOST_MESSAGES: Final = 100_000
_BYTES_PER_MESSAGE: Final = 24
_NO_VALUES: Final = memoryview(b"")


@dataclass(frozen=True, slots=True)
class Weight:
    """One initializer.

    Attributes:
        name: its name.
        dtype: NumPy's name of its dtype, or ONNX's where NumPy has none.
        shape: its shape.
        nbytes: its size in bytes.
        external: the external file that stores it; None where the ONNX file does.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    external: str | None


@dataclass(frozen=True)
class OnnxFile:
    """The outline of an ONNX file.

    Attributes:
        path: the file.
        nbytes: its size in bytes.
        ir_version: its IR version.
        producer: the name and version of the program that wrote it.
        opsets: by domain, the opset version.
        metadata: its metadata by key.
        inputs: the inputs of its graph, without weights.
        outputs: the outputs of its graph.
        operators: how many nodes each operator has, subgraphs and functions included.
        weights: all initializers and constants.
        initial: by state input, the first values of the state: the only arrays that are read.
        tables: the names of weights of which a call reads a few rows, as of an embedding.
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
    """Reads the outline of an ONNX file, and checks its external data.

    Raises:
        FileError: the file is missing, a folder, empty, truncated or not ONNX, or an external file
            is outside the folder of the ONNX file, missing or too short.
    """
    try:
        with opened(path, "an ONNX file") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FileError(f"{path} is empty; an ONNX file was expected. Export it again.")
            # It is not closed explicitly: the traceback of an error may refer to views into it.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

        outline = _Outline()
        outline.read_model(memoryview(data))
        result = outline.result(path, len(data))
    except MalformedError as error:
        other = other_format(path)
        if other is not None:
            raise FileError(f"{path} {other}") from None
        raise FileError(
            f"{path} is not a whole ONNX file ({error}). It may be truncated or of another "
            "format; export or copy it again."
        ) from None

    check_external(path, outline.external)
    result.initial.update(_read_initial(path, outline.initial))
    return result


def _read_initial(path: Path, tensors: Mapping[str, _Tensor]) -> dict[str, NDArray[Any]]:
    """The first values of states, from the file itself or from an external file."""
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
    """A TensorProto without its values.

    `raw` is a view of the values if the file itself stores them as bytes; `entries` are those of
    `external_data`.
    """

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
        """Adds the sizes in one field of `dims`."""
        self.dims.extend(ints_of(value, MOST_DIMENSIONS + 1))
        if len(self.dims) > MOST_DIMENSIONS:
            raise MalformedError(f"the weight {shown(self.name)} has too many dimensions")

    def check(self) -> _Tensor:
        """Checks the shape, and the bytes in an external file."""
        try:
            check_shape(self.dims)
            if self.entries:
                self.external = span_of(self.entries, self.nbytes, exact=self.dtype != "unknown")
        except ValueError as error:
            raise MalformedError(f"the weight {shown(self.name)} has {error}") from error
        return self


@dataclass
class _Outline:
    """Collects the outline while the fields of the file are read.

    `external` are the external files, and the least number of bytes that each must have; `messages`
    counts the parts of the file, so that a small file cannot take long to read.
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

    def read_model(self, data: memoryview) -> None:
        """Reads a ModelProto."""
        self.most_messages += len(data) // _BYTES_PER_MESSAGE
        for number, value in Fields(data):
            if number == 1:
                self.ir_version = int_of(value)
            elif number in (2, 3):
                self.producer[number - 2] = text_of(value)
            elif number == 7:
                self.read_graph(bytes_of(value), depth=0)
            elif number == 8:
                self.read_opset(bytes_of(value))
            elif number == 14:
                self.read_metadata(value)
            elif number == 25:
                self.read_function(bytes_of(value))

        self.check_complete()

    def check_complete(self) -> None:
        """Refuses a file without the parts that every ONNX file has."""
        if self.ir_version <= 0 or self.graphs != 1 or not self.opsets:
            raise MalformedError("it has no IR version, no graph or no opset")

    def result(self, path: Path, nbytes: int) -> OnnxFile:
        """The outline as it is returned, without the first values of states."""
        return OnnxFile(
            path=path,
            nbytes=nbytes,
            ir_version=self.ir_version,
            producer=" ".join(self.producer).strip(),
            opsets=self.opsets,
            metadata=self.metadata,
            inputs=self._without_weights(self.inputs),
            outputs=_check_ports(self.outputs),
            operators=self.operators,
            weights=tuple(self.weights),
            initial={},
            tables=frozenset(self.tables),
        )

    def _without_weights(self, inputs: list[ArraySpec]) -> tuple[ArraySpec, ...]:
        # Before IR version 4 every initializer was an input too.
        weights = {weight.name for weight in self.weights}
        return _check_ports([spec for spec in inputs if spec.name not in weights])

    def count_message(self) -> None:
        """Counts a part of the file, and refuses the file if there are too many for its size."""
        self.messages += 1
        if self.messages > self.most_messages:
            raise MalformedError(
                f"it has more than {self.most_messages} parts, too many for its size"
            )

    def read_function(self, data: memoryview) -> None:
        """Reads a FunctionProto: only its nodes."""
        self.count_message()
        for number, value in Fields(data):
            if number == 7:
                self.read_node(bytes_of(value), depth=1)

    def read_opset(self, data: memoryview) -> None:
        """Reads an OperatorSetIdProto."""
        self.count_message()
        domain, version = "", 0
        for number, value in Fields(data):
            if number == 1:
                domain = text_of(value)
            elif number == 2:
                version = int_of(value)
        self.opsets[domain or "ai.onnx"] = version

    def read_metadata(self, value: int | memoryview) -> None:
        """Reads one entry of the metadata."""
        self.count_message()
        key, text = entry_of(value)
        if key in self.metadata:  # readers differ in which of the two they take
            raise MalformedError(f"its metadata have the key {shown(key)} twice")
        self.metadata[key] = text

    def read_graph(self, data: memoryview, depth: int) -> None:
        """Reads a GraphProto; `depth` is 0 for the model's graph, more for a subgraph."""
        self.count_message()
        if depth > _DEEPEST:
            raise MalformedError("its graphs are nested too deeply")

        self.graphs += depth == 0
        for number, value in Fields(data):
            if number == 1:
                self.read_node(bytes_of(value), depth)
            elif number == 5:
                self.read_initializer(bytes_of(value), depth)
            elif number == 15:
                self.read_sparse_tensor(bytes_of(value))
            elif depth == 0 and number in (11, 12):
                self.count_message()
                ports = self.inputs if number == 11 else self.outputs
                ports.append(_read_value_info(bytes_of(value)))

    def read_node(self, data: memoryview, depth: int) -> None:
        """Reads a NodeProto."""
        self.count_message()
        operator, domain = "", ""
        first_input: int | memoryview | None = None

        for number, value in Fields(data):
            if number == 1:
                first_input = value if first_input is None else first_input
            elif number == 4:
                operator = text_of(value)
            elif number == 7:
                domain = text_of(value)
            elif number == 5:
                self.read_attribute(bytes_of(value), depth)

        if operator == "Gather" and first_input is not None:
            self.tables.add(text_of(first_input))

        self.operators[operator if domain in ("", "ai.onnx") else f"{domain}::{operator}"] += 1

    def read_attribute(self, data: memoryview, depth: int) -> None:
        """Reads an AttributeProto: only its tensors and graphs."""
        self.count_message()
        for number, value in Fields(data):
            if number in (5, 10):
                self.read_tensor(bytes_of(value))
            elif number in (6, 11):
                self.read_graph(bytes_of(value), depth + 1)
            elif number in (22, 23):
                self.read_sparse_tensor(bytes_of(value))

    def read_sparse_tensor(self, data: memoryview) -> None:
        """Reads a SparseTensorProto: its values and its indices are tensors."""
        self.count_message()
        for number, value in Fields(data):
            if number in (1, 2):
                self.read_tensor(bytes_of(value))

    def read_initializer(self, data: memoryview, depth: int) -> None:
        """Reads a weight of a graph, which may hold the first values of a state."""
        tensor = self.read_tensor(data)
        if depth == 0 and tensor.name.startswith(INITIAL_PREFIX):
            name = tensor.name.removeprefix(INITIAL_PREFIX)
            if name in self.initial:
                raise MalformedError(f"it has the weight {shown(tensor.name)} twice")
            self.initial[name] = tensor

    def read_tensor(self, data: memoryview) -> _Tensor:
        """Reads a TensorProto without its values, and adds it to the weights."""
        self.count_message()
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
                _add_entry(tensor.entries, value)

        self.add_weight(tensor.check())
        return tensor

    def add_weight(self, tensor: _Tensor) -> None:
        """Adds a tensor to the weights, and its bytes to those that an external file must have."""
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


def _check_ports(specs: list[ArraySpec]) -> tuple[ArraySpec, ...]:
    """The inputs, or the outputs, of the graph, if they are not too many and have unique names."""
    if len(specs) > 2 * MOST_ARRAYS:
        raise MalformedError(f"its graph has {len(specs)} inputs or outputs")

    for name, count in Counter(names_of(specs)).items():
        if count > 1:
            raise MalformedError(f"its graph has an input or output {shown(name)} twice")
    return tuple(specs)


def _add_entry(entries: dict[str, str], value: int | memoryview) -> None:
    key, text = entry_of(value)
    if key in entries:
        raise MalformedError(f"the external data of a weight have {shown(key)} twice")
    entries[key] = text


def _read_value_info(data: memoryview) -> ArraySpec:
    """The array of a ValueInfoProto."""
    name, dtype = "", "unknown"
    shape: tuple[Axis, ...] = ()
    for number, value in Fields(data):
        if number == 1:
            name = text_of(value)
        elif number == 2:
            for kind, content in Fields(bytes_of(value)):
                if kind == 1:
                    dtype, shape = _read_tensor_type(bytes_of(content))
                else:
                    dtype = _OTHER_TYPES.get(kind, "unknown")
    return ArraySpec(name, dtype, shape)


def _read_tensor_type(data: memoryview) -> tuple[str, tuple[Axis, ...]]:
    """The dtype and the shape of a TypeProto.Tensor."""
    dtype = "unknown"
    shape: list[Axis] = []
    for number, value in Fields(data):
        if number == 1:
            dtype = _DTYPES.get(int_of(value), "unknown")
        elif number == 2:
            shape = [*islice(_read_axes(bytes_of(value)), MOST_DIMENSIONS + 1)]

    if len(shape) > MOST_DIMENSIONS:
        raise MalformedError("an array has too many dimensions")
    return dtype, tuple(shape)


def _read_axes(data: memoryview) -> Iterator[Axis]:
    """The axes of a TensorShapeProto."""
    for number, value in Fields(data):
        if number == 1:
            yield _read_axis(bytes_of(value))


def _read_axis(data: memoryview) -> Axis:
    """A size or a name; "?" where there is none, or 0 or -1, which other exporters write then."""
    axis: Axis = "?"
    for number, value in Fields(data):
        if number == 1:
            size = int_of(value)
            axis = size if size > 0 else "?"
        elif number == 2:
            axis = text_of(value) or "?"
    return axis
